"""How far a result can be trusted, and the warnings that say so."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labelsieve.records import NoiseRate

FULL_SKILL = 0.05  # from here on, features that predict labels are believed entirely
FEW_CALLS = 0.03  # share of the labels; on clean labels of CIFAR-10 .7 % are called, all wrongly
SMALL_CLASS = 10  # images
MANY = 3  # names in a warning before "and others"


def label_gain(
    probabilities: NDArray[np.float32], prior: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """By how many nats the held-out prediction of each label beats the shares of the classes.

    Args:
        probabilities: (N, C) of the labels as they are given.
        prior: (C,) share of each class.
        labels: (N,) in [-1, C).

    Returns:
        (N,); NaN without a label.
    """
    gain = np.full(len(labels), np.nan)
    rows = np.flatnonzero(labels >= 0)
    given = labels[rows]
    gain[rows] = np.log(np.maximum(probabilities[rows, given], 1e-12) / prior[given])
    return gain


def label_skill(gain: NDArray[np.float64], prior: NDArray[np.float64]) -> float:
    """The share of the labels' entropy that features explain, at least: two standard errors below.

    0 or less where the features say nothing of the labels, 1 where they say all.
    """
    gain = gain[np.isfinite(gain)]
    entropy = -float((prior[prior > 0] * np.log(prior[prior > 0])).sum())
    return float(gain.mean() - 2 * gain.std() / math.sqrt(len(gain))) / entropy


def trust(
    skill: float, labels: NDArray[np.int64], n_classes: int, doubt_images: float
) -> NDArray[np.float64]:
    """How far the evidence on each image is believed; the rest speaks for its label.

    Nothing can be told by features that do not predict labels, and little of classes with few
    images: the network of a fold may never have seen the class.

    Returns:
        (N,) in [0, 1].
    """
    counts = np.bincount(labels[labels >= 0], minlength=n_classes)
    believed = np.where(labels >= 0, counts[labels] / (counts[labels] + doubt_images), 1.0)
    return believed * min(max(skill / FULL_SKILL, 0.0), 1.0)


def doubts(
    skill: float,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    rates: Sequence[NoiseRate],
    *,
    called: float,
    hyperplane: bool,
) -> tuple[str, ...]:
    """When and why the result should not be trusted: one or two plain sentences each."""
    found = []
    if skill < FULL_SKILL:
        found.append(
            "The features hardly predict the labels (they explain "
            f"{100 * max(skill, 0):.1f} % of them). Labels were given the benefit of the doubt; "
            "try other features, with --backbone."
        )
    if 0 < called < FEW_CALLS:
        found.append(
            f"Only {100 * called:.1f} % of the labels are called wrong. Where so few are, many of "
            "these images are unusual rather than mislabeled; look at each before you act."
        )
    counts = np.bincount(labels[labels >= 0], minlength=len(class_names))
    small = [name for name, n in zip(class_names, counts, strict=True) if 0 < n < SMALL_CLASS]
    if small:
        found.append(
            f"{_listed(small)}: fewer than {SMALL_CLASS} images, too few to judge labels by. "
            "Add images, or merge classes."
        )
    wrong = [rate.class_name for rate in rates if rate.mislabeled + rate.foreign > 0.5]
    if wrong:
        found.append(
            f"{_listed(wrong)}: more than half of the images seem mislabeled or foreign. "
            "What is called clean there may be the error; look at some of both."
        )
    n_present = int((counts > 0).sum())
    if n_present < 5 and not hyperplane:
        found.append(
            f"With {n_present} classes, foreign images are hard to tell from hard ones, and their "
            "features do not set them apart here. Most will be called clean or mislabeled."
        )
    return tuple(found)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:MANY]))
    return shown if len(names) <= MANY else f"{shown} and {len(names) - MANY} more classes"
