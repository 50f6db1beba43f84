"""What is said of a tag of an image, as pure functions over pairs.

Axis letters: N images, C tags, P asserted pairs, E pairs that nobody asserted.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.errors import DataError
from labelsieve.records.tag_set import TagSet, values_at

KEEP_FROM = 0.5  # probability of a pair that stays
REVIEW = (0.2, 0.8)  # probabilities that a person should look at


class TagVerdict(IntEnum):
    """What is said of a tag of an image; the names in files are these in lower case."""

    KEPT = 0  # given, and stays
    REMOVED = 1  # given, and goes
    ADDED = 2  # not given, and comes
    REVIEW = 3  # given, and a person should look: it stays from its tag's threshold on


class Pairs(NamedTuple):
    """Pairs that nobody asserted, and how likely they are right."""

    rows: NDArray[np.integer[Any]]
    columns: NDArray[np.integer[Any]]
    probability: NDArray[np.floating[Any]]


def tag_verdicts(
    probability: NDArray[np.floating[Any]],
    columns: NDArray[np.integer[Any]],
    verified: NDArray[np.int8],
    thresholds: NDArray[np.floating[Any]],
    review: tuple[float, float] = REVIEW,
) -> NDArray[np.int8]:
    """The verdicts of asserted pairs.

    What people verified decides. Of other pairs a threshold of 0 keeps all; else a pair of the
    review band, which is stretched so that it holds its tag's threshold, is for review, one above
    stays, one below goes. A pair without a probability is for review.

    Args:
        probability: (P,) that the tag is right, in [0, 1]; NaN is unknown.
        columns: (P,) its tag.
        verified: (P,) +1 present, -1 absent, 0 nobody looked.
        thresholds: (C,) from which a pair stays.
        review: the band: from the first, and below the second.

    Returns:
        (P,) a TagVerdict, never ADDED.

    Raises:
        DataError: the band does not lie in [0, 1].
    """
    low, high = review
    if not 0 <= low <= high <= 1:
        raise DataError(
            f"a review band from {low:g} to {high:g}; expected two probabilities in [0, 1], the "
            "lower one first."
        )
    bounds = np.asarray(thresholds, np.float32)
    lowest = np.minimum(bounds, np.float32(low))[columns]
    highest = np.where(bounds > 0, np.maximum(bounds, np.float32(high)), np.float32(0))[columns]
    values = np.asarray(probability, np.float32)
    found = np.full(len(values), TagVerdict.REVIEW, np.int8)
    found[values < lowest] = TagVerdict.REMOVED
    found[(values >= highest) | (highest == 0)] = TagVerdict.KEPT
    found[verified > 0] = TagVerdict.KEPT
    found[verified < 0] = TagVerdict.REMOVED
    return found


def not_given(tag_set: TagSet, added: Pairs | None = None) -> tuple[NDArray[Any], ...]:
    """The pairs that nobody asserted and that are added, as columns of `Tagged`, in its order.

    What people found present is added with probability 1; of `added`, what neither the source nor
    people spoke of.

    Raises:
        DataError: `added` has a pair more than once.
    """
    verified = tag_set.verified
    spoken = _at(tag_set.asserted, verified)
    missed = (verified.data > 0) & (spoken == 0)
    rows, columns, _ = tag_set.verified_pairs()
    rows, columns = rows[missed], columns[missed]
    probability, seen = np.ones(len(rows), np.float32), np.ones(len(rows), np.int8)
    if added is not None and len(added.rows):
        place = np.arange(1, len(added.rows) + 1, dtype=np.int64)  # 0 would not be stored
        new = csr_array((place, (added.rows, added.columns)), shape=verified.shape)
        if new.nnz < len(place):
            raise DataError("pairs to be added are there more than once. Give each once.")
        free = (_at(tag_set.asserted, new) == 0) & (_at(verified, new) == 0)
        chosen = new.data[free] - 1
        rows = np.concatenate([rows, np.asarray(added.rows)[chosen]])
        columns = np.concatenate([columns, np.asarray(added.columns)[chosen]])
        likely = np.asarray(added.probability, np.float32)[chosen]
        probability = np.concatenate([probability, likely])
        seen = np.concatenate([seen, np.zeros(len(chosen), np.int8)])
    order = np.lexsort((columns, rows))
    return (
        rows[order].astype(np.int32),
        columns[order].astype(np.int32),
        np.zeros(len(rows), bool),
        np.full(len(rows), np.nan, np.float32),
        seen[order],
        probability[order],
        np.full(len(rows), TagVerdict.ADDED, np.int8),
    )


def merge_pairs(
    first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]], n_tags: int
) -> list[NDArray[Any]]:
    """Columns of pairs, of which the first two are rows and tags, merged in the order of these.

    Args:
        first: sorted by row, then tag.
        second: the same, of other pairs.
        n_tags: C.
    """
    keys = [columns[0].astype(np.int64) * n_tags + columns[1] for columns in (first, second)]
    places = np.searchsorted(keys[0], keys[1])
    return [np.insert(one, places, other) for one, other in zip(first, second, strict=True)]


def _at(matrix: csr_array, pairs: csr_array) -> NDArray[Any]:
    """What a large matrix holds at few pairs, 0 where nothing; only their rows are looked at."""
    rows = np.flatnonzero(np.diff(pairs.indptr))
    if not len(rows):
        return np.zeros(pairs.nnz, matrix.dtype)
    return values_at(matrix[rows], pairs[rows])
