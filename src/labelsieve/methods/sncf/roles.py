"""Which clusters of a class are foreign: the decisions of SNCF's step A5, one function each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def choose_run(labelings: NDArray[np.int64]) -> int:
    """Step A5b: which of the runs to believe.

    A later run replaces the current one if it has fewer outliers and at least two clusters, or if
    the current one has not more than one.

    Args:
        labelings: (R, n) clusters of each run, -1 for outliers.

    Example:
        >>> choose_run(np.array([[0, 0, 1, 1, -1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]))
        1
    """
    current = 0
    for candidate in range(1, len(labelings)):
        fewer = (labelings[candidate] == -1).sum() < (labelings[current] == -1).sum()
        if (fewer and labelings[candidate].max() >= 1) or labelings[current].max() < 1:
            current = candidate
    return current


def spreads(
    features: NDArray[np.float32], clusters: NDArray[np.int64], n_nearest: int
) -> NDArray[np.float64]:
    """Step A5c: mean cosine distance of each cluster's members to their nearest fellow members.

    Args:
        features: (n, D) unit-norm, of the class.
        clusters: (n,) -1 for outliers.
        n_nearest: fellows to average over, the member itself counted; all in smaller clusters.
    """
    result = np.empty(clusters.max(initial=-1) + 1)
    for cluster in range(len(result)):
        members = features[clusters == cluster].astype(np.float64)
        near = min(n_nearest, len(members))
        total = 0.0
        for start in range(0, len(members), 1024):
            distances = 1 - members[start : start + 1024] @ members.T
            total += float(np.partition(distances, near - 1, axis=1)[:, :near].sum())
        result[cluster] = total / (len(members) * max(near - 1, 1))  # to itself: 0
    return result


def foreign_by_density(spread: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Step A5d: of two or more clusters the most spread out is foreign; of equal ones none is."""
    foreign = np.zeros(len(spread), bool)
    if len(spread) > 1 and spread.max() > spread.min():
        foreign[spread.argmax()] = True
    return foreign


def foreign_by_coherence(agreement: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Step A5d, our rule: clusters whose neighbors agree on the label half as often as the best.

    The paper's rule turns round where the foreign images are the denser ones (as on CNWL), and
    keeps all but one of three or more clusters; this one does neither.

    Args:
        agreement: mean `coherence` of each cluster.
    """
    foreign: NDArray[np.bool_] = agreement < 0.5 * agreement.max(initial=0.0)
    return foreign


def distrusted(spread: NDArray[np.float64], n_foreign: int, n_clean: int, alike: float) -> bool:
    """Step A5e: the clusters are rather several modes of the class, so all of it is clean.

    Deviation: of a class with one cluster nothing is to be compared; its outliers stay mislabeled.
    """
    if len(spread) < 2:
        return False
    return bool(spread.min() > alike * spread.max()) or n_foreign > n_clean
