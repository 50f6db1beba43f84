"""Batches with fixed shares of clean, mislabeled and foreign images.

::

    clean_stream     the warm-up: the clean images alone
    three_streams    after it: equally many of each kind in every batch
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.samplers import Sampler, mixed_source, shuffled
from labelsieve.errors import ConfigError, DataError
from labelsieve.records import Verdict

KINDS = (Verdict.CLEAN, Verdict.MISLABELED, Verdict.FOREIGN)


def clean_stream(
    verdict: NDArray[np.integer],
    rows: NDArray[np.int64],
    batch_size: int,
    seed: int,
    *,
    n_processes: int = 1,
) -> Sampler:
    """The clean images, each at most once an epoch.

    Source: SNCF, stage B, warm-up.

    Args:
        verdict: (N,) of all images, of `records.Verdict`.
        rows: which of them are trained on.
        batch_size: of all processes together; of fewer clean images, all are one batch.
        seed: at least 0.
        n_processes: that share a batch.

    Raises:
        DataError: no image is clean.

    Example:
        >>> sampler = clean_stream(np.array([0, 1, 0, 2]), np.arange(4), batch_size=2, seed=0)
        >>> [sorted(rows.tolist()) for rows in sampler.epoch(0)]
        [[0, 2]]
    """
    clean = _of_each_kind(verdict, rows)[Verdict.CLEAN]
    return shuffled(clean, batch_size, seed, n_processes=n_processes)


def three_streams(
    verdict: NDArray[np.integer],
    rows: NDArray[np.int64],
    batch_size: int,
    seed: int,
    *,
    n_processes: int = 1,
    most_repeats: float = 20.0,
) -> Sampler:
    """Equally many clean, mislabeled and foreign images in every batch.

    Source: SNCF, stage B, "three-stream" batches: of 256 images 85 of each kind; 128 of two kinds
    where there is none of the third. An epoch is one pass over the clean images, of which none
    comes twice; images of the other kinds come again, all before any comes once more.

    Deviations, where the authors' code hangs, gives no batch, or has an image 28 times in it. Where
    all images are clean, these are the batches of `clean_stream`. Fewer clean images than their
    share are one batch, in which they are repeated. Images of the other kinds come at most
    `most_repeats` times an epoch; where there are too few, there are fewer in a batch, so that they
    count by their number. At least one is in each (one for every process), however often it comes.

    The kinds are spread evenly over a batch: a process' share of it has equally many of each, and
    the order is the same for any number of processes.

    Args:
        verdict: (N,) of all images, of `records.Verdict`.
        rows: which of them are trained on.
        batch_size: of all processes together, at most; a multiple of kinds and processes is taken.
        seed: at least 0.
        n_processes: that share a batch.
        most_repeats: > 0.

    Raises:
        DataError: no image is clean.
        ConfigError: a batch too small for one image of each kind on each process, or `most_repeats`
            not above 0.

    Example:
        >>> verdict = np.repeat([0, 1, 2], [500, 200, 300])
        >>> sampler = three_streams(verdict, np.arange(1000), batch_size=256, seed=0)
        >>> len(sampler), np.bincount(verdict[next(sampler.epoch(0))]).tolist()
        (5, [85, 85, 85])
    """
    if not most_repeats > 0:
        raise ConfigError(f"most_repeats is {most_repeats}; expected a number above 0.")
    sources = {kind: own for kind, own in _of_each_kind(verdict, rows).items() if len(own)}
    if len(sources) == 1:
        return shuffled(sources[Verdict.CLEAN], batch_size, seed, n_processes=n_processes)
    share = batch_size // len(sources) // n_processes * n_processes
    if share == 0:
        raise ConfigError(
            f"a batch of {batch_size} images has no room for {len(sources)} kinds on "
            f"{n_processes} {'process' if n_processes == 1 else 'processes'}. Take a batch_size of "
            f"at least {len(sources) * n_processes}."
        )
    n_batches = max(1, len(sources[Verdict.CLEAN]) // share)
    sizes = {kind: share for kind in sources}
    for kind in list(sources)[1:]:
        most = int(most_repeats * len(sources[kind]) / n_batches) // n_processes * n_processes
        sizes[kind] = min(share, max(most, n_processes))
    named = {kind.name.lower(): own for kind, own in sources.items()}
    plan = mixed_source(
        named, {kind.name.lower(): sizes[kind] for kind in sources}, seed, epoch_of="clean"
    )
    return _Spread(plan, _spread([sizes[kind] for kind in sources]))


@dataclass(frozen=True)
class _Spread:
    """The batches of another sampler, each in a fixed new order."""

    sampler: Sampler
    order: NDArray[np.int64]  # (B,)

    @property
    def batch_size(self) -> int:
        return self.sampler.batch_size

    def __len__(self) -> int:
        return len(self.sampler)

    def epoch(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        for rows in self.sampler.epoch(epoch):
            yield rows[self.order]


def _of_each_kind(
    verdict: NDArray[np.integer], rows: NDArray[np.int64]
) -> dict[Verdict, NDArray[np.int64]]:
    sources = {kind: rows[verdict[rows] == kind] for kind in KINDS}
    if not len(sources[Verdict.CLEAN]):
        raise DataError(
            f"none of {len(rows)} images is called clean; a classifier needs some to begin with. "
            "Look at the audit, or train on all labels with --recipe plain."
        )
    return sources


def _spread(sizes: list[int]) -> NDArray[np.int64]:
    """Where the rows of a batch go that come source after source.

    Row k of a source of s rows is put at (k + 1/2) / s of the batch. If all sizes are multiples of
    P, each of P equal pieces has s / P of each source.
    """
    places = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes])
    return np.argsort(places, kind="stable")
