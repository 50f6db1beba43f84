"""Which rows make up a batch: promises to the loop, and the same on every process."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from labelsieve.data.samplers import (
    Sampler,
    anchor_neighbor,
    balanced,
    in_order,
    infinite,
    mixed_source,
    shuffled,
)
from labelsieve.errors import ConfigError, DataError

HERE = Path(__file__).parent
seeds = st.integers(0, 2**32)
epochs = st.integers(0, 1000)


def whole(sampler: Sampler, epoch: int = 0) -> np.ndarray:
    return np.concatenate(list(sampler.epoch(epoch)))


def evenly(rows: np.ndarray, among: np.ndarray) -> bool:
    """Whether each of `among` occurs as often as any other, give or take one."""
    times = Counter(rows.ravel().tolist())
    counts = [times.pop(row, 0) for row in among.tolist()]
    return not times and max(counts) - min(counts) <= 1


def each_sampler(seed: int = 3) -> dict[str, Sampler]:
    rng = np.random.default_rng(0)
    neighbors = (np.arange(50)[:, None] + rng.integers(1, 50, (50, 4))) % 50
    return {
        "shuffled": shuffled(50, 8, seed),
        "balanced": balanced(rng.integers(-1, 5, 50), 3, 4, seed),
        "pairs": anchor_neighbor(neighbors, 8, seed),
        "mixed": mixed_source({"a": np.arange(40), "b": np.arange(40, 45)}, {"a": 6, "b": 2}, seed),
    }


# all of them


@pytest.mark.parametrize("name", each_sampler())
def test_an_epoch_depends_on_seed_and_epoch_alone(name):
    one, other = each_sampler()[name], each_sampler()[name]
    for epoch in (5, 0, 3):
        whole(other, epoch)  # what was asked for before does not matter
    assert np.array_equal(whole(one, 7), whole(other, 7))
    assert np.array_equal(whole(one, 7), whole(one, 7))
    assert not np.array_equal(whole(one, 7), whole(one, 8))
    assert not np.array_equal(whole(one, 7), whole(each_sampler(seed=4)[name], 7))


@pytest.mark.parametrize("name", each_sampler())
def test_an_epoch_has_as_many_batches_as_it_says_all_of_one_size(name):
    sampler = each_sampler()[name]
    batches = list(sampler.epoch(2))
    assert len(batches) == len(sampler) > 1
    assert {len(rows) for rows in batches} == {sampler.batch_size}
    assert all(rows.dtype == np.int64 for rows in batches)


def test_another_process_sees_the_same_batches():
    program = (
        "from test_samplers import *\n"
        "print([whole(s, 7).tolist() for s in each_sampler().values()], end='')"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=HERE, check=True
    )
    assert found.stdout == str([whole(s, 7).tolist() for s in each_sampler().values()])


@pytest.mark.parametrize("name", each_sampler())
def test_a_batch_that_is_changed_changes_no_other(name):
    sampler = each_sampler()[name]
    before = whole(sampler)
    for rows in sampler.epoch(0):
        rows[:] = -1
    assert np.array_equal(whole(sampler), before)


@given(start=st.integers(0, 40))
def test_the_infinite_iterator_is_the_epochs_one_after_another(start):
    sampler = shuffled(11, 3, seed=1)
    in_a_row = [rows.tolist() for epoch in range(20) for rows in sampler.epoch(epoch)]
    found = [rows.tolist() for rows in islice(infinite(sampler, start), 7)]
    assert found == in_a_row[start : start + 7]


def test_the_rows_that_were_given_are_not_changed_with_a_batch():
    rows = np.arange(6)
    for sampler in (in_order(rows, 2), shuffled(rows, 2, seed=0)):
        for batch in sampler.epoch(0):
            batch[:] = -1
        assert sorted(whole(sampler).tolist()) == rows.tolist() == list(range(6))


# shuffled, and in order


@given(n=st.integers(1, 60), batch_size=st.integers(1, 70), seed=seeds, epoch=epochs)
def test_an_epoch_gives_each_row_at_most_once_and_drops_less_than_a_batch(
    n, batch_size, seed, epoch
):
    sampler = shuffled(n, batch_size, seed)
    rows = whole(sampler, epoch)
    assert len(set(rows.tolist())) == len(rows)
    assert set(rows.tolist()) <= set(range(n))
    assert 0 <= n - len(rows) < sampler.batch_size <= batch_size


def test_which_rows_are_dropped_differs_from_epoch_to_epoch():
    sampler = shuffled(10, 9, seed=0)
    dropped = Counter(
        row for epoch in range(4000) for row in set(range(10)) - set(whole(sampler, epoch).tolist())
    )
    assert chisquare([dropped[row] for row in range(10)]).pvalue > 1e-4


def test_every_place_gets_every_row_equally_often():
    sampler = shuffled(5, 5, seed=0)
    orders = np.stack([whole(sampler, epoch) for epoch in range(3000)])
    for place in range(5):
        assert chisquare(np.bincount(orders[:, place], minlength=5)).pvalue > 1e-4


def test_only_the_rows_that_are_named_are_given():
    rows = np.array([7, 2, 90, 11, 5])
    assert sorted(whole(shuffled(rows, 5, seed=0)).tolist()) == [2, 5, 7, 11, 90]
    assert whole(in_order(rows, 2)).tolist() == rows.tolist()


def test_a_set_smaller_than_the_batch_is_one_batch_an_epoch():
    sampler = shuffled(3, 512, seed=0)
    assert (len(sampler), sampler.batch_size) == (1, 3)
    assert sorted(whole(sampler).tolist()) == [0, 1, 2]


def test_a_batch_made_smaller_can_still_be_shared_by_the_processes():
    sampler = shuffled(7, 512, seed=0, n_processes=3)
    assert (len(sampler), sampler.batch_size) == (1, 6)
    assert shuffled(7, 5, seed=0, n_processes=3).batch_size == 5  # not made smaller, not touched


@pytest.mark.parametrize(
    ("n", "n_processes", "text"),
    [
        (0, 1, "0 images for 1 process; at least one for each is needed."),
        (2, 3, "2 images for 3 processes; at least one for each is needed."),
    ],
)
def test_fewer_images_than_processes_are_named(n, n_processes, text):
    with pytest.raises(DataError, match=text):
        shuffled(n, 8, seed=0, n_processes=n_processes)


def test_batch_sizes_and_rows_out_of_range_are_named():
    with pytest.raises(ConfigError, match="the batch size is 0; at least 1 is needed"):
        shuffled(5, 0, seed=0)
    with pytest.raises(ConfigError, match="expected one dimension of numbers from 0 on"):
        shuffled(np.array([3, -1]), 2, seed=0)
    with pytest.raises(ConfigError, match=r"rows of shape \(2, 2\) and type int64"):
        in_order(np.zeros((2, 2), np.int64), 2)
    with pytest.raises(ConfigError, match="type float64"):
        in_order(np.zeros(2), 2)


@given(n=st.integers(1, 60), batch_size=st.integers(1, 70))
def test_in_order_leaves_nothing_out(n, batch_size):
    batches = list(in_order(n, batch_size).epoch(4))
    assert np.concatenate(batches).tolist() == list(range(n))
    assert all(len(rows) == batch_size for rows in batches[:-1])
    assert len(batches) == len(in_order(n, batch_size)) == -(-n // batch_size)


# class-balanced


@given(
    labels=st.lists(st.integers(-1, 6), min_size=1, max_size=80).filter(lambda x: max(x) >= 0),
    p=st.integers(1, 9),
    k=st.integers(1, 6),
    seed=seeds,
)
def test_batches_are_balanced_and_take_turns(labels, p, k, seed):
    labels = np.array(labels)
    there = np.unique(labels[labels >= 0])
    sampler = balanced(labels, p, k, seed)
    n_classes = min(p, len(there))
    assert sampler.batch_size == n_classes * k
    assert len(sampler) == max(1, int((labels >= 0).sum()) // (n_classes * k))
    given_rows = np.stack(list(sampler.epoch(2))).reshape(len(sampler), n_classes, k)
    classes = labels[given_rows]
    assert (classes == classes[:, :, :1]).all()  # class after class
    for batch in given_rows:
        found = labels[batch[:, 0]]
        assert len(set(found.tolist())) == n_classes  # each class once a batch
        for rows in batch:
            own = np.flatnonzero(labels == labels[rows[0]])
            assert evenly(rows, own)  # none twice, unless there are fewer than K
    assert evenly(classes[:, :, 0], there)
    for name in np.unique(classes):
        assert evenly(given_rows[classes == name], np.flatnonzero(labels == name))


def test_a_class_of_one_image_repeats_it():
    labels = np.array([0, 0, 0, 0, 1, -1])
    for rows in balanced(labels, 2, 3, seed=0).epoch(0):
        assert sorted(rows[labels[rows] == 1].tolist()) == [4, 4, 4]
        assert len(set(rows[labels[rows] == 0].tolist())) == 3


def test_an_epoch_has_as_many_balanced_batches_as_are_asked_for():
    sampler = balanced(np.array([0, 1, 2]), 2, 2, seed=0, n_batches=300)
    assert len(list(sampler.epoch(0))) == len(sampler) == 300


def test_classes_meet_each_other_equally_often():
    labels = np.repeat(np.arange(5), 4)
    met = Counter(
        tuple(sorted(labels[rows].tolist()))
        for epoch in range(300)
        for rows in balanced(labels, 2, 1, seed=0, n_batches=10).epoch(epoch)
    )
    assert len(met) == 10
    assert chisquare(list(met.values())).pvalue > 1e-4


def test_fewer_classes_than_asked_for_are_shared_by_the_processes_or_refused():
    labels = np.repeat(np.arange(5), 4)
    assert balanced(labels, 8, 1, seed=0, n_processes=2).batch_size == 4
    assert balanced(labels, 8, 2, seed=0, n_processes=2).batch_size == 10
    with pytest.raises(ConfigError, match="5 classes with 1 images of each in a batch cannot be"):
        balanced(labels, 8, 1, seed=0, n_processes=7)


def test_labels_are_needed_to_balance():
    with pytest.raises(DataError, match="none of 3 images has a label"):
        balanced(np.full(3, -1), 2, 2, seed=0)
    with pytest.raises(ConfigError, match="0 classes a batch, 2 images of each"):
        balanced(np.zeros(3, np.int64), 0, 2, seed=0)


# anchors and neighbors


def ring(n: int, k: int) -> np.ndarray:
    """The k rows that follow each row."""
    return (np.arange(n)[:, None] + np.arange(1, k + 1)) % n


@given(n=st.integers(1, 40), k=st.integers(0, 5), batch_size=st.integers(1, 50), seed=seeds)
def test_every_anchor_comes_once_with_itself_or_one_of_its_neighbors(n, k, batch_size, seed):
    pairs = whole(anchor_neighbor(ring(n, k), batch_size, seed), 1)
    assert pairs.shape == (n // min(n, batch_size) * min(n, batch_size), 2)
    assert len(set(pairs[:, 0].tolist())) == len(pairs)
    for anchor, partner in pairs.tolist():
        assert partner == anchor or partner in ring(n, k)[anchor].tolist()


def test_the_neighbor_is_uniform_over_all_columns_and_the_anchor_itself():
    n, k = 997, 6
    sampler = anchor_neighbor(ring(n, k), 100, seed=0)
    pairs = np.concatenate([whole(sampler, epoch) for epoch in range(20)])
    column = (pairs[:, 1] - pairs[:, 0]) % n  # 0 for itself
    assert chisquare(np.bincount(column, minlength=k + 1)).pvalue > 1e-4
    # and of each anchor alone, whatever its place in the order
    sampler = anchor_neighbor(ring(4, 2), 4, seed=0)
    pairs = np.concatenate([whole(sampler, epoch) for epoch in range(3000)])
    for anchor in range(4):
        column = (pairs[pairs[:, 0] == anchor, 1] - anchor) % 4
        assert chisquare(np.bincount(column, minlength=3)).pvalue > 1e-4


def test_a_table_of_some_rows_gives_their_numbers():
    rows = np.array([10, 20, 30])
    pairs = whole(anchor_neighbor(np.array([[1], [2], [0]]), 3, seed=0, rows=rows))
    after = {10: 20, 20: 30, 30: 10}
    assert sorted(pairs[:, 0].tolist()) == [10, 20, 30]
    assert all(partner in (anchor, after[anchor]) for anchor, partner in pairs.tolist())
    with pytest.raises(DataError, match="3 rows for neighbors of 2; expected one each"):
        anchor_neighbor(np.array([[1], [0]]), 2, seed=0, rows=rows)


@pytest.mark.parametrize("index", [-1, 3])
def test_neighbors_that_are_no_rows_are_named(index):
    with pytest.raises(DataError, match="expected 0 to 2, the rows of their table"):
        anchor_neighbor(np.array([[1], [2], [index]]), 2, seed=0)


# several sources


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    sizes=st.lists(st.integers(0, 7), min_size=4, max_size=4),
    seed=seeds,
)
def test_every_batch_has_the_share_of_each_source_and_short_ones_come_again(lengths, sizes, seed):
    sources = {f"s{i}": np.arange(100 * i, 100 * i + n) for i, n in enumerate(lengths)}
    share = {name: size for name, size in zip(sources, sizes, strict=False)}
    used = [name for name in sources if len(sources[name]) and share[name]]
    if not used:
        with pytest.raises(DataError, match="all sources: no rows to make batches of"):
            mixed_source(sources, share, seed)
        return
    sampler = mixed_source(sources, share, seed)
    batches = np.stack(list(sampler.epoch(1)))
    assert batches.shape == (len(sampler), sum(share[name] for name in used))
    assert len(sampler) == max(1, *(len(sources[name]) // share[name] for name in used))
    begin = 0
    for name in used:
        part = batches[:, begin : begin + share[name]]
        begin += share[name]
        assert evenly(part, sources[name])
        assert all(evenly(rows, sources[name]) for rows in part)


def test_the_source_that_is_named_makes_the_epoch():
    sources = {"verified": np.arange(10), "noisy": np.arange(10, 110)}
    sizes = {"verified": 2, "noisy": 8}
    assert len(mixed_source(sources, sizes, seed=0)) == 12
    sampler = mixed_source(sources, sizes, seed=0, epoch_of="verified")
    assert len(sampler) == 5
    rows = whole(sampler)
    assert sorted(rows[rows < 10].tolist()) == list(range(10))


def test_an_empty_source_gives_none_unless_it_makes_the_epoch():
    sources = {"verified": np.arange(0), "noisy": np.arange(20)}
    sizes = {"verified": 2, "noisy": 8}
    sampler = mixed_source(sources, sizes, seed=0)
    assert (len(sampler), sampler.batch_size) == (2, 8)
    with pytest.raises(DataError, match="source 'verified': no rows to make batches of"):
        mixed_source(sources, sizes, seed=0, epoch_of="verified")


def test_a_source_is_drawn_alike_whatever_the_others_are():
    a = np.arange(40)
    one = mixed_source({"a": a, "b": np.arange(40, 60)}, {"a": 4, "b": 4}, seed=0)
    other = mixed_source({"a": a, "b": np.arange(40, 45)}, {"a": 4, "b": 1}, seed=0)
    first = [rows[:4].tolist() for rows in one.epoch(3)]
    assert first == [rows[:4].tolist() for rows in other.epoch(3)]


def test_sources_of_one_length_are_not_drawn_in_one_order():
    sampler = mixed_source({"a": np.arange(40), "b": np.arange(40)}, {"a": 4, "b": 4}, seed=0)
    batches = np.stack(list(sampler.epoch(0)))
    assert not np.array_equal(batches[:, :4], batches[:, 4:])


def test_sources_and_sizes_that_do_not_match_are_named():
    rows = np.arange(4)
    with pytest.raises(ConfigError, match=r"no source 'nosy'\. Did you mean 'noisy'\?"):
        mixed_source({"noisy": rows}, {"nosy": 2}, seed=0)
    with pytest.raises(ConfigError, match=r"no source 'clean'\. There are: noisy"):
        mixed_source({"noisy": rows}, {"noisy": 2}, seed=0, epoch_of="clean")
    with pytest.raises(ConfigError, match="source 'noisy' has the size None"):
        mixed_source({"noisy": rows}, {}, seed=0)
