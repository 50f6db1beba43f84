"""Embeddings, their scores and queries made by chance, for the tests of what shows them."""

from __future__ import annotations

import numpy as np

from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Neighbors
from labelsieve.report.retrieval_metrics import RetrievalScores, score_retrieval


def made_rows(n: int, n_classes: int, seed: int = 0, skill: float = 1.0, dim: int = 16):
    """(n, D) unit rows around a center a class, and (n,) labels; more skill, closer to it."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    centers = rng.normal(size=(n_classes, dim))
    rows = skill * centers[labels] + rng.normal(size=(n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def made_neighbors(n: int, n_classes: int, k: int = 10, **more) -> tuple[Neighbors, np.ndarray]:
    rows, labels = made_rows(n, n_classes, **more)
    return nearest_neighbors(rows, k), labels


def made_scores(n: int = 60, n_classes: int = 6, **more) -> RetrievalScores:
    return score_retrieval(*made_rows(n, n_classes, **more))


def retrieval_epochs(n: int = 10, filtered: bool = True, **more):
    """Lines of log.jsonl; every second is tested, and the best of these is not the last."""
    lines = []
    for i in range(n):
        line = {"epoch": i, "loss": 2.0 - 0.05 * i, **more}
        if filtered:
            line |= {"kept": 0.5 + 0.01 * i, "threshold": -4.0 + 0.1 * i, "noise_rate": 0.4}
        if i % 2:
            line["test_precision_at_1"] = 0.9 if i == n - 3 else 0.3 + 0.01 * i
        lines.append(line)
    return lines
