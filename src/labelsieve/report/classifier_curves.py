"""The charts of a classifier's training, from its log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labelsieve.report.classifier_scores import History
from labelsieve.report.curves import (
    KINDS,
    Chart,
    epochs_chart,
    loss_chart,
    points_of,
    scale,
    shares_chart,
)
from labelsieve.report.table import percent

PHASES = {
    "pretrain": "Pretraining",
    "warm-up": "Warm-up on clean images",
    "train": "Training",
}
LEAST_SPAN = 0.05  # of the scale of accuracies: no two ticks read alike
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
    tested = [phase for phase, lines in history.items() if points_of(lines, "test_accuracy")]
    found = []
    for phase, lines in history.items():
        accuracy = accuracy_chart(lines, is_final=phase in tested[-1:])
        believed = shares_chart(lines, "What is believed", BELIEVED, "At the end:")
        charts = (loss_chart(lines), accuracy, _parts(lines), believed)
        drawn = tuple(chart for chart in charts if chart is not None)
        if drawn:
            found.append((PHASES.get(phase, phase.replace("-", " ").capitalize()), drawn))
    return found


def accuracy_chart(epochs: Sequence[Mapping[str, Any]], *, is_final: bool) -> Chart | None:
    """The accuracy on the test images over the epochs; None where there is none.

    Args:
        epochs: lines of one phase.
        is_final: whether its last epoch is the result; the best one never is.
    """
    points = points_of(epochs, "test_accuracy")
    if not points:
        return None
    (epoch, last), best = points[-1], max(points, key=lambda point: point[1])
    series = [("test accuracy", KINDS[0], points)]
    sentence = (
        f"The last epoch counts: {percent(last)}." if is_final else f"At its end: {percent(last)}."
    )
    if is_final and best[1] > last:
        series.append(("best on the test images", KINDS[2], [best]))
        sentence += (
            f" The best on the test images, {percent(best[1])} after epoch {best[0]:,.0f}, is "
            "shown only for comparison."
        )
    values = [value for _, value in points]
    low, high = min(values), max(values)
    pad = max(0.0, LEAST_SPAN - (high - low)) / 2
    return epochs_chart(
        "Test accuracy",
        sentence,
        series,
        y=scale([max(0.0, low - pad), min(1.0, high + pad)]),
        mark=(epoch, "counts") if is_final else None,
        is_share=True,
    )


def _parts(epochs: Sequence[Mapping[str, Any]]) -> Chart | None:
    """The parts of the loss, each as it is before its weight; None where it has one part only."""
    found = {words: points for key, words in PARTS.items() if (points := points_of(epochs, key))}
    named = zip(found.items(), KINDS, strict=False)  # the first three
    series = [(words, kind, points) for (words, points), kind in named]
    if len(series) < 2:
        return None
    last = [f"{words} {points[-1][1]:.3f}" for words, _, points in series]
    return epochs_chart("Parts of the loss", f"At the end: {', '.join(last)}.", series)
