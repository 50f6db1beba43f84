"""The default recipe of the audit: which labels are wrong, which images belong to no class.

SNCF finds both as density modes of a spectral embedding, which holds for many classes, much noise
and a long contrastive training (`paper.py`). This recipe keeps its evidence, features learned
without labels and the labels of an image's neighbors, and weighs it by likelihood:

1. labels around each image (`evidence.py`), beside its features;
2. networks that never saw an image's label predict it (`crossfit.py`);
3. the surest images of each class show how it turns into labels (`transition.py`);
4. networks again, now for the true class behind the labels;
5. how alike all classes are for an image says how likely it is foreign (`foreign.py`);
6. Bayes' rule over "clean", "mislabeled" and "foreign", given what the label is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.detection import Detection, Progress
from labelsieve.methods.sncf.crossfit import CrossFit, cross_fit
from labelsieve.methods.sncf.evidence import neighbor_labels, network_inputs
from labelsieve.methods.sncf.foreign import foreign_groups, foreign_share, foreign_side
from labelsieve.methods.sncf.noise_rates import noise_rates
from labelsieve.methods.sncf.posterior import posterior, sharpened
from labelsieve.methods.sncf.reasons import reasons
from labelsieve.methods.sncf.transition import anchor_transition
from labelsieve.methods.sncf.trust import doubts, label_gain, label_skill, trust
from labelsieve.records import Neighbors, Verdict


@dataclass(frozen=True)
class RobustDetection:
    """Settings of the default recipe."""

    classifier: CrossFit = field(default_factory=CrossFit)
    n_repeats: int = 4  # of the second round; they differ in reach and floor, which nobody knows
    shortest_reach: float = 0.03  # of the anchors of a class, share of its images
    longest_reach: float = 0.2
    lowest_floor: float = 0.15  # share of the classes that a known image is far from
    highest_floor: float = 0.5
    power: float = 3.0  # of similarities, by which neighbors count
    most_dimensions: int = 512  # features beyond are reduced to their principal directions
    doubt_images: float = 5.0  # a class of n images is believed n / (n + doubt_images)

    def __post_init__(self) -> None:
        for low, high in (("shortest_reach", "longest_reach"), ("lowest_floor", "highest_floor")):
            if not 0 < getattr(self, low) <= getattr(self, high) <= 1:
                raise ConfigError(
                    f"{low}={getattr(self, low)} and {high}={getattr(self, high)}; "
                    f"expected 0 < {low} <= {high} <= 1."
                )
        least_values = {"n_repeats": 1, "most_dimensions": 1, "power": 0, "doubt_images": 0}
        for name, least in least_values.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least {least}.")

    def reaches(self) -> NDArray[np.float64]:
        """Of the anchors, one for each repeat."""
        return np.geomspace(self.shortest_reach, self.longest_reach, self.n_repeats)

    def floors(self) -> NDArray[np.float64]:
        """Of the least likely classes, one for each repeat."""
        return np.geomspace(self.lowest_floor, self.highest_floor, self.n_repeats)


def detect_robust(
    features: NDArray[np.float32],
    neighbors: Neighbors,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    settings: RobustDetection = RobustDetection(),
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Detection:
    """Which labels are right, which are wrong, and what belongs to no class.

    The verdict is the likeliest of the three. Unlabeled images (-1) teach nothing; they are clean
    or foreign, and get a suggestion.

    Args:
        features: (N, D) unit-norm.
        neighbors: their nearest others; 50 is a good number.
        labels: (N,) in [-1, C).
        class_names: C names.
        settings: of the recipe.
        seed: of every random choice.
        device: where the networks are trained.
        progress: called with (done, total).

    Raises:
        DataError: fewer than two classes have images.

    Example:
        >>> from labelsieve.neighbors.knn import nearest_neighbors
        >>> rows = np.eye(8, dtype=np.float32)[np.repeat([0, 5], 30)]
        >>> labels = np.repeat([0, 1], 30)
        >>> labels[3] = 1
        >>> found = detect_robust(rows, nearest_neighbors(rows, 20), labels, ["cat", "dog"])
        >>> np.flatnonzero(found.verdict == Verdict.MISLABELED).tolist()
        [3]
    """
    labels = np.asarray(labels, np.int64)
    present = np.unique(labels[labels >= 0])
    if len(present) < 2:
        raise DataError(
            f"{len(labels)} images with labels of {len(present)} of {len(class_names)} classes. "
            "A label can only be doubted where there are two classes or more."
        )
    n_parts = 1 + settings.n_repeats  # of about the same time

    def run(
        inputs: NDArray[np.float32],
        transitions: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        start, size = (0, 1) if transitions is None else (1, settings.n_repeats)
        return cross_fit(
            inputs, labels, len(class_names), settings.classifier, transitions=transitions,
            seed=seed + start, device=device, progress=_part(progress, start, size, n_parts),
        )  # fmt: skip

    evidence = _weigh(features, neighbors, labels, len(class_names), settings, run)
    probabilities = evidence.members.mean(axis=0).astype(np.float32)
    verdict = probabilities.argmax(axis=1).astype(np.int8)
    closest = _closest(evidence, verdict, labels)
    suggestion = np.where((verdict == Verdict.CLEAN) & (labels >= 0), labels, closest)
    likely = evidence.classes[np.arange(len(labels)), suggestion].astype(np.float32)
    rates = noise_rates(
        evidence.members, evidence.most_mislabeled, evidence.belief, labels, class_names
    )
    surest = probabilities[:, Verdict.FOREIGN]
    return Detection(
        verdict=verdict,
        probabilities=probabilities,
        suggestion=suggestion,
        suggestion_probability=likely,
        closest=closest,
        foreign_group=foreign_groups(features, verdict == Verdict.FOREIGN, surest),
        reasons=reasons(
            verdict, probabilities, suggestion, likely, neighbors, labels, class_names,
            evidence.belief,
        ),
        noise_rates=rates,
        warnings=doubts(
            evidence.skill, labels, class_names, rates,
            called=float((verdict[labels >= 0] == Verdict.MISLABELED).mean()),
            hyperplane=evidence.hyperplane,
        ),
    )  # fmt: skip


class _Evidence(NamedTuple):
    members: NDArray[np.float64]  # (R, N, 3) clean, mislabeled, foreign, from each repeat
    most_mislabeled: NDArray[np.float64]  # (N,) every disagreement laid to the label
    by_features: NDArray[np.float32]  # (N, C) of the true class, label not considered
    classes: NDArray[np.float64]  # (N, C) of the true class, label considered
    belief: NDArray[np.float64]  # (N,) in [0, 1], how far the evidence is believed
    skill: float  # of the features at predicting labels
    hyperplane: bool  # whether one cuts the foreign images off


class _Networks(NamedTuple):
    as_given: NDArray[np.float32]  # (N, C) of the label, mistakes and all
    transitions: NDArray[np.float64]  # (R, C, C) from true class to label, one for each repeat
    true: NDArray[np.float32]  # (R, N, C) of the true class


def _weigh(
    features: NDArray[np.float32],
    neighbors: Neighbors,
    labels: NDArray[np.int64],
    n_classes: int,
    settings: RobustDetection,
    run: Callable[..., NDArray[np.float32]],
) -> _Evidence:
    """Steps 1 to 6."""
    counts = np.bincount(labels[labels >= 0], minlength=n_classes)
    prior = counts / counts.sum()
    shares = neighbor_labels(neighbors, labels, n_classes, settings.power)
    inputs = network_inputs(features, shares, settings.most_dimensions)
    as_given, transitions, true = _two_rounds(partial(run, inputs), labels, settings)
    by_features = true.mean(axis=0)
    gain = label_gain(by_features @ transitions.mean(axis=0), prior, labels)
    skill = label_skill(gain, prior)
    foreign, hyperplane = _foreign(features, neighbors, by_features, prior, gain, settings)
    belief = trust(skill, labels, n_classes, settings.doubt_images)
    weigh = partial(_believed, prior, labels, belief)
    true = sharpened(true, transitions, foreign, prior, labels)
    members, classes = np.empty((len(true), len(labels), 3)), np.zeros(true.shape[1:])
    for repeat, evidence in enumerate(zip(true, transitions, foreign, strict=True)):
        members[repeat], each = weigh(*evidence)
        classes += each / len(true)
    blamed, _ = weigh(true.mean(axis=0), anchor_transition(as_given, labels, 1.0), foreign[0])
    most = blamed[:, Verdict.MISLABELED]
    return _Evidence(members, most, by_features, classes, belief, skill, hyperplane)


def _two_rounds(
    run: Callable[..., NDArray[np.float32]], labels: NDArray[np.int64], settings: RobustDetection
) -> _Networks:
    """Networks for the labels; how classes turn into labels by these; networks for the classes."""
    as_given = run()[0]
    reaches = settings.reaches()
    transitions = np.stack([anchor_transition(as_given, labels, reach) for reach in reaches])
    return _Networks(as_given, transitions, run(transitions=transitions))


def _believed(
    prior: NDArray[np.float64],
    labels: NDArray[np.int64],
    belief: NDArray[np.float64],
    probabilities: NDArray[np.float32],
    transition: NDArray[np.float64],
    foreign: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`posterior`, with what is not believed of it given to the label."""
    kinds, classes = posterior(probabilities, transition, foreign, prior, labels)
    kinds *= belief[:, None]
    classes *= belief[:, None]
    labeled = np.flatnonzero(labels >= 0)
    kinds[:, Verdict.CLEAN] += 1 - belief
    classes[labeled, labels[labeled]] += 1 - belief[labeled]
    return kinds, classes


def _foreign(
    features: NDArray[np.float32],
    neighbors: Neighbors,
    by_features: NDArray[np.float32],
    prior: NDArray[np.float64],
    gain: NDArray[np.float64],
    settings: RobustDetection,
) -> tuple[list[NDArray[np.float32]], bool]:
    """How likely each image is foreign, once for each repeat; whether a hyperplane says so."""
    shares = [foreign_share(by_features, prior, floor) for floor in settings.floors()]
    suspicion = np.mean(shares, axis=0)
    around = neighbors.similarities.clip(1e-3, None) ** settings.power
    smooth = (around * suspicion[neighbors.indices]).sum(axis=1) / around.sum(axis=1)
    beyond = foreign_side(features, smooth, gain)
    if beyond is None:
        return shares, False
    return [beyond] * settings.n_repeats, True


def _closest(
    evidence: _Evidence, verdict: NDArray[np.int8], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The likeliest class by the features; where the label is called wrong, the likeliest other."""
    closest: NDArray[np.int64] = evidence.by_features.argmax(axis=1)
    rows = np.flatnonzero(verdict == Verdict.MISLABELED)
    others = evidence.classes[rows]
    others[np.arange(len(rows)), labels[rows]] = -1
    closest[rows] = others.argmax(axis=1)
    return closest


def _part(progress: Progress | None, start: int, size: int, total: int) -> Progress | None:
    """Progress of one part of the work, in thousandths of the whole."""
    if progress is None:
        return None
    return lambda done, of: progress(round(1000 * (start + size * done / of) / total), 1000)
