from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.veit.thresholds import (
    PRIOR,
    Basis,
    Keep,
    expected_precision,
    tag_thresholds,
)

shapes = st.tuples(st.integers(0, 150), st.integers(1, 4), st.integers(0, 10**6))


def made_verified(n, n_tags, seed):
    rng = np.random.default_rng(seed)
    values = np.round(rng.random(n), 2)
    return values, rng.integers(0, n_tags, n), rng.random(n) < values


def slow_threshold(values, tags, present, tag, settings):
    """The rule in words, gone through for every threshold."""

    def counts(bar, only):
        found = [
            p for v, t, p in zip(values, tags, present, strict=True)
            if v >= bar and (only is None or t == only)
        ]  # fmt: skip
        return sum(found), len(found) - sum(found)

    def share(bar):
        right, wrong = counts(bar, None)
        return (right + 0.5) / (right + wrong + 1)

    target, level = settings.target_precision, settings.level
    pooled = [
        bar for bar in sorted(set(values))
        if stats.beta.cdf(target, counts(bar, None)[0] + 0.5, counts(bar, None)[1] + 0.5)
        <= 1 - level
    ]  # fmt: skip
    found = []
    for bar in sorted(set(values)):
        right, wrong = counts(bar, tag)
        mean = (right + PRIOR * share(bar)) / (right + wrong + PRIOR)
        if pooled and bar >= pooled[0] and mean >= target:
            found.append(bar)
        own = [v for v, t in zip(values, tags, strict=True) if t == tag]
        prior = PRIOR * share(bar), PRIOR * (1 - share(bar))
        sure = stats.beta.cdf(target, right + prior[0], wrong + prior[1]) <= 1 - level
        if len(own) >= settings.min_verified and bar in own and sure:
            found.append(bar)
    return min(found, default=np.inf)


@given(shapes, st.sampled_from([0.5, 0.7, 0.9]))
def test_thresholds_are_those_of_the_rule(shape, target):
    values, tags, present = made_verified(*shape)
    settings = Keep(target_precision=target)
    found = tag_thresholds(values, tags, present, shape[1], settings)
    for tag in range(shape[1]):
        if (tags == tag).any():
            expected = slow_threshold(values, tags, present, tag, settings)
            assert found.threshold[tag] == np.float32(expected)
        else:
            assert found.threshold[tag] == 0


def test_tags_never_verified_keep_everything_whatever_the_target():
    values, tags, present = made_verified(100, 2, 0)
    for settings in (Keep(), Keep(target_precision=0.99)):
        found = tag_thresholds(values, tags, present, 4, settings)
        assert found.threshold[2:].tolist() == [0, 0]
        assert (found.basis[2:] == Basis.NEVER).all()
        assert np.isnan(found.expected_precision[2:]).all()
        assert found.n_verified[2:].tolist() == [0, 0]


def test_without_a_target_every_verified_tag_has_the_fixed_threshold():
    values, tags, present = made_verified(100, 2, 0)
    found = tag_thresholds(values, tags, present, 2, Keep(threshold=0.25))
    assert found.threshold.tolist() == [0.25, 0.25]
    assert (found.basis == Basis.FIXED).all()


def test_a_precision_out_of_reach_keeps_nothing_unverified_and_says_so():
    values, tags = np.linspace(0.5, 1, 300), np.arange(300) % 2
    present = tags == 0  # the second tag is wrong wherever people looked
    found = tag_thresholds(values, tags, present, 3, Keep(target_precision=0.9))
    assert found.basis.tolist() == [Basis.OWN, Basis.UNREACHED, Basis.NEVER]
    assert np.isinf(found.threshold[1])
    assert np.isnan(found.expected_precision[1])
    unreached, never = found.warnings(("cat", "dog", "eel"))
    assert unreached == (
        "1 tags cannot be given a precision of 0.9 by what is verified: of their unverified pairs "
        "none stays. Verify more of them, or ask for less (dog)."
    )
    assert never.endswith("were never verified: all that the source says of them stays (eel).")


def test_many_tags_are_named_in_short():
    found = tag_thresholds(np.empty(0), np.empty(0, int), np.empty(0, bool), 7)
    (said,) = found.warnings(tuple("abcdefg"))
    assert said.startswith("7 tags were never verified")
    assert said.endswith("(a, b, c, d, e, ...).")


def test_few_pairs_lean_on_all_tags_and_their_own_mistakes_raise_the_threshold():
    rng = np.random.default_rng(0)
    values = rng.random(2000)
    tags, present = np.zeros(2000, int), rng.random(2000) < values
    few = np.full(6, 0.93)
    both = np.concatenate([values, few, few])
    of_both = np.concatenate([tags, np.full(6, 1), np.full(6, 2)])
    answers = np.concatenate([present, np.ones(6, bool), np.zeros(6, bool)])
    found = tag_thresholds(both, of_both, answers, 3, Keep(target_precision=0.8))
    assert found.basis.tolist() == [Basis.OWN, Basis.SHARED, Basis.SHARED]
    assert found.threshold[1] < 0.93 < found.threshold[2]


@given(shapes)
def test_a_higher_target_never_lowers_a_threshold(shape):
    values, tags, present = made_verified(*shape)
    bars = [
        tag_thresholds(values, tags, present, shape[1], Keep(target_precision=t)).threshold
        for t in (0.5, 0.7, 0.8, 0.95)
    ]
    for lower, higher in zip(bars, bars[1:], strict=False):  # noqa: RUF007
        assert (lower <= higher).all()


@given(shapes)
def test_the_order_of_pairs_and_the_names_of_tags_change_nothing(shape):
    n, n_tags, seed = shape
    values, tags, present = made_verified(n, n_tags, seed)
    rng = np.random.default_rng(seed)
    order, renamed = rng.permutation(n), rng.permutation(n_tags)
    settings = Keep(target_precision=0.8)
    found = tag_thresholds(values, tags, present, n_tags, settings)
    again = tag_thresholds(values[order], renamed[tags][order], present[order], n_tags, settings)
    np.testing.assert_array_equal(again.threshold[renamed], found.threshold)


def noisy_tags(seed, n_tags=24, n=2000, n_verified=60, off=0.6):
    """Pairs of tags that differ in noise, by a cleaner that is off by a bias for each."""
    rng = np.random.default_rng(seed)
    tags = np.repeat(np.arange(n_tags), n)
    logits = rng.normal(0.5, 1, n_tags)[tags] + rng.normal(0, 1.5, len(tags))
    present = rng.random(len(tags)) < expit(logits)
    probability = expit(logits + rng.normal(0, off, n_tags)[tags])
    verified = np.zeros(len(tags), bool)
    for tag in range(n_tags):
        verified[rng.choice(np.flatnonzero(tags == tag), n_verified, replace=False)] = True
    return tags, probability, present, expit(logits), verified


@pytest.mark.parametrize("n_verified", [10, 30, 100])
def test_the_precision_asked_for_is_reached_on_pairs_that_nobody_verified(n_verified):
    n_right = n_stay = 0
    for seed in range(6):
        tags, probability, present, chance, looked = noisy_tags(seed, n_verified=n_verified)
        asked = (probability[looked], tags[looked], present[looked], 24)
        bars = tag_thresholds(*asked, Keep(target_precision=0.9)).threshold
        stays = (probability >= bars[tags]) & ~looked
        n_right, n_stay = n_right + chance[stays].sum(), n_stay + stays.sum()
        assert chance[(probability >= 0.5) & ~looked].mean() < 0.85  # the target asks for something
    assert n_right / n_stay >= 0.9
    assert n_stay > 0.03 * 6 * len(tags)


@given(shapes)
def test_expected_precision_is_the_mean_of_the_posterior(shape):
    values, tags, present = made_verified(*shape)
    grid = np.array([0.0, 0.33, 0.8])
    found = expected_precision(values, tags, present, shape[1], grid)
    for tag in range(shape[1]):
        mine = tags == tag
        for g, bar in enumerate(grid):
            above = values >= bar
            shared = (present[above].sum() + 0.5) / (above.sum() + 1)
            own = above & mine
            expected = (present[own].sum() + PRIOR * shared) / (own.sum() + PRIOR)
            assert found[tag, g] == pytest.approx(expected if mine.any() else np.nan, nan_ok=True)


def test_what_is_expected_is_said_at_the_threshold_chosen():
    values, tags, present = made_verified(300, 3, 5)
    found = tag_thresholds(values, tags, present, 3, Keep(target_precision=0.8))
    for tag in range(3):
        at = expected_precision(values, tags, present, 3, found.threshold[[tag]].astype(float))
        assert found.expected_precision[tag] == pytest.approx(at[tag, 0], abs=0.02)
        assert found.expected_precision[tag] >= 0.8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 0}, "threshold is 0; expected more than 0, at most 1"),
        ({"target_precision": 1.0}, "target_precision is 1; expected a share between 0 and 1"),
        ({"target_precision": 95}, "target_precision is 95; expected a share between 0 and 1, su"),
        ({"min_verified": 0}, "min_verified is 0; expected at least 1"),
        ({"level": 0.3}, "level is 0.3; expected 0.5 or more, and below 1"),
    ],
)
def test_settings_out_of_range_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Keep(**options)


def test_probabilities_that_are_none_are_refused():
    tags, present = np.zeros(2, int), np.ones(2, bool)
    with pytest.raises(DataError, match="2 probabilities, 2 tags and 1 answers of verified pairs"):
        tag_thresholds(np.zeros(2), tags, present[:1], 1)
    for wrong in ([0.5, 1.5], [0.5, np.nan]):
        with pytest.raises(DataError, match=r"probabilities of verified pairs from .* expected"):
            tag_thresholds(np.array(wrong), tags, present, 1)
