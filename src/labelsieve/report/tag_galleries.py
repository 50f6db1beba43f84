"""Which images the page of tags shows, tag by tag, out of however many there are. No pixels here.

Axis letters: N images, C tags, R pairs of `Tagged`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.records.tag_findings import BATCH, Tagged, TagVerdict
from labelsieve.report.galleries import Picture
from labelsieve.report.template import middle

N_TAGS = 16  # with a gallery of their own
N_IN_STRIP = 10  # pictures of one verdict
N_QUESTIONS = 50


class Question(NamedTuple):
    """A pair that people should look at next."""

    row: int  # of the images
    tag: int
    probability: float  # that the tag is right
    why: str  # "uncertain", "random" or "suspicious"


@dataclass(frozen=True)
class ShownPair:
    """A tag of an image, as the page shows it."""

    picture: Picture  # its label is the tag
    probability: float | None  # None where people decided
    why: str = ""  # of questions


@dataclass(frozen=True)
class Strip:
    """Pairs of one tag that have one verdict."""

    verdict: TagVerdict
    n_pairs: int  # of which those that tell most are shown
    n_by_people: int  # of these decided by people
    shown: tuple[ShownPair, ...]


@dataclass(frozen=True)
class TagGallery:
    """What is found of one tag."""

    name: str
    n_asserted: int
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class TagGalleries:
    """What is shown, and of how many."""

    tags: tuple[TagGallery, ...]
    n_tags: int  # of which a pair was removed, added, or is in doubt
    n_unread: int  # pairs for review of images that cannot be read

    def rows(self) -> set[int]:
        """Of the images that are shown."""
        strips = [strip for tag in self.tags for strip in tag.strips]
        return {pair.picture.row for strip in strips for pair in strip.shown}


@dataclass(frozen=True)
class QuestionGroup:
    """Questions about one tag: fastest for people to go through."""

    name: str
    shown: tuple[ShownPair, ...]


def choose_tags(tagged: Tagged) -> TagGalleries:
    """The tags with most to look at, and of each the pairs that say most.

    Of what is removed the least probable, of what is in doubt the nearest to .5, of what is kept
    the most probable ones; of these only what nobody verified. Of what is added, what the cleaner
    adds comes before what people found.
    """
    counts = tagged.counts()
    changed = counts[:, [TagVerdict.REMOVED, TagVerdict.REVIEW, TagVerdict.ADDED]].sum(axis=1)
    weight = changed if changed.any() else counts.sum(axis=1)
    tags = np.argsort(-weight, kind="stable")[:N_TAGS]
    tags = tags[weight[tags] > 0]
    places, n_unread = _places(tagged, tags)
    columns = tagged.columns[places]
    galleries = []
    for c in tags.tolist():
        mine = places[columns == c]
        strips = tuple(
            strip for verdict in _ORDERS if (strip := _strip(tagged, mine, verdict)).n_pairs
        )
        n_asserted = int(counts[c].sum() - counts[c, TagVerdict.ADDED])
        galleries.append(TagGallery(tagged.tag_names[c], n_asserted, strips))
    return TagGalleries(tuple(galleries), int((changed > 0).sum()), n_unread)


def question_groups(
    questions: Sequence[Question], ids: Sequence[str], tag_names: Sequence[str]
) -> tuple[QuestionGroup, ...]:
    """The first questions, tag by tag, the tag with the most of them first."""
    groups: dict[int, list[ShownPair]] = {}
    for question in questions[:N_QUESTIONS]:
        picture = Picture(question.row, middle(ids[question.row]), tag_names[question.tag])
        shown = ShownPair(picture, _known(question.probability), question.why)
        groups.setdefault(question.tag, []).append(shown)
    ranked = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return tuple(QuestionGroup(tag_names[tag], tuple(shown)) for tag, shown in ranked)


def _places(tagged: Tagged, tags: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Where the pairs of some tags are, and how many pairs of all tags have no probability."""
    is_shown = np.zeros(len(tagged.tag_names), bool)
    is_shown[tags] = True
    found, n_unread = [np.empty(0, np.int64)], 0
    for start in range(0, len(tagged), BATCH):  # millions of pairs at a time, not all
        piece = slice(start, start + BATCH)
        found.append(start + np.flatnonzero(is_shown[tagged.columns[piece]]))
        n_unread += int(np.isnan(tagged.probability[piece]).sum())
    return np.concatenate(found), n_unread


_ORDERS = (TagVerdict.REMOVED, TagVerdict.REVIEW, TagVerdict.KEPT, TagVerdict.ADDED)


def _strip(tagged: Tagged, places: NDArray[np.int64], verdict: TagVerdict) -> Strip:
    mine = places[tagged.verdict[places] == verdict]
    seen = tagged.verified[mine] != 0
    open_pairs = mine if verdict == TagVerdict.ADDED else mine[~seen]
    values = tagged.probability[open_pairs]
    open_pairs, values = open_pairs[~np.isnan(values)], values[~np.isnan(values)]
    by_people = tagged.verified[open_pairs] != 0
    order = {
        TagVerdict.REMOVED: values,
        TagVerdict.REVIEW: np.abs(values - np.float32(0.5)),
        TagVerdict.KEPT: -values,
        TagVerdict.ADDED: by_people - values,
    }[verdict]
    first = np.argsort(order, kind="stable")[:N_IN_STRIP]
    shown = zip(open_pairs[first].tolist(), by_people[first].tolist(), strict=True)
    return Strip(
        verdict,
        len(mine),
        int(seen.sum()),
        tuple(_pair(tagged, place, decided) for place, decided in shown),
    )


def _pair(tagged: Tagged, place: int, by_people: bool) -> ShownPair:
    row, tag = int(tagged.rows[place]), tagged.tag_names[tagged.columns[place]]
    picture = Picture(row, middle(tagged.ids[row]), tag)
    return ShownPair(picture, None if by_people else float(tagged.probability[place]))


def _known(probability: float) -> float | None:
    return None if probability != probability else probability
