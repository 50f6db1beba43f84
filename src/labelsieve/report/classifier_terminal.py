"""A trained classifier and its predictions as tables for the terminal; the command line prints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from labelsieve.records import Findings, Verdict
from labelsieve.records.predictions import Predictions
from labelsieve.report.classifier_evaluation import ClassifierEvaluation
from labelsieve.report.classifier_scores import ClassifierScores, ClassScore, Interval
from labelsieve.report.table import label_agreement, percent, verdict_changes
from labelsieve.report.terminal import verdict_table
from labelsieve.report.terminal_tables import (
    LOOK,
    TableOrLines,
    count_of,
    in_blocks,
    run_table,
    short,
    spread_table,
    spread_words,
    warning_lines,
    within,
)

N_WORST = 10  # classes shown, those found worst
N_CLASSES = 20  # of predictions, those with the most images

_HEADINGS = {
    "accuracy": "accuracy",
    "top5": "top-5",
    "balanced_accuracy": "balanced",
    "calibration_error": "ECE",
    "negative_log_likelihood": "NLL",
    "brier": "Brier",
}
_SHARES = ("accuracy", "top5", "balanced_accuracy")
_MEANINGS = (
    "after the last epoch; balanced: mean over classes; ECE: expected calibration error, 15 bins; "
    "NLL: negative log likelihood, nats"
)


def terminal_training(
    findings: Findings, scores: ClassifierScores | None, *, before: Findings | None = None
) -> RenderableType:
    """What a training came to, in tables that fit a terminal whatever the number of classes.

    Args:
        findings: what is said of the training images in the end.
        scores: on the test images; None without any.
        before: what the audit said of the same images.
    """
    remarks = _remarks(findings, before)
    return in_blocks(
        warning_lines(findings.warnings),
        verdict_table(findings, before),
        Group(*map(Text, remarks)) if remarks else None,
        _agreement(findings) if scores is None else terminal_classifier_scores(scores),
    )


def terminal_classifier_scores(scores: ClassifierScores) -> RenderableType:
    """How a classifier does on its test images: accuracy, calibration and the worst classes."""
    if scores.accuracy is None:
        return Text("On the test images: not one can be read and is of a known class.")
    lines = [
        Text.assemble(
            "accuracy ", (percent(scores.accuracy), "bold"), within(scores.interval),
            f" on {count_of(scores.n_scored, 'test image')}",
        ),
        *(Text(line) for line in _other_lines(scores)),
    ]  # fmt: skip
    worst = scores.worst_classes()
    if len(worst) < 2:
        return Group(*lines)
    return Group(*lines, Text(), _class_table(worst))


def terminal_predictions(predictions: Predictions) -> RenderableType:
    """What a classifier says of new images, in a table that fits a terminal."""
    broken = np.flatnonzero(predictions.label < 0)
    remarks = []
    if len(broken):
        such = f"such as {predictions.image[broken[0]]}"
        remarks.append(Text(f"{count_of(len(broken))} could not be read, {such}"))
    return in_blocks(
        warning_lines(predictions.warnings),
        _prediction_table(predictions),
        Group(*remarks) if remarks else None,
    )


def terminal_classifier_evaluation(found: ClassifierEvaluation) -> RenderableType:
    """The scores of one or several trainings; of several also mean, spread and interval."""
    blocks: list[RenderableType] = [_run_table(found), Text(_MEANINGS, style="dim")]
    if found.over_runs:
        blocks += [Text(), _spread_table(found)]
    if found.over_images is not None:
        blocks.append(Text(_over_images(found.over_images)))
    if found.agreement is not None:
        blocks.append(Text(f"two runs say the same of {percent(found.agreement)} of the images"))
    return Group(*blocks)


def _agreement(findings: Findings) -> Text:
    """What there is to say of the classifier where no test images are."""
    return Text(
        f"agrees with {percent(label_agreement(findings))} of the labels; how often it is right, "
        "only test images tell (--test IMAGES)"
    )


def _remarks(findings: Findings, before: Findings | None) -> list[str]:
    remarks = []
    if before is not None:
        changes = verdict_changes(findings, before)
        remarks.append(f"verdicts that training changed: {changes['n_by_training']:,}")
        if n := changes["n_decided"]:
            remarks.append(f"{n:,} decided by people, not counted as changed")
    broken = np.flatnonzero(findings.verdict == Verdict.BROKEN)
    if len(broken):
        such = f", such as {findings.image[broken[0]]}"
        remarks.append(f"broken: {len(broken):,} that cannot be read{such}")
    return remarks


def _other_lines(scores: ClassifierScores) -> list[str]:
    others = [f"{_HEADINGS[name]} {percent(value)}" for name in _SHARES[1:]
              if (value := getattr(scores, name)) is not None]  # fmt: skip
    names = ("calibration_error", "negative_log_likelihood", "brier")
    figures = [f"{_HEADINGS[name]} {_figure(name, value)}" for name in names
               if (value := getattr(scores, name)) is not None]  # fmt: skip
    lines = [f"{', '.join(others)}; calibration: {', '.join(figures)}"]
    last, best = scores.last_epoch, scores.best_on_test
    if last is not None and best is not None and best.accuracy > last.accuracy:
        lines.append(
            f"only to compare with: {percent(best.accuracy)} after epoch {best.epoch + 1:,} "
            f"({best.phase}), which the test images like best"
        )
    left_out = [
        f"{n:,} {what}"
        for n, what in (
            (scores.n_unknown, "whose class is not known"),
            (scores.n_broken, "that cannot be read"),
        )
        if n
    ]
    if left_out:
        lines.append(f"test images left out: {', '.join(left_out)}")
    return lines


def _class_table(worst: Sequence[ClassScore]) -> RenderableType:
    shown = worst[:N_WORST]
    title = "Classes, the worst first" if len(shown) == len(worst) else "The worst classes"
    table = Table(title=title, **LOOK)
    table.add_column("class", no_wrap=True, overflow="ellipsis")
    for heading in ("images", "accuracy", "precision"):
        table.add_column(heading, justify="right", no_wrap=True)
    sentences = []
    for one in shown:
        accuracy = f"{percent(one.accuracy)}{within(one.interval)}"
        figures = (f"{one.n_images:,}", accuracy, percent(one.precision))
        table.add_row(short(one.name), *figures)
        sentences.append(
            Text.assemble(
                short(one.name), f" ({figures[0]}): accuracy {accuracy}, precision {figures[2]}"
            )
        )
    blocks: list[RenderableType] = [TableOrLines(table, sentences)]
    if len(worst) > len(shown):
        blocks.append(Text(f"{len(worst) - len(shown):,} more in run.json", style="dim"))
    return Group(*blocks)


def _prediction_table(predictions: Predictions) -> RenderableType:
    counts, label = predictions.counts(), predictions.label
    known = label >= 0
    sums = np.bincount(label[known], predictions.probability[known], minlength=len(counts))
    table = Table(title=f"{count_of(len(predictions))}, {len(counts):,} classes", **LOOK)
    table.add_column("class", no_wrap=True, overflow="ellipsis")
    for heading in ("images", "share", "mean probability"):
        table.add_column(heading, justify="right", no_wrap=True)
    order = np.argsort(-counts, kind="stable")
    sentences = []
    for c in order[:N_CLASSES].tolist():
        n_images = int(counts[c])
        share = percent(n_images / counts.sum() if counts.sum() else None)
        mean = f"{sums[c] / n_images:.2f}" if n_images else "–"
        name = short(predictions.class_names[c])
        table.add_row(name, f"{n_images:,}", share, mean)
        sentences.append(
            Text.assemble(name, f": {count_of(n_images)}, {share}, mean probability {mean}")
        )
    blocks: list[RenderableType] = [TableOrLines(table, sentences)]
    if len(order) > N_CLASSES:
        rest = int(counts[order[N_CLASSES:]].sum())
        blocks.append(
            Text(f"{len(order) - N_CLASSES:,} more classes, {count_of(rest)}", style="dim")
        )
    return Group(*blocks)


def _run_table(found: ClassifierEvaluation) -> RenderableType:
    runs = found.runs
    names = [n for n in _HEADINGS if any(getattr(one, n) is not None for one in runs.values())]
    rows = {
        run: (
            f"{one.n_scored:,}",
            *(_figure(name, getattr(one, name)).removesuffix(" %") for name in names),
        )
        for run, one in runs.items()
    }
    headings = ("images", *(_HEADINGS[name] for name in names))
    return run_table("On the test images; accuracy, top-5 and balanced in %", headings, rows)


def _spread_table(found: ClassifierEvaluation) -> RenderableType:
    """A line for each measure."""
    rows = {
        _HEADINGS[name]: spread_words(spread, is_percent=name in _SHARES)
        for name, spread in found.over_runs.items()
    }
    return spread_table(len(found.runs), rows)


def _over_images(interval: Interval) -> str:
    low, high = (100 * end for end in interval)
    return (
        f"with other test images of the same kind, the mean accuracy is within {low:.1f}–{high:.1f}"
        " % (95 %, Wilson)"
    )


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return percent(value) if name in _SHARES else f"{value:.3f}"
