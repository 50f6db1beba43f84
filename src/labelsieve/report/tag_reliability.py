"""What verified pairs say of the source and of the cleaner: false positives, and reliability.

Axis letters: C tags, V verified pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.report.classifier_scores import wilson
from labelsieve.report.metrics import Calibration, calibration

OVERALL = "all tags"


@dataclass(frozen=True, eq=False)
class FalsePositives:
    """The share of a tag's assertions that are wrong, by those that people looked at."""

    n_looked: NDArray[np.int64]  # (C,) assertions verified
    n_absent: NDArray[np.int64]  # (C,) of these, the wrong ones
    share: NDArray[np.float64]  # (C,) NaN of a tag that nobody looked at
    low: NDArray[np.float64]  # (C,) Wilson, 95 %; 0 of a tag that nobody looked at
    high: NDArray[np.float64]  # (C,) and 1
    overall: tuple[float, float, float] | None  # share, low, high of all together; None without


@dataclass(frozen=True)
class Reliability:
    """Whether probabilities come true: over all tags, and tag by tag."""

    overall: Calibration
    tags: tuple[Calibration, ...]  # (C,) without bins where nobody looked

    @property
    def tag_error(self) -> float | None:
        """The mean over tags of the calibration error: a rare tag counts as a common one."""
        known = [one.expected_error for one in self.tags if one.expected_error is not None]
        return float(np.mean(known)) if known else None


def false_positive_share(
    tags: NDArray[np.integer[Any]], present: NDArray[np.bool_], n_tags: int
) -> FalsePositives:
    """Estimate how much of each tag's assertions is wrong, with Wilson's interval.

    It holds for pairs that were drawn at random among the tag's assertions. Pairs that were looked
    at because they are uncertain or suspicious make it too high: leave them out.

    Args:
        tags: (V,) of assertions that were looked at, in [0, C).
        present: (V,) whether they are right.
        n_tags: C.

    Example:
        >>> found = false_positive_share(np.array([0] * 10), np.arange(10) > 0, 2)
        >>> found.share.tolist(), found.low.round(3).tolist(), found.high.round(3).tolist()
        ([0.1, nan], [0.018, 0.0], [0.404, 1.0])
    """
    n_looked = np.bincount(tags, minlength=n_tags)
    n_absent = np.bincount(tags[~present], minlength=n_tags)
    low, high = wilson(n_absent, n_looked)
    n, wrong = n_looked.sum(keepdims=True), n_absent.sum(keepdims=True)
    ends = wilson(wrong, n)
    share = np.full(n_tags, np.nan)
    np.divide(n_absent, n_looked, out=share, where=n_looked > 0)
    overall = (float(wrong[0] / n[0]), float(ends[0][0]), float(ends[1][0])) if n[0] else None
    return FalsePositives(n_looked, n_absent, share, low, high, overall)


def reliability(
    probabilities: NDArray[np.floating[Any]],
    tags: NDArray[np.integer[Any]],
    present: NDArray[np.bool_],
    tag_names: Sequence[str],
) -> Reliability:
    """Compare the probabilities of verified pairs with how often they came true.

    Args:
        probabilities: (V,) in [0, 1], of networks that were not trained on the pair.
        tags: (V,) in [0, C).
        present: (V,) whether the pair is right.
        tag_names: (C,).

    Raises:
        DataError: a probability is outside of [0, 1].
    """
    values = np.asarray(probabilities, np.float64)
    if len(values) and not 0 <= values.min() <= values.max() <= 1:
        raise DataError(
            f"probabilities from {values.min():g} to {values.max():g}; expected them in [0, 1]."
        )
    order = np.argsort(tags, kind="stable")
    ends = np.searchsorted(tags[order], np.arange(len(tag_names) + 1))
    rows = [order[ends[c] : ends[c + 1]] for c in range(len(tag_names))]
    return Reliability(
        overall=calibration(OVERALL, values, present),
        tags=tuple(
            calibration(name, values[mine], present[mine])
            for name, mine in zip(tag_names, rows, strict=True)
        ),
    )
