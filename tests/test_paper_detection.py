"""The paper's detection: golden kinds, each step by hand, and the documented deviations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers
from sklearn.metrics import adjusted_rand_score

import reference
from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.sncf.paper import (
    PaperDetection,
    class_runs,
    coherence,
    detect_paper,
    group_foreign,
    split_by_class,
    split_by_mixture,
)
from labelsieve.methods.sncf.roles import (
    choose_run,
    distrusted,
    foreign_by_coherence,
    foreign_by_density,
    spreads,
)
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Neighbors, Verdict
from toy import structured

GOLDEN = Path(__file__).parent / "golden"


def golden(n, n_classes):
    with np.load(GOLDEN / f"detection_{n}_{n_classes}.npz") as arrays:
        return arrays["kinds"]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def blob(rng, axis, n, spread, d=20):
    return np.eye(d)[axis] + spread * rng.normal(size=(n, d))


def split(points, agreement=None, **changes):
    """One class, whose embedding also serves as its features."""
    n = len(points)
    agreement = np.ones(n) if agreement is None else agreement
    labels = np.zeros(n, np.int64)
    settings = PaperDetection(**changes)
    return split_by_class(points, unit(points), labels, agreement, settings)


@pytest.fixture(scope="module")
def small():
    toy = structured(2000, 4)
    return toy, nearest_neighbors(toy.features, 50)


def test_detection_agrees_with_scikit_learns_optics_and_the_smallest_magnitude_solve():
    toy = structured(10_000, 20)
    found = detect_paper(toy.features, toy.labels)
    expected = golden(10_000, 20)
    assert np.bincount(expected).tolist() == [6224, 1382, 2394]  # as the published functions
    assert (found.kinds == expected).mean() >= 0.995
    assert found.kinds.dtype == np.int8
    clean = ~toy.foreign & ~toy.mislabeled
    for kind, is_kind, precision, recall in (
        (Verdict.CLEAN, clean, 0.988, 1.000),
        (Verdict.MISLABELED, toy.mislabeled, 0.987, 0.751),
        (Verdict.FOREIGN, toy.foreign, 0.840, 0.990),
    ):
        assert is_kind[found.kinds == kind].mean() == pytest.approx(precision, abs=0.01)
        assert (found.kinds == kind)[is_kind].mean() == pytest.approx(recall, abs=0.01)


def test_where_the_paper_fails_we_fail_alike_and_say_so(small):
    toy, near = small
    found = detect_paper(toy.features, toy.labels, neighbors=near, class_names=("a", "b", "c", "d"))
    assert (found.kinds == golden(2000, 4)).mean() >= 0.995
    assert toy.foreign[found.kinds == Verdict.FOREIGN].mean() < 0.1
    text = "\n".join(found.warnings)
    assert "Only the first 4 of 20 components" in text
    assert "Try --set detection.n_components=4." in text
    assert "1 of 4 classes have different foreign clusters by density and by neighbors'" in text
    assert "3 of 4 classes have more than 40 % of their images in no cluster (such as cl" in text
    assert "foreign images fall into no groups" in text


def test_with_as_many_components_as_the_spectrum_speaks_for_it_works(small):
    toy, near = small
    found = detect_paper(toy.features, toy.labels, PaperDetection(n_components=4), neighbors=near)
    foreign = found.kinds == Verdict.FOREIGN
    assert toy.foreign[foreign].mean() > 0.97
    assert foreign[toy.foreign].mean() > 0.97
    assert not any("components" in warning for warning in found.warnings)


def test_without_structure_everything_is_clean():
    rng = np.random.default_rng(0)
    features = unit(rng.normal(size=(2000, 128)))
    found = detect_paper(features, rng.integers(0, 4, 2000))
    assert (found.kinds == Verdict.CLEAN).all()
    assert (found.foreign_groups == -1).all()


def test_names_of_classes_and_turns_of_the_features_do_not_matter(small):
    toy, near = small
    settings = PaperDetection(n_components=4)
    kinds = detect_paper(toy.features, toy.labels, settings, neighbors=near).kinds
    renamed = np.array([7, 2, 0, 3])[toy.labels]
    again = detect_paper(toy.features, renamed, settings, neighbors=near)
    np.testing.assert_array_equal(again.kinds, kinds)
    assert [found.label for found in again.classes] == [0, 2, 3, 7]
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(128, 128)))
    turned = detect_paper(unit(toy.features @ turn), toy.labels, settings)
    assert (turned.kinds == kinds).mean() > 0.99


def test_the_order_of_images_changes_little(small):
    toy, near = small
    settings = PaperDetection(n_components=4)
    kinds = detect_paper(toy.features, toy.labels, settings, neighbors=near).kinds
    order = np.random.default_rng(2).permutation(2000)
    shuffled = detect_paper(toy.features[order], toy.labels[order], settings).kinds
    for label in range(4):
        rows = toy.labels[order] == label
        assert adjusted_rand_score(kinds[order][rows], shuffled[rows]) > 0.9


def test_images_without_a_label_stay_clean(small):
    toy, near = small
    labels = toy.labels.copy()
    labels[::9] = -1
    found = detect_paper(toy.features, labels, PaperDetection(n_components=4), neighbors=near)
    assert (found.kinds[::9] == Verdict.CLEAN).all()


def test_copies_of_every_image_do_no_harm():
    toy = structured(1000, 2)
    features, labels = np.repeat(toy.features, 2, axis=0), np.repeat(toy.labels, 2)
    found = detect_paper(features, labels, PaperDetection(n_components=3))
    assert set(found.kinds.tolist()) <= {0, 1, 2}


def test_choose_run_prefers_fewer_outliers_with_two_clusters():
    two, two_tidy = [0] * 4 + [1] * 3 + [-1] * 3, [0] * 5 + [1] * 4 + [-1]
    one, one_tidy = [0] * 7 + [-1] * 3, [0] * 10
    for runs, expected in (
        ((two, two, two), 0),  # not fewer
        ((two, two_tidy, two_tidy), 1),
        ((two, one_tidy, one_tidy), 0),  # fewer outliers, but one cluster
        ((one, two, one), 1),  # one cluster falls through, even to no fewer outliers
        ((one, one, one_tidy), 2),
        ((one_tidy, one, two), 2),
        ((two, two_tidy, one_tidy), 1),
    ):
        assert choose_run(np.array(runs)) == expected


@given(seed=integers(0, 999), n_nearest=integers(2, 9))
def test_spreads_are_the_mean_distances_to_the_nearest_fellows(seed, n_nearest):
    rng = np.random.default_rng(seed)
    features = unit(rng.normal(size=(25, 4)))
    clusters = np.array([0] * 7 + [-1] * 6 + [1] * 12)
    rng.shuffle(clusters)
    found = spreads(features, clusters, n_nearest)
    for cluster in (0, 1):
        members = features[clusters == cluster].tolist()
        expected = reference.spread(members, min(n_nearest, len(members)))
        assert found[cluster] == pytest.approx(expected, abs=1e-6)


def test_of_two_clusters_the_more_spread_out_is_foreign_by_density():
    assert foreign_by_density(np.array([0.1, 0.3, 0.2])).tolist() == [False, True, False]
    assert foreign_by_density(np.array([0.3])).tolist() == [False]
    assert foreign_by_density(np.array([0.3, 0.3])).tolist() == [False, False]
    assert foreign_by_density(np.array([])).tolist() == []


def test_by_coherence_every_cluster_is_judged_by_its_neighbors_labels():
    assert foreign_by_coherence(np.array([0.7, 0.05, 0.3, 0.6])).tolist() == [0, 1, 1, 0]
    assert foreign_by_coherence(np.array([0.7])).tolist() == [False]
    assert foreign_by_coherence(np.array([])).tolist() == []


def test_coherence_is_the_share_of_neighbors_with_the_same_label():
    near = Neighbors(np.array([[1, 2], [0, 2], [0, 1]]), np.ones((3, 2), np.float32))
    assert coherence(near, np.array([5, 5, 6])).tolist() == [0.5, 0.5, 0.0]


def test_a_tight_and_a_loose_cluster_are_clean_and_foreign():
    rng = np.random.default_rng(0)
    points = np.concatenate([blob(rng, 0, 300, 0.05), blob(rng, 1, 150, 0.1)])
    kinds, evidence = split(points)
    assert np.bincount(kinds, minlength=3).tolist() == [300, 0, 150]
    assert (kinds[300:] == Verdict.FOREIGN).all()
    assert evidence[0].spreads[0] < evidence[0].spreads[1]
    assert evidence[0].foreign == (1,)


def test_with_spreads_swapped_density_flips_all_and_coherence_does_not():
    rng = np.random.default_rng(0)
    points = np.concatenate([blob(rng, 0, 300, 0.1), blob(rng, 1, 150, 0.05)])
    agreement = np.repeat([0.69, 0.05], [300, 150])
    by_density, _ = split(points, agreement)
    by_coherence, _ = split(points, agreement, roles="coherence")
    # OPTICS leaves out a few at the rim of the loose blob
    assert (by_density[:300] == Verdict.FOREIGN).mean() > 0.9
    assert (by_density[300:] == Verdict.CLEAN).all()
    assert (by_coherence[:300] == Verdict.CLEAN).mean() > 0.9
    assert (by_coherence[300:] == Verdict.FOREIGN).all()


def test_one_cluster_is_clean_and_what_is_scattered_around_it_mislabeled():
    rng = np.random.default_rng(0)
    points = np.concatenate([blob(rng, 0, 300, 0.1), rng.normal(size=(100, 20))])
    kinds, _ = split(points)
    assert (kinds[:300] == Verdict.CLEAN).mean() > 0.98
    assert (kinds[300:] == Verdict.MISLABELED).mean() > 0.8


def test_small_classes_get_min_samples_in_proportion_or_stay_clean():
    settings = PaperDetection()
    assert class_runs(500, settings) == ((75, 50, 25), 75)
    assert class_runs(75, settings) == ((75, 50, 25), 75)
    assert class_runs(74, settings) == ((11, 7, 3), 11)
    assert class_runs(30, settings) == ((5, 3, 2), 5)
    assert class_runs(29, settings) is None
    webvision = PaperDetection(min_samples=100, min_cluster_size=50, cautious=True)
    assert class_runs(100, webvision) == ((100, 75, 50), 50)


@pytest.mark.parametrize("size", [1, 2, 29, 30, 60, 74, 75])
def test_classes_of_any_size_are_judged_without_a_crash(size):
    toy = structured(600, 2, seed=1)
    labels = toy.labels.copy()
    labels[np.flatnonzero(labels == 0)[:size]] = 2
    found = detect_paper(toy.features, labels, PaperDetection(n_components=2))
    small_class = found.classes[2]
    assert small_class.n_images == size
    assert (small_class.min_samples > 0) == (size >= 30)
    text = "\n".join(found.warnings)
    assert ("1 of 3 classes have fewer than 30 images; they were not j" in text) == (size < 30)
    assert ("min_samples lowered in proportion" in text) == (30 <= size < 75)


def test_a_class_of_one_tight_blob_of_75_is_all_clean():
    kinds, _ = split(blob(np.random.default_rng(0), 0, 75, 0.1))
    assert (kinds == Verdict.CLEAN).all()


def test_cautious_takes_alike_clusters_for_modes_of_the_class():
    rng = np.random.default_rng(0)
    alike = np.concatenate([blob(rng, 0, 230, 0.05), blob(rng, 1, 220, 0.051)])
    unlike = np.concatenate([blob(rng, 0, 300, 0.03), blob(rng, 1, 150, 0.1)])
    mostly = np.concatenate([blob(rng, 0, 150, 0.03), blob(rng, 1, 300, 0.1)])
    assert (split(alike)[0] == Verdict.FOREIGN).sum() > 200
    assert (split(alike, cautious=True)[0] == Verdict.CLEAN).all()
    assert (split(unlike, cautious=True)[0] == Verdict.FOREIGN).sum() > 100
    assert (split(mostly, cautious=True)[0] == Verdict.CLEAN).all()
    assert (split(mostly)[0] == Verdict.FOREIGN).sum() > 200
    assert not distrusted(np.array([0.5]), 0, 10, 0.8)


def test_the_mixture_calls_the_denser_mode_foreign_and_none_mislabeled():
    rng = np.random.default_rng(0)
    features = unit(np.concatenate([blob(rng, 0, 300, 0.2, 8), blob(rng, 1, 200, 0.05, 8)]))
    points = features.astype(np.float64) / np.sqrt(500)
    for covariance in ("full", "diag"):
        settings = PaperDetection(split="mixture", covariance=covariance, n_starts=3)
        kinds = split_by_mixture(points, features, settings)
        assert (kinds[300:] == Verdict.FOREIGN).all()
        assert (kinds[:300] == Verdict.CLEAN).mean() > 0.95
    assert (split_by_mixture(points[:3], features[:3], settings) == Verdict.CLEAN).all()


def test_the_mixture_runs_end_to_end(small):
    toy, near = small
    settings = PaperDetection(split="mixture", n_starts=2, n_components=4)
    found = detect_paper(toy.features, toy.labels, settings, neighbors=near)
    assert found.classes == ()
    assert not (found.kinds == Verdict.MISLABELED).any()


@pytest.mark.parametrize("spread", [0.1, 0.15, 0.2, 0.25])  # the first two: separate graphs
def test_foreign_images_of_three_concepts_form_three_groups(spread):
    rng = np.random.default_rng(0)
    features = unit(np.concatenate([blob(rng, axis, 200, spread) for axis in range(3)]))
    settings = PaperDetection(n_neighbors=20, n_components=2, group_min_samples=50)
    groups = group_foreign(features, settings).reshape(3, 200)
    assert len({np.bincount(row).argmax() for row in groups}) == 3
    assert all((row == np.bincount(row).argmax()).mean() > 0.95 for row in groups)


def test_classes_that_are_far_apart_are_not_torn_by_rounding_noise():
    toy = structured(4000, 8, seed=3, offset=2, class_scale=3, concept_scale=3)
    near = nearest_neighbors(toy.features, 50)
    clean = ~toy.foreign & ~toy.mislabeled
    right = {
        floor: (
            detect_paper(
                toy.features,
                toy.labels,
                PaperDetection(n_components=8, floor=floor),
                neighbors=near,
            ).kinds[clean]
            == Verdict.CLEAN
        ).mean()
        for floor in (0.0, 1e-8)
    }
    assert right[1e-8] > 0.99
    assert right[0.0] < 0.95  # as the original


@pytest.mark.parametrize("n", [0, 1, 50, 51, 100])
def test_few_foreign_images_form_no_groups(n):
    features = unit(np.random.default_rng(0).normal(size=(n, 8)))
    assert group_foreign(features, PaperDetection()).tolist() == [-1] * n


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_tiny_sets_come_out_clean(n):
    features = unit(np.random.default_rng(0).normal(size=(n, 8)))
    found = detect_paper(features, np.zeros(n, np.int64))
    assert found.kinds.tolist() == [Verdict.CLEAN] * n


def test_progress_counts_classes(small):
    toy, near = small
    calls = []
    detect_paper(
        toy.features, toy.labels, neighbors=near, progress=lambda *call: calls.append(call)
    )
    assert calls[-1] == (4, 4)


def test_inputs_that_do_not_fit_are_named(small):
    toy, near = small
    with pytest.raises(DataError, match="2000 rows of features, but 3 labels"):
        detect_paper(toy.features, toy.labels[:3])
    narrow = Neighbors(near.indices[:, :10], near.similarities[:, :10])
    with pytest.raises(DataError, match=r"\(2000, 10\) for 2000 images; expected \(2000, 50\)"):
        detect_paper(toy.features, toy.labels, neighbors=narrow)
    with pytest.raises(ConfigError, match=r"xi is 1\.0; expected between 0 and 1"):
        PaperDetection(xi=1.0)
    with pytest.raises(ConfigError, match="n_components is 0; expected at least 1"):
        PaperDetection(n_components=0)
    with pytest.raises(ConfigError, match=r"min_samples=50 with fallback_step=25.*run has 0"):
        PaperDetection(min_samples=50)
