"""The offline filter as a detector of the audit: a verdict on each image, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from labelsieve.methods.detection import Detection, Progress, percent
from labelsieve.methods.prism.offline import Offline, OfflineScores, score_offline
from labelsieve.records import NoiseRate, Verdict

NORMAL_95 = 1.96
FEW_ROWS = 5.0  # images that a class's own likelihoods weigh as much as those of all classes
RIGHT = 0.9  # probability of labels that images are compared with
POWERS = (0.05, 0.3)  # of foreign images ranks r have density power * r ** (power - 1)
N_STEPS = 100  # of expectation and maximization
LEAST_FOREIGN = 0.02  # of the rejected images; what fewer would be is chance
FEW_REJECTED = 20  # rejected images from which foreign ones can be told at all
TINY = 1e-12
LEAST_DEVIATION = 0.05  # of likelihoods within a class, against the usual margin
N_DECIMALS = 3
HARDLY = 0.2  # share of right labels in a class that is warned of
N_NAMED = 3  # classes in a warning
LEAST_FOUND = 0.5  # of the images, share nearest their own class, for a rate to be trusted


@dataclass(frozen=True)
class PrismDetection:
    """Settings of the recipe `prism`."""

    # whitening gained 1 to 8 points of AUROC on real sets, where the temperature is fitted to it
    offline: Offline = field(default_factory=lambda: Offline(temperature=0.0, whiten=True))
    foreign: bool = True  # whether images near no class are called foreign


def detect_prism(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    settings: PrismDetection | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    remedy: str = "Better features would tell (--pretrain, --backbone).",
) -> Detection:
    """Which labels are right, by the centers of the classes: PRISM without training.

    Whether a label is right comes from `score_offline`. PRISM knows no foreign images; here an
    image is foreign whose label is likely wrong and which is near no class, compared with how near
    the images of that class are that are likely right. That part is ours, not the paper's. Images
    without a label (-1) get a suggestion; images whose class has no other count as clean.

    Args:
        features: (N, D) finite; the length of rows does not matter.
        labels: (N,) in [-1, C).
        class_names: C names.
        settings: `PrismDetection()` unless given.
        seed: of the sample that the noise rate is estimated on.
        progress: called with (done, total).
        remedy: for features that hardly tell the classes, as the end of a warning.

    Raises:
        DataError: as `score_offline`.

    Example:
        >>> rows, labels = np.eye(5).repeat(20, axis=0), np.arange(5).repeat(20)
        >>> labels[::20] = (labels[::20] + 1) % 5
        >>> found = detect_prism(rows, labels, ["cat", "dog", "owl", "fox", "elk"])
        >>> np.flatnonzero(found.verdict == Verdict.MISLABELED).tolist()
        [0, 20, 40, 60, 80]
    """
    settings = settings or PrismDetection()
    labels = np.asarray(labels, np.int64)
    scores = score_offline(
        features, labels, len(class_names), settings.offline, seed=seed, progress=progress
    )
    far = foreign_share(scores, labels) if settings.foreign else np.zeros(len(labels))
    wrong = np.where(labels >= 0, 1 - scores.clean_probability, scores.noise_rate)
    probabilities = np.stack([1 - wrong, wrong * (1 - far), wrong * far], axis=1)
    unlabeled = labels < 0  # nothing to be wrong: clean or foreign
    probabilities[unlabeled, Verdict.CLEAN] += probabilities[unlabeled, Verdict.MISLABELED]
    probabilities[unlabeled, Verdict.MISLABELED] = 0
    verdict = probabilities.argmax(axis=1).astype(np.int8)
    kept = (verdict == Verdict.CLEAN) & (labels >= 0)
    another = probabilities[:, Verdict.MISLABELED] + unlabeled * probabilities[:, Verdict.CLEAN]
    likely = np.where(kept, probabilities[:, Verdict.CLEAN], another * scores.other_share)
    nearest = np.where(scores.margin >= 0, labels, scores.other)  # NaN is not
    return Detection(
        verdict=verdict,
        probabilities=probabilities.astype(np.float32),
        suggestion=np.where(kept, labels, scores.other),
        suggestion_probability=likely.astype(np.float32),
        closest=np.where(verdict == Verdict.MISLABELED, scores.other, nearest),
        foreign_group=np.full(len(labels), -1, np.int32),
        reasons=_reasons(scores, verdict, likely, labels, class_names),
        noise_rates=_noise_rates(scores, probabilities, labels, class_names),
        warnings=_warnings(scores, labels, class_names, remedy),
    )


def foreign_share(scores: OfflineScores, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """How likely each image belongs to no class, if its label is wrong.

    The likelihood of an image under the class that it is nearest to is ranked among those of the
    images of that class that are likely right. Ranks of mislabeled images are spread evenly; those
    of foreign ones are low. Their share, and how low, are those at which the ranks are likeliest.

    Args:
        scores: of all images.
        labels: (N,) in [-1, C).

    Returns:
        (N,) in [0, 1).
    """
    own = (scores.margin + scores.nearest).astype(np.float64)
    right = np.flatnonzero(scores.judged & (scores.clean_probability > RIGHT))
    if len(right) < 2:
        return np.zeros(len(labels))
    mean, deviation = _usual(own[right], labels[right], len(scores.centers))
    # A class of equal images has no deviation: then a small part of what tells classes apart.
    least = LEAST_DEVIATION * abs(float(np.median(scores.margin[right])))
    deviation = np.maximum(deviation, max(least, TINY))

    def standard(values: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = (values - mean[classes]) / deviation[classes]
        return scaled.round(N_DECIMALS)  # equal images differ by rounding

    usual = np.sort(standard(own[right], labels[right]))
    is_own = scores.judged & (scores.margin >= 0)
    best = np.where(is_own, own, scores.nearest)
    nearest = np.where(is_own, labels, scores.other)
    places = standard(best, nearest)
    below, above = (np.searchsorted(usual, places, side) for side in ("left", "right"))
    ranks = (below + above + 1) / (2 * len(usual) + 2)
    rejected = np.log(ranks[scores.judged & ~(scores.clean_probability > 0.5)])
    share, power = 0.5, POWERS[1]
    for _ in range(N_STEPS):  # as if there were FEW_REJECTED mislabeled images more
        odds = share / (1 - share) * power * np.exp((power - 1) * rejected)
        foreign = odds / (1 + odds)
        share = float(foreign.sum()) / (len(rejected) + FEW_REJECTED)
        if share < LEAST_FOREIGN:
            return np.zeros(len(labels))
        power = float(np.clip(foreign.sum() / -(foreign @ rejected), *POWERS))
    odds = share / (1 - share) * power * ranks ** (power - 1)
    far: NDArray[np.float64] = odds / (1 + odds)
    return far


def _usual(
    own: NDArray[np.float64], labels: NDArray[np.int64], n_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(C,) mean and (C,) standard deviation of likelihoods; of small classes more like of all."""
    counts = np.bincount(labels, minlength=n_classes) + FEW_ROWS
    mean = (np.bincount(labels, own, n_classes) + FEW_ROWS * own.mean()) / counts
    squares = np.bincount(labels, np.square(own - mean[labels]), n_classes)
    variance = (squares + FEW_ROWS * np.square(own - mean[labels]).mean()) / counts
    return mean, np.sqrt(np.maximum(variance, TINY))


def _noise_rates(
    scores: OfflineScores,
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
) -> tuple[NoiseRate, ...]:
    """The mean probabilities of each class.

    Intervals are of 95 % if probabilities are right. For mislabeled images they also reach up to
    the share that lies nearer another class: overlap and wrong labels look alike. Of images that
    could not be judged, any share may be wrong.
    """
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(len(class_names) + 1))
    rates = []
    for c, name in enumerate(class_names):
        rows = order[bounds[c] : bounds[c + 1]]
        if not len(rows):
            continue
        unknown = 1 - float(scores.judged[rows].mean())
        nearer = float((scores.margin[rows] < 0).mean())
        wrong, interval = _share(probabilities[rows, Verdict.MISLABELED], unknown)
        strange, strange_interval = _share(probabilities[rows, Verdict.FOREIGN], unknown)
        interval = interval[0], min(1.0, max(interval[1], nearer + unknown))
        rates.append(NoiseRate(name, len(rows), wrong, interval, strange, strange_interval))
    return tuple(rates)


def _share(probabilities: NDArray[np.float64], unknown: float) -> tuple[float, tuple[float, float]]:
    """The mean, and a 95 % interval of the share that comes true."""
    mean = float(probabilities.mean())
    # one more image of even odds: none of three is not none for sure
    chance = math.sqrt(float((probabilities * (1 - probabilities)).sum()) + 0.25)
    reach = NORMAL_95 * chance / (len(probabilities) + 1)
    low = max(0.0, mean - reach - unknown)
    return mean, (low, min(1.0, mean + reach + unknown))


def _reasons(
    scores: OfflineScores,
    verdict: NDArray[np.int8],
    likely: NDArray[np.float64],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
) -> tuple[str, ...]:
    """One sentence an image: which center it is nearest to, and how likely that makes what."""
    found: list[str] = []
    for row, label in enumerate(labels):
        other = repr(class_names[scores.other[row]])
        chance = percent(likely[row])
        if label < 0:
            text = f"It is nearest to the center of {other}"
            text += ", but far for that class" if verdict[row] == Verdict.FOREIGN else ""
            found.append(f"{text}; it has no label itself.")
            continue
        given = repr(class_names[label])
        if not scores.judged[row]:
            found.append(f"Not judged: no other image that can be read is labeled {given}.")
        elif verdict[row] == Verdict.FOREIGN:
            found.append(
                f"It is far from the centers of all classes, {given} among them; the nearest is "
                f"that of {other}."
            )
        elif verdict[row] == Verdict.MISLABELED:
            found.append(
                f"It is nearer to the center of {other} than to that of {given}, which makes "
                f"{other} {chance} likely."
            )
        elif scores.margin[row] >= 0:
            found.append(f"It is nearest to the center of {given}, which makes it {chance} likely.")
        else:
            found.append(
                f"It is a little nearer to the center of {other}, but {given} stays {chance} "
                "likely."
            )
    return tuple(found)


def _warnings(
    scores: OfflineScores,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    remedy: str,
) -> tuple[str, ...]:
    """When and why the result should not be trusted."""
    found = []
    counts = np.bincount(labels[labels >= 0], minlength=len(class_names))
    single = np.flatnonzero(counts == 1)
    if len(single):
        found.append(
            f"Classes with a single image: {len(single)} ({_named(single, class_names)}). "
            "Their labels were not judged; add images or leave them out."
        )
    right = labels[(labels >= 0) & (scores.clean_probability > 0.5)]
    n_right = np.bincount(right, minlength=len(counts))
    lost = np.flatnonzero((counts > 1) & (n_right < HARDLY * counts))
    if len(lost):
        found.append(
            f"Classes of which hardly any label seems right: {len(lost)} "
            f"({_named(lost, class_names)}). Look at them: they may be mixtures of other classes, "
            "or classes whose name is used for another."
        )
    nearest = float((scores.margin[scores.judged] >= 0).mean()) if scores.judged.any() else 0.0
    low, high = scores.rate.interval
    if nearest < LEAST_FOUND:
        found.append(
            f"Only {percent(nearest)} of the images are nearest to the center of the class they "
            f"are labeled. Either labels are bad or the features hardly tell these classes: from "
            f"{percent(low)} to {percent(high)} of the labels may be wrong. {remedy}"
        )
    return tuple(found)


def _named(classes: NDArray[np.int64], class_names: Sequence[str]) -> str:
    names = ", ".join(repr(class_names[c]) for c in classes[:N_NAMED])
    return names + (", ..." if len(classes) > N_NAMED else "")
