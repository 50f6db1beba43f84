from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

import reference_classifier as slow
from labelsieve.errors import DataError
from labelsieve.report.classifier_evaluation import classifier_evaluation, over_seeds
from labelsieve.report.classifier_scores import (
    MEASURES,
    N_EPOCHS,
    ClassifierScores,
    EpochAccuracy,
    brier,
    class_numbers,
    negative_log_likelihood,
    score_classifier,
    wilson,
)
from made_predictions import epochs, made_names, made_predictions, made_probabilities, made_scores

shapes = st.tuples(st.integers(1, 60), st.integers(2, 9), st.integers(0, 10**6))


@given(shapes)
def test_every_measure_is_that_of_scikit_learn_or_of_a_slow_one(shape):
    n, n_classes, seed = shape
    values, truth = made_probabilities(n, n_classes, seed, skill=1.0)
    found = score_classifier(values, truth, made_names(n_classes))
    called = values.argmax(axis=1)
    classes = np.arange(n_classes)
    assert found.n_scored == n
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, called))
    np.testing.assert_array_equal(
        found.confusion, metrics.confusion_matrix(truth, called, labels=classes)
    )
    recall = metrics.recall_score(truth, called, labels=classes, average=None, zero_division=np.nan)
    precision = metrics.precision_score(
        truth, called, labels=classes, average=None, zero_division=np.nan
    )
    for c, one in enumerate(found.classes):
        assert (one.accuracy is None) == np.isnan(recall[c])
        assert (one.precision is None) == np.isnan(precision[c])
        assert one.accuracy is None or one.accuracy == pytest.approx(recall[c])
        assert one.precision is None or one.precision == pytest.approx(precision[c])
    assert found.balanced_accuracy == pytest.approx(np.nanmean(recall))
    wide = values.astype(np.float64)
    wide /= wide.sum(axis=1, keepdims=True)  # scikit-learn wants sums of 1 to the last digit
    log_loss = metrics.log_loss(truth, wide, labels=classes)
    assert found.negative_log_likelihood == pytest.approx(log_loss, rel=1e-5)
    assert found.negative_log_likelihood == pytest.approx(
        slow.negative_log_likelihood(values, truth)
    )
    squares = metrics.brier_score_loss(truth, wide, labels=classes, scale_by_half=False)
    assert found.brier == pytest.approx(squares, rel=1e-5)
    assert found.brier == pytest.approx(slow.brier(values, truth))
    assert found.calibration_error == pytest.approx(
        slow.expected_calibration_error(values, truth), abs=1e-6
    )
    if n_classes < 6:
        assert found.top5 is None
    else:
        assert found.top5 == pytest.approx(slow.top(values, truth, 5))
        top5 = metrics.top_k_accuracy_score(truth, values, k=5, labels=classes)
        assert found.top5 == pytest.approx(top5)


def test_the_calibration_error_by_hand():
    # said .95 twice, right once: bin 15 is .45 off; said .55, right: bin 9 is .45 off
    values = np.array([[0.95, 0.05], [0.95, 0.05], [0.45, 0.55]])
    found = score_classifier(values, np.array([0, 1, 1]), "ab")
    assert found.calibration_error == pytest.approx(0.45)
    bins = [
        (round(b.predicted, 2), round(b.observed, 2), b.n_images) for b in found.calibration.bins
    ]
    assert bins == [(0.55, 1.0, 1), (0.95, 0.5, 2)]
    assert [(round(15 * b.low), round(15 * b.high)) for b in found.calibration.bins] == [
        (8, 9), (14, 15),
    ]  # fmt: skip


def test_equal_probabilities_score_as_said():
    values, truth = np.full((8, 4), 0.25), np.arange(8) % 4
    assert negative_log_likelihood(values, truth) == pytest.approx(np.log(4))
    assert brier(values, truth) == pytest.approx(1 - 1 / 4)
    certain = np.eye(4)[truth]
    assert negative_log_likelihood(certain, truth) == 0
    assert brier(certain, truth) == 0
    assert brier(np.roll(certain, 1, axis=1), truth) == pytest.approx(2)


def test_a_probability_of_zero_costs_much_and_is_finite():
    found = negative_log_likelihood(np.array([[1.0, 0.0]], np.float32), np.array([1]))
    assert found == pytest.approx(87.34, abs=0.01)


@given(st.integers(0, 300), st.integers(0, 300))
def test_intervals_are_those_of_wilson(a, b):
    right, n = min(a, b), max(a, b)
    low, high = wilson(np.array([right]), np.array([n]))
    if n:
        expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert 0 <= low[0] <= right / n <= high[0] <= 1
    else:
        assert (low[0], high[0]) == (0, 1)


def test_images_whose_class_is_not_known_are_left_out_and_counted():
    values, truth = made_probabilities(50, 3)
    hidden = truth.copy()
    hidden[::5] = -1
    found = score_classifier(values, hidden, "abc", n_broken=2)
    alone = score_classifier(values[hidden >= 0], truth[hidden >= 0], "abc")
    assert (found.n_scored, found.n_unknown, found.n_broken) == (40, 10, 2)
    for name in MEASURES:
        assert getattr(found, name) == getattr(alone, name), name


def test_of_no_image_nothing_is_defined():
    found = score_classifier(np.array([[0.5, 0.5]]), np.array([-1]), "ab")
    assert found.n_scored == 0
    assert all(getattr(found, name) is None for name in MEASURES)
    assert found.interval is None
    assert found.worst_classes() == []
    assert found.confusion.sum() == 0
    none = score_classifier(np.empty((0, 2)), np.empty(0, np.int64), "ab")
    assert none.accuracy is None


def test_a_class_without_test_images_takes_no_part_in_the_mean():
    found = score_classifier(np.eye(3)[[0, 0, 2]], np.array([0, 0, 0]), "abc")
    assert found.balanced_accuracy == pytest.approx(2 / 3)
    assert [one.accuracy for one in found.classes] == [pytest.approx(2 / 3), None, None]
    assert [one.precision for one in found.classes] == [1.0, None, 0.0]
    assert [one.n_predicted for one in found.classes] == [2, 0, 1]


def test_classes_found_worst_come_first():
    values = np.eye(3)[[0, 0, 0, 2]]
    found = score_classifier(values, np.array([0, 0, 1, 2]), "abc")
    assert [one.name for one in found.worst_classes()] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("values", "truth", "names", "said"),
    [
        ([[0.5, 0.5]], [0, 1], "ab", r"shape \(1, 2\) for 2 images and 2 classes"),
        ([[0.5, 0.5]], [0], "abc", "one column a class"),
        ([[0.5, 0.5]], [2], "ab", "run from 2 to 2; expected -1 to 1"),
        ([[0.5, 0.5]], [-2], "ab", "run from -2 to -2"),
        ([[0.5, 0.5], [3.0, 1.0]], [0, 1], "ab", "1 of 2 rows .* row 1 sums to 4. Give them after"),
        ([[np.nan, 0.5]], [0], "ab", "1 of 1 rows are no probabilities"),
        ([[1.5, -0.5]], [0], "ab", "1 of 1 rows are no probabilities"),
    ],
)
def test_what_are_no_probabilities_or_classes_is_refused(values, truth, names, said):
    with pytest.raises(DataError, match=said):
        score_classifier(np.array(values), np.array(truth), names)


def test_the_last_epoch_counts_and_the_best_is_only_said():
    history = {"warm-up": epochs(2), "train": epochs(10, first=5), "other": [{"loss": 1.0}]}
    found = made_scores(30, 3, history=history)
    assert [(one.phase, one.epoch) for one in found.epochs[:3]] == [
        ("warm-up", 0), ("warm-up", 1), ("train", 5),
    ]  # fmt: skip
    assert found.last_epoch == found.epochs[-1]
    assert found.last_epoch.accuracy == 0.8
    assert (found.best_on_test.accuracy, found.best_on_test.epoch) == (0.9, 12)
    assert found.last_five == pytest.approx(np.mean([0.55, 0.56, 0.9, 0.58, 0.8]))
    assert made_scores(30, 3).best_on_test is None
    assert made_scores(30, 3, history={"train": epochs(4)}).last_five is None


def test_lines_without_a_test_are_left_out():
    lines = [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "test_accuracy": None}, {"test_accuracy": 0.5}]
    (one,) = made_scores(30, 3, history={"train": lines}).epochs
    assert (one.epoch, one.accuracy) == (2, 0.5)


@pytest.mark.parametrize("n", [0, 40])
def test_scores_survive_json(n):
    values, truth = made_probabilities(40, 7)
    truth[n:] = -1
    found = score_classifier(values, truth, made_names(7), history={"train": epochs(8)})
    text = json.dumps(found.to_dict(), allow_nan=False)
    back = ClassifierScores.from_dict(json.loads(text))
    np.testing.assert_array_equal(back.confusion, found.confusion)
    for name, value in vars(found).items():
        if name != "confusion":
            assert getattr(back, name) == value, name
    assert back.to_dict() == found.to_dict()
    assert found.to_dict()["best_on_test"]["accuracy"] == 0.9


def test_of_a_thousand_classes_the_confusion_is_written_without_zeros():
    found = made_scores(500, 1000)
    cells = found.to_dict()["confusion"]
    assert len(cells) <= 500
    assert sum(n for *_, n in cells) == 500
    assert all(found.confusion[t, p] == n for t, p, n in cells)


def test_truth_that_is_no_class_is_not_known():
    assert class_numbers(["b", None, "z", "a"], ("a", "b")).tolist() == [1, -1, -1, 0]


def test_the_spread_over_seeds_is_that_of_students_t():
    runs = [made_scores(200, 7, seed) for seed in range(4)]
    found = over_seeds(runs)
    assert set(found) == set(MEASURES)
    for name, spread in found.items():
        values = [getattr(one, name) for one in runs]
        mean, std = np.mean(values), np.std(values, ddof=1)
        assert (spread.n_runs, spread.mean) == (4, pytest.approx(mean))
        assert spread.std == pytest.approx(std)
        expected = stats.t.interval(0.95, 3, loc=mean, scale=std / 2)
        assert spread.interval == pytest.approx(expected)


def test_the_interval_of_a_share_ends_where_shares_end():
    right, wrong = (
        score_classifier(np.eye(2)[[0] * 10], np.array([0] * n + [1] * (10 - n)), "ab")
        for n in (10, 9)
    )
    assert over_seeds([right, wrong])["accuracy"].interval[1] == 1.0
    assert over_seeds([right, wrong])["negative_log_likelihood"].interval[0] < 0


def test_of_one_run_there_is_no_spread_and_of_none_nothing():
    spread = over_seeds([made_scores(50, 3)])["accuracy"]
    assert (spread.std, spread.interval) == (None, None)
    assert over_seeds([]) == {}
    assert "top5" not in over_seeds([made_scores(50, 3)] * 2)


def test_runs_are_evaluated_together_with_their_agreement():
    runs = {str(seed): made_scores(60, 4, seed) for seed in range(3)}
    said = {str(seed): made_predictions(60, 4, seed, n_broken=seed) for seed in range(3)}
    found = classifier_evaluation(runs, said)
    plain = [
        {name: c for name, c in zip(one.image, one.label.tolist(), strict=True) if c >= 0}
        for one in said.values()
    ]
    assert found.agreement == pytest.approx(slow.agreement(plain))
    assert found.over_runs == over_seeds(list(runs.values()))
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["over_runs"]["accuracy"]["n_runs"] == 3
    alone = classifier_evaluation({"a": runs["0"]}, {"a": said["0"]})
    assert (alone.over_runs, alone.agreement, alone.over_images) == ({}, None, None)
    assert classifier_evaluation(runs).agreement is None


@pytest.mark.parametrize("n", [0, 1, 100, 101, 1234])
def test_of_many_epochs_some_are_kept_with_all_that_is_told_of_them(n):
    accuracy = np.random.default_rng(n).integers(0, 60, n) / 100
    every = tuple(EpochAccuracy("train", i, float(a)) for i, a in enumerate(accuracy))
    history = {"train": [{"epoch": e.epoch, "test_accuracy": e.accuracy} for e in every]}
    found = made_scores(20, 3, history=history)
    assert len(found.epochs) <= N_EPOCHS
    assert set(found.epochs) <= set(every)
    assert len(found.epochs) == n or len(found.epochs) >= N_EPOCHS - 6
    assert found.epochs[:1] == every[:1]
    assert found.epochs[-5:] == every[-5:]
    assert found.best_on_test == max(every, key=lambda one: one.accuracy, default=None)
    gaps = np.diff([one.epoch for one in found.epochs])
    assert gaps.max(initial=0) <= n / (N_EPOCHS - 6) + 1
    assert (
        ClassifierScores.from_dict(json.loads(json.dumps(found.to_dict()))).epochs == found.epochs
    )


def test_runs_that_agree_are_no_surer_than_their_test_images_allow():
    one = made_scores(50, 3)
    found = classifier_evaluation({"a": one, "b": one})
    assert found.over_runs["accuracy"].std == 0
    assert found.over_images == pytest.approx(one.interval)
    assert json.loads(json.dumps(found.to_dict()))["over_images"] == list(found.over_images)
    other = made_scores(200, 3, 1)  # on more images: the fewest count
    mean = (one.accuracy + other.accuracy) / 2
    low, high = wilson(np.array(50 * mean), np.array(50))
    assert classifier_evaluation({"a": one, "b": other}).over_images == (low, high)
    none = score_classifier(np.array([[0.2, 0.3, 0.5]]), np.array([-1]), one.class_names)
    assert classifier_evaluation({"a": one, "b": none}).over_images is None


def test_runs_of_other_classes_are_not_compared():
    with pytest.raises(DataError, match="b: knows other classes than a"):
        classifier_evaluation({"a": made_scores(20, 3), "b": made_scores(20, 4)})
