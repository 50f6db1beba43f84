"""Where the pixels of a batch come from: an array that holds them all, or files, decoded ahead.

An image that cannot be decoded is stood in for by another of the same global batch, the same one
whatever the number of processes: the other row of its pair, else the rows that follow it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelsieve.data.decode import Decoded, Pixels, Progress, decode_images, stream_batches
from labelsieve.errors import ConfigError, DataError
from labelsieve.records import ImageSet

T = TypeVar("T")
Fetched = Generator[tuple[Tensor, Tensor], None, None]  # rows and images, both on the device

DEVICE_SHARE = 0.5  # of a GPU's free memory; a set of at most this size is kept there
_COPIED_AT_ONCE = 64 << 20  # bytes
_AHEAD = 2  # batches between what makes them and the step


class Wanted(NamedTuple):
    """A global batch, and which part of it this process is to get."""

    rows: NDArray[np.int64]  # (B,) or (B, 2)
    share: slice


class Source(Protocol):
    """Gives the pixels of any rows, or their features."""

    broken: dict[int, str]  # row -> reason; of a stream, those met so far

    def __len__(self) -> int:
        """Rows there are."""

    def fetch(self, wanted: Iterator[Wanted], device: torch.device) -> Fetched:
        """The share of each batch: its rows, and (*rows.shape, 3, S, S) uint8.

        Of rows of features, (*rows.shape, D) float32.
        """


def resident(pixels: Pixels | NDArray[np.uint8] | Tensor) -> Source:
    """All pixels in one array: the fastest source, for sets that are small or decoded before.

    On CUDA the array is copied to the device once, where it takes at most half of the memory that
    is free there at the first batch; else batches are copied one ahead of the step. On the CPU
    batches are taken from the array as it is; from a memory-mapped one, one ahead of the step.

    Args:
        pixels: (N, 3, S, S) uint8, or what `decode_images` gives, whose broken images are stood in
            for where a sampler asks for them.

    Raises:
        ConfigError: an array of another shape or type.
    """
    values: Any = pixels.values if isinstance(pixels, Pixels) else pixels
    if values.ndim != 4 or values.shape[1] != 3 or str(values.dtype)[-5:] != "uint8":
        raise ConfigError(
            f"pixels of shape {tuple(values.shape)} and type {values.dtype}; expected "
            "(N, 3, S, S) uint8."
        )
    return _Resident(values, pixels.reasons if isinstance(pixels, Pixels) else ())


def of_rows(values: NDArray[np.float32]) -> Source:
    """Rows of features in place of pixels: what is trained on images is trained on them as well.

    On CUDA they are kept on the device where they fit, as in `resident`.

    Args:
        values: (N, D) float32, may be memory-mapped. Rows of images that could not be decoded may
            hold anything: no sampler should ask for them.

    Raises:
        ConfigError: an array of another shape or type.

    Example:
        >>> len(of_rows(np.zeros((5, 2), np.float32)))
        5
    """
    if values.ndim != 2 or values.dtype != np.float32:
        raise ConfigError(
            f"rows of shape {values.shape} and type {values.dtype}; expected (N, D) float32. Give "
            "one row of features an image, as astype(numpy.float32)."
        )
    return _Resident(values)


def cached(
    images: ImageSet,
    size: int,
    path: Path,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Source:
    """Decode all images once, to a memory-mapped file, so that no epoch decodes again.

    The file takes 3 * size^2 bytes an image: 154 GB a million images at 224 px. What it holds
    already is used, as in `decode_images`. Of several processes, let one do it first.

    Args:
        images: what to decode.
        size: side of the square that each image is resized and cut to, pixels.
        path: the .npy file.
        threads: of the decoder, as in `stream`.
        progress: told images done and images in all.

    Raises:
        RunError: the file cannot be written.
    """
    return resident(decode_images(images, size, path=path, threads=threads, progress=progress))


def streamed(images: ImageSet, size: int, *, threads: int | None = None) -> Source:
    """Images decoded as they are asked for, a few batches ahead of the step.

    Args:
        images: what to decode; not in Parquet tables, which cannot be read at random.
        size: side of the square that each image is resized and cut to, pixels.
        threads: of the decoder, as in `stream`.

    Raises:
        ConfigError: the images are in a Parquet table.
    """
    if images.places.kind == "parquet":
        raise ConfigError(
            f"{images.source}: images in a Parquet table cannot be read in random order at any "
            "speed. Decode them once, to a file of pixels (`cached`)."
        )
    return _Streamed(images, size, threads)


class _Resident:
    """See `resident` and `of_rows`."""

    def __init__(self, values: Any, reasons: Sequence[str | None] = ()) -> None:
        self.broken = {row: reason for row, reason in enumerate(reasons) if reason is not None}
        self._is_broken = np.zeros(len(values), bool)
        self._is_broken[list(self.broken)] = True
        self._on_device: Tensor | None = None
        if isinstance(values, Tensor) and values.device.type == "cpu":
            values = values.numpy()
        elif isinstance(values, Tensor):
            self._on_device = values
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def fetch(self, wanted: Iterator[Wanted], device: torch.device) -> Fetched:
        held = self._held(device)
        if held is not None:
            for rows in map(self._rows, wanted):
                there = _sent(rows, device)
                yield there, held[there]
            return
        # Not in sorted order: where the file is not in memory that is no faster (32 px: 8.8 against
        # 8.2 thousand images/s; 224 px: 4.9 against 5.2), and where it is, a fifth to half slower.
        taken = ((rows, self._values[rows]) for rows in map(self._rows, wanted))
        if device.type == "cpu" and not isinstance(self._values, np.memmap):
            for rows, images in taken:
                yield torch.from_numpy(rows), torch.from_numpy(images)
            return
        yield from _copied_ahead(taken, device)

    def _rows(self, wanted: Wanted) -> NDArray[np.int64]:
        if not self.broken:
            return wanted.rows[wanted.share]
        return with_stand_ins(
            wanted,
            self._is_broken[wanted.rows[wanted.share]],
            lambda row: not self._is_broken[row],
            lambda row: f"row {row}: {self.broken[row]}",
        )

    def _held(self, device: torch.device) -> Tensor | None:
        """All pixels on the device, copied there at the first call; None where they stay here."""
        if self._on_device is not None and self._on_device.device != device:
            raise ConfigError(f"pixels on {self._on_device.device} for a network on {device}.")
        if self._on_device is None and device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self._values.nbytes <= DEVICE_SHARE * free:
                self._on_device = _upload(self._values, device)
        return self._on_device


class _Streamed:
    """See `streamed`."""

    def __init__(self, images: ImageSet, size: int, threads: int | None) -> None:
        self.broken: dict[int, str] = {}
        self._images, self._size, self._threads = images, size, threads

    def __len__(self) -> int:
        return len(self._images)

    def fetch(self, wanted: Iterator[Wanted], device: torch.device) -> Fetched:
        yield from _copied_ahead(self._decoded(wanted), device)

    def _decoded(
        self, wanted: Iterator[Wanted]
    ) -> Generator[tuple[NDArray[np.int64], NDArray[np.uint8]], None, None]:
        asked: deque[Wanted] = deque()

        def shares() -> Iterator[NDArray[np.int64]]:
            for each in wanted:
                asked.append(each)
                yield each.rows[each.share].ravel()

        batches = self._stream(shares())
        try:
            for decoded in batches:
                yield self._filled(asked.popleft(), decoded)
        finally:
            batches.close()

    def _stream(self, rows: Iterator[NDArray[np.int64]]) -> Generator[Decoded, None, None]:
        return stream_batches(self._images, self._size, rows, threads=self._threads, hashed=False)

    def _filled(
        self, wanted: Wanted, decoded: Decoded
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The share with every slot filled; those of broken images by what stands in for them."""
        rows = wanted.rows[wanted.share]
        pixels = decoded.pixels
        if decoded.broken:
            found = dict(zip(decoded.rows.tolist(), decoded.pixels, strict=True))
            broken = dict(decoded.broken)

            def readable(row: int) -> bool:
                if row not in found and row not in broken:
                    # in the share of another process
                    (one,) = self._stream(iter([np.array([row])]))
                    found.update(zip(one.rows.tolist(), one.pixels, strict=True))
                    broken.update(one.broken)
                return row in found

            try:
                rows = with_stand_ins(
                    wanted,
                    np.isin(rows, list(broken)),
                    readable,
                    lambda row: f"{self._images.ids[row]!r}: {broken[row]}",
                    f"{self._images.source}: ",
                )
            finally:
                self.broken.update(broken)
            pixels = np.stack([found[row] for row in rows.ravel().tolist()])
        return rows, pixels.reshape(*rows.shape, *pixels.shape[1:])


def with_stand_ins(
    wanted: Wanted,
    is_broken: NDArray[np.bool_],
    readable: Callable[[int], bool],
    about: Callable[[int], str],
    where: str = "",
) -> NDArray[np.int64]:
    """The rows of the share, with readable ones of the global batch in place of the broken.

    Args:
        wanted: the batch.
        is_broken: as large as the share.
        readable: whether a row can be decoded.
        about: what to say of a broken row.
        where: how the message begins, if there is no readable image at all.

    Raises:
        DataError: there is none in the global batch.
    """
    everyone = wanted.rows.ravel()
    n_columns = everyone.size // max(1, len(wanted.rows))
    rows = wanted.rows[wanted.share].copy()
    begin = wanted.share.start or 0
    for place in np.argwhere(is_broken):
        # the row's own pair first: an image is its own neighbor, but a stranger is none
        first = (begin + int(place[0])) * n_columns
        candidates = np.roll(everyone, -first).tolist()
        found = next((row for row in candidates if readable(row)), None)
        if found is None:
            raise DataError(
                f"{where}none of the {everyone.size} images of a batch can be decoded, such as "
                f"{about(int(everyone[first]))}. See whether they are still there, and leave "
                "broken ones out."
            )
        rows[tuple(place)] = found
    return rows


def _copied_ahead(
    batches: Generator[tuple[NDArray[np.int64], NDArray[Any]], None, None],
    device: torch.device,
) -> Fetched:
    """Batches on the device, made and copied by a thread while the step before is at work."""
    try:
        if device.type != "cuda":
            yield from _ahead(
                (_sent(rows, device), _sent(images, device)) for rows, images in batches
            )
            return
        for rows, images, copied in _ahead(_copied(batches, device)):
            step = torch.cuda.current_stream(device)
            step.wait_event(copied)
            for tensor in (rows, images):
                tensor.record_stream(step)  # else its memory is given away while the step needs it
            yield rows, images
    finally:
        batches.close()


def _copied(
    batches: Iterator[tuple[NDArray[np.int64], NDArray[Any]]], device: torch.device
) -> Generator[tuple[Tensor, Tensor, torch.cuda.Event], None, None]:
    """Copy on a stream of their own, so that copies and steps overlap."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for pair in batches:
        with torch.cuda.stream(stream):
            rows, images = (_sent(each, device) for each in pair)
            copied = stream.record_event()
        yield rows, images, copied


def _ahead(items: Generator[T, None, None]) -> Generator[T, None, None]:
    """The same items, made by a thread before they are asked for; its errors are raised here."""
    end: Any = object()
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    pending = deque(pool.submit(next, items, end) for _ in range(_AHEAD))
    try:
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _sent(values: NDArray[Any], device: torch.device) -> Tensor:
    """An array on the device; to CUDA on its way there, while this thread goes on."""
    here = torch.from_numpy(values)
    if device.type != "cuda":
        return here.to(device)
    return here.pin_memory().to(device, non_blocking=True)


def _upload(values: NDArray[Any], device: torch.device) -> Tensor:
    """Copy piece by piece: a memory-mapped array does not pass through memory as a whole."""
    dtype = torch.from_numpy(np.array(values[:1])).dtype
    there = torch.empty(values.shape, dtype=dtype, device=device)
    step = max(1, _COPIED_AT_ONCE // max(1, values[:1].nbytes))
    for first in range(0, len(values), step):
        there[first : first + step] = torch.from_numpy(np.array(values[first : first + step]))
    return there
