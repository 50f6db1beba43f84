"""Clusters made by hand or by chance, for the tests of what is made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelsieve.records.clusters import Clusters, Part


def made_clusters(cluster: Sequence[int], n_clusters: int | None = None, **columns) -> Clusters:
    """Sure clusters: probability 0.9 of the one given, the rest shared; -1 is broken."""
    n = max(cluster, default=0) + 1 if n_clusters is None else n_clusters
    probabilities = np.full((len(cluster), n), 0.1 / max(1, n - 1), np.float32)
    for row, c in enumerate(cluster):
        probabilities[row, c] = 0.9
        if c < 0:
            probabilities[row] = np.nan
    image = columns.pop("image", [f"{i:04d}.png" for i in range(len(cluster))])
    return Clusters.of_probabilities(image, probabilities, **columns)


def random_clusters(n: int, n_clusters: int, seed: int, **columns) -> Clusters:
    """Clusters of all parts, with broken images, duplicates and warnings."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(n_clusters), n)
    probabilities[rng.random(n) < 0.1] = np.nan
    plain = {
        "part": rng.integers(0, 3, n),
        "duplicate_of": np.where(np.arange(n) % 7 == 3, 0, -1),
        "prototypes": rng.integers(-1, n, n_clusters).tolist(),
        "warnings": ("mind this",),
    }
    image = [f"{i:04d}.png" for i in range(n)]
    return Clusters.of_probabilities(image, probabilities, **{**plain, **columns})


PARTS = tuple(part.name.lower() for part in Part)
