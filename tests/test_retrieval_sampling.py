"""Batches of groups: every image about once an epoch, no class twice in a batch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference_retrieval as reference
from labelsieve.data.dealing import groups, n_rounds, turns
from labelsieve.data.samplers import grouped
from labelsieve.errors import ConfigError, DataError

seeds = st.integers(0, 10_000)
class_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def labels_of(sizes: list[int], seed: int = 0) -> np.ndarray:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(labels)


@given(class_sizes, st.integers(1, 6), st.integers(1, 5), seeds)
def test_batches_hold_groups_of_different_classes(sizes, n_classes, n_images, seed):
    labels = labels_of(sizes)
    sampler = grouped(labels, n_classes, n_images, seed)
    n_classes = min(n_classes, len(sizes))
    batches = list(sampler.epoch(3))
    assert len(batches) == len(sampler) >= 1
    assert sampler.batch_size == n_classes * n_images
    for rows in batches:
        given_labels = labels[rows].reshape(n_classes, n_images)
        assert (given_labels == given_labels[:, :1]).all()
        assert len(set(given_labels[:, 0].tolist())) == n_classes


@given(class_sizes, st.integers(1, 6), st.integers(1, 5), seeds)
def test_no_image_comes_twice_but_to_fill_up_the_last_group(sizes, n_classes, n_images, seed):
    labels = labels_of(sizes)
    rows = np.concatenate(list(grouped(labels, n_classes, n_images, seed).epoch(0)))
    times = Counter(rows.tolist())
    for c, size in enumerate(sizes):
        own = [times[row] for row in np.flatnonzero(labels == c).tolist()]
        repeated = sum(n - 1 for n in own if n)
        if size < n_images:
            assert max(own) <= -(-n_images // size)
        else:
            assert max(own) <= 2
            assert repeated <= -size % n_images
    for group in rows.reshape(-1, n_images):
        least = min(n_images, sizes[labels[group[0]]])
        assert len(set(group.tolist())) == least  # twins only where there are too few images


@given(st.lists(st.integers(1, 40), min_size=1, max_size=15), st.integers(1, 8), seeds)
def test_an_epoch_is_as_long_as_it_can_be_and_leaves_too_few_classes(n_groups, n_classes, seed):
    n_groups = np.array(n_groups)
    n_classes = min(n_classes, len(n_groups))
    dealt = turns(n_groups, n_classes, np.random.default_rng(seed))
    assert len(dealt) == n_rounds(n_groups, n_classes)
    assert len(dealt) == reference.most_rounds(n_groups.tolist(), n_classes)
    left = n_groups - np.bincount(dealt.ravel(), minlength=len(n_groups))
    assert left.min() >= 0
    assert (left > 0).sum() < n_classes
    assert all(len(set(hand)) == n_classes for hand in dealt.tolist())


def test_classes_come_in_proportion_to_the_groups_they_have_left():
    n_groups = np.array([6, 3, 1, 1, 1])
    first = Counter(
        int(turns(n_groups, 1, np.random.default_rng(seed))[0, 0]) for seed in range(3000)
    )
    shares = np.array([first[c] for c in range(5)]) / 3000
    assert np.abs(shares - n_groups / 12).max() < 4 * np.sqrt(0.25 / 3000)


def test_two_of_a_batch_are_drawn_one_after_the_other():
    # P(class 0 in the first batch) of weights 6, 3, 3 = 1/2 + 2 * 1/4 * 6/9
    n_groups = np.array([6, 3, 3])
    n = sum(0 in turns(n_groups, 2, np.random.default_rng(seed))[0] for seed in range(3000))
    # the six groups of class 0 need all six batches: it is in each of them
    assert n == 3000
    n_groups = np.array([6, 3, 3, 3, 3])
    n = sum(0 in turns(n_groups, 2, np.random.default_rng(seed))[0] for seed in range(3000))
    expected = 1 / 3 + 4 * (1 / 6) * (6 / 15)
    assert abs(n / 3000 - expected) < 4 * np.sqrt(0.25 / 3000)


def test_nearly_every_image_of_a_set_like_cars_comes_once():
    sizes = np.random.default_rng(0).integers(59, 98, 98).tolist()
    labels = labels_of(sizes)
    rows = np.concatenate(list(grouped(labels, 16, 4, 0).epoch(0)))
    assert len(set(rows.tolist())) > 0.98 * len(labels)
    assert len(rows) < 1.05 * len(labels)


@given(st.integers(1, 40), st.integers(1, 8), seeds)
def test_groups_hold_every_item(n, size, seed):
    cut = groups(n, size, np.random.default_rng(seed))
    assert cut.shape == (-(-n // size), size)
    assert set(cut.ravel().tolist()) == set(range(n))
    times = Counter(cut.ravel().tolist())
    assert max(times.values()) - min(times.values()) <= 1


def test_rows_are_those_of_the_set_and_unlabeled_ones_stay_out():
    labels = np.array([0, 1, 0, -1, 1, 0, 1, -1, 2, 2])
    rows = np.array([1, 2, 3, 4, 5, 6, 9])
    sampler = grouped(labels, 2, 2, 0, rows=rows)
    for epoch in range(5):
        drawn = np.concatenate(list(sampler.epoch(epoch)))
        assert set(drawn.tolist()) <= {1, 2, 4, 5, 6, 9}
    assert len(grouped(labels, 2, 2, 0)) == 2


def test_an_epoch_depends_on_seed_and_epoch_alone():
    labels = labels_of([9, 20, 7, 3, 3, 12])
    one, other = grouped(labels, 3, 2, 5), grouped(labels, 3, 2, 5)
    list(other.epoch(0))
    for a, b in zip(one.epoch(4), other.epoch(4), strict=True):
        assert np.array_equal(a, b)
    first = [np.concatenate(list(grouped(labels, 3, 2, seed).epoch(4))) for seed in (5, 6)]
    assert not np.array_equal(*first)
    assert not np.array_equal(first[0], np.concatenate(list(one.epoch(5))))


def test_batches_can_be_shared_among_processes():
    labels = labels_of([5, 5, 5])
    assert grouped(labels, 4, 1, 0, n_processes=2).batch_size == 2
    assert grouped(labels, 4, 2, 0, n_processes=2).batch_size == 6
    with pytest.raises(ConfigError, match="3 classes with 1 images of each in a batch cannot be"):
        grouped(labels, 4, 1, 0, n_processes=5)


def test_what_cannot_be_batched_is_refused():
    labels = labels_of([3, 3])
    with pytest.raises(ConfigError, match="0 classes a batch, 4 images of each; at least 1"):
        grouped(labels, 0, 4, 0)
    with pytest.raises(ConfigError, match="row 6 of 6 labels; expected rows below that"):
        grouped(labels, 2, 2, 0, rows=np.array([0, 6]))
    with pytest.raises(DataError, match="none of 4 images has a label"):
        grouped(np.full(4, -1), 2, 2, 0)
