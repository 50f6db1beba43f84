"""The image that shows a cluster best."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import ConfigError, DataError
from labelsieve.records.clusters import Clusters


def prototypes(
    rows: NDArray[np.floating[Any]], clusters: Clusters, n_sure: int = 10
) -> tuple[int, ...]:
    """Of each cluster's surest images, the one nearest to their mean.

    Source: SCAN, figure of the prototypes. Deviation: a cluster of fewer than `n_sure` images has
    a prototype too, among those it has; equals go to the lower row.

    Args:
        rows: (N, D) features, in the order of `clusters`; may be memory-mapped: only the surest
            images' are read.
        clusters: what was found; images without a cluster are no prototypes.
        n_sure: how many of the images with the highest probability are looked at, at least 1.

    Returns:
        (C,) the row of the prototype, -1 of a cluster without images.

    Raises:
        DataError: not one row an image.
        ConfigError: n_sure below 1.
    """
    if len(rows) != len(clusters):
        raise DataError(
            f"{len(rows)} rows of features for clusters of {len(clusters)} images; expected one "
            "row an image."
        )
    if n_sure < 1:
        raise ConfigError(f"n_sure is {n_sure}; expected 1 or more.")
    found = [-1] * len(clusters.names)
    members = np.flatnonzero(clusters.cluster >= 0)
    if not len(members):
        return tuple(found)
    cluster = clusters.cluster[members]
    order = np.lexsort((members, -clusters.probabilities[members, 0], cluster))
    cuts = np.flatnonzero(np.diff(cluster[order])) + 1
    for group in np.split(members[order], cuts):  # surest first
        sure = np.sort(group[:n_sure])
        values = np.asarray(rows[sure], np.float64)
        distance = ((values - values.mean(axis=0)) ** 2).sum(axis=1)
        found[int(clusters.cluster[sure[0]])] = int(sure[distance.argmin()])
    return tuple(found)
