"""One stream of images in which those that teach little come less often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.samplers import Sampler, shuffled
from labelsieve.errors import ConfigError, DataError

_GOLDEN = (5**0.5 - 1) / 2
_ROUNDING = 1e-6  # of a sum of rates: ten rates of 0.1 come to 0.9999999999999999, and are one row
_ORDER = 0x74  # of random numbers: those for the order of rows


def thinned(
    rows: NDArray[np.int64],
    rates: NDArray[np.floating],
    batch_size: int,
    seed: int,
    *,
    n_processes: int = 1,
) -> Sampler:
    """Each row in a share of the epochs, evenly spread over them, and at most once in an epoch.

    An image whose losses count by a weight near zero costs as much as any other. Where it comes as
    seldom as it counts, the same number of updates learns from more images that count.

    Args:
        rows: (M,) which rows, each once.
        rates: (M,) in [0, 1]: the share of epochs that each row is in. Where all are 1, these are
            the batches of `shuffled`.
        batch_size: of all processes together, at most: of fewer rows an epoch, all are one batch.
        seed: at least 0.
        n_processes: that share a batch.

    Raises:
        ConfigError: a rate outside [0, 1], or the batch size is not positive.
        DataError: not one rate a row, or fewer rows an epoch than processes.

    Example:
        >>> sampler = thinned(np.arange(8), np.repeat([1.0, 0.5], 4), batch_size=3, seed=0)
        >>> len(sampler), [len(rows) for rows in sampler.epoch(0)]
        (2, [3, 3])
    """
    if rates.shape != rows.shape:
        raise DataError(f"rates are {rates.shape} of rows {rows.shape}; expected one a row.")
    if len(rates) and not 0 <= rates.min() <= rates.max() <= 1:
        raise ConfigError(
            f"rates run from {rates.min()} to {rates.max()}; expected shares of the epochs, in "
            "[0, 1]."
        )
    if len(rates) == 0 or rates.min() >= 1:
        return shuffled(rows, batch_size, seed, n_processes=n_processes)
    n_least = int(rates.sum(dtype=np.float64) + _ROUNDING)  # rows of an epoch: so many, or one more
    least = shuffled(n_least, batch_size, seed, n_processes=n_processes)
    order = np.random.default_rng([_ORDER, seed]).permutation(len(rows))
    return _Thinned(least.batch_size, len(least), rows[order], rates[order], seed, n_processes)


@dataclass(frozen=True)
class _Thinned:
    batch_size: int
    n_batches: int
    rows: NDArray[np.int64]  # (M,) in any order that has nothing to do with their rates
    rates: NDArray[np.floating]
    seed: int
    n_processes: int

    def __len__(self) -> int:
        return self.n_batches

    def epoch(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        chosen = shuffled(
            self.present(epoch), self.batch_size, self.seed, n_processes=self.n_processes
        )
        return islice(chosen.epoch(epoch), self.n_batches)

    def present(self, epoch: int) -> NDArray[np.int64]:
        """The rows of an epoch, by systematic sampling.

        Rows are laid end to end on a line, each as long as its rate, and those are taken that a
        tick of a ruler falls on. Epochs shift the ruler by the golden ratio, which comes closest to
        spacing the epochs of each row evenly.
        """
        always = self.rates >= 1  # their ends are not left to rounding
        shift = epoch * _GOLDEN % 1 + _ROUNDING
        ends = np.cumsum(self.rates[~always], dtype=np.float64) + shift
        starts = np.concatenate([[shift], ends[:-1]])
        hit = np.floor(ends) > np.floor(starts)
        return np.concatenate([self.rows[always], self.rows[~always][hit]])
