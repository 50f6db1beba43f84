"""Which images the page of a classifier shows, beside those of an audit. No pixels here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelsieve.records import Findings, ImageSet, Verdict
from labelsieve.records.predictions import Predictions
from labelsieve.report.classifier_scores import class_numbers
from labelsieve.report.galleries import Picture, in_turn, picture
from labelsieve.report.table import decided
from labelsieve.report.template import middle

N_MISTAKES = 56
N_CHANGES = 48
_N_RANKED = 5000  # images that are looked at to show all kinds of mistakes and changes
_JUDGED = (Verdict.CLEAN, Verdict.MISLABELED, Verdict.FOREIGN)  # those with a probability


@dataclass(frozen=True)
class Mistake:
    """A test image that the classifier takes for another class than its label says."""

    picture: Picture
    predicted: str
    probability: float  # of the predicted class
    label_probability: float | None  # of the label; None where it is none of the choices kept


@dataclass(frozen=True)
class Mistakes:
    """The surest of them, and of how many."""

    shown: tuple[Mistake, ...]
    n_mistakes: int
    n_sure: int  # of all, with a probability above .9


@dataclass(frozen=True)
class Change:
    """A training image whose verdict is another after training, and that no person decided."""

    picture: Picture
    before: Verdict
    before_probability: float
    after: Verdict
    after_probability: float
    suggestion: str  # "" without one
    reason: str


@dataclass(frozen=True)
class Changes:
    """The largest of them, and of how many."""

    shown: tuple[Change, ...]
    n_changes: int
    counts: NDArray[np.int64]  # (3, 3) images, row the verdict before, column after
    n_decided: int  # by people: neither shown nor counted


def true_classes(images: ImageSet, class_names: tuple[str, ...]) -> NDArray[np.int64]:
    """(N,) the labels of test images as classes of a classifier, -1 none of them."""
    if images.labels is None:
        return np.full(len(images), -1, np.int64)
    return np.append(class_numbers(images.class_names, class_names), -1)[images.labels]


def choose_mistakes(predictions: Predictions, truth: NDArray[np.int64]) -> Mistakes:
    """The surest mistakes, from every true class before many from one.

    Args:
        predictions: of the test images.
        truth: (N,) their classes, -1 not known.
    """
    label, sure = predictions.label, predictions.probability
    wrong = np.flatnonzero((label >= 0) & (truth >= 0) & (label != truth))
    ranked = wrong[np.argsort(-sure[wrong], kind="stable")][:_N_RANKED]
    chosen = ranked[in_turn(truth[ranked].tolist(), N_MISTAKES)]
    return Mistakes(
        shown=tuple(_mistake(predictions, truth, int(row)) for row in chosen),
        n_mistakes=len(wrong),
        n_sure=int((sure[wrong] > 0.9).sum()),
    )


def choose_changes(findings: Findings, before: Findings) -> Changes:
    """The largest changes of verdict by training, of every kind before many of one.

    A change is as large as the distance between the three probabilities before and after.

    Args:
        findings: after training.
        before: of the same images in the same order.
    """
    judged = (findings.verdict != Verdict.BROKEN) & (before.verdict != Verdict.BROKEN)
    by_people = decided(findings)
    rows = np.flatnonzero(judged & ~by_people)
    first, last = before.verdict[rows].astype(np.int64), findings.verdict[rows].astype(np.int64)
    n_kinds = len(_JUDGED)
    counts = np.bincount(n_kinds * first + last, minlength=n_kinds**2).reshape(n_kinds, n_kinds)
    changed = rows[first != last]
    moved = np.abs(findings.probabilities[changed] - before.probabilities[changed]).sum(axis=1)
    ranked = changed[np.argsort(-moved, kind="stable")][:_N_RANKED]
    kinds = zip(before.verdict[ranked].tolist(), findings.verdict[ranked].tolist(), strict=True)
    chosen = ranked[in_turn(kinds, N_CHANGES)]
    return Changes(
        shown=tuple(_change(findings, before, int(row)) for row in chosen),
        n_changes=len(changed),
        counts=counts.astype(np.int64),
        n_decided=int(by_people.sum()),
    )


def _mistake(predictions: Predictions, truth: NDArray[np.int64], row: int) -> Mistake:
    names, label = predictions.class_names, int(truth[row])
    place = np.flatnonzero(predictions.choices[row] == label)
    kept = predictions.probabilities[row]
    return Mistake(
        picture=Picture(row, middle(predictions.image[row]), names[label]),
        predicted=names[predictions.label[row]],
        probability=float(kept[0]),
        label_probability=float(kept[place[0]]) if len(place) else None,
    )


def _change(findings: Findings, before: Findings, row: int) -> Change:
    first, last = Verdict(before.verdict[row]), Verdict(findings.verdict[row])
    suggestion = int(findings.suggestion[row])
    return Change(
        picture=picture(findings, row),
        before=first,
        before_probability=float(before.probabilities[row, first]),
        after=last,
        after_probability=float(findings.probabilities[row, last]),
        suggestion=findings.class_names[suggestion] if suggestion >= 0 else "",
        reason=findings.reason[row],
    )
