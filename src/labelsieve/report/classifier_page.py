"""The page of a trained classifier as one HTML file: how good it is, and what it says of labels.

Like the audit's report it loads nothing from anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelsieve.errors import DataError
from labelsieve.files import atomic
from labelsieve.records import Findings, ImageSet, NoiseRate, Verdict
from labelsieve.records.predictions import Predictions
from labelsieve.report import curves
from labelsieve.report.classifier_curves import training_charts
from labelsieve.report.classifier_galleries import (
    Changes,
    Mistakes,
    choose_changes,
    choose_mistakes,
    true_classes,
)
from labelsieve.report.classifier_scores import ClassifierScores, ClassScore, History
from labelsieve.report.confusion import predicted_map
from labelsieve.report.figures import heat_map, rate_axis
from labelsieve.report.galleries import Galleries, choose
from labelsieve.report.table import (
    MEANINGS,
    decided,
    label_agreement,
    top_confusions,
    worst_classes,
)
from labelsieve.report.template import render
from labelsieve.report.thumbnails import Thumbnails, thumbnails_of_two

N_CLASSES = 30  # rows of a table of classes
N_CONFUSIONS = 12

Progress = Callable[[int, int], None]


def write_classifier_page(  # noqa: PLR0913 -- what there is to show, each where there is any
    findings: Findings,
    before: Findings | None,
    images: ImageSet,
    path: str | Path,
    *,
    about: Mapping[str, Any] | None = None,
    scores: ClassifierScores | None = None,
    predictions: Predictions | None = None,
    test_images: ImageSet | None = None,
    history: History | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the page, whole or not at all.

    What is shown is bounded (the numbers are at the top of `galleries.py` and
    `classifier_galleries.py`), so the page stays below 15 MB whatever the number of images and
    classes; it says how many of how many it shows.

    Args:
        findings: of the training images, after training.
        before: what the audit said of the same images in the same order; None where it is not
            known.
        images: these images.
        path: the file to write.
        about: what is known of how it was made, as in run.json; every entry may be missing.
        scores: on the test images.
        predictions: of the test images.
        test_images: the same images with their labels, in the same order.
        history: the epochs' lines of log.jsonl by phase.
        progress: told (done, total) pictures.

    Raises:
        DataError: records that are not of the same images.
        RunError: the file cannot be written.
    """
    _check(findings, before, images, predictions, test_images)
    path = Path(path)
    about = {"run": path.absolute().parent.name, **(about or {})}
    shown = _choose(findings, before, predictions, test_images)
    thumbnails, test_pictures = _pictures(shown, images, test_images, progress)
    noise = worst_classes(findings)
    rates = [] if scores is not None and scores.n_scored else noise[:N_CLASSES]
    values = {
        "findings": findings,
        "before": before,
        "verdicts": [(v, v.name.lower(), findings.count(v), MEANINGS[v]) for v in Verdict],
        "before_counts": None if before is None else [before.count(v) for v in Verdict],
        "moves": None if before is None else _moves(findings, before),
        "agreement": label_agreement(findings),
        "scores": scores,
        "rates": rates,
        "axis": rate_axis(rates),
        "class_rows": _class_rows(scores, noise),
        "heat": heat_map(findings),
        "confusions": top_confusions(findings, N_CONFUSIONS),
        "confusions_title": "Which labels are wrong",
        "predicted": _predicted(scores),
        "called": lambda c: "" if scores is None else scores.class_names[c],
        "galleries": shown.galleries,
        "mistakes": shown.mistakes,
        "changes": shown.changes,
        "thumbnails": thumbnails,
        "test_pictures": test_pictures,
        "phases": training_charts(history or {}),
        "curves": curves,
    }
    text = render(
        "classifier.html",
        values,
        source=images.source,
        about=about,
        styles=("page.css", "charts.css", "classifier.css"),
        scripts=("nav.js", "page.js"),
    )
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _moves(findings: Findings, before: Findings) -> dict[Verdict, tuple[int, int]]:
    """How many more images have each verdict than before, by training and by people."""
    by_people = decided(findings)
    more = {v: (findings.verdict == v) * 1 - (before.verdict == v) * 1 for v in Verdict}
    return {v: (int(m[~by_people].sum()), int(m[by_people].sum())) for v, m in more.items()}


@dataclass(frozen=True)
class _Shown:
    """Which images the page shows."""

    galleries: Galleries
    changes: Changes | None
    mistakes: Mistakes | None


def _choose(
    findings: Findings,
    before: Findings | None,
    predictions: Predictions | None,
    test_images: ImageSet | None,
) -> _Shown:
    mistakes = None
    if predictions is not None and test_images is not None:
        truth = true_classes(test_images, predictions.class_names)
        mistakes = choose_mistakes(predictions, truth)
    changes = None if before is None else choose_changes(findings, before)
    return _Shown(choose(findings), changes, mistakes)


def _pictures(
    shown: _Shown, images: ImageSet, test_images: ImageSet | None, progress: Progress | None
) -> tuple[Thumbnails, Thumbnails]:
    """Of training images and of test images."""
    wrong = [] if shown.mistakes is None else [one.picture.row for one in shown.mistakes.shown]
    changed = [] if shown.changes is None else [one.picture.row for one in shown.changes.shown]
    large = shown.galleries.large() | set(changed)
    groups = (*shown.galleries.foreign_groups, shown.galleries.foreign_alone)
    near = {one.row for suspect in shown.galleries.suspects for one in suspect.neighbors}
    small = near | {one.row for group in groups for one in group.pictures}
    return thumbnails_of_two(images, large, small, test_images, wrong, progress)


@dataclass(frozen=True)
class _ClassRow:
    """One line of the table of classes."""

    score: ClassScore
    noise: NoiseRate | None  # of its labels in the training set


def _class_rows(scores: ClassifierScores | None, noise: list[NoiseRate]) -> list[_ClassRow]:
    """The classes found worst, with what the training labels of each are worth."""
    if scores is None:
        return []
    rates = {rate.class_name: rate for rate in noise}
    return [_ClassRow(one, rates.get(one.name)) for one in scores.worst_classes()[:N_CLASSES]]


def _predicted(scores: ClassifierScores | None) -> Any:
    if scores is None or not scores.n_scored or len(scores.classes) < 2:
        return None
    return predicted_map(scores.confusion, scores.class_names)


def _check(
    findings: Findings,
    before: Findings | None,
    images: ImageSet,
    predictions: Predictions | None,
    test_images: ImageSet | None,
) -> None:
    if findings.image != images.ids:
        raise DataError(
            f"findings of {len(findings)} images do not go with {images.source}, which has "
            f"{len(images)}: ids or their order differ. Train again."
        )
    if before is not None and before.image != findings.image:
        raise DataError(
            f"findings of {len(before)} images before training and of {len(findings)} after: ids "
            "or their order differ. Give those of the audit that the training began with."
        )
    if predictions is not None and test_images is not None and predictions.image != test_images.ids:
        raise DataError(
            f"predictions of {len(predictions)} images do not go with {test_images.source}, which "
            f"has {len(test_images)}: ids or their order differ. Predict again."
        )
