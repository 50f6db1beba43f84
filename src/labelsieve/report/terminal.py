"""Findings and scores as tables for the terminal; only the command line prints them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from labelsieve.records import Findings, Verdict
from labelsieve.report.metrics import Detection, Scores
from labelsieve.report.table import (
    MEANINGS,
    Confusion,
    percent,
    summary,
    top_confusions,
    worst_classes,
)

N_ROWS = 15  # of a table; what is left out is counted in its last line
BAR_CELLS = 12

STYLES = {
    Verdict.CLEAN: "green",
    Verdict.MISLABELED: "yellow",
    Verdict.FOREIGN: "cyan",
    Verdict.BROKEN: "red",
}


def terminal_summary(findings: Findings, scores: Scores | None = None) -> RenderableType:
    """What the audit found, in tables that fit a terminal whatever the number of classes."""
    warnings = [Text.assemble(("warning  ", "bold yellow"), w) for w in findings.warnings]
    confusions = top_confusions(findings, n_rows=5)
    remarks = _remarks(findings)
    blocks = [
        Group(*warnings) if warnings else None,
        _verdict_table(findings),
        _noise_table(findings) if findings.noise_rates else None,
        _confusion_table(findings, confusions) if confusions else None,
        Group(*remarks) if remarks else None,
        terminal_scores(scores) if scores is not None else None,
    ]
    shown = [block for block in blocks if block is not None]
    return Group(shown[0], *(part for block in shown[1:] for part in (Text(), block)))


def terminal_scores(scores: Scores) -> RenderableType:
    """Precision, recall and the rest against the truth, for the terminal."""
    table = Table(title=f"Against the truth, {scores.n_scored:,} images", **_LOOK)
    table.add_column("")
    for heading in ("true", "found", "precision", "recall", "F1", "AUROC", "avg. precision"):
        table.add_column(heading, justify="right")
    for detection in scores.detections:
        table.add_row(*_score_row(detection))
    notes = [
        f"suggestions: right for {percent(scores.suggestion_accuracy)} of the truly mislabeled, "
        f"and for {percent(scores.suggestion_precision)} of those called mislabeled",
        "expected calibration error: "
        + ", ".join(f"{c.name} {_number(c.expected_error)}" for c in scores.calibrations),
    ]
    if scores.n_unknown or scores.n_unlabeled:
        notes.append(
            f"left out: {scores.n_unknown:,} images whose truth is not known, "
            f"{scores.n_unlabeled:,} without a label"
        )
    return Group(table, *(Text(note, style="dim") for note in notes))


_LOOK: dict[str, Any] = {"box": None, "pad_edge": False, "title_justify": "left", "expand": False}


def _verdict_table(findings: Findings) -> Table:
    table = Table(
        title=f"{len(findings):,} images in {len(findings.class_names):,} classes", **_LOOK
    )
    table.add_column("verdict")
    table.add_column("images", justify="right")
    table.add_column("share", justify="right")
    table.add_column("meaning", style="dim")
    for verdict in Verdict:
        n_images = findings.count(verdict)
        table.add_row(
            Text(verdict.name.lower(), STYLES[verdict]),
            f"{n_images:,}",
            percent(n_images / len(findings) if len(findings) else None),
            MEANINGS[verdict],
        )
    return table


def _noise_table(findings: Findings) -> Group:
    rates = worst_classes(findings)
    widest = max(max(r.mislabeled_interval[1], r.foreign_interval[1]) for r in rates[:N_ROWS])
    table = Table(title="Noise rate per class, with its interval", **_LOOK)
    table.add_column("class", max_width=24, no_wrap=True, overflow="ellipsis")
    table.add_column("images", justify="right")
    for kind in ("mislabeled", "foreign"):
        table.add_column(kind, no_wrap=True)
    for rate in rates[:N_ROWS]:
        table.add_row(
            Text(rate.class_name),
            f"{rate.n_images:,}",
            _bar(rate.mislabeled, rate.mislabeled_interval, widest, STYLES[Verdict.MISLABELED]),
            _bar(rate.foreign, rate.foreign_interval, widest, STYLES[Verdict.FOREIGN]),
        )
    parts: list[RenderableType] = [table]
    if len(rates) > N_ROWS:
        parts.append(Text(f"{len(rates) - N_ROWS:,} more in run.json", style="dim"))
    return Group(*parts)


def _bar(share: float, interval: tuple[float, float], widest: float, style: str) -> Text:
    """Filled up to the interval's low end, hatched up to its high end."""
    low, high = (round(BAR_CELLS * end / max(widest, 1e-9)) for end in interval)
    figures = f"{percent(share):>8} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"
    bar = "█" * low + "▒" * (high - low)
    return Text.assemble((f"{bar:<{BAR_CELLS}}", style), f"{figures:<21}")


def _confusion_table(findings: Findings, confusions: Iterable[Confusion]) -> Table:
    table = Table(title="Most frequent wrong labels", min_width=30, **_LOOK)
    table.add_column("given", max_width=28, no_wrap=True, overflow="ellipsis")
    table.add_column("suggested", max_width=28, no_wrap=True, overflow="ellipsis")
    table.add_column("images", justify="right")
    for confusion in confusions:
        table.add_row(
            Text(findings.class_names[confusion.given]),
            Text(findings.class_names[confusion.suggested]),
            f"{confusion.n_images:,}",
        )
    return table


def _remarks(findings: Findings) -> list[Text]:
    figures = summary(findings)
    remarks = []
    if figures["n_duplicates"]:
        remarks.append(
            f"duplicates: {figures['n_duplicates']:,} images repeat one of "
            f"{figures['n_duplicate_groups']:,} others"
        )
    if figures["n_foreign_groups"]:
        remarks.append(f"foreign groups: {figures['n_foreign_groups']:,}")
    broken = np.flatnonzero(findings.verdict == Verdict.BROKEN)
    remarks.extend(f"broken: {findings.image[row]} ({findings.reason[row]})" for row in broken[:3])
    if len(broken) > 3:
        remarks.append(f"broken: {len(broken) - 3:,} more in findings.csv")
    return [Text(remark) for remark in remarks]


def _score_row(detection: Detection) -> tuple[str, ...]:
    shares = (detection.precision, detection.recall, detection.f1)
    ranks = (detection.auroc, detection.average_precision)
    return (
        detection.name,
        f"{detection.n_true:,}",
        f"{detection.n_found:,}",
        *(percent(share) for share in shares),
        *(_number(rank) for rank in ranks),
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
