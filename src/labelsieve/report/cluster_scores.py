"""How well clusters fit classes, where the truth is known: pure functions, and one record.

Clusters have no names, so that accuracy needs a mapping from clusters to classes. There are two:
`hungarian` gives each class to at most one cluster, `majority` gives a cluster the class that most
of its images have, so that several clusters may share a class (over-clustering). A measure that is
not defined for the rows at hand is None and is shown as a dash; it is never a silent 0.

Axis letters: N images, C clusters, K choices of an image; G classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)

from labelsieve.data.labels import sort_names
from labelsieve.errors import DataError
from labelsieve.records.choices import in_common
from labelsieve.records.clusters import Clusters, Part

MEASURES = (
    "accuracy", "top5", "nmi", "ari", "ami", "majority_accuracy", "majority_train_accuracy",
)  # fmt: skip

Rows = NDArray[np.bool_]  # (N,) which images


@dataclass(frozen=True, eq=False)
class ClusterScores:
    """Clusters against the truth; every share is in [0, 1] and over the scored images."""

    n_scored: int
    n_unknown: int  # images whose truth is not known: left out
    n_broken: int  # images of a known class without a cluster: left out
    accuracy: float | None  # with `mapping`, fitted on the images it is scored on
    top5: float | None  # the class is that of one of the min(5, C) most probable clusters
    nmi: float | None  # mutual information over the mean of both entropies; rises with C
    ari: float | None  # of pairs, 0 at chance
    ami: float | None  # mutual information, 0 at chance: compare runs of other C by this
    majority_accuracy: float | None  # many to one, fitted on the images it is scored on
    majority_train_accuracy: float | None  # many to one, fitted on others; None without them
    n_classes: int
    n_clusters: int
    mapping: NDArray[np.int64]  # (C,) the class that `hungarian` gives a cluster, -1 none
    confusion: NDArray[np.int64]  # (G, C) images, row the true class, column the cluster
    class_names: tuple[str, ...]  # (G,)

    def column_order(self) -> NDArray[np.int64]:
        """(C,) the clusters in an order in which those of a class stand on the diagonal.

        First the mapped ones by class, then the others by the class that most of their images have.
        """
        most = majority_of_counts(self.confusion)
        matched = self.mapping >= 0
        by = np.where(matched, self.mapping, np.where(most >= 0, most, self.n_classes))
        return np.lexsort((by, ~matched)).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """All measures, ready for JSON; None where a measure is not defined."""
        arrays = {"mapping": self.mapping.tolist(), "confusion": self.confusion.tolist()}
        return asdict(self) | arrays

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> ClusterScores:
        """What `to_dict` gave, back from JSON."""
        confusion = np.array(given["confusion"], np.int64).reshape(-1, given["n_clusters"])
        arrays = {"mapping": np.array(given["mapping"], np.int64), "confusion": confusion}
        return cls(**{**given, **arrays, "class_names": tuple(given["class_names"])})


def confusion_of(
    clusters: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    n_clusters: int,
    n_classes: int,
) -> NDArray[np.int64]:
    """(G, C) images of each class in each cluster; rows where either is -1 are in none."""
    known = (clusters >= 0) & (labels >= 0)
    pairs = labels[known].astype(np.int64) * n_clusters + clusters[known]
    counts = np.bincount(pairs, minlength=n_classes * n_clusters)
    return counts.reshape(n_classes, n_clusters).astype(np.int64)


def hungarian(
    clusters: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    n_clusters: int,
    n_classes: int,
) -> NDArray[np.int64]:
    """The best one-to-one mapping of clusters to classes: it gets the most images right.

    Where there are more clusters than classes, or the reverse, what is left over has no partner.

    Args:
        clusters: (N,) in [0, C), -1 none.
        labels: (N,) true classes in [0, G), -1 not known; rows with a -1 do not count.
        n_clusters: C.
        n_classes: G.

    Returns:
        (C,) the class of each cluster, -1 unmatched.

    Example:
        >>> hungarian(np.array([1, 1, 0, 2]), np.array([0, 0, 1, 1]), 3, 2).tolist()
        [1, 0, -1]
    """
    return _hungarian(confusion_of(clusters, labels, n_clusters, n_classes))


def majority(
    clusters: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    n_clusters: int,
    n_classes: int,
) -> NDArray[np.int64]:
    """The class that most images of each cluster have: many clusters may map to one class.

    Arguments as for `hungarian`.

    Returns:
        (C,) the class of each cluster, the lowest of equals, -1 of a cluster without images.
    """
    return majority_of_counts(confusion_of(clusters, labels, n_clusters, n_classes))


def majority_of_counts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(C,) the row with the most images in each column of (G, C), -1 where there are none."""
    if not counts.size:
        return np.full(counts.shape[1], -1, np.int64)
    return np.where(counts.any(axis=0), counts.argmax(axis=0), -1).astype(np.int64)


def top_accuracy(
    choices: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    mapping: NDArray[np.int64],
    k: int = 5,
) -> float | None:
    """How often one of the k most probable clusters is mapped to the true class.

    Args:
        choices: (N, K) clusters, most probable first, -1 none; where K < k, all of them count.
        labels: (N,) true classes; rows with -1 do not count.
        mapping: (C,) class of each cluster, -1 none: never right.
        k: at least 1.

    Returns:
        a share in [0, 1]; None without a row of known class.
    """
    known = labels >= 0
    mine = choices[known, :k]
    classes = np.where(mine >= 0, mapping[mine], -1)
    return _mean((classes == labels[known, None]).any(axis=1))


def score_labels(
    cluster: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    n_clusters: int | None = None,
    class_names: Sequence[str] | None = None,
    *,
    choices: NDArray[np.integer[Any]] | None = None,
    rows: Rows | None = None,
    fit_rows: Rows | None = None,
) -> ClusterScores:
    """Hold a plain assignment, such as that of k-means, against true classes.

    Args:
        cluster: (N,) in [0, C), -1 none.
        labels: (N,) in [0, G), -1 not known.
        n_clusters: C; the highest in `cluster` and one more where None.
        class_names: (G,); numbers up to the highest in `labels` where None.
        choices: (N, K) clusters, most probable first; without them there is no top-5.
        rows: the images to score; all where None. Both mappings are fitted on them.
        fit_rows: the images that the mapping of `majority_train_accuracy` is fitted on.

    Raises:
        DataError: columns of different lengths, or a number that is no cluster or class.

    Example:
        >>> four_of_two = np.array([0, 1, 2, 3])  # two clusters a class
        >>> scores = score_labels(four_of_two, np.array([0, 0, 1, 1]))
        >>> scores.accuracy, scores.majority_accuracy
        (0.5, 1.0)
    """
    c = int(cluster.max(initial=-1)) + 1 if n_clusters is None else n_clusters
    if class_names is None:
        class_names = [str(g) for g in range(int(labels.max(initial=-1)) + 1)]
    _check(cluster, labels, c, len(class_names))
    chosen = np.ones(len(cluster), bool) if rows is None else np.asarray(rows, bool)
    scored = chosen & (cluster >= 0) & (labels >= 0)
    found, true = cluster[scored].astype(np.int64), labels[scored].astype(np.int64)
    counts = confusion_of(found, true, c, len(class_names))
    mapping, most = _hungarian(counts), majority_of_counts(counts)
    fitted = None
    if fit_rows is not None:
        others = confusion_of(cluster[fit_rows], labels[fit_rows], c, len(class_names))
        fitted = majority_of_counts(others) if others.any() else None
    n = len(found)
    if choices is not None and choices.shape[1] < min(5, c):
        choices = None  # such as of k-means, where the nearest alone is known
    return ClusterScores(
        n_scored=n,
        n_unknown=int((chosen & (labels < 0)).sum()),
        n_broken=int((chosen & (labels >= 0) & (cluster < 0)).sum()),
        accuracy=_mean(mapping[found] == true),
        top5=None if choices is None else top_accuracy(choices[scored], true, mapping),
        nmi=float(normalized_mutual_info_score(true, found)) if n else None,
        ari=float(adjusted_rand_score(true, found)) if n else None,
        ami=float(adjusted_mutual_info_score(true, found)) if n else None,
        majority_accuracy=_mean(most[found] == true),
        majority_train_accuracy=None if fitted is None else _mean(fitted[found] == true),
        n_classes=len(class_names),
        n_clusters=c,
        mapping=mapping,
        confusion=counts,
        class_names=tuple(class_names),
    )


def score_clusters(
    clusters: Clusters,
    truth: Sequence[str | None],
    *,
    rows: Rows | None = None,
    fit_rows: Rows | None = None,
) -> ClusterScores:
    """Hold clusters against true class names. The classes are those that any image truly has.

    Args:
        clusters: what was found.
        truth: the true class name of each image, in their order; None where it is not known.
        rows: the images to score, such as those of one part; all where None.
        fit_rows: what `majority_train_accuracy` is fitted on; the images of Part.TRAIN where None.

    Raises:
        DataError: not one truth an image.
    """
    if len(truth) != len(clusters):
        raise DataError(
            f"{len(truth)} true labels for clusters of {len(clusters)} images. "
            "Give one an image, in the order of the clusters, and None where it is not known."
        )
    cluster = clusters.cluster
    readable = (name for name, c in zip(truth, cluster, strict=True) if c >= 0 and name is not None)
    class_names = sort_names(readable)
    classes = {name: g for g, name in enumerate(class_names)}
    known = [name is not None and name in classes for name in truth]
    labels = np.array([classes.get(name, -1) for name in truth], np.int64)  # type: ignore[arg-type]
    lost = np.array([name is not None for name in truth], bool) & ~np.array(known, bool)
    fit = clusters.part == Part.TRAIN if fit_rows is None else fit_rows
    scores = score_labels(
        cluster, labels, len(clusters.names), class_names,
        choices=clusters.choices, rows=rows, fit_rows=fit,
    )  # fmt: skip
    # Truth that only broken images have, such as "broken", is known all the same.
    n_lost = int(lost.sum() if rows is None else (lost & rows).sum())
    counted = {"n_unknown": scores.n_unknown - n_lost, "n_broken": scores.n_broken + n_lost}
    return ClusterScores(**{**vars(scores), **counted})


def score_parts(clusters: Clusters, truth: Sequence[str | None]) -> dict[str, ClusterScores]:
    """Scores of "train", "valid" and "new", in this order, as far as they have known classes."""
    each = {
        part.name.lower(): score_clusters(clusters, truth, rows=clusters.part == part)
        for part in (Part.TRAIN, Part.VALID, Part.NEW)
        if clusters.count(part)
    }
    return {part: scores for part, scores in each.items() if scores.n_scored}


def over_seeds(scores: Sequence[ClusterScores]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation (n - 1) of each measure that all runs have; NaN for one run."""
    found = {}
    for name in MEASURES:
        values = [getattr(one, name) for one in scores]
        if values and None not in values:
            std = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
            found[name] = (float(np.mean(values)), std)
    return found


def seed_agreement(runs: Sequence[Clusters]) -> float:
    """How alike the clusters of several runs are: the mean ARI of two of them.

    No label enters. Images are matched by id; those without a cluster in one of two runs do not
    count between these two.

    Returns:
        1 where all runs agree, about 0 at chance.

    Raises:
        DataError: fewer than two runs, or two runs without an image in common.
    """
    if len(runs) < 2:
        raise DataError(f"{len(runs)} runs; agreement is between two or more. Give more runs.")
    agreements = [_agreement(*pair) for pair in combinations(runs, 2)]
    return float(np.mean(agreements))


def _agreement(first: Clusters, second: Clusters) -> float:
    return float(
        adjusted_rand_score(*in_common(first.image, first.cluster, second.image, second.cluster))
    )


def _hungarian(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    classes, clusters = linear_sum_assignment(counts, maximize=True)
    mapping = np.full(counts.shape[1], -1, np.int64)
    mapping[clusters] = classes
    return mapping


def _check(cluster: NDArray[Any], labels: NDArray[Any], n_clusters: int, n_classes: int) -> None:
    if len(cluster) != len(labels):
        raise DataError(f"{len(cluster)} clusters with {len(labels)} labels; expected one of each.")
    for what, values, n in (("clusters", cluster, n_clusters), ("labels", labels, n_classes)):
        if len(values) and not -1 <= values.min() <= values.max() < n:
            raise DataError(
                f"{what} run from {values.min()} to {values.max()}; expected -1 to {n - 1}."
            )


def _mean(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if len(right) else None
