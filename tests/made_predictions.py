"""Predictions and scores made by chance, for the tests of what is made of them."""

from __future__ import annotations

import numpy as np

from labelsieve.records.predictions import Predictions
from labelsieve.report.classifier_scores import ClassifierScores, score_classifier


def made_probabilities(n: int, n_classes: int, seed: int = 0, skill: float = 2.0):
    """(n, C) float32 probabilities and (n,) truth; the more skill, the more often right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes))
    logits[np.arange(n), truth] += skill
    values = np.exp(logits)
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32), truth


def made_names(n_classes: int) -> tuple[str, ...]:
    return tuple(f"class {c}" for c in range(n_classes))


def made_scores(n: int, n_classes: int, seed: int = 0, **more) -> ClassifierScores:
    values, truth = made_probabilities(n, n_classes, seed)
    return score_classifier(values, truth, made_names(n_classes), **more)


def made_predictions(n: int, n_classes: int, seed: int = 0, n_broken: int = 0, **columns):
    """Predictions of n images, the last of them broken."""
    values, _ = made_probabilities(n - n_broken, n_classes, seed)
    ids = [f"{i:05d}.png" for i in range(n)]
    names = made_names(n_classes)
    return Predictions.of_probabilities(ids, np.arange(n - n_broken), values, names, **columns)


def epochs(n: int = 20, first: int = 0, **more):
    """Lines of log.jsonl; the best on the test images is the last but two."""
    accuracy = [0.5 + 0.01 * i for i in range(n)]
    if n > 3:
        accuracy[-3], accuracy[-1] = 0.9, 0.8
    return [
        {"epoch": first + i, "loss": 2.0 - 0.05 * i, "test_accuracy": accuracy[i], **more}
        for i in range(n)
    ]
