"""Many images become uint8 pixels: in parallel, broken ones set aside with their reasons."""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.picture import decode, decoder_name, fit, pixel_hash
from labelsieve.data.places import Reader, reading_order
from labelsieve.errors import DataError
from labelsieve.files import cannot_write
from labelsieve.records import ImageSet

__all__ = [
    "Batch",
    "Pixels",
    "confirmed_hashes",
    "decode",
    "decode_images",
    "decoder_name",
    "fit",
    "stream",
]

Progress = Callable[[int, int], None]  # images done, images in all

_FORMAT = 1  # raise it when the same bytes give other pixels than before
_CHUNK = 4096  # images between two notes of how far a decode has come
_TINY = 8192  # bytes of an encoded image
_AHEAD = 2  # batches decoded before they are asked for; bounds the memory


class Batch(NamedTuple):
    """Some decoded images, and those among them that could not be."""

    rows: NDArray[np.int64]  # (B,) of the image set; only those that could be decoded
    pixels: NDArray[np.uint8]  # (B, 3, size, size)
    hashes: NDArray[np.uint64]  # (B,) of the picture before it was resized; equal: exact duplicates
    broken: dict[int, str]  # row -> reason


@dataclass(frozen=True)
class Pixels:
    """All images of a set at one small size, with what could not be decoded and why."""

    values: NDArray[np.uint8]  # (N, 3, size, size); 0 where broken; memory-mapped if from a file
    hashes: NDArray[np.uint64]  # (N,) as in Batch; 0 where broken
    reasons: tuple[str | None, ...]  # (N,) why an image is broken; None where it is not

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(N,) which images could be decoded."""
        return np.array([reason is None for reason in self.reasons], bool)


def stream(
    images: ImageSet,
    size: int,
    batch_size: int,
    *,
    rows: NDArray[np.int64] | None = None,
    threads: int | None = None,
) -> Iterator[Batch]:
    """Decode images batch after batch, a few batches ahead of who takes them.

    Args:
        images: what to decode.
        size: side of the square that each image is resized and cut to (see `fit`), pixels.
        batch_size: images a batch, broken ones counted.
        rows: which images, and in which order; all in theirs by default. Of a table that does not
            fit into memory, ask in the order of `reading_order`.
        threads: of the decoder; chosen by the processors there are and by the images by default.
    """
    rows = np.arange(len(images)) if rows is None else rows
    reader = Reader(images.places)
    n_threads = threads or _default_threads(reader, rows)
    # Pieces are small enough to keep all threads busy on a batch, and large enough to be worth it.
    piece = max(1, min(128, -(-batch_size // n_threads)))
    pending: deque[list[Future[Batch]]] = deque()
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="decode")
    try:
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            starts = range(0, len(batch), piece)
            pending.append(
                [pool.submit(_decode_rows, reader, batch[i : i + piece], size) for i in starts]
            )
            if len(pending) > _AHEAD:
                yield _joined(pending.popleft())
        while pending:
            yield _joined(pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def decode_images(
    images: ImageSet,
    size: int,
    *,
    path: Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Pixels:
    """Decode all images to one array: the pixel cache, for sizes up to about 96.

    Args:
        images: what to decode.
        size: side of the square that each image is resized and cut to (see `fit`), pixels.
        path: a .npy file to hold the pixels in place of memory, with a .jsonl beside it. What it
            holds already is used where it is of these images, this size and this decoder: a killed
            decode goes on where it was.
        threads: as in `stream`.
        progress: told images done and images in all.

    Raises:
        RunError: the file cannot be written.
    """
    n = len(images)
    hashes = np.zeros(n, np.uint64)
    broken: dict[int, str] = {}
    cache = None if path is None else _Cache(path, _key(images, size), (n, 3, size, size))
    order = reading_order(images.places)
    done = 0
    if cache is not None:
        done = cache.resume(order, hashes, broken)
        if cache.complete:
            return Pixels(cache.values, hashes, tuple(map(broken.get, range(n))))
    values = np.zeros((n, 3, size, size), np.uint8) if cache is None else cache.values
    for batch in stream(images, size, _CHUNK, rows=order[done:], threads=threads):
        values[batch.rows] = batch.pixels
        hashes[batch.rows] = batch.hashes
        broken.update(batch.broken)
        if cache is not None:
            cache.note(hashes[order[done : done + _CHUNK]], batch.broken)
        done = min(n, done + _CHUNK)
        if progress is not None:
            progress(done, n)
    if cache is not None:
        values = cache.finish()
    return Pixels(values, hashes, tuple(map(broken.get, range(n))))


def confirmed_hashes(images: ImageSet, pixels: Pixels) -> NDArray[np.uint64]:
    """Hashes of the pictures in full, where those made while decoding occur more than once.

    Decoding shrinks a large JPEG on the way, and two pictures that differ only in detail can come
    out equal. Only pictures that look like copies are decoded again.

    Returns:
        (N,) equal for equal pictures; 0 where broken.
    """
    hashes = pixels.hashes.copy()
    _, group, times = np.unique(hashes, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero((times[group.ravel()] > 1) & pixels.usable)
    if not len(suspects):
        return hashes
    reader = Reader(images.places)
    suspects = suspects[reading_order(images.places.take(suspects))]
    with ThreadPoolExecutor(_default_threads(reader, suspects)) as pool:
        found = pool.map(partial(_full_hash, reader), suspects.tolist(), hashes[suspects].tolist())
        hashes[suspects] = list(found)
    return hashes


def _full_hash(reader: Reader, row: int, otherwise: int) -> int:
    """A file that was changed or lost since it was decoded keeps the hash it had."""
    try:
        return pixel_hash(decode(reader.read(row)))
    except DataError:
        return otherwise


def _decode_rows(reader: Reader, rows: NDArray[np.int64], size: int) -> Batch:
    pixels = np.empty((len(rows), size, size, 3), np.uint8)
    hashes = np.empty(len(rows), np.uint64)
    kept: list[int] = []
    broken: dict[int, str] = {}
    for row in rows.tolist():
        try:
            picture = decode(reader.read(row), min_side=size)
        except DataError as error:
            broken[row] = str(error)
            continue
        pixels[len(kept)] = fit(picture, size)
        hashes[len(kept)] = pixel_hash(picture)
        kept.append(row)
    n = len(kept)
    planes = np.ascontiguousarray(pixels[:n].transpose(0, 3, 1, 2))
    return Batch(np.array(kept, np.int64), planes, hashes[:n], broken)


def _joined(pieces: list[Future[Batch]]) -> Batch:
    batches = [piece.result() for piece in pieces]
    return Batch(
        np.concatenate([batch.rows for batch in batches]),
        np.concatenate([batch.pixels for batch in batches]),
        np.concatenate([batch.hashes for batch in batches]),
        {row: reason for batch in batches for row, reason in batch.broken.items()},
    )


def _default_threads(reader: Reader, rows: NDArray[np.int64]) -> int:
    """As many as there are processors, at most 16; one where images are tiny.

    A tiny image spends its time in Python, where threads only wait for each other: at 32 px, two
    threads took twice the processor time of one and were slower.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    available = min(16, len(affinity(0)) if affinity else os.cpu_count() or 1)
    sizes = []
    for row in rows[:5].tolist():
        with contextlib.suppress(DataError):
            sizes.append(len(reader.read(row)))
    return 1 if sizes and max(sizes) < _TINY else available


def _key(images: ImageSet, size: int) -> dict[str, Any]:
    """What the pixels depend on: equal keys, equal pixels."""
    return {
        "format": _FORMAT,
        "images": images.fingerprint(),
        "size": size,
        "decoder": decoder_name(),
        "chunk": _CHUNK,
    }


class _Cache:
    """Pixels in a .npy file, and beside it a .jsonl: the key, then one line a chunk.

    While it grows, the .npy has another name; a line is written when its chunk is in the file. A
    line that was cut off by a kill does not count.
    """

    values: NDArray[np.uint8]

    def __init__(self, path: Path, key: dict[str, Any], shape: tuple[int, ...]) -> None:
        self.path, self.key, self.shape = path, key, shape
        self.partial = path.with_name(path.name + ".partial")
        self.notes = path.with_suffix(".jsonl")
        self.complete = False

    def resume(
        self, order: NDArray[np.int64], hashes: NDArray[np.uint64], broken: dict[int, str]
    ) -> int:
        """Take over what is there; gives the number of images that need not be decoded again."""
        lines = self._lines()
        noted = [np.frombuffer(bytes.fromhex(line["hashes"]), "<u8") for line in lines[1:]]
        done = sum(map(len, noted))
        same = bool(lines) and lines[0] == self.key
        self.complete = same and done == len(order) and self._opened(self.path, "r")
        if not self.complete and not (same and self._opened(self.partial, "r+")):
            self._start()
            return 0
        hashes[order[:done]] = np.concatenate([np.empty(0, "<u8"), *noted])
        for line in lines[1:]:
            broken.update({int(row): reason for row, reason in line["broken"].items()})
        if not self.complete:
            # what follows the last whole line was cut off by a kill
            self._write("".join(json.dumps(line) + "\n" for line in lines), "w")
        return done

    def note(self, hashes: NDArray[np.uint64], broken: dict[int, str]) -> None:
        line = {"hashes": hashes.astype("<u8").tobytes().hex(), "broken": broken}
        self._write(json.dumps(line) + "\n", "a")

    def finish(self) -> NDArray[np.uint8]:
        """Give the file its name, and the pixels back read-only."""
        self.values.flush()  # type: ignore[attr-defined]
        os.replace(self.partial, self.path)
        values: NDArray[np.uint8] = np.load(self.path, mmap_mode="r")
        return values

    def _write(self, text: str, mode: Literal["a", "w"]) -> None:
        try:
            with open(self.notes, mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise cannot_write(self.notes, error) from error

    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        try:
            for text in self.notes.read_text(encoding="utf-8").splitlines():
                lines.append(json.loads(text))
        except (OSError, ValueError):
            pass  # not there yet, or its last line is cut off
        return lines

    def _opened(self, path: Path, mode: Literal["r", "r+"]) -> bool:
        try:
            self.values = np.load(path, mmap_mode=mode)
        except (OSError, ValueError, EOFError):
            return False
        return self.values.shape == self.shape

    def _start(self) -> None:
        try:
            # first the notes: with them, an empty new file would pass for a full one
            self.notes.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            self.values = np.lib.format.open_memmap(self.partial, "w+", np.uint8, self.shape)
            if hasattr(os, "posix_fallocate"):
                # a write to a memory map on a full disk would end the process without a word
                with open(self.partial, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, self.partial.stat().st_size)
        except OSError as error:
            self.partial.unlink(missing_ok=True)
            raise cannot_write(self.path, error) from error
        self._write(json.dumps(self.key) + "\n", "w")
