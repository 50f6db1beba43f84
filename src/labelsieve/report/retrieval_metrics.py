"""How well rows of features find images of the same class: the measures over all queries.

How a query is scored, and what holds of copies and of equal similarities, is said in
`retrieval_queries`. A query without a mate, another image of its class, says nothing of the
features: it is left out of every mean and counted.

Axis letters: Q queries, N gallery, D feature, R mates of a query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelsieve.report.classifier_scores import Interval, wilson
from labelsieve.report.retrieval_queries import (
    Progress,
    Queries,
    QueryScores,
    nearest,
    score_queries,
)

__all__ = ["QueryScores", "RetrievalScores", "nearest", "score_queries", "score_retrieval"]

KS = (1, 2, 4, 8)  # of recall, as retrieval papers give it
_NAMED = 20  # queries without a mate that are named


@dataclass(frozen=True)
class RetrievalScores:
    """How well images of classes never learned are found by others of their class."""

    n_queries: int  # with a mate: those that count
    n_gallery: int
    n_classes: int  # of those queries
    n_without_mate: int  # left out
    without_mate: tuple[int, ...]  # rows of the first 20 of them
    precision_at_1: float | None  # share of queries whose nearest image is a mate; None of no query
    interval: Interval | None  # of it, Wilson, 95 %: over other test images of these classes
    recall_at: Mapping[int, float]  # share with a mate among the first k; OML's cmc
    precision_at: Mapping[int, float]  # mates among the first k / min(k, R), mean; OML's precision
    r_precision: float | None  # mates among the first R / R, mean
    map_at_r: float | None  # mean average precision at R

    def by_name(self) -> dict[str, float | None]:
        """The measures by the names that metric learning libraries give them."""
        return {
            "precision_at_1": self.precision_at_1,
            "r_precision": self.r_precision,
            "mean_average_precision_at_r": self.map_at_r,
            **{f"recall_at_{k}": value for k, value in self.recall_at.items()},
            **{f"cmc_{k}": value for k, value in self.recall_at.items()},
            **{f"precision_{k}": value for k, value in self.precision_at.items()},
        }

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON, whose keys are text."""
        at = ("recall_at", "precision_at")
        return {
            **asdict(self),
            **{name: {str(k): value for k, value in getattr(self, name).items()} for name in at},
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> RetrievalScores:
        """What `to_dict` gave, back from JSON."""
        interval = given["interval"]
        return cls(
            **dict(given)
            | {
                "without_mate": tuple(given["without_mate"]),
                "interval": None if interval is None else (interval[0], interval[1]),
                "recall_at": {int(k): value for k, value in given["recall_at"].items()},
                "precision_at": {int(k): value for k, value in given["precision_at"].items()},
            }
        )


def score_retrieval(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    ks: Sequence[int] = KS,
    queries: Queries | None = None,
    progress: Progress | None = None,
) -> RetrievalScores:
    """How well images of a class are found by others of it.

    Precision at 1, R-precision and MAP@R are those of Musgrave et al. 2020; equal to
    pytorch-metric-learning's AccuracyCalculator with k="max_bin_count". Memory beyond the features
    is bounded, whatever the number of rows and the sizes of classes.

    Args:
        features: (N, D) unit-norm, of the gallery.
        labels: (N,) their classes; images of a negative label are in the way and never right.
        ks: of recall and precision at k; more than there are images count as all of them.
        queries: features and labels of other images, to be found in the gallery; by default every
            image of the gallery is a query to all others.
        progress: called with (done, total) queries.

    Raises:
        ConfigError: a k is below 1, or given twice.
        DataError: labels and features differ in length, or rows are not finite or of unit norm.

    Example:
        >>> corners = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]]
        >>> scores = score_retrieval(corners, np.array([0, 0, 1, 1, 2]))
        >>> scores.precision_at_1, scores.map_at_r, scores.n_queries, scores.without_mate
        (1.0, 1.0, 4, (4,))
    """
    found = score_queries(features, labels, ks=ks, queries=queries, progress=progress)
    asked = labels if queries is None else queries[1]
    alone = np.ones(len(asked), bool)
    alone[found.rows] = False
    n = len(found.rows)
    right = int((found.first_right == 1).sum())
    low, high = wilson(np.array(right), np.array(n))
    # (Q', len(ks)) each
    recall = (found.first_right > 0)[:, None] & (found.first_right[:, None] <= np.asarray(ks))
    precision = found.n_right_at / np.minimum(ks, found.n_mates[:, None])
    return RetrievalScores(
        n_queries=n,
        n_gallery=len(labels),
        n_classes=len(np.unique(asked[found.rows])),
        n_without_mate=int(alone.sum()),
        without_mate=tuple(np.flatnonzero(alone)[:_NAMED].tolist()),
        precision_at_1=right / n if n else None,
        interval=(float(low), float(high)) if n else None,
        recall_at=dict(zip(ks, recall.mean(axis=0).tolist(), strict=True)) if n else {},
        precision_at=dict(zip(ks, precision.mean(axis=0).tolist(), strict=True)) if n else {},
        r_precision=float(found.r_precision.mean()) if n else None,
        map_at_r=float(found.average_precision.mean()) if n else None,
    )
