"""What the neighbors' labels say of an image: how good features are, where labels exist."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labelsieve.records import Neighbors


def vote(
    neighbors: Neighbors, labels: NDArray[np.int64], temperature: float | None = None
) -> NDArray[np.int64]:
    """The class that the neighbors of each image have most of.

    Source: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination",
    CVPR 2018, section 3.4, for the weights exp(similarity / temperature).

    Args:
        neighbors: of the images in question.
        labels: of the images that `neighbors.indices` point to; -1 has no vote.
        temperature: weighs each vote; without it each neighbor has one vote.

    Returns:
        (N,) the lowest class of those that tie; 0 where no neighbor has a label.

    Example:
        >>> near = Neighbors(np.array([[1, 2], [0, 2], [0, 1]]), np.ones((3, 2), np.float32))
        >>> vote(near, np.array([1, 1, 0])).tolist()
        [0, 0, 1]
    """
    given = labels[neighbors.indices]  # (N, K)
    weights = np.ones(given.shape, np.float64)
    if temperature is not None:
        # less the largest of the row, so that a low temperature does not overflow
        nearest = neighbors.similarities.max(1, keepdims=True, initial=-1.0)
        weights = np.exp((neighbors.similarities.astype(np.float64) - nearest) / temperature)
    votes = np.zeros((len(given), max(int(labels.max(initial=0)) + 1, 1)))
    rows = np.broadcast_to(np.arange(len(given))[:, None], given.shape)
    known = given >= 0
    np.add.at(votes, (rows[known], given[known]), weights[known])
    winners: NDArray[np.int64] = votes.argmax(1)
    return winners


def neighbor_accuracy(
    neighbors: Neighbors,
    labels: NDArray[np.int64],
    own: NDArray[np.int64] | None = None,
    temperature: float | None = None,
) -> float:
    """Share of labeled images whose class is the one their neighbors vote for.

    Args:
        neighbors: of the images in question.
        labels: of the images that `neighbors.indices` point to; -1 has no vote.
        own: classes of the images in question, -1 unknown; `labels` by default, which leaves each
            image out of its own vote as `Neighbors` leave it out of its neighbors.
        temperature: as for `vote`.

    Returns:
        in [0, 1]; NaN where no image has a label.
    """
    own = labels if own is None else own
    known = own >= 0
    right = vote(neighbors, labels, temperature)[known] == own[known]
    return float(right.mean()) if len(right) else float("nan")


def purity(neighbors: Neighbors, labels: NDArray[np.int64]) -> float:
    """Share of neighbors that have the label of the image, over labeled images and neighbors.

    Returns:
        in [0, 1]; 1 / C for features that say nothing of C even classes; NaN without labels.
    """
    given = labels[neighbors.indices]
    known = (labels[: len(given), None] >= 0) & (given >= 0)
    same = (given == labels[: len(given), None])[known]
    return float(same.mean()) if len(same) else float("nan")
