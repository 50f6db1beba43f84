"""Noise made on purpose, with its truth: to measure what an audit finds.

Every function draws from the generator it is given, and changes nothing but what it draws. A rate
is a share of the labeled images, met exactly up to rounding, except in `transition`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import ConfigError


def symmetric(
    labels: NDArray[np.int64],
    n_classes: int,
    rate: float,
    rng: np.random.Generator,
    among: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Give a share of the images one of the other classes, each as likely.

    Args:
        labels: (N,) in [-1, n_classes); -1 stays.
        n_classes: at least 2.
        rate: in [0, 1], of all labeled images; exactly round(rate * labeled) labels change.
        rng: what to draw from.
        among: (N,) the images that may change; all by default.

    Example:
        >>> labels = np.zeros(10, np.int64)
        >>> int((symmetric(labels, 3, 0.4, np.random.default_rng(0)) != labels).sum())
        4

    Raises:
        ConfigError: the rate is not in [0, 1], or there are too few images or classes for it.
    """
    if n_classes < 2 and rate > 0:
        raise ConfigError(f"symmetric noise needs 2 classes or more; there is {n_classes}.")
    rows = _chosen(labels >= 0, rate, rng, among, "symmetric")
    noisy = labels.copy()
    noisy[rows] = (labels[rows] + rng.integers(1, max(2, n_classes), len(rows))) % n_classes
    return noisy


def asymmetric(
    labels: NDArray[np.int64],
    pairs: Mapping[int, int],
    rate: float,
    rng: np.random.Generator,
    among: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Give a share of each class in `pairs` the class it is paired with.

    Args:
        labels: (N,) in [-1, C); -1 stays.
        pairs: class -> the class it is mistaken for. Both directions if both are named.
        rate: in [0, 1]; of each class of n images named, exactly round(rate * n) change.
        rng: what to draw from.
        among: (N,) the images that may change; all by default.

    Raises:
        ConfigError: the rate is not in [0, 1], or there are too few images for it.
    """
    noisy = labels.copy()
    for given, target in sorted(pairs.items()):
        noisy[_chosen(labels == given, rate, rng, among, "asymmetric")] = target
    return noisy


def transition(
    labels: NDArray[np.int64], matrix: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw each label anew from the row of its class: independent draws, so shares vary by chance.

    Args:
        labels: (N,) in [-1, C); -1 stays.
        matrix: (C, C) entry [i, j] is the probability that class i is labeled j; rows sum to 1.
        rng: what to draw from.

    Raises:
        ConfigError: the matrix is not square, or its rows are no probabilities.
    """
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    if not square or len(matrix) <= labels.max(initial=-1):
        raise ConfigError(
            f"the transition matrix has shape {matrix.shape}; expected one row and one column for "
            f"each of {labels.max(initial=-1) + 1} classes."
        )
    bad = np.flatnonzero((matrix < 0).any(axis=1) | ~(np.abs(matrix.sum(axis=1) - 1) < 1e-6))
    if len(bad):
        raise ConfigError(
            f"row {bad[0]} of the transition matrix sums to {matrix[bad[0]].sum():g}, with a least "
            f"entry of {matrix[bad[0]].min():g}; expected probabilities that sum to 1."
        )
    noisy = labels.copy()
    drawn = rng.random(len(labels))
    for given, row in enumerate(matrix.cumsum(axis=1)):
        rows = np.flatnonzero(labels == given)
        # a row may sum to 1 - 1e-16
        noisy[rows] = np.minimum(np.searchsorted(row, drawn[rows], side="right"), len(matrix) - 1)
    return noisy


def foreign(
    labels: NDArray[np.int64],
    candidates: NDArray[np.int64],
    rate: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Say which images to replace by which of another set; their labels stay.

    Args:
        labels: (N,) -1 is not replaced.
        candidates: (M,) rows of the other set; each is used once before any is used again.
        rate: in [0, 1], of all labeled images; exactly round(rate * labeled) are replaced.
        rng: what to draw from.

    Returns:
        (N,) a row of the other set, or -1 for an image that stays.

    Raises:
        ConfigError: the rate is not in [0, 1], or there is no candidate.
    """
    rows = _chosen(labels >= 0, rate, rng, None, "foreign")
    if len(rows) and not len(candidates):
        raise ConfigError("foreign noise needs another set with images of none of the classes.")
    rounds = -(-len(rows) // max(1, len(candidates)))
    order = [rng.permutation(candidates) for _ in range(rounds)]
    shown = np.full(len(labels), -1, np.int64)
    shown[rows] = np.concatenate([np.empty(0, np.int64), *order])[: len(rows)]
    return shown


def _chosen(
    of: NDArray[np.bool_],
    rate: float,
    rng: np.random.Generator,
    among: NDArray[np.bool_] | None,
    kind: str,
) -> NDArray[np.int64]:
    """Rows for a rate of the images `of`, drawn without repetition from those of them `among`."""
    if not 0 <= rate <= 1:
        raise ConfigError(f"the {kind} rate is {rate:g}; expected a share between 0 and 1.")
    n = round(rate * int(of.sum()))
    rows = np.flatnonzero(of if among is None else of & among)
    if n > len(rows):
        raise ConfigError(
            f"{kind} noise of {rate:g} needs {n} images, but other noise leaves only {len(rows)} "
            "of them as they are. Lower one of the rates."
        )
    return np.sort(rng.choice(rows, n, replace=False))
