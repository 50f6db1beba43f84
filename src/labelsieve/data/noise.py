"""Noise made on purpose, with its truth: to measure what an audit finds.

Every function draws from the generator it is given, and changes nothing but what it draws. A rate
is a share of the labeled images, met exactly up to rounding, except in `transition` and
`independent`, where each image draws by itself, and in `small_cluster`, which takes whole classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import ConfigError, DataError

_PART = 4096  # rows that k-means sees at once; their inner products take 64 MB


def symmetric(
    labels: NDArray[np.int64],
    n_classes: int,
    rate: float,
    rng: np.random.Generator,
    among: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Give a share of the images one of the other classes, each as likely.

    Args:
        labels: (N,) in [-1, n_classes); -1 stays.
        n_classes: at least 2.
        rate: in [0, 1], of all labeled images; exactly round(rate * labeled) labels change.
        rng: what to draw from.
        among: (N,) the images that may change; all by default.

    Example:
        >>> labels = np.zeros(10, np.int64)
        >>> int((symmetric(labels, 3, 0.4, np.random.default_rng(0)) != labels).sum())
        4

    Raises:
        ConfigError: the rate is not in [0, 1], or there are too few images or classes for it.
    """
    if n_classes < 2 and rate > 0:
        raise ConfigError(f"symmetric noise needs 2 classes or more; there is {n_classes}.")
    rows = _chosen(labels >= 0, rate, rng, among, "symmetric")
    noisy = labels.copy()
    noisy[rows] = (labels[rows] + rng.integers(1, max(2, n_classes), len(rows))) % n_classes
    return noisy


def asymmetric(
    labels: NDArray[np.int64],
    pairs: Mapping[int, int],
    rate: float,
    rng: np.random.Generator,
    among: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Give a share of each class in `pairs` the class it is paired with.

    Args:
        labels: (N,) in [-1, C); -1 stays.
        pairs: class -> the class it is mistaken for. Both directions if both are named.
        rate: in [0, 1]; of each class of n images named, exactly round(rate * n) change.
        rng: what to draw from.
        among: (N,) the images that may change; all by default.

    Raises:
        ConfigError: the rate is not in [0, 1], or there are too few images for it.
    """
    noisy = labels.copy()
    for given, target in sorted(pairs.items()):
        noisy[_chosen(labels == given, rate, rng, among, "asymmetric")] = target
    return noisy


def transition(
    labels: NDArray[np.int64], matrix: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw each label anew from the row of its class: independent draws, so shares vary by chance.

    Args:
        labels: (N,) in [-1, C); -1 stays.
        matrix: (C, C) entry [i, j] is the probability that class i is labeled j; rows sum to 1.
        rng: what to draw from.

    Raises:
        ConfigError: the matrix is not square, or its rows are no probabilities.
    """
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    if not square or len(matrix) <= labels.max(initial=-1):
        raise ConfigError(
            f"the transition matrix has shape {matrix.shape}; expected one row and one column for "
            f"each of {labels.max(initial=-1) + 1} classes."
        )
    bad = np.flatnonzero((matrix < 0).any(axis=1) | ~(np.abs(matrix.sum(axis=1) - 1) < 1e-6))
    if len(bad):
        raise ConfigError(
            f"row {bad[0]} of the transition matrix sums to {matrix[bad[0]].sum():g}, with a least "
            f"entry of {matrix[bad[0]].min():g}; expected probabilities that sum to 1."
        )
    noisy = labels.copy()
    drawn = rng.random(len(labels))
    for given, row in enumerate(matrix.cumsum(axis=1)):
        rows = np.flatnonzero(labels == given)
        # a row may sum to 1 - 1e-16
        noisy[rows] = np.minimum(np.searchsorted(row, drawn[rows], side="right"), len(matrix) - 1)
    return noisy


def independent(
    labels: NDArray[np.int64],
    n_classes: int,
    rate: float,
    rng: np.random.Generator,
    among: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Give each image by itself, with this probability, one of the other classes, each as likely.

    Source: PRISM's published "noised" lists, from which the rule is inferred: realized rates vary
    by chance, over all (0.4993 for 0.5 of 8,054 images) and more so from class to class. Deviation:
    two lists of CUB also use a class 101 that there is not; here only classes that there are.

    Args:
        labels: (N,) in [-1, n_classes); -1 stays.
        n_classes: at least 2.
        rate: in [0, 1], the probability.
        rng: what to draw from.
        among: (N,) the images that may change; all by default.

    Raises:
        ConfigError: the rate is not in [0, 1], or there is one class only.
    """
    if n_classes < 2 and rate > 0:
        raise ConfigError(f"independent noise needs 2 classes or more; there is {n_classes}.")
    check_rate(rate, "independent")
    # both drawn for all images: what one image gets does not depend on the others
    flips = (rng.random(len(labels)) < rate) & (labels >= 0)
    steps = rng.integers(1, max(2, n_classes), len(labels))
    if among is not None:
        flips &= among
    return np.where(flips, (labels + steps) % max(1, n_classes), labels)


class SmallCluster(NamedTuple):
    """Labels after whole classes were scattered over the others."""

    labels: NDArray[np.int64]  # (N,) of the classes that remain, 0 to C' - 1 by first appearance
    hosts: NDArray[np.int64]  # (C',) the class that each of them was before
    displaced: NDArray[np.bool_]  # (N,) images of a class that is gone


def small_cluster(
    labels: NDArray[np.int64],
    features: NDArray[np.floating[Any]],
    rate: float,
    rng: np.random.Generator,
) -> SmallCluster:
    """Scatter whole classes, in small clusters of similar images, over the other classes.

    Noise from outside of the label set: the true class of a displaced image is none of those that
    remain, and it comes with a few images like it.

    Source: PRISM's small cluster noise, as inferred from its published lists. Until the share of
    displaced images reaches the rate: of a class drawn from those that remain, all images that
    carry its label now (those dumped there before, too) are clustered by k-means into half as many
    clusters as there are images; each cluster goes whole to a class drawn from the others; the
    class is gone. Deviation: more than 4,096 images of a class are clustered in random parts of at
    most that many.

    Args:
        labels: (N,) in [-1, C); -1 stays.
        features: (N, D) of any length; Euclidean distance counts. The paper's are of a network that
            was trained on ImageNet.
        rate: in [0, 1), of all labeled images; exceeded by less than one class.
        rng: what to draw from.

    Example:
        >>> labels = np.repeat(np.arange(5), 4)
        >>> made = small_cluster(labels, np.eye(20), 0.3, np.random.default_rng(0))
        >>> len(made.hosts), int(made.displaced.sum())
        (3, 8)

    Raises:
        ConfigError: the rate is not in [0, 1), or cannot be reached with a class left.
        DataError: not one row of finite features an image.
    """
    check_rate(rate, "small cluster")
    values = _finite_rows(features, len(labels))
    remaining = np.unique(labels[labels >= 0]).tolist()
    carried = {c: np.flatnonzero(labels == c) for c in remaining}
    n_labeled = int((labels >= 0).sum())
    now = labels.copy()
    n_displaced = 0
    while n_displaced < rate * n_labeled * (1 - 1e-12):  # 0.07 * 100 is a little above 7
        if len(remaining) < 2:
            raise ConfigError(
                f"small cluster noise of {rate:g} would leave no class of "
                f"{labels.max(initial=-1) + 1}. Take a lower rate."
            )
        at = int(rng.integers(len(remaining)))
        gone, remaining[at] = remaining[at], remaining[-1]
        remaining.pop()
        rows = carried.pop(gone)
        n_displaced += int((labels[rows] == gone).sum())
        clusters = _half_as_many(values[rows], rng)
        to = np.asarray(remaining)[rng.integers(len(remaining), size=int(clusters.max()) + 1)]
        now[rows] = to[clusters]
        for host in np.unique(now[rows]).tolist():
            carried[host] = np.concatenate([carried[host], rows[now[rows] == host]])
    hosts, first = np.unique(now[now >= 0], return_index=True)
    hosts = hosts[np.argsort(first)]
    number = np.full(labels.max(initial=-1) + 2, -1, np.int64)
    number[hosts] = np.arange(len(hosts))
    return SmallCluster(number[now], hosts, now != labels)  # number[-1], of no label, is -1


def foreign(
    labels: NDArray[np.int64],
    candidates: NDArray[np.int64],
    rate: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Say which images to replace by which of another set; their labels stay.

    Args:
        labels: (N,) -1 is not replaced.
        candidates: (M,) rows of the other set; each is used once before any is used again.
        rate: in [0, 1], of all labeled images; exactly round(rate * labeled) are replaced.
        rng: what to draw from.

    Returns:
        (N,) a row of the other set, or -1 for an image that stays.

    Raises:
        ConfigError: the rate is not in [0, 1], or there is no candidate.
    """
    rows = _chosen(labels >= 0, rate, rng, None, "foreign")
    if len(rows) and not len(candidates):
        raise ConfigError("foreign noise needs another set with images of none of the classes.")
    rounds = -(-len(rows) // max(1, len(candidates)))
    order = [rng.permutation(candidates) for _ in range(rounds)]
    shown = np.full(len(labels), -1, np.int64)
    shown[rows] = np.concatenate([np.empty(0, np.int64), *order])[: len(rows)]
    return shown


def _chosen(
    of: NDArray[np.bool_],
    rate: float,
    rng: np.random.Generator,
    among: NDArray[np.bool_] | None,
    kind: str,
) -> NDArray[np.int64]:
    """Rows for a rate of the images `of`, drawn without repetition from those of them `among`."""
    check_rate(rate, kind)
    n = round(rate * int(of.sum()))
    rows = np.flatnonzero(of if among is None else of & among)
    if n > len(rows):
        raise ConfigError(
            f"{kind} noise of {rate:g} needs {n} images, but other noise leaves only {len(rows)} "
            "of them as they are. Lower one of the rates."
        )
    return np.sort(rng.choice(rows, n, replace=False))


def check_rate(rate: float, kind: str) -> None:
    """Refuse what is no share.

    Raises:
        ConfigError: names the kind of noise.
    """
    if not 0 <= rate <= 1:
        raise ConfigError(f"the {kind} rate is {rate:g}; expected a share between 0 and 1.")


def _finite_rows(features: NDArray[np.floating[Any]], n: int) -> NDArray[np.float32]:
    if features.ndim != 2 or len(features) != n:
        raise DataError(
            f"features of shape {features.shape} for {n} images; expected one row for each image."
        )
    values = features.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise DataError(
            f"features: {len(bad)} of {n} rows are not finite (NaN or infinity), such as row "
            f"{bad[0]}. Leave these images out."
        )
    return values


def _half_as_many(rows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
    """(m,) the cluster of each row, of m // 2 clusters, or fewer where rows are the same."""
    order = rng.permutation(len(rows)) if len(rows) > _PART else np.arange(len(rows))
    clusters = np.empty(len(rows), np.int64)
    n = 0
    for part in np.array_split(order, -(-len(rows) // _PART)):
        found = _k_means(rows[part], max(1, len(part) // 2), rng)
        clusters[part] = n + found
        n += int(found.max()) + 1
    return clusters


def _k_means(
    rows: NDArray[np.float32], n_clusters: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """(m,) the cluster of each row: k-means++, then Lloyd's iterations until no row moves.

    All of it on the inner products of the rows: an iteration takes O(m^2), however many clusters
    and columns: with half as many clusters as rows that is less than distances to centers take.
    The 5,600 classes of some 10 images that 0.5 takes of 60,000 images take 3 s in all.
    """
    rows = rows - rows.mean(axis=0)  # else far from 0 the differences drown in rounding
    products = rows @ rows.T  # (m, m)
    squares = products.diagonal()
    seeds = [int(rng.integers(len(rows)))]
    nearest = np.full(len(rows), np.inf, np.float32)
    while True:
        to_last = squares + squares[seeds[-1]] - 2 * products[seeds[-1]]
        nearest = np.minimum(nearest, np.maximum(to_last, 0))
        nearest[seeds] = 0  # rounding leaves a little
        up_to = nearest.cumsum(dtype=np.float64)
        if len(seeds) == n_clusters or up_to[-1] <= 1e-6 * float(squares.max()):
            break  # in the second case, all rows that are left are copies of seeds
        drawn = int(np.searchsorted(up_to, rng.random() * up_to[-1], side="right"))
        seeds.append(min(drawn, len(rows) - 1))
    clusters = (squares[seeds] - 2 * products[:, seeds]).argmin(axis=1)
    for _ in range(100):
        _, clusters, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
        starts = np.cumsum(sizes) - sizes
        by_cluster = np.argsort(clusters, kind="stable")
        to_center = np.add.reduceat(products[:, by_cluster], starts, axis=1) / sizes  # (m, k)
        own = to_center[np.arange(len(rows)), clusters]
        norms = np.add.reduceat(own[by_cluster], starts) / sizes  # squared, of the centers
        moved = (norms - 2 * to_center).argmin(axis=1)
        if (moved == clusters).all():
            break
        clusters = moved
    return np.unique(clusters, return_inverse=True)[1]
