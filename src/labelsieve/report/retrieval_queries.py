"""What each query finds among a gallery: the places of its mates, the other images of its class.

Similarity is the cosine. An image never finds itself: it is left out by its row, so that a copy of
it is found like any other image. Of equal similarities those of other classes come first: neither
the order of rows nor features that are all the same give anyone a mate. Copies have equal
similarities, exactly.

Two ways to the same places. For few mates, the nearest neighbors of all queries at once. For many,
where sorting neighbors takes most of the time: all similarities of some queries at a time, of which
only values are sorted, never indices.

Axis letters: Q queries, B of them at a time, N gallery, D feature, K places looked at, R mates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import ConfigError, DataError
from labelsieve.neighbors.knn import nearest_neighbors, search, unit_rows
from labelsieve.records import Neighbors

Progress = Callable[[int, int], None]  # queries done, queries in all
Queries = tuple[NDArray[np.float32], NDArray[np.int64]]  # features (Q, D) unit-norm, labels (Q,)
Rows = NDArray[np.int64]

_FEW = 64  # places; up to here finding neighbors is faster than sorting similarities
_NEAR = 1 << 24  # neighbors searched at once; some 48 bytes each
_SAMPLED = 16  # one of so many similarities is looked at to guess how high the best are
_DENSE = 1 << 22  # similarities at once: 16 MB, read again before the cache has lost them
_LEAST = 64  # queries at once; a product of fewer takes longer for each


class QueryScores(NamedTuple):
    """What each query that has a mate found."""

    rows: Rows  # (Q',) of the queries
    n_mates: NDArray[np.int64]  # (Q',) R, at least 1
    first_right: NDArray[np.int64]  # (Q',) place of the nearest mate, from 1; 0: beyond R and all k
    n_right_at: NDArray[np.int64]  # (Q', len(ks)) mates among the first k
    r_precision: NDArray[np.float64]  # (Q',) share of mates among the first R
    average_precision: NDArray[np.float64]  # (Q',) at R


class _Places(NamedTuple):
    """Where mates of a block of queries stand; in the order of queries, then of places."""

    query: NDArray[np.int64]  # (P,) place of the query in its block
    place: NDArray[np.int64]  # (P,) of the mate among all that the query finds, from 1


class _Asked(NamedTuple):
    """Queries and the gallery that they are put to."""

    features: NDArray[np.float32]  # (N, D) the gallery
    labels: NDArray[np.int64]  # (N,)
    queries: NDArray[np.float32]  # (Q, D)
    query_labels: NDArray[np.int64]  # (Q,)
    itself: bool  # the queries are the gallery

    @property
    def n_places(self) -> int:
        """How many images a query can find."""
        return len(self.labels) - self.itself


def score_queries(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    ks: Sequence[int],
    queries: Queries | None = None,
    progress: Progress | None = None,
) -> QueryScores:
    """What each query that has a mate found; arguments and errors as of `score_retrieval`."""
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ConfigError(f"ks are {list(ks)}; expected different numbers from 1 on.")
    asked = _checked(features, labels, queries)
    n_mates = _count(labels, asked.query_labels) - asked.itself
    scored = np.flatnonzero((n_mates > 0) & (asked.query_labels >= 0))
    scores = QueryScores(
        scored, n_mates[scored], np.zeros(len(scored), np.int64),
        np.zeros((len(scored), len(ks)), np.int64), *np.zeros((2, len(scored))),
    )  # fmt: skip
    n_places = np.minimum(np.maximum(scores.n_mates, max(ks)), asked.n_places)  # K of each query
    few = n_places <= _FEW
    left = [np.flatnonzero(~few)]
    done = 0

    def put(some: Rows, found: _Places) -> None:
        nonlocal done
        _put(scores, some, found, n_places[some], ks)
        done += len(some)
        if progress is not None:
            progress(done, len(scored))

    most = int(n_places[few].max(initial=1))
    for some in _blocks(np.flatnonzero(few), _NEAR // (most + 1)):
        found, unsure = _by_neighbors(asked, scored[some], int(n_places[some].max()))
        put(some[~unsure], found)
        left.append(some[unsure])
    yet = np.concatenate(left)
    if len(yet):
        order = _order(asked)  # once: of a million images it takes a third of a block's time
        for some in _blocks(yet, max(_LEAST, _DENSE // len(labels))):
            put(some, _by_similarities(asked, scored[some], n_places[some], order))
    return scores


def nearest(
    features: NDArray[np.float32],
    k: int,
    *,
    rows: Rows | None = None,
    queries: NDArray[np.float32] | None = None,
) -> Neighbors:
    """The k nearest gallery images of each query, nearest first; of equal ones the first row first.

    Args:
        features: (N, D) unit-norm, of the gallery.
        k: at least 1; no more come back than there are.
        rows: (Q,) which images of the gallery ask; by default all. An image never finds itself.
        queries: (Q, D) unit-norm, of other images that ask, in place of `rows`.
    """
    if queries is not None:
        return search(queries, features, k)
    return nearest_neighbors(features, k, rows=rows)


def _checked(
    features: NDArray[np.float32], labels: NDArray[np.int64], queries: Queries | None
) -> _Asked:
    """The arguments as one, once they go together."""
    other, other_labels = (features, labels) if queries is None else queries
    for name, rows, own in (("gallery", features, labels), ("queries", other, other_labels)):
        if own.ndim != 1 or len(rows) != len(own):
            raise DataError(
                f"{name}: labels of shape {own.shape} for {len(rows)} rows of features; expected "
                "one each."
            )
    gallery = unit_rows(features, "features")
    if queries is None:
        return _Asked(gallery, labels, gallery, labels, itself=True)
    other = unit_rows(other, "queries")
    if other.shape[1] != gallery.shape[1]:
        raise DataError(
            f"queries have {other.shape[1]} values a row, the gallery {gallery.shape[1]}. Make "
            "both with the same features."
        )
    return _Asked(gallery, labels, other, other_labels, itself=False)


def _count(labels: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """(Q,) how many gallery images have the label of each query."""
    classes, counts = np.unique(labels, return_counts=True)
    if not len(classes):
        return np.zeros(len(asked), np.int64)
    at = np.minimum(np.searchsorted(classes, asked), len(classes) - 1)
    return np.where(classes[at] == asked, counts[at], 0).astype(np.int64)


def _blocks(some: Rows, size: int) -> Iterator[Rows]:
    for first in range(0, len(some), size):
        yield some[first : first + size]


def _by_neighbors(asked: _Asked, rows: Rows, k: int) -> tuple[_Places, NDArray[np.bool_]]:
    """Places up to K, and which queries have more images as near as the K-th, not looked at.

    The places are of the other queries, one after another.
    """
    if not asked.itself:
        near = search(asked.queries[rows], asked.features, k + 1)
    elif 2 * len(rows) > len(asked.labels):  # all images at once take half the products
        near = nearest_neighbors(asked.features, k + 1)
        near = Neighbors(near.indices[rows], near.similarities[rows])
    else:
        near = nearest_neighbors(asked.features, k + 1, rows=rows)
    similarities = near.similarities
    unsure = np.zeros(len(rows), bool)
    if similarities.shape[1] > k:
        unsure = similarities[:, k - 1] == similarities[:, k]
    right = (asked.labels[near.indices] == asked.query_labels[rows, None])[~unsure, :k]
    similarities = similarities[~unsure, :k]
    tied = (similarities[:, 1:] == similarities[:, :-1]).any(axis=1)
    order = np.lexsort((right[tied], -similarities[tied]), axis=1)  # mates last among equals
    right[tied] = np.take_along_axis(right[tied], order, axis=1)
    query, column = np.nonzero(right)
    return _Places(query, column + 1), unsure


class _Order(NamedTuple):
    """What all queries share that look at all similarities."""

    by_class: Rows  # (N,) the gallery, class after class
    labels: NDArray[np.int64]  # (N,) in that order
    sample: Rows  # (N / 16,) of the gallery, at random
    copies: _Copies | None


def _order(asked: _Asked) -> _Order:
    n = len(asked.labels)
    by_class = np.argsort(asked.labels, kind="stable")
    sample = np.random.default_rng(0).choice(n, -(-n // _SAMPLED), replace=False)
    return _Order(by_class, asked.labels[by_class], sample, _copies(asked.features))


def _by_similarities(
    asked: _Asked, rows: Rows, n_places: NDArray[np.int64], order: _Order
) -> _Places:
    """Places up to K, from all similarities of some queries."""
    copies = order.copies
    if copies is None:
        similarities = asked.queries[rows] @ asked.features.T  # (B, N)
    else:  # one product for all copies of an image, which rounding cannot tell apart then
        similarities = (asked.queries[rows] @ asked.features[copies.first].T)[:, copies.of]
    if asked.itself:
        similarities[np.arange(len(rows)), rows] = -np.inf
    own = asked.query_labels[rows]
    starts = np.searchsorted(order.labels, own)
    stops = np.searchsorted(order.labels, own, side="right")
    places = []
    for values, k, start, stop in zip(similarities, n_places, starts, stops, strict=True):
        high = _at_least_highest(values, k, order.sample)
        mates = np.sort(values[order.by_class[start:stop]])
        mates = mates[np.searchsorted(mates, high[0]) :]
        # as near or nearer, mates and all; what is no mate among them comes first
        n_mates = len(mates) - np.searchsorted(mates, mates)
        n_all = len(high) - np.searchsorted(high, mates)
        place = (n_all - n_mates)[::-1] + np.arange(1, len(mates) + 1)
        places.append(place)
    query = np.repeat(np.arange(len(rows)), [len(one) for one in places])
    return _Places(query, np.concatenate(places))


def _at_least_highest(values: NDArray[np.float32], k: int, sample: Rows) -> NDArray[np.float32]:
    """All values from a floor up, sorted, of which there are at least K.

    The floor is guessed from a sample: in a row of 10,000, 10 us where finding the K-th takes 60.
    What is drawn decides how many come back, never what they say.
    """
    n = len(sample)
    expected = k * n / len(values)
    guess = int(expected + 3 * np.sqrt(expected) + 3)
    if guess < n:
        floor = np.partition(values[sample], n - guess)[n - guess]
        high = values[values >= floor]
        if len(high) >= k:
            return np.sort(high)
    floor = np.partition(values, len(values) - k)[len(values) - k]
    return np.sort(values[values >= floor])


class _Copies(NamedTuple):
    """Rows of features that are the same."""

    first: Rows  # (U,) one row of each
    of: NDArray[np.int64]  # (N,) which of them a row is


def _copies(features: NDArray[np.float32]) -> _Copies | None:
    """Which rows are the same, or None where all differ."""
    whole = features.view(np.dtype((np.void, features.dtype.itemsize * features.shape[1])))
    _, first, of = np.unique(whole.ravel(), return_index=True, return_inverse=True)
    return None if len(first) == len(features) else _Copies(first, of)


def _put(
    scores: QueryScores, some: Rows, found: _Places, n_places: NDArray[np.int64], ks: Sequence[int]
) -> None:
    """Turn the places of mates into scores of some queries."""
    n = len(some)
    near = found.place <= n_places[found.query]  # other queries of the block may look further
    query, place = found.query[near], found.place[near]
    n_mates = scores.n_mates[some]
    n_found = np.bincount(query, minlength=n)
    starts = np.cumsum(n_found) - n_found
    nth = np.arange(1, len(query) + 1) - starts[query]  # of the mates of its query
    counts = place <= n_mates[query]
    precision = np.where(counts, nth / place, 0.0)
    scores.average_precision[some] = np.bincount(query, precision, minlength=n) / n_mates
    scores.r_precision[some] = np.bincount(query, counts, minlength=n) / n_mates
    for i, k in enumerate(ks):
        scores.n_right_at[some, i] = np.bincount(query, place <= k, minlength=n)
    first = nth == 1
    scores.first_right[some[query[first]]] = place[first]
