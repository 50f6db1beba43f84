"""OPTICS by cosine distance, with scikit-learn's labels at a small share of its time.

One pass over a row of distances for each point (Prim's algorithm on a dense graph). Runs that
differ in min_samples share the distances, and small groups walk side by side, so that one array
operation serves dozens of walks. Memory: 8 N^2 bytes up to MATRIX_BYTES for a group of N points;
beyond it a row is computed when its point is reached, and memory grows with N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.neighbors.knn import Progress, workers
from labelsieve.neighbors.xi import Plot, extract_xi

MATRIX_BYTES = 2**26  # of one group's distances, 2,896 points; each thread may hold one
BATCH_BYTES = 2**25  # of the distances of groups that walk side by side
BLOCK_BYTES = 2**21  # rows of distances made at a time stay in the cache
_PLACES = 10.0 ** np.finfo(np.float64).precision  # distances are rounded to 15 decimals


class Group(NamedTuple):
    """Points to cluster by themselves, and how."""

    rows: NDArray[np.int64]  # of the points
    min_samples: tuple[int, ...]  # one run each
    min_cluster_size: int


def optics(
    points: NDArray[np.floating],
    min_samples: int,
    min_cluster_size: int | None = None,
    xi: float = 0.02,
    floor: float = 0.0,
) -> NDArray[np.int64]:
    """Clusters of any density among points on a sphere; what belongs to none is an outlier.

    The labels of sklearn.cluster.OPTICS(metric="cosine", cluster_method="xi"), including their
    dependence on the order of the points.

    Args:
        points: (N, D); their norms do not matter.
        min_samples: points in a core neighborhood, the point itself counted, in [2, N].
        min_cluster_size: in [2, N], or as `min_samples`.
        xi: in (0, 1); relative step of reachability at a cluster's rim. The paper uses 0.02.
        floor: cosine distances below count as this one. Points that are equal but for rounding
            noise then form one cluster; at 0 the noise is clustered.

    Returns:
        (N,) cluster of each point, -1 for outliers.

    Raises:
        DataError: fewer points than `min_samples` or `min_cluster_size`, or not finite.

    Example:
        >>> around = np.linspace(-0.1, 0.1, 5)
        >>> angles = np.concatenate([around, around + 1])
        >>> optics(np.stack([np.cos(angles), np.sin(angles)], axis=1), min_samples=3).tolist()
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    """
    size = min_samples if min_cluster_size is None else min_cluster_size
    group = Group(np.arange(len(points)), (min_samples,), size)
    labels: NDArray[np.int64] = optics_by_class(points, [group], xi, floor)[0][0]
    return labels


def optics_by_class(
    points: NDArray[np.floating],
    groups: Sequence[Group],
    xi: float = 0.02,
    floor: float = 0.0,
    *,
    progress: Progress | None = None,
) -> list[NDArray[np.int64]]:
    """`optics` within each group, for several `min_samples` over the same distances.

    Groups are shared out over threads; neither their number nor the other groups change a result.

    Args:
        points: (N, D); their norms do not matter.
        groups: which rows of `points`, and how.
        xi: as for `optics`.
        floor: as for `optics`.
        progress: called with (done, total) groups.

    Returns:
        for each group (R, its rows) labels, one row for each of its `min_samples`.

    Raises:
        DataError: a group has fewer points than its settings ask for, or not finite ones.
    """
    for group in groups:
        _check(group)
    results: list[NDArray[np.int64]] = [np.empty((0, 0), np.int64)] * len(groups)

    def cluster(batch: list[int]) -> list[int]:
        plots = _plots(
            [_unit(points[groups[g].rows]) for g in batch],
            [groups[g].min_samples for g in batch],
            floor,
        )
        for g, runs in zip(batch, plots, strict=True):
            found = zip(runs, groups[g].min_samples, strict=True)
            size = groups[g].min_cluster_size
            results[g] = np.stack([extract_xi(plot, m, size, xi) for plot, m in found])
        return batch

    done = 0
    with workers() as each:
        for batch in each(cluster, _batches(groups)):
            done += len(batch)
            if progress:
                progress(done, len(groups))
    return results


def reachability_plot(points: NDArray[np.floating], min_samples: int) -> Plot:
    """The order in which points are reached from the first, and how far each step was.

    Raises:
        DataError: fewer points than `min_samples`, or not finite.
    """
    _check(Group(np.arange(len(points)), (min_samples,), 2))
    return _plots([_unit(points)], [(min_samples,)], floor=0.0)[0][0]


def _check(group: Group) -> None:
    n, most = len(group.rows), max(*group.min_samples, group.min_cluster_size)
    least = min(*group.min_samples, group.min_cluster_size)
    if n < most or least < 2:
        raise DataError(
            f"OPTICS on {n} points with min_samples={', '.join(map(str, group.min_samples))} and "
            f"min_cluster_size={group.min_cluster_size}; expected 2 to {n} for each."
        )


def _unit(points: NDArray[np.floating]) -> NDArray[np.float64]:
    values = np.asarray(points, np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", values, values))
    if not np.isfinite(norms).all():
        row = int(np.flatnonzero(~np.isfinite(norms))[0])
        raise DataError(f"OPTICS: the coordinates of point {row} are not finite. Leave it out.")
    return values / np.where(norms > 0, norms, 1)[:, None]


def _batches(groups: Sequence[Group]) -> list[list[int]]:
    """Groups that walk side by side: of like size and as many runs, largest first."""
    batches: list[list[int]] = []
    for g in sorted(range(len(groups)), key=lambda g: -len(groups[g].rows)):
        if batches:
            first = groups[batches[-1][0]]
            room = BATCH_BYTES // (8 * len(first.rows) ** 2)
            alike = len(groups[g].min_samples) == len(first.min_samples)
            if alike and len(batches[-1]) < room and 2 * len(groups[g].rows) > len(first.rows):
                batches[-1].append(g)
                continue
        batches.append([g])
    return batches


def _plots(
    batch: Sequence[NDArray[np.float64]], min_samples: Sequence[tuple[int, ...]], floor: float
) -> list[list[Plot]]:
    """For each group a plot for each of its `min_samples`; only a lone group may be large."""
    n, n_runs = max(len(values) for values in batch), len(min_samples[0])
    in_memory = 8 * n * n <= MATRIX_BYTES
    matrices = np.zeros((len(batch), n, n) if in_memory else (0, 0, 0))
    cores = np.zeros((len(batch), n_runs, n))
    for g, values in enumerate(batch):
        size = len(values)
        step = max(BLOCK_BYTES // (8 * size), 1)
        for start in range(0, size, step):
            part = slice(start, min(start + step, size))
            distances = _distances(values[part], values)
            np.fill_diagonal(distances[:, part], 0)
            cores[g, :, part] = _core_distances(distances, min_samples[g])
            if in_memory:
                matrices[g, part, :size] = distances

    np.maximum(cores, floor, out=cores)  # reachability is never below a core distance
    group = np.repeat(np.arange(len(batch)), n_runs)  # of each walk

    def rows_of(at: NDArray[np.int64]) -> NDArray[np.float64]:
        return matrices[group, at] if in_memory else _distances(batch[0][at], batch[0])

    sizes = np.array([len(values) for values in batch])
    walks = _walk(rows_of, cores.reshape(-1, n), sizes[group])
    return [walks[g * n_runs : (g + 1) * n_runs] for g in range(len(batch))]


def _distances(some: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine distances of unit rows, rounded as scikit-learn does: nearly equal ones tie."""
    distances: NDArray[np.float64] = some @ values.T
    np.subtract(1, distances, out=distances)
    np.clip(distances, 0, 2, out=distances)
    distances *= _PLACES
    np.rint(distances, out=distances)
    distances /= _PLACES
    return distances


def _core_distances(
    distances: NDArray[np.float64], min_samples: Sequence[int]
) -> NDArray[np.float64]:
    """(R, rows) distance to the m-th nearest point, the point itself counted, for each m."""
    ranks = [m - 1 for m in min_samples]
    return np.partition(distances, sorted(set(ranks)), axis=1)[:, ranks].T


def _walk(
    rows_of: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    cores: NDArray[np.float64],
    sizes: NDArray[np.int64],
) -> list[Plot]:
    """Visit all points, next always the one of smallest reachability, the first on ties.

    Args:
        rows_of: from the point (W,) where each walk stands to its distances (W, n).
        cores: (W, n) core distances.
        sizes: (W,) points of each walk; entries beyond are padding.
    """
    n_walks, n = cores.shape
    each = np.arange(n_walks)
    order, point = np.empty((n, n_walks), np.int64), np.zeros(n_walks, np.int64)
    predecessor = np.full((n_walks, n), -1, np.int64)
    reachability = np.full((n_walks, n), np.inf)
    waiting = np.full((n_walks, n), np.inf)  # reachability so far; infinite once visited
    visited = np.where(np.arange(n) < sizes[:, None], 0, np.inf)  # infinite once visited
    closer = np.empty((n_walks, n), bool)
    for step in range(n):  # a walk that is done stays at point 0, which changes nothing
        order[step] = point
        going = step < sizes
        reachability[each[going], point[going]] = waiting[each[going], point[going]]
        waiting[each, point] = visited[each, point] = np.inf
        # Rounding is monotone: the maximum of rounded distances is the rounded maximum.
        reach = rows_of(point)
        np.maximum(reach, cores[each, point][:, None], out=reach)
        np.maximum(reach, visited, out=reach)
        np.less(reach, waiting, out=closer)
        np.copyto(predecessor, point[:, None], where=closer)
        np.minimum(waiting, reach, out=waiting)
        point = waiting.argmin(axis=1)
    return [
        Plot(order[:size, w], reachability[w, :size], predecessor[w, :size], cores[w, :size])
        for w, size in enumerate(sizes.tolist())
    ]
