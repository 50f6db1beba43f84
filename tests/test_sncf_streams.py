"""Three-stream batches: shares, repeats, and sets that lack a kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.data.batches import Batches, resident
from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.sncf.streams import clean_stream, three_streams
from labelsieve.records import Verdict


def verdicts(n_clean: int, n_mislabeled: int, n_foreign: int, seed: int = 0) -> np.ndarray:
    kinds = np.repeat(np.arange(3, dtype=np.int8), [n_clean, n_mislabeled, n_foreign])
    return np.random.default_rng(seed).permutation(kinds)


def streams(verdict: np.ndarray, batch_size: int = 256, seed: int = 0, **more):
    return three_streams(verdict, np.arange(len(verdict)), batch_size, seed, **more)


def counts(verdict: np.ndarray, rows: np.ndarray) -> list[int]:
    return np.bincount(verdict[rows], minlength=3).tolist()


def every_batch(sampler, epoch: int = 0) -> list[np.ndarray]:
    return list(sampler.epoch(epoch))


def test_a_batch_of_256_has_85_of_each_kind_and_an_epoch_is_one_pass_over_the_clean():
    verdict = verdicts(1000, 300, 400)
    sampler = streams(verdict)
    batches = every_batch(sampler)
    assert len(sampler) == len(batches) == 1000 // 85
    assert sampler.batch_size == 255
    assert [counts(verdict, rows) for rows in batches] == [[85, 85, 85]] * len(batches)


@given(
    n_clean=st.integers(1, 200), n_mislabeled=st.integers(0, 120), n_foreign=st.integers(0, 120),
    batch_size=st.integers(6, 64), n_processes=st.sampled_from([1, 2]), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_set_has_finite_epochs_of_equal_batches(
    n_clean, n_mislabeled, n_foreign, batch_size, n_processes, seed
):
    numbers = [n_clean, n_mislabeled, n_foreign]
    if n_clean < n_processes:
        return
    batch_size -= batch_size % n_processes  # others are refused where they are shared
    verdict = verdicts(*numbers, seed=seed)
    sampler = streams(verdict, batch_size, seed, n_processes=n_processes, most_repeats=3)
    batches = every_batch(sampler, epoch=seed)
    share = batch_size // sum(n > 0 for n in numbers) // n_processes * n_processes
    if n_mislabeled == n_foreign == 0:
        share = min(batch_size, n_clean // n_processes * n_processes)
    assert len(batches) == len(sampler) == max(1, n_clean // share)
    assert {len(rows) for rows in batches} == {sampler.batch_size}
    assert sampler.batch_size <= batch_size
    assert sampler.batch_size % n_processes == 0
    found = [counts(verdict, rows) for rows in batches]
    assert all(each == found[0] for each in found)
    assert found[0][0] == share
    for n, size in zip(numbers[1:], found[0][1:], strict=True):
        # as large a share as repeats allow, and some of every kind there is
        assert size == 0 if n == 0 else 0 < size <= share
        assert size in (share, n_processes) or size * len(batches) <= 3 * n
        assert size in (0, share) or (size + n_processes) * len(batches) > 3 * n
    times = np.bincount(np.concatenate(batches), minlength=len(verdict))
    if n_clean >= share:
        assert times[verdict == Verdict.CLEAN].max() == 1
    for kind, n in enumerate(numbers):
        if n:  # none comes again before all have come
            assert np.ptp(times[verdict == kind]) <= 1


def test_two_kinds_share_the_batch():
    for numbers, expected in (((500, 0, 400), [128, 0, 128]), ((500, 400, 0), [128, 128, 0])):
        verdict = verdicts(*numbers)
        sampler = streams(verdict)
        assert len(sampler) == 500 // 128
        assert [counts(verdict, rows) for rows in every_batch(sampler)] == [expected] * 3


def test_clean_images_alone_are_plain_batches():
    verdict = verdicts(600, 0, 0)
    alone, plain = streams(verdict), clean_stream(verdict, np.arange(600), 256, 0)
    for ours, theirs in zip(every_batch(alone), every_batch(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(alone) == 2


def test_fewer_clean_images_than_their_share_are_repeated_in_one_batch():
    verdict = verdicts(10, 300, 300)
    (rows,) = every_batch(streams(verdict))
    assert counts(verdict, rows) == [85, 85, 85]
    times = np.bincount(rows, minlength=len(verdict))[verdict == Verdict.CLEAN]
    assert set(times) == {8, 9}


def test_three_mislabeled_images_do_not_fill_a_third_of_every_batch():
    verdict = verdicts(2000, 3, 900)
    batches = every_batch(streams(verdict))
    assert [counts(verdict, rows) for rows in batches] == [[85, 2, 85]] * 23  # 20 * 3 / 23
    times = np.bincount(np.concatenate(batches), minlength=len(verdict))
    assert times[verdict == Verdict.MISLABELED].max() <= 20


def test_the_least_of_a_kind_is_one_for_every_process():
    verdict = verdicts(5000, 1, 900)
    assert counts(verdict, every_batch(streams(verdict))[0]) == [85, 1, 85]
    assert counts(verdict, every_batch(streams(verdict, n_processes=2))[0]) == [84, 2, 84]


def test_a_process_has_its_share_of_every_kind():
    verdict = verdicts(100, 70, 9)
    sampler = streams(verdict, 24, n_processes=2, most_repeats=3)
    pixels = np.zeros((len(verdict), 3, 4, 4), np.uint8)
    halves = [
        [counts(verdict, batch.rows.numpy()) for batch in Batches(
            resident(pixels), sampler, rank=rank, n_processes=2
        ).epoch(0)]
        for rank in (0, 1)
    ]  # fmt: skip
    assert halves[0] == halves[1] == [[4, 4, 1]] * 12


def test_the_batches_are_the_same_for_any_number_of_processes_where_they_can_be():
    verdict = verdicts(100, 70, 90)
    alone, two = (streams(verdict, 48, n_processes=n) for n in (1, 2))
    for ours, theirs in zip(every_batch(alone, 3), every_batch(two, 3), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_epochs_differ_and_come_again_the_same():
    verdict = verdicts(300, 90, 90)
    sampler, again = streams(verdict, 30, seed=1), streams(verdict, 30, seed=1)
    epochs = [np.concatenate(every_batch(sampler, e)) for e in range(3)]
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(epochs[2], np.concatenate(every_batch(again, 2)))
    other = np.concatenate(every_batch(streams(verdict, 30, seed=2), 0))
    assert not np.array_equal(epochs[0], other)


def test_only_the_rows_asked_for_are_given():
    verdict = verdicts(60, 60, 60)
    rows = np.flatnonzero(np.arange(180) % 2)
    for sampler in (
        three_streams(verdict, rows, 30, 0),
        clean_stream(verdict, rows, 8, 0),
    ):
        assert set(np.concatenate(every_batch(sampler)).tolist()) <= set(rows.tolist())


def test_the_warm_up_has_clean_images_each_at_most_once():
    verdict = verdicts(100, 40, 40)
    found = np.concatenate(every_batch(clean_stream(verdict, np.arange(180), 32, 0)))
    assert len(found) == len(set(found.tolist())) == 96
    assert (verdict[found] == Verdict.CLEAN).all()


def test_what_batches_cannot_be_made_of_is_said():
    verdict = verdicts(0, 5, 5)
    for make in (three_streams, clean_stream):
        with pytest.raises(DataError, match="none of 10 images is called clean"):
            make(verdict, np.arange(10), 6, 0)
    with pytest.raises(ConfigError, match="no room for 3 kinds on 2 processes.*at least 6"):
        streams(verdicts(5, 5, 5), 5, n_processes=2)
    with pytest.raises(ConfigError, match="most_repeats is 0; expected"):
        streams(verdicts(5, 5, 5), 5, most_repeats=0)
