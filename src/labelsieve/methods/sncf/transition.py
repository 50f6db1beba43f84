"""How a true class turns into labels, read off the images whose class is hardly in doubt."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FEWEST_ANCHORS = 10  # images of a class, or half of a smaller class
DOUBT = 0.02  # share of every row that goes to all labels alike: no label is impossible
PRIOR_IMAGES = 5  # weight of "the labels are right" against the anchors, in images
PRIOR_RIGHT = 0.95


def anchor_transition(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], reach: float
) -> NDArray[np.float64]:
    """The chance of each label for images of each class.

    The images that a cross-fitted network gives to a class with most certainty, its anchors, are
    nearly all of that class; the labels they carry show how it is mislabeled. Anchor points: Liu &
    Tao (TPAMI 2016), Patrini et al. (CVPR 2017). Deviation: a share of the class in place of the
    single surest image, counted labels in place of its probabilities, and shrunk to few errors.

    Where errors gather on hard images, a short reach sees too few of them; a long one counts
    images of other classes as errors.

    Args:
        probabilities: (N, C) held-out.
        labels: (N,) in [-1, C).
        reach: in (0, 1], share of the class's expected images that serve as its anchors.

    Returns:
        (C, C) rows sum to 1; row c is how class c turns into labels.
    """
    labeled = labels >= 0
    probabilities, labels = probabilities[labeled], labels[labeled]
    n_images, n_classes = probabilities.shape
    prior = np.bincount(labels, minlength=n_classes) / max(n_images, 1)
    transition = np.empty((n_classes, n_classes))
    for row, column in enumerate(probabilities.T):
        expected_images = float(column.sum())
        fewest = min(FEWEST_ANCHORS, math.ceil(expected_images / 2))
        n_anchors = min(max(fewest, round(reach * expected_images)), n_images)
        anchors = np.argsort(-column, kind="stable")[:n_anchors]
        counts = np.bincount(labels[anchors], minlength=n_classes)
        expected = PRIOR_RIGHT * np.eye(n_classes)[row] + (1 - PRIOR_RIGHT) * prior
        transition[row] = (counts + PRIOR_IMAGES * expected) / (n_anchors + PRIOR_IMAGES)
    doubted: NDArray[np.float64] = (1 - DOUBT) * transition + DOUBT * prior
    return doubted
