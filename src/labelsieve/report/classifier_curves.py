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
_SHARE = "_share"  # how names in the log end whose values are shares of the images
_NOT_OF_IMAGES = ("waiting_share",)


def training_charts(history: History) -> list[tuple[str, tuple[Chart, ...]]]:
    """Each phase in words and its charts, as far as its log has their values.

    Args:
        history: the epochs' lines of log.jsonl by phase, in order.
    """
    tested = [phase for phase, lines in history.items() if points_of(lines, "test_accuracy")]
    found = []
    for phase, lines in history.items():
        accuracy = accuracy_chart(lines, is_final=phase in tested[-1:])
        charts = (loss_chart(lines), accuracy, *_shares(lines))
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
    sentence = f"The last epoch counts: {percent(last)}." if is_final else f"At its end: {percent(last)}."
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


def _shares(epochs: Sequence[Mapping[str, Any]]) -> list[Chart | None]:
    """What shares of the images the log tells of, three to a chart."""
    names = dict.fromkeys(name for line in epochs for name in line if name.endswith(_SHARE))
    keys = [name for name in names if name not in _NOT_OF_IMAGES]
    return [
        shares_chart(
            epochs,
            "Shares of the images",
            {key: key.removesuffix(_SHARE).replace("_", " ") for key in keys[i : i + len(KINDS)]},
            "At the end:",
        )
        for i in range(0, len(keys), len(KINDS))
    ]
