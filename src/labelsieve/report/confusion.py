"""True classes against what they were taken for, clusters or classes, as the pages' heat maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.report.cluster_scores import ClusterScores, majority_of_counts
from labelsieve.report.figures import N_LEVELS

N_CLASSES, N_CLUSTERS = 30, 36  # of the heat map
N_WORST = 12


@dataclass(frozen=True)
class ClassCell:
    """The images of one class in one cluster."""

    row: int
    column: int
    n_images: int
    share: float  # of the class
    level: int  # shade, 1 to N_LEVELS; 0 in the column of the others
    is_right: bool  # the cluster is matched to the class


@dataclass(frozen=True)
class FoundClass:
    """How well one class was found."""

    name: str
    n_images: int
    share: float  # in clusters of this class
    strayed_to: int  # the other cluster that has the most of it, -1 none
    strayed_share: float


@dataclass(frozen=True)
class ClassMap:
    """Rows are true classes, columns are clusters in the order of the classes they match."""

    classes: tuple[str, ...]
    clusters: tuple[int, ...]
    cells: tuple[ClassCell, ...]  # those with images
    n_classes: int  # that have images, of which those in `classes` were found worst
    n_other_clusters: int  # with images of these classes; they share the last column
    worst: tuple[FoundClass, ...]


def class_map(scores: ClusterScores) -> ClassMap:
    """Lay out the confusion matrix of clusters; of many classes, those that were found worst."""
    found = _Confusion(scores.confusion, owners(scores), scores.class_names, scores.column_order())
    return _class_map(found)


def predicted_map(confusion: NDArray[np.int64], class_names: tuple[str, ...]) -> ClassMap:
    """The same of predicted classes, where a column is the class of its row.

    Args:
        confusion: (C, C) images, row the true class, column the predicted.
        class_names: (C,).
    """
    itself = np.arange(len(class_names))
    return _class_map(_Confusion(confusion, itself, class_names, itself))


class _Confusion(NamedTuple):
    """What there is to lay out."""

    counts: NDArray[np.int64]  # (G, C) images of each class in each column
    owner: NDArray[np.int64]  # (C,) the class of each column, -1 none
    class_names: tuple[str, ...]  # (G,)
    order: NDArray[np.int64]  # (C,) of the columns


def _class_map(found: _Confusion) -> ClassMap:
    counts, owner = found.counts, found.owner
    totals = counts.sum(axis=1)
    right = counts * (owner[None, :] == np.arange(len(counts))[:, None])
    shares = right.sum(axis=1) / np.maximum(totals, 1)
    known = np.flatnonzero(totals)
    worst = known[np.argsort(shares[known], kind="stable")]
    rows = np.sort(worst[:N_CLASSES])
    columns, n_others = _columns(found, rows)
    return ClassMap(
        classes=tuple(found.class_names[g] for g in rows),
        clusters=tuple(columns.tolist()),
        cells=_cells(counts[rows], totals[rows], columns, owner[columns], rows),
        n_classes=len(known),
        n_other_clusters=n_others,
        worst=tuple(
            _found(found, int(g), float(shares[g]), int(totals[g])) for g in worst[:N_WORST]
        ),
    )


def owners(scores: ClusterScores) -> NDArray[np.int64]:
    """(C,) the class of each cluster: that of the mapping, else that of most of its images."""
    return np.where(scores.mapping >= 0, scores.mapping, majority_of_counts(scores.confusion))


def _columns(found: _Confusion, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """The columns to show, and how many others hold images of the classes in `rows`."""
    held = found.counts[rows].sum(axis=0)
    own = np.isin(found.owner, rows) & (held > 0)
    ranked = np.lexsort((-held, ~own))  # those of the classes first, then what took most of them
    ranked = ranked[held[ranked] > 0]
    shown = set(ranked[:N_CLUSTERS].tolist())
    ordered = [c for c in found.order.tolist() if c in shown]
    return np.array(ordered, np.int64), len(ranked) - len(ordered)


def _cells(
    counts: NDArray[np.int64],
    totals: NDArray[np.int64],
    columns: NDArray[np.int64],
    owner: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> tuple[ClassCell, ...]:
    others = totals - counts[:, columns].sum(axis=1)
    table = np.concatenate([counts[:, columns], others[:, None]], axis=1)
    shares = table / np.maximum(totals, 1)[:, None]
    is_right = np.zeros(table.shape, bool)
    is_right[:, :-1] = owner[None, :] == rows[:, None]
    # What strayed is shaded by the square root: little of it stays visible.
    shades = np.where(is_right, shares, np.sqrt(shares))
    levels = np.ceil(N_LEVELS * shades).astype(np.int64)
    levels[:, -1] = 0
    return tuple(
        ClassCell(
            int(r), int(c), int(table[r, c]), float(shares[r, c]), int(levels[r, c]),
            is_right=bool(is_right[r, c]),
        )
        for r, c in np.argwhere(table)
    )  # fmt: skip


def _found(found: _Confusion, g: int, share: float, n_images: int) -> FoundClass:
    elsewhere = np.where(found.owner == g, 0, found.counts[g])
    most = int(elsewhere.argmax()) if elsewhere.any() else -1
    strayed = float(elsewhere[most] / n_images) if most >= 0 else 0.0
    return FoundClass(found.class_names[g], n_images, share, most, strayed)
