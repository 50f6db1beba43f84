"""PRISM without training: scores, what is kept, and the calibrated probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, sampled_from
from sklearn.metrics import roc_auc_score

import reference_prism_offline as slow
from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.prism import leave_one_out
from labelsieve.methods.prism.leave_one_out import center_rows, likelihood_blocks
from labelsieve.methods.prism.noise_rate import wrong_probability
from labelsieve.methods.prism.offline import Offline, estimate_noise_rate, score_offline

approx = pytest.approx


def blobs(n_classes=10, n_each=40, width=32, spread=0.25, rate=0.2, seed=0):
    """Rows around random centers, a share of them with another label."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n_classes, width))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    truth = np.repeat(np.arange(n_classes), n_each)
    rows = centers[truth] + spread * rng.normal(size=(len(truth), width))
    flip = rng.random(len(truth)) < rate
    labels = np.where(flip, (truth + rng.integers(1, n_classes, len(truth))) % n_classes, truth)
    return rows.astype(np.float32), labels, truth


@settings(max_examples=25, deadline=None)
@given(
    seed=integers(0, 10_000),
    n_rows=integers(4, 14),
    n_classes=integers(2, 5),
    score=sampled_from(["cosine", "average"]),
)
def test_likelihoods_leave_each_row_out_of_its_own_class(seed, n_rows, n_classes, score):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_rows, 3)).astype(np.float32)
    labels = rng.integers(0, n_classes, n_rows)
    keep = rng.random(n_rows) < 0.7
    expected = slow.likelihoods(features.tolist(), labels.tolist(), keep.tolist(), n_classes, score)
    centers = center_rows(features, labels, keep, n_classes)
    for block in likelihood_blocks(features, labels, np.arange(n_rows), centers, score):
        for row, line in zip(block.rows, block.likelihoods, strict=True):
            for value, other in zip(line, expected[row], strict=True):
                assert value == (-np.inf if other is None else approx(other, abs=2e-4))


def test_log_probability_is_the_softmax_over_present_classes():
    rows, labels, _ = blobs(n_classes=4, n_each=6, width=5)
    found = score_offline(rows, labels, 9, Offline(n_rounds=1, temperature=0.1))
    lines = slow.likelihoods(rows.tolist(), labels.tolist(), [True] * len(rows), 9, "cosine")
    for value, line, label in zip(found.clean_log_probability, lines, labels, strict=True):
        assert value == approx(slow.clean_log_probability(line, label, 0.1), abs=1e-3)


@pytest.mark.parametrize("score", ["cosine", "average", "vmf"])
def test_every_score_finds_the_wrong_labels(score):
    rows, labels, truth = blobs()
    found = score_offline(rows, labels, 10, Offline(score=score, temperature=0.0))
    assert roc_auc_score(labels == truth, found.clean_log_probability) > 0.98
    assert found.noise_rate == approx((labels != truth).mean(), abs=0.04)


def test_rounds_make_centers_purer():
    rows, labels, truth = blobs(rate=0.5, n_each=60, spread=0.3)
    clean = [
        (labels == truth)[score_offline(rows, labels, 10, Offline(n_rounds=n)).keep].mean()
        for n in (1, 4)
    ]
    assert clean[1] > clean[0] > 0.8


def test_a_given_rate_rejects_that_share_and_no_more():
    rows, labels, _ = blobs()
    found = score_offline(rows, labels, 10, Offline(noise_rate=0.33))
    assert (~found.keep).sum() == int(0.33 * len(rows))
    worst = found.clean_log_probability[~found.keep].max()
    assert worst <= found.clean_log_probability[found.keep].min()
    assert score_offline(rows, labels, 10, Offline(noise_rate=0.0)).keep.all()


def test_probabilities_have_the_rate_as_mean_and_the_order_of_the_scores():
    rows, labels, _ = blobs(spread=0.4)
    for temperature in (0.0, 0.1, 1.0):
        found = score_offline(rows, labels, 10, Offline(temperature=temperature))
        assert 1 - found.clean_probability.mean() == approx(found.noise_rate, abs=1e-4)
        order = np.argsort(found.clean_log_probability, kind="stable")
        assert (np.diff(found.clean_probability[order]) >= 0).all()


def test_probabilities_are_about_as_often_right_as_they_say():
    rows, labels, truth = blobs(n_each=200, spread=0.4, rate=0.3)
    found = score_offline(rows, labels, 10, Offline(temperature=0.0))
    for low, high in ((0.0, 0.2), (0.2, 0.8), (0.8, 1.0)):
        inside = (found.clean_probability >= low) & (found.clean_probability <= high)
        said = found.clean_probability[inside].mean()
        assert (labels == truth)[inside].mean() == approx(said, abs=0.15)


@settings(max_examples=30, deadline=None)
@given(seed=integers(0, 10_000), n=integers(2, 40), rate=sampled_from([0.01, 0.2, 0.5, 0.9]))
def test_wrong_probability_is_bayes_rule_with_the_prior_that_gives_the_rate(seed, n, rate):
    odds = 4 * np.random.default_rng(seed).normal(size=n)
    found = wrong_probability(odds, rate)
    assert found.mean() == approx(rate, abs=1e-6)
    assert found == approx(slow.wrong_probability(odds.tolist(), rate), abs=0.01)


def test_the_order_of_the_rows_changes_nothing():
    rows, labels, _ = blobs()
    order = np.random.default_rng(1).permutation(len(rows))
    found = score_offline(rows, labels, 10)
    moved = score_offline(rows[order], labels[order], 10)
    assert moved.clean_probability == approx(found.clean_probability[order], abs=0.02)
    assert (moved.suggestion == found.suggestion[order]).mean() > 0.99


def test_classes_without_rows_change_nothing():
    rows, labels, _ = blobs()
    found, more = score_offline(rows, labels, 10), score_offline(rows, 3 * labels + 1, 40)
    assert more.clean_log_probability == approx(found.clean_log_probability, abs=1e-4)
    assert (more.suggestion == 3 * found.suggestion + 1).all()


def test_small_blocks_give_the_same(monkeypatch):
    rows, labels, _ = blobs()
    whole = score_offline(rows, labels, 10, Offline(whiten=True))
    monkeypatch.setattr(leave_one_out, "BLOCK", 200)
    pieces = score_offline(rows, labels, 10, Offline(whiten=True))
    assert pieces.clean_probability == approx(whole.clean_probability, abs=0.02)


def test_the_length_of_rows_does_not_matter_nor_half_precision_much():
    rows, labels, _ = blobs()
    lengths = np.random.default_rng(0).uniform(0.01, 100, (len(rows), 1))
    for whiten in (True, False):
        chosen = Offline(whiten=whiten)
        found = score_offline(rows, labels, 10, chosen)
        other = score_offline(rows * lengths, labels, 10, chosen)
        assert other.margin == approx(found.margin, abs=1e-3)
    halves = score_offline((rows / 10).astype(np.float16), labels, 10)
    assert halves.margin == approx(found.margin, abs=0.01)


def test_a_row_alone_in_its_class_is_kept_and_not_judged():
    rows, labels, _ = blobs()
    labels[0] = 10
    found = score_offline(rows, labels, 11)
    assert found.keep[0]
    assert not found.judged[0]
    assert np.isnan(found.clean_log_probability[0])
    assert found.clean_probability[0] == approx(1 - found.noise_rate, abs=1e-6)


def test_unlabeled_rows_teach_nothing_and_get_a_suggestion():
    rows, labels, truth = blobs(rate=0.0)
    labels[::4] = -1
    found = score_offline(rows, labels, 10)
    only = score_offline(rows[labels >= 0], labels[labels >= 0], 10)
    assert found.clean_probability[labels >= 0] == approx(only.clean_probability, abs=1e-4)
    assert not found.keep[::4].any()
    assert np.isnan(found.clean_probability[::4]).all()
    assert (found.suggestion[::4] == truth[::4]).mean() > 0.95
    assert np.isfinite(found.suggestion_probability).all()


def test_a_class_of_wrong_labels_stays_rejected():
    rows, labels, truth = blobs(rate=0.0)
    rng = np.random.default_rng(0)
    strays = rng.choice(len(rows), 20, replace=False)
    labels[strays] = 10  # a class that is none
    found = score_offline(rows, labels, 11)
    assert found.keep[strays].mean() < 0.2
    assert (found.suggestion[strays] == truth[strays]).mean() > 0.75


def test_start_centers_are_used_in_the_first_round():
    rows, labels, truth = blobs(rate=0.6, seed=3)
    sums = np.stack([rows[truth == c].mean(axis=0) for c in range(10)])
    once = Offline(n_rounds=1, temperature=0.0)
    found = score_offline(rows, labels, 10, once, start_centers=sums)
    blind = score_offline(rows, labels, 10, once)
    clean = labels == truth
    assert roc_auc_score(clean, found.margin) > roc_auc_score(clean, blind.margin)


def test_whitening_helps_where_classes_vary_in_few_directions():
    rows, labels, truth = blobs(n_each=60)
    rows[:, :4] += 2 * np.random.default_rng(1).normal(size=(len(rows), 4)).astype(np.float32)
    aucs = [
        roc_auc_score(
            labels == truth,
            score_offline(
                rows, labels, 10, Offline(temperature=0.0, whiten=whiten)
            ).clean_log_probability,
        )
        for whiten in (False, True)
    ]
    assert aucs[1] > aucs[0] + 0.05


def test_an_estimate_comes_with_an_interval_that_holds_it():
    rows, labels, truth = blobs(spread=0.4, n_each=100)
    found = estimate_noise_rate(rows, labels, 10)
    assert found.rate == approx((labels != truth).mean(), abs=0.05)
    assert found.interval[0] <= found.rate <= found.interval[1]


def test_progress_counts_rounds():
    rows, labels, _ = blobs(n_each=5)
    told = []
    score_offline(rows, labels, 10, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_rows_that_are_not_finite_are_refused_by_number():
    rows, labels, _ = blobs()
    rows[[7, 9], 3] = np.nan
    with pytest.raises(DataError, match="Row 7 of the features is not finite, as are 1 rows after"):
        score_offline(rows, labels, 10)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 10, 0], "Labels run from 0 to 10; expected 0 to 9, or -1 for none"),
        ([0, 1], r"Features are \(4, 3\) and labels \(2,\)"),
        ([2, 2, -1, 2], "fewer than two of 10 classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        score_offline(np.eye(4, 3), np.array(labels), 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "cosin"}, "Did you mean 'cosine'"),
        ({"noise_rate": 1.0}, "noise_rate is 1.0; expected 'auto' or a share"),
        ({"noise_rate": "often"}, "noise_rate is 'often'"),
        ({"temperature": -1.0}, "temperature is -1.0; expected 0 or more"),
        ({"n_rounds": 0}, "n_rounds is 0; expected 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Offline(**change)
