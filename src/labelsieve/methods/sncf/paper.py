"""Clean, mislabeled and foreign images told apart as the SNCF paper does it: the recipe `paper`.

Source: Albert et al., ECCV 2022 (arXiv 2207.01573), stage A, with the published code's constants.

=====  ===================================================  ==============================
step   what                                                 function
=====  ===================================================  ==============================
A4     affinity, double normalization, eigenvectors         `embed`
A5a    OPTICS in each class, three settings                 `class_runs`, `optics_by_class`
A5b    which of the three                                   `choose_run`
A5c    how spread out each cluster is                       `spreads`
A5d    which cluster is foreign                             `foreign_by_density`
A5e    classes not to be trusted (mini-WebVision)           `distrusted`
A6     one split for the whole set (CNWL)                   `split_by_mixture`
A7     clusters among the foreign                           `group_foreign`
=====  ===================================================  ==============================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.sncf.roles import (
    choose_run,
    distrusted,
    foreign_by_coherence,
    foreign_by_density,
    spreads,
)
from labelsieve.neighbors.graph import (
    Embedding,
    affinity,
    doubly_normalized,
    eigengap,
    spectral_embedding,
)
from labelsieve.neighbors.knn import Progress, nearest_neighbors
from labelsieve.neighbors.optics import Group, optics, optics_by_class
from labelsieve.records import Neighbors, Verdict

MOST_TO_GROUP = 50_000  # foreign images; beyond, their groups would take more than a minute
SMALLEST = 30  # images of a class below which it is not clustered


@dataclass(frozen=True)
class PaperDetection:
    """The constants of the paper's main experiment, CIFAR-100.

    mini-WebVision has min_samples=100, min_cluster_size=50 and cautious=True; CNWL has
    split="mixture" with covariance="diag" at noise rates .2 and .8, "full" at .4 and .6.

    Example:
        >>> PaperDetection(min_samples=100, min_cluster_size=50, cautious=True).xi
        0.02
    """

    split: Literal["classes", "mixture"] = "classes"  # A5 class by class, or A6 for all at once
    n_neighbors: int = 50  # of the graph
    power: float = 3.0  # of similarities in the graph
    n_components: int = 20  # of the embedding; by far the most delicate number here
    min_samples: int = 75  # of the first OPTICS run
    fallback_step: int = 25  # each of two further runs has this many fewer
    min_cluster_size: int = 75  # images
    xi: float = 0.02  # relative step at a cluster's rim
    floor: float = 1e-8  # cosine distances below are noise: the solver's tolerance of 1e-4, squared
    roles: Literal["density", "coherence"] = "density"  # "coherence" is ours, see A5d
    cautious: bool = False  # A5e
    alike: float = 0.8  # A5e: spreads of which the least is more than this share of the largest
    covariance: Literal["diag", "full"] = "full"  # A6
    n_starts: int = 50  # A6, of the mixture
    mode_neighbors: int = 99  # A6, nearest fellows by which a mode's density is measured
    group_min_samples: int = 100  # A7
    largest_group: float = 0.5  # A7: one group above this share of the foreign says nothing

    def __post_init__(self) -> None:
        least = {"n_neighbors": 1, "n_components": 1, "min_samples": 2, "fallback_step": 0}
        least |= {"min_cluster_size": 2, "n_starts": 1, "mode_neighbors": 1, "group_min_samples": 2}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least {value}.")
        if not 0 < self.xi < 1:
            raise ConfigError(f"xi is {self.xi}; expected between 0 and 1.")
        if self.min_samples - 2 * self.fallback_step < 2:
            raise ConfigError(
                f"min_samples={self.min_samples} with fallback_step={self.fallback_step}: the last "
                f"run has {self.min_samples - 2 * self.fallback_step}; expected at least 2."
            )


@dataclass(frozen=True)
class ClassEvidence:
    """What a class was split by."""

    label: int
    n_images: int
    min_samples: int  # of the run that was chosen; 0 where the class was not clustered
    spreads: tuple[float, ...]  # of each cluster, cosine distance: A5c
    coherences: tuple[float, ...]  # of each cluster, share of neighbors with the same label
    foreign: tuple[int, ...]  # clusters called foreign
    outlier_rate: float  # share of the class in no cluster


@dataclass(frozen=True)
class PaperSplit:
    """The verdict on each image, and what speaks for and against it."""

    kinds: NDArray[np.int8]  # (N,) a Verdict: clean, mislabeled or foreign
    foreign_groups: NDArray[np.int32]  # (N,) cluster among the foreign, -1 none
    embedding: Embedding
    classes: tuple[ClassEvidence, ...]  # empty for split="mixture"
    warnings: tuple[str, ...]


def detect_paper(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    settings: PaperDetection = PaperDetection(),
    *,
    neighbors: Neighbors | None = None,
    class_names: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> PaperSplit:
    """Tell clean, mislabeled and foreign images apart by the paper's rules.

    Source: SNCF, stage A, step A8. Deviations, each because the original fails there: coordinates
    stay in float64 and distances have a `floor` (the original clusters rounding noise where classes
    are so well separated that their images coincide in the embedding); classes too small for
    `min_samples` get it in proportion or stay clean; a largest foreign group above `largest_group`
    counts as none; see also `spectral_embedding`.

    Args:
        features: (N, D) unit-norm.
        labels: (N,) class of each image, -1 for none (it stays clean).
        settings: the paper's constants.
        neighbors: of all images, at least `n_neighbors` each, or None to find them.
        class_names: for the warnings; numbers where there are none.
        seed: of the mixture's starts (A6); the rest leaves nothing to chance.
        progress: called with (done, total) classes.
    """
    n = len(features)
    if len(labels) != n:
        raise DataError(f"{n} rows of features, but {len(labels)} labels. Give each row one.")
    if neighbors is None:
        neighbors = nearest_neighbors(features, settings.n_neighbors)
    width = min(settings.n_neighbors, max(n - 1, 0))
    if neighbors.indices.shape[1] < width or len(neighbors.indices) != n:
        raise DataError(
            f"neighbors of shape {neighbors.indices.shape} for {n} images; "
            f"expected ({n}, {width}) or wider."
        )
    neighbors = Neighbors(neighbors.indices[:, :width], neighbors.similarities[:, :width])
    embedding = embed(neighbors, settings)
    if settings.split == "mixture":
        kinds = split_by_mixture(embedding.values, features, settings, seed)
        classes: tuple[ClassEvidence, ...] = ()
    else:
        agreement = coherence(neighbors, labels)
        kinds, classes = split_by_class(
            embedding.values, features, labels, agreement, settings, progress=progress
        )
    groups = np.full(n, -1, np.int32)
    foreign = kinds == Verdict.FOREIGN
    groups[foreign] = group_foreign(features[foreign], settings)
    warnings = [*_doubts_of_embedding(embedding), *_doubts(classes, class_names, settings)]
    if foreign.any() and (groups == -1).all():
        warnings.append(f"The {foreign.sum()} foreign images fall into no groups.")
    return PaperSplit(kinds, groups, embedding, classes, tuple(warnings))


def embed(neighbors: Neighbors, settings: PaperDetection) -> Embedding:
    """Step A4: one spectral embedding for all classes together."""
    operator = doubly_normalized(affinity(neighbors, settings.power))
    return spectral_embedding(operator, settings.n_components)


def coherence(neighbors: Neighbors, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) share of each image's neighbors that carry its label; 0 without neighbors."""
    same = labels[neighbors.indices] == labels[:, None]
    shares: NDArray[np.float64] = same.sum(axis=1) / max(same.shape[1], 1)
    return shares


def split_by_class(
    points: NDArray[np.float64],
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    agreement: NDArray[np.float64],
    settings: PaperDetection,
    *,
    progress: Progress | None = None,
) -> tuple[NDArray[np.int8], tuple[ClassEvidence, ...]]:
    """Step A5: clusters within each class are clean or foreign, what lies outside is mislabeled.

    Args:
        points: (N, n_components) from `embed`.
        features: (N, D) unit-norm.
        labels: (N,) class of each image, -1 for none.
        agreement: (N,) from `coherence`.
        settings: the paper's constants.
        progress: called with (done, total) classes.
    """
    kinds = np.full(len(labels), Verdict.CLEAN, np.int8)
    present = np.unique(labels[labels >= 0])
    rows = {int(label): np.flatnonzero(labels == label) for label in present}
    runs = {label: class_runs(len(found), settings) for label, found in rows.items()}
    groups = {label: Group(rows[label], *run) for label, run in runs.items() if run}
    labelings = optics_by_class(
        points, list(groups.values()), settings.xi, settings.floor, progress=progress
    )
    evidence = {
        label: ClassEvidence(label, len(rows[label]), 0, (), (), (), 0.0)
        for label in rows.keys() - groups.keys()
    }
    for (label, group), labeling in zip(groups.items(), labelings, strict=True):
        found = group.rows
        kinds[found], evidence[label] = _split_one(
            label, labeling, features[found], agreement[found], group.min_samples, settings
        )
    return kinds, tuple(evidence[label] for label in rows)


def class_runs(n_images: int, settings: PaperDetection) -> tuple[tuple[int, ...], int] | None:
    """Step A5a: min_samples of each run and min_cluster_size for a class, or None: not clustered.

    Deviation: the original stops at a class smaller than min_samples. Such a class gets the share
    that 75 is of CIFAR-100's 500 images, unless it has fewer than 30.
    """
    if n_images >= max(settings.min_samples, settings.min_cluster_size):
        first, step = settings.min_samples, settings.fallback_step
        return (first, first - step, first - 2 * step), settings.min_cluster_size
    if n_images < SMALLEST:
        return None
    first = max(round(0.15 * n_images), 5)
    return (first, max(2 * first // 3, 2), max(first // 3, 2)), first


def _split_one(
    label: int,
    labelings: NDArray[np.int64],
    features: NDArray[np.float32],
    agreement: NDArray[np.float64],
    min_samples: tuple[int, ...],
    settings: PaperDetection,
) -> tuple[NDArray[np.int8], ClassEvidence]:
    chosen = choose_run(labelings)
    clusters = labelings[chosen]
    spread = spreads(features, clusters, min_samples[0])  # of the first run, whichever was chosen
    agreements = np.array([agreement[clusters == c].mean() for c in range(len(spread))])
    rule = foreign_by_density if settings.roles == "density" else foreign_by_coherence
    foreign = rule(spread if settings.roles == "density" else agreements)
    kinds = np.full(len(clusters), Verdict.CLEAN, np.int8)
    if len(spread):  # else: not a single cluster, nothing to compare with
        kinds[clusters == -1] = Verdict.MISLABELED
        kinds[np.append(foreign, False)[clusters]] = Verdict.FOREIGN
    n_foreign, n_clean = ((kinds == kind).sum() for kind in (Verdict.FOREIGN, Verdict.CLEAN))
    if settings.cautious and distrusted(spread, n_foreign, n_clean, settings.alike):
        kinds[:] = Verdict.CLEAN
    return kinds, ClassEvidence(
        label=label,
        n_images=len(clusters),
        min_samples=min_samples[chosen],
        spreads=tuple(spread.tolist()),
        coherences=tuple(agreements.tolist()),
        foreign=tuple(np.flatnonzero(foreign).tolist()),
        outlier_rate=float((clusters == -1).mean()),
    )


def split_by_mixture(
    points: NDArray[np.float64],
    features: NDArray[np.float32],
    settings: PaperDetection,
    seed: int = 0,
) -> NDArray[np.int8]:
    """Step A6: two Gaussians over the whole embedding, the denser is foreign; none is mislabeled.

    Density is the mean similarity of members to their 99 nearest fellows, in the features.
    Deviation: coordinates are scaled by sqrt(N), or the mixture's floor on variances would grow
    with N.
    """
    from sklearn.mixture import GaussianMixture  # half a second to import

    kinds = np.full(len(points), Verdict.CLEAN, np.int8)
    if len(points) < 4:
        return kinds
    mixture = GaussianMixture(
        2,
        covariance_type=settings.covariance,
        n_init=settings.n_starts,
        random_state=seed,
    )
    modes = mixture.fit_predict(points * np.sqrt(len(points)))
    if 0 < modes.sum() < len(modes):
        density = [
            nearest_neighbors(features[modes == mode], settings.mode_neighbors).similarities
            for mode in (0, 1)
        ]
        denser = int(np.argmax([values.mean() if values.size else -1.0 for values in density]))
        kinds[modes == denser] = Verdict.FOREIGN
    return kinds


def group_foreign(features: NDArray[np.float32], settings: PaperDetection) -> NDArray[np.int32]:
    """Step A7: clusters among the foreign images, by a graph and an embedding of their own.

    Deviation: too few images for `group_min_samples`, more than 50,000, or one group that holds
    more than `largest_group` of them, count as no groups. A loss that pulls a group together would
    pull together all that is foreign. Time grows with the square of their number: 3 s for 10,000.

    Returns:
        (n,) group of each, -1 for none.
    """
    none = np.full(len(features), -1, np.int32)
    least = max(settings.group_min_samples, settings.n_neighbors)
    if not least < len(features) <= MOST_TO_GROUP:
        return none
    embedding = embed(nearest_neighbors(features, settings.n_neighbors), settings)
    groups = optics(
        embedding.values, settings.group_min_samples, xi=settings.xi, floor=settings.floor
    )
    sizes = np.bincount(groups[groups >= 0])
    if sizes.max(initial=0) > settings.largest_group * len(features):
        return none
    return groups.astype(np.int32)


def _doubts_of_embedding(embedding: Embedding) -> list[str]:
    values = embedding.eigenvalues
    kept = eigengap(values) if len(values) else 0
    if kept < len(values) and values[kept] < 0.75 * values[kept - 1]:
        return [
            f"Only the first {kept} of {len(values)} components of the embedding stand out "
            f"(eigenvalues {values[kept - 1]:.2f}, then {values[kept]:.2f}); the others are noise "
            f"that can hide the foreign images. Try --set detection.n_components={kept}."
        ]
    return []


def _doubts(
    classes: Sequence[ClassEvidence], names: Sequence[str], settings: PaperDetection
) -> list[str]:
    doubts: list[tuple[str, str]] = []  # what, and the class it is true of
    for found in classes:
        name = repr(names[found.label]) if names else str(found.label)
        rules = foreign_by_density, foreign_by_coherence
        evidence = np.array(found.spreads), np.array(found.coherences)
        by_density, by_coherence = (rule(e) for rule, e in zip(rules, evidence, strict=True))
        if found.min_samples == 0:
            doubts.append((f"fewer than {SMALLEST} images; they were not judged", name))
        elif found.n_images < max(settings.min_samples, settings.min_cluster_size):
            doubts.append(("min_samples lowered in proportion to their size", name))
        if not np.array_equal(by_density, by_coherence):
            doubts.append(("different foreign clusters by density and by neighbors' labels", name))
        if found.outlier_rate > 0.4:
            doubts.append(("more than 40 % of their images in no cluster", name))
    counts = Counter(what for what, _ in doubts)
    first = {what: name for what, name in reversed(doubts)}
    return [
        f"{count} of {len(classes)} classes have {what} (such as class {first[what]})."
        for what, count in counts.items()
    ]
