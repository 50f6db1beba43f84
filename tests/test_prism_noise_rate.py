"""The noise rate that nobody tells: offline from features, online from a filter's margins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import floats, integers

from labelsieve.methods.prism.noise_rate import against_rest, online_noise_rate
from labelsieve.methods.prism.offline import estimate_noise_rate

approx = pytest.approx


def blobs(rng, n_classes, n_each, width=64, spread=0.25, widths=1.0):
    centers = rng.normal(size=(n_classes, width))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    truth = np.repeat(np.arange(n_classes), n_each)
    scale = spread * widths ** rng.uniform(-0.5, 0.5, n_classes)
    return centers[truth] + scale[truth, None] * rng.normal(size=(len(truth), width)), truth


def flipped(rng, truth, n_classes, rate):
    flip = rng.random(len(truth)) < rate
    return np.where(flip, (truth + rng.integers(1, n_classes, len(truth))) % n_classes, truth)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1, 0.2, 0.5, 0.7])
@pytest.mark.parametrize("spread", [0.2, 0.35])  # at .35 a third of the rows lie nearer another
@pytest.mark.parametrize("whiten", [False, True])
def test_the_rate_of_scattered_labels_is_found_where_classes_overlap_too(rate, spread, whiten):
    rng = np.random.default_rng(0)
    rows, truth = blobs(rng, 50, 60, spread=spread)
    labels = flipped(rng, truth, 50, rate)
    found = estimate_noise_rate(rows, labels, 50, whiten=whiten)
    assert found.rate == approx((labels != truth).mean(), abs=0.04 if rate < 0.7 else 0.07)


def test_the_rate_is_found_where_classes_differ_in_noise_and_in_width():
    rng = np.random.default_rng(1)
    rows, truth = blobs(rng, 50, 60, widths=6.0)
    labels = flipped(rng, truth, 50, np.linspace(0.1, 0.8, 50)[truth])
    assert estimate_noise_rate(rows, labels, 50).rate == approx((labels != truth).mean(), abs=0.05)


def test_the_rate_of_pairs_of_classes_is_found():
    rng = np.random.default_rng(2)
    rows, truth = blobs(rng, 50, 60)
    labels = np.where(rng.random(len(truth)) < 0.3, (truth + 1) % 50, truth)
    assert estimate_noise_rate(rows, labels, 50).rate == approx((labels != truth).mean(), abs=0.04)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_rate_of_many_small_classes_is_found(rate):
    rng = np.random.default_rng(3)
    rows, truth = blobs(rng, 500, 6, spread=0.2)
    labels = flipped(rng, truth, 500, rate)
    assert estimate_noise_rate(rows, labels, 500).rate == approx(rate, abs=0.05)


def test_the_rate_of_two_classes_is_found():
    rng = np.random.default_rng(4)
    rows, truth = blobs(rng, 2, 500, spread=0.5)
    labels = flipped(rng, truth, 2, 0.2)
    assert estimate_noise_rate(rows, labels, 2).rate == approx((labels != truth).mean(), abs=0.05)


def test_rows_that_say_nothing_of_the_labels_have_an_interval_of_nearly_everything():
    rng = np.random.default_rng(5)
    found = estimate_noise_rate(rng.normal(size=(2000, 32)), rng.integers(0, 20, 2000), 20)
    assert found.interval[1] > 0.85


def test_classes_of_one_row_each_have_no_rate():
    assert estimate_noise_rate(np.eye(6), np.arange(6), 6) == (0.0, (0.0, 1.0))


@pytest.mark.parametrize(("share", "true"), [("1", 0.105), ("2", 0.208), ("5", 0.5)])
def test_the_rate_of_the_published_lists_is_found_with_rows_of_the_true_classes(
    shared_data, share, true
):
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(shared_data / "cars" / "cars.parquet").drop(["image"]).to_pandas()
    train = table[table["split"] == "train"]
    truth = train["label"].to_numpy()
    noisy = train[f"prism_0_{share}noised"].to_numpy().astype(int)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(98, 64))[truth] + 1.5 * rng.normal(size=(len(truth), 64))
    found = estimate_noise_rate(rows, noisy, 98)
    assert (noisy != truth).mean() == approx(true, abs=0.001)
    assert found.rate == approx(true, abs=0.05)


@settings(max_examples=25, deadline=None)
@given(seed=integers(0, 10_000), rate=floats(0, 0.9), gap=floats(4, 9))
def test_margins_that_separate_give_the_share_of_the_low_ones(seed, rate, gap):
    generator = torch.Generator().manual_seed(seed)
    chance = torch.randn(4000, generator=generator)
    wrong = torch.rand(4000, generator=generator) < rate
    margins = torch.randn(4000, generator=generator) + gap * ~wrong
    expected = float(wrong.float().mean())
    assert online_noise_rate(margins, chance) == approx(expected, abs=0.1)


def test_margins_that_are_as_good_as_chance_remove_nothing():
    generator = torch.Generator().manual_seed(0)
    for seed in range(20):
        generator.manual_seed(seed)
        margins, chance = torch.randn(2, 2000, generator=generator)
        assert online_noise_rate(margins, chance) < 0.3  # 2 to 6 standard errors, hardly ever more
    assert online_noise_rate(chance, chance) == 0


def test_a_clean_set_of_overlapping_classes_keeps_nearly_all():
    generator = torch.Generator().manual_seed(1)
    chance, margins = torch.randn(4000, generator=generator), torch.randn(4000, generator=generator)
    assert online_noise_rate(margins + 2.0, chance) < 0.06  # all in one heap, that of chance near


def test_margins_of_any_scale_and_shift_give_the_same():
    generator = torch.Generator().manual_seed(2)
    chance = torch.randn(1000, generator=generator)
    margins = torch.cat([chance[:300], chance[300:] + 3])
    found = online_noise_rate(margins, chance)
    assert online_noise_rate(1e-3 * margins - 7, 1e-3 * chance - 7) == approx(found, abs=0.01)


def test_no_margins_and_margins_that_are_not_finite_remove_nothing():
    assert online_noise_rate(torch.empty(0), torch.empty(0)) == 0
    assert online_noise_rate(torch.full((9,), torch.nan), torch.zeros(9)) == 0
    assert online_noise_rate(torch.ones(500), torch.ones(500)) == 0  # nothing differs


def test_against_rest_is_the_logit_of_the_softmax():
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(7, 5)), rng.integers(0, 5, 7)
    found = against_rest(values, labels, np.array([0.5, 2.0]))
    for place, temperature in enumerate((0.5, 2.0)):
        p = np.exp(values / temperature)
        p /= p.sum(axis=1, keepdims=True)
        own = p[np.arange(7), labels]
        assert found.log_odds[place] == approx(np.log(own / (1 - own)), abs=1e-9)
        p[np.arange(7), labels] = 0
        assert found.share[place] == approx(p.max(axis=1) / p.sum(axis=1), abs=1e-9)
        assert (found.other == p.argmax(axis=1)).all()


def test_likelihoods_far_apart_stay_finite():
    found = against_rest(np.array([[400.0, -400.0, 0.0]]), np.array([1]), np.array([0.02]))
    assert found.log_odds[0, 0] == approx(-40_000)
