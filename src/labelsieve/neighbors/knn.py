"""The nearest images of each image: exact, in blocks, never N x N in memory.

A tile of similarities is one matrix product; only entries above a row's floor (its K-th best so
far) leave the tile. In a self-join each tile serves its rows and, transposed, its columns: half the
products, and less CPU time than faiss' IndexFlatIP (benchmarks/neighbors.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from labelsieve.errors import ConfigError, DataError
from labelsieve.records import Neighbors

Progress = Callable[[int, int], None]  # (done, total)

BLOCK = 512  # rows of a tile: 512 x 512 float32 stays in a core's second-level cache
KEEP = 3  # candidates held for each neighbor wanted, before the worst are dropped


def nearest_neighbors(
    features: NDArray[np.float32],
    n_neighbors: int,
    *,
    rows: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> Neighbors:
    """The nearest other images of each image; equal to a float32 brute force.

    An image is left out of its own neighbors by its row, not by its distance: copies of it stay in.
    Equal similarities come in the order of rows. The number of threads does not change the result.
    Memory beyond the inputs: about 12 N K KEEP bytes.

    Args:
        features: (N, D) unit-norm.
        n_neighbors: >= 1; at most N - 1 columns come back.
        rows: (R,) rows to find neighbors for, or all of them.
        progress: called with (done, total).

    Raises:
        DataError: a row is not finite or not of unit norm.

    Example:
        >>> corners = np.eye(3, dtype=np.float32)[[0, 1, 0, 2]]
        >>> nearest_neighbors(corners, 1).indices.ravel().tolist()
        [2, 0, 0, 0]
    """
    features = unit_rows(features, "features")
    n_neighbors = min(_at_least_one(n_neighbors), max(len(features) - 1, 0))
    if rows is not None:
        rows = np.asarray(rows, np.int64)
        return _search(features[rows], features, n_neighbors, rows, progress)
    return _self_join(features, n_neighbors, progress)


def search(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    n_neighbors: int,
    *,
    progress: Progress | None = None,
) -> Neighbors:
    """The nearest gallery rows of each query, where the two are different images.

    Args:
        queries: (Q, D) unit-norm.
        gallery: (N, D) unit-norm.
        n_neighbors: >= 1; at most N columns come back.
        progress: called with (done, total).

    Raises:
        DataError: a row is not finite or not of unit norm, or the two differ in length.
    """
    queries, gallery = unit_rows(queries, "queries"), unit_rows(gallery, "gallery")
    if queries.shape[1] != gallery.shape[1]:
        raise DataError(
            f"queries have {queries.shape[1]} values a row, the gallery {gallery.shape[1]}. "
            "Make both with the same features."
        )
    n_neighbors = min(_at_least_one(n_neighbors), len(gallery))
    return _search(queries, gallery, n_neighbors, None, progress)


def unit_rows(features: NDArray[Any], name: str) -> NDArray[np.float32]:
    """The same rows as contiguous float32, checked to be finite and of unit norm.

    Raises:
        DataError: names the first rows that are not.
    """
    if features.ndim != 2:
        raise DataError(f"{name}: an array of shape {features.shape}; expected (N, D).")
    values = np.ascontiguousarray(features, dtype=np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", values, values))  # NaN and infinity stay visible
    for off, what, remedy in (
        (~np.isfinite(norms), "not finite (NaN or infinity)", "Leave these images out"),
        (~(np.abs(norms - 1) < 1e-2), "not of unit norm", "Divide each row by its norm"),
    ):
        if off.any():
            found = np.flatnonzero(off)
            some = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
            raise DataError(
                f"{name}: {len(found)} of {len(values)} rows are {what}: {some}. {remedy}."
            )
    return values


def _at_least_one(n_neighbors: int) -> int:
    if n_neighbors < 1:
        raise ConfigError(f"n_neighbors is {n_neighbors}; expected at least 1.")
    return n_neighbors


class _Best:
    """The best candidates seen so far for a block of queries."""

    def __init__(self, queries: NDArray[np.float32], n_neighbors: int) -> None:
        self.queries, self.n_neighbors = queries, n_neighbors
        # A float32 product of unit rows errs by less than D * 2^-24 in any order of summing. Two
        # entries, each summed in two orders (tile, `_definite`), can swap only within four of that.
        self.margin = np.float32(4 * queries.shape[1] * 2.0**-24)
        self.floor = np.full(len(queries), -np.inf, np.float32)
        self.parts: list[_Entries] = []
        self.n_held = 0

    def above_floor(
        self, tile: NDArray[np.float32], first: int, *, transposed: bool = False
    ) -> _Entries:
        """The entries of a tile that may still matter.

        Args:
            tile: (queries, some gallery rows from `first` on), or the other way round.
            first: gallery row of the tile's first entry.
            transposed: the queries are the tile's columns.
        """
        axis = 0 if transposed else 1
        if tile.shape[axis] > self.n_neighbors and np.isneginf(self.floor[0]):
            at = tile.shape[axis] - self.n_neighbors
            self.floor = np.partition(tile, at, axis=axis).take(at, axis=axis) - self.margin
        flat = np.flatnonzero(tile > np.expand_dims(self.floor, axis)).astype(np.int32)
        places = np.divmod(flat, np.int32(tile.shape[1]))
        return places[1 - axis], places[axis] + np.int32(first), tile.ravel()[flat]

    def hold(self, entries: _Entries, gallery: NDArray[np.float32]) -> None:
        """Keep these, and drop the worst when there are too many."""
        self.parts.append(entries)
        self.n_held += len(entries[0])
        if self.n_held > KEEP * self.n_neighbors * len(self.queries):
            self._prune(gallery)

    def _prune(self, gallery: NDArray[np.float32]) -> None:
        row, column, value = self._entries()
        order = np.argsort(row.astype(np.uint16), kind="stable")  # a radix sort, as BLOCK < 2^16
        rank = _rank(row[order])
        width = int(rank.max(initial=-1)) + 1
        if width > self.n_neighbors:
            table = np.full((len(self.queries), width), -np.inf, np.float32)
            table[row[order], rank] = value[order]
            # np.partition takes 10 times as long as a sort where most entries are equal (-inf).
            self.floor = np.sort(table, axis=1)[:, width - self.n_neighbors] - self.margin
        keep = value > self.floor[row]
        self.parts = [(row[keep], column[keep], value[keep])]
        self.n_held = int(keep.sum())
        if self.n_held > (KEEP + 1) / 2 * self.n_neighbors * len(self.queries):
            self.parts = [self._definite(gallery)]  # many copies of one image tie
            self.n_held = len(self.parts[0][0])

    def _entries(self) -> _Entries:
        row, column, value = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        return row, column, value

    def _definite(self, gallery: NDArray[np.float32]) -> _Entries:
        """The best, by similarities summed in one fixed order: copies of an image tie exactly."""
        row, column, _ = self._entries()
        value = np.empty(len(row), np.float32)
        for start in range(0, len(row), 4096):
            part = slice(start, start + 4096)
            value[part] = np.einsum("ij,ij->i", self.queries[row[part]], gallery[column[part]])
        order = np.lexsort((column, -value, row))
        order = order[_rank(row[order]) < self.n_neighbors]
        return row[order], column[order], value[order]

    def result(self, gallery: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(R, K) gallery rows and similarities, best first, ties by row."""
        self._prune(gallery)
        _, column, value = self._definite(gallery)
        self.parts, shape = [], (len(self.queries), self.n_neighbors)
        return column.reshape(shape).astype(np.int64), value.reshape(shape)


# of each entry: query within the block, gallery row, similarity
_Entries = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]


def _rank(row: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many entries of the same row stand before each entry of a list sorted by row."""
    starts = np.searchsorted(row, np.arange(row[-1] + 1 if len(row) else 0))
    return np.arange(len(row)) - starts[row]


def _blocks(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def _self_join(
    features: NDArray[np.float32], n_neighbors: int, progress: Progress | None
) -> Neighbors:
    if n_neighbors == 0:
        return _gather([], len(features), 0)
    blocks = _blocks(len(features))
    best = [_Best(features[block], n_neighbors) for block in blocks]
    total = len(blocks) * (len(blocks) + 1) // 2

    def tile(i: int, j: int) -> _Entries:
        product = features[blocks[i]] @ features[blocks[j]].T
        if i == j:
            np.fill_diagonal(product, -np.inf)
        else:
            mirrored = best[j].above_floor(product, blocks[i].start, transposed=True)
            best[j].hold(mirrored, features)  # the only tile of this round that touches block j
        return best[i].above_floor(product, blocks[j].start)

    with workers() as each:
        # The tiles on the diagonal go first: they give every row a floor.
        for i, entries in enumerate(each(lambda i: tile(i, i), range(len(blocks)))):
            best[i].hold(entries, features)
        done = len(blocks)
        for i in range(len(blocks)):
            for entries in each(partial(tile, i), range(i + 1, len(blocks))):
                best[i].hold(entries, features)
            done += len(blocks) - i - 1
            if progress:
                progress(done, total)
        return _gather(each(lambda block: block.result(features), best), len(features), n_neighbors)


def _search(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    n_neighbors: int,
    own: NDArray[np.int64] | None,
    progress: Progress | None,
) -> Neighbors:
    """One direction only; `own` is the gallery row that each query is, to be left out."""
    if n_neighbors == 0:
        return _gather([], len(queries), 0)
    blocks = _blocks(len(queries))

    def block_of(asked: slice) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        best = _Best(queries[asked], n_neighbors)
        for given in _blocks(len(gallery)):
            product = best.queries @ gallery[given].T
            if own is not None:
                inside = np.flatnonzero((own[asked] >= given.start) & (own[asked] < given.stop))
                product[inside, own[asked][inside] - given.start] = -np.inf
            best.hold(best.above_floor(product, given.start), gallery)
        return best.result(gallery)

    def counted(results: Iterable[_Rows]) -> Iterator[_Rows]:
        for done, result in enumerate(results, start=1):
            yield result
            if progress:
                progress(done, len(blocks))

    with workers() as each:
        return _gather(counted(each(block_of, blocks)), len(queries), n_neighbors)


_Rows = tuple[NDArray[np.int64], NDArray[np.float32]]


def _gather(results: Iterable[_Rows], n: int, n_neighbors: int) -> Neighbors:
    indices = np.empty((n, n_neighbors), np.int64)
    similarities = np.empty((n, n_neighbors), np.float32)
    start = 0
    for found, values in results:
        part = slice(start, start + len(found))
        indices[part], similarities[part] = found, values
        start = part.stop
    return Neighbors(indices, similarities)


@contextmanager
def workers() -> Iterator[Callable[..., Iterable[Any]]]:
    """A `map` over as many threads as the BLAS would use, each with a BLAS of one thread."""
    pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    n_threads = max(pools, default=1)
    if n_threads == 1:
        yield map
        return
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
        yield pool.map
