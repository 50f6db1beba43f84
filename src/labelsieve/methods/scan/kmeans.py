"""K-means, what every clustering of features is measured against."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import ConfigError, DataError

_CHUNK = 8192  # rows compared with the centers at once


class KMeansFit(NamedTuple):
    """The best of several runs."""

    centers: NDArray[np.float32]  # (C, D) means of unit rows, shorter than 1 themselves
    inertia: float  # sum of squared distances of unit rows to their centers
    labels: NDArray[np.int64]  # (N,) the cluster of each row
    n_runs: int


def kmeans(
    rows: NDArray[np.floating[Any]], n_clusters: int, *, n_runs: int = 10, seed: int = 0
) -> KMeansFit:
    """Clusters around means, without labels: of several runs the one with the lowest inertia.

    Its conditions, to be stated wherever it is compared with: rows of length 1, k-means++ with
    several tries a center (scikit-learn's), Lloyd's iterations until centers rest, 300 at most;
    `n_runs` runs from draws of one seed; chosen by inertia, which looks at no label. The paper
    gives the mean accuracy over runs instead, which the choice by inertia exceeds a little.

    Args:
        rows: (N, D), of any length but 0; divided by it here.
        n_clusters: C, at most the number of different rows.
        n_runs: from other draws each.
        seed: of all of them.

    Raises:
        ConfigError: n_clusters or n_runs below 1.
        DataError: fewer different rows than clusters, or rows that are zero or not finite.
    """
    from sklearn.cluster import KMeans  # scikit-learn takes a second to import
    from sklearn.exceptions import ConvergenceWarning

    for name, value in (("n_clusters", n_clusters), ("n_runs", n_runs)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; at least 1 is needed.")
    if rows.ndim != 2 or len(rows) < n_clusters:
        raise DataError(
            f"rows of shape {rows.shape} for {n_clusters} clusters; expected (N, D) with at least "
            "a row for each. Ask for fewer clusters."
        )
    unit = _unit(rows)
    fitting = KMeans(n_clusters, n_init=n_runs, random_state=seed, copy_x=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            fit = fitting.fit(unit)
        except ConvergenceWarning as error:  # its one reason, as there is no tolerance to miss
            n_different = len(np.unique(unit, axis=0))
            raise DataError(
                f"{n_different} different rows for {n_clusters} clusters. Ask for at most "
                f"{n_different}."
            ) from error
    labels = fit.labels_.astype(np.int64)
    return KMeansFit(fit.cluster_centers_, float(fit.inertia_), labels, n_runs)


def assign(
    rows: NDArray[np.floating[Any]], centers: NDArray[np.floating[Any]]
) -> NDArray[np.int64]:
    """The nearest center of each row, the first of equally near ones.

    Args:
        rows: (N, D), divided by their length here, as `kmeans` does; may be memory-mapped.
        centers: (C, D) of `kmeans`.

    Raises:
        DataError: rows that are zero, not finite, or of another width than the centers.
    """
    if rows.ndim != 2 or rows.shape[1] != centers.shape[1]:
        raise DataError(
            f"rows of shape {rows.shape} for centers of {centers.shape[1]} values. Make both with "
            "the same features."
        )
    centers = centers.astype(np.float32)
    lengths = np.square(centers).sum(axis=1)
    found = np.empty(len(rows), np.int64)
    for first in range(0, len(rows), _CHUNK):
        unit = _unit(rows[first : first + _CHUNK], first)
        found[first : first + len(unit)] = (lengths - 2 * unit @ centers.T).argmin(axis=1)
    return found


def _unit(rows: NDArray[np.floating[Any]], first: int = 0) -> NDArray[np.float32]:
    """A copy in float32, each row divided by its length."""
    values = np.array(rows, np.float32, order="C")
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values))
    bad = ~(np.isfinite(lengths) & (lengths > 0))
    if bad.any():
        row = first + int(bad.argmax())
        raise DataError(
            f"row {row} of the features is zero or not finite; it has no direction. Leave this "
            "image out."
        )
    values /= lengths[:, None]
    return values
