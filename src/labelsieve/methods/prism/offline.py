"""PRISM without training: score the labels of a set by any features, a few rounds over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit

from labelsieve.errors import ConfigError, DataError, did_you_mean
from labelsieve.methods.detection import Progress
from labelsieve.methods.prism.centers import Score
from labelsieve.methods.prism.leave_one_out import (
    Centers,
    Space,
    center_rows,
    check_rows,
    likelihood_blocks,
    whitened,
)
from labelsieve.methods.prism.noise_rate import (
    HIGHEST,
    AgainstRest,
    LabelFit,
    against_rest,
    fit_labels,
    wrong_probability,
)

NORMAL_95 = 1.96


@dataclass(frozen=True)
class Offline:
    """How a set is scored. Defaults: what did best on embeddings that PRISM trained."""

    score: Score = "cosine"  # "average" of PRISM, "cosine", or "vmf" of 2108.01431
    temperature: float = 0.1  # divides the score; 0: the one at which the labels are likeliest
    noise_rate: float | Literal["auto"] = "auto"  # share to reject, in [0, 1)
    n_rounds: int = 4  # of centers from the rows that are kept
    whiten: bool = False  # from round 2 on, compare where classes are as wide in all directions

    def __post_init__(self) -> None:
        if self.score not in get_args(Score):
            raise ConfigError(
                f"score is {self.score!r}. {did_you_mean(str(self.score), get_args(Score))}"
            )
        if self.noise_rate != "auto" and not (
            isinstance(self.noise_rate, int | float) and 0 <= self.noise_rate < 1
        ):
            raise ConfigError(
                f"noise_rate is {self.noise_rate!r}; expected 'auto' or a share from 0 to below 1."
            )
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature is {self.temperature}; expected 0 or more.")
        if self.n_rounds < 1:
            raise ConfigError(f"n_rounds is {self.n_rounds}; expected 1 or more.")


class Rate(NamedTuple):
    """A noise rate, and between what it can be."""

    rate: float  # in [0, 1)
    interval: tuple[float, float]


class OfflineScores(NamedTuple):
    """What is said of each row, in the order of the features."""

    clean_log_probability: NDArray[np.float64]  # (N,) log P_clean at the temperature; it ranks
    clean_probability: NDArray[np.float32]  # (N,) that the label is right; the mean is 1 - rate
    margin: NDArray[np.float32]  # (N,) own class's likelihood minus the best other's
    nearest: NDArray[np.float32]  # (N,) the best other's likelihood
    other: NDArray[np.int64]  # (N,) the best class but the given
    other_share: NDArray[np.float32]  # (N,) its probability if the given one is wrong
    suggestion: NDArray[np.int64]  # (N,) the given class if it is likely right, else the best other
    suggestion_probability: NDArray[np.float32]  # (N,) that it is right
    judged: NDArray[np.bool_]  # (N,) labeled, and of a class with other rows; the rest has NaN
    keep: NDArray[np.bool_]  # (N,) labeled, and not rejected
    noise_rate: float  # share that was rejected: as given, or estimated
    rate: Rate  # as estimated, be it used or not
    centers: NDArray[np.float32]  # (C, D) mean of the rows kept, whitened if that was asked
    temperature: float  # as given, or fitted


def score_offline(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    n_classes: int,
    settings: Offline | None = None,
    *,
    start_centers: NDArray[np.floating] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> OfflineScores:
    """Score labels by how well rows suit the centers of their classes; drop the worst; repeat.

    Source: PRISM, eq. 2-3, without training. Deviations: each row is left out of its own center; a
    few rounds; the noise rate is estimated where none is given; probabilities are calibrated to it.
    A row whose class has no other row cannot be judged: it is kept, and its probability is 1 -
    noise rate. A class of which every row is rejected keeps its center, so that it stays rejected.

    Args:
        features: (N, D) finite; the length of rows does not matter.
        labels: (N,) int64 in [-1, C), -1 for none: such rows only get a suggestion.
        n_classes: C; classes without rows take no part.
        settings: `Offline()` unless given.
        start_centers: (C, D) of the first round, such as a filter's, zeros for none; by default
            those of all rows.
        seed: of the sample that a noise rate is estimated on.
        progress: called with (done, total).

    Raises:
        DataError: shapes that do not fit, labels that are no class, rows that are not finite, or
            fewer than two classes.

    Example:
        >>> rows, labels = np.eye(5).repeat(20, axis=0), np.arange(5).repeat(20)
        >>> labels[::10] = (labels[::10] + 1) % 5
        >>> found = score_offline(rows, labels, 5)
        >>> np.flatnonzero(~found.keep)[:3].tolist(), found.suggestion[:3].tolist()
        ([0, 10, 20], [0, 0, 0])
    """
    settings = settings or Offline()
    labels = np.asarray(labels, np.int64)
    check_rows(features, labels, n_classes)
    if len(np.unique(labels[labels >= 0])) < 2:
        raise DataError(
            f"{len(labels)} rows with labels of fewer than two of {n_classes} classes. "
            "A label can only be doubted where there are two classes or more."
        )
    rng = np.random.default_rng(seed)
    keep = labels >= 0
    for done in range(settings.n_rounds):
        # Not the first: wrong labels widen classes in the very directions that tell classes apart.
        whiten = settings.whiten and done > 0
        space = whitened(features, labels, keep, n_classes) if whiten else None
        if done == 0 and start_centers is not None:
            centers = _given(start_centers, len(labels))
        else:
            centers = center_rows(features, labels, keep, n_classes, space)
        found = _scored(features, labels, centers, space, settings, rng)
        keep = found.keep
        if progress is not None:
            progress(done + 1, settings.n_rounds)
    return found


def estimate_noise_rate(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    n_classes: int,
    *,
    n_rounds: int = 4,
    whiten: bool = True,
) -> Rate:
    """The share of wrong labels in a set, by its features.

    Args:
        features: (N, D) finite; the length of rows does not matter.
        labels: (N,) int64 in [-1, C), -1 for none.
        n_classes: C.
        n_rounds: of leaving out what seems wrong.
        whiten: compare rows where classes are about as wide in all directions.

    Returns:
        the rate, and an interval from what no overlap of classes explains to all rows that lie
        nearer another class; 0 within (0, 1) where no class has two rows.

    Raises:
        DataError: as `score_offline`.

    Example:
        >>> rows, labels = np.eye(5).repeat(20, axis=0), np.arange(5).repeat(20)
        >>> labels[::10] = (labels[::10] + 1) % 5
        >>> round(estimate_noise_rate(rows, labels, 5).rate, 2)
        0.1
    """
    settings = Offline(temperature=0.0, n_rounds=n_rounds, whiten=whiten)
    return score_offline(features, labels, n_classes, settings).rate


def _given(centers: NDArray[np.floating], n_rows: int) -> Centers:
    """Centers that no row is part of."""
    there = np.any(centers != 0, axis=1)
    return Centers(centers.astype(np.float32), there.astype(np.int64), np.zeros(n_rows, bool))


def _scored(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    centers: Centers,
    space: Space | None,
    settings: Offline,
    rng: np.random.Generator,
) -> OfflineScores:
    """All rows by some centers, and which of them to keep."""
    labeled = labels >= 0
    judged = labeled & (centers.counts[labels] > centers.used)
    fit = fit_labels(features, labels, centers, settings.score, space, rng)
    fitted = 1.0 if fit is None else fit.temperature
    temperature = settings.temperature or fitted
    estimated = _rate(fit, int(np.count_nonzero(judged)))
    rate = estimated.rate if settings.noise_rate == "auto" else float(settings.noise_rate)
    temperatures = (fitted, temperature) if temperature != fitted else (fitted,)
    rows = _all_rows(features, labels, centers, space, settings.score, temperatures)
    log_odds = rows.log_odds[-1]  # (N,)
    worst = np.flatnonzero(judged)[np.argsort(log_odds[judged], kind="stable")]
    wrong = np.where(labeled, rate, np.nan)
    # Probabilities come from the temperature that fits, their order from the one that was asked.
    wrong[worst] = np.sort(wrong_probability(rows.log_odds[0, judged], rate))[::-1]
    doubted = ~(wrong <= 0.5)
    # Of an estimated rate only what is likely wrong is rejected: rejecting as many as are expected
    # leaves out rare looks of a class, which look rarer to the next round, and so on.
    rejected = doubted & judged
    if settings.noise_rate != "auto":
        rejected[worst] = np.arange(len(worst)) < int(rate * len(worst))
    means = centers.sums / np.maximum(centers.counts, 1)[:, None]
    return OfflineScores(
        clean_log_probability=np.where(judged, log_expit(log_odds), np.nan),
        clean_probability=(1 - wrong).astype(np.float32),
        margin=np.where(judged, rows.margin, np.nan).astype(np.float32),
        nearest=rows.nearest,
        other=rows.other,
        other_share=rows.share[0].astype(np.float32),
        suggestion=np.where(doubted, rows.other, labels),
        suggestion_probability=np.where(
            doubted, np.where(labeled, wrong, 1) * rows.share[0], 1 - wrong
        ).astype(np.float32),
        judged=judged,
        keep=labeled & ~rejected,
        noise_rate=rate,
        rate=estimated,
        centers=means.astype(np.float32),
        temperature=temperature,
    )


def _rate(fit: LabelFit | None, n_judged: int) -> Rate:
    """The rate of a fit, and an interval: of sampling, and of what no label can settle."""
    if fit is None:
        return Rate(0.0, (0.0, 1.0))
    rate = min(fit.rate, HIGHEST)
    low, high = min(fit.scattered, rate), max(fit.nearer, rate)
    low -= NORMAL_95 * math.sqrt(low * (1 - low) / n_judged)
    high += NORMAL_95 * math.sqrt(high * (1 - high) / n_judged)
    return Rate(rate, (max(0.0, low), min(1.0, high)))


def _all_rows(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    centers: Centers,
    space: Space | None,
    score: Score,
    temperatures: tuple[float, ...],
) -> AgainstRest:
    """Every row's own class against the rest, at each temperature."""
    everyone = np.arange(len(labels))
    found = [
        against_rest(block.likelihoods, labels[block.rows], np.array(temperatures))
        for block in likelihood_blocks(features, labels, everyone, centers, score, space)
    ]
    return AgainstRest(*(np.concatenate(part, axis=-1) for part in zip(*found, strict=True)))
