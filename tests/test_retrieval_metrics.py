"""Retrieval scores: equal to a slow twin and to another library; copies and ties as promised."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference_retrieval as reference
from labelsieve.errors import ConfigError, DataError
from labelsieve.report import retrieval_queries
from labelsieve.report.retrieval_metrics import (
    RetrievalScores,
    nearest,
    score_queries,
    score_retrieval,
)

approx = pytest.approx
WAYS = (0, 64)  # places up to which neighbors are searched: never, and as it is
MEASURES = ("precision_at_1", "r_precision", "map_at_r")


@pytest.fixture(params=WAYS, ids=["similarities", "neighbors"])
def way(request, monkeypatch):
    """Either way to the same places."""
    monkeypatch.setattr(retrieval_queries, "_FEW", request.param)


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def made(n: int, n_classes: int, dim: int = 16, noise: float = 2.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    rows = rng.standard_normal((n_classes, dim))[labels] + noise * rng.standard_normal((n, dim))
    return unit(rows), labels


def on_circle(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))


# by hand


def test_scores_of_six_images_can_be_counted_by_hand(way):
    # from 0 degrees: a 0, a 10, b 21, a 33, b 46, c 60: neighbors by angle
    features, labels = on_circle(0, 10, 21, 33, 46, 60), np.array([0, 0, 1, 0, 1, 2])
    scores = score_retrieval(features, labels, ks=(1, 2, 3))
    # right, nearest first: a0: 1 0 1 0 0; a10: 1 0 1 0 0; b21: 0 0 0 1 0; a33: 0 0 1 0 1;
    # b46: 0 0 1 0 0
    assert (scores.n_queries, scores.n_without_mate, scores.without_mate) == (5, 1, (5,))
    assert (scores.n_gallery, scores.n_classes) == (6, 2)
    assert scores.precision_at_1 == approx(2 / 5)
    assert scores.r_precision == approx((1 / 2 + 1 / 2) / 5)
    assert scores.map_at_r == approx((1 / 2 + 1 / 2) / 5)
    assert scores.recall_at == approx({1: 2 / 5, 2: 2 / 5, 3: 4 / 5})
    # of at most R right ones: 2/2, 2/2, 0/1, 1/2, 1/1
    assert scores.precision_at[3] == approx((1 + 1 + 0 + 1 / 2 + 1) / 5)


def test_map_at_r_counts_each_mate_by_the_precision_where_it_stands(way):
    # the query at 0; mates at 10, 30 and 40, another class at 20: 1/1, 2/3 and, beyond R, nothing
    features = on_circle(0, 10, 20, 30, 40)
    labels = np.array([7, 7, 3, 7, 7])
    found = score_queries(features, labels, ks=(1,))
    assert found.rows.tolist() == [0, 1, 3, 4]
    assert found.average_precision[0] == approx((1 + 2 / 3) / 3)
    assert found.r_precision[0] == approx(2 / 3)
    assert found.n_mates.tolist() == [3, 3, 3, 3]


def test_the_interval_is_wilsons_and_holds_the_share():
    scores = score_retrieval(on_circle(0, 1, 90, 91, 180, 200), np.array([0, 0, 1, 1, 2, 2]))
    assert scores.precision_at_1 == 1.0
    low, high = scores.interval
    assert (round(low, 3), high) == (0.61, 1.0)


# copies and ties


def test_an_image_finds_its_copy_and_never_itself(way):
    rows = on_circle(0, 0, 5, 90, 90, 95)
    scores = score_retrieval(rows, np.array([0, 0, 0, 1, 1, 1]))
    assert scores.precision_at_1 == scores.map_at_r == 1.0
    # copies under two labels: each finds the other first, and is wrong; nobody finds himself
    scores = score_retrieval(rows[[0, 1]], np.array([0, 1]))
    assert (scores.n_queries, scores.precision_at_1) == (0, None)
    scores = score_retrieval(rows[[0, 1, 2, 2]], np.array([0, 1, 0, 1]))
    assert scores.precision_at_1 == 0.0
    assert scores.recall_at[2] == 0.0  # of the two at 5 degrees the wrong one comes first
    assert scores.recall_at[4] == 1.0


@pytest.mark.parametrize("n_classes", [2, 40])
def test_features_that_are_all_the_same_find_nothing(way, n_classes):
    labels = np.sort(np.arange(200) % n_classes)
    scores = score_retrieval(np.tile(unit([[1.0, 2, 3]]), (200, 1)), labels)
    assert scores.precision_at_1 == scores.r_precision == scores.map_at_r == 0.0


def test_the_order_of_rows_changes_nothing_even_where_rows_are_equal(way):
    features, labels = made(60, 4, dim=3)
    features[20:50] = features[:30]
    order = np.random.default_rng(1).permutation(60)
    one, other = (
        score_retrieval(features, labels),
        score_retrieval(features[order], labels[order]),
    )
    assert one.by_name() == approx(other.by_name(), abs=1e-12)


def test_ties_at_the_last_place_looked_at_are_settled_too(monkeypatch):
    # 30 copies of one image, two of them mates: with places for 8 neighbors not all are seen
    features = np.concatenate([np.tile(on_circle(0), (30, 1)), on_circle(50, 100, 150)])
    labels = np.array([0, 0, *range(10, 38), 1, 1, 1])
    asked = []
    real = retrieval_queries._by_similarities

    def watched(set_of, rows, *rest):
        asked.extend(rows.tolist())
        return real(set_of, rows, *rest)

    monkeypatch.setattr(retrieval_queries, "_by_similarities", watched)
    scores = score_retrieval(features, labels, ks=(1, 8))
    assert set(asked) >= {0, 1}
    means, _ = reference.scores(features.tolist(), labels.tolist(), (1, 8))
    assert scores.recall_at[8] == approx(means["recall_8"])
    assert scores.map_at_r == approx(means["map_at_r"])


# a second implementation


@st.composite
def galleries(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n, n_classes = draw(st.integers(1, 40)), draw(st.integers(1, 8))
    some = rng.standard_normal((draw(st.integers(1, 40)), draw(st.integers(2, 5))))
    features = unit(some[rng.integers(0, len(some), n)])  # copies, more or fewer
    return features, rng.integers(-1, n_classes, n), rng


@given(galleries(), st.sampled_from(WAYS), st.sampled_from([(1, 2, 4, 8), (3,), (50, 1)]))
def test_scores_are_those_of_a_loop_over_all_pairs(gallery, few, ks):
    features, labels, _ = gallery
    means, alone = reference.scores(features.tolist(), labels.tolist(), ks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval_queries, "_FEW", few)
        scores = score_retrieval(features, labels, ks=ks)
    check(scores, means, alone, ks)


@given(galleries(), st.sampled_from(WAYS))
def test_scores_of_other_queries_are_those_of_a_loop(gallery, few):
    features, labels, rng = gallery
    extra = unit(rng.standard_normal((7, features.shape[1])))
    queries = (np.concatenate([extra, features[:3]]), rng.integers(-1, 9, 7 + len(features[:3])))
    lists = (queries[0].tolist(), queries[1].tolist())
    means, alone = reference.scores(features.tolist(), labels.tolist(), (1, 4), lists)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval_queries, "_FEW", few)
        scores = score_retrieval(features, labels, ks=(1, 4), queries=queries)
    check(scores, means, alone, (1, 4))


def check(scores: RetrievalScores, means, alone, ks):
    assert scores.n_without_mate == len(alone)
    assert list(scores.without_mate) == alone[:20]
    if not means:
        assert scores.n_queries == 0
        assert {getattr(scores, name) for name in MEASURES} == {None}
        assert scores.interval is None
        assert scores.recall_at == scores.precision_at == {}
        return
    for name in MEASURES:
        assert getattr(scores, name) == approx(means[name], abs=1e-12)
    for k in ks:
        assert scores.recall_at[k] == approx(means[f"recall_{k}"], abs=1e-12)
        assert scores.precision_at[k] == approx(means[f"precision_{k}"], abs=1e-12)


@pytest.mark.parametrize(("n", "n_classes"), [(900, 6), (900, 60), (1500, 400)])
def test_both_ways_and_any_blocks_give_the_same(monkeypatch, n, n_classes):
    features, labels = made(n, n_classes)
    expected = score_retrieval(features, labels).by_name()
    done: list[tuple[int, int]] = []
    for few, near, dense, least in ((0, 1 << 24, 5000, 1), (10**6, 9000, 1, 1), (20, 500, 9000, 7)):
        monkeypatch.setattr(retrieval_queries, "_FEW", few)
        monkeypatch.setattr(retrieval_queries, "_NEAR", near)
        monkeypatch.setattr(retrieval_queries, "_DENSE", dense)
        monkeypatch.setattr(retrieval_queries, "_LEAST", least)
        done.clear()
        scores = score_retrieval(features, labels, progress=lambda *at: done.append(at))
        assert scores.by_name() == approx(expected, abs=1e-7)
        assert len(done) > 1
        assert done[-1] == (scores.n_queries, scores.n_queries)


def test_a_floor_that_is_guessed_too_high_is_found_again(monkeypatch):
    values = np.zeros(4000, np.float32)
    values[:300] = np.linspace(0.5, 1, 300)
    blind, lucky = np.arange(300, 550), np.arange(250)
    for sample in (blind, lucky):  # of the first nothing high is seen, of the second only that
        high = retrieval_queries._at_least_highest(values, 200, sample)
        assert len(high) >= 200
        assert np.array_equal(high[-300:][-200:], np.sort(values)[-200:])
    assert len(retrieval_queries._at_least_highest(values, 290, lucky)) >= 290


# another library


@pytest.fixture(scope="module")
def theirs():
    """pytorch-metric-learning's calculator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("faiss")
        module = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
        import torch

        names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
        calculator = module.AccuracyCalculator(include=names, k="max_bin_count")

    def scores(*given: np.ndarray) -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return calculator.get_accuracy(*map(torch.from_numpy, given))

    return scores


@pytest.mark.parametrize(
    ("n", "n_classes", "noise"), [(1200, 8, 3.0), (1200, 40, 2.0), (1500, 900, 1.0)]
)
def test_scores_equal_pytorch_metric_learning(theirs, n, n_classes, noise):
    features, labels = made(n, n_classes, dim=64, noise=noise)
    ours = score_retrieval(features, labels).by_name()
    for name, value in theirs(features, labels).items():
        assert ours[name] == approx(value, abs=1e-6), name


def test_scores_of_other_queries_equal_pytorch_metric_learning(theirs):
    features, labels = made(1000, 12, dim=32)
    asked = slice(0, 300)
    gallery = features[300:], labels[300:]
    ours = score_retrieval(*gallery, queries=(features[asked], labels[asked])).by_name()
    for name, value in theirs(features[asked], labels[asked], *gallery).items():
        assert ours[name] == approx(value, abs=1e-6), name


# the record, and what is refused


def test_scores_come_back_from_json():
    features, labels = made(50, 12)
    for scores in (
        score_retrieval(features, labels, ks=(1, 10)),
        score_retrieval(features, np.arange(50)),
    ):
        assert RetrievalScores.from_dict(json.loads(json.dumps(scores.to_dict()))) == scores


def test_scores_have_the_names_of_other_libraries():
    scores = score_retrieval(*made(50, 5), ks=(1, 4))
    named = scores.by_name()
    assert set(named) == {
        "precision_at_1", "r_precision", "mean_average_precision_at_r", "recall_at_1",
        "recall_at_4", "cmc_1", "cmc_4", "precision_1", "precision_4",
    }  # fmt: skip
    assert named["recall_at_1"] == named["precision_at_1"] == scores.precision_at[1]


def test_images_without_a_label_are_in_the_way_and_never_right(way):
    features = on_circle(0, 10, 4)
    assert score_retrieval(features, np.array([0, 0, 1])).precision_at_1 == 0.0
    scores = score_retrieval(features, np.array([0, 0, -1]))
    assert scores.precision_at_1 == 0.0
    assert scores.n_without_mate == 1
    assert score_retrieval(on_circle(0, 1), np.array([-1, -1])).n_queries == 0


def test_nearest_are_those_that_are_scored_and_ties_come_by_row():
    features = on_circle(0, 10, 10, 25)
    assert nearest(features, 2).indices.tolist() == [[1, 2], [2, 0], [1, 0], [1, 2]]
    assert nearest(features, 9, rows=np.array([3])).indices.tolist() == [[1, 2, 0]]
    assert nearest(features, 1, queries=on_circle(24)).indices.tolist() == [[3]]


def test_what_does_not_go_together_is_refused():
    features, labels = made(20, 3)
    with pytest.raises(DataError, match=r"gallery: labels of shape \(19,\) for 20 rows"):
        score_retrieval(features, labels[1:])
    with pytest.raises(DataError, match=r"queries: labels of shape \(20,\) for 19 rows"):
        score_retrieval(features, labels, queries=(features[1:], labels))
    with pytest.raises(DataError, match="queries have 15 values a row, the gallery 16"):
        score_retrieval(features, labels, queries=(unit(features[:, 1:]), labels))
    for ks in ((), (0, 1), (2, 2)):
        with pytest.raises(ConfigError, match="expected different numbers from 1 on"):
            score_retrieval(features, labels, ks=ks)
    features[3] *= 2
    with pytest.raises(DataError, match="features: 1 of 20 rows are not of unit norm: 3"):
        score_retrieval(features, labels)


def test_an_empty_gallery_has_no_scores():
    scores = score_retrieval(np.empty((0, 4), np.float32), np.empty(0, np.int64))
    assert (scores.n_queries, scores.precision_at_1) == (0, None)
    asked = made(3, 1, dim=4)
    scores = score_retrieval(np.empty((0, 4), np.float32), np.empty(0, np.int64), queries=asked)
    assert (scores.n_queries, scores.without_mate) == (0, (0, 1, 2))


def test_memory_stays_bounded_where_classes_are_large(monkeypatch):
    import tracemalloc

    features, labels = made(6000, 3, dim=8)  # a table of neighbors would take 6000 x 2000 x 12
    tracemalloc.start()
    score_retrieval(features, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6


def test_both_ways_say_the_same_of_each_query(monkeypatch):
    features, labels = made(700, 30, dim=4)
    features[300:400] = features[:100]
    found = []
    for few in (0, 10**6):
        monkeypatch.setattr(retrieval_queries, "_FEW", few)
        found.append(score_queries(features, labels, ks=(1, 5)))
    assert (found[0].first_right == 0).any()  # none among the first R and 5
    for one, other in zip(*found, strict=True):
        assert np.mean(one != other) < 0.01  # what rounding may swap
