"""Images that are none of the classes: how likely each is one, and which are of a kind.

Two witnesses. Labels: among foreign images all labels occur, whatever the content. Features: a
hyperplane often cuts the foreign images off (SNCF, A3). The second is heard only where the first
confirms it, as any set of features has a most different side.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

from labelsieve.neighbors.graph import (
    affinity,
    doubly_normalized,
    eigengap,
    spectral_embedding,
)
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.neighbors.optics import optics

LEAST_CREDIT = 0.05  # of labels as a witness with two classes
FEWEST_FOREIGN = 50  # images beyond a hyperplane that is believed
ROWS_A_DIMENSION = 5  # fewer, and a hyperplane cuts off anything
LEAST_SEPARATION = (
    2.5  # of the two modes, in standard deviations; 1.9 on CIFAR-10, 4-6 where they part
)
N_ROUNDS = 3  # of self-training
SAMPLE = 100_000  # rows a mixture is fitted on
FEWEST_TO_GROUP = 30  # foreign images
MOST_TO_GROUP = 20_000  # time grows with the square: 8 s
N_GROUP_NEIGHBORS = 10  # among the foreign images
LEAST_LIKENESS = 0.8  # of two images of a group, against that of an image and its nearest


def foreign_share(
    probabilities: NDArray[np.float32], prior: NDArray[np.float64], floor: float
) -> NDArray[np.float32]:
    """How likely each image is none of the classes, by how alike the classes are for it.

    What is none of the classes carries a label that its content does not explain: among its likes
    all labels occur, as often as in the whole set. A known image may be torn between a few classes,
    and is far from the rest. So the likelihood of the least likely classes, against their shares
    of the set, is what "foreign" explains and nothing else does. As being torn between two is
    common, C classes get a credit of 1 - (2 / C)^2.

    Args:
        probabilities: (N, C) held-out.
        prior: (C,) share of each class; classes without images take no part.
        floor: in (0, 1), share of the classes that counts as the least likely ones.

    Returns:
        (N,) in [0, 1].
    """
    present = prior > 0
    ratios = probabilities[:, present] / prior[present]  # (N, C)
    n_classes = ratios.shape[1]
    n_least = max(1, math.floor(floor * n_classes))
    least = np.partition(ratios, n_least - 1, axis=1)[:, :n_least].mean(axis=1)
    credit = max(1 - (2 / n_classes) ** 2, LEAST_CREDIT)
    share: NDArray[np.float32] = (credit * least.clip(0, 1)).astype(np.float32)
    return share


def foreign_side(
    features: NDArray[np.float32],
    suspicion: NDArray[np.float32],
    label_gain: NDArray[np.float64],
) -> NDArray[np.float32] | None:
    """How likely each image lies beyond the hyperplane that cuts off the foreign ones.

    SNCF finds that such a plane exists (A3) and draws it with the truth. Here it is self-trained
    from the least and most suspect images, and believed only where the two sides part in two modes
    and labels beyond cannot be predicted better than by chance.

    Args:
        features: (N, D).
        suspicion: (N,) by labels, smoothed over neighbors.
        label_gain: (N,) nats by which held-out networks beat chance at the given label; NaN where
            there is none.

    Returns:
        (N,) in [0, 1], or None where there is no such hyperplane.
    """
    n_images, n_dimensions = features.shape
    if n_images < ROWS_A_DIMENSION * n_dimensions:
        return None
    low, high = np.quantile(suspicion, [0.4, 0.85])
    sides = (suspicion >= high).astype(np.int8) - (suspicion <= low)
    for _ in range(N_ROUNDS):
        if min((sides > 0).sum(), (sides < 0).sum()) < FEWEST_FOREIGN:
            return None
        values = _decision(features, sides)
        beyond, separation = _two_modes(values, sides)
        sides = (beyond > 0.9).astype(np.int8) - (beyond < 0.1)
    gains = label_gain[(beyond > 0.5) & np.isfinite(label_gain)]
    if separation < LEAST_SEPARATION or len(gains) < FEWEST_FOREIGN:
        return None
    if gains.mean() > gains.std() / math.sqrt(len(gains)):
        return None  # labels there mean something: hard images, not foreign ones
    return beyond


def _decision(features: NDArray[np.float32], sides: NDArray[np.int8]) -> NDArray[np.float64]:
    """Least squares to -1 and 1, both sides of equal weight."""
    weights = np.select(
        [sides > 0, sides < 0], [1 / max((sides > 0).sum(), 1), 1 / max((sides < 0).sum(), 1)]
    )
    rows = np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)
    weighted = rows * weights[:, None].astype(np.float32)
    square = (weighted.T @ rows).astype(np.float64)
    ridge = 1e-3 * np.trace(square) / len(square) * np.eye(len(square))
    plane = np.linalg.solve(square + ridge, weighted.T @ sides.astype(np.float32))
    decision: NDArray[np.float64] = rows @ plane
    return decision


def _two_modes(
    values: NDArray[np.float64], sides: NDArray[np.int8]
) -> tuple[NDArray[np.float32], float]:
    """Chance of the upper of two normal modes, rising along the line, and Ashman's D."""
    sample = values[:: max(1, len(values) // SAMPLE)]
    start = np.array([[values[sides < 0].mean()], [values[sides > 0].mean()]])
    mixture = GaussianMixture(2, means_init=start, random_state=0).fit(sample[:, None])
    means, variances = mixture.means_.ravel(), mixture.covariances_.ravel()
    upper = int(means.argmax())
    chance = mixture.predict_proba(values.clip(means.min(), means.max())[:, None])[:, upper]
    separation = abs(means[1] - means[0]) / math.sqrt(variances.mean())
    return chance.astype(np.float32), separation


def foreign_groups(
    features: NDArray[np.float32], foreign: NDArray[np.bool_], surest: NDArray[np.float32]
) -> NDArray[np.int32]:
    """Clusters among the foreign images, such as one logo many times.

    Source: SNCF, A7: a graph and an embedding of the foreign images alone, then OPTICS. Deviation:
    as many components as stand out, in place of 20; cluster sizes follow the number of images; and
    a cluster counts only where two of its members are about as alike as foreign images and their
    nearest usually are: OPTICS cuts the most diverse images into clusters as well.

    Args:
        features: (N, D) unit-norm.
        foreign: (N,) which images are.
        surest: (N,) by which the images to cluster are chosen where there are too many.

    Returns:
        (N,) group, numbered from the largest; -1 for none.
    """
    groups = np.full(len(features), -1, np.int32)
    rows = np.flatnonzero(foreign)
    if len(rows) < FEWEST_TO_GROUP:
        return groups
    rows = np.sort(rows[np.argsort(-surest[rows], kind="stable")[:MOST_TO_GROUP]])
    neighbors = nearest_neighbors(features[rows], min(N_GROUP_NEIGHBORS, len(rows) // 3))
    embedding = spectral_embedding(doubly_normalized(affinity(neighbors)))
    kept = eigengap(embedding.eigenvalues, minimum=2)
    min_samples = min(max(len(rows) // 50, 5), 50)
    found = optics(embedding.values[:, :kept], min_samples)
    enough = LEAST_LIKENESS * float(np.median(neighbors.similarities.mean(axis=1)))
    names, counts = np.unique(found[found >= 0], return_counts=True)
    number = 0
    for name in names[np.argsort(-counts, kind="stable")]:
        members = rows[found == name]
        if _likeness(features[members]) >= enough:
            groups[members] = number
            number += 1
    return groups


def _likeness(features: NDArray[np.float32]) -> float:
    """Mean cosine similarity of two different rows."""
    n = len(features)
    return float((np.square(features.sum(axis=0, dtype=np.float64)).sum() - n) / (n * (n - 1)))
