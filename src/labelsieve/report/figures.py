"""Where the marks of the report's figures go; the templates draw them as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelsieve.records import Findings, NoiseRate, Verdict
from labelsieve.report.table import is_known

N_HEAT_CLASSES = 30  # of the heat map; all others share one row and one column
N_LEVELS = 5  # shades of the heat map


@dataclass(frozen=True)
class Axis:
    """A scale from 0, with round ticks."""

    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where a value lies, in percent of the axis."""
        return round(100 * min(max(value / self.high, 0.0), 1.0), 2)


def rate_axis(rates: Sequence[NoiseRate]) -> Axis:
    """The shortest scale of round steps that holds every interval that is known."""
    intervals = [i for rate in rates for i in (rate.mislabeled_interval, rate.foreign_interval)]
    widest = max((interval[1] for interval in intervals if is_known(interval)), default=0.0)
    for step in (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25):
        n_steps = max(1, int(np.ceil(min(widest, 1.0) / step - 1e-9)))
        if n_steps <= 5:
            break
    return Axis(n_steps * step, tuple(round(i * step, 4) for i in range(n_steps + 1)))


@dataclass(frozen=True)
class Cell:
    """One pair of classes in the heat map."""

    row: int
    column: int
    n_images: int
    level: int  # shade, 1 to N_LEVELS; 0 in the row and the column of the others


@dataclass(frozen=True)
class HeatMap:
    """Images by their class (rows) and by the class that they are taken for (columns)."""

    names: tuple[str, ...]  # of rows and of columns
    cells: tuple[Cell, ...]  # those with images
    n_others: int  # classes that share the last row and column; 0 where all have their own


def heat_map(findings: Findings, n_classes: int = N_HEAT_CLASSES) -> HeatMap:
    """Count given -> suggested for the classes confused most, in the order of the classes."""
    called = (findings.verdict == Verdict.MISLABELED) & (findings.label >= 0)
    called &= findings.suggestion >= 0
    given, suggested = findings.label[called], findings.suggestion[called]
    return heat_of_pairs(given, suggested, findings.class_names, n_classes)


def heat_of_pairs(
    given: NDArray[np.int64],
    suggested: NDArray[np.int64],
    class_names: Sequence[str],
    n_classes: int = N_HEAT_CLASSES,
) -> HeatMap:
    """The same for any pairs of classes, one an image.

    Args:
        given: (n,) the class of the row.
        suggested: (n,) the class of the column.
        class_names: of all classes.
        n_classes: with a row of their own, at most.
    """
    size = len(class_names)
    involved = np.bincount(given, minlength=size) + np.bincount(suggested, minlength=size)
    shown = np.sort(np.argsort(-involved, kind="stable")[:n_classes])
    shown = shown[involved[shown] > 0]
    n_others = int((involved > 0).sum()) - len(shown)
    place = np.full(size, len(shown), np.int64)
    place[shown] = np.arange(len(shown))
    width = len(shown) + (n_others > 0)
    counts = np.zeros((width, width), np.int64)
    np.add.at(counts, (place[given], place[suggested]), 1)
    names = [class_names[c] for c in shown]
    if n_others:
        names.append(f"{n_others} others")
    return HeatMap(tuple(names), _cells(counts, len(shown)), n_others)


def _cells(counts: NDArray[np.int64], n_own: int) -> tuple[Cell, ...]:
    """Shades by the square root: few wrong labels stay visible beside very many."""
    levels = np.zeros_like(counts)
    own = counts[:n_own, :n_own]
    levels[:n_own, :n_own] = np.ceil(N_LEVELS * np.sqrt(own / max(1, own.max(initial=0))))
    return tuple(
        Cell(int(row), int(column), int(counts[row, column]), int(levels[row, column]))
        for row, column in np.argwhere(counts)
    )


@dataclass(frozen=True)
class Dots:
    """The map's points of one verdict, as the path of one SVG element."""

    verdict: Verdict
    n_points: int
    path: str


# Around each point: a dot is a stroke of no length with round ends; the others are closed outlines.
SHAPES = {
    Verdict.CLEAN: "h0",
    Verdict.MISLABELED: "m0-5.2l4.5 7.8h-9z",
    Verdict.FOREIGN: "m0-4.8l4.8 4.8l-4.8 4.8l-4.8-4.8z",
}


def dots(points: NDArray[np.int64], verdicts: NDArray[np.integer]) -> tuple[Dots, ...]:
    """Draw (n, 2) points as one path a verdict: a few bytes a point, and no element a point."""
    drawn = []
    for verdict, shape in SHAPES.items():
        chosen = points[verdicts == verdict]
        path = "".join(f"M{x} {y}{shape}" for x, y in chosen.tolist())
        drawn.append(Dots(verdict, len(chosen), path))
    return tuple(drawn)
