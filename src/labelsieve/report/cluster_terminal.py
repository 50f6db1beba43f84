"""Clusters and their scores as tables for the terminal; only the command line prints them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from labelsieve.records.clusters import Clusters, Part
from labelsieve.report.cluster_evaluation import ClusterEvaluation
from labelsieve.report.cluster_scores import ClusterScores
from labelsieve.report.table import percent
from labelsieve.report.terminal_tables import (
    LOOK,
    TableOrLines,
    in_blocks,
    short,
    warning_lines,
)

N_ROWS = 20  # clusters shown; what is left out is counted in the last line
_TITLE = "Against the truth"

_HEADINGS = {
    "accuracy": "ACC",
    "top5": "top-5",
    "nmi": "NMI",
    "ari": "ARI",
    "ami": "AMI",
    "majority_accuracy": "majority",
    "majority_train_accuracy": "train's",
}
_SHARES = ("accuracy", "top5", "majority_accuracy", "majority_train_accuracy")


def terminal_clusters(clusters: Clusters) -> RenderableType:
    """What was found, in a table that fits a terminal whatever the number of clusters."""
    return in_blocks(
        warning_lines(clusters.warnings),
        _size_table(clusters),
        Group(*(Text(remark) for remark in _remarks(clusters))),
    )


def terminal_cluster_scores(scores: Mapping[str, Mapping[str, ClusterScores]]) -> RenderableType:
    """Clusters against the truth, one line for each row and part.

    Args:
        scores: what was scored, such as "k-means" or "heads" -> part, such as "train" -> scores.
    """
    lines = [(row, part, one) for row, parts in scores.items() for part, one in parts.items()]
    if not lines:
        return Text(f"{_TITLE}: no image has both a cluster and a known class.")
    notes = [Text(note, style="dim") for note in _notes(scores)]
    return Group(_score_table(lines), *notes)


def terminal_evaluation(found: ClusterEvaluation) -> RenderableType:
    """The scores of one or several runs; of several also mean ± standard deviation."""
    blocks: list[RenderableType] = [terminal_cluster_scores(found.runs)]
    if found.over_runs:
        blocks += [Text(), _spread_table(found)]
    if found.agreement is not None:
        blocks.append(Text(f"agreement of the runs, without any label: ARI {found.agreement:.3f}"))
    return Group(*blocks)


def _score_table(lines: list[tuple[str, str, ClusterScores]]) -> TableOrLines:
    """Rows of name, part and scores."""
    names = [n for n in _HEADINGS if any(getattr(one, n) is not None for *_, one in lines)]
    table = Table(title=f"{_TITLE}; ACC, top-5 and majority in %", **LOOK)
    table.add_column("", overflow="ellipsis", no_wrap=True)
    table.add_column("part", no_wrap=True)
    for heading in ("images", *(_HEADINGS[name] for name in names)):
        table.add_column(heading, justify="right", no_wrap=True)
    sentences = []
    for row, part, one in lines:
        figures = [_figure(name, getattr(one, name)) for name in names]
        table.add_row(short(row), part, f"{one.n_scored:,}", *figures)
        said = [f"{_HEADINGS[n]} {figure}" for n, figure in zip(names, figures, strict=True)]
        sentences.append(
            Text.assemble(short(row), f", {part} ({one.n_scored:,}): {', '.join(said)}")
        )
    return TableOrLines(table, sentences)


def _size_table(clusters: Clusters) -> Table:
    counts = clusters.counts()
    table = Table(title=f"{len(clusters):,} images in {len(counts):,} clusters", **LOOK)
    table.add_column("cluster", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("mean probability", justify="right")
    means = _mean_probabilities(clusters, counts)
    order = np.argsort(-counts, kind="stable")
    for c in order[:N_ROWS].tolist():
        n_images = int(counts[c])
        table.add_row(
            short(clusters.names[c]),
            f"{n_images:,}",
            percent(n_images / counts.sum() if counts.sum() else None),
            f"{means[c]:.2f}" if n_images else "–",
        )
    if len(order) > N_ROWS:
        rest = order[N_ROWS:]
        table.add_row(f"{len(rest):,} more", f"{int(counts[rest].sum()):,}", "", "")
    return table


def _mean_probabilities(clusters: Clusters, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    if not clusters.choices.shape[1]:
        return np.zeros(len(counts))
    known = clusters.cluster >= 0
    sums = np.bincount(
        clusters.cluster[known], clusters.probabilities[known, 0], minlength=len(counts)
    )
    return np.asarray(sums / np.maximum(counts, 1), np.float64)


def _remarks(clusters: Clusters) -> list[str]:
    used = {
        Part.TRAIN: "trained on",
        Part.VALID: "kept apart to choose by",
        Part.NEW: "put into clusters made without them",
    }
    parts = [f"{clusters.count(p):,} {words}" for p, words in used.items() if clusters.count(p)]
    remarks = [f"images: {', '.join(parts)}"] if parts else []
    if n_empty := int((clusters.counts() == 0).sum()):
        remarks.append(f"clusters without an image: {n_empty:,} of {len(clusters.names):,}")
    if n_copies := int((clusters.duplicate_of >= 0).sum()):
        n_groups = len(np.unique(clusters.duplicate_of[clusters.duplicate_of >= 0]))
        others = "another" if n_groups == 1 else f"one of {n_groups:,} others"
        said = "image repeats" if n_copies == 1 else "images repeat"
        remarks.append(f"duplicates: {n_copies:,} {said} {others}")
    broken = np.flatnonzero(clusters.part == Part.BROKEN)
    if len(broken):
        such = f", such as {clusters.image[broken[0]]}"
        remarks.append(f"broken: {len(broken):,} that cannot be read{such}")
    return remarks


def _spread_table(found: ClusterEvaluation) -> TableOrLines:
    """A line for each measure: with ± the figures need room, and there are few parts."""
    table = Table(title=f"Mean ± standard deviation over {len(found.runs)} runs", **LOOK)
    table.add_column("", no_wrap=True)
    for part in found.over_runs:
        table.add_column(part, justify="right", no_wrap=True)
    sentences = []
    for name, heading in _HEADINGS.items():
        cells = [measures.get(name) for measures in found.over_runs.values()]
        if any(cell is not None for cell in cells):
            shown = ["–" if cell is None else _spread(name, *cell) for cell in cells]
            table.add_row(heading, *shown)
            said = [f"{part} {each}" for part, each in zip(found.over_runs, shown, strict=True)]
            sentences.append(Text(f"{heading}: {', '.join(said)}"))
    return TableOrLines(table, sentences)


def _notes(scores: Mapping[str, Mapping[str, ClusterScores]]) -> list[str]:
    shown = [one for parts in scores.values() for one in parts.values()]
    sizes = {(one.n_clusters, one.n_classes) for one in shown}
    notes = []
    for n_clusters, n_classes in sorted(sizes):
        if n_clusters != n_classes:
            notes.append(
                f"{n_clusters:,} clusters for {n_classes:,} classes: ACC leaves "
                f"{abs(n_clusters - n_classes):,} of the "
                f"{'clusters' if n_clusters > n_classes else 'classes'} without a partner; "
                "majority does not"
            )
    if any(one.majority_train_accuracy is not None for one in shown):
        notes.append("majority: each cluster takes its most frequent class; train's: that in train")
    n_unknown, n_broken = (  # parts of one row add up; rows may be runs of other images
        max(sum(getattr(one, name) for one in parts.values()) for parts in scores.values())
        for name in ("n_unknown", "n_broken")
    )
    left_out = [
        f"{count:,} {what}"
        for count, what in (
            (n_unknown, "whose truth is not known"),
            (n_broken, "that cannot be read"),
        )
        if count
    ]
    if left_out:
        notes.append(f"images left out: {', '.join(left_out)}")
    return notes


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if name in _SHARES else f"{value:.3f}"


def _spread(name: str, mean: float, std: float) -> str:
    if name in _SHARES:
        return f"{100 * mean:.1f} ± {100 * std:.1f} %"
    return f"{mean:.3f} ± {std:.3f}"
