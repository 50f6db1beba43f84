"""Which test images the page of an embedding shows with what it finds for them. No pixels here.

Axis letters: N test images, M of them that can be read, K neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.records import ImageSet, Neighbors
from labelsieve.report.classifier_scores import Interval, wilson
from labelsieve.report.figures import HeatMap, heat_of_pairs
from labelsieve.report.galleries import Picture, in_turn
from labelsieve.report.table import Confusion, top_pairs
from labelsieve.report.template import middle

N_QUERIES = 8  # of either kind
N_NEIGHBORS = 10  # of a query
N_PAIRS = 12
N_WORST = 15  # classes
_N_RANKED = 5000  # queries that are looked at to show many classes


class Query(NamedTuple):
    """A test image, and the other test images nearest to it."""

    image: int  # row of the test images
    neighbors: tuple[int, ...]  # rows of the test images, nearest first
    similarities: tuple[float, ...]  # cosine, falling
    right: tuple[bool, ...]  # whether each is of the query's class


@dataclass(frozen=True)
class Hit:
    """One of the images found for a query."""

    picture: Picture
    similarity: float
    judgment: str  # "right", "wrong", or "unknown" where one of the two has no label


@dataclass(frozen=True)
class QueryRow:
    """A query as the page shows it."""

    picture: Picture
    hits: tuple[Hit, ...]
    n_right: int
    n_judged: int


@dataclass(frozen=True)
class QueryRows:
    """The queries that are shown, by what their nearest image is."""

    good: tuple[QueryRow, ...]  # the nearest image is right
    bad: tuple[QueryRow, ...]  # it is wrong
    unknown: tuple[QueryRow, ...]  # nobody knows
    n_given: int  # of which more than are shown may have been chosen

    def rows(self) -> set[int]:
        """Of the test images that are shown."""
        shown = (*self.good, *self.bad, *self.unknown)
        found = {hit.picture.row for one in shown for hit in one.hits}
        return found | {one.picture.row for one in shown}

    def __len__(self) -> int:
        return len(self.good) + len(self.bad) + len(self.unknown)


@dataclass(frozen=True)
class ClassShare:
    """For how many images of a test class the nearest other image is of it too."""

    name: str
    n_queries: int
    share: float  # Precision@1 of the class
    interval: Interval  # Wilson, 95 %
    taken_for: str  # the class that most of the others are next to; "" without any


@dataclass(frozen=True)
class Confused:
    """Which test classes lie where another one should."""

    heat: HeatMap
    pairs: tuple[Confusion, ...]
    worst: tuple[ClassShare, ...]
    n_classes: int  # that have queries
    n_queries: int


def pick_queries(
    rows: NDArray[np.int64],
    neighbors: Neighbors,
    labels: NDArray[np.int64],
    *,
    n_good: int = N_QUERIES,
    n_bad: int = N_QUERIES,
    seed: int = 0,
) -> list[Query]:
    """Choose queries to look at: first some that are found well, then some that are not.

    The good ones are drawn at random among those whose nearest image is of their class; the bad
    ones have a nearest image of another class, and the highest similarity to it. Of both there is
    one of every class before there are two of one. An image without a mate is no query. Where no
    label is known, images are drawn at random.

    Args:
        rows: (M,) of the test images, those that can be read.
        neighbors: of these, as places in `rows`.
        labels: (N,) of all test images, -1 none.
        n_good: at most.
        n_bad: at most.
        seed: of what is drawn.

    Example:
        >>> near = Neighbors(np.array([[1], [0], [1]]), np.array([[0.9], [0.9], [0.5]], np.float32))
        >>> [one.right for one in pick_queries(np.arange(3), near, np.array([0, 0, 1]))]
        [(True,), (True,)]
    """
    rows, labels = np.asarray(rows, np.int64), np.asarray(labels, np.int64)
    if not neighbors.indices.size:
        return []
    own = labels[rows]  # (M,)
    drawn = np.random.default_rng(seed).permutation(len(rows))
    if (own < 0).all():
        return [_query(rows, neighbors, own, int(place)) for place in drawn[:n_good]]
    is_right = own[neighbors.indices[:, 0]] == own
    is_query = _has_mate(own)
    good = drawn[(is_query & is_right)[drawn]][:_N_RANKED]
    bad = np.flatnonzero(is_query & ~is_right & (own[neighbors.indices[:, 0]] >= 0))
    bad = bad[np.argsort(-neighbors.similarities[bad, 0], kind="stable")][:_N_RANKED]
    bad = _one_way(bad, neighbors.indices[bad, 0])
    chosen = [
        *good[in_turn(own[good].tolist(), n_good)].tolist(),
        *bad[in_turn(own[bad].tolist(), n_bad)].tolist(),
    ]
    return [_query(rows, neighbors, own, place) for place in chosen]


def nearest_rows(rows: NDArray[np.int64], neighbors: Neighbors, n_images: int) -> NDArray[np.int64]:
    """(N,) the test image nearest to each, -1 for an image that cannot be read or is alone.

    Args:
        rows: (M,) of the test images, those that can be read.
        neighbors: of these, as places in `rows`.
        n_images: all test images, N.
    """
    found = np.full(n_images, -1, np.int64)
    if neighbors.indices.size:
        found[rows] = np.asarray(rows, np.int64)[neighbors.indices[:, 0]]
    return found


def query_rows(shown: Sequence[Query], images: ImageSet) -> QueryRows:
    """What the page says of each query, sorted by whether its nearest image is right."""
    kinds: dict[str, list[QueryRow]] = {"right": [], "wrong": [], "unknown": []}
    for query in shown:
        if query.neighbors:
            row = _query_row(query, images)
            kinds[row.hits[0].judgment].append(row)
    good, bad, unknown = (tuple(kinds[kind][:N_QUERIES]) for kind in kinds)
    return QueryRows(good, bad, unknown, sum(map(len, kinds.values())))


def choose_confused(nearest: NDArray[np.int64], images: ImageSet) -> Confused | None:
    """Which test classes are taken for another, by the nearest image; None without any query.

    The classes found worst are those whose interval ends lowest: a class of two images does not
    come before one of fifty that is hardly ever found.

    Args:
        nearest: (N,) as `nearest_rows` gives it.
        images: the test images.
    """
    if images.labels is None:
        return None
    labels, names = images.labels, images.class_names
    # As in the scores: an image without a label is in the way, and never right.
    is_query = (nearest >= 0) & _has_mate(np.where(nearest >= 0, labels, -1))
    own, found = labels[is_query], labels[nearest[is_query]]
    if not len(own):
        return None
    wrong = own != found
    named = wrong & (found >= 0)
    pairs = top_pairs(own[named], found[named], len(own))
    return Confused(
        heat=heat_of_pairs(own[named], found[named], names),
        pairs=tuple(pairs[:N_PAIRS]),
        worst=_worst(own, wrong, pairs, names),
        n_classes=len(np.unique(own)),
        n_queries=len(own),
    )


def _worst(
    own: NDArray[np.int64],
    wrong: NDArray[np.bool_],
    pairs: Sequence[Confusion],
    names: Sequence[str],
) -> tuple[ClassShare, ...]:
    n_queries = np.bincount(own, minlength=len(names))
    n_right = n_queries - np.bincount(own[wrong], minlength=len(names))
    low, high = wilson(n_right, n_queries)
    known = np.flatnonzero(n_queries)
    order = known[np.argsort(high[known], kind="stable")][:N_WORST]
    taken: dict[int, int] = {}
    for pair in pairs:  # the most frequent first
        taken.setdefault(pair.given, pair.suggested)
    return tuple(
        ClassShare(
            name=names[c],
            n_queries=int(n_queries[c]),
            share=float(n_right[c] / n_queries[c]),
            interval=(float(low[c]), float(high[c])),
            taken_for=names[taken[c]] if c in taken else "",
        )
        for c in order.tolist()
    )


def _has_mate(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images have another of their label; those without a label have none."""
    counts = np.bincount(labels[labels >= 0], minlength=int(labels.max(initial=0)) + 1)
    return (labels >= 0) & (counts[labels] > 1)


def _one_way(places: NDArray[np.int64], nearest: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those queries that are not the nearest image of an earlier one whose query is theirs."""
    pairs = np.sort(np.stack([places, nearest], axis=1), axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    return places[np.sort(first)]


def _query(
    rows: NDArray[np.int64], neighbors: Neighbors, own: NDArray[np.int64], place: int
) -> Query:
    near = neighbors.indices[place]
    return Query(
        image=int(rows[place]),
        neighbors=tuple(rows[near].tolist()),
        similarities=tuple(neighbors.similarities[place].tolist()),
        right=tuple(((own[near] == own[place]) & (own[place] >= 0)).tolist()),
    )


def _query_row(query: Query, images: ImageSet) -> QueryRow:
    picture = _picture(images, query.image)
    found = zip(query.neighbors, query.similarities, query.right, strict=True)
    hits = []
    for row, similarity, right in list(found)[:N_NEIGHBORS]:
        near = _picture(images, row)
        wrong = "wrong" if near.label and picture.label else "unknown"
        hits.append(Hit(near, similarity, "right" if right else wrong))
    n_judged = sum(hit.judgment != "unknown" for hit in hits)
    return QueryRow(picture, tuple(hits), sum(hit.judgment == "right" for hit in hits), n_judged)


def _picture(images: ImageSet, row: int) -> Picture:
    label = -1 if images.labels is None else int(images.labels[row])
    return Picture(row, middle(images.ids[row]), images.class_names[label] if label >= 0 else "")
