"""Which rows make up each batch: the same on every process, by seed and epoch alone.

A sampler gives global batches, those of all processes together; each process takes its share of
each. A training sampler leaves out the last, incomplete batch. Where there are fewer rows than the
batch asks for, the batch is made smaller, so that a small set trains too: `batch_size` says what
it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.dealing import dealt, groups, n_rounds, turns
from labelsieve.errors import ConfigError, DataError, did_you_mean

__all__ = [
    "Sampler",
    "anchor_neighbor",
    "balanced",
    "grouped",
    "in_epochs_of",
    "in_order",
    "infinite",
    "mixed_source",
    "shuffled",
]


class Sampler(Protocol):
    """Gives the batches of any epoch."""

    @property
    def batch_size(self) -> int:
        """Rows a batch, of all processes together."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def epoch(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """The batches of one epoch, (B,) row numbers each; (B, 2) where rows come in pairs."""


def shuffled(
    rows: int | NDArray[np.int64], batch_size: int, seed: int, *, n_processes: int = 1
) -> Sampler:
    """Each row at most once an epoch, in an order that differs from epoch to epoch.

    Args:
        rows: which rows, each once; or how many there are.
        batch_size: of all processes together; of fewer rows than this, all are one batch.
        seed: at least 0.
        n_processes: a batch made smaller stays a multiple of this; rows are left out for that.

    Example:
        >>> sampler = shuffled(10, batch_size=4, seed=0)
        >>> len(sampler), [len(rows) for rows in sampler.epoch(0)]
        (2, [4, 4])

    Raises:
        ConfigError: the batch size is no positive number, or a row is negative.
        DataError: there are fewer rows than processes, or none.
    """
    chosen = _chosen(rows)
    n = len(chosen)
    batch_size = _fitting(batch_size, n, n_processes)
    kept = n // batch_size * batch_size
    return _Planned(batch_size, kept, lambda e: chosen[_generator(seed, e).permutation(n)[:kept]])


def in_order(rows: int | NDArray[np.int64], batch_size: int) -> Sampler:
    """All rows as they come, every epoch alike, the last batch with what is left: to evaluate.

    Example:
        >>> [rows.tolist() for rows in in_order(5, batch_size=2).epoch(0)]
        [[0, 1], [2, 3], [4]]
    """
    chosen = _chosen(rows)
    _fitting(batch_size, len(chosen), 1)
    return _Planned(batch_size, len(chosen), lambda _: chosen)


def balanced(
    labels: NDArray[np.int64],
    classes_per_batch: int,
    images_per_class: int,
    seed: int,
    *,
    n_batches: int | None = None,
    n_processes: int = 1,
) -> Sampler:
    """P classes a batch, K images of each, class after class: all classes equally often.

    Over an epoch the classes take turns, and so do the images of a class: none comes a second time
    before all others came once. No class is twice in a batch. A class of fewer than K images
    repeats them, as evenly as can be. Where there are fewer than P classes, all are in every batch.

    Args:
        labels: (N,) as given, however noisy; images of a negative label are left out.
        classes_per_batch: P.
        images_per_class: K.
        seed: at least 0.
        n_batches: an epoch; by default as many as the labeled images would fill.
        n_processes: a batch of fewer than P classes stays a multiple of this.

    Raises:
        ConfigError: a number is not positive, or no number of classes up to P makes a batch that
            can be shared among the processes.
        DataError: no image has a label.
    """
    if min(classes_per_batch, images_per_class, 1 if n_batches is None else n_batches) < 1:
        raise ConfigError(
            f"{classes_per_batch} classes a batch, {images_per_class} images of each, n_batches "
            f"{n_batches}; at least 1 of each is needed."
        )
    members = _members(labels)
    n_classes = _fitting_classes(classes_per_batch, len(members), images_per_class, n_processes)
    batch_size = n_classes * images_per_class
    n_labeled = sum(map(len, members))
    n = max(1, n_labeled // batch_size) if n_batches is None else n_batches

    def order(epoch: int) -> NDArray[np.int64]:
        rng = _generator(seed, epoch)
        turns = dealt(len(members), n, n_classes, rng).ravel()  # (n * P,) which class comes when
        rows = np.empty((len(turns), images_per_class), np.int64)
        times = np.bincount(turns, minlength=len(members))
        places = np.split(np.argsort(turns, kind="stable"), np.cumsum(times)[:-1])
        for own, where in zip(members, places, strict=True):
            rows[where] = own[dealt(len(own), len(where), images_per_class, rng)]
        return rows.ravel()

    return _Planned(batch_size, n * batch_size, order)


def grouped(
    labels: NDArray[np.int64],
    classes_per_batch: int,
    images_per_class: int,
    seed: int,
    *,
    rows: NDArray[np.int64] | None = None,
    n_processes: int = 1,
) -> Sampler:
    """P classes a batch, K images of each, class after class: each image about once an epoch.

    Source: PRISM, authors' code. The images of a class are cut into groups of K; a batch takes a
    group of each of P classes, drawn without replacement in proportion to the groups they have
    left; an epoch ends when fewer than P classes have any. Deviations: a group is filled up with
    images that are not in it yet, and only of a class of fewer than K images has twins; and no
    class is left over for want of others as long as that can be helped, so every epoch is as long
    as any can be, and all are of one length. As in `balanced`, P is made smaller where there are
    fewer classes; there, unlike here, every class comes as often as any other.

    Args:
        labels: (N,) as given, however noisy; images of a negative label are left out.
        classes_per_batch: P.
        images_per_class: K.
        seed: at least 0.
        rows: which of the N images to take, each once; by default all.
        n_processes: as in `balanced`.

    Example:
        >>> sampler = grouped(np.array([0, 0, 0, 1, 1, 2]), 2, 2, seed=0)
        >>> len(sampler), sampler.batch_size
        (2, 4)

    Raises:
        ConfigError: a number is not positive, a row is none of 0 to N - 1, or no number of classes
            up to P makes a batch that can be shared among the processes.
        DataError: no image has a label.
    """
    if min(classes_per_batch, images_per_class) < 1:
        raise ConfigError(
            f"{classes_per_batch} classes a batch, {images_per_class} images of each; at least 1 "
            "of each is needed."
        )
    chosen = _chosen(len(labels) if rows is None else rows)
    if len(chosen) and chosen.max() >= len(labels):
        raise ConfigError(f"row {chosen.max()} of {len(labels)} labels; expected rows below that.")
    members = [chosen[own] for own in _members(labels[chosen])]
    n_classes = _fitting_classes(classes_per_batch, len(members), images_per_class, n_processes)
    n_groups = np.array([-(-len(own) // images_per_class) for own in members], np.int64)
    batch_size = n_classes * images_per_class

    def order(epoch: int) -> NDArray[np.int64]:
        rng = _generator(seed, epoch)
        turn = turns(n_groups, n_classes, rng).ravel()  # (n * P,) which class comes when
        drawn = np.empty((len(turn), images_per_class), np.int64)
        times = np.bincount(turn, minlength=len(members))
        places = np.split(np.argsort(turn, kind="stable"), np.cumsum(times)[:-1])
        for own, where in zip(members, places, strict=True):
            drawn[where] = own[groups(len(own), images_per_class, rng)[: len(where)]]
        return drawn.ravel()

    return _Planned(batch_size, n_rounds(n_groups, n_classes) * batch_size, order)


def anchor_neighbor(
    neighbors: NDArray[np.integer],
    batch_size: int,
    seed: int,
    *,
    rows: NDArray[np.int64] | None = None,
    n_processes: int = 1,
) -> Sampler:
    """Pairs of a row and one of its neighbors: (B, 2), each row at most once an epoch as anchor.

    Source: SCAN, authors' code: the neighbor is drawn uniformly from the K neighbors and the
    anchor itself, one of K + 1.

    Args:
        neighbors: (N, K) indices, self excluded, as in `Neighbors`.
        batch_size: pairs a batch; of fewer rows than this, all are one batch.
        seed: at least 0.
        rows: (N,) row numbers to give in place of indices, where the table is of some rows only.
        n_processes: as in `shuffled`.

    Raises:
        DataError: an index is none of 0 to N - 1, or there are fewer rows than processes.
    """
    n, n_neighbors = neighbors.shape
    if neighbors.size and not 0 <= neighbors.min() <= neighbors.max() < n:
        raise DataError(
            f"neighbors run from {neighbors.min()} to {neighbors.max()}; expected 0 to {n - 1}, "
            "the rows of their table. Give every row all of its neighbors."
        )
    chosen = _chosen(n if rows is None else rows)
    if len(chosen) != n:
        raise DataError(f"{len(chosen)} rows for neighbors of {n}; expected one each.")
    batch_size = _fitting(batch_size, n, n_processes)
    kept = n // batch_size * batch_size

    def order(epoch: int) -> NDArray[np.int64]:
        rng = _generator(seed, epoch)
        anchors = rng.permutation(n)[:kept]
        columns = rng.integers(0, n_neighbors + 1, kept)
        partners = anchors.copy()
        others = np.flatnonzero(columns < n_neighbors)  # the last column stands for the row itself
        partners[others] = neighbors[anchors[others], columns[others]]
        return chosen[np.stack([anchors, partners], axis=1)]

    return _Planned(batch_size, kept, order)


def mixed_source(
    sources: Mapping[str, NDArray[np.int64]],
    sizes: Mapping[str, int],
    seed: int,
    *,
    epoch_of: str | None = None,
) -> Sampler:
    """Batches with a fixed share of each source, source after source.

    One source makes the epoch: its rows come at most once. A shorter one is shuffled anew and comes
    again, none of its rows a second time before all came once. An empty one gives none: the batch
    is smaller by its share.

    Args:
        sources: rows of each source, by name.
        sizes: how many of them are in a batch; 0 for none.
        seed: at least 0.
        epoch_of: the source that makes the epoch; by default the one that lasts longest.

    Raises:
        ConfigError: the two do not name the same sources, or a size is negative.
        DataError: there is nothing to give, or nothing of the source that makes the epoch.
    """
    _check_sources(sources, sizes, epoch_of)
    rows = {name: _chosen(sources[name]) for name in sources if sizes[name] and len(sources[name])}
    if not rows or (epoch_of is not None and epoch_of not in rows):
        raise DataError(
            f"{'all sources' if not rows else f'source {epoch_of!r}'}: no rows to make batches of."
        )
    lasts = {name: max(1, len(own) // sizes[name]) for name, own in rows.items()}
    n = max(lasts.values()) if epoch_of is None else lasts[epoch_of]
    batch_size = sum(sizes[name] for name in rows)
    stream_of = {name: i for i, name in enumerate(sources)}

    def order(epoch: int) -> NDArray[np.int64]:
        parts = [
            own[dealt(len(own), n, sizes[name], _generator(seed, epoch, stream_of[name]))]
            for name, own in rows.items()
        ]
        return np.concatenate(parts, axis=1).ravel()

    return _Planned(batch_size, n * batch_size, order)


def infinite(sampler: Sampler, start: int = 0) -> Iterator[NDArray[np.int64]]:
    """Batch number `start` and all that follow, epoch after epoch, without end.

    Example:
        >>> [rows.tolist() for rows in islice(infinite(in_order(3, batch_size=2), start=1), 3)]
        [[2], [0, 1], [2]]
    """
    first_epoch, first = divmod(start, len(sampler))
    yield from islice(sampler.epoch(first_epoch), first, None)
    for epoch in count(first_epoch + 1):
        yield from sampler.epoch(epoch)


def in_epochs_of(sampler: Sampler, n_batches: int) -> Sampler:
    """The batches of a sampler, epoch after epoch without end, in epochs of another length.

    Args:
        sampler: whose own epochs no longer matter.
        n_batches: an epoch.

    Example:
        >>> sampler = in_epochs_of(in_order(3, batch_size=2), n_batches=3)
        >>> [rows.tolist() for rows in sampler.epoch(1)]
        [[2], [0, 1], [2]]
    """
    return _Recut(sampler, n_batches)


@dataclass(frozen=True)
class _Recut:
    """The batches of another sampler, in epochs of another length."""

    sampler: Sampler
    n_batches: int

    @property
    def batch_size(self) -> int:
        return self.sampler.batch_size

    def __len__(self) -> int:
        return self.n_batches

    def epoch(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        return islice(infinite(self.sampler, epoch * self.n_batches), self.n_batches)


@dataclass(frozen=True)
class _Planned:
    """The rows of an epoch, all decided at its start, cut into batches."""

    batch_size: int
    n_rows: int  # an epoch; where it is no multiple of the batch size, the last batch is smaller
    order: Callable[[int], NDArray[np.int64]]  # epoch -> (n_rows,) or (n_rows, 2)

    def __len__(self) -> int:
        return -(-self.n_rows // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        order = self.order(epoch)
        for first in range(0, self.n_rows, self.batch_size):
            # a copy: a batch that is kept must not keep all of the epoch's order in memory
            yield order[first : first + self.batch_size].copy()


def _generator(seed: int, epoch: int, stream: int = 0) -> np.random.Generator:
    # the stream is a spawn key: no other entropy of (seed, epoch, ...) gives the same numbers
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence((seed, epoch), spawn_key=(stream,)))
    )


def _chosen(rows: int | NDArray[np.int64]) -> NDArray[np.int64]:
    chosen = np.arange(rows) if isinstance(rows, int) else np.asarray(rows)
    if len(chosen) and (chosen.ndim != 1 or chosen.dtype.kind not in "iu" or chosen.min() < 0):
        raise ConfigError(
            f"rows of shape {chosen.shape} and type {chosen.dtype}; expected one dimension of "
            "numbers from 0 on."
        )
    return chosen.astype(np.int64, copy=False)


def _fitting(batch_size: int, n: int, n_processes: int) -> int:
    """The batch size, made smaller where there are fewer rows than that."""
    if batch_size < 1:
        raise ConfigError(f"the batch size is {batch_size}; at least 1 is needed.")
    if n < n_processes or not n:
        raise DataError(
            f"{n} images for {n_processes} {'process' if n_processes == 1 else 'processes'}; at "
            "least one for each is needed."
        )
    return batch_size if batch_size <= n else n // n_processes * n_processes


def _fitting_classes(wanted: int, there: int, images_per_class: int, n_processes: int) -> int:
    """P, made smaller where there are fewer classes than that."""
    if wanted <= there:
        return wanted
    for n_classes in range(there, 0, -1):
        if n_classes * images_per_class % n_processes == 0:
            return n_classes
    raise ConfigError(
        f"{there} classes with {images_per_class} images of each in a batch cannot be shared among "
        f"{n_processes} processes. Take a multiple of {n_processes} images of each."
    )


def _members(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each class that has any."""
    by_class = np.argsort(labels, kind="stable")
    by_class = by_class[np.count_nonzero(labels < 0) :]
    if not len(by_class):
        raise DataError(f"none of {len(labels)} images has a label; balanced batches need labels.")
    _, firsts = np.unique(labels[by_class], return_index=True)
    return np.split(by_class, firsts[1:])


def _check_sources(
    sources: Mapping[str, NDArray[np.int64]], sizes: Mapping[str, int], epoch_of: str | None
) -> None:
    names = [*sizes, *([] if epoch_of is None else [epoch_of])]
    for name in names:
        if name not in sources:
            raise ConfigError(f"no source {name!r}. {did_you_mean(name, sources)}")
    for name in sources:
        if sizes.get(name, -1) < 0:
            raise ConfigError(
                f"source {name!r} has the size {sizes.get(name)}; expected its rows a batch, 0 or "
                "more."
            )
