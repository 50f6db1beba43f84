"""Bayes' rule over clean, mislabeled and foreign, given what an image looks like and is labeled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

POWERS = tuple(round(0.1 * step, 1) for step in range(6, 31))  # 0.6 to 3.0
SAMPLE = 20_000  # rows the power is fitted on


def posterior(
    probabilities: NDArray[np.float32],
    transition: NDArray[np.float64],
    foreign: NDArray[np.float32],
    prior: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What an image is, its label considered.

    A known image of class c is labeled y with chance transition[c, y]; a foreign one as the set is.
    Without a label (-1) there is nothing to be wrong: clean or foreign.

    Args:
        probabilities: (N, C) of the true class if the image is known, label not considered.
        transition: (C, C) chance of each label (column) for each class (row).
        foreign: (N,) chance that an image is none of the classes, label not considered.
        prior: (C,) share of each label.
        labels: (N,) in [-1, C).

    Returns:
        (N, 3) clean, mislabeled, foreign; rows sum to 1.
        (N, C) the chance that each class is the true one; with column 2 of the first, sums to 1.
    """
    rows, given = np.arange(len(labels)), np.maximum(labels, 0)
    labeled = labels >= 0
    known = (1 - foreign.astype(np.float64))[:, None]
    chance = np.where(labeled[:, None], transition.T[given], 1.0)  # (N, C) of the label
    classes = known * probabilities * chance
    stray = foreign * np.where(labeled, prior[given], 1.0)  # (N,)
    total = classes.sum(axis=1) + stray
    classes /= total[:, None]
    stray /= total
    right = np.where(labeled, classes[rows, given], 1 - stray)
    wrong = np.where(labeled, np.maximum(1 - right - stray, 0), 0.0)
    return np.stack([right, wrong, stray], axis=1), classes


def sharpened(
    probabilities: NDArray[np.float32],
    transitions: NDArray[np.float64],
    foreign: Sequence[NDArray[np.float32]],
    prior: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Probabilities raised to the one power that makes the held-out labels likeliest.

    Networks trained with mixup are too modest where classes are easy. Temperature scaling: Guo et
    al. (ICML 2017), through the transition; the power is the inverse temperature. The likelihood
    has a part for foreign images: their stray labels are no reason to be modest about the others.

    Args:
        probabilities: (R, N, C) held-out, of true classes.
        transitions: (R, C, C) chance of each label (column) for each class (row).
        foreign: R of (N,) chance that an image is none of the classes.
        prior: (C,) share of each label, also among the foreign.
        labels: (N,) in [-1, C).

    Returns:
        (R, N, C) rows sum to 1.
    """
    rows = np.flatnonzero(labels >= 0)
    rows = rows[:: max(1, len(rows) // SAMPLE)]
    given = transitions.mean(axis=0).T[labels[rows]].astype(np.float32)  # (n, C)
    sample = probabilities[:, rows].mean(axis=0)
    stray = np.mean([each[rows] for each in foreign], axis=0)
    by_chance = stray * prior[labels[rows]]

    def surprise(power: float) -> float:
        likely = (1 - stray) * (_raised(sample, power) * given).sum(axis=1) + by_chance
        return -float(np.log(np.maximum(likely, 1e-30)).mean())

    return _raised(probabilities, min(POWERS, key=surprise))


def _raised(probabilities: NDArray[np.float32], power: float) -> NDArray[np.float32]:
    raised = probabilities ** np.float32(power)
    result: NDArray[np.float32] = raised / raised.sum(axis=-1, keepdims=True)
    return result
