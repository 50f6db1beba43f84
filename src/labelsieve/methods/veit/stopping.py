"""How long to learn from few verified images: what is held out, and how it is scored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def held_out(
    rows: NDArray[np.int64], seed: int, share: float = 0.2
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Some rows to learn from and the others, about a fifth, at least one where there are two.

    Example:
        >>> fit, held = held_out(np.arange(10), seed=0)
        >>> len(fit), len(held)
        (8, 2)
    """
    first, *_ = folds(rows, seed, max(2, round(1 / share)))
    return first


def folds(
    rows: NDArray[np.int64], seed: int, n_folds: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Each of some parts of the rows held out once: (to learn from, held out), rows rising.

    Fewer rows than folds make as many folds as there are rows; a single one is learned and held out
    both.
    """
    order = np.random.default_rng([0x76, seed]).permutation(rows)
    if len(order) < 2:
        return [(order, order)]
    parts = np.array_split(order, min(n_folds, len(order)))
    return [(np.sort(np.setdiff1d(rows, part)), np.sort(part)) for part in parts]


def average_precision(scores: NDArray[np.floating], present: NDArray[np.bool_]) -> float:
    """Mean precision at each right pair, from the highest score down; NaN without both kinds.

    Pairs of one score count as one step, so that their order does not matter.

    Example:
        >>> relevant = np.array([True, False, True, True, False])
        >>> round(average_precision(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), relevant), 7)
        0.8055556
    """
    n = int(present.sum())
    if n in (0, len(present)):
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    last = np.append(falling[1:] != falling[:-1], True)  # of each block of one score
    right = np.cumsum(present[order])[last]
    ranks = np.flatnonzero(last) + 1
    return float((np.diff(right, prepend=0) * right / ranks).sum() / n)
