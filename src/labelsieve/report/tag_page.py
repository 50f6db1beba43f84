"""The page of cleaned tags as one HTML file: what goes, what stays, and how sure that is.

Like the audit's report it loads nothing from anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from labelsieve.errors import DataError
from labelsieve.files import atomic
from labelsieve.records.tag_findings import BATCH, Tagged
from labelsieve.records.tag_set import TagSet
from labelsieve.report import curves
from labelsieve.report.classifier_scores import History
from labelsieve.report.metrics import Calibration
from labelsieve.report.tag_curves import bin_charts, training_charts
from labelsieve.report.tag_evaluation import BASELINE
from labelsieve.report.tag_galleries import Question, choose_tags, question_groups
from labelsieve.report.tag_metrics import TagScores
from labelsieve.report.tag_reliability import Reliability
from labelsieve.report.tag_rows import (
    BASES,
    CONTROL,
    MEANINGS,
    SHOWN_VERDICTS,
    TagRow,
    method_words,
    never_verified,
    ranked,
    worst_tags,
    wrong_share,
)
from labelsieve.report.template import render
from labelsieve.report.thumbnails import Thumbnails, make_thumbnails

N_ROWS = 40  # tags in the table
N_NEVER = 60  # tags named that nobody verified
N_RELATIONS = 12  # of either kind
N_DIAGRAMS = 12  # tags with a reliability diagram
LEAST_WALL = 3  # questions of a tag that are shown together
LEAST_PAIRS = 20  # verified, of a tag with one

QUESTIONS_FILE = "to_verify.csv"  # beside the page, as `Suggestions.write` writes it
ROWS_FILE = "by_tag.csv"  # beside the page, as `rows_to_arrow` gives it

GLYPHS = {"KEPT": "clean", "REVIEW": "foreign", "REMOVED": "mislabeled", "ADDED": "added"}

Progress = Callable[[int, int], None]


class Relation(Protocol):
    """What it says of a tag that another one is asserted of the same image."""

    @property
    def tag(self) -> int: ...
    @property
    def other(self) -> int: ...
    @property
    def weight(self) -> float: ...  # above 0 it supports the tag, below it contradicts it
    @property
    def n_images(self) -> int: ...  # verified ones that both were asserted of


def write_tag_page(  # noqa: PLR0913 -- what there is to show, each where there is any
    tagged: Tagged,
    tag_set: TagSet,
    path: str | Path,
    *,
    about: Mapping[str, Any] | None = None,
    scores: Mapping[str, TagScores] | None = None,
    tag_rows: Sequence[TagRow] = (),
    reliability: Reliability | None = None,
    relations: Sequence[Relation] = (),
    to_verify: Sequence[Question] = (),
    history: History | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the page, whole or not at all.

    What is shown is bounded (the numbers are above and at the top of `tag_galleries.py`), so the
    page stays below 15 MB whatever the number of images and tags; it says how many of how many it
    shows.

    Args:
        tagged: what is found.
        tag_set: the tags as given; with images the page has pictures, else their names.
        path: the file to write.
        about: what is known of how it was made, as in run.json; every entry may be missing. The
            commands of `next` go below what to verify next.
        scores: on verified pairs that were not learned from, by method, in the order of the table;
            "noisy" is what others are compared with, the last one what the tags were cleaned with.
        tag_rows: one a tag, in their order, as `tag_rows` gives them.
        reliability: of the probabilities, on the same pairs.
        relations: the strongest ones between tags.
        to_verify: the questions, the most useful first.
        history: the epochs' lines of log.jsonl by phase.
        progress: told (done, total) pictures.

    Raises:
        DataError: records that are not of the same images and tags.
        RunError: the file cannot be written.
    """
    _check(tagged, tag_set, tag_rows, relations, to_verify)
    path = Path(path)
    scores = scores or {}
    about = {"run": path.absolute().parent.name, **(about or {})}
    galleries = choose_tags(tagged)
    questions = question_groups(to_verify, tagged.ids, tagged.tag_names)
    asked = {pair.picture.row for group in questions for pair in group.shown}
    thumbnails = Thumbnails()
    if tag_set.images is not None:
        small = galleries.rows() | asked
        thumbnails = make_thumbnails(tag_set.images, [], small, progress=progress)
    never = never_verified(tag_rows)
    values = {
        "tagged": tagged,
        "tag_set": tag_set,
        "verdicts": [(v, GLYPHS[v.name], tagged.count(v), MEANINGS[v]) for v in SHOWN_VERDICTS],
        "n_given": int(np.count_nonzero(tagged.given)),
        "n_bare": _n_bare(tagged),
        "wrong": wrong_share(tagged, scores),
        "methods": _method_rows(scores) if ranked(scores) else [],
        "chosen": scores[list(scores)[-1]] if scores else None,
        "has_full": any(one.ap_full is not None for one in scores.values()),
        "control": CONTROL,
        "other_pairs": any(
            not one.is_of_the_same_pairs(next(iter(scores.values()))) for one in scores.values()
        ),
        "bins": bin_charts(scores),
        "rows": worst_tags(tag_rows)[:N_ROWS],
        "n_rows": sum(row.n_looked > 0 for row in tag_rows),
        "rows_file": ROWS_FILE,
        "bases": BASES,
        "never": never,
        "never_shown": never[:N_NEVER],
        "reliability": reliability,
        "diagrams": _diagrams(reliability),
        "supports": [one for one in _strongest(relations) if one.weight > 0][:N_RELATIONS],
        "contradicts": [one for one in _strongest(relations) if one.weight < 0][:N_RELATIONS],
        "strongest": max((abs(one.weight) for one in relations), default=1.0),
        "galleries": galleries,
        "glyphs": GLYPHS,
        "questions": questions,
        "n_questions": len(to_verify),
        "wall": LEAST_WALL,
        "questions_file": QUESTIONS_FILE,
        "thumbnails": thumbnails,
        "phases": training_charts(history or {}),
        "curves": curves,
    }
    text = render(
        "tags.html",
        values,
        source=tag_set.source or "tags",
        about=about,
        styles=("page.css", "charts.css", "classifier.css", "tags.css"),
        scripts=("nav.js",),
    )
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class _MethodRow:
    """One line of the table of methods."""

    words: str
    scores: TagScores
    gains: tuple[float | None, float | None]  # of MAP and of AP over all tags, over the baseline
    is_chosen: bool


def _method_rows(scores: Mapping[str, TagScores]) -> list[_MethodRow]:
    base = scores.get(BASELINE)

    def gain(mine: float | None, other: float | None) -> float | None:
        return None if mine is None or other is None else mine - other

    return [
        _MethodRow(
            words=method_words(method),
            scores=one,
            gains=(None, None)
            if base is None or one is base or not one.is_of_the_same_pairs(base)
            else (gain(one.map, base.map), gain(one.ap_all, base.ap_all)),
            is_chosen=place == len(scores) - 1,
        )
        for place, (method, one) in enumerate(scores.items())
    ]


def _n_bare(tagged: Tagged) -> int:
    """Images that have a tag, and of which none stays."""
    has, keeps = np.zeros(len(tagged.ids), bool), np.zeros(len(tagged.ids), bool)
    stays = tagged.stays
    for start in range(0, len(tagged), BATCH):
        piece = slice(start, start + BATCH)
        has[tagged.rows[piece][tagged.given[piece]]] = True
        keeps[tagged.rows[piece][stays[piece]]] = True
    return int((has & ~keeps).sum())


def _diagrams(reliability: Reliability | None) -> list[tuple[Calibration, int]]:
    """The tags with most verified pairs, and their number."""
    if reliability is None:
        return []
    sized = [(one, sum(part.n_images for part in one.bins)) for one in reliability.tags]
    known = [pair for pair in sized if pair[1] >= LEAST_PAIRS and len(pair[0].bins) > 1]
    return sorted(known, key=lambda pair: -pair[1])[:N_DIAGRAMS]


def _strongest(relations: Sequence[Relation]) -> list[Relation]:
    return sorted(relations, key=lambda one: -abs(one.weight))


def _check(
    tagged: Tagged,
    tag_set: TagSet,
    rows: Sequence[TagRow],
    relations: Sequence[Relation],
    questions: Sequence[Question],
) -> None:
    if tagged.ids != tag_set.ids or tagged.tag_names != tag_set.tag_names:
        raise DataError(
            f"what is found of {len(tagged.ids)} images and {len(tagged.tag_names)} tags does not "
            f"go with {tag_set.source}, which has {len(tag_set)} and {tag_set.n_tags}: names or "
            "their order differ. Clean the tags again."
        )
    if rows and tuple(row.name for row in rows) != tagged.tag_names:
        raise DataError(
            f"{len(rows)} rows of tags for {len(tagged.tag_names)} tags; expected one each, in "
            "their order."
        )
    tags = [tag for one in relations for tag in (one.tag, one.other)]
    tags += [question.tag for question in questions]
    if tags and not 0 <= min(tags) <= max(tags) < tag_set.n_tags:
        raise DataError(
            f"relations and questions name tags {min(tags)} to {max(tags)}, and there are "
            f"{tag_set.n_tags}. Take them from this run."
        )
    images = [question.row for question in questions]
    if images and not 0 <= min(images) <= max(images) < len(tag_set):
        raise DataError(
            f"questions name images {min(images)} to {max(images)}, and there are {len(tag_set)}. "
            "Take them from this run."
        )
