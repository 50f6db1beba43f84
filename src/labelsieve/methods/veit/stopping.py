"""How long to learn from few verified images, and how sure to be then: by what is held out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit


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


class Stretch(NamedTuple):
    """How logits are to be changed: slope * logit + shift."""

    slope: float
    shift: float
    loss: float  # mean cross-entropy afterwards, nats


def stretched(logits: NDArray[np.float64], right: NDArray[np.bool_]) -> Stretch:
    """The slope and shift that make logits most likely, after J. Platt.

    Args:
        logits: (n,) finite.
        right: (n,) whether the pair was right.

    Example:
        >>> found = stretched(np.array([4.0, 4, 4, 4, -4, -4]), np.array([1, 1, 1, 0, 0, 0]) > 0)
        >>> found.slope < 1
        True
    """

    def cross_entropy(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        moved = values[0] * logits + values[1]
        excess = expit(moved) - right
        # so little pull to (1, 0) that it matters only where pairs are told apart without fail
        loss = np.mean(np.logaddexp(0, moved) - right * moved)
        pull = np.array([values[0] - 1, values[1]]) / len(logits)
        gradient = np.array([np.mean(excess * logits), np.mean(excess)]) + pull
        return float(loss + (pull**2).sum() * len(logits) / 2), gradient

    found = minimize(cross_entropy, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B",
                     bounds=[(0.05, 5), (-5, 5)])  # fmt: skip
    moved = found.x[0] * logits + found.x[1]
    loss = float(np.mean(np.logaddexp(0, moved) - right * moved))
    return Stretch(float(found.x[0]), float(found.x[1]), loss)
