"""The charts of the page of tags: what a cleaner gains where, and its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from labelsieve.report.classifier_scores import History
from labelsieve.report.curves import KINDS, Chart, epochs_chart, loss_chart, points_of, scale
from labelsieve.report.table import percent
from labelsieve.report.tag_breakdowns import Group
from labelsieve.report.tag_evaluation import BASELINE
from labelsieve.report.tag_metrics import TagScores
from labelsieve.report.tag_rows import method_words
from labelsieve.report.training_curves import LEAST_SPAN, Lines, phase_charts

LEAST_BINS = 3  # fewer are no line
PHASES = {
    "noisy": "Tagger on tags as given",
    "gates": "Gates, on verified images",
    "cleaner": "Cleaner, on verified images",
    "joint": "Cleaner and tagger together",
    "tagger": "Tagger on cleaned tags",
    "clean": "Tagger on verified images",
    "mixed": "Tagger on given and verified tags",
    "misra": "What is seen, and what of it is named",
    "biases": "One number a tag",
}
PARTS = {"classifying": "of the tagger", "cleaning": "of the cleaner"}  # of the loss


def training_charts(history: History) -> list[tuple[str, tuple[Chart, ...]]]:
    """Each phase in words and its charts, as far as its log has their values.

    Args:
        history: the epochs' lines of log.jsonl by phase, in order.
    """
    return phase_charts(history, PHASES, "loss", lambda lines, _: (loss_chart(lines), parts(lines)))


def parts(epochs: Lines) -> Chart | None:
    """Both parts of the loss, each as it is before its weight; None where there is one only."""
    found = {words: points for key, words in PARTS.items() if (points := points_of(epochs, key))}
    if len(found) < 2:
        return None
    last = [f"{points[-1][1]:.3f} {words}" for words, points in found.items()]
    named = zip(found.items(), KINDS, strict=False)
    series = [(words, kind, points) for (words, points), kind in named]
    return epochs_chart("Parts of the loss", f"At the end: {', '.join(last)}.", series)


def bin_charts(scores: Mapping[str, TagScores]) -> tuple[Chart, ...]:
    """MAP of rare and common tags, and of noisy and clean ones, as given and as cleaned.

    Args:
        scores: by method; the last one is what the tags were cleaned with.
    """
    if not scores:
        return ()
    method = list(scores)[-1]
    shown = {method: scores[method]}
    if BASELINE in scores:
        shown[BASELINE] = scores[BASELINE]
    found = (
        _bins("Rare and common tags", "tags, from rare to common",
              {name: one.by_frequency for name, one in shown.items()}),
        _bins("Noisy and clean tags", "tags, from mostly wrong to mostly right",
              {name: one.by_noise for name, one in shown.items()}),
    )  # fmt: skip
    return tuple(chart for chart in found if chart is not None)


def _bins(title: str, across: str, bins: Mapping[str, Sequence[Group]]) -> Chart | None:
    series, gains = [], []
    for (name, groups), kind in zip(bins.items(), KINDS, strict=False):
        points = [(float(b + 1), one.map) for b, one in enumerate(groups) if one.map is not None]
        series.append((method_words(name), kind, points))
    if min(len(points) for *_, points in series) < LEAST_BINS:
        return None
    n_bins = len(series[0][2])
    values = [value for *_, points in series for _, value in points]
    pad = max(0.0, LEAST_SPAN - (max(values) - min(values))) / 2
    y = scale([max(0.0, min(values) - pad), min(1.0, max(values) + pad)])
    sentence = f"MAP from {percent(series[0][2][0][1])} to {percent(series[0][2][-1][1])}."
    if len(series) > 1 and len(series[1][2]) == n_bins:
        both = zip(series[0][2], series[1][2], strict=True)
        gains = [mine - other for (_, mine), (_, other) in both]
        low, high = gains.index(min(gains)), gains.index(max(gains))
        sentence = (
            f"Gained most in bin {high + 1}, {_points(gains[high])} points of MAP; least in bin "
            f"{low + 1}, {_points(gains[low])}."
        )
    return replace(epochs_chart(title, sentence, series, y=y, is_share=True), across=across)


def _points(gain: float) -> str:
    return f"{100 * gain:+.1f}".replace("-", "\N{MINUS SIGN}")
