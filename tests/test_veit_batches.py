"""Nine images with tags as asserted for each verified one, and epochs of a wanted length."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.data.samplers import in_order, infinite
from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.veit.batches import for_updates, nine_to_one

NOISY, VERIFIED = np.arange(100), np.arange(100, 130)


@pytest.mark.parametrize(("size", "verified"), [(10, 1), (20, 2), (100, 10), (32, 3), (5, 1)])
def test_a_batch_has_nine_to_one(size, verified):
    sampler = nine_to_one(NOISY, VERIFIED, size, seed=0)
    for rows in sampler.epoch(0):
        assert len(rows) == sampler.batch_size == size
        assert (rows >= 100).sum() == verified


def test_both_kinds_come_without_repeats_within_a_pass_and_begin_again():
    sampler = nine_to_one(NOISY, VERIFIED, 20, seed=0)
    drawn = np.concatenate(list(islice(infinite(sampler), 50)))
    noisy = drawn[drawn < 100][: len(sampler) * 18]
    assert len(set(noisy[:90].tolist())) == 90
    epochs = [np.concatenate(list(sampler.epoch(e))) for e in range(2)]
    for epoch in epochs:
        verified = epoch[epoch >= 100]
        for first in range(0, len(verified) - 29, 30):
            assert sorted(verified[first : first + 30].tolist()) == VERIFIED.tolist()
    assert epochs[0].tolist() != epochs[1].tolist()


def test_the_seed_decides_and_nothing_else():
    first, again, other = (
        next(nine_to_one(NOISY, VERIFIED, 20, seed).epoch(3)) for seed in (0, 0, 1)
    )
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


@given(st.integers(1, 4), st.integers(4, 64))
def test_each_process_gets_equally_many_of_each_kind(n_processes, size):
    try:
        sampler = nine_to_one(NOISY, VERIFIED, size, 0, n_processes=n_processes)
    except ConfigError:
        assert size < 2 * n_processes
        return
    rows = next(sampler.epoch(0))
    shares = rows.reshape(n_processes, -1)
    counts = (shares >= 100).sum(axis=1)
    assert counts.min() == counts.max() >= 1
    assert (shares < 100).any(axis=1).all()


def test_a_kind_of_which_there_are_few_gives_all_of_them():
    sampler = nine_to_one(NOISY, VERIFIED[:2], 100, seed=0)
    for rows in sampler.epoch(0):
        assert sorted(rows[rows >= 100].tolist()) == [100, 101]
        assert (rows < 100).sum() == 90


@pytest.mark.parametrize(("noisy", "verified"), [(NOISY, VERIFIED[:0]), (NOISY[:0], VERIFIED)])
def test_one_kind_alone_fills_the_batches(noisy, verified):
    sampler = nine_to_one(noisy, verified, 10, seed=0)
    rows = np.concatenate(list(sampler.epoch(0)))
    assert sorted(rows.tolist()) == sorted([*noisy, *verified])


def test_a_batch_without_room_and_no_images_are_refused():
    with pytest.raises(ConfigError, match="a batch of 2 images on 2 processes, with 100 images"):
        nine_to_one(NOISY, VERIFIED, 2, 0, n_processes=2)
    with pytest.raises(DataError, match="0 images"):
        nine_to_one(NOISY[:0], VERIFIED[:0], 10, 0)


@given(st.integers(1, 300), st.integers(1, 30))
def test_epochs_of_equal_length_are_the_wanted_updates_together(n_updates, most):
    sampler, epochs = for_updates(in_order(7, 2), n_updates, most)
    assert 1 <= epochs <= most
    assert epochs * len(sampler) == n_updates
    drawn = [rows.tolist() for epoch in range(epochs) for rows in sampler.epoch(epoch)]
    assert drawn == [rows.tolist() for rows in islice(infinite(in_order(7, 2)), n_updates)]
