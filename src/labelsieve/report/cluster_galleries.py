"""Which images the page of clusters shows, out of however many there are. No pixels here.

Copies of an image that is there already are not shown twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelsieve.records.clusters import Clusters
from labelsieve.report.cluster_scores import ClusterScores
from labelsieve.report.galleries import in_turn
from labelsieve.report.template import middle

N_CARDS = 1000  # clusters with pictures, the largest
N_SURE, N_RANDOM = 12, 8  # members of a cluster
N_MEMBERS = 3000  # members of all clusters together
N_DOUBTFUL = 48
N_TRUE = 3  # true classes named for a cluster
CONFIDENT = 0.9  # a probability above it counts as confident
DOUBTFUL = 0.2  # a margin between first and second choice below it counts as doubtful
_N_RANKED = 5000  # doubtful images that are looked at to show all kinds of doubt


@dataclass(frozen=True)
class Member:
    """One image to show."""

    row: int
    image: str
    probability: float


@dataclass(frozen=True)
class Card:
    """One cluster."""

    cluster: int
    name: str  # "" until somebody names it
    n_images: int
    mean_probability: float | None  # None of an empty cluster
    confident_share: float | None
    prototype: Member | None
    sure: tuple[Member, ...]  # the surest but the prototype
    random: tuple[Member, ...]  # drawn from the others
    true: tuple[tuple[str, float], ...]  # the classes that most of it truly has, with their shares
    n_true: int  # images of it whose class is known


@dataclass(frozen=True)
class Doubt:
    """An image between two clusters."""

    member: Member
    first: int
    second: int
    second_probability: float


@dataclass(frozen=True)
class ClusterGalleries:
    """All that is shown, and of how many."""

    cards: tuple[Card, ...]  # the largest first
    n_clusters: int
    n_empty: int
    doubts: tuple[Doubt, ...]
    n_doubtful: int

    def members(self) -> set[int]:
        """Rows whose picture is shown small, besides prototypes."""
        rows = {member.row for card in self.cards for member in (*card.sure, *card.random)}
        return rows | {doubt.member.row for doubt in self.doubts}


class Groups:
    """The images of each cluster, the surest first; sorted once for all clusters."""

    def __init__(self, clusters: Clusters) -> None:
        """Sort the images of all clusters."""
        self.clusters = clusters
        cluster = clusters.cluster
        self.sure = clusters.probabilities[:, 0] if clusters.choices.shape[1] else _nothing(cluster)
        order = np.lexsort((-np.nan_to_num(self.sure), cluster))
        self._order = order[cluster[order] >= 0]
        self._ends = np.cumsum(clusters.counts())

    def rows(self, cluster: int) -> NDArray[np.int64]:
        """Its images, the surest first."""
        start = 0 if cluster == 0 else self._ends[cluster - 1]
        return self._order[start : self._ends[cluster]]

    def prototype(self, cluster: int) -> int:
        """The row that shows a cluster best, -1 of an empty one."""
        given = self.clusters.prototypes[cluster]
        rows = self.rows(cluster)
        return given if given >= 0 else int(rows[0]) if len(rows) else -1


def shown_clusters(clusters: Clusters) -> NDArray[np.int64]:
    """The clusters that have a card, the largest first."""
    counts = clusters.counts()
    largest = np.argsort(-counts, kind="stable")[:N_CARDS]
    return largest[counts[largest] > 0].astype(np.int64)


def choose_clusters(
    groups: Groups, scores: ClusterScores | None = None, n_members: int = N_SURE + N_RANDOM
) -> ClusterGalleries:
    """Pick what the page shows.

    Args:
        groups: the images of each cluster.
        scores: of the same clusters, where true classes are known.
        n_members: of each cluster, at most, besides its prototype.
    """
    clusters = groups.clusters
    shown = shown_clusters(clusters)
    n_members = min(n_members, N_MEMBERS // max(1, len(shown)))
    doubts, n_doubtful = _doubts(clusters)
    return ClusterGalleries(
        cards=tuple(_card(groups, int(c), scores, n_members) for c in shown),
        n_clusters=len(clusters.names),
        n_empty=int((clusters.counts() == 0).sum()),
        doubts=doubts,
        n_doubtful=n_doubtful,
    )


def given_name(clusters: Clusters, cluster: int) -> str:
    """The name somebody gave, "" where there is only a number."""
    name = clusters.names[cluster]
    return "" if name == str(cluster) else name


def _card(groups: Groups, cluster: int, scores: ClusterScores | None, n_members: int) -> Card:
    clusters, rows = groups.clusters, groups.rows(cluster)
    prototype = groups.prototype(cluster)
    others = rows[(clusters.duplicate_of[rows] < 0) & (rows != prototype)]
    n_sure = round(n_members * N_SURE / (N_SURE + N_RANDOM))  # of 2 one, the other by chance
    sure, rest = others[:n_sure], others[n_sure:]
    # Its own generator each: the draw of a cluster does not depend on which others are shown.
    rng = np.random.default_rng(cluster)
    n_random = min(N_RANDOM, n_members - n_sure, len(rest))
    drawn = np.sort(rng.choice(len(rest), n_random, replace=False))  # the surest of them first
    values = groups.sure[rows]
    true, n_true = _true_classes(scores, cluster)
    return Card(
        cluster=cluster,
        name=given_name(clusters, cluster),
        n_images=len(rows),
        mean_probability=float(values.mean()),
        confident_share=float((values > CONFIDENT).mean()),
        prototype=None if prototype < 0 else _member(groups, prototype),
        sure=tuple(_member(groups, row) for row in sure),
        random=tuple(_member(groups, row) for row in rest[drawn]),
        true=true,
        n_true=n_true,
    )


def _true_classes(
    scores: ClusterScores | None, cluster: int
) -> tuple[tuple[tuple[str, float], ...], int]:
    if scores is None:
        return (), 0
    column = scores.confusion[:, cluster]
    n = int(column.sum())
    most = np.argsort(-column, kind="stable")[:N_TRUE]
    return tuple((scores.class_names[g], float(column[g] / n)) for g in most if column[g]), n


def _doubts(clusters: Clusters) -> tuple[tuple[Doubt, ...], int]:
    """Images with a small margin, each pair of clusters in turn; and how many there are."""
    if clusters.choices.shape[1] < 2:
        return (), 0
    margin = clusters.probabilities[:, 0] - clusters.probabilities[:, 1]
    torn = np.flatnonzero((margin < DOUBTFUL) & (clusters.duplicate_of < 0))
    ranked = torn[np.argsort(margin[torn], kind="stable")][:_N_RANKED]
    pairs = map(tuple, np.sort(clusters.choices[ranked, :2], axis=1).tolist())
    chosen = in_turn(pairs, N_DOUBTFUL)
    return tuple(_doubt(clusters, int(row)) for row in ranked[chosen]), len(torn)


def _doubt(clusters: Clusters, row: int) -> Doubt:
    (first, second), values = clusters.choices[row, :2].tolist(), clusters.probabilities[row]
    member = Member(row, middle(clusters.image[row]), float(values[0]))
    return Doubt(member, first, second, float(values[1]))


def _member(groups: Groups, row: int) -> Member:
    return Member(int(row), middle(groups.clusters.image[row]), float(groups.sure[row]))


def _nothing(cluster: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.full(len(cluster), np.nan, np.float32)
