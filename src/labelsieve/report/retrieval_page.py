"""The page of a trained embedding as one HTML file: what it finds, and what it says of labels.

Like the audit's report it loads nothing from anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.files import atomic
from labelsieve.records import Findings, ImageSet, Verdict
from labelsieve.report import curves
from labelsieve.report.classifier_scores import History
from labelsieve.report.figures import heat_map, rate_axis
from labelsieve.report.galleries import Galleries, choose
from labelsieve.report.retrieval_curves import STAGES, Tested, best_on_test, training_charts
from labelsieve.report.retrieval_evaluation import heading, measures
from labelsieve.report.retrieval_galleries import (
    Query,
    QueryRows,
    choose_confused,
    query_rows,
)
from labelsieve.report.retrieval_metrics import RetrievalScores
from labelsieve.report.table import MEANINGS, top_confusions, worst_classes
from labelsieve.report.template import render
from labelsieve.report.thumbnails import Thumbnails, thumbnails_of_two

N_CLASSES = 30  # rows of a table of classes
N_CONFUSIONS = 12

Progress = Callable[[int, int], None]


def write_retrieval_page(  # noqa: PLR0913 -- what there is to show, each where there is any
    findings: Findings,
    images: ImageSet,
    path: str | Path,
    *,
    about: Mapping[str, Any] | None = None,
    scores: RetrievalScores | None = None,
    stages: Mapping[str, RetrievalScores] | None = None,
    test_images: ImageSet | None = None,
    shown: Sequence[Query] = (),
    nearest: NDArray[np.int64] | None = None,
    history: History | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the page, whole or not at all.

    What is shown is bounded (the numbers are at the top of `galleries.py` and
    `retrieval_galleries.py`), so the page stays below 15 MB whatever the number of images and
    classes; it says how many of how many it shows.

    Args:
        findings: of the training images.
        images: these images.
        path: the file to write.
        about: what is known of how it was made, as in run.json; every entry may be missing.
        scores: on the test images; without them those of the last stage.
        stages: on the test images, by what was scored, in order, such as "train" and "second";
            the last of them is that of the embedding in the end.
        test_images: the same images with their labels, in the same order.
        shown: queries among them, as `pick_queries` gives them.
        nearest: (N,) the test image nearest to each, as `nearest_rows` gives it, for the classes
            that are confused.
        history: the epochs' lines of log.jsonl by phase.
        progress: told (done, total) pictures.

    Raises:
        DataError: records that are not of the same images.
        RunError: the file cannot be written.
    """
    _check(findings, images, test_images, shown, nearest)
    path = Path(path)
    about = {"run": path.absolute().parent.name, **(about or {})}
    columns = _columns(scores, stages or {}, history or {})
    galleries = choose(findings)
    queries = None if test_images is None else query_rows(shown, test_images)
    thumbnails, test_pictures = _pictures(galleries, images, queries, test_images, progress)
    rates = worst_classes(findings)[:N_CLASSES]
    confused = None
    if test_images is not None and nearest is not None:
        confused = choose_confused(nearest, test_images)
    values = {
        "findings": findings,
        "verdicts": [(v, v.name.lower(), findings.count(v), MEANINGS[v]) for v in Verdict],
        "before_counts": None,
        "scores": columns[-1].scores if columns else None,
        "columns": columns,
        "measures": _rows(columns),
        "rates": rates,
        "axis": rate_axis(rates),
        "heat": heat_map(findings),
        "confusions": top_confusions(findings, N_CONFUSIONS),
        "confusions_title": "Which labels are wrong",
        "galleries": galleries,
        "queries": queries,
        "confused": confused,
        "test_classes": () if test_images is None else test_images.class_names,
        "n_test": None if test_images is None else len(test_images),
        "thumbnails": thumbnails,
        "test_pictures": test_pictures,
        "phases": training_charts(history or {}),
        "curves": curves,
    }
    text = render(
        "retrieval.html",
        values,
        source=images.source,
        about=about,
        styles=("page.css", "charts.css", "classifier.css", "retrieval.css"),
        scripts=("nav.js", "page.js"),
    )
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Column:
    """What was scored on the test images, and how."""

    words: str
    scores: RetrievalScores
    best: Tested | None  # only to compare


def _columns(
    scores: RetrievalScores | None, stages: Mapping[str, RetrievalScores], history: History
) -> list[Column]:
    """One a stage; the last is what counts."""
    if not stages:
        return [] if scores is None else [Column("last epoch", scores, best_on_test(history))]
    last = list(stages)[-1]
    ends = {**stages, last: scores or stages[last]}
    if len(ends) == 1:
        return [Column("last epoch", ends[last], best_on_test(history, last))]
    return [
        Column(STAGES.get(stage, stage), one, best_on_test(history, stage))
        for stage, one in ends.items()
    ]


@dataclass(frozen=True)
class MeasureRow:
    """One line of the table of measures."""

    heading: str
    values: tuple[float | None, ...]  # of each column
    gain: float | None  # from the first column to the last; None of one column


def _rows(columns: Sequence[Column]) -> list[MeasureRow]:
    found = [measures(column.scores) for column in columns]
    names = dict.fromkeys(name for one in found for name in one)
    rows = []
    for name in names:
        values = tuple(one.get(name) for one in found)
        gain = None
        if len(values) > 1 and values[0] is not None and values[-1] is not None:
            gain = values[-1] - values[0]
        rows.append(MeasureRow(heading(name), values, gain))
    return rows


def _pictures(
    galleries: Galleries,
    images: ImageSet,
    queries: QueryRows | None,
    test_images: ImageSet | None,
    progress: Progress | None,
) -> tuple[Thumbnails, Thumbnails]:
    """Of training images and of test images."""
    groups = (*galleries.foreign_groups, galleries.foreign_alone)
    small = {one.row for suspect in galleries.suspects for one in suspect.neighbors}
    small |= {one.row for group in groups for one in group.pictures}
    asked = set() if queries is None else queries.rows()
    return thumbnails_of_two(images, galleries.large(), small, test_images, asked, progress)


def _check(
    findings: Findings,
    images: ImageSet,
    test_images: ImageSet | None,
    shown: Sequence[Query],
    nearest: NDArray[np.int64] | None,
) -> None:
    if findings.image != images.ids:
        raise DataError(
            f"findings of {len(findings)} images do not go with {images.source}, which has "
            f"{len(images)}: ids or their order differ. Train again."
        )
    n_test = 0 if test_images is None else len(test_images)
    rows = [row for query in shown for row in (query.image, *query.neighbors)]
    if rows and not 0 <= min(rows) <= max(rows) < n_test:
        raise DataError(
            f"queries name test images {min(rows)} to {max(rows)}, and there are {n_test}. "
            "Choose them from the neighbors of these test images."
        )
    if nearest is not None and len(nearest) != n_test:
        raise DataError(
            f"the nearest image of {len(nearest)} test images is given, and there are {n_test}. "
            "Give one a test image, -1 where it cannot be read."
        )
