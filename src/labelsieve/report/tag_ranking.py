"""Average precision of tags on lists of pairs, one sort for all of them.

Axis letters: N images, C tags, P verified pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.errors import DataError

# The scores of all N images for some tags, (N, c): those of 6,000 tags are never there at once.
ScoreColumns = Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]]

_VALUES_AT_ONCE = 1 << 21  # of the scores against full truth: 100 MB with what sorting needs


def average_precision_by_tag(
    scores: NDArray[np.floating[Any]],
    tags: NDArray[np.integer[Any]],
    present: NDArray[np.bool_],
    n_tags: int,
) -> NDArray[np.float64]:
    """The average precision of each tag on its own pairs.

    Equal scores of a tag are one block that is gone through at once, as in scikit-learn: the order
    of the rows never matters. One sort of all pairs: 2 million of 6,000 tags take about a second.

    Args:
        scores: (P,) finite.
        tags: (P,) in [0, n_tags).
        present: (P,).
        n_tags: C.

    Returns:
        (C,) in [0, 1]; NaN of a tag without a present pair.

    Raises:
        DataError: columns that do not go together, or scores that are no numbers.

    Example:
        >>> average_precision_by_tag(np.array([0.9, 0.5, 0.5, 0.1]), np.zeros(4, np.int64),
        ...                          np.array([True, True, False, True]), 2).round(4).tolist()
        [0.8056, nan]
    """
    values = _checked(scores, tags, present, n_tags)
    order = np.lexsort((-values, tags))
    return _of_sorted(tags[order], values[order], present[order], n_tags)


def average_precision_of_all(
    scores: NDArray[np.floating[Any]], present: NDArray[np.bool_]
) -> float | None:
    """AP_all: the average precision of one list of the pairs of all tags; None without a right one.

    Refitting one bias a tag may raise it by much and never changes MAP: show it with that control.
    """
    nothing = np.zeros(len(scores), np.int8)
    found = float(average_precision_by_tag(scores, nothing, present, 1)[0])
    return None if np.isnan(found) else found


def full_average_precision(
    scores: ScoreColumns, truth: csr_array, *, known: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """The average precision of each tag over all images, a few tags at a time.

    Args:
        scores: gives (N, c), the scores of all images for some tags.
        truth: (N, C), what is stored and positive is right.
        known: (C,) tags that the truth speaks of; those that no image has are NaN in any case.

    Returns:
        (C,) NaN of a tag that is not known or that no image has.
    """
    n, n_tags = truth.shape
    by_tag = truth.tocsc()
    wanted = np.ones(n_tags, bool) if known is None else known
    columns = np.flatnonzero(wanted & (np.diff(by_tag.indptr) > 0))
    found = np.full(n_tags, np.nan)
    width = max(1, _VALUES_AT_ONCE // max(n, 1))
    for start in range(0, len(columns), width):
        some = columns[start : start + width]
        values = np.ascontiguousarray(np.asarray(scores(some)).T)  # (c, N)
        if values.shape != (len(some), n):
            raise DataError(
                f"scores of shape {values.T.shape} for {n} images and {len(some)} tags; expected "
                "one row an image and one column a tag."
            )
        present = by_tag[:, some].toarray().T > 0
        if np.isnan(values).any():
            raise DataError("scores against the full truth hold NaN; expected numbers.")
        order = np.argsort(-values, axis=1)
        rows = np.repeat(np.arange(len(some)), n)
        ranked = [np.take_along_axis(one, order, axis=1).ravel() for one in (values, present)]
        found[some] = _of_sorted(rows, ranked[0], ranked[1], len(some))
    return found


def _of_sorted(
    tags: NDArray[np.integer[Any]],
    scores: NDArray[np.floating[Any]],
    present: NDArray[np.bool_],
    n_tags: int,
) -> NDArray[np.float64]:
    """AP = sum over blocks of equal scores of (recall gained there) x (precision at their end).

    The pairs come sorted by tag, and within a tag by falling score.
    """
    found = np.full(n_tags, np.nan)
    if not len(tags):
        return found
    last = np.append((tags[1:] != tags[:-1]) | (scores[1:] != scores[:-1]), True)
    ends = np.flatnonzero(last)  # of blocks; none reaches over two tags
    tag = tags[ends]
    n_pairs = np.bincount(tags, minlength=n_tags)
    n_present = np.bincount(tags[present], minlength=n_tags)
    right = np.cumsum(present, dtype=np.int64)[ends]  # over all tags so far
    of_tag = right - (np.cumsum(n_present) - n_present)[tag]
    rank = ends + 1 - (np.cumsum(n_pairs) - n_pairs)[tag]
    gained = np.diff(right, prepend=0)
    sums = np.bincount(tag, gained * of_tag / rank, n_tags)
    np.divide(sums, n_present, out=found, where=n_present > 0)
    return found


def _checked(
    scores: NDArray[Any], tags: NDArray[Any], present: NDArray[Any], n_tags: int
) -> NDArray[np.floating[Any]]:
    same_length("scores", scores, tags)
    same_length("present", present, tags)
    if len(tags) and not 0 <= tags.min() <= tags.max() < n_tags:
        raise DataError(f"tags run from {tags.min()} to {tags.max()} with {n_tags} tag names.")
    values = np.asarray(scores)
    if not np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float64)
    if np.isnan(values).any():
        raise DataError(
            f"{int(np.isnan(values).sum())} of {len(values)} scores of verified pairs are NaN; "
            "expected numbers. Leave out pairs of images that cannot be read."
        )
    return values


def same_length(name: str, column: NDArray[Any], tags: NDArray[Any]) -> None:
    """Complain of a column that has not one value a pair.

    Raises:
        DataError: as it says.
    """
    if len(column) != len(tags):
        raise DataError(f"{name} of {len(column)} pairs, tags of {len(tags)}; expected as many.")
