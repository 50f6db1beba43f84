"""The charts of an embedding's training, from its log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labelsieve.report.classifier_scores import History
from labelsieve.report.curves import Chart, epochs_chart, loss_chart, points_of, shares_chart
from labelsieve.report.training_curves import Lines, phase_charts, tested_chart

TESTED = "test_precision_at_1"
PHASES = {
    "train": "Training",
    "prism": "Training with the filter",
    "second": "Second training, on what was kept",
    "two-stage": "Second training, on what was kept",
}
STAGES = {  # what was scored after each
    "train": "first training",
    "prism": "with the filter",
    "second": "second training",
    "two-stage": "second training",
}
FILTERED = {  # of the images of a batch
    "kept": "kept", "removed": "removed", "noise_rate": "taken as the noise rate",
}  # fmt: skip


@dataclass(frozen=True)
class Tested:
    """Precision@1 on the test images after one epoch."""

    epoch: int  # from 1
    precision_at_1: float


def training_charts(history: History) -> list[tuple[str, tuple[Chart, ...]]]:
    """Each phase in words and its charts, as far as its log has their values.

    Args:
        history: the epochs' lines of log.jsonl by phase, in order.
    """
    is_first = not {"second", "two-stage"}.isdisjoint(history)
    words = PHASES | ({"train": "First training"} if is_first else {})
    return phase_charts(history, words, TESTED, _charts)


def best_on_test(history: History, phase: str | None = None) -> Tested | None:
    """The epoch that the test images like best, the earliest of equals; None without a test.

    Only to compare with work that reports it: who chooses by the test images flatters himself.

    Args:
        history: the epochs' lines of log.jsonl by phase.
        phase: the only one to look at; by default the last that was tested.
    """
    tested = {
        name: points for name, lines in history.items() if (points := points_of(lines, TESTED))
    }
    points = tested.get(phase or next(reversed(tested), ""), [])
    if not points:
        return None
    epoch, value = max(points, key=lambda point: point[1])
    return Tested(int(epoch), value)


def _charts(epochs: Lines, is_final: bool) -> tuple[Chart | None, ...]:
    return (
        loss_chart(epochs),
        tested_chart(epochs, TESTED, "Test Precision@1", is_final=is_final),
        filter_chart(epochs),
        threshold_chart(epochs),
    )


def filter_chart(epochs: Lines) -> Chart | None:
    """How much the filter kept and removed, beside the noise rate; None where nothing is known.

    Where the two last lines lie together, the filter does what it is told.
    """
    return shares_chart(
        [_with_removed(line) for line in epochs], "What the filter does", FILTERED, "At the end"
    )


def threshold_chart(epochs: Lines) -> Chart | None:
    """The score below which an image is removed; None where there is none."""
    points = points_of(epochs, "threshold")
    if not points:
        return None
    last = f"{points[-1][1]:.3f}".replace("-", "\N{MINUS SIGN}")
    return epochs_chart(
        "Threshold",
        f"At the end, an image that scores below {last} is removed.",
        [("threshold", "first", points)],
    )


def _with_removed(line: Mapping[str, Any]) -> Mapping[str, Any]:
    kept = line.get("kept")
    return line if kept is None or "removed" in line else {**line, "removed": 1 - kept}
