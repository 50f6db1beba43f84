"""What the charts of every training have in common: phases, and a measure on the test images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from labelsieve.report.classifier_scores import History
from labelsieve.report.curves import KINDS, Chart, epochs_chart, points_of, scale
from labelsieve.report.table import percent

LEAST_SPAN = 0.05  # of the scale of a measure: no two ticks read alike

Lines = Sequence[Mapping[str, Any]]  # of one phase in log.jsonl


def phase_charts(
    history: History,
    words: Mapping[str, str],
    tested: str,
    draw: Callable[[Lines, bool], Iterable[Chart | None]],
) -> list[tuple[str, tuple[Chart, ...]]]:
    """Each phase in words and its charts, as far as its log has their values.

    Args:
        history: the epochs' lines of log.jsonl by phase, in order.
        words: what a phase is called; another one is called as in the log.
        tested: key of the measure on the test images.
        draw: the charts of a phase's lines, told whether the last of them is what counts.
    """
    last = [phase for phase, lines in history.items() if points_of(lines, tested)][-1:]
    found = []
    for phase, lines in history.items():
        drawn = tuple(chart for chart in draw(lines, phase in last) if chart is not None)
        if drawn:
            found.append((words.get(phase, phase.replace("-", " ").capitalize()), drawn))
    return found


def tested_chart(epochs: Lines, key: str, title: str, *, is_final: bool) -> Chart | None:
    """A share on the test images over the epochs; None where there is none.

    Args:
        epochs: lines of one phase.
        key: of the measure.
        title: of the chart; its line is called so too.
        is_final: whether its last epoch is the result; the best one never is.
    """
    points = points_of(epochs, key)
    if not points:
        return None
    (epoch, last), best = points[-1], max(points, key=lambda point: point[1])
    series = [(title[:1].lower() + title[1:], KINDS[0], points)]
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
        title,
        sentence,
        series,
        y=scale([max(0.0, low - pad), min(1.0, high + pad)]),
        mark=(epoch, "counts") if is_final else None,
        is_share=True,
    )
