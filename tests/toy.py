"""Made data with known truth, for tests and benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Toy(NamedTuple):
    features: NDArray[np.float32]  # (N, D) unit-norm
    labels: NDArray[np.int64]  # (N,) as given
    truth: NDArray[np.int64]  # (N,)
    foreign: NDArray[np.bool_]  # (N,)
    mislabeled: NDArray[np.bool_]  # (N,)


def structured(
    n,
    n_classes,
    *,
    dimension=128,
    foreign_rate=0.2,
    mislabeled_rate=0.2,
    offset=0.7,
    class_scale=1.0,
    spread=4.0,
    n_concepts=200,
    concept_scale=0.7,
    seed=0,
):
    """Known images on one side of a hyperplane, class by class; foreign ones beyond it.

    The order of the draws is fixed: golden counts depend on it.
    """
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(n_classes), n // n_classes)
    n = len(truth)
    axis = np.zeros(dimension)
    axis[0] = 1

    def centers(count):
        rows = rng.normal(size=(count, dimension))
        rows[:, 0] = 0
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    classes, concepts = centers(n_classes), centers(n_concepts)
    kind = rng.random(n)
    foreign = kind < foreign_rate
    relabeled = (kind >= foreign_rate) & (kind < foreign_rate + mislabeled_rate)
    labels = truth.copy()
    labels[relabeled] = rng.integers(0, n_classes, relabeled.sum())
    noise = rng.normal(size=(n, dimension)) / np.sqrt(dimension) * spread
    rows = offset * axis + 2 * class_scale * classes[truth] + noise
    concept = rng.integers(0, n_concepts, foreign.sum())
    rows[foreign] = -offset * axis + 2 * concept_scale * concepts[concept] + noise[foreign]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Toy(rows.astype(np.float32), labels, truth, foreign, relabeled & (labels != truth))
