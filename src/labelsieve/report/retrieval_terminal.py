"""A trained embedding as tables for the terminal; the command line prints."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from labelsieve.records import Findings, Verdict
from labelsieve.report.classifier_scores import History
from labelsieve.report.retrieval_curves import STAGES, best_on_test
from labelsieve.report.retrieval_evaluation import RetrievalEvaluation, heading, measures
from labelsieve.report.retrieval_metrics import RetrievalScores
from labelsieve.report.table import percent
from labelsieve.report.terminal import verdict_table
from labelsieve.report.terminal_tables import (
    LOOK,
    TableOrLines,
    count_of,
    in_blocks,
    run_table,
    spread_table,
    spread_words,
    warning_lines,
    within,
)

_MEANINGS = (
    "after the last epoch; every test image asks for the others of its class; Recall@k: one of "
    "the k nearest is of it; R: as many as there are others of the class"
)


def terminal_retrieval(
    findings: Findings,
    scores: RetrievalScores | None,
    *,
    stages: Mapping[str, RetrievalScores] | None = None,
    history: History | None = None,
) -> RenderableType:
    """What the training of an embedding came to, in tables that fit a terminal.

    Args:
        findings: of the training images.
        scores: on the test images; None without any.
        stages: by what was scored, in order; the last of them is that of `scores`.
        history: the epochs' lines of log.jsonl by phase, for the best epoch on the test images.
    """
    broken = np.flatnonzero(findings.verdict == Verdict.BROKEN)
    remark = None
    if len(broken):
        such = findings.image[broken[0]]
        remark = Text(f"broken: {len(broken):,} that cannot be read, such as {such}")
    tested: RenderableType = Text(
        "How well it finds images of a class, only test images tell (--test IMAGES)"
    )
    if scores is not None:
        tested = terminal_retrieval_scores(scores, stages=stages, history=history)
    return in_blocks(warning_lines(findings.warnings), verdict_table(findings), remark, tested)


def terminal_retrieval_scores(
    scores: RetrievalScores,
    *,
    stages: Mapping[str, RetrievalScores] | None = None,
    history: History | None = None,
) -> RenderableType:
    """How well an embedding finds test images of the same class."""
    if scores.precision_at_1 is None:
        return Text("On the test images: not one can be read and has another of its class.")
    lines = [
        Text.assemble(
            "Precision@1 ", (percent(scores.precision_at_1), "bold"), within(scores.interval),
            f" on {count_of(scores.n_queries, 'test image')} of "
            f"{scores.n_classes:,} {'class' if scores.n_classes == 1 else 'classes'}",
        )
    ]  # fmt: skip
    others = list(measures(scores).items())[1:]
    lines.append(Text(", ".join(f"{heading(name)} {percent(value)}" for name, value in others)))
    stage = list(stages)[-1] if stages else None
    best = best_on_test(history or {}, stage)
    if best is not None and best.precision_at_1 > scores.precision_at_1:
        lines.append(
            Text(
                f"only to compare with: Precision@1 {percent(best.precision_at_1)} after epoch "
                f"{best.epoch:,}, which the test images like best"
            )
        )
    if scores.n_without_mate:
        without = f"{scores.n_without_mate:,} without another of their class"
        lines.append(Text(f"test images that are no queries: {without}"))
    if stages is None or len(stages) < 2:
        return Group(*lines)
    return Group(*lines, Text(), _stage_table(stages))


def terminal_retrieval_evaluation(found: RetrievalEvaluation) -> RenderableType:
    """The scores of one or several trainings; of several also mean, spread and interval."""
    named = {run: measures(scores) for run, scores in found.runs.items()}
    names = list(dict.fromkeys(name for one in named.values() for name in one))
    rows = {
        run: (f"{found.runs[run].n_queries:,}", *(_figure(one.get(name)) for name in names))
        for run, one in named.items()
    }
    headings = ("queries", *map(heading, names))
    blocks: list[RenderableType] = [
        run_table("On the test images, in %", headings, rows),
        Text(_MEANINGS, style="dim"),
    ]
    if found.over_runs:
        spreads = {
            heading(name): spread_words(spread, is_percent=True)
            for name, spread in found.over_runs.items()
        }
        blocks += [Text(), spread_table(len(found.runs), spreads)]
    return Group(*blocks)


def _stage_table(stages: Mapping[str, RetrievalScores]) -> TableOrLines:
    """Each stage of the training a line: what the second one gained."""
    table = Table(title="On the test images, stage by stage, in %", **LOOK)
    table.add_column("stage", no_wrap=True, overflow="ellipsis")
    named = {STAGES.get(stage, stage): measures(one) for stage, one in stages.items()}
    names = list(dict.fromkeys(name for one in named.values() for name in one))
    for name in names:
        table.add_column(heading(name), justify="right", no_wrap=True)
    sentences = []
    for stage, one in named.items():
        figures = [_figure(one.get(name)) for name in names]
        table.add_row(Text(stage), *figures)
        said = [f"{heading(name)} {value}" for name, value in zip(names, figures, strict=True)]
        sentences.append(Text(f"{stage}: {', '.join(said)}"))
    return TableOrLines(table, sentences)


def _figure(share: float | None) -> str:
    return percent(share).removesuffix(" %")
