"""Where the lines of the cluster page's charts go; its templates draw them as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

HEIGHT, NARROW, WIDE = 190, 280, 460  # units of a drawing
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 38  # around the plot
N_POINTS = 100  # of a line, at most; of more it has means
N_DOTS = 25  # a line of more points is drawn without dots
N_TICKS = 5

PHASES = {
    "pretrain": "Pretraining",
    "heads": "Heads on frozen features",
    "scan": "The whole network",
    "self-label": "Self-labels",
}
KINDS = ("first", "second", "third")  # of lines
CONFIDENT = {  # of held-out images
    "confident_90": "above .90", "confident_95": "above .95", "confident_99": "above .99",
}  # fmt: skip
LEARNED = {"learned": "learned from", "confident": "sure enough"}  # of the images of a batch


class Evidence(Protocol):
    """What `number_of_classes` says, as far as it is drawn."""

    @property
    def numbers(self) -> Any: ...  # (M,) numbers of classes tried
    @property
    def stability(self) -> Any: ...  # (M,)
    @property
    def support(self) -> Any: ...  # (M,) links within clusters, less those of chance
    @property
    def crossing(self) -> Any: ...  # (M,) links across the last split; 1 at chance
    @property
    def chosen(self) -> int: ...
    @property
    def plausible(self) -> tuple[int, int]: ...
    @property
    def is_clear(self) -> bool: ...
    @property
    def sentence(self) -> str: ...


@dataclass(frozen=True)
class Scale:
    """A scale with round ticks, by the number or by its logarithm."""

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between both ends, from 0 to 1."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def text(self, tick: float) -> str:
        """A tick in words: no more digits than tell it from its neighbors."""
        step = min((b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False)), default=1.0)
        near = 1e-3 * step  # a tick is no exact decimal
        digits = (d for d in range(13) if all(abs(t - round(t, d)) < near for t in self.ticks))
        return f"{tick:,.{next(digits, 12)}f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    label: str
    kind: str  # its class in the style sheet
    path: str
    ends: tuple[tuple[float, float], ...] = ()  # points without a neighbor, drawn as dots


@dataclass(frozen=True)
class Chart:
    """A drawing with axes, and what it says in words."""

    title: str
    sentence: str
    across: str  # what the axis below shows
    x: Scale
    y: Scale
    lines: tuple[Line, ...]
    width: int = NARROW
    is_share: bool = False
    rules: tuple[tuple[float, str], ...] = ()  # heights of dashed lines, and what they mean
    mark: tuple[float, str] | None = None  # a place on the axis below, and what it means
    band: tuple[float, float] | None = None  # a range of the axis below
    table: tuple[tuple[str, ...], ...] = field(default=())  # the numbers, first their headings

    def right(self, value: float) -> float:
        """Units from the left."""
        return round(LEFT + (self.width - LEFT - RIGHT) * self.x.share(value), 1)

    def down(self, value: float) -> float:
        """Units from the top."""
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - self.y.share(value)), 1)


def scale(values: Sequence[float], *, whole: bool = False) -> Scale:
    """The shortest scale of round steps that holds all values.

    Args:
        values: finite; without any the scale is from 0 to 1.
        whole: only whole numbers are ticks.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / N_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (1, 2, 2.5, 5, 10) if step * power >= rough * (1 - 1e-9)) * power
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def charts_of(epochs: Sequence[Mapping[str, Any]], n_clusters: int) -> tuple[Chart, ...]:
    """The charts of one training phase, as far as its log has their values."""
    found = (
        loss_chart(epochs),
        _validation(epochs),
        shares_chart(epochs, "Learned from", LEARNED, "Of the images, at the end"),
        shares_chart(
            epochs, "Confident", CONFIDENT, "Of the held-out images' probabilities, at the end"
        ),
        _used(epochs, n_clusters),
    )
    return tuple(chart for chart in found if chart is not None)


def evidence_chart(evidence: Evidence) -> Chart:
    """Stability, support and crossing links over the number of classes."""
    numbers = [int(n) for n in evidence.numbers]
    series = {
        "stability": [float(v) for v in evidence.stability],
        "support": [float(v) for v in evidence.support],
        "crossing": [float(v) for v in evidence.crossing],
    }
    x = _number_scale([*numbers, evidence.chosen, *evidence.plausible])
    known = [value for values in series.values() for value in values if math.isfinite(value)]
    y = scale([0.0, 1.0, *known])
    rows = zip(numbers, *series.values(), strict=True)
    return Chart(
        title="Evidence",
        sentence=evidence.sentence,
        across="number of classes",
        x=x,
        y=y,
        lines=tuple(
            _line(name, kind, list(zip(numbers, values, strict=True)), x, y, WIDE)
            for (name, values), kind in zip(series.items(), KINDS, strict=True)
        ),
        width=WIDE,
        mark=(evidence.chosen, f"{evidence.chosen:,}"),
        band=evidence.plausible,
        table=(
            ("Classes", *(name.capitalize() for name in series)),
            *(
                (f"{n:,}", *(f"{v:.3f}" if math.isfinite(v) else "–" for v in vs))
                for n, *vs in rows
            ),
        ),
    )


def loss_chart(epochs: Sequence[Mapping[str, Any]]) -> Chart | None:
    """The loss of each epoch; None where there is none."""
    points = points_of(epochs, "loss")
    if not points:
        return None
    n = len(epochs)
    first, last = _text(points[0][1]), _text(points[-1][1])
    sentence = f"{first} in one epoch." if n == 1 else f"From {first} to {last} in {n:,} epochs."
    return epochs_chart("Training loss", sentence, [("loss", "first", points)])


def _validation(epochs: Sequence[Mapping[str, Any]]) -> Chart | None:
    points = points_of(epochs, "valid_loss")
    if not points:
        return None
    best = min(points, key=lambda point: point[1])
    sentence = f"Lowest, {_text(best[1])}, at epoch {best[0]:,.0f} of {len(epochs):,}."
    rules: tuple[tuple[float, str], ...] = ()
    gaps = points_of(epochs, "valid_gap")
    if len(gaps) == len(points):
        least = points[0][1] - gaps[0][1]
        rules = ((least, "the least there can be"),)
        sentence += f" The least there can be is {_text(least)}; a wide gap to it is a bad sign."
    lines = [("validation loss", "first", points)]
    return epochs_chart("Validation loss", sentence, lines, rules=rules, mark=(best[0], "lowest"))


def shares_chart(
    epochs: Sequence[Mapping[str, Any]], title: str, words: Mapping[str, str], of: str
) -> Chart | None:
    """Some shares of the images, in one chart."""
    kinds = dict(zip(words, KINDS, strict=False))
    series = {key: points for key in words if (points := points_of(epochs, key))}
    if not series:
        return None
    last = [f"{round(100 * points[-1][1])} % {words[key]}" for key, points in series.items()]
    return epochs_chart(
        title,
        f"{of} {', '.join(last)}.",
        [(words[key], kinds[key], points) for key, points in series.items()],
        y=scale([0.0, 1.0]),
        is_share=True,
    )


def _used(epochs: Sequence[Mapping[str, Any]], n_clusters: int) -> Chart | None:
    points = points_of(epochs, "used_clusters")
    if not points:
        return None
    last, fewest = points[-1][1], min(points, key=lambda point: point[1])
    sentence = f"At the end {last:,.0f} of {n_clusters:,} have held-out images"
    sentence += (
        f"; fewest, {fewest[1]:,.0f}, at epoch {fewest[0]:,.0f}." if fewest[1] < last else "."
    )
    lines = [("used clusters", "first", points)]
    y = scale([0.0, float(n_clusters)], whole=True)
    rules = ((float(n_clusters), "all"),)
    return epochs_chart("Used clusters", sentence, lines, y=y, rules=rules)


def epochs_chart(
    title: str,
    sentence: str,
    series: Sequence[tuple[str, str, list[tuple[float, float]]]],
    *,
    y: Scale | None = None,
    rules: tuple[tuple[float, str], ...] = (),
    mark: tuple[float, str] | None = None,
    is_share: bool = False,
) -> Chart:
    """A chart over epochs."""
    epochs = [epoch for *_, points in series for epoch, _ in points]
    values = [value for *_, points in series for _, value in points]
    x = scale([1.0, max(2.0, *epochs)], whole=True)
    x = Scale(1.0, max(2.0, *epochs), tuple(t for t in x.ticks if 1 <= t <= max(2.0, *epochs)))
    y = y or scale([*values, *(height for height, _ in rules)])
    lines = tuple(_line(label, kind, points, x, y) for label, kind, points in series)
    return Chart(title, sentence, "epoch", x, y, lines, NARROW, is_share, rules, mark)


def points_of(epochs: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(epoch, counted from 1, value), of the epochs whose value is a finite number."""
    found = [(line.get("epoch", i) + 1, line.get(key)) for i, line in enumerate(epochs)]
    return [(float(e), float(v)) for e, v in found if v is not None and math.isfinite(v)]


def _line(
    label: str,
    kind: str,
    points: list[tuple[float, float]],
    x: Scale,
    y: Scale,
    width: int = NARROW,
) -> Line:
    points = [point for point in points if math.isfinite(point[1])]
    points = smoothed(points)
    place = Chart("", "", "", x, y, (), width)
    places = [(place.right(across), place.down(value)) for across, value in points]
    path = "".join(f"{'L' if i else 'M'}{a:g} {b:g}" for i, (a, b) in enumerate(places))
    return Line(label, kind, path, tuple(places) if len(places) <= N_DOTS else ())


def smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `N_POINTS`: the first and the last, between them means over runs of neighbors.

    On few images an epoch is one update, whose loss goes up and down by the images in it.
    """
    if len(points) <= N_POINTS:
        return points
    runs = np.array_split(np.array(points[1:-1]), N_POINTS - 2)
    means = [(float(across), float(value)) for across, value in (run.mean(axis=0) for run in runs)]
    return [points[0], *means, points[-1]]


def _number_scale(numbers: Sequence[int]) -> Scale:
    """A scale of numbers of classes, by the logarithm where they are of different sizes."""
    low, high = min(numbers), max(numbers)
    if low < 1 or high < 12 * low:
        return scale([float(n) for n in numbers], whole=True)
    ticks: list[float] = []
    for power in range(7):
        ticks += [m * 10.0**power for m in (1, 2, 5) if low <= m * 10**power <= high]
    return Scale(float(low), float(high), tuple(ticks), is_log=True)


def _text(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")
