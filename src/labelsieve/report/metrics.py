"""How well an audit did, where the truth is known: pure functions over arrays, and one record.

A measure that is not defined for the rows at hand (no positives, nothing called so) is None and is
shown as a dash; it is never a silent 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from labelsieve.errors import DataError
from labelsieve.records import Findings, Verdict

BROKEN_TRUTH = "broken"  # the truth of a file that is no image, unless a class has this name
N_BINS = 10  # of a reliability diagram, of equal width
_RANKED = (Verdict.CLEAN, Verdict.MISLABELED, Verdict.FOREIGN)  # those with a probability


@dataclass(frozen=True)
class Detection:
    """How well one kind of image is found, against all others."""

    name: str  # a verdict in lower case, or "noisy": mislabeled or foreign, ranked by 1 - clean
    n_true: int  # images that are so
    n_found: int  # images called so
    n_right: int  # images that are so and are called so
    precision: float | None  # n_right / n_found
    recall: float | None  # n_right / n_true
    f1: float | None
    auroc: float | None  # of the probability; None for "broken", which has none
    average_precision: float | None


@dataclass(frozen=True)
class Bin:
    """One bar of a reliability diagram."""

    low: float
    high: float
    n_images: int
    predicted: float  # mean probability in the bin
    observed: float  # share of its images for which it came true


@dataclass(frozen=True)
class Calibration:
    """Whether a probability of 0.8 comes true in 8 of 10 cases."""

    name: str
    expected_error: float | None  # mean |predicted - observed| over images, in [0, 1]
    bins: tuple[Bin, ...]  # those with images, from low to high


@dataclass(frozen=True)
class Scores:
    """An audit against the truth."""

    n_scored: int
    n_unknown: int  # images whose truth is not known: left out
    n_unlabeled: int  # images of a known class that were given no label: left out
    detections: tuple[Detection, ...]  # clean, mislabeled, foreign, broken, noisy
    confusion: tuple[
        tuple[int, ...], ...
    ]  # (4, 4) images; rows the true verdict, columns the found
    suggestion_accuracy: float | None  # of the truly mislabeled, those suggested their true class
    suggestion_precision: (
        float | None
    )  # of those called mislabeled, those suggested their true class
    calibrations: tuple[Calibration, ...]  # clean, mislabeled, foreign

    def __getitem__(self, name: str) -> Detection:
        """The detection of one verdict, by its name."""
        return {detection.name: detection for detection in self.detections}[name]

    def to_dict(self) -> dict[str, Any]:
        """All measures, nested, ready for JSON; None where a measure is not defined."""
        return asdict(self)


def score(findings: Findings, truth: Sequence[str | None]) -> Scores:
    """Hold an audit against the truth.

    An image is truly clean where the truth is its label, mislabeled where it is another of the
    classes, foreign where it is none of them, broken where it is the word "broken" and no class has
    that name. Rankings are over all scored images that can be read; one that was called broken all
    the same has probability 0 of being anything else.

    Args:
        findings: what the audit said.
        truth: the true class name of each image, in the order of `findings.image`; None where it
            is not known.

    Raises:
        DataError: not one truth an image.

    Example:
        >>> import numpy as np
        >>> from labelsieve.records import Findings
        >>> findings = Findings(
        ...     image=("a", "b"), class_names=("cat", "dog"), label=np.array([0, 0]),
        ...     verdict=np.array([0, 1], np.int8),
        ...     probabilities=np.array([[0.9, 0.1, 0], [0.2, 0.8, 0]]),
        ...     suggestion=np.array([-1, 1]), suggestion_probability=np.array([np.nan, 0.8]),
        ...     foreign_group=np.array([-1, -1]), duplicate_of=np.array([-1, -1]),
        ...     neighbors=np.array([[1], [0]]), reason=("", ""))
        >>> score(findings, ["cat", "dog"])["mislabeled"].precision
        1.0
    """
    if len(truth) != len(findings):
        raise DataError(
            f"{len(truth)} true labels for findings of {len(findings)} images. "
            "Give one an image, in the order of the findings, and None where it is not known."
        )
    true_verdict, true_class = true_verdicts(findings, truth)
    scored = true_verdict >= 0
    verdict, true_verdict = findings.verdict[scored].astype(np.int64), true_verdict[scored]
    probabilities = findings.probabilities[scored].astype(np.float64)
    right = (findings.suggestion == true_class)[scored] & (true_class[scored] >= 0)
    read = (true_verdict != Verdict.BROKEN) & (verdict != Verdict.BROKEN)
    n_unknown = sum(name is None for name in truth)
    return Scores(
        n_scored=int(scored.sum()),
        n_unknown=n_unknown,
        n_unlabeled=len(findings) - int(scored.sum()) - n_unknown,
        detections=_detections(verdict, true_verdict, np.nan_to_num(probabilities, nan=0.0)),
        confusion=confusion_counts(true_verdict, verdict),
        suggestion_accuracy=_mean(right[true_verdict == Verdict.MISLABELED]),
        suggestion_precision=_mean(right[verdict == Verdict.MISLABELED]),
        calibrations=tuple(
            calibration(kind.name.lower(), probabilities[read, kind], true_verdict[read] == kind)
            for kind in _RANKED
        ),
    )


def _detections(
    verdict: NDArray[np.int64], true: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> tuple[Detection, ...]:
    readable = true != Verdict.BROKEN
    kinds = [
        detection(
            kind.name.lower(), verdict == kind, true == kind, probabilities[:, kind], readable
        )
        for kind in _RANKED
    ]
    broken = detection("broken", verdict == Verdict.BROKEN, true == Verdict.BROKEN)
    noise = (Verdict.MISLABELED, Verdict.FOREIGN)
    noisy = detection(
        "noisy", np.isin(verdict, noise), np.isin(true, noise),
        probabilities[:, noise].sum(axis=1), readable,
    )  # fmt: skip
    return (*kinds, broken, noisy)


def true_verdicts(
    findings: Findings, truth: Sequence[str | None]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The verdict that each image deserves, and its true class.

    Returns:
        (N,) a Verdict, -1 where it cannot be said: truth unknown, or no label to compare it with;
        (N,) the true class, -1 where it is none of the classes.
    """
    classes = {name: c for c, name in enumerate(findings.class_names)}
    true_class = np.array([classes.get(name, -1) for name in truth], np.int64)  # type: ignore[arg-type]
    unknown = np.array([name is None for name in truth], bool)
    broken = np.array([name == BROKEN_TRUTH and name not in classes for name in truth], bool)
    verdict = np.where(true_class == findings.label, Verdict.CLEAN, Verdict.MISLABELED)
    verdict[true_class < 0] = Verdict.FOREIGN
    verdict[broken] = Verdict.BROKEN
    verdict[unknown | ((findings.label < 0) & (true_class >= 0))] = -1
    return verdict.astype(np.int64), true_class


def detection(
    name: str,
    found: NDArray[np.bool_],
    true: NDArray[np.bool_],
    probability: NDArray[np.float64] | None = None,
    ranked: NDArray[np.bool_] | None = None,
) -> Detection:
    """Precision, recall and F1 of a yes or no, with AUROC and average precision of its probability.

    Args:
        name: what is looked for.
        found: (N,) called so.
        true: (N,) truly so.
        probability: (N,) any score that rises with it; None where there is none.
        ranked: (N,) the images that the ranking is over; all where None.
    """
    n_true, n_found, n_right = int(true.sum()), int(found.sum()), int((found & true).sum())
    if probability is None:
        rank = precision_area = None
    else:
        keep = np.ones(len(true), bool) if ranked is None else ranked
        rank = auroc(probability[keep], true[keep])
        precision_area = average_precision(probability[keep], true[keep])
    return Detection(
        name=name,
        n_true=n_true,
        n_found=n_found,
        n_right=n_right,
        precision=n_right / n_found if n_found else None,
        recall=n_right / n_true if n_true else None,
        f1=2 * n_right / (n_true + n_found) if n_true and n_found else None,
        auroc=rank,
        average_precision=precision_area,
    )


def auroc(values: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> float | None:
    """How often a positive has a higher value than a negative, ties half: 0.5 at chance, 1 at best.

    None without a positive or without a negative.
    """
    if positive.all() or not positive.any():
        return None
    return float(roc_auc_score(positive, values))


def average_precision(
    values: NDArray[np.floating[Any]], positive: NDArray[np.bool_]
) -> float | None:
    """The precision met while going down the ranking, averaged over the positives.

    It is the share of positives at chance and 1 at best; None without a positive.
    """
    if not positive.any():
        return None
    return float(average_precision_score(positive, values))


def calibration(
    name: str,
    probabilities: NDArray[np.floating[Any]],
    happened: NDArray[np.bool_],
    n_bins: int = N_BINS,
) -> Calibration:
    """Compare probabilities with how often they came true, in bins of equal width.

    The expected calibration error is the mean over images of the distance between the mean
    probability and the share that came true in an image's bin: 0 when calibrated; None without
    images.
    """
    if not len(probabilities):
        return Calibration(name, None, ())
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    place = np.clip((probabilities * n_bins).astype(np.int64), 0, n_bins - 1)  # 1.0 in the last bin
    n_images = np.bincount(place, minlength=n_bins)
    predicted = np.bincount(place, probabilities, n_bins) / np.maximum(n_images, 1)
    observed = np.bincount(place, happened, n_bins) / np.maximum(n_images, 1)
    error = (n_images * np.abs(predicted - observed)).sum() / n_images.sum()
    bins = tuple(
        Bin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            n_images=int(n_images[b]),
            predicted=float(predicted[b]),
            observed=float(observed[b]),
        )
        for b in np.flatnonzero(n_images)
    )
    return Calibration(name, float(error), bins)


def confusion_counts(
    true: NDArray[np.int64], found: NDArray[np.int64]
) -> tuple[tuple[int, ...], ...]:
    """(4, 4) images: row the true verdict, column the found one, both in the order of `Verdict`."""
    size = len(Verdict)
    counts = np.bincount(true * size + found, minlength=size * size).reshape(size, size)
    return tuple(tuple(int(n) for n in row) for row in counts)


def _mean(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if len(right) else None
