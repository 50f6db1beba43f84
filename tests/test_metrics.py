from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.errors import DataError
from labelsieve.records import Verdict
from labelsieve.report.metrics import (
    auroc,
    average_precision,
    calibration,
    confusion_counts,
    detection,
    score,
    true_verdicts,
)
from made_findings import made_findings, random_findings

approx = pytest.approx
CLEAN, MISLABELED, FOREIGN, BROKEN = Verdict


def auroc_by_pairs(values, positive):
    pairs = [(p, q) for p, yes in zip(values, positive, strict=True) if yes
             for q, no in zip(values, positive, strict=True) if not no]  # fmt: skip
    if not pairs:
        return None
    return sum(1.0 if p > q else 0.5 if p == q else 0.0 for p, q in pairs) / len(pairs)


def average_precision_by_thresholds(values, positive):
    """Precision at each threshold, weighted by the recall that it adds; ties come together."""
    if not any(positive):
        return None
    total, found_before = 0.0, 0
    for threshold in sorted(set(values), reverse=True):
        called = [p for v, p in zip(values, positive, strict=True) if v >= threshold]
        total += (sum(called) - found_before) / sum(positive) * sum(called) / len(called)
        found_before = sum(called)
    return total


ranked = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), min_size=1
)


@given(ranked)
def test_auroc_is_how_often_a_positive_is_above_a_negative(rows):
    values, positive = map(np.array, zip(*rows, strict=True))
    assert auroc(values, positive) == approx(auroc_by_pairs(values, positive))


@given(ranked)
def test_average_precision_is_the_sum_over_thresholds(rows):
    values, positive = map(np.array, zip(*rows, strict=True))
    expected = average_precision_by_thresholds(values.tolist(), positive.tolist())
    assert average_precision(values, positive) == approx(expected)


def test_a_ranking_without_positives_or_without_negatives_has_no_auroc():
    values = np.array([0.2, 0.4])
    assert auroc(values, np.array([False, False])) is None
    assert auroc(values, np.array([True, True])) is None
    assert average_precision(values, np.array([False, False])) is None
    assert average_precision(values, np.array([True, True])) == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(rows):
    found, true = map(np.array, zip(*rows, strict=True))
    made = detection("x", found, true)
    if made.precision and made.recall:
        assert made.f1 == approx(2 / (1 / made.precision + 1 / made.recall))
    else:
        assert not made.f1


def test_precision_of_nothing_found_and_recall_of_nothing_there_are_not_defined():
    nothing, one = np.array([False]), np.array([True])
    assert detection("x", nothing, one).precision is None
    assert detection("x", nothing, one).recall == 0.0
    assert detection("x", one, nothing).precision == 0.0
    assert detection("x", one, nothing).recall is None


def test_calibration_of_a_hand_made_case():
    made = calibration("x", np.array([0.05, 0.05, 0.95, 1.0]), np.array([False, True, True, True]))
    low, high = made.bins
    assert (low.n_images, low.predicted, low.observed) == (2, approx(0.05), 0.5)
    assert (high.n_images, high.predicted, high.observed) == (2, approx(0.975), 1.0)
    assert (high.low, high.high) == (approx(0.9), 1.0)
    assert made.expected_error == approx((2 * 0.45 + 2 * 0.025) / 4)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.integers(1, 15))
def test_calibration_bins_hold_every_image_once_and_their_mean_probability(rows, n_bins):
    probabilities, happened = map(np.array, zip(*rows, strict=True))
    made = calibration("x", probabilities, happened, n_bins)
    assert sum(b.n_images for b in made.bins) == len(rows)
    assert sum(b.n_images * b.predicted for b in made.bins) == approx(probabilities.sum())
    assert sum(b.n_images * b.observed for b in made.bins) == approx(happened.sum())
    assert all(b.low - 1e-9 <= b.predicted <= b.high + 1e-9 for b in made.bins)
    assert 0 <= made.expected_error <= 1


def test_calibration_without_images_is_not_defined():
    assert calibration("x", np.empty(0), np.empty(0, bool)).expected_error is None


def test_the_true_verdict_follows_from_label_and_truth():
    label = [0, 0, 0, 0, 0, -1, -1]
    truth = ["cat", "dog", "toaster", "broken", None, "toaster", "cat"]
    verdict, true_class = true_verdicts(made_findings([CLEAN] * 7, label), truth)
    assert verdict.tolist() == [CLEAN, MISLABELED, FOREIGN, BROKEN, -1, FOREIGN, -1]
    assert true_class.tolist() == [0, 1, -1, -1, -1, -1, 0]


def test_a_class_that_is_called_broken_is_a_class():
    findings = made_findings([CLEAN, CLEAN], [0, 1], class_names=("broken", "whole"))
    assert true_verdicts(findings, ["broken", "broken"])[0].tolist() == [CLEAN, MISLABELED]


def test_scores_of_a_hand_made_audit():
    findings = made_findings(
        verdicts=[CLEAN, CLEAN, MISLABELED, MISLABELED, FOREIGN, BROKEN, CLEAN],
        label=[0, 0, 0, 1, 1, 0, 0],
        suggestion=[-1, -1, 1, 2, -1, -1, -1],
    )
    truth = ["cat", "dog", "dog", "dog", "toaster", "broken", None]
    made = score(findings, truth)
    assert (made.n_scored, made.n_unknown, made.n_unlabeled) == (6, 1, 0)
    mislabeled = made["mislabeled"]
    assert (mislabeled.n_true, mislabeled.n_found, mislabeled.n_right) == (2, 2, 1)
    assert (mislabeled.precision, mislabeled.recall, mislabeled.f1) == (0.5, 0.5, 0.5)
    assert made["foreign"].f1 == made["broken"].f1 == 1.0
    assert made["broken"].auroc is None
    noisy = made["noisy"]
    assert (noisy.n_true, noisy.n_found, noisy.n_right) == (3, 3, 2)
    assert made.suggestion_accuracy == 0.5  # of the two truly mislabeled, one got its true class
    assert made.suggestion_precision == 0.5  # of the two called mislabeled, one got its true class
    assert made.confusion == ((1, 1, 0, 0), (1, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))


def test_a_foreign_image_without_a_suggestion_is_not_counted_as_a_right_suggestion():
    findings = made_findings([MISLABELED], [0], suggestion=[-1])
    assert score(findings, ["toaster"]).suggestion_precision == 0.0


def test_an_audit_that_knows_the_truth_scores_one():
    rng = np.random.default_rng(0)
    truth = rng.choice(["cat", "dog", "toaster", "broken"], 200).tolist()
    label = rng.integers(0, 2, 200)
    verdict, true_class = true_verdicts(made_findings([CLEAN] * 200, label), truth)
    suggestion = np.where(verdict == MISLABELED, true_class, -1)
    perfect = score(
        made_findings([Verdict(v) for v in verdict], label, suggestion=suggestion), truth
    )
    for name in ("clean", "mislabeled", "foreign", "noisy"):
        one = perfect[name]
        assert one.f1 == one.auroc == 1.0
        assert one.average_precision == approx(1.0)
    assert perfect["broken"].f1 == 1.0
    assert perfect.suggestion_accuracy == perfect.suggestion_precision == 1.0


def test_a_readable_image_that_is_called_broken_comes_last_in_every_ranking():
    findings = made_findings(
        [MISLABELED, BROKEN], [0, 0], probabilities=[[0.3, 0.6, 0.1], [0, 0, 0]]
    )
    assert score(findings, ["cat", "dog"])["mislabeled"].auroc == 0.0


def test_a_truly_broken_image_takes_no_part_in_rankings():
    findings = made_findings([CLEAN, MISLABELED, MISLABELED], [0, 0, 0],
                             probabilities=[[1, 0, 0], [0, 0.9, 0.1], [0, 1, 0]])  # fmt: skip
    assert score(findings, ["cat", "dog", "broken"])["mislabeled"].auroc == 1.0


@given(st.integers(1, 60), st.integers(0, 99))
def test_the_order_of_the_images_does_not_matter_to_the_scores(n, seed):
    findings = random_findings(n, 4, seed)
    rng = np.random.default_rng(seed)
    truth = rng.choice(["class 0", "class 1", "class 2", "moon", "broken"], n)
    mixed = rng.permutation(n)
    other = made_findings(
        [Verdict(v) for v in findings.verdict[mixed]],
        findings.label[mixed],
        class_names=findings.class_names,
        probabilities=findings.probabilities[mixed],
        suggestion=findings.suggestion[mixed],
    )
    one, two = score(findings, truth.tolist()), score(other, truth[mixed].tolist())
    assert one.confusion == two.confusion
    assert one.suggestion_accuracy == two.suggestion_accuracy
    for a, b in zip(one.detections, two.detections, strict=True):
        assert a.auroc == (None if b.auroc is None else approx(b.auroc))
        assert (a.n_true, a.n_found, a.n_right) == (b.n_true, b.n_found, b.n_right)
    assert sum(map(sum, one.confusion)) == one.n_scored


def test_scores_where_nothing_is_known_are_dashes_and_not_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = score(made_findings([CLEAN, FOREIGN], [0, 1]), [None, None])
    assert made.n_scored == 0
    assert made["clean"].precision is None
    assert made.suggestion_accuracy is None
    assert json.loads(json.dumps(made.to_dict()))["detections"][0]["auroc"] is None


def test_confusion_counts_have_the_truth_in_rows():
    assert confusion_counts(np.array([0, 0, 3]), np.array([1, 1, 2]))[0] == (0, 2, 0, 0)
    assert confusion_counts(np.array([0, 0, 3]), np.array([1, 1, 2]))[3] == (0, 0, 1, 0)


def test_truth_of_another_length_is_refused():
    with pytest.raises(
        DataError, match="1 true labels for findings of 2 images. Give one an image"
    ):
        score(made_findings([CLEAN, CLEAN], [0, 0]), ["cat"])
