"""How well a trained classifier does where the truth is known: pure functions, and one record.

A measure that is not defined for the rows at hand is None and is shown as a dash; it is never a
silent 0.

Axis letters: M images, C classes, K choices of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from labelsieve.errors import DataError
from labelsieve.records.choices import most_probable
from labelsieve.report.metrics import Bin, Calibration, calibration

N_TOP = 5
N_RELIABILITY_BINS = 15  # of equal width, as Guo et al. 2017 have them
LEVEL = 0.95  # of every interval
N_EPOCHS = 100  # whose accuracy is kept, at most: on few images an epoch is one update
MEASURES = (
    "accuracy", "top5", "balanced_accuracy", "calibration_error", "negative_log_likelihood",
    "brier",
)  # fmt: skip
_LEAST = float(np.finfo(np.float32).tiny)  # a probability of 0 in float32 may be as large as this

History = Mapping[str, Sequence[Mapping[str, Any]]]  # phase -> its lines of log.jsonl
Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassScore:
    """How well one class is found."""

    name: str
    n_images: int  # truly of it
    n_predicted: int  # called so
    n_right: int
    accuracy: float | None  # n_right / n_images: its recall
    interval: Interval | None  # of the accuracy, Wilson, 95 %
    precision: float | None  # n_right / n_predicted


@dataclass(frozen=True)
class EpochAccuracy:
    """The accuracy on the test images after one epoch."""

    phase: str
    epoch: int  # from 0
    accuracy: float


@dataclass(frozen=True, eq=False)
class ClassifierScores:
    """A classifier after its last epoch against the truth; it was never chosen by the truth."""

    n_scored: int
    n_unknown: int  # images whose class is not known, or none of the classes: left out
    n_broken: int  # images that cannot be read: left out
    accuracy: float | None
    interval: Interval | None  # Wilson, 95 %: over other test images, not over other trainings
    top5: float | None  # the class is one of the five most probable; None below six classes
    balanced_accuracy: float | None  # mean over the classes that have images
    calibration: Calibration  # of the most probable class, in 15 bins; see `expected_error` there
    negative_log_likelihood: float | None  # nats; log C for equal probabilities
    brier: float | None  # sum over classes of squared errors, in [0, 2]
    classes: tuple[ClassScore, ...]  # (C,)
    confusion: NDArray[np.int64]  # (C, C) images, row the true class, column the predicted
    epochs: tuple[EpochAccuracy, ...] = ()  # on the way there, or some of them: `thinned`

    @property
    def class_names(self) -> tuple[str, ...]:
        """(C,) names."""
        return tuple(one.name for one in self.classes)

    @property
    def calibration_error(self) -> float | None:
        """The expected calibration error: mean |confidence - accuracy| of an image's bin."""
        return self.calibration.expected_error

    @property
    def last_epoch(self) -> EpochAccuracy | None:
        """What counts: the state in which the training ended."""
        return self.epochs[-1] if self.epochs else None

    @property
    def last_five(self) -> float | None:
        """The mean over the last five epochs that were tested; None where there were fewer."""
        values = [one.accuracy for one in self.epochs[-5:]]
        return float(np.mean(values)) if len(values) == 5 else None

    @property
    def best_on_test(self) -> EpochAccuracy | None:
        """The epoch that the test images like best, the earliest of equals.

        Only to compare with work that reports it: who chooses by the test images flatters himself.
        """
        return max(self.epochs, key=lambda one: one.accuracy, default=None)

    def worst_classes(self) -> list[ClassScore]:
        """The classes that have images, the lowest accuracy first."""
        known = [one for one in self.classes if one.accuracy is not None]
        return sorted(known, key=lambda one: one.accuracy or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """All measures, ready for JSON; None where a measure is not defined.

        The confusion is a list of [true class, predicted class, images], without what is 0: of
        1,000 classes most of a million pairs are.
        """
        cells = np.argwhere(self.confusion)
        counts = self.confusion[self.confusion > 0]
        last, best = self.last_epoch, self.best_on_test
        return {
            **asdict(self),
            "confusion": np.column_stack([cells, counts]).tolist(),
            "last_epoch": None if last is None else asdict(last),
            "last_five": self.last_five,
            "best_on_test": None if best is None else asdict(best),
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> ClassifierScores:
        """What `to_dict` gave, back from JSON."""
        classes = tuple(
            ClassScore(**{**one, "interval": _interval(one["interval"])})
            for one in given["classes"]
        )
        confusion = np.zeros((len(classes), len(classes)), np.int64)
        for row, column, n_images in given["confusion"]:
            confusion[row, column] = n_images
        reliability = given["calibration"]
        bins = tuple(Bin(**one) for one in reliability["bins"])
        derived = ("last_epoch", "last_five", "best_on_test")
        return cls(
            **{name: value for name, value in given.items() if name not in derived}
            | {
                "interval": _interval(given["interval"]),
                "calibration": Calibration(**{**reliability, "bins": bins}),
                "classes": classes,
                "confusion": confusion,
                "epochs": tuple(EpochAccuracy(**one) for one in given["epochs"]),
            }
        )


def score_classifier(
    probabilities: NDArray[np.floating[Any]],
    truth: NDArray[np.integer[Any]],
    class_names: Sequence[str],
    *,
    history: History | None = None,
    n_broken: int = 0,
) -> ClassifierScores:
    """Hold the probabilities of a trained classifier against true classes.

    Args:
        probabilities: (M, C) in [0, 1], rows sum to 1.
        truth: (M,) true classes; -1 where it is not known or none of the classes: left out.
        class_names: (C,).
        history: the epochs' lines of log.jsonl by phase, for their `test_accuracy`.
        n_broken: test images that cannot be read, for which there is no row.

    Raises:
        DataError: columns that do not go together, or rows that are no probabilities.

    Example:
        >>> scores = score_classifier(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]), "ab")
        >>> scores.accuracy, [round(end, 3) for end in scores.interval]
        (0.5, [0.095, 0.905])
    """
    values = np.asarray(probabilities)
    _check(values, truth, len(class_names))
    known = truth >= 0
    if not known.all():
        values = values[known]
    true = truth[known].astype(np.int64)
    choices, kept = most_probable(values, min(N_TOP, len(class_names)))
    found = _Answers(choices, kept[:, 0].astype(np.float64), true, tuple(class_names))
    return _scores(
        found,
        history or {},
        n_unknown=int((~known).sum()),
        n_broken=n_broken,
        negative_log_likelihood=negative_log_likelihood(values, true),
        brier=brier(values, true),
    )


def class_numbers(names: Sequence[str | None], class_names: Sequence[str]) -> NDArray[np.int64]:
    """(N,) the class of each name, -1 of None and of a name that is none of the classes."""
    classes = {name: c for c, name in enumerate(class_names)}
    return np.array([-1 if name is None else classes.get(name, -1) for name in names], np.int64)


def wilson(
    n_right: NDArray[np.int64], n_images: NDArray[np.int64], level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the interval of a share: Wilson 1927, eq. for which both ends stay in [0, 1].

    Args:
        n_right: any shape, 0 to n_images.
        n_images: the same shape; where it is 0 the interval is from 0 to 1.
        level: how often the interval holds the true share.

    Example:
        >>> low, high = wilson(np.array([9]), np.array([10]))
        >>> low.round(3).item(), high.round(3).item()
        (0.596, 0.982)
    """
    squared = float(ndtri((1 + level) / 2)) ** 2
    right, n = np.asarray(n_right, np.float64), np.asarray(n_images, np.float64)
    center = right + squared / 2
    half = np.sqrt(squared * (right * (n - right) / np.maximum(n, 1) + squared / 4))
    low, high = (center - half) / (n + squared), (center + half) / (n + squared)
    # At 0 and at n one end is exact; rounding must not carry it out of [0, 1].
    return np.where(right == 0, 0.0, low), np.where(right == n, 1.0, high)


def negative_log_likelihood(
    probabilities: NDArray[np.floating[Any]], truth: NDArray[np.int64]
) -> float | None:
    """Mean of -log p(true class), in nats: 0 at best, log C for equal probabilities.

    A probability below 1.2e-38, where float32 ends, counts as that: one such image adds 87.3 nats.
    """
    if not len(truth):
        return None
    of_truth = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.log(np.maximum(of_truth, _LEAST)).mean())


def brier(probabilities: NDArray[np.floating[Any]], truth: NDArray[np.int64]) -> float | None:
    """Mean over images of sum_c (p_c - [c is true])^2, Brier 1950: 0 at best, 2 at worst.

    1 - 1 / C for equal probabilities.
    """
    if not len(truth):
        return None
    of_truth = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    # sum_c p_c^2 - 2 p_true + 1, without a second (M, C)
    squares = np.einsum("mc,mc->m", probabilities, probabilities, dtype=np.float64)
    return float((squares - 2 * of_truth + 1).mean())


@dataclass(frozen=True)
class _Answers:
    """What is said of images whose class is known."""

    choices: NDArray[np.int64]  # (M, K) most probable first
    confidence: NDArray[np.float64]  # (M,) of the first
    truth: NDArray[np.int64]  # (M,)
    class_names: tuple[str, ...]


def _scores(found: _Answers, history: History, **facts: Any) -> ClassifierScores:
    n, size = len(found.truth), len(found.class_names)
    right = found.choices[:, 0] == found.truth if n else np.empty(0, bool)
    pairs = found.truth * size + found.choices[:, 0] if n else np.empty(0, np.int64)
    confusion = np.bincount(pairs, minlength=size * size).reshape(size, size).astype(np.int64)
    classes = _class_scores(confusion, found.class_names)
    recalls = [one.accuracy for one in classes if one.accuracy is not None]
    low, high = wilson(right.sum(), np.int64(n))  # type: ignore[arg-type]
    top5 = None
    if n and size > N_TOP:
        top5 = float((found.choices == found.truth[:, None]).any(axis=1).mean())
    return ClassifierScores(
        n_scored=n,
        accuracy=float(right.mean()) if n else None,
        interval=(float(low), float(high)) if n else None,
        top5=top5,
        balanced_accuracy=float(np.mean(recalls)) if recalls else None,
        calibration=calibration("most probable", found.confidence, right, N_RELIABILITY_BINS),
        classes=classes,
        confusion=confusion,
        epochs=thinned(_epochs(history)),
        **{"negative_log_likelihood": None, "brier": None, **facts},
    )


def _class_scores(confusion: NDArray[np.int64], names: Sequence[str]) -> tuple[ClassScore, ...]:
    n_images, n_predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    n_right = confusion.diagonal()
    low, high = wilson(n_right, n_images)
    return tuple(
        ClassScore(
            name=name,
            n_images=(n := int(n_images[c])),
            n_predicted=(called := int(n_predicted[c])),
            n_right=(fitting := int(n_right[c])),
            accuracy=fitting / n if n else None,
            interval=(float(low[c]), float(high[c])) if n else None,
            precision=fitting / called if called else None,
        )
        for c, name in enumerate(names)
    )


def _epochs(history: History) -> tuple[EpochAccuracy, ...]:
    return tuple(
        EpochAccuracy(phase, int(line.get("epoch", i)), float(line["test_accuracy"]))
        for phase, lines in history.items()
        for i, line in enumerate(lines)
        if line.get("test_accuracy") is not None
    )


def thinned(epochs: tuple[EpochAccuracy, ...]) -> tuple[EpochAccuracy, ...]:
    """At most `N_EPOCHS`, evenly spaced, the first, the last five and the best among them."""
    if len(epochs) <= N_EPOCHS:
        return epochs
    best = max(range(len(epochs)), key=lambda i: epochs[i].accuracy)  # the earliest of equals
    even = np.linspace(0, len(epochs) - 1, N_EPOCHS - 5).round().astype(np.int64)
    last = range(len(epochs) - 5, len(epochs))
    return tuple(epochs[i] for i in sorted({best, *even.tolist(), *last}))


def _interval(ends: Sequence[float] | None) -> Interval | None:
    return None if ends is None else (ends[0], ends[1])


def _check(values: NDArray[Any], truth: NDArray[Any], n_classes: int) -> None:
    if values.shape != (len(truth), n_classes) or not n_classes:
        raise DataError(
            f"probabilities of shape {values.shape} for {len(truth)} images and {n_classes} "
            "classes; expected one row an image and one column a class."
        )
    if len(truth) and not -1 <= truth.min() <= truth.max() < n_classes:
        raise DataError(
            f"true classes run from {truth.min()} to {truth.max()}; expected -1 to {n_classes - 1}."
        )
    sums = values.sum(axis=1, dtype=np.float64)
    wrong = ~(np.abs(sums - 1) < 1e-3) | (values < 0).any(axis=1)  # NaN is wrong too
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum())} of {len(values)} rows are no probabilities: row "
            f"{int(wrong.argmax())} sums to {sums[wrong.argmax()]:g}. Give them after the softmax."
        )
