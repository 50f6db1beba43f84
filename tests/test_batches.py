"""The right pixels in the right process, ahead of the step, and threads that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.data import batches as batches_module
from labelsieve.data import decode as decode_module
from labelsieve.data import sources as sources_module
from labelsieve.data.batches import Batch, Batches, cached, resident, streamed
from labelsieve.data.decode import Pixels, decode_images
from labelsieve.data.read import read
from labelsieve.data.samplers import (
    anchor_neighbor,
    balanced,
    in_order,
    infinite,
    shuffled,
)
from labelsieve.errors import ConfigError, DataError
from labelsieve.records import ImageSet
from made_pictures import encoded
from reference_batches import share_with_stand_ins

N = 14
BROKEN = {3: "0 bytes", 4: "not an image: begins with '<html>'", 9: "0 bytes"}


@dataclass(frozen=True)
class Fixed:
    """A sampler of batches that are given."""

    batches: list[list]

    @property
    def batch_size(self) -> int:
        return len(self.batches[0])

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int) -> Iterator[np.ndarray]:
        yield from map(np.array, self.batches)


def pixels_of(n: int = N, size: int = 2) -> np.ndarray:
    """Image i is i everywhere."""
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 3, size, size))


@pytest.fixture
def whole(tmp_path) -> ImageSet:
    return make_folder(tmp_path / "whole", {})


@pytest.fixture
def holed(tmp_path) -> ImageSet:
    return make_folder(tmp_path / "holed", BROKEN)


def make_folder(root: Path, broken: dict[int, str]) -> ImageSet:
    """Pictures of noise, some of them no pictures."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for row in range(N):
        data = encoded(rng.integers(0, 256, (6, 7, 3), np.uint8))
        if row in broken:
            data = b"" if broken[row] == "0 bytes" else b"<html>"
        (root / f"{row:02d}.png").write_bytes(data)
    return read(root)


def joined(batches: list[Batch]) -> tuple[list, np.ndarray]:
    rows = torch.cat([batch.rows for batch in batches])
    return rows.tolist(), torch.cat([batch.images for batch in batches]).numpy()


def our_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("decode", "batches"))]


# what a batch is


def test_a_batch_has_the_pixels_of_its_rows(tmp_path):
    np.save(tmp_path / "pixels.npy", pixels_of())
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    sampler = shuffled(N, 4, seed=0)
    wanted = [rows.tolist() for rows in sampler.epoch(5)]
    for pixels in (pixels_of(), mapped, torch.from_numpy(pixels_of().copy())):
        batches = list(Batches(resident(pixels), sampler).epoch(5))
        assert [batch.rows.tolist() for batch in batches] == wanted
        assert [(batch.epoch, batch.step) for batch in batches] == [(5, 0), (5, 1), (5, 2)]
        for batch in batches:
            assert batch.images.shape == (4, 3, 2, 2)
            assert (batch.images.dtype, batch.rows.dtype) == (torch.uint8, torch.int64)
            assert (batch.images == batch.rows[:, None, None, None]).all()


def test_pairs_of_rows_are_pairs_of_images():
    sampler = anchor_neighbor((np.arange(N)[:, None] + [1, 2]) % N, 4, seed=0)
    for batch in Batches(resident(pixels_of()), sampler).epoch(0):
        assert batch.images.shape == (4, 2, 3, 2, 2)
        assert (batch.images == batch.rows[:, :, None, None, None]).all()


def test_a_batch_may_be_written_to_without_harm_to_the_source(tmp_path):
    np.save(tmp_path / "pixels.npy", pixels_of())
    for pixels in (pixels_of().copy(), np.load(tmp_path / "pixels.npy", mmap_mode="r")):
        batches = Batches(resident(pixels), in_order(N, 4))
        for batch in batches.epoch(0):
            batch.images.zero_()
            batch.rows.zero_()
        assert joined(list(batches.epoch(0)))[1][:, 0, 0, 0].tolist() == list(range(N))


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 8, 8, 3), np.uint8), np.zeros((4, 3, 8, 8)), torch.zeros(3, 8, 8).byte()],
)
def test_pixels_of_another_kind_are_refused(pixels):
    with pytest.raises(ConfigError, match=r"expected \(N, 3, S, S\) uint8"):
        resident(pixels)


def test_a_sampler_for_a_larger_set_is_refused():
    with pytest.raises(ConfigError, match="the sampler asks for row 14 of 14 images"):
        list(Batches(resident(pixels_of()), in_order(N + 1, 5)).epoch(0))


# the shares of several processes


@given(
    n_processes=st.integers(1, 5),
    per_process=st.integers(1, 3),
    ordered=st.booleans(),
    first=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_the_shares_of_all_processes_are_the_global_batches(
    n_processes, per_process, ordered, first, epoch
):
    size = n_processes * per_process
    sampler = in_order(N, size) if ordered else shuffled(N, size, 0, n_processes=n_processes)
    shares: dict[int, list[int]] = {}
    for rank in range(n_processes):
        batches = Batches(resident(pixels_of()), sampler, rank=rank, n_processes=n_processes)
        assert (len(batches), batches.batch_size) == (len(sampler), sampler.batch_size)
        for batch in batches.epoch(epoch, first):
            assert len(batch.rows) > 0
            assert ordered or len(batch.rows) == sampler.batch_size // n_processes
            shares.setdefault(batch.step, []).extend(batch.rows.tolist())
    expected = {step: rows.tolist() for step, rows in enumerate(sampler.epoch(epoch))}
    assert shares == {step: rows for step, rows in expected.items() if step >= first}


def test_results_of_an_evaluation_put_together_by_row_are_exact():
    found = np.full(N, -1)
    for rank in range(4):  # the last batch has two rows: two of the shares are empty
        batches = Batches(resident(pixels_of()), in_order(N, 4), rank=rank, n_processes=4)
        for batch in batches.epoch(0):
            rows = batch.rows.numpy()
            assert (found[rows] == -1).all()
            found[rows] = batch.images[:, 0, 0, 0].numpy()
    assert found.tolist() == list(range(N))


def test_batches_that_cannot_be_shared_evenly_are_refused():
    with pytest.raises(ConfigError, match="a batch of 4 images cannot be shared evenly among 3"):
        Batches(resident(pixels_of()), shuffled(N, 4, seed=0), n_processes=3)


# images decoded as they are asked for


@pytest.mark.parametrize("threads", [1, 3])
def test_a_stream_gives_the_pixels_that_decoding_all_gives(whole, threads):
    pixels = decode_images(whole, 4)
    sampler = shuffled(N, 4, seed=0)
    for epoch in (0, 1):
        rows, images = joined(
            list(Batches(streamed(whole, 4, threads=threads), sampler).epoch(epoch))
        )
        assert rows == np.concatenate(list(sampler.epoch(epoch))).tolist()
        assert np.array_equal(images, pixels.values[rows])


def test_rows_that_come_twice_in_a_batch_are_there_twice(whole):
    labels = np.repeat([0, 1], [12, 2])
    sampler = balanced(labels, 2, 4, seed=0)
    rows, images = joined(list(Batches(streamed(whole, 4), sampler).epoch(0)))
    assert len(rows) == 8 > len(set(rows))
    assert np.array_equal(images, decode_images(whole, 4).values[rows])


@pytest.mark.parametrize("first", [0, 1, 3, 4])
def test_batches_before_the_first_are_not_decoded(whole, monkeypatch, first):
    decoded = noted_rows(monkeypatch)
    sampler = in_order(N, 4)
    steps = [batch.step for batch in Batches(streamed(whole, 4), sampler).epoch(0, first)]
    assert steps == list(range(first, 4))
    assert sorted(decoded) == list(range(4 * first, N))


def noted_rows(monkeypatch) -> list[int]:
    """Rows as they are decoded."""
    decoded: list[int] = []
    inner = decode_module._decode_rows
    monkeypatch.setattr(
        decode_module, "_decode_rows", lambda *a: (decoded.extend(a[1].tolist()), inner(*a))[1]
    )
    return decoded


def test_a_stream_is_ahead_of_the_step_but_not_far(whole, monkeypatch):
    decoded = noted_rows(monkeypatch)
    epoch = Batches(streamed(whole, 4, threads=1), in_order(N, 1)).epoch(0)
    next(epoch)
    seen = -1
    while seen < len(decoded):  # until no more are decoded
        seen = len(decoded)
        time.sleep(0.2)
    epoch.close()
    # one taken, two that wait for the step, and two in the decoder
    assert decoded == list(range(5))


def test_the_next_batch_is_made_while_the_step_is_at_work(whole, monkeypatch):
    begun = threading.Event()
    inner = decode_module._decode_rows

    def decode_rows(reader, rows, *rest):
        if 13 in rows:
            begun.set()
        return inner(reader, rows, *rest)

    monkeypatch.setattr(decode_module, "_decode_rows", decode_rows)
    for batch in Batches(streamed(whole, 4), in_order(N, 7)).epoch(0):
        # while the first batch is held, nothing asks for the second
        assert begun.wait(timeout=60)
        assert batch is not None


def test_the_time_that_is_waited_is_that_between_asking_and_getting(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(batches_module.time, "perf_counter", lambda: clock[0])

    class Slow:
        def __init__(self) -> None:
            self.broken: dict[int, str] = {}

        def __len__(self) -> int:
            return N

        def fetch(self, wanted, device):
            for each in wanted:
                clock[0] += 3
                rows = torch.from_numpy(each.rows)
                yield rows, torch.zeros(len(rows), 3, 1, 1, dtype=torch.uint8)

    batches = Batches(Slow(), in_order(N, 7))
    for _ in batches.epoch(0):
        clock[0] += 50  # the step
    assert batches.waited == 6
    next(batches.epoch(1))
    assert batches.waited == 9


def test_tables_that_cannot_be_read_at_random_are_refused(tmp_path):
    table = pa.table({"image": [encoded(np.zeros((4, 4, 3), np.uint8))] * 3})
    pq.write_table(table, tmp_path / "t.parquet")
    images = read(tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match="Parquet table cannot be read in random order"):
        streamed(images, 4)
    source = cached(images, 4, tmp_path / "pixels.npy")
    assert len(list(Batches(source, in_order(3, 2)).epoch(0))) == 2


def test_a_cache_is_decoded_once(holed, tmp_path, monkeypatch):
    decoded = noted_rows(monkeypatch)
    told: list[tuple[int, int]] = []
    path = tmp_path / "pixels.npy"
    source = cached(holed, 4, path, progress=lambda *both: told.append(both))
    assert (sorted(decoded), told) == (list(range(N)), [(N, N)])
    for again in (source, cached(holed, 4, path)):
        batches = Batches(again, shuffled(N, 4, seed=0))
        rows, images = joined([batch for epoch in (0, 1) for batch in batches.epoch(epoch)])
        assert np.array_equal(images, np.load(path)[rows])
        assert batches.broken == BROKEN
    assert len(decoded) == N


# broken images


def sources(images: ImageSet) -> dict[str, sources_module.Source]:
    return {"resident": resident(decode_images(images, 4)), "streamed": streamed(images, 4)}


@pytest.mark.parametrize("kind", ["resident", "streamed"])
@pytest.mark.parametrize("n_processes", [1, 2, 4])
@pytest.mark.parametrize("pairs", [False, True])
def test_broken_images_are_stood_in_for_alike_in_any_source_and_process(
    holed, kind, n_processes, pairs
):
    values = decode_images(holed, 4).values
    neighbors = (np.arange(N)[:, None] + [1, 3, 5]) % N
    sampler = anchor_neighbor(neighbors, 4, 0) if pairs else shuffled(N, 4, 0)
    met: dict[int, str] = {}
    for rank in range(n_processes):
        source = sources(holed)[kind]
        batches = Batches(source, sampler, rank=rank, n_processes=n_processes)
        for epoch in range(4):
            found = list(batches.epoch(epoch))
            for batch, rows in zip(found, sampler.epoch(epoch), strict=True):
                expected = share_with_stand_ins(rows.tolist(), rank, n_processes, set(BROKEN))
                assert batch.rows.tolist() == expected
                assert np.array_equal(batch.images.numpy(), values[batch.rows.numpy()])
        met |= batches.broken
    assert met == BROKEN


def test_a_broken_neighbor_is_stood_in_for_by_its_anchor_and_the_other_way_round(holed):
    sampler = Fixed([[[0, 3], [4, 1], [3, 9], [5, 6]]])
    for source in sources(holed).values():
        (batch,) = Batches(source, sampler).epoch(0)
        assert batch.rows.tolist() == [[0, 0], [1, 1], [5, 5], [5, 6]]


def test_one_readable_image_fills_a_batch_also_from_the_share_of_another_process(holed):
    sampler = Fixed([[3, 4, 9, 2]])
    values = decode_images(holed, 4).values
    for rank in (0, 1):
        source = streamed(holed, 4)
        (batch,) = Batches(source, sampler, rank=rank, n_processes=2).epoch(0)
        assert batch.rows.tolist() == [2, 2]
        assert set(source.broken) == ({3, 4, 9} if rank == 0 else {9})
        assert np.array_equal(batch.images.numpy(), values[[2, 2]])


def test_what_is_broken_is_known_afterwards(holed):
    batches = Batches(streamed(holed, 4), Fixed([[0, 1], [2, 3], [4, 5]]))
    assert batches.broken == {}
    list(batches.epoch(0))
    assert batches.broken == {row: BROKEN[row] for row in (3, 4)}


def test_a_batch_without_any_readable_image_is_an_error(holed):
    sampler = Fixed([[0, 1, 2], [4, 3, 9]])
    for kind, name in (("resident", "row 4"), ("streamed", "'04.png'")):
        batches = Batches(sources(holed)[kind], sampler)
        epoch = batches.epoch(0)
        next(epoch)
        text = (
            rf"none of the 3 images of a batch can be decoded, such as {name}: not an image: "
            r"begins with '<html>'\. See whether they are still there, and leave broken ones out\."
        )
        with pytest.raises(DataError, match=text) as error:
            next(epoch)
        assert kind == "resident" or str(error.value).startswith(f"{holed.source}: none of")
        assert batches.broken == BROKEN
        assert not our_threads()


def test_a_file_that_is_lost_while_training_is_met_on_the_way(whole):
    batches = Batches(streamed(whole, 4), in_order(N, 7))
    list(batches.epoch(0))
    assert batches.broken == {}
    Path(whole.places.files[8]).unlink()
    rows, _ = joined(list(batches.epoch(1)))
    assert rows == [0, 1, 2, 3, 4, 5, 6, 7, 9, 9, 10, 11, 12, 13]
    assert batches.broken[8].startswith("no such file")


# leaving early


@pytest.fixture(params=["streamed", "mapped"])
def source(request, whole, tmp_path):
    if request.param == "streamed":
        return streamed(whole, 4)
    return cached(whole, 4, tmp_path / "pixels.npy")


def test_threads_end_with_the_epoch(source):
    list(Batches(source, in_order(N, 2)).epoch(0))
    assert not our_threads()


def test_leaving_early_ends_the_threads(source):
    batches = Batches(source, in_order(N, 1))
    for batch in batches.epoch(0):
        assert our_threads()
        if batch.step == 2:
            break
    del batch
    assert not our_threads()
    with pytest.raises(KeyError):
        fail_in_a_step(batches)
    assert not our_threads()
    epoch = batches.epoch(0)
    next(epoch)
    epoch.close()
    assert not our_threads()
    assert len(list(batches.epoch(0))) == N  # and another epoch can be begun


def fail_in_a_step(batches: Batches) -> None:
    for _ in batches.epoch(0):
        raise KeyError


def test_what_gives_the_batches_is_closed_with_the_epoch_also_where_others_hold_it():
    def give(ended: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        try:
            while True:
                yield np.zeros(1, np.int64), np.zeros((1, 3, 2, 2), np.uint8)
        finally:
            ended.append(1)

    ended: list[int] = []
    given = give(ended)
    source = resident(pixels_of())
    source.fetch = lambda wanted, device: (next(wanted), given)[1]
    epoch = Batches(source, in_order(N, 2)).epoch(0)
    next(epoch)
    epoch.close()
    assert ended == [1]
    ended, cpu = [], torch.device("cpu")
    given = give(ended)
    ahead = sources_module._copied_ahead(given, cpu)
    next(ahead)
    ahead.close()
    assert ended == [1]


def test_an_epoch_that_is_not_begun_starts_no_thread(source):
    epoch = Batches(source, in_order(N, 2)).epoch(0)
    assert not our_threads()
    del epoch


def test_an_error_in_the_decoders_thread_reaches_the_step(whole, monkeypatch):
    inner = decode_module._decode_rows

    def decode_rows(reader, rows, *rest):
        if 6 in rows:
            raise MemoryError("of the decoder")
        return inner(reader, rows, *rest)

    monkeypatch.setattr(decode_module, "_decode_rows", decode_rows)
    epoch = Batches(streamed(whole, 4), in_order(N, 4)).epoch(0)
    assert next(epoch).rows.tolist() == [0, 1, 2, 3]
    with pytest.raises(MemoryError, match="of the decoder"):
        next(epoch)
    assert not our_threads()


def test_an_error_of_the_sampler_reaches_the_step(source):
    class Fails(Fixed):
        def epoch(self, epoch):
            yield np.array([0, 1])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Batches(source, Fails([[0, 1]])).epoch(0))
    assert not our_threads()


# on a GPU


@pytest.mark.parametrize(("free", "held"), [(1000, True), (2 * N * 12 - 1, False)])
def test_a_set_is_kept_on_the_gpu_where_it_takes_at_most_half_of_what_is_free(
    monkeypatch, free, held
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    uploads = []

    def upload(values, device):
        uploads.append(values)
        return SimpleNamespace(device=device)

    monkeypatch.setattr(sources_module, "_upload", upload)
    source = resident(pixels_of().copy())
    for _ in range(2):
        assert (source._held(torch.device("cuda")) is not None) == held
    assert len(uploads) == held  # once
    assert resident(pixels_of())._held(torch.device("cpu")) is None


def test_an_upload_in_pieces_is_the_whole(monkeypatch):
    monkeypatch.setattr(sources_module, "_COPIED_AT_ONCE", 40)
    pixels = pixels_of()
    assert np.array_equal(sources_module._upload(pixels, torch.device("cpu")).numpy(), pixels)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["held", "copied", "streamed", "tensor"])
def test_batches_on_a_gpu_are_those_on_the_cpu(holed, monkeypatch, kind):
    if kind == "copied":
        monkeypatch.setattr(sources_module, "DEVICE_SHARE", 0)
    pixels = decode_images(holed, 4)
    there: Pixels | torch.Tensor = pixels
    sampler = shuffled(np.flatnonzero(pixels.usable) if kind == "tensor" else N, 4, seed=0)
    if kind == "tensor":
        there = torch.from_numpy(pixels.values).cuda()
    source = streamed(holed, 4) if kind == "streamed" else resident(there)
    on_cpu = Batches(resident(pixels), sampler)
    on_gpu = Batches(source, sampler, device="cuda")
    for epoch in range(20):
        for here, gone in zip(on_cpu.epoch(epoch), on_gpu.epoch(epoch), strict=True):
            assert gone.images.is_cuda
            assert gone.rows.is_cuda
            torch.cuda._sleep(1_000_000)  # copies for later steps run beside this one
            assert torch.equal(gone.images.cpu(), here.images)
            assert torch.equal(gone.rows.cpu(), here.rows)


def test_the_infinite_sampler_names_the_same_rows_as_the_epochs_of_batches():
    sampler = shuffled(N, 4, seed=0)
    batches = Batches(resident(pixels_of()), sampler)
    rows = [batch.rows.tolist() for epoch in (0, 1) for batch in batches.epoch(epoch)]
    assert [
        next_rows.tolist() for next_rows, _ in zip(infinite(sampler), rows, strict=False)
    ] == rows
