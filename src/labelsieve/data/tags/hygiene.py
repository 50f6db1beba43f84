"""One spelling for each tag: spaces, unicode, case, and synonyms that the user knows."""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.labels import sort_names
from labelsieve.data.tags.batches import read_text
from labelsieve.errors import DataError


@dataclass(frozen=True)
class Names:
    """The tags that spellings were brought to."""

    tags: tuple[str, ...]  # (C,) sorted
    place: NDArray[np.int32]  # (S,) spelling -> tag, -1 for one of nothing but spaces
    renamed: tuple[tuple[str, str], ...]  # (spelling, tag) where they differ
    notes: tuple[str, ...]


def trim(text: str) -> str:
    """Without spaces around it, single ones within, and in NFC, as keyboards make accents."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def fold(text: str) -> str:
    """What is equal for two spellings of one tag."""
    return unicodedata.normalize("NFC", trim(text).casefold())


def read_synonyms(path: Path) -> dict[str, str]:
    """A CSV file of `from,to`: folded spelling -> tag; chains are followed to their end.

    Raises:
        DataError: it cannot be read, has other columns, says two things of one tag, or goes in a
            circle.
    """
    rows = list(csv.reader(read_text(path).splitlines()))
    if not rows or [name.strip().lower() for name in rows[0]] != ["from", "to"]:
        found = ",".join(rows[0]) if rows else "nothing"
        raise DataError(f"{path}: its first line is {found!r}; expected 'from,to'. Put it first.")
    target: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != 2 or not all(map(str.strip, row)):
            raise DataError(f"{path}, line {number}: {row}; expected two tags. Correct the line.")
        old, new = fold(row[0]), trim(row[1])
        if fold(target.get(old, new)) != fold(new):
            raise DataError(
                f"{path}, line {number}: {row[0]!r} becomes {new!r}, and before it became "
                f"{target[old]!r}. Keep one of the lines."
            )
        if old != fold(new):
            target[old] = new
    return {old: _end(path, target, old) for old in target}


def _end(path: Path, target: Mapping[str, str], start: str) -> str:
    seen, now = [start], target[start]
    while fold(now) in target:
        if fold(now) in seen:
            circle = " -> ".join([*seen, fold(now)])
            raise DataError(f"{path}: synonyms go in a circle: {circle}. Remove one of the lines.")
        seen.append(fold(now))
        now = target[fold(now)]
    return now


def one_spelling(
    spellings: Sequence[str],
    counts: NDArray[np.int64],
    synonyms: Mapping[str, str],
    names: Mapping[str, str],
) -> Names:
    """Bring spellings that mean one tag together, under the one that is used most.

    Args:
        spellings: (S,) as the source writes tags.
        counts: (S,) how often; of equals the first is kept.
        synonyms: from `read_synonyms`; what they lead to is spelled as there.
        names: code -> name, of sources that write codes.
    """
    groups: defaultdict[str, list[int]] = defaultdict(list)
    shown = [trim(names.get(spelling, spelling)) for spelling in spellings]
    wanted: dict[str, str] = {}
    used: set[str] = set()
    for number, name in enumerate(shown):
        key = fold(name)
        if key in synonyms:
            used.add(key)
            wanted[fold(synonyms[key])] = synonyms[key]
            key = fold(synonyms[key])
        if key:
            groups[key].append(number)
    uses: Counter[str] = Counter()
    for name, count in zip(shown, counts.tolist(), strict=True):
        uses[name] += count
    best = {
        key: wanted.get(key) or shown[max(members, key=lambda m: (uses[shown[m]], -m))]
        for key, members in groups.items()
    }
    tags = sort_names(best.values())
    column = {tag: c for c, tag in enumerate(tags)}
    place = np.full(len(spellings), -1, np.int32)
    for key, members in groups.items():
        place[members] = column[best[key]]
    renamed = tuple(
        (spelling, tags[c])
        for spelling, c in zip(spellings, place.tolist(), strict=True)
        if c >= 0 and spelling != tags[c]
    )
    # what only lost spaces, or has a name for its code, is not news
    merged = [
        (shown[m], best[key])
        for key, members in groups.items()
        for m in members
        if shown[m] != best[key]
    ]
    return Names(tags, place, renamed, _notes(merged, sorted(set(synonyms) - used)))


def _notes(merged: Sequence[tuple[str, str]], unused: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if merged:
        such = ", ".join(f"{old!r} as {new!r}" for old, new in merged[:3])
        notes.append(f"{len(merged):,} spellings are read as another tag: {such}.")
    if unused:
        notes.append(f"{len(unused):,} synonyms occur nowhere, such as {unused[0]!r}.")
    return tuple(notes)
