"""The charts of a classifier's training, from its log."""

from __future__ import annotations

from labelsieve.report.classifier_scores import History
from labelsieve.report.curves import (
    KINDS,
    Chart,
    epochs_chart,
    loss_chart,
    points_of,
    shares_chart,
)
from labelsieve.report.training_curves import Lines, phase_charts, tested_chart

PHASES = {
    "pretrain": "Pretraining",
    "warm-up": "Warm-up on clean images",
    "train": "Training",
}
# What the steps of the objectives log, and what it is called on the page.
BELIEVED = {  # in [0, 1]
    "right": "labels taken as right",
    "worth": "weight of guessed labels",
}
PARTS = {  # of the loss; an objective has at most three of them drawn
    "classification": "classification",
    "contrast": "contrastive",
    "strong": "strong views",
    "balance": "balance of classes",
    "penalty": "early learning",
    "fitted": "labels taken as right",
    "guessed": "guessed labels",
}


def training_charts(history: History) -> list[tuple[str, tuple[Chart, ...]]]:
    """Each phase in words and its charts, as far as its log has their values.

    Args:
        history: the epochs' lines of log.jsonl by phase, in order.
    """
    return phase_charts(history, PHASES, "test_accuracy", _charts)


def accuracy_chart(epochs: Lines, *, is_final: bool) -> Chart | None:
    """The accuracy on the test images over the epochs; None where there is none.

    Args:
        epochs: lines of one phase.
        is_final: whether its last epoch is the result; the best one never is.
    """
    return tested_chart(epochs, "test_accuracy", "Test accuracy", is_final=is_final)


def _charts(epochs: Lines, is_final: bool) -> tuple[Chart | None, ...]:
    believed = shares_chart(epochs, "What is believed", BELIEVED, "At the end:")
    return loss_chart(epochs), accuracy_chart(epochs, is_final=is_final), _parts(epochs), believed


def _parts(epochs: Lines) -> Chart | None:
    """The parts of the loss, each as it is before its weight; None where it has one part only."""
    found = {words: points for key, words in PARTS.items() if (points := points_of(epochs, key))}
    named = zip(found.items(), KINDS, strict=False)  # the first three
    series = [(words, kind, points) for (words, points), kind in named]
    if len(series) < 2:
        return None
    last = [f"{words} {points[-1][1]:.3f}" for words, _, points in series]
    return epochs_chart("Parts of the loss", f"At the end: {', '.join(last)}.", series)
