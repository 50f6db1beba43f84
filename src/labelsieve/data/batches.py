"""Batches of uint8 images on the device of the network: a sampler's rows, a source's pixels."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from labelsieve.data.samplers import Sampler
from labelsieve.data.sources import Source, Wanted, cached, of_rows, resident, streamed
from labelsieve.errors import ConfigError

__all__ = ["Batch", "Batches", "Source", "cached", "of_rows", "resident", "streamed"]


class Batch(NamedTuple):
    """One process' share of a global batch. Where rows come in pairs, so do the images."""

    # (B, 3, S, S) uint8, on the device; (B, 2, 3, S, S) of pairs; (B, D) float32 of `of_rows`
    images: Tensor
    rows: Tensor  # (B,) int64, on the device; (B, 2) of pairs; the rows of which `images` shows
    epoch: int
    step: int  # number of the global batch within its epoch


class Batches:
    """The batches of any epoch; the same images in the same order whatever the process count.

    Of each global batch of B rows, process r of P gets rows r * B / P up to (r + 1) * B / P. Only
    the last batch of `in_order` may not divide: then some shares are a row larger, no row is
    repeated to pad them, and a process whose share is empty does not see the batch.

    Example:
        >>> import numpy as np
        >>> from labelsieve.data.samplers import in_order
        >>> pixels = np.zeros((5, 3, 8, 8), np.uint8)
        >>> batches = Batches(resident(pixels), in_order(5, batch_size=2))
        >>> [batch.rows.tolist() for batch in batches.epoch(0)]
        [[0, 1], [2, 3], [4]]

    Attributes:
        waited: seconds that the taker of batches waited for them so far.
    """

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        *,
        device: str | torch.device = "cpu",
        rank: int = 0,
        n_processes: int = 1,
    ) -> None:
        """Check that what the sampler gives can be shared.

        Args:
            source: `resident`, `cached`, `streamed` or `of_rows`.
            sampler: equal on all processes.
            device: of the network.
            rank: of this process, 0 to n_processes - 1.
            n_processes: that train together.

        Raises:
            ConfigError: the batch size is no multiple of the number of processes.
        """
        if sampler.batch_size % n_processes:
            raise ConfigError(
                f"a batch of {sampler.batch_size} images cannot be shared evenly among "
                f"{n_processes} processes. Take a batch size that is a multiple of {n_processes}."
            )
        self.source, self.sampler = source, sampler
        self.rank, self.n_processes = rank, n_processes
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            # another thread, such as the one that copies, may have another current device
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.waited = 0.0

    @property
    def batch_size(self) -> int:
        """Images (or pairs) a global batch."""
        return self.sampler.batch_size

    @property
    def broken(self) -> dict[int, str]:
        """Rows that could not be decoded, and why; of a stream, those this process met so far."""
        return self.source.broken

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.sampler)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `first` on; those before are not decoded.

        Leave it by `break`, an error or `close()` at any time: its threads end with it.

        Raises:
            ConfigError: the sampler asks for rows that the source does not have.
            DataError: no image of a batch can be decoded.
        """
        steps: deque[int] = deque()
        fetched = self.source.fetch(self._wanted(epoch, first, steps), self.device)
        try:
            while True:
                begun = time.perf_counter()
                found = next(fetched, None)
                self.waited += time.perf_counter() - begun
                if found is None:
                    return
                rows, images = found
                yield Batch(images, rows, epoch, steps.popleft())
        finally:
            fetched.close()

    def _wanted(self, epoch: int, first: int, steps: deque[int]) -> Iterator[Wanted]:
        """The global batches, and this process' share of them; shares that are empty left out."""
        batches = islice(self.sampler.epoch(epoch), first, None)
        for step, rows in enumerate(batches, start=first):
            n = len(rows)
            begin, end = ((self.rank + i) * n // self.n_processes for i in (0, 1))
            if begin == end:
                continue
            if rows.max() >= len(self.source):
                raise ConfigError(
                    f"the sampler asks for row {rows.max()} of {len(self.source)} images. Make it "
                    "for the same set."
                )
            steps.append(step)
            yield Wanted(rows, slice(begin, end))
