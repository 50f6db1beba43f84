"""Which images the report shows, out of however many there are. No pixels here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelsieve.records import Findings, Verdict
from labelsieve.report.table import duplicate_groups, foreign_groups

N_MISLABELED = 96
N_NEIGHBORS = 5
N_FOREIGN_GROUPS = 12
N_IN_FOREIGN_GROUP = 13  # with what is left out, one row of 14 on a wide screen
N_FOREIGN_ALONE = 41
N_DUPLICATE_GROUPS = 30
N_IN_DUPLICATE_GROUP = 6
N_BROKEN = 60


@dataclass(frozen=True)
class Picture:
    """One image to show."""

    row: int
    image: str
    label: str  # as given, "" without one


@dataclass(frozen=True)
class Suspect:
    """An image called mislabeled."""

    picture: Picture
    suggestion: str  # "" without one
    probability: float  # of being mislabeled
    suggestion_probability: float | None
    reason: str
    neighbors: tuple[Picture, ...]


@dataclass(frozen=True)
class Group:
    """Images that belong together."""

    n_images: int
    pictures: tuple[Picture, ...]  # the first of them
    labels: tuple[tuple[str, int], ...]  # most frequent first


@dataclass(frozen=True)
class BrokenFile:
    """A file that cannot be read."""

    image: str
    label: str
    reason: str


@dataclass(frozen=True)
class Galleries:
    """All that is shown, and of how many."""

    suspects: tuple[Suspect, ...]
    n_suspects: int
    n_expected_suspects: int  # of them truly mislabeled, if the probabilities hold
    foreign_groups: tuple[Group, ...]
    n_foreign_groups: int
    n_expected_foreign: int  # of all called foreign truly so, if the probabilities hold
    foreign_alone: Group  # n_images counts the foreign images of no group
    duplicates: tuple[Group, ...]
    n_duplicate_groups: int
    n_label_conflicts: int  # duplicate groups whose labels differ
    broken: tuple[BrokenFile, ...]
    n_broken: int

    def large(self) -> set[int]:
        """Rows whose picture is shown large."""
        return {suspect.picture.row for suspect in self.suspects}

    def small(self) -> set[int]:
        """Rows whose picture is shown small."""
        pictures = [near for suspect in self.suspects for near in suspect.neighbors]
        for group in (*self.foreign_groups, self.foreign_alone, *self.duplicates):
            pictures.extend(group.pictures)
        return {picture.row for picture in pictures}

    def copies(self) -> set[int]:
        """Rows whose pixels are to be compared."""
        return {picture.row for group in self.duplicates for picture in group.pictures}


def choose(findings: Findings) -> Galleries:
    """Pick what the report shows: always the surest, and from every class before many from one."""
    near = findings.neighbors
    suspects = np.flatnonzero(findings.verdict == Verdict.MISLABELED)
    groups = foreign_groups(findings)
    alone = np.flatnonzero((findings.verdict == Verdict.FOREIGN) & (findings.foreign_group < 0))
    surest_alone = _surest(findings, alone, Verdict.FOREIGN)
    copies = duplicate_groups(findings)
    conflicts = [len(np.unique(findings.label[group])) > 1 for group in copies]
    order = np.argsort([not conflict for conflict in conflicts], kind="stable")
    broken = np.flatnonzero(findings.verdict == Verdict.BROKEN)
    return Galleries(
        suspects=tuple(_suspect(findings, row, near[row]) for row in _spread(findings, suspects)),
        n_suspects=len(suspects),
        n_expected_suspects=_expected(findings, Verdict.MISLABELED),
        foreign_groups=tuple(
            _group(findings, _surest(findings, group, Verdict.FOREIGN), N_IN_FOREIGN_GROUP)
            for group in groups[:N_FOREIGN_GROUPS]
        ),
        n_foreign_groups=len(groups),
        n_expected_foreign=_expected(findings, Verdict.FOREIGN),
        foreign_alone=_group(findings, surest_alone, N_FOREIGN_ALONE),
        duplicates=tuple(
            _group(findings, copies[i], N_IN_DUPLICATE_GROUP) for i in order[:N_DUPLICATE_GROUPS]
        ),
        n_duplicate_groups=len(copies),
        n_label_conflicts=sum(conflicts),
        broken=tuple(
            BrokenFile(findings.image[row], _label(findings, row), findings.reason[row])
            for row in broken[:N_BROKEN]
        ),
        n_broken=len(broken),
    )


def in_turn(keys: Iterable[Hashable], n_shown: int) -> NDArray[np.int64]:
    """Which of a ranking to show: the first of each key in turn, until there are enough.

    Args:
        keys: of the ranked, the first first.
        n_shown: at most.

    Returns:
        places in the ranking, rising.

    Example:
        >>> in_turn("aaab", 2).tolist()
        [0, 3]
    """
    seen: Counter[Hashable] = Counter()
    turns = []
    for key in keys:
        turns.append(seen[key])
        seen[key] += 1
    return np.sort(np.argsort(np.array(turns, np.int64), kind="stable")[:n_shown])


def _spread(findings: Findings, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The surest of each given class in turn until there are enough; the surest of all first."""
    ranked = _surest(findings, rows, Verdict.MISLABELED)
    return ranked[in_turn(findings.label[ranked].tolist(), N_MISLABELED)]


def _surest(findings: Findings, rows: NDArray[np.int64], verdict: Verdict) -> NDArray[np.int64]:
    return rows[np.argsort(-findings.probabilities[rows, verdict], kind="stable")]


def _expected(findings: Findings, verdict: Verdict) -> int:
    """How many of those called so are so, if their probabilities hold."""
    return round(float(findings.probabilities[findings.verdict == verdict, verdict].sum()))


def _suspect(findings: Findings, row: int, nearest: NDArray[np.int64]) -> Suspect:
    suggestion, sure = int(findings.suggestion[row]), float(findings.suggestion_probability[row])
    near = [int(r) for r in nearest if r >= 0][:N_NEIGHBORS]
    return Suspect(
        picture=picture(findings, row),
        suggestion=findings.class_names[suggestion] if suggestion >= 0 else "",
        probability=float(findings.probabilities[row, Verdict.MISLABELED]),
        suggestion_probability=None if np.isnan(sure) else sure,
        reason=findings.reason[row],
        neighbors=tuple(picture(findings, r) for r in near),
    )


def _group(findings: Findings, rows: NDArray[np.int64], n_shown: int) -> Group:
    labels = Counter(_labels(findings, rows.tolist()))
    return Group(
        n_images=len(rows),
        pictures=tuple(picture(findings, row) for row in rows[:n_shown]),
        labels=tuple(labels.most_common(3)),
    )


def _labels(findings: Findings, rows: Sequence[int]) -> Iterator[str]:
    return (_label(findings, row) for row in rows)


def _label(findings: Findings, row: int) -> str:
    label = int(findings.label[row])
    return findings.class_names[label] if label >= 0 else ""


def picture(findings: Findings, row: int) -> Picture:
    """One image of findings, to show."""
    return Picture(int(row), findings.image[row], _label(findings, row))
