"""What the networks are shown of each image: its features, and the labels around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.records import Neighbors

FEWEST_NEIGHBORS = 5
SAMPLE = 20_000  # rows, evenly spaced, that the principal directions are taken from


def neighbor_labels(
    neighbors: Neighbors, labels: NDArray[np.int64], n_classes: int, power: float = 3.0
) -> NDArray[np.float32]:
    """The share of each class among the labels around each image, its own left out.

    Neighbors count by similarity to the `power`, as in the graph of SNCF (A4). Of small classes
    fewer neighbors are asked, half the size of a mean class, so that they do not drown.

    Args:
        neighbors: of all images.
        labels: (N,) in [-1, C); images without a label (-1) are not asked.
        n_classes: C.
        power: >= 0 of similarities. The paper uses 3.

    Returns:
        (N, C) rows sum to 1; the shares of the whole set where no neighbor has a label.
    """
    n_images, width = neighbors.indices.shape
    present = max(len(np.unique(labels[labels >= 0])), 1)
    width = min(width, max(FEWEST_NEIGHBORS, (labels >= 0).sum() // (2 * present)))
    near = neighbors.indices[:, :width]
    weights = neighbors.similarities[:, :width].clip(1e-3, None).astype(np.float32) ** power
    weights[labels[near] < 0] = 0
    starts = np.arange(0, near.size + 1, max(width, 1))
    graph = csr_array((weights.ravel(), near.ravel(), starts), shape=(n_images, n_images))
    given = np.zeros((n_images, n_classes), np.float32)
    labeled = np.flatnonzero(labels >= 0)
    given[labeled, labels[labeled]] = 1
    votes = graph @ given
    total = votes.sum(axis=1, keepdims=True)
    everywhere = given.sum(axis=0) / max(len(labeled), 1)
    shares: NDArray[np.float32] = np.where(total > 0, votes / np.maximum(total, 1e-30), everywhere)
    return shares.astype(np.float32)


def network_inputs(
    features: NDArray[np.float32], shares: NDArray[np.float32], most_dimensions: int
) -> NDArray[np.float32]:
    """Features and neighbor labels side by side, each part of unit mean variance.

    Columns keep their sizes within a part: features often carry more in their larger ones.

    Args:
        features: (N, D); beyond `most_dimensions` only their principal directions are kept.
        shares: (N, C) from `neighbor_labels`.
        most_dimensions: > 0.

    Returns:
        (N, min(D, most_dimensions) + C).
    """
    if features.shape[1] > most_dimensions:
        covariance = np.cov(features[:: max(1, len(features) // SAMPLE)], rowvar=False)
        directions = np.linalg.eigh(covariance)[1][:, -most_dimensions:]
        features = features @ directions.astype(np.float32)
    return np.concatenate([_scaled(features), _scaled(shares)], axis=1)


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    spread = float(values.std(axis=0).mean())
    scaled: NDArray[np.float32] = (values - values.mean(axis=0)) / np.float32(spread or 1)
    return scaled
