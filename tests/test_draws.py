"""Draws: a function of what they are for, the same in any batch, and random in every respect."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from labelsieve.data.draws import Draws, Stream, batch_generator

MANY = torch.arange(100_000)
MASK = 2**64 - 1


def slow_mixed(bits: int) -> int:
    """The finalizer of splitmix64, in unbounded integers."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def slow_bits(seed: int, epoch: int, row: int, view: int, stream: int, column: int) -> int:
    name = f"{seed} {epoch} {view} {stream}".encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
    image = slow_mixed((row * 0x9E3779B97F4A7C15 + key) & MASK)
    return slow_mixed((image + column * 0x2545F4914F6CDD1D) & MASK)


@given(
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 10**6),
    rows=st.lists(st.integers(-(2**62), 2**62), max_size=5),
    view=st.integers(0, 9),
    stream=st.sampled_from(Stream),
    n=st.integers(1, 5),
    high=st.integers(1, 2**31),
)
def test_draws_are_a_hash_that_integers_of_any_size_give_too(
    seed, epoch, rows, view, stream, n, high
):
    draws = Draws(seed, epoch, torch.tensor(rows, dtype=torch.int64), view)
    uniform, integers = draws.uniform(stream, n), draws.integers(stream, high, n)
    assert uniform.shape == integers.shape == (len(rows), n)
    assert uniform.dtype == torch.float32
    assert integers.dtype == torch.int64
    for place, row in enumerate(rows):
        for column in range(n):
            bits = slow_bits(seed, epoch, row, view, stream, column)
            assert uniform[place, column].item() == (bits >> 40) / 2**24
            assert integers[place, column].item() == ((bits >> 32) * high) >> 32


def test_numbers_once_given_stay():
    """A run is repeated from its settings alone: these would change every trained network."""
    draws = Draws(1, 2, torch.tensor([0, 7]), view=1)
    assert (draws.uniform(Stream.CROP, 2) * 2**24).int().tolist() == [
        [8536237, 14107711],
        [7058845, 3328469],
    ]
    assert draws.integers(Stream.OPERATIONS, 14, 4).tolist() == [[3, 10, 4, 8], [1, 7, 0, 12]]


def test_an_image_draws_the_same_in_any_batch_at_any_place():
    in_order = Draws(0, 5, torch.arange(64)).uniform(Stream.COLOR, 6)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(Draws(0, 5, order).uniform(Stream.COLOR, 6), in_order[order])
    assert torch.equal(Draws(0, 5, torch.tensor([7])).uniform(Stream.COLOR, 6), in_order[7:8])


def test_more_numbers_do_not_change_the_first():
    draws = Draws(3, 1, torch.arange(10))
    assert torch.equal(draws.uniform(Stream.CROP, 22)[:, :5], draws.uniform(Stream.CROP, 5))


def test_draws_differ_over_seed_epoch_row_view_and_stream():
    seen = [
        tuple(Draws(seed, epoch, torch.tensor([row]), view).uniform(stream, 4)[0].tolist())
        for seed, epoch, row, view, stream in itertools.product(range(4), repeat=5)
    ]
    assert len(set(seen)) == 4**5
    # swapped parts name another draw: seed 1, epoch 2 is not seed 2, epoch 1
    numbers = [number for draw in seen for number in draw]
    assert len(set(numbers)) > 0.999 * len(numbers)


@pytest.mark.parametrize("stream", [Stream.CROP, Stream.HOLE])
def test_numbers_of_consecutive_images_are_uniform(stream):
    uniform = Draws(0, 0, MANY).uniform(stream, 3).numpy()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    for column in uniform.T:
        counts = np.bincount((column * 100).astype(int), minlength=100)
        assert stats.chisquare(counts).pvalue > 1e-3
        assert stats.kstest(column, "uniform").pvalue > 1e-3


def test_each_of_the_24_bits_is_set_half_of_the_time():
    numbers = (Draws(0, 0, MANY).uniform(Stream.CROP) * 2**24).long()
    shares = ((numbers >> torch.arange(24)) & 1).float().mean(0)
    assert (shares - 0.5).abs().max() < 4.5 * 0.5 / len(MANY) ** 0.5


def pairs() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Two columns of numbers that must have nothing to do with each other."""
    two = Draws(0, 0, MANY).uniform(Stream.CROP, 2)
    plain = two[:, 0]
    return {
        "columns": (plain, two[:, 1]),
        "rows": (plain[:-1], plain[1:]),
        "rows 64 apart": (plain[:-64], plain[64:]),
        "epochs": (plain, Draws(0, 1, MANY).uniform(Stream.CROP)[:, 0]),
        "views": (plain, Draws(0, 0, MANY, 1).uniform(Stream.CROP)[:, 0]),
        "seeds": (plain, Draws(1, 0, MANY).uniform(Stream.CROP)[:, 0]),
        "streams": (plain, Draws(0, 0, MANY).uniform(Stream.FLIP)[:, 0]),
    }


@pytest.mark.parametrize("between", list(pairs()))
def test_numbers_are_independent(between):
    first, second = (each.double().numpy() for each in pairs()[between])
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / len(first) ** 0.5
    assert abs(np.corrcoef((first - 0.5) ** 2, (second - 0.5) ** 2)[0, 1]) < 4 / len(first) ** 0.5
    cells = np.bincount((first * 16).astype(int) * 16 + (second * 16).astype(int), minlength=256)
    assert stats.chisquare(cells).pvalue > 1e-3
    assert stats.kstest((second - first) % 1, "uniform").pvalue > 1e-3


def test_integers_are_equally_frequent_and_one_kind_is_always_0():
    draws = Draws(0, 0, MANY)
    counts = np.bincount(draws.integers(Stream.OPERATIONS, 14, 4).flatten(), minlength=14)
    assert len(counts) == 14
    assert stats.chisquare(counts).pvalue > 1e-3
    assert draws.integers(Stream.OPERATIONS, 1).sum() == 0


def test_an_empty_batch_draws_nothing():
    draws = Draws(0, 0, torch.empty(0, dtype=torch.int64))
    assert draws.uniform(Stream.CROP, 3).shape == (0, 3)
    assert draws.integers(Stream.CROP, 5).shape == (0, 1)


def test_what_a_batch_shares_is_keyed_by_seed_epoch_and_step():
    def first(*key: int) -> float:
        return batch_generator(*key).random()

    keys = list(itertools.product(range(5), repeat=3))
    assert len({first(*key) for key in keys}) == len(keys)
    assert first(1, 2, 3) == first(1, 2, 3)
    assert 0 <= first(2**63, 0, 0) < 1
    numbers = [first(0, epoch, step) for epoch in range(20) for step in range(100)]
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
