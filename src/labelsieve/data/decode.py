"""Many images become uint8 pixels: in parallel, broken ones set aside with their reasons."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.picture import decode, decoder_name, fit, pixel_hash
from labelsieve.data.places import Reader, reading_order
from labelsieve.data.store import RowStore
from labelsieve.errors import DataError
from labelsieve.records import ImageSet

__all__ = [
    "Decoded",
    "Pixels",
    "confirmed_hashes",
    "decode",
    "decode_images",
    "decoder_name",
    "fit",
    "stream",
    "stream_batches",
]

Progress = Callable[[int, int], None]  # images done, images in all

_FORMAT = 1  # raise it when the same bytes give other pixels than before
_CHUNK = 4096  # images between two notes of how far a decode has come, if so many are ...
_CHUNK_BYTES = 64 << 20  # ... of no more pixels than this; several chunks are in memory at a time
_TINY = 8192  # bytes of an encoded image
_AHEAD = 2  # batches decoded before they are asked for; bounds the memory


class Decoded(NamedTuple):
    """Some decoded images, and those among them that could not be."""

    rows: NDArray[np.int64]  # (B,) of the image set; only those that could be decoded
    pixels: NDArray[np.uint8]  # (B, 3, size, size)
    hashes: NDArray[np.uint64]  # (B,) of the picture before it was resized; equal: exact duplicates
    broken: dict[int, str]  # row -> reason


@dataclass(frozen=True)
class Pixels:
    """All images of a set at one small size, with what could not be decoded and why."""

    values: NDArray[np.uint8]  # (N, 3, size, size); 0 where broken; memory-mapped if from a file
    hashes: NDArray[np.uint64]  # (N,) as in Decoded; 0 where broken
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
) -> Generator[Decoded, None, None]:
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
    batches = (rows[first : first + batch_size] for first in range(0, len(rows), batch_size))
    return stream_batches(images, size, batches, threads=threads)


def stream_batches(
    images: ImageSet,
    size: int,
    batches: Iterator[NDArray[np.int64]],
    *,
    threads: int | None = None,
    hashed: bool = True,
) -> Generator[Decoded, None, None]:
    """The same, of batches of any rows and sizes, none of them empty, which are asked for in turn.

    Args:
        images: what to decode.
        size: as in `stream`.
        batches: the rows of each; a few are taken ahead.
        threads: as in `stream`.
        hashed: without, all hashes are 0; they are a tenth of the work.
    """
    reader = Reader(images.places)
    pending: deque[list[Future[Decoded]]] = deque()
    pool: ThreadPoolExecutor | None = None
    try:
        for rows in batches:
            if pool is None:
                threads = threads or _default_threads(reader, rows)
                pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
            # small enough to keep all threads busy on a batch, and large enough to be worth it
            piece = max(1, min(128, -(-len(rows) // (threads or 1))))
            pending.append(
                [
                    pool.submit(_decode_rows, reader, rows[i : i + piece], size, hashed)
                    for i in range(0, len(rows), piece)
                ]
            )
            if len(pending) > _AHEAD:
                yield _joined(pending.popleft())
        while pending:
            yield _joined(pending.popleft())
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def decode_images(
    images: ImageSet,
    size: int,
    *,
    path: Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Pixels:
    """Decode all images to one array: the pixel cache.

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
    order = reading_order(images.places)
    chunk = max(1, min(_CHUNK, _CHUNK_BYTES // (3 * size * size)))
    store = RowStore(path, _key(images, size, chunk), n)
    store.begin((3, size, size), np.uint8)
    noted = [np.frombuffer(bytes.fromhex(line["hashes"]), "<u8") for line in store.resumed]
    hashes[order[: store.done]] = np.concatenate([np.empty(0, "<u8"), *noted])
    if not store.complete:
        for batch in stream(images, size, chunk, rows=order[store.done :], threads=threads):
            store.values[batch.rows] = batch.pixels
            hashes[batch.rows] = batch.hashes
            here = order[store.done : store.done + chunk]
            told = hashes[here].astype("<u8").tobytes().hex()
            store.note(len(here), batch.broken, hashes=told)
            if progress is not None:
                progress(store.done, n)
    return Pixels(store.finish(), hashes, tuple(map(store.broken.get, range(n))))


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


def _decode_rows(reader: Reader, rows: NDArray[np.int64], size: int, hashed: bool) -> Decoded:
    pixels = np.empty((len(rows), size, size, 3), np.uint8)
    hashes = np.zeros(len(rows), np.uint64)
    kept: list[int] = []
    broken: dict[int, str] = {}
    for row in rows.tolist():
        try:
            picture = decode(reader.read(row), min_side=size)
        except DataError as error:
            broken[row] = str(error)
            continue
        pixels[len(kept)] = fit(picture, size)
        if hashed:
            hashes[len(kept)] = pixel_hash(picture)
        kept.append(row)
    n = len(kept)
    planes = np.ascontiguousarray(pixels[:n].transpose(0, 3, 1, 2))
    return Decoded(np.array(kept, np.int64), planes, hashes[:n], broken)


def _joined(pieces: list[Future[Decoded]]) -> Decoded:
    batches = [piece.result() for piece in pieces]
    return Decoded(
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


def _key(images: ImageSet, size: int, chunk: int) -> dict[str, Any]:
    """What the pixels depend on: equal keys, equal pixels."""
    return {
        "format": _FORMAT,
        "images": images.fingerprint(),
        "size": size,
        "decoder": decoder_name(),
        "chunk": chunk,
    }
