"""Which images make up each batch: nine with tags as asserted for each that people verified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.samplers import Sampler, in_epochs_of, mixed_source, shuffled
from labelsieve.errors import ConfigError


def nine_to_one(
    noisy: NDArray[np.int64],
    verified: NDArray[np.int64],
    batch_size: int,
    seed: int,
    *,
    verified_share: float = 0.1,
    n_processes: int = 1,
) -> Sampler:
    """Batches of images of two kinds, each shuffled and begun again by itself.

    Source: Veit et al., 9:1 in batches of 32, that is 29 and 3. So verified images come much more
    often than the others.

    Args:
        noisy: rows of images with tags as asserted.
        verified: rows of images of which people verified tags; of none, batches are of the others.
        batch_size: of all processes together. A kind with fewer images than its share gives all of
            them.
        verified_share: of a batch, in (0, 1]; at least one image (one on each process).
        seed: at least 0.
        n_processes: that share a batch: each gets equally many of each kind.

    Raises:
        ConfigError: a batch too small for the processes.
        DataError: there are no images at all.

    Example:
        >>> sampler = nine_to_one(np.arange(90), np.arange(90, 100), batch_size=10, seed=0)
        >>> len(sampler), (next(sampler.epoch(0)) >= 90).sum().item()
        (10, 1)
    """
    if not len(verified) or not len(noisy):
        rows = noisy if len(noisy) else verified
        return shuffled(rows, batch_size, seed, n_processes=n_processes)
    share = max(1, round(verified_share * batch_size / n_processes))
    n_verified = min(share, len(verified) // n_processes) * n_processes
    n_noisy = min(batch_size // n_processes - share, len(noisy) // n_processes) * n_processes
    if n_verified < 1 or n_noisy < 1:
        raise ConfigError(
            f"a batch of {batch_size} images on {n_processes} "
            f"{'process' if n_processes == 1 else 'processes'}, with {len(noisy)} images and "
            f"{len(verified)} verified ones; each process needs one of each. Take a larger "
            "batch_size, or fewer processes."
        )
    plan = mixed_source(
        {"noisy": noisy, "verified": verified},
        {"noisy": n_noisy, "verified": n_verified},
        seed,
    )
    # each process' share of a batch, one after the other, has its part of both kinds
    kinds = (
        np.split(np.arange(n_noisy), n_processes),
        np.split(np.arange(n_noisy, n_noisy + n_verified), n_processes),
    )
    return _Ordered(
        plan, np.concatenate([np.concatenate(pair) for pair in zip(*kinds, strict=True)])
    )


def for_updates(sampler: Sampler, n_updates: int, most_epochs: int) -> tuple[Sampler, int]:
    """The same batches without end, cut into epochs of equal length that are so many together.

    Args:
        sampler: whose own epochs no longer matter.
        n_updates: batches in all.
        most_epochs: as many epochs as divide it, at most.

    Returns:
        the sampler, and how many epochs to take of it.
    """
    epochs = next(n for n in range(min(most_epochs, n_updates), 0, -1) if n_updates % n == 0)
    return in_epochs_of(sampler, n_updates // epochs), epochs


@dataclass(frozen=True)
class _Ordered:
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
