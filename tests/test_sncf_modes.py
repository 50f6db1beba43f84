"""Which losses are low: known mixtures, a slow twin, and what is no mixture at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference_sncf_training as slow
from labelsieve.errors import DataError
from labelsieve.methods.sncf.modes import SAMPLE, low_mode, pseudo_loss_weights


def two_heaps(n: int, share: float, seed: int, gap: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Losses, and which are of the low heap; both heaps have a deviation of 0.4."""
    rng = np.random.default_rng(seed)
    low = rng.random(n) < share
    return np.where(low, 0.5, 0.5 + gap) + 0.4 * rng.normal(size=n), low


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_two_heaps_are_told_apart(share):
    losses, low = two_heaps(600, share, seed=0)
    posterior = low_mode(losses)
    assert posterior.dtype == np.float32
    assert ((posterior > 0.5) == low).mean() > 0.99
    assert posterior.mean() == pytest.approx(low.mean(), abs=0.01)


@pytest.mark.parametrize("gap", [1.5, 4.0])
def test_the_posterior_is_that_of_plain_expectation_maximization(gap):
    losses, _ = two_heaps(150, 0.6, seed=3, gap=gap)
    # scikit-learn stops where the likelihood rises by less than 1e-4 a step
    np.testing.assert_allclose(low_mode(losses), slow.low_posterior(losses.tolist()), atol=0.06)


@given(
    losses=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40),
    seed=st.integers(0, 5),
)
def test_the_posterior_never_rises_with_the_loss(losses, seed):
    posterior = low_mode(np.array(losses, np.float32), seed=seed)
    assert ((posterior >= 0) & (posterior <= 1)).all()
    ranked = posterior[np.argsort(losses, kind="stable")]
    assert (np.diff(ranked) <= 1e-6).all()


def test_the_lowest_loss_of_all_is_low_though_the_high_mode_is_wide():
    rng = np.random.default_rng(0)
    narrow, wide = 1 + 0.02 * rng.normal(size=300), 4 + 1.5 * rng.normal(size=300)
    posterior = low_mode(np.concatenate([[0.2], narrow, wide]))
    assert posterior[0] > 0.95  # 40 deviations of the narrow mode below it, 2.5 of the wide one


def test_the_unit_of_the_losses_does_not_matter():
    losses, _ = two_heaps(200, 0.5, seed=1)
    np.testing.assert_allclose(low_mode(losses), low_mode(7 + 100 * losses), atol=1e-5)


def test_the_same_seed_gives_the_same_bits_in_any_order_of_runs():
    losses, _ = two_heaps(300, 0.4, seed=2)
    first = low_mode(losses, seed=4)
    low_mode(losses, seed=5)
    np.testing.assert_array_equal(first, low_mode(losses, seed=4))


@pytest.mark.parametrize("losses", [[], [2.0], [2.0, 2.0, 2.0], [0.0] * 50])
def test_losses_without_two_modes_are_all_low(losses):
    assert low_mode(np.array(losses)).tolist() == [1.0] * len(losses)


def test_two_losses_are_two_modes():
    assert low_mode(np.array([5.0, 1.0])).round(3).tolist() == [0.0, 1.0]


def test_what_is_no_number_has_nothing_for_it_and_disturbs_nobody():
    losses, _ = two_heaps(100, 0.5, seed=6)
    alone = low_mode(losses)
    posterior = low_mode(np.concatenate([[np.nan, np.inf, -np.inf], losses]))
    assert posterior[:3].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(posterior[3:], alone)
    assert low_mode(np.array([np.nan, np.nan])).tolist() == [0, 0]
    assert low_mode(np.array([np.nan, 1.0])).tolist() == [0, 1]


def test_extreme_losses_are_fine():
    for losses in ([0.0, 3e38], [1e-40, 2e-40, 1e-38], [-3e38, 3e38]):
        assert np.isfinite(low_mode(np.array(losses, np.float32))).all()


def test_more_losses_than_are_fitted_on_all_get_an_answer():
    losses, low = two_heaps(2 * SAMPLE + 7, 0.7, seed=0)
    assert ((low_mode(losses) > 0.5) == low).mean() > 0.99
    rare = np.zeros(2 * SAMPLE)
    rare[1] = 1.0  # between two of the sample
    assert low_mode(rare)[:3].round(2).tolist() == [1.0, 0.0, 1.0]


@given(seed=st.integers(0, 100), n=st.integers(0, 30))
def test_pseudo_loss_weights_are_the_low_mode_of_the_noisy_alone(seed, n):
    rng = np.random.default_rng(seed)
    losses, noisy = rng.exponential(size=n), rng.random(n) < 0.6
    weights = pseudo_loss_weights(losses, noisy)
    assert (weights[~noisy] == 1).all()
    other = np.where(noisy, losses, 1e6 * rng.random(n))
    np.testing.assert_array_equal(weights, pseudo_loss_weights(other, noisy))
    expected = low_mode(losses[noisy]) if noisy.sum() > 2 else np.ones(noisy.sum())
    np.testing.assert_array_equal(weights[noisy], expected)


def test_losses_that_are_no_list_are_refused():
    with pytest.raises(DataError, match=r"losses are \(2, 2\); expected \(M,\)"):
        low_mode(np.ones((2, 2)))
    with pytest.raises(DataError, match=r"losses are \(2,\) and noisy is \(3,\)"):
        pseudo_loss_weights(np.ones(2), np.ones(3, bool))
