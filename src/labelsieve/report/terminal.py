"""Findings and scores as tables for the terminal; only the command line prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from labelsieve.records import Findings, NoiseRate, Verdict
from labelsieve.report.metrics import Detection, Scores
from labelsieve.report.table import (
    MEANINGS,
    Confusion,
    is_known,
    percent,
    summary,
    top_confusions,
    worst_classes,
)
from labelsieve.report.terminal_tables import LOOK, in_blocks, short, warning_lines

N_ROWS = 15  # of a table; what is left out is counted in its last line
BAR_CELLS = 12
NAME_CELLS = (8, 24)  # of a class in the noise table: where there is little room, and at most

STYLES = {
    Verdict.CLEAN: "green",
    Verdict.MISLABELED: "yellow",
    Verdict.FOREIGN: "cyan",
    Verdict.BROKEN: "red",
}


def terminal_summary(findings: Findings) -> RenderableType:
    """What the audit found, in tables that fit a terminal whatever the number of classes."""
    confusions = top_confusions(findings, n_rows=5)
    remarks = _remarks(findings)
    return in_blocks(
        warning_lines(findings.warnings),
        verdict_table(findings),
        _NoiseTable(tuple(worst_classes(findings))) if findings.noise_rates else None,
        _confusion_table(findings, confusions) if confusions else None,
        Group(*remarks) if remarks else None,
    )


def terminal_scores(scores: Scores) -> RenderableType:
    """Precision, recall and the rest against the truth, for the terminal."""
    table = Table(title=f"Against the truth, {scores.n_scored:,} images", **LOOK)
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


def verdict_table(findings: Findings, before: Findings | None = None) -> Table:
    """How many images got each verdict; `before`, as other findings say of the same images."""
    table = Table(
        title=f"{len(findings):,} images in {len(findings.class_names):,} classes", **LOOK
    )
    table.add_column("verdict", no_wrap=True)
    for heading in ("images",) if before is None else ("audited", "trained"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("meaning", style="dim")
    for verdict in Verdict:
        n_images = findings.count(verdict)
        counts = [n_images] if before is None else [before.count(verdict), n_images]
        table.add_row(
            Text(verdict.name.lower(), STYLES[verdict]),
            *(f"{n:,}" for n in counts),
            percent(n_images / len(findings) if len(findings) else None),
            MEANINGS[verdict],
        )
    return table


@dataclass(frozen=True)
class _NoiseTable:
    """The noise rates in the room there is: bars go first, then the columns; numbers never."""

    rates: Sequence[NoiseRate]  # worst first

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self.rates[:N_ROWS]
        longest = max(len("class"), *(cell_len(rate.class_name) for rate in shown))
        least, most = (min(longest, cells) for cells in NAME_CELLS)
        n_images = max(len("images"), *(len(f"{rate.n_images:,}") for rate in shown))
        figures = [max(len(_figures(*kind)) for kind in kinds) for kinds in _kinds(shown)]
        figures = [max(len("mislabeled"), width) for width in figures]
        others = n_images + sum(figures) + 6  # and two blanks between columns
        with_bars = others + 2 * (BAR_CELLS + 1)
        if options.max_width >= with_bars + most:
            yield _noise_columns(shown, [most, n_images, *(w + BAR_CELLS + 1 for w in figures)])
        elif options.max_width >= others + least:
            name = min(most, options.max_width - others)
            yield _noise_columns(shown, [name, n_images, *figures], bars=False)
        else:
            yield from _noise_lines(shown)
        notes = ["most noise first, sorted by both together"] if len(self.rates) > 1 else []
        if len(self.rates) > N_ROWS:
            notes.append(f"{len(self.rates) - N_ROWS:,} more in run.json")
        if notes:
            yield Text("; ".join(notes), style="dim")


_NOISE_TITLE = "Noise rate per class, with its interval"
_Kind = tuple[float, tuple[float, float]]  # a rate and its interval


def _kinds(rates: Sequence[NoiseRate]) -> tuple[list[_Kind], list[_Kind]]:
    """The rates of mislabeled and of foreign images."""
    return (
        [(rate.mislabeled, rate.mislabeled_interval) for rate in rates],
        [(rate.foreign, rate.foreign_interval) for rate in rates],
    )


def _noise_columns(rates: Sequence[NoiseRate], widths: Sequence[int], bars: bool = True) -> Table:
    table = Table(title=_NOISE_TITLE, **LOOK)
    table.add_column("class", width=widths[0], no_wrap=True, overflow="ellipsis")
    table.add_column("images", width=widths[1], no_wrap=True, justify="right")
    table.add_column("mislabeled", width=widths[2], no_wrap=True)
    table.add_column("foreign", width=widths[3], no_wrap=True)
    kinds = _kinds(rates)
    known = [interval[1] for kind in kinds for _, interval in kind if is_known(interval)]
    widest = max(known, default=1.0)
    for rate, wrong, foreign in zip(rates, *kinds, strict=True):
        cells = [Text(_figures(*wrong)), Text(_figures(*foreign))]
        if bars:
            styles = STYLES[Verdict.MISLABELED], STYLES[Verdict.FOREIGN]
            intervals = (wrong[1], foreign[1])
            cells = [
                Text.assemble((_bar(interval, widest), style), " ", cell)
                for interval, style, cell in zip(intervals, styles, cells, strict=True)
            ]
        table.add_row(Text(rate.class_name), f"{rate.n_images:,}", *cells)
    return table


def _noise_lines(rates: Sequence[NoiseRate]) -> list[Text]:
    """Sentences, which can be broken anywhere, for a terminal too narrow for a table."""
    lines = [Text(f"{_NOISE_TITLE}; class (images)", style="italic")]
    for rate, wrong, foreign in zip(rates, *_kinds(rates), strict=True):
        figures = (
            f" ({rate.n_images:,}): mislabeled {_figures(*wrong).strip()}, "
            f"foreign {_figures(*foreign).strip()}"
        )
        lines.append(Text.assemble(short(rate.class_name, NAME_CELLS[1]), figures))
    return lines


def _bar(interval: tuple[float, float], widest: float) -> str:
    """Filled up to the interval's low end, hatched up to its high end; empty if not known."""
    ends = interval if is_known(interval) else (0.0, 0.0)
    low, high = (round(BAR_CELLS * end / max(widest, 1e-9)) for end in ends)
    return f"{'█' * low + '▒' * (high - low):<{BAR_CELLS}}"


def _figures(share: float, interval: tuple[float, float]) -> str:
    if not is_known(interval):
        return "not known"
    return f"{percent(share):>7} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"


def _confusion_table(findings: Findings, confusions: Iterable[Confusion]) -> Table:
    table = Table(title="Most frequent wrong labels", min_width=30, **LOOK)
    table.add_column("given", overflow="fold")
    table.add_column("suggested", overflow="fold")
    table.add_column("images", justify="right", no_wrap=True)
    for confusion in confusions:
        table.add_row(
            short(findings.class_names[confusion.given], 28),
            short(findings.class_names[confusion.suggested], 28),
            f"{confusion.n_images:,}",
        )
    return table


def _remarks(findings: Findings) -> list[Text]:
    figures = summary(findings)
    remarks = []
    if n := figures["n_unlabeled"]:
        remarks.append(
            "1 image has no label; `clean` says of it only that it fits one of the classes."
            if n == 1
            else f"{n:,} images have no label; "
            "`clean` says of them only that they fit one of the classes."
        )
    if figures["n_duplicates"]:
        n, n_groups = figures["n_duplicates"], figures["n_duplicate_groups"]
        others = "another" if n_groups == 1 else f"one of {n_groups:,} others"
        remarks.append(
            f"duplicates: {n:,} {'image repeats' if n == 1 else 'images repeat'} {others}"
        )
    if figures["n_foreign_groups"]:
        remarks.append(f"foreign groups: {figures['n_foreign_groups']:,}")
    broken = np.flatnonzero(findings.verdict == Verdict.BROKEN)
    remarks.extend(f"broken: {findings.image[row]}: {findings.reason[row]}" for row in broken[:3])
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
