"""Cross-fitted networks: no leak, the forward correction, unlabeled rows, what they are shown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from labelsieve.errors import ConfigError, NumericError
from labelsieve.methods.sncf.crossfit import CrossFit, cross_fit
from labelsieve.methods.sncf.evidence import neighbor_labels, network_inputs
from labelsieve.methods.sncf.transition import anchor_transition
from labelsieve.records import Neighbors

QUICK = CrossFit(n_folds=3, n_hidden=32, least_steps=150)


def blobs(n, n_classes, noise_rate, seed=0, spread=1.0):
    """Well-parted classes; `noise_rate` of the labels are another class, evenly."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % n_classes
    rows = 3 * np.eye(n_classes, 8)[truth] + spread * rng.normal(size=(n, 8))
    labels = truth.copy()
    wrong = rng.random(n) < noise_rate
    labels[wrong] = (labels[wrong] + rng.integers(1, n_classes, wrong.sum())) % n_classes
    return rows.astype(np.float32), labels, truth


def test_rows_sum_to_one_and_the_seed_decides():
    inputs, labels, _ = blobs(90, 3, 0.2)
    once, again, other = (cross_fit(inputs, labels, 3, QUICK, seed=s) for s in (5, 5, 6))
    assert once.shape == (1, 90, 3)
    assert np.allclose(once.sum(axis=2), 1, atol=1e-5)
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_no_image_vouches_for_its_own_label():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 100)).astype(np.float32)  # enough columns to learn all by heart
    labels = rng.integers(0, 2, 400)
    agreement = (cross_fit(inputs, labels, 2, QUICK)[0].argmax(axis=1) == labels).mean()
    assert agreement == pytest.approx(0.5, abs=0.08)


def test_the_forward_correction_gives_true_classes_where_labels_are_noisy():
    inputs, labels, truth = blobs(1500, 3, 0.4)
    turns = np.full((3, 3), 0.2) + 0.4 * np.eye(3)
    rows = np.arange(len(truth))
    plain = cross_fit(inputs, labels, 3, QUICK)[0][rows, truth].mean()
    corrected = cross_fit(inputs, labels, 3, QUICK, transitions=turns[None])[0][rows, truth].mean()
    assert corrected > plain + 0.15


def test_each_repeat_has_its_own_transition():
    inputs, labels, truth = blobs(600, 3, 0.4)
    turns = np.stack([np.eye(3), np.full((3, 3), 0.2) + 0.4 * np.eye(3)])
    found = cross_fit(inputs, labels, 3, QUICK, transitions=turns)
    plain, corrected = found[:, np.arange(600), truth].mean(axis=1)
    assert found.shape == (2, 600, 3)
    assert corrected > plain + 0.1


def test_rows_without_a_label_are_predicted():
    inputs, labels, truth = blobs(300, 3, 0.0)
    labels[::5] = -1
    found = cross_fit(inputs, labels, 3, QUICK)[0]
    assert (found.argmax(axis=1) == truth)[::5].mean() > 0.9
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("n", [4, 7, 20])
def test_a_handful_of_images_is_no_reason_to_fail(n):
    inputs, labels, _ = blobs(n, 2, 0.0)
    assert np.isfinite(cross_fit(inputs, labels, 2, QUICK)).all()


def test_divergence_is_a_named_error():
    inputs, labels, _ = blobs(60, 2, 0.0)
    with pytest.raises(NumericError, match="diverged at epoch .* Lower the learning rate"):
        cross_fit(inputs, labels, 2, CrossFit(n_folds=2, n_hidden=4, learning_rate=1e38))


def test_progress_ends_at_the_total():
    told = []
    inputs, labels, _ = blobs(60, 2, 0.0)
    cross_fit(inputs, labels, 2, QUICK, progress=lambda *done: told.append(done))
    assert told[-1][0] == told[-1][1] == len(told)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"n_folds": 1}, "n_folds is 1; expected at least 2"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected more than 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; expected at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, text):
    with pytest.raises(ConfigError, match=text):
        CrossFit(**change)


def slow_neighbor_labels(neighbors, labels, n_classes, power):
    labeled = [c for c in labels if c >= 0]
    width = max(5, len(labeled) // (2 * len(set(labeled))))
    shares = []
    for near, similar in zip(neighbors.indices, neighbors.similarities, strict=True):
        votes = [0.0] * n_classes
        for j, s in list(zip(near, similar, strict=True))[:width]:
            if labels[j] >= 0:
                votes[labels[j]] += max(float(s), 1e-3) ** power
        if sum(votes) == 0:
            votes = [labeled.count(c) for c in range(n_classes)]
        shares.append([v / sum(votes) for v in votes])
    return shares


@given(seed=integers(0, 10_000), n=integers(8, 30), n_classes=integers(1, 4))
def test_neighbor_labels_are_shares_weighted_by_similarity(seed, n, n_classes):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, n_classes, n)
    labels[0] = 0
    near = np.stack([rng.permutation(np.delete(np.arange(n), i))[:7] for i in range(n)])
    similar = -np.sort(-rng.uniform(-0.2, 1, size=near.shape).astype(np.float32), axis=1)
    neighbors = Neighbors(near, similar)
    expected = slow_neighbor_labels(neighbors, labels, n_classes, 3.0)
    assert np.allclose(neighbor_labels(neighbors, labels, n_classes), expected, atol=1e-5)


def test_network_inputs_have_unit_mean_spread_and_keep_the_sizes_of_columns():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(500, 3)) * [4, 2, 1]).astype(np.float32)
    shares = rng.dirichlet(np.ones(4), 500).astype(np.float32)
    spread = network_inputs(features, shares, 10).std(axis=0)
    assert spread[:3].mean() == pytest.approx(1, rel=1e-3)
    assert spread[3:].mean() == pytest.approx(1, rel=1e-3)
    assert spread[0] / spread[2] == pytest.approx(4, rel=0.2)


def test_wide_features_keep_their_principal_directions():
    rng = np.random.default_rng(0)
    wide = (rng.normal(size=(300, 2)) @ rng.normal(size=(2, 40))).astype(np.float32)
    inputs = network_inputs(wide, np.full((300, 1), 1.0, np.float32), 2)
    assert inputs.shape == (300, 3)
    left = wide - wide.mean(axis=0)
    back = np.linalg.lstsq(inputs[:, :2], left, rcond=None)[0]
    assert np.allclose(inputs[:, :2] @ back, left, atol=1e-3)


def test_constant_features_stay_finite():
    assert np.isfinite(network_inputs(np.ones((9, 3), np.float32), np.ones((9, 1), "f"), 3)).all()


def test_anchors_show_how_a_class_is_mislabeled():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 4000)
    turns = np.array([[0.9, 0.1, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]])
    labels = np.array([rng.choice(3, p=turns[c]) for c in truth])
    sure = np.eye(3, dtype=np.float32)[truth] * rng.uniform(0.5, 1, (12000, 1)).astype(np.float32)
    found = anchor_transition(sure, labels, reach=0.3)
    assert np.allclose(found.sum(axis=1), 1)
    assert (found > 0).all()  # no label is impossible
    assert np.allclose(found, turns, atol=0.05)


def test_few_anchors_are_taken_to_be_right():
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9]], np.float32)
    found = anchor_transition(probabilities, np.array([1, 0]), reach=0.05)  # each says the other
    assert (found.diagonal() > 0.7).all()
