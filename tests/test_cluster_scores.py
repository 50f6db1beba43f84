from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from labelsieve.errors import DataError, RunError
from labelsieve.files import write_json
from labelsieve.jobs import evaluate_clusters, evaluate_run
from labelsieve.records.clusters import Clusters, Part
from labelsieve.report.cluster_evaluation import evaluation
from labelsieve.report.cluster_scores import (
    ClusterScores,
    confusion_of,
    hungarian,
    majority,
    over_seeds,
    score_clusters,
    score_labels,
    score_parts,
    seed_agreement,
    top_accuracy,
)
from labelsieve.report.cluster_terminal import (
    terminal_cluster_scores,
    terminal_clusters,
    terminal_evaluation,
)
from made_clusters import made_clusters, random_clusters
from reference_clusters import ari, best_one_to_one, majority_mapping, nmi

approx = pytest.approx


def printed(renderable, width=100):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()


@st.composite
def rows(draw, min_size=1):
    n_clusters, n_classes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    each = st.tuples(st.integers(0, n_clusters - 1), st.integers(0, n_classes - 1))
    pairs = draw(st.lists(each, min_size=min_size, max_size=25))
    clusters, labels = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(clusters, np.int64), np.array(labels, np.int64), n_clusters, n_classes


@given(rows())
def test_the_hungarian_mapping_is_the_best_of_all_one_to_one_mappings(made):
    clusters, labels, n_clusters, n_classes = made
    mapping = hungarian(clusters, labels, n_clusters, n_classes)
    matched = mapping[mapping >= 0]
    assert len(set(matched.tolist())) == len(matched) == min(n_clusters, n_classes)
    right = int((mapping[clusters] == labels).sum())
    assert right == best_one_to_one(clusters.tolist(), labels.tolist(), n_clusters, n_classes)


@given(rows())
def test_the_majority_mapping_counts_each_cluster_by_itself(made):
    clusters, labels, n_clusters, n_classes = made
    mapping = majority(clusters, labels, n_clusters, n_classes)
    assert mapping.tolist() == majority_mapping(clusters.tolist(), labels.tolist(), n_clusters)


@given(rows())
def test_scores_equal_those_counted_by_loops(made):
    clusters, labels, n_clusters, n_classes = made
    names = [f"class {g}" for g in range(n_classes)]
    scores = score_labels(clusters, labels, n_clusters, names)
    n, found, true = len(labels), clusters.tolist(), labels.tolist()
    assert scores.accuracy == approx(best_one_to_one(found, true, n_clusters, n_classes) / n)
    most = majority_mapping(found, true, n_clusters)
    assert scores.majority_accuracy == approx(
        sum(most[c] == g for c, g in zip(found, true, strict=True)) / n
    )
    assert scores.nmi == approx(nmi(true, found), abs=1e-9)
    assert scores.ari == approx(ari(true, found), abs=1e-9)
    assert scores.confusion.shape == (n_classes, n_clusters)
    assert scores.confusion.sum() == n
    assert scores.top5 is None


@given(rows(), st.randoms(use_true_random=False))
def test_other_numbers_for_the_same_clusters_change_nothing(made, random):  # G20
    clusters, labels, n_clusters, n_classes = made
    order = np.array(random.sample(range(n_clusters), n_clusters))
    names = [str(g) for g in range(n_classes)]
    one = score_labels(clusters, labels, n_clusters, names)
    two = score_labels(order[clusters], labels, n_clusters, names)
    for name in ("accuracy", "nmi", "ari", "ami", "majority_accuracy"):
        assert getattr(two, name) == approx(getattr(one, name), abs=1e-9), name


@given(rows())
def test_accuracy_is_at_least_that_of_chance_and_at_most_that_of_the_majority(made):  # G20
    clusters, labels, n_clusters, n_classes = made
    scores = score_labels(clusters, labels, n_clusters, [str(g) for g in range(n_classes)])
    assert 1 / max(n_clusters, n_classes) - 1e-9 <= scores.accuracy
    assert scores.accuracy <= scores.majority_accuracy + 1e-9


def test_clusters_that_split_classes_are_right_by_majority_and_never_silently_wrong():  # G19
    labels = np.repeat([0, 1], 40)
    clusters = np.repeat([2, 0, 3, 1], 20)
    scores = score_labels(clusters, labels)
    assert (scores.n_clusters, scores.n_classes) == (4, 2)
    assert scores.majority_accuracy == 1.0
    assert scores.accuracy == 0.5
    assert sorted(scores.mapping.tolist()) == [-1, -1, 0, 1]
    choices = np.stack([clusters, (clusters + 1) % 4, (clusters + 2) % 4, (clusters + 3) % 4], 1)
    assert score_labels(clusters, labels, choices=choices).top5 == 1.0


def test_fewer_clusters_than_classes_leave_classes_without_a_cluster():
    scores = score_labels(np.zeros(9, int), np.repeat([0, 1, 2], 3))
    assert scores.mapping.shape == (1,)
    assert scores.accuracy == approx(1 / 3)
    assert (scores.nmi, scores.ari) == (0.0, 0.0)


def test_top_accuracy_takes_the_choices_there_are():  # G21
    mapping = np.array([1, -1, 0])
    choices = np.array([[0, 1, 2], [0, 1, 2], [1, 1, 1], [-1, -1, -1]])
    labels = np.array([1, 0, 0, 0])
    found = [top_accuracy(choices, labels, mapping, k) for k in (1, 2, 3, 5)]
    assert found == [0.25, 0.25, 0.5, 0.5]
    assert top_accuracy(choices, np.full(4, -1), mapping) is None


@given(st.integers(1, 8), st.integers(1, 30), st.integers(0, 10**6))
def test_top5_is_one_with_at_most_five_clusters_of_all_classes(n_clusters, n, seed):  # G21
    rng = np.random.default_rng(seed)
    found = Clusters.of_probabilities([str(i) for i in range(n)], rng.random((n, n_clusters)))
    labels = rng.integers(0, n_clusters, n)
    scores = score_labels(
        found.cluster, labels, n_clusters, [str(g) for g in range(n_clusters)],
        choices=found.choices,
    )  # fmt: skip
    by_hand = [
        any(scores.mapping[c] == label for c in np.argsort(-p, kind="stable")[:5])
        for p, label in zip(_all(found, n_clusters), labels, strict=True)
    ]
    assert scores.top5 == approx(np.mean(by_hand))
    assert scores.top5 >= scores.accuracy
    if n_clusters <= 5:
        assert scores.top5 == 1.0


def _all(found: Clusters, n_clusters: int):
    values = np.zeros((len(found), n_clusters))
    np.put_along_axis(values, found.choices, found.probabilities, axis=1)
    return values


def test_images_without_truth_or_cluster_are_left_out_and_counted():
    found = made_clusters([0, 0, 1, 1, -1, -1, 1])
    truth = ["cat", "cat", "dog", None, "dog", None, "dog"]
    scores = score_clusters(found, truth)
    assert (scores.n_scored, scores.n_unknown, scores.n_broken) == (4, 2, 1)
    assert scores.accuracy == 1.0
    assert scores.class_names == ("cat", "dog")


def test_a_truth_that_only_broken_images_have_is_no_class():
    scores = score_clusters(made_clusters([0, 1, -1]), ["cat", "dog", "broken"])
    assert scores.class_names == ("cat", "dog")
    assert (scores.n_scored, scores.n_unknown, scores.n_broken) == (2, 0, 1)
    only = np.array([True, True, False])
    assert (
        score_clusters(made_clusters([0, 1, -1]), ["cat", "dog", "broken"], rows=only).n_broken == 0
    )


def test_without_any_known_truth_nothing_is_defined():
    scores = score_clusters(made_clusters([0, 1]), [None, None])
    values = [scores.accuracy, scores.top5, scores.nmi, scores.ari, scores.ami]
    assert values == [None] * 5
    assert (scores.majority_accuracy, scores.majority_train_accuracy) == (None, None)
    assert scores.mapping.tolist() == [-1, -1]
    assert scores.confusion.shape == (0, 2)
    assert scores.column_order().tolist() == [0, 1]
    json.dumps(scores.to_dict(), allow_nan=False)


def test_the_majority_of_train_is_applied_to_the_other_part():
    # cluster 0 is cat in train and mostly dog in valid; cluster 2 has no train image
    found = made_clusters([0, 0, 1, 0, 0, 0, 1, 2], part=[0, 0, 0, 1, 1, 1, 1, 1])
    truth = ["cat", "cat", "dog", "dog", "dog", "cat", "dog", "dog"]
    parts = score_parts(found, truth)
    assert list(parts) == ["train", "valid"]
    assert parts["train"].majority_train_accuracy == parts["train"].majority_accuracy == 1.0
    assert parts["valid"].majority_accuracy == approx(4 / 5)
    assert parts["valid"].majority_train_accuracy == approx(2 / 5)


def test_a_class_that_a_part_lacks_keeps_its_row():
    found = made_clusters([0, 1, 0], part=[0, 0, 1])
    parts = score_parts(found, ["cat", "dog", "cat"])
    assert parts["valid"].class_names == parts["train"].class_names == ("cat", "dog")
    assert parts["valid"].confusion.tolist() == [[1, 0], [0, 0]]
    assert parts["valid"].accuracy == 1.0


def test_without_train_images_there_is_no_mapping_of_theirs():
    found = made_clusters([0, 1], part=Part.NEW)
    scores = score_parts(found, ["cat", "dog"])
    assert list(scores) == ["new"]
    assert scores["new"].majority_train_accuracy is None


def test_rows_score_some_images_only():
    found = made_clusters([0, 0, 1, 1])
    some = np.array([True, True, True, False])
    scores = score_clusters(found, ["cat", "cat", "dog", "cat"], rows=some)
    assert (scores.n_scored, scores.accuracy) == (3, 1.0)


def test_classes_that_are_numbers_are_in_their_order():
    scores = score_clusters(made_clusters([0, 1, 2]), ["10", "9", "1"])
    assert scores.class_names == ("1", "9", "10")


def test_the_order_of_columns_puts_matched_clusters_on_the_diagonal():
    labels = np.repeat([0, 1, 2], 10)
    clusters = np.concatenate([np.full(10, 3), [0] * 6, [1] * 4, np.full(10, 2)])
    scores = score_labels(clusters, labels, 5)
    order = scores.column_order()
    assert order.tolist() == [3, 0, 2, 1, 4]  # then 1, mostly of class 1; 4 has no image
    assert scores.confusion[:, order][:3, :3].diagonal().tolist() == [10, 6, 10]


def test_confusion_leaves_out_what_is_not_known():
    counts = confusion_of(np.array([0, 1, -1, 1]), np.array([1, 1, 1, -1]), 2, 2)
    assert counts.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("cluster", "labels", "said"),
    [
        ([0, 1], [0], "2 clusters with 1 labels"),
        ([0, 2], [0, 1], "clusters run from 0 to 2; expected -1 to 1"),
        ([0, 1], [0, 3], "labels run from 0 to 3; expected -1 to 1"),
        ([-2, 1], [0, 1], "clusters run from -2 to 1"),
    ],
)
def test_numbers_that_are_no_cluster_or_class_are_refused(cluster, labels, said):
    with pytest.raises(DataError, match=said):
        score_labels(np.array(cluster), np.array(labels), 2, ["cat", "dog"])


def test_truth_of_another_number_of_images_is_refused():
    with pytest.raises(DataError, match="1 true labels for clusters of 2 images"):
        score_clusters(made_clusters([0, 1]), ["cat"])


def scores_of(accuracy: float, **others) -> ClusterScores:
    made = score_labels(np.array([0, 1]), np.array([0, 1]))
    return replace(made, accuracy=accuracy, **others)


def test_mean_and_spread_over_seeds_divide_by_one_less_than_the_runs():
    found = over_seeds([scores_of(0.5), scores_of(0.7), scores_of(0.9, ami=None)])
    assert found["accuracy"] == (approx(0.7), approx(0.2))
    assert "ami" not in found  # one run does not have it
    assert "top5" not in found
    mean, std = over_seeds([scores_of(0.5)])["accuracy"]
    assert mean == 0.5
    assert np.isnan(std)
    assert over_seeds([]) == {}


def test_agreement_needs_no_labels_and_does_not_see_the_numbers_of_clusters():
    one = made_clusters([0, 0, 1, 1, 2, 2])
    two = made_clusters([2, 2, 0, 0, 1, 1])
    assert seed_agreement([one, two]) == 1.0
    other = made_clusters([0, 1, 0, 1, 0, 1])
    pairs = [(one, two), (one, other), (two, other)]
    expected = [ari(a.cluster.tolist(), b.cluster.tolist()) for a, b in pairs]
    assert seed_agreement([one, two, other]) == approx(np.mean(expected))


def test_agreement_matches_images_by_id_and_leaves_out_the_broken():
    one = made_clusters([0, 0, 1, 1, -1], image=list("abcde"))
    two = made_clusters([0, 0, 1, 1, 0, 1], image=list("dcbaex"))
    assert seed_agreement([one, two]) == 1.0


def test_agreement_of_one_run_or_of_other_images_is_refused():
    one = made_clusters([0, 1], image=list("ab"))
    with pytest.raises(DataError, match="1 runs; agreement is between two or more"):
        seed_agreement([one])
    for other in (made_clusters([0, 1], image=list("cd")), made_clusters([], 2)):
        with pytest.raises(DataError, match="no image in common"):
            seed_agreement([one, other])


def saved_run(path: Path, clusters: Clusters, job: str = "cluster") -> Path:
    path.mkdir()
    clusters.save(path / "clusters.parquet")
    write_json(path / "run.json", {"labelsieve": "0", "job": job, "status": "done", "settings": {}})
    return path


def truth_table(path: Path, truth: dict[str, str]) -> Path:
    path.write_text("image,truth\n" + "".join(f"{k},{v}\n" for k, v in truth.items()))
    return path


def test_runs_of_several_seeds_are_evaluated_together(tmp_path: Path):
    truth = truth_table(tmp_path / "truth.csv", {"0000.png": "cat", "0001.png": "dog"})
    runs = [
        saved_run(tmp_path / "a", made_clusters([0, 1, 0], part=[0, 1, 0])),
        saved_run(tmp_path / "b", made_clusters([1, 0, 1], part=[0, 1, 1])),
    ]
    found = evaluate_clusters(runs, truth)
    assert list(found.runs) == [str(run) for run in runs]
    assert found.runs[str(runs[0])]["train"].n_unknown == 1
    assert found.over_runs["valid"]["accuracy"] == (1.0, 0.0)
    assert found.agreement == 1.0
    alone = evaluate_clusters(runs[:1], truth)
    assert (alone.agreement, alone.over_runs) == (None, {})
    json.dumps(found.to_dict(), allow_nan=False)
    assert "agreement" not in printed(terminal_evaluation(alone))


def test_runs_that_made_no_clusters_are_refused(tmp_path: Path):
    truth = truth_table(tmp_path / "truth.csv", {"0000.png": "cat"})
    audit = saved_run(tmp_path / "audit", made_clusters([0]), job="audit")
    with pytest.raises(RunError, match="made by `labelsieve audit`; expected runs of `cluster`"):
        evaluate_clusters([audit], truth)
    run = saved_run(tmp_path / "run", made_clusters([0]))
    with pytest.raises(RunError, match="named twice"):
        evaluate_clusters([run, tmp_path / "audit" / ".." / "run"], truth)
    with pytest.raises(RunError, match="made clusters; there are no findings"):
        evaluate_run(run, truth)


def test_the_terminal_shows_every_row_of_the_table():
    truth = ["cat", "dog"] * 10
    parts = score_parts(made_clusters([0, 1] * 10, part=[0] * 12 + [1] * 8), truth)
    k_means = score_labels(np.arange(20) % 4, np.arange(20) % 2, class_names=["cat", "dog"])
    text = printed(terminal_cluster_scores({"k-means": {"train": k_means}, "heads": parts}), 80)
    lines = [line.split() for line in text.splitlines()]
    assert ["k-means", "train", "20", "50.0", "–", *lines[2][5:]] == lines[2]
    assert lines[3][:5] == ["heads", "train", "12", "100.0", "100.0"]
    assert lines[4][:3] == ["heads", "valid", "8"]
    assert "4 clusters for 2 classes: ACC leaves 2 of the clusters without a partner" in text


def test_scores_of_nothing_say_so():
    assert "no image has both" in printed(terminal_cluster_scores({"heads": {}}))


@pytest.mark.parametrize("width", [40, 74, 76, 80, 120])
def test_figures_are_never_cut_off(width):
    truth = [["cat", "dog", "owl"][i % 3] for i in range(200)]
    runs = {f"a-run-with-a-long-name-{s}": random_clusters(200, 6, s) for s in range(3)}
    found = evaluation(runs, dict.fromkeys(runs, truth))
    text = " ".join(printed(terminal_evaluation(found), width).split())
    for parts in found.runs.values():
        for scores in parts.values():
            assert f"{scores.nmi:.3f}" in text
            assert f"{100 * scores.majority_train_accuracy:.1f}" in text
    mean, std = found.over_runs["valid"]["accuracy"]
    assert f"{100 * mean:.1f} ± {100 * std:.1f} %" in text
    assert f"ARI {found.agreement:.3f}" in text


def test_the_terminal_summary_counts_images_sizes_and_parts():
    found = made_clusters(
        [0, 0, 0, 2, -1], 3, names=("cat", "dog", "owl"), part=[0, 0, 1, 0, 0],
        duplicate_of=np.array([-1, 0, -1, -1, -1]), warnings=("few images",),
    )  # fmt: skip
    text = printed(terminal_clusters(found))
    assert "warning  few images" in text
    assert "5 images in 3 clusters" in text
    assert ["cat", "3", "75.0", "%", "0.90"] in [line.split() for line in text.splitlines()]
    assert ["dog", "0", "0.0", "%", "–"] in [line.split() for line in text.splitlines()]
    assert "images: 3 trained on, 1 kept apart to choose by" in text
    assert "clusters without an image: 1 of 3" in text
    assert "duplicates: 1 image repeats another" in text
    assert "broken: 1 that cannot be read, such as 0004.png" in text


def test_many_clusters_are_cut_to_the_largest_and_counted():
    text = printed(terminal_clusters(made_clusters([c for c in range(50) for _ in range(c)], 50)))
    assert len(text.splitlines()) < 40
    assert "30 more" in text
    assert f"{sum(range(30)):,}" in text
    printed(terminal_clusters(made_clusters([], 3)))
