"""Batches of feature rows and of one neighbor each, gathered by index: no image is looked at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelsieve.data.draws import Draws, Stream
from labelsieve.data.samplers import anchor_neighbor
from labelsieve.errors import ConfigError
from labelsieve.loop.runtime import Runtime

_DEVICE_SHARE = 0.5  # of a GPU's free memory; rows of at most this size are kept there


class RowBatch(NamedTuple):
    """One process' share of a global batch."""

    rows: Tensor  # (2 * B, D) float32 on the device: B anchors, then the neighbor of each
    pairs: Tensor  # (2 * B,) int64, which rows they are
    epoch: int
    step: int  # number of the global batch within its epoch


class PairBatches:
    """Each row at most once an epoch, with one neighbor, drawn anew each epoch from K and itself.

    Of several views of the rows, an anchor and its neighbor each take one: a function of (seed,
    epoch, row, which of the two it is), whatever the batch or the process it comes in with.

    Attributes:
        waited: seconds that the taker of batches waited for them so far.
    """

    def __init__(
        self,
        rows: NDArray[np.floating[Any]],
        neighbors: NDArray[np.int64],
        batch_size: int,
        *,
        seed: int,
        runtime: Runtime,
    ) -> None:
        """Plan them.

        Args:
            rows: (N, D), or (R, N, D) where there are R views; may be memory-mapped.
            neighbors: (N, K) other rows.
            batch_size: pairs, of all processes together.
            seed: of orders, neighbors and views.
            runtime: which process of how many this is, and on which device.

        Raises:
            ConfigError: the batch size is no multiple of the number of processes.
            DataError: a neighbor is no row.
        """
        n_processes = runtime.n_processes
        if batch_size % n_processes:
            raise ConfigError(
                f"a batch of {batch_size} rows cannot be shared evenly among {n_processes} "
                f"processes. Take a batch size that is a multiple of {n_processes}."
            )
        self._sampler = anchor_neighbor(neighbors, batch_size, seed, n_processes=n_processes)
        self._values, self._seed, self._runtime = np.asarray(rows), seed, runtime
        self._held = _held(self._values, runtime.device)
        self.waited = 0.0

    @property
    def batch_size(self) -> int:
        """Pairs a global batch; smaller than asked for where there are fewer rows."""
        return self._sampler.batch_size

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._sampler)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[RowBatch]:
        """The batches of one epoch from number `first` on; the rows of those before stay unread."""
        rank, n_processes = self._runtime.rank, self._runtime.n_processes
        planned = islice(self._sampler.epoch(epoch), first, None)
        for step, pairs in enumerate(planned, start=first):
            begun = time.perf_counter()
            share = len(pairs) // n_processes
            mine = pairs[rank * share : (rank + 1) * share].T.ravel()  # anchors first
            rows = self._taken(mine, epoch)
            self.waited += time.perf_counter() - begun
            yield RowBatch(rows, torch.from_numpy(mine), epoch, step)

    def _taken(self, pairs: NDArray[np.int64], epoch: int) -> Tensor:
        if self._values.ndim == 2:
            if self._held is not None:
                return self._held[torch.from_numpy(pairs).to(self._runtime.device)].float()
            # take, as it needs half the time of values[pairs]
            return self._sent(self._values.take(pairs, axis=0))
        views = self._views(pairs, epoch)
        if self._held is not None:
            device = self._runtime.device
            return self._held[views.to(device), torch.from_numpy(pairs).to(device)].float()
        return self._sent(self._values[views.numpy(), pairs])

    def _views(self, pairs: NDArray[np.int64], epoch: int) -> Tensor:
        n_views = len(self._values)
        sides = [
            Draws(self._seed, epoch, rows, side).integers(Stream.CACHED_VIEW, n_views).squeeze(1)
            for side, rows in enumerate(torch.from_numpy(pairs).chunk(2))
        ]
        return torch.cat(sides)

    def _sent(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32, copy=False)).to(self._runtime.device)


def _held(values: NDArray[Any], device: torch.device) -> Tensor | None:
    """All rows on the device, where it is a GPU with enough memory; None where they stay here."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if values.nbytes > _DEVICE_SHARE * free:
        return None
    # a copy: torch warns of arrays that cannot be written to, such as memory-mapped ones
    return torch.from_numpy(np.array(values)).to(device)
