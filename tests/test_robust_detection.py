"""The default recipe end to end, where the paper's rules fail too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.sncf.crossfit import CrossFit
from labelsieve.methods.sncf.robust import RobustDetection, detect_robust
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Verdict
from toy import structured

QUICK = RobustDetection(
    classifier=CrossFit(n_folds=3, n_hidden=64, n_epochs=4, least_steps=150), n_repeats=2
)


def found_in(features, labels, settings=QUICK, names=None, **options):
    neighbors = nearest_neighbors(features, min(50, len(features) - 1))
    names = names or [f"class {c}" for c in range(labels.max() + 1)]
    return detect_robust(features, neighbors, labels, names, settings, **options)


def agreement(called, true):
    return (called & true).sum() / max(called.sum(), 1), (called & true).sum() / max(true.sum(), 1)


@pytest.fixture(scope="module")
def four_classes():
    toy = structured(2000, 4)  # where the published rule finds no foreign image at all
    return toy, found_in(toy.features, toy.labels)


def test_probabilities_sum_to_one_and_the_verdict_is_the_likeliest(four_classes):
    _, found = four_classes
    assert np.allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    assert (found.probabilities >= 0).all()
    assert np.array_equal(found.verdict, found.probabilities.argmax(axis=1))
    assert set(np.unique(found.verdict)) <= {0, 1, 2}


def test_foreign_and_mislabeled_images_of_few_classes_are_found(four_classes):
    toy, found = four_classes
    precision, recall = agreement(found.verdict == Verdict.FOREIGN, toy.foreign)
    assert precision > 0.95
    assert recall > 0.9
    precision, recall = agreement(found.verdict == Verdict.MISLABELED, toy.mislabeled)
    assert precision > 0.9
    assert recall > 0.6


def test_suggestions_are_right_and_never_the_label_that_is_called_wrong(four_classes):
    toy, found = four_classes
    called = found.verdict == Verdict.MISLABELED
    assert (found.suggestion[called] != toy.labels[called]).all()
    assert (found.suggestion == toy.truth)[called & toy.mislabeled].mean() > 0.95
    assert (found.closest == toy.truth)[toy.mislabeled].mean() > 0.95
    clean = found.verdict == Verdict.CLEAN
    assert (found.suggestion[clean] == toy.labels[clean]).all()
    assert ((found.suggestion_probability >= 0) & (found.suggestion_probability <= 1)).all()


def test_only_foreign_images_have_groups(four_classes):
    _, found = four_classes
    assert (found.foreign_group[found.verdict != Verdict.FOREIGN] == -1).all()


def test_every_image_has_a_reason_and_every_class_a_rate(four_classes):
    toy, found = four_classes
    assert len(found.reasons) == len(toy.labels)
    assert all(text.endswith(".") for text in found.reasons)
    assert [rate.n_images for rate in found.noise_rates] == np.bincount(toy.labels).tolist()
    for rate in found.noise_rates:
        low, high = rate.foreign_interval
        assert 0 <= low <= rate.foreign <= high <= 1
        low, high = rate.mislabeled_interval
        assert 0 <= low <= rate.mislabeled <= high <= 1


def test_the_seed_decides_everything():
    toy = structured(600, 3, dimension=32)
    first, again, other = (found_in(toy.features, toy.labels, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.probabilities, again.probabilities)
    assert first.reasons == again.reasons
    assert not np.array_equal(first.probabilities, other.probabilities)


def test_two_classes_without_noise_raise_no_alarm():
    toy = structured(1000, 2, foreign_rate=0, mislabeled_rate=0)
    found = found_in(toy.features, toy.labels)
    assert (found.verdict != Verdict.CLEAN).mean() < 0.01
    assert any("With 2 classes" in text for text in found.warnings)


def test_many_classes_without_noise_raise_no_alarm():
    toy = structured(2000, 20, foreign_rate=0, mislabeled_rate=0)
    found = found_in(toy.features, toy.labels)
    assert (found.verdict != Verdict.CLEAN).mean() < 0.02
    assert found.warnings == ()


def test_labels_that_features_do_not_predict_are_kept():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, 32))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = found_in(rows, rng.integers(0, 5, 1000))
    assert (found.verdict == Verdict.CLEAN).all()
    assert found.warnings[0].startswith("The features hardly predict the labels")


def test_a_class_of_one_image_is_kept_and_named():
    toy = structured(400, 4, dimension=32, foreign_rate=0, mislabeled_rate=0.1)
    labels = toy.labels.copy()
    labels[labels == 3] = 2
    labels[-1] = 3
    found = found_in(toy.features, labels, names=["ant", "bee", "cat", "dog"])
    assert found.probabilities[-1, Verdict.CLEAN] > 0.8
    assert any(text.startswith("'dog': fewer than 10 images") for text in found.warnings)


def test_uneven_classes_keep_their_small_ones():
    sizes = [600, 200, 60, 20]
    toy = structured(2400, 4, dimension=32, foreign_rate=0, mislabeled_rate=0)
    rows = np.concatenate([np.flatnonzero(toy.truth == c)[:size] for c, size in enumerate(sizes)])
    found = found_in(toy.features[rows], toy.labels[rows])
    for c in range(4):
        assert (found.verdict == Verdict.CLEAN)[toy.labels[rows] == c].mean() > 0.9


@pytest.mark.parametrize(("n", "n_classes"), [(4, 2), (12, 6), (50, 5)])
def test_tiny_sets_do_not_crash_and_keep_most_labels(n, n_classes):
    toy = structured(n, n_classes, dimension=16, foreign_rate=0, mislabeled_rate=0)
    found = found_in(toy.features, toy.labels)
    assert (found.verdict == Verdict.CLEAN).mean() >= 0.8
    assert found.warnings or n == 50


def test_images_without_a_label_teach_nothing_and_get_a_suggestion():
    toy = structured(2000, 4)
    labels = toy.labels.copy()
    labels[::4] = -1
    found = found_in(toy.features, labels)
    bare = labels < 0
    assert (found.probabilities[bare, Verdict.MISLABELED] == 0).all()
    known = bare & ~toy.foreign
    assert (found.suggestion == toy.truth)[known].mean() > 0.95
    assert (found.verdict[bare & toy.foreign] == Verdict.FOREIGN).mean() > 0.9
    assert sum(rate.n_images for rate in found.noise_rates) == (~bare).sum()


def test_a_class_without_images_is_no_suggestion():
    toy = structured(900, 3, dimension=32, foreign_rate=0)
    found = found_in(toy.features, toy.labels, names=["ant", "bee", "cat", "dog"])
    assert (found.suggestion != 3).all()
    assert [rate.class_name for rate in found.noise_rates] == ["ant", "bee", "cat"]


def test_exact_copies_are_no_trouble():
    toy = structured(400, 4, dimension=32)
    twice = np.concatenate([toy.features, toy.features])
    found = found_in(twice, np.concatenate([toy.labels, toy.labels]))
    assert np.isfinite(found.probabilities).all()


@pytest.mark.parametrize("labels", [np.zeros(30, np.int64), np.full(30, -1), [-1] * 29 + [0]])
def test_fewer_than_two_classes_are_refused(labels):
    features = np.eye(30, dtype=np.float32)
    neighbors = nearest_neighbors(features, 5)
    with pytest.raises(DataError, match="A label can only be doubted where there are two classes"):
        detect_robust(features, neighbors, np.asarray(labels), ["cat", "dog"], QUICK)


def test_progress_rises_to_its_total():
    told = []
    toy = structured(200, 2, dimension=16)
    found_in(toy.features, toy.labels, progress=lambda *done: told.append(done))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shortest_reach": 0.5}, "expected 0 < shortest_reach <= longest_reach <= 1"),
        ({"highest_floor": 2.0}, "expected 0 < lowest_floor <= highest_floor <= 1"),
        ({"n_repeats": 0}, "n_repeats is 0; expected at least 1"),
        ({"power": -1.0}, "power is -1.0; expected at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, text):
    with pytest.raises(ConfigError, match=text):
        replace(RobustDetection(), **change)


@pytest.mark.slow
def test_twenty_classes_with_every_kind_of_noise():
    toy = structured(10_000, 20)
    found = found_in(toy.features, toy.labels, RobustDetection())
    assert min(agreement(found.verdict == Verdict.FOREIGN, toy.foreign)) > 0.93
    precision, recall = agreement(found.verdict == Verdict.MISLABELED, toy.mislabeled)
    assert precision > 0.95
    assert recall > 0.65
