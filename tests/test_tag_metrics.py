from __future__ import annotations

import json
import tracemalloc
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse import csr_array
from sklearn.metrics import average_precision_score, precision_recall_curve

import reference_tags as slow
from labelsieve.errors import DataError
from labelsieve.report.spread import spread_of
from labelsieve.report.tag_breakdowns import breakdown, equal_bins, precision_recall, read_groups
from labelsieve.report.tag_evaluation import over_seeds, paired_gains, tag_evaluation, wins
from labelsieve.report.tag_metrics import (
    MEASURES,
    TagScores,
    average_precision_by_tag,
    average_precision_of_all,
    full_average_precision,
    score_kept,
    score_tags,
)
from labelsieve.report.tag_reliability import false_positive_share, reliability

shapes = st.tuples(st.integers(0, 120), st.integers(1, 6), st.integers(0, 10**6), st.booleans())


def made_pairs(n, n_tags, seed, tied=False):
    rng = np.random.default_rng(seed)
    scores = rng.random(n).astype(np.float32)
    if tied:
        scores = np.round(scores * 4) / 4
    return scores, rng.integers(0, n_tags, n).astype(np.int32), rng.random(n) < rng.random()


def scored(n=300, n_tags=5, seed=0, shift=0.0, **options):
    """Pairs, and scores that are the better the higher the shift."""
    _, tags, present = made_pairs(n, n_tags, seed)
    noise = np.random.default_rng(seed + 1).random(n)
    names = tuple("abcdefghij"[:n_tags])
    return score_tags(noise + shift * present, tags, present, names, **options)


def test_average_precision_by_hand():
    one = np.zeros(5, np.int64)
    present = np.array([1, 0, 1, 1, 0], bool)
    found = average_precision_by_tag(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), one, present, 1)
    assert found[0] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3, abs=1e-12)
    assert round(found[0], 7) == 0.8055556


def test_equal_scores_are_one_block_in_whatever_order_they_come():
    scores, present = np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 1], bool)
    for order in ([0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0]):
        found = average_precision_of_all(scores[order], present[order])
        assert found == pytest.approx((1 + 2 / 3 + 3 / 4) / 3, abs=1e-12)


def test_a_small_table_by_hand():
    # three tags, four images, two pairs that nobody looked at
    values = np.array([[0.9, 0.2, 0.4], [0.6, 0.7, 0.1], [0.3, 0.8, 0.95], [0.5, 0.1, 0.35]])
    right = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 1]], bool)
    looked = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1], [0, 1, 1]], bool)
    rows, tags = np.nonzero(looked)
    found = score_tags(values[rows, tags], tags, right[rows, tags], "abc")
    np.testing.assert_allclose(100 * found.ap, [83.333333, 50.0, 58.333333], atol=1e-6)
    assert 100 * found.map == pytest.approx(63.888889, abs=1e-6)
    assert 100 * found.ap_all == pytest.approx(54.940476, abs=1e-6)


@given(shapes)
def test_average_precision_is_that_of_scikit_learn(shape):
    n, n_tags, seed, tied = shape
    scores, tags, present = made_pairs(n, n_tags, seed, tied)
    found = average_precision_by_tag(scores, tags, present, n_tags)
    expected = slow.average_precision_by_tag(
        scores.tolist(), tags.tolist(), present.tolist(), n_tags
    )
    np.testing.assert_allclose(found, expected, atol=1e-9)
    for tag in range(n_tags):
        mine = tags == tag
        if present[mine].any():
            other = average_precision_score(present[mine], scores[mine])
            assert found[tag] == pytest.approx(other, abs=1e-9)
        else:
            assert np.isnan(found[tag])
    together = average_precision_of_all(scores, present)
    if present.any():
        assert together == pytest.approx(average_precision_score(present, scores), abs=1e-9)
    else:
        assert together is None


@given(shapes)
def test_the_order_of_pairs_and_of_tags_changes_nothing(shape):
    n, n_tags, seed, tied = shape
    scores, tags, present = made_pairs(n, n_tags, seed, tied)
    rng = np.random.default_rng(seed)
    order, renamed = rng.permutation(n), rng.permutation(n_tags)
    found = average_precision_by_tag(scores, tags, present, n_tags)
    again = average_precision_by_tag(scores[order], renamed[tags][order], present[order], n_tags)
    np.testing.assert_allclose(again[renamed], found, atol=1e-12)


def test_a_tag_of_no_image_changes_no_other():
    scores, tags, present = made_pairs(200, 3, 0)
    wide = score_tags(scores, np.where(tags == 2, 3, tags), present, "abcd")
    narrow = score_tags(scores, tags, present, "abc")
    assert (wide.map, wide.ap_all) == (narrow.map, narrow.ap_all)
    assert wide.without_pair == ("c",)


def test_adding_a_bias_to_each_tag_moves_ap_all_and_not_map():
    scores, tags, present = made_pairs(400, 4, 3)
    biased = scores.astype(np.float64) + np.array([0, 5, -2, 9])[tags]
    before, after = (score_tags(s, tags, present, "abcd") for s in (scores, biased))
    np.testing.assert_allclose(after.ap, before.ap, atol=1e-12)
    assert abs(after.ap_all - before.ap_all) > 0.001


def test_tags_without_right_or_wrong_pairs_are_counted_and_named():
    tags = np.array([0, 0, 1, 1, 2, 2])
    present = np.array([1, 0, 1, 1, 0, 0], bool)
    scores = np.array([0.2, 0.9, 0.5, 0.4, 0.3, 0.1])
    names = ("both", "right", "wrong", "unseen")
    found = score_tags(scores, tags, present, names)
    assert found.without_positive == ("wrong",)
    assert found.without_negative == ("right",)
    assert found.without_pair == ("unseen",)
    assert (found.n_without_positive, found.n_without_negative) == (1, 1)
    np.testing.assert_array_equal(found.ap, [0.5, 1.0, np.nan, np.nan])
    assert found.map == 0.75
    assert found.map_informative == 0.5  # the tag whose pairs are all right dilutes the mean


def test_empty_tags_may_count_as_zero_but_those_that_nobody_looked_at_never_do():
    tags, present = np.array([0, 0, 1]), np.array([1, 0, 0], bool)
    scores = np.array([0.9, 0.1, 0.5])
    found = score_tags(scores, tags, present, "abc", empty_tags="zero")
    np.testing.assert_array_equal(found.ap, [1.0, 0.0, np.nan])
    assert found.map == 0.5
    assert found.without_positive == ("b",)


def test_no_pair_at_all_gives_no_score():
    nothing = np.empty(0)
    found = score_tags(nothing, nothing.astype(int), nothing.astype(bool), "ab")
    assert found.map is found.ap_all is found.map_informative is None
    assert np.isnan(found.ap).all()
    assert found.by_frequency == found.by_noise == ()


def test_scores_that_are_no_numbers_are_refused():
    present = np.array([True, False])
    with pytest.raises(DataError, match="1 of 2 scores of verified pairs are NaN; expected numbe"):
        average_precision_by_tag(np.array([0.5, np.nan]), np.zeros(2, int), present, 1)
    with pytest.raises(DataError, match="scores of 3 pairs, tags of 2; expected as many"):
        average_precision_by_tag(np.zeros(3), np.zeros(2, int), present, 1)
    with pytest.raises(DataError, match="tags run from 0 to 7 with 2 tag names"):
        average_precision_by_tag(np.zeros(2), np.array([0, 7]), present, 2)
    with pytest.raises(DataError, match="kept of 1 pairs, tags of 2"):
        score_tags(np.zeros(2), np.zeros(2, int), present, "a", kept=np.array([True]))


@given(shapes)
def test_what_is_kept_is_scored_against_verified_pairs(shape):
    n, n_tags, seed, _ = shape
    scores, tags, present = made_pairs(n, n_tags, seed)
    kept = scores > 0.4
    found = score_tags(scores, tags, present, "abcdef"[:n_tags], kept=kept)
    sets = [set(np.flatnonzero(one).tolist()) for one in (kept, present)]
    expected = slow.kept_scores(*sets)
    assert (found.precision_kept, found.recall_kept, found.f1_kept) == pytest.approx(expected)
    macro = []
    for tag in range(n_tags):
        mine = set(np.flatnonzero(tags == tag).tolist())
        if sets[1] & mine:
            macro.append(slow.kept_scores(sets[0] & mine, sets[1] & mine)[2])
    assert found.kept.macro_f1 == pytest.approx(slow.mean(macro))
    assert found.kept_by_tag.sum(axis=0).tolist() == [len(sets[0]), len(sets[0] & sets[1])]


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 10**6))
def test_the_full_truth_is_scored_a_few_tags_at_a_time(n, n_tags, seed):
    rng = np.random.default_rng(seed)
    values = np.round(rng.random((n, n_tags)), 1)
    truth = rng.random((n, n_tags)) < 0.3
    asked = []

    def columns(tags):
        asked.append(len(tags))
        return values[:, tags]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labelsieve.report.tag_ranking._VALUES_AT_ONCE", 2 * n)
        found = full_average_precision(columns, csr_array(truth.astype(np.int8)))
    assert max(asked, default=0) <= 2
    for tag in range(n_tags):
        expected = slow.average_precision(values[:, tag].tolist(), truth[:, tag].tolist())
        assert found[tag] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_tags_that_the_truth_leaves_out_do_not_count_as_wrong():
    truth = csr_array(np.array([[1, 0, 0], [0, 1, 0]], np.int8))
    kept = csr_array(np.array([[0.7, 0, 1], [0.2, 0, 1]], np.float32))
    found = score_kept(kept, truth)
    assert (found.n_kept, found.n_present, found.n_right) == (2, 2, 1)
    assert (found.precision, found.recall, found.f1) == (0.5, 0.5, 0.5)
    every = score_kept(kept, truth, known=np.ones(3, bool))
    assert (every.n_kept, every.precision) == (4, 0.25)
    with pytest.raises(DataError, match=r"tags of shape \(2, 3\) and truth of \(1, 3\)"):
        score_kept(kept, truth[[0]])


def test_stored_zeros_of_the_truth_are_not_true():
    truth = csr_array((np.array([1, 0, -1], np.int8), ([0, 1, 2], [0, 0, 0])), shape=(3, 1))
    found = full_average_precision(lambda tags: np.array([[0.1], [0.9], [0.5]]), truth)
    assert found[0] == pytest.approx(1 / 3)
    kept = csr_array(np.ones((3, 1)))
    assert score_kept(kept, truth).n_present == 1


def test_scores_of_another_shape_than_the_truth_are_refused():
    truth = csr_array(np.ones((3, 2), np.int8))
    with pytest.raises(DataError, match=r"scores of shape \(2, 2\) for 3 images and 2 tags"):
        full_average_precision(lambda tags: np.zeros((2, 2)), truth)
    with pytest.raises(DataError, match="scores against the full truth hold NaN"):
        full_average_precision(lambda tags: np.full((3, 2), np.nan), truth)


def test_scores_survive_json():
    kept = np.arange(300) % 3 > 0
    groups = {"first": np.array([0, 1]), "none": np.array([], np.int64)}
    found = scored(kept=kept, groups=groups)
    truth = csr_array(np.eye(5, dtype=np.int8))
    found = found.against_truth(lambda tags: np.eye(5)[:, tags], truth, truth)
    again = TagScores.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.to_dict() == found.to_dict()
    assert again.measures() == found.measures()
    assert again.map_full == again.kept_full.f1 == 1
    np.testing.assert_array_equal(again.ap, found.ap)
    assert list(found.measures()) == list(MEASURES)
    bare = score_tags(np.ones(1), np.zeros(1, int), np.array([False]), "ab")
    twin = TagScores.from_dict(json.loads(json.dumps(bare.to_dict(), allow_nan=False)))
    assert np.isnan(twin.ap).all()
    assert twin.kept is None
    assert twin.measures() == dict.fromkeys(MEASURES)


@given(st.integers(0, 45), st.integers(0, 10**6))
def test_bins_hold_each_tag_once_and_differ_by_one_at_most(n_tags, seed):
    rng = np.random.default_rng(seed)
    ap = np.where(rng.random(n_tags) < 0.2, np.nan, rng.random(n_tags))
    by = rng.integers(0, 9, n_tags)
    found = equal_bins(ap, by)
    sizes = [one.n_tags for one in found]
    known = int((~np.isnan(ap)).sum())
    assert sum(sizes) == known
    assert len(found) == min(10, known)
    assert not sizes or max(sizes) - min(sizes) <= 1
    if known:
        assert sum(one.n_tags * one.map for one in found) == pytest.approx(np.nansum(ap))
    assert all(a.high <= b.low for a, b in pairwise(found))


def test_bins_by_noise_go_from_noisy_to_clean():
    tags = np.repeat([0, 1], 4)
    present = np.array([1, 1, 1, 0, 1, 0, 0, 0], bool)
    found = score_tags(np.arange(8.0), tags, present, "ab", frequency=np.array([5, 9]))
    assert [(one.low, one.high) for one in found.by_noise] == [(0.25, 0.25), (0.75, 0.75)]
    assert found.by_noise[1].map == pytest.approx(found.ap[0])
    assert [one.low for one in found.by_frequency] == [5, 9]


def test_a_tag_may_be_in_several_groups_of_the_users_table(tmp_path):
    table = tmp_path / "groups.csv"
    table.write_text("label,group\ncat,animal\ncat,pet\ndog,animal\ncat,pet\nrose,plant\n,pet\n")
    groups = read_groups(table, ("cat", "dog"))
    assert {name: tags.tolist() for name, tags in groups.items()} == {"animal": [0, 1], "pet": [0]}
    found = breakdown(np.array([0.5, np.nan]), groups)
    assert [(one.name, one.n_tags, one.map) for one in found] == [
        ("animal", 1, 0.5), ("pet", 1, 0.5),
    ]  # fmt: skip


def test_a_table_of_groups_that_does_not_fit_says_why(tmp_path):
    table = tmp_path / "groups.csv"
    table.write_text("label,grup\ncat,animal\n")
    with pytest.raises(DataError, match=r"no column 'group'. Did you mean 'grup'"):
        read_groups(table, ("cat",))
    table.write_text("tag,group\nlion,animal\n")
    with pytest.raises(DataError, match=r"names none of the 1 tags, such as 'lion'; the tags are"):
        read_groups(table, ("cat",))
    table.write_text("tag,group\n")
    with pytest.raises(DataError, match="but has no rows"):
        read_groups(table, ("cat",))
    with pytest.raises(DataError, match="cannot be read as a table of groups"):
        read_groups(tmp_path / "none.csv", ("cat",))


@given(shapes)
def test_the_curve_goes_through_the_points_of_scikit_learn(shape):
    n, _, seed, tied = shape
    scores, _, present = made_pairs(n, 1, seed, tied)
    found = precision_recall(scores, present, n_points=10**6)
    if not present.any():
        assert found == []
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, _ = precision_recall_curve(present, scores)
    expected = list(zip(recall[:-1].tolist(), precision[:-1].tolist(), strict=True))[::-1]
    np.testing.assert_allclose(found, expected)
    few = precision_recall(scores, present, n_points=5)
    assert len(few) <= 5
    assert few[-1][0] == 1
    assert set(few) <= set(found)


def test_false_positives_have_wilsons_interval():
    tags, present = np.repeat([0, 2], [30, 5]), np.arange(35) % 3 > 0
    found = false_positive_share(tags, present, 3)
    for tag in (0, 2):
        n, wrong = int((tags == tag).sum()), int((~present[tags == tag]).sum())
        expected = stats.binomtest(wrong, n).proportion_ci(0.95, method="wilson")
        assert (found.low[tag], found.high[tag]) == pytest.approx((expected.low, expected.high))
        assert found.share[tag] == pytest.approx(wrong / n)
    assert np.isnan(found.share[1])
    assert (found.low[1], found.high[1], found.n_looked[1]) == (0, 1, 0)
    whole = stats.binomtest(12, 35).proportion_ci(0.95, method="wilson")
    assert found.overall == pytest.approx((12 / 35, whole.low, whole.high))
    nothing = np.empty(0, np.int64)
    assert false_positive_share(nothing, nothing.astype(bool), 2).overall is None


def test_reliability_is_said_of_each_tag_and_of_all():
    probabilities = np.array([0.95, 0.95, 0.05, 0.55])
    present = np.array([True, False, False, True])
    found = reliability(probabilities, np.array([0, 0, 0, 2]), present, "abc")
    assert [one.name for one in found.tags] == ["a", "b", "c"]
    assert found.tags[0].expected_error == pytest.approx((2 * 0.45 + 0.05) / 3)
    assert found.tags[1].expected_error is None
    assert found.tags[1].bins == ()
    assert found.overall.expected_error == pytest.approx((2 * 0.45 + 0.05 + 0.45) / 4)
    assert found.tag_error == pytest.approx((0.95 / 3 + 0.45) / 2)
    with pytest.raises(DataError, match=r"probabilities from 0.5 to 2; expected them in \[0, 1\]"):
        reliability(np.array([0.5, 2]), np.zeros(2, int), np.ones(2, bool), "a")


def runs_of(n_seeds, shifts):
    return {
        f"seed-{seed}": {
            method: scored(seed=10 * seed, shift=shift) for method, shift in shifts.items()
        }
        for seed in range(n_seeds)
    }


def test_gains_are_paired_within_a_run():
    runs = runs_of(3, {"noisy": 0.0, "joint": 0.3})
    found = tag_evaluation(runs)
    gain = found.gains["joint"]["map"]
    by_hand = [runs[run]["joint"].map - runs[run]["noisy"].map for run in runs]
    assert gain.values == pytest.approx(by_hand)
    assert gain.spread.mean == pytest.approx(np.mean(by_hand))
    assert gain.spread.std == pytest.approx(np.std(by_hand, ddof=1))
    assert gain.n_better == 3
    # the same draw hits both methods, so that pairs differ less than runs do
    assert gain.spread.std < found.over_runs["joint"]["map"].std
    assert wins(found, "ap_all") == {("noisy", "joint"): 0, ("joint", "noisy"): 3}
    assert "noisy" not in found.gains
    assert len(found.by_noise["joint"]) == 5
    assert np.mean(found.by_noise["joint"]) == pytest.approx(gain.spread.mean)


def test_an_evaluation_is_ready_for_json_and_of_one_run_has_no_spread():
    found = tag_evaluation(runs_of(1, {"noisy": 0.0, "joint": 0.3}))
    assert found.over_runs == {}
    assert found.gains["joint"]["map"].spread.std is None
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["gains"]["joint"]["map"]["values"] == list(found.gains["joint"]["map"].values)
    assert TagScores.from_dict(plain["runs"]["seed-0"]["joint"]).map is not None


def test_without_the_baseline_there_are_no_gains():
    found = tag_evaluation(runs_of(2, {"joint": 0.3}))
    assert found.baseline is None
    assert found.gains == found.by_noise == {}
    assert found.over_runs["joint"]["map"].n_runs == 2


def test_runs_that_cannot_be_compared_say_why():
    with pytest.raises(DataError, match="no run to evaluate"):
        tag_evaluation({})
    runs = {"a": {"noisy": scored()}, "b": {"joint": scored()}}
    with pytest.raises(DataError, match="a, b: no method that all of them have"):
        tag_evaluation(runs)
    runs = {"a": {"noisy": scored()}, "b": {"noisy": scored(n_tags=4)}}
    with pytest.raises(DataError, match="b: has other tags than a"):
        tag_evaluation(runs)
    runs = {"a": {"noisy": scored(), "joint": scored(seed=5)}}
    with pytest.raises(DataError, match="a: joint was scored on other pairs than noisy"):
        tag_evaluation(runs)
    with pytest.raises(DataError, match="2 runs and 1 baselines"):
        paired_gains([scored()] * 2, [scored()])
    found = tag_evaluation(runs_of(1, {"noisy": 0.0}))
    with pytest.raises(DataError, match="there is no measure 'mapp'. Did you mean 'map'"):
        wins(found, "mapp")


def test_a_measure_that_one_run_lacks_has_no_spread():
    kept = np.ones(300, bool)
    found = over_seeds([scored(kept=kept), scored(seed=1)])
    assert "recall_kept" not in found
    assert found["map"] == spread_of([scored(kept=kept).map, scored(seed=1).map], is_share=True)


def test_two_million_pairs_of_six_thousand_tags_take_less_than_two_hundred_megabytes():
    rng = np.random.default_rng(0)
    n = 2_000_000
    scores, present = rng.random(n, np.float32), rng.random(n, np.float32) < 0.5
    tags = rng.integers(0, 6000, n).astype(np.int32)
    tracemalloc.start()
    score_tags(scores, tags, present, tuple(map(str, range(6000))), kept=present)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 << 20
