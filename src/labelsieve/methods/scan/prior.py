"""How large clusters should be, where classes are not equally common and nobody says how much."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from labelsieve.errors import DataError
from labelsieve.methods.scan.hierarchy import merged
from labelsieve.records import Neighbors

N_RUNS = 5  # from other starts, whose shares are averaged by rank
N_SMALL = 8  # small clusters a cluster wanted, that are merged by the neighbor graph
N_FITTED = 20_000  # rows that k-means is fitted on, at most
LEAST = 0.2  # of an equal share: a class is no smaller, or nothing would hold a cluster for it


def class_shares(
    rows: NDArray[np.floating], neighbors: Neighbors, n_clusters: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """The shares of images that the parts have into which the neighbor graph falls.

    SCAN's entropy draws all clusters to one size. Where classes are of different sizes, the graph
    says so: small clusters of k-means are merged along its links, which cares for no size, until
    as many are left as wanted. Their shares, of the largest first, are the mean over runs.

    Args:
        rows: (N, D) features, finite.
        neighbors: of each row among the rows.
        n_clusters: C.
        seed: of the starts of k-means.

    Returns:
        (C,) shares, falling, that sum to 1; each at least a fifth of 1 / C before that.

    Raises:
        DataError: fewer rows than two a cluster, or neighbors of others.
    """
    n = len(rows)
    if n < 2 * n_clusters or len(neighbors.indices) != n:
        raise DataError(
            f"{n} rows and neighbors of {len(neighbors.indices)} for {n_clusters} clusters; "
            "expected neighbors of each row, and at least two rows a cluster. Set prior=equal."
        )
    rng = np.random.default_rng(seed)
    found = [_shares(rows, neighbors, n_clusters, rng) for _ in range(N_RUNS)]
    shares = np.maximum(np.mean(found, axis=0), LEAST / n_clusters)
    found_shares: NDArray[np.float64] = shares / shares.sum()
    return found_shares


def _shares(
    rows: NDArray[np.floating], neighbors: Neighbors, n_clusters: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(C,) of one run, falling."""
    n = len(rows)
    n_small = min(N_SMALL * n_clusters, n // 2)
    fitted = np.sort(rng.permutation(n)[:N_FITTED])
    fit = KMeans(n_small, n_init=1, max_iter=20, random_state=int(rng.integers(2**31)))
    small = fit.fit(np.asarray(rows[fitted], np.float32)).predict(np.asarray(rows, np.float32))
    pairs = small[:, None].astype(np.int64) * n_small + small[neighbors.indices]
    links = np.bincount(pairs.ravel(), minlength=n_small**2).reshape(n_small, n_small)
    parts = merged(links + links.T).cut(n_clusters)[small]
    return np.sort(np.bincount(parts, minlength=n_clusters) / n)[::-1]
