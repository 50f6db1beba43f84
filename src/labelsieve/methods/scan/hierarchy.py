"""Small clusters merged by the neighbor graph into fewer, and how far two such trees agree.

One run: k-means of a half of the images into many small clusters, links of that half between them,
and a merge of one pair after the other. All images then fall into its clusters, so that runs of
different halves can be compared.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from labelsieve.errors import DataError
from labelsieve.records import Neighbors

CHUNK = 16_384  # rows projected at a time


class Hierarchy(NamedTuple):
    """M small clusters, merged one pair at a time until one is left."""

    kept: NDArray[
        np.int64
    ]  # (M - 1,) of each merge: the cluster that grows, by a small one's number
    gone: NDArray[np.int64]  # (M - 1,) the cluster that it takes in
    crossing: NDArray[np.float64]  # (M - 1,) links between the two, of those by chance; 1 at chance
    support: NDArray[np.float64]  # (M,) modularity before each merge, and after the last: 0

    def cut(self, n_clusters: int) -> NDArray[np.int64]:
        """(M,) cluster, 0 to n_clusters - 1, of each small one."""
        name = np.arange(len(self.kept) + 1)
        for kept, gone in zip(
            self.kept[: len(name) - n_clusters], self.gone[: len(name) - n_clusters], strict=True
        ):
            name[name == gone] = kept
        return np.unique(name, return_inverse=True)[1].astype(np.int64)


def merged(links: NDArray[Any]) -> Hierarchy:
    """Merge clusters, the pair first that has the most links for its chance, until one is left.

    Source: Bonald et al., "Hierarchical graph clustering using node pair sampling", 2018: the
    similarity p(i, j) / (p(i) p(j)). Greedy modularity finds blobs as well, elongated and uneven
    clusters it does not.

    Args:
        links: (M, M) symmetric, >= 0; between each two clusters, and on the diagonal twice those
            within, so that a row's sum is the degree.

    Example:
        >>> merged(np.array([[8.0, 2, 0], [2, 8, 1], [0, 1, 9]])).cut(2).tolist()
        [0, 0, 1]
    """
    links = links.astype(np.float64)
    n, total = len(links), max(float(links.sum()), 1.0)
    degrees = links.sum(axis=1)
    alive = np.ones(n, bool)
    # a cluster without links is near to none, and merged last
    lift = links / np.maximum(np.outer(degrees, degrees), 1)
    np.fill_diagonal(lift, -1)
    nearest = lift.argmax(axis=1)
    highest = lift[np.arange(n), nearest]
    kept, gone = np.empty(n - 1, np.int64), np.empty(n - 1, np.int64)
    crossing, support = np.empty(n - 1), np.zeros(n)
    for step in range(n - 1):
        support[step] = np.trace(links) / total - np.square(degrees / total).sum()
        first = int(highest.argmax())
        i, j = sorted((first, int(nearest[first])))
        kept[step], gone[step], crossing[step] = i, j, crossing_of(links[np.ix_([i, j], [i, j])])
        links[i] += links[j]
        links[:, i] += links[:, j]
        degrees[i] += degrees[j]
        links[j], links[:, j], degrees[j], alive[j] = 0, 0, 0, False
        row = np.where(alive, links[i] / np.maximum(degrees * degrees[i], 1), -1)
        row[i] = -1
        lift[i], lift[:, i], lift[j], lift[:, j] = row, row, -1, -1
        _look_again(lift, highest, nearest, alive, i, j)
    return Hierarchy(kept, gone, crossing, support)


def _look_again(
    lift: NDArray[np.float64],
    highest: NDArray[np.float64],
    nearest: NDArray[np.int64],
    alive: NDArray[np.bool_],
    i: int,
    j: int,
) -> None:
    """Bring the highest of each row, and where it is, up to date after i took in j.

    Looked for in the whole table at each merge, they would cost M^3 and not M^2.
    """
    stale = ((nearest == i) | (nearest == j)) & alive
    stale[i] = True
    column = lift[:, i]
    better = ~stale & ((column > highest) | ((column == highest) & (i < nearest)))
    highest[better], nearest[better] = column[better], i
    rows = np.flatnonzero(stale)
    nearest[rows] = lift[rows].argmax(axis=1)
    highest[rows] = lift[rows, nearest[rows]]
    highest[j] = -1


def crossing_of(links: NDArray[np.float64]) -> float:
    """Links between two clusters, of those that chance would give among the links within both.

    Args:
        links: (2, 2) as for `merged`.

    Returns:
        0 where none crosses, 1 at chance, above where links avoid their own cluster; 1 where a
        cluster has no links at all, so that nothing tells the two apart.
    """
    degrees, total = links.sum(axis=1), links.sum()
    if not degrees.all():
        return 1.0
    return float(links[0, 1] * total / (degrees[0] * degrees[1]))


class Run(NamedTuple):
    """What one half of the images gives."""

    clusters: NDArray[np.int64]  # (N,) small cluster of each image of both halves
    hierarchy: Hierarchy  # of the small clusters


def principal(
    rows: NDArray[Any],
    sample: NDArray[np.int64],
    n_components: int,
    n_fitted: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """The sampled rows along their principal components: fewer columns, for less of k-means' cost.

    Args:
        rows: (N, D), may be memory-mapped.
        sample: (n,) rows wanted, rising.
        n_components: columns that come back, at most D.
        n_fitted: rows that the components are found from, at most.
        rng: draws those rows.

    Raises:
        DataError: a row is not finite.
    """
    some = sample
    if len(sample) > n_fitted:
        some = np.sort(rng.choice(sample, n_fitted, replace=False))
    fitted = np.asarray(rows[some], np.float32)
    mean = fitted.mean(axis=0)
    fitted -= mean
    spread = fitted.T @ fitted
    if not np.isfinite(spread).all():
        raise DataError("rows: some are not finite (NaN or infinity). Leave these images out.")
    axes = np.linalg.eigh(spread)[1][:, ::-1][:, :n_components]
    points = np.empty((len(sample), axes.shape[1]), np.float32)
    for start in range(0, len(sample), CHUNK):
        part = np.asarray(rows[sample[start : start + CHUNK]], np.float32)
        points[start : start + CHUNK] = (part - mean) @ axes
    if not np.isfinite(points).all():
        raise DataError("rows: some are not finite (NaN or infinity). Leave these images out.")
    return points


def links_among(neighbors: Neighbors, sample: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, K) neighbors of the sampled rows, by their place in the sample; -1 where outside it."""
    n = len(neighbors.indices)
    if len(sample) == n:
        return neighbors.indices
    place = np.full(n, -1, np.int64)
    place[sample] = np.arange(len(sample))
    return place[neighbors.indices[sample]]


def grown(
    points: NDArray[np.float32],
    links: NDArray[np.int64],
    half: NDArray[np.int64],
    n_small: int,
    n_fitted: int,
    rng: np.random.Generator,
) -> Run:
    """One run, of the rows `half`.

    Args:
        points: (n, d) of all images.
        links: (n, K) from `links_among`.
        half: rows of `points` that this run may learn from.
        n_small: clusters to start from.
        n_fitted: rows that k-means is fitted on, at most.
        rng: draws those rows, and the start of k-means.
    """
    fitted = half
    if len(half) > n_fitted:
        fitted = np.sort(rng.choice(half, n_fitted, replace=False))
    kmeans = KMeans(n_small, n_init=1, max_iter=15, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():  # of copies of a few images; empty clusters do no harm
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = kmeans.fit(points[fitted]).predict(points).astype(np.int64)
    ends = links[half]
    inside = ends >= 0
    starts = np.broadcast_to(clusters[half][:, None], ends.shape)[inside]
    counts = np.bincount(starts * n_small + clusters[ends[inside]], minlength=n_small**2)
    table = counts.reshape(n_small, n_small)
    return Run(clusters, merged(table + table.T))


def agreement(first: Run, second: Run, most: int) -> NDArray[np.float64]:
    """How far two runs put the same images together, at each number of clusters.

    Returns:
        (most - 1,) adjusted Rand index at 2, 3, ..., `most` clusters; 0 at chance.
    """
    runs = (first, second)
    at = [run.hierarchy.cut(most)[run.clusters] for run in runs]
    counted = np.bincount(at[0] * most + at[1], minlength=most**2)
    counts = counted.reshape(most, most).astype(np.float64)
    merges = [_last_merges(run.hierarchy, most) for run in runs]
    found = np.empty(most - 1)
    for i in range(most - 1, 0, -1):  # of i + 1 clusters
        found[i - 1] = _rand(counts)
        (a, b), (c, d) = merges[0][most - 1 - i], merges[1][most - 1 - i]
        counts[a] += counts[b]
        counts[:, c] += counts[:, d]
        counts[b], counts[:, d] = 0, 0
    return found


def _last_merges(tree: Hierarchy, most: int) -> list[tuple[int, int]]:
    """The last most - 1 merges, with clusters numbered as `cut(most)` does."""
    n_before = len(tree.kept) + 1 - most
    left = np.setdiff1d(np.arange(len(tree.kept) + 1), tree.gone[:n_before])
    pairs = zip(tree.kept[n_before:], tree.gone[n_before:], strict=True)
    return [(int(np.searchsorted(left, a)), int(np.searchsorted(left, b))) for a, b in pairs]


def _rand(counts: NDArray[np.float64]) -> float:
    """Adjusted Rand index of a contingency table (Hubert and Arabie, 1985)."""
    n = counts.sum()
    both, rows, columns = (
        (np.square(values).sum() - n) / 2
        for values in (counts, counts.sum(axis=1), counts.sum(axis=0))
    )
    expected = rows * columns / (n * (n - 1) / 2)
    largest = (rows + columns) / 2
    return 1.0 if largest == expected else float((both - expected) / (largest - expected))
