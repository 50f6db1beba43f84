"""How much better each row suits its own class than the others, its own part in that left out.

A row lies near a center that it is part of, the more so the smaller the class. As a center is a
sum, the row is taken out of its own exactly and at no cost. The (N, C) likelihoods are never held:
they are made and used a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from labelsieve.errors import DataError
from labelsieve.methods.prism.centers import Score
from labelsieve.methods.prism.vmf import LEAST_ROWS, concentration, vmf_log_constant

BLOCK = 1 << 23  # numbers in a block of likelihoods: 32 MiB, several times over while it is used
RIDGE = 0.3  # of the mean variance, added to those within classes before whitening
TINY = 1e-12


class Space(NamedTuple):
    """Where rows are compared: as they are, or whitened within classes."""

    offset: NDArray[np.float32]  # (D,)
    matrix: NDArray[np.float32]  # (D, D)


class Centers(NamedTuple):
    """Each class's rows, added up."""

    sums: NDArray[np.float32]  # (C, D)
    counts: NDArray[np.int64]  # (C,)
    used: NDArray[np.bool_]  # (N,) the rows that are in them


class Block(NamedTuple):
    """Some rows and their log-likelihoods under all classes, up to a constant of each row."""

    rows: NDArray[np.int64]  # (b,)
    likelihoods: NDArray[np.float32]  # (b, C) -inf for classes without rows; own without the row


def check_rows(features: NDArray[np.floating], labels: NDArray[np.int64], n_classes: int) -> None:
    """Refuse what cannot be scored.

    Raises:
        DataError: shapes that do not fit, labels that are no class, or rows that are not finite.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise DataError(
            f"Features are {features.shape} and labels {labels.shape}; expected (N, D) and (N,)."
        )
    if len(labels) and not -1 <= labels.min() <= labels.max() < n_classes:
        raise DataError(
            f"Labels run from {labels.min()} to {labels.max()}; expected 0 to {n_classes - 1}, "
            "or -1 for none."
        )
    for rows in blocks(np.arange(len(labels)), features.shape[1]):
        finite = np.isfinite(features[rows]).all(axis=1)
        if not finite.all():
            raise DataError(
                f"Row {rows[~finite][0]} of the features is not finite, as are "
                f"{int((~finite).sum()) - 1} rows after it. Make them again."
            )


def blocks(rows: NDArray[np.int64], width: int) -> Iterator[NDArray[np.int64]]:
    """Rows, some at a time, as many as are `BLOCK` numbers of that width."""
    size = max(1, BLOCK // max(width, 1))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def unit_rows(features: NDArray[np.floating], space: Space | None = None) -> NDArray[np.float32]:
    """(b, D) float32 of length one; zeros stay zeros.

    Example:
        >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    rows = _of_length_one(np.asarray(features, np.float32))
    if space is None:
        return rows
    return _of_length_one((rows - space.offset) @ space.matrix)


def _of_length_one(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    largest = np.abs(rows).max(axis=1, keepdims=True)  # first: squares of 1e20 overflow
    scaled = rows / np.maximum(largest, 1e-38)
    scaled /= np.maximum(np.sqrt(np.square(scaled).sum(axis=1, keepdims=True)), TINY)
    return np.asarray(scaled, np.float32)


def center_rows(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    keep: NDArray[np.bool_],
    n_classes: int,
    space: Space | None = None,
) -> Centers:
    """Add up the rows of each class that are kept, or all of a class of which none is.

    Args:
        features: (N, D).
        labels: (N,) in [-1, C).
        keep: (N,) bool.
        n_classes: C.
        space: where the rows are compared.
    """
    labeled = labels >= 0
    lost = np.bincount(labels[keep & labeled], minlength=n_classes) == 0
    used = labeled & (keep | lost[labels])
    sums = np.zeros((n_classes, features.shape[1]))
    for rows in blocks(np.flatnonzero(used), features.shape[1]):
        members = csr_matrix(
            (np.ones(len(rows), np.float32), (labels[rows], np.arange(len(rows)))),
            shape=(n_classes, len(rows)),
        )
        sums += members @ unit_rows(features[rows], space)
    counts = np.bincount(labels[used], minlength=n_classes)
    return Centers(sums.astype(np.float32), counts, used)


def whitened(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    keep: NDArray[np.bool_],
    n_classes: int,
) -> Space:
    """The space in which classes are about as wide in all directions.

    Directions in which the rows of a class differ anyway, such as light and background, drown those
    in which classes do. `RIDGE` of the mean variance of all rows keeps directions in check in which
    classes do not vary, and leaves rows as they are where classes lie far apart anyway.

    Args:
        features: (N, D).
        labels: (N,) in [-1, C).
        keep: (N,) bool, rows that say how wide classes are.
        n_classes: C.
    """
    centers = center_rows(features, labels, keep, n_classes)
    means = centers.sums / np.maximum(centers.counts, 1)[:, None]
    width = features.shape[1]
    within, total = np.zeros((width, width)), np.zeros(width)
    used = np.flatnonzero(centers.used)
    for rows in blocks(used, width):
        units = unit_rows(features[rows])
        total += units.sum(axis=0)
        around = units - means[labels[rows]]
        within += around.T @ around
    # a row of its own class of one adds nothing, so that only differences are counted
    within /= max(1, len(used) - int(np.count_nonzero(centers.counts)))
    variances, directions = np.linalg.eigh(within)
    offset = total / max(1, len(used))
    around_all = max(1 - float(np.square(offset).sum()), TINY) / width  # rows have length one
    matrix = directions / np.sqrt(variances.clip(0) + RIDGE * around_all)
    return Space(offset.astype(np.float32), matrix.astype(np.float32))


def likelihood_blocks(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    centers: Centers,
    score: Score,
    space: Space | None = None,
) -> Iterator[Block]:
    """Log-likelihoods of rows under all classes at temperature 1, some rows at a time.

    Args:
        features: (N, D).
        labels: (N,) in [-1, C).
        rows: which to score.
        centers: of `center_rows`, in the same space.
        score: as of `centers.log_likelihoods`.
        space: where the rows are compared.
    """
    n_classes, width = centers.sums.shape
    lengths = np.sqrt(np.square(centers.sums, dtype=np.float64).sum(axis=1))  # (C,)
    scale, offset = _terms(lengths, centers.counts, width, score)
    absent = centers.counts == 0
    for block in blocks(rows, max(n_classes, width)):
        units, given = unit_rows(features[block], space), labels[block]
        products = units @ centers.sums.T  # (b, C)
        likelihoods = products * scale + offset
        own = np.flatnonzero(given >= 0)
        likelihoods[own, given[own]] = _own(
            products[own, given[own]], given[own], centers.used[block[own]], centers, lengths, score
        )
        likelihoods[:, absent] = -np.inf
        yield Block(block, likelihoods)


def _terms(
    lengths: NDArray[np.float64], counts: NDArray[np.int64], width: int, score: Score
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the product of a row with a class's sum is multiplied by, and what is added."""
    safe, n = np.maximum(lengths, TINY), np.maximum(counts, 1)
    if score == "average":
        return (1 / n).astype(np.float32), np.zeros(len(n), np.float32)
    if score == "cosine":
        return (1 / safe).astype(np.float32), np.zeros(len(n), np.float32)
    kappa = concentration(torch.from_numpy(lengths / n), width, torch.from_numpy(counts))
    constant = vmf_log_constant(kappa, width).numpy()
    return (kappa.numpy() / safe).astype(np.float32), constant.astype(np.float32)


def _own(
    products: NDArray[np.float32],
    given: NDArray[np.int64],
    inside: NDArray[np.bool_],
    centers: Centers,
    lengths: NDArray[np.float64],
    score: Score,
) -> NDArray[np.float32]:
    """(b,) likelihood under the own class without the row; -inf where nothing else is in it."""
    out = inside.astype(np.float64)
    n = centers.counts[given] - inside
    shorter = np.square(lengths[given]) - out * (2 * products - 1)  # |S - x|^2, as |x| = 1
    left = np.sqrt(np.maximum(shorter, TINY))
    scale, offset = _terms(left, n, centers.sums.shape[1], score)
    if score == "vmf":  # of too few rows: the class's concentration, not the median of these rows
        scale_of, offset_of = _terms(lengths, centers.counts, centers.sums.shape[1], score)
        few = n < LEAST_ROWS
        kept_scale = scale_of[given] * lengths[given] / left
        scale = np.where(few, kept_scale, scale).astype(np.float32)
        offset = np.where(few, offset_of[given], offset)
    own = (products - out) * scale + offset
    return np.where(n > 0, own, -np.inf).astype(np.float32)
