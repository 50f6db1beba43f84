"""Many images become pixels, broken ones are set aside, and a killed decode goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from labelsieve.data import decode as decode_module
from labelsieve.data import picture as picture_module
from labelsieve.data.decode import Pixels, confirmed_hashes, decode_images, stream, stream_batches
from labelsieve.data.read import read
from labelsieve.errors import RunError
from made_pictures import encoded, photo


@pytest.fixture
def folder(tmp_path) -> Path:
    """Nine images in two classes, of which three are broken."""
    root = tmp_path / "set"
    for i in range(9):
        path = root / ("a" if i < 5 else "b") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(np.full((8, 9, 3), 10 * i, np.uint8)))
    (root / "a" / "1.png").write_bytes(b"")
    (root / "b" / "6.png").write_bytes(b"<html>")
    (root / "b" / "8.png").unlink()
    (root / "b" / "8.png").symlink_to("nowhere")
    return root


REASONS = (
    None,
    "0 bytes",
    None,
    None,
    None,
    None,
    "not an image: begins with '<html>'",
    None,
    "a link to nowhere, where there is no file",
)


def check(pixels: Pixels) -> None:
    assert pixels.reasons == REASONS
    usable = [0, 2, 3, 4, 5, 7]
    assert np.flatnonzero(pixels.usable).tolist() == usable
    assert pixels.values.shape == (9, 3, 4, 4)
    assert [int(image.max()) for image in pixels.values] == [0, 0, 20, 30, 40, 50, 0, 70, 0]
    assert (pixels.values == pixels.values[:, :1, :1, :1]).all()
    assert len(set(pixels.hashes[usable].tolist())) == 6
    assert (pixels.hashes[[1, 6, 8]] == 0).all()


def test_broken_images_are_set_aside_with_their_reasons(folder):
    told: list[tuple[int, int]] = []
    check(decode_images(read(folder), 4, progress=lambda done, n: told.append((done, n))))
    assert told == [(9, 9)]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_stream_gives_all_images_in_order(folder, batch_size, threads):
    batches = list(stream(read(folder), 4, batch_size, threads=threads))
    assert len(batches[0].rows) + len(batches[0].broken) == min(9, batch_size)
    assert np.concatenate([b.rows for b in batches]).tolist() == [0, 2, 3, 4, 5, 7]
    broken = {row: words for b in batches for row, words in b.broken.items()}
    assert broken == {row: words for row, words in enumerate(REASONS) if words}
    pixels = np.concatenate([b.pixels for b in batches])
    assert pixels[:, 0, 0, 0].tolist() == [0, 20, 30, 40, 50, 70]


def test_a_stream_takes_the_rows_it_is_asked_for(folder):
    rows = np.array([7, 1, 0])
    batch = next(stream(read(folder), 4, 8, rows=rows))
    assert batch.rows.tolist() == [7, 0]
    assert list(batch.broken) == [1]


def test_batches_of_any_size_are_streamed_in_turn_with_hashes_or_without(folder):
    images = read(folder)
    wanted = [np.array(rows) for rows in ([7], [0, 1, 0], [6], [5, 4, 3, 2])]
    plain = list(stream_batches(images, 4, iter(wanted), hashed=False))
    assert [batch.rows.tolist() for batch in plain] == [[7], [0, 0], [], [5, 4, 3, 2]]
    assert [list(batch.broken) for batch in plain] == [[], [1], [6], []]
    assert not any(batch.hashes.any() for batch in plain)
    for batch, other in zip(plain, stream_batches(images, 4, iter(wanted)), strict=True):
        assert np.array_equal(batch.pixels, other.pixels)
        assert other.hashes.all()


def test_a_stream_is_not_far_ahead_of_who_takes_it(folder, monkeypatch):
    decoded: list[int] = []
    inner = decode_module._decode_rows
    monkeypatch.setattr(
        decode_module, "_decode_rows", lambda *a: (decoded.extend(a[1].tolist()), inner(*a))[1]
    )
    batches = stream(read(folder), 4, 1, threads=1)
    next(batches)
    batches.close()  # also ends the threads
    assert len(decoded) <= 3
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_a_permuted_table_gives_the_same_pixels(tmp_path):
    data = [encoded(photo(20 + i, 30)) for i in range(30)]
    pq.write_table(pa.table({"image": data}), tmp_path / "t.parquet")
    images = read(tmp_path / "t.parquet")
    order = np.random.default_rng(1).permutation(30)
    straight, mixed = decode_images(images, 16), decode_images(images.take(order), 16)
    assert (straight.values[order] == mixed.values).all()
    assert (straight.hashes[order] == mixed.hashes).all()


# the pixel cache


def test_the_cache_holds_the_same_as_memory_and_is_used_again(folder, tmp_path, monkeypatch):
    images, path = read(folder), tmp_path / "pixels.npy"
    check(decode_images(images, 4, path=path))
    assert not path.with_name("pixels.npy.partial").exists()
    monkeypatch.setattr(decode_module, "stream", lambda *a, **k: pytest.fail("decoded again"))
    again = decode_images(images, 4, path=path)
    check(again)
    assert isinstance(again.values, np.memmap)


def test_a_cache_of_other_images_another_size_or_decoder_is_made_again(
    folder, tmp_path, monkeypatch
):
    path = tmp_path / "pixels.npy"
    decode_images(read(folder), 4, path=path)
    assert decode_images(read(folder), 5, path=path).values.shape == (9, 3, 5, 5)
    (folder / "a" / "0.png").write_bytes(encoded(np.full((8, 8, 3), 99, np.uint8)))
    assert decode_images(read(folder), 5, path=path).values[0].max() == 99
    monkeypatch.setattr(decode_module, "decoder_name", lambda: "another")
    calls = []
    inner = decode_module.stream
    monkeypatch.setattr(
        decode_module, "stream", lambda *a, **k: (calls.append(1), inner(*a, **k))[1]
    )
    decode_images(read(folder), 5, path=path)
    assert calls


@pytest.mark.parametrize("n_chunks", [0, 1, 2, 4])
@pytest.mark.parametrize("cut", [0, 7])
def test_a_killed_decode_goes_on_where_it_was(folder, tmp_path, monkeypatch, n_chunks, cut):
    monkeypatch.setattr(decode_module, "_CHUNK", 2)
    images, path = read(folder), tmp_path / "pixels.npy"

    def stop(done: int, n: int) -> None:
        if done >= 2 * n_chunks:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_images(images, 4, path=path, progress=stop)
    assert not path.exists()
    notes = path.with_suffix(".jsonl")
    if cut:  # as by a kill in the middle of a line
        notes.write_text(notes.read_text()[:-cut])
    told: list[int] = []
    check(decode_images(images, 4, path=path, progress=lambda done, n: told.append(done)))
    whole = max(n_chunks, 1) - bool(cut)
    assert told[0] == 2 * whole + 2 if whole < 4 else 9
    check(decode_images(images, 4, path=path))


def test_a_decode_whose_process_is_killed_goes_on(folder, tmp_path):
    program = f"""
import os, signal
from pathlib import Path
from labelsieve.data import decode
from labelsieve.data.read import read
decode._CHUNK = 2
def stop(done, n):
    if done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
path = Path({str(tmp_path / "p.npy")!r})
decode.decode_images(read({str(folder)!r}), 4, path=path, progress=stop)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -9
    told: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_module, "_CHUNK", 2)
        path = tmp_path / "p.npy"
        check(decode_images(read(folder), 4, path=path, progress=lambda d, n: told.append(d)))
    assert told == [6, 8, 9]


def test_notes_without_their_pixels_do_not_count(folder, tmp_path, monkeypatch):
    images, path = read(folder), tmp_path / "pixels.npy"
    decode_images(images, 4, path=path)
    path.unlink()
    monkeypatch.setattr(np.lib.format, "open_memmap", killed)
    with pytest.raises(KeyboardInterrupt):
        decode_images(images, 4, path=path)
    monkeypatch.undo()
    check(decode_images(images, 4, path=path))


def killed(path: Path, *_: object) -> None:
    """A memory map whose process ends when it is made."""
    with path.open("wb") as file:
        np.save(file, np.zeros((9, 3, 4, 4), np.uint8))
    raise KeyboardInterrupt


def test_a_full_disk_is_an_error_before_anything_is_decoded(folder, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(RunError, match=r"pixels.npy: cannot be written: No space left on device"):
        decode_images(read(folder), 4, path=tmp_path / "pixels.npy")
    assert not list(tmp_path.glob("pixels*"))


def test_a_folder_that_is_not_there_is_an_error(folder, tmp_path):
    with pytest.raises(RunError, match="cannot be written: No such file or directory"):
        decode_images(read(folder), 4, path=tmp_path / "nowhere" / "pixels.npy")


def test_real_images_decode_alike_with_both_decoders(shared_data, monkeypatch):
    pytest.importorskip("simplejpeg")
    images = read(shared_data / "sports_web" / "sports64.parquet").take(np.arange(0, 6820, 20))
    one = decode_images(images, 32)
    monkeypatch.setattr(picture_module, "simplejpeg", None)
    other = decode_images(images, 32)
    assert one.usable.all()
    assert other.usable.all()
    difference = np.abs(one.values.astype(int) - other.values)
    assert difference.mean() == pytest.approx(0, abs=0.2)
    assert difference.max() <= 8


def test_pictures_that_differ_only_in_detail_are_no_exact_duplicates(tmp_path: Path):
    rng = np.random.default_rng(0)
    flat = rng.integers(60, 190, (64, 64), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    board = np.where(np.indices(flat.shape).sum(axis=0) % 2, 30, -30)
    for name, gray in (("a", flat), ("b", flat + board), ("c", flat)):
        Image.fromarray(gray.astype(np.uint8)).save(tmp_path / f"{name}.jpg", quality=95)
    images = read(tmp_path)
    pixels = decode_images(images, 32)
    assert len(set(pixels.hashes.tolist())) < 3  # alike at an eighth of their size
    a, b, c = confirmed_hashes(images, pixels).tolist()
    assert a == c
    assert a != b
