"""Scores of tags by part: rare and common, noisy and clean, and groups of the user's own.

Axis letters: C tags, P verified pairs.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import DataError, did_you_mean

N_BINS = 10  # as Veit et al. have them
N_POINTS = 200  # of a curve that is drawn
_TAG_COLUMNS = ("tag", "label")


@dataclass(frozen=True)
class Group:
    """The mean average precision of some tags."""

    name: str
    n_tags: int  # with an average precision: those that count
    map: float | None  # None without such a tag
    low: float | None = None  # of bins, the lowest and highest of what the tags were sorted by
    high: float | None = None


def equal_bins(
    ap: NDArray[np.float64], by: NDArray[Any], n_bins: int = N_BINS
) -> tuple[Group, ...]:
    """MAP in bins of equally many tags, from low to high; ties by the tag's number.

    Tags without an average precision are in none. The first bins have one tag more where it does
    not come out even; of fewer tags than bins each is a bin of its own. Methods that are tested on
    the same pairs have the same bins, so that gains can be read bin by bin.

    Args:
        ap: (C,) NaN where it is not defined.
        by: (C,) what to sort by.
        n_bins: at most.

    Example:
        >>> [one.map for one in equal_bins(np.array([0.2, 0.6, 1.0]), np.array([9, 5, 7]), 2)]
        [0.8, 0.2]
    """
    known = np.flatnonzero(~np.isnan(ap))
    order = known[np.argsort(by[known], kind="stable")]
    bins = [tags for tags in np.array_split(order, n_bins) if len(tags)]
    return tuple(
        Group(
            str(b + 1), len(tags), float(ap[tags].mean()), float(by[tags[0]]), float(by[tags[-1]])
        )
        for b, tags in enumerate(bins)
    )


def breakdown(
    ap: NDArray[np.float64], groups: Mapping[str, NDArray[np.int64]]
) -> tuple[Group, ...]:
    """MAP of groups of tags, in the order given; a tag counts in each group that it is in."""
    found = []
    for name, tags in groups.items():
        known = ap[tags][~np.isnan(ap[tags])]
        found.append(Group(name, len(known), float(known.mean()) if len(known) else None))
    return tuple(found)


def read_groups(path: Path, tag_names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Groups of tags from a CSV table of `tag` and `group`: one row for each tag of each group.

    Tags of the table that there are not are left out: a table may be of more than one set.

    Returns:
        tags by name of the group, in the order of the table, each tag once a group; groups none of
        whose tags there are are left out.

    Raises:
        DataError: the table cannot be read, lacks a column, or has none of the tags.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, lines = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table of groups: {error}.") from error
    tag = next((name for name in _TAG_COLUMNS if name in columns), None)
    for name, found in (("tag", tag), ("group", "group" if "group" in columns else None)):
        if found is None:
            raise DataError(f"{path}: no column {name!r}. {did_you_mean(name, columns)}")
    place = {name: c for c, name in enumerate(tag_names)}
    groups: dict[str, dict[int, None]] = {}
    for line in lines:
        if line["group"] and line[tag or ""] in place:
            groups.setdefault(line["group"], {})[place[line[tag or ""]]] = None
    if not groups:
        such = f"such as {lines[0][tag or '']!r}" if lines else "but has no rows"
        raise DataError(
            f"{path}: names none of the {len(tag_names)} tags, {such}; the tags are such as "
            f"{tag_names[0]!r}. Give a table of these tags."
        )
    return {name: np.array(list(tags), np.int64) for name, tags in groups.items()}


def precision_recall(
    scores: NDArray[np.floating[Any]], present: NDArray[np.bool_], n_points: int = N_POINTS
) -> list[tuple[float, float]]:
    """Recall and precision while going down the ranking, equal scores at once, for a curve.

    Returns:
        at most n_points of (recall, precision), recall rising to 1; none without a right pair.
    """
    n_present = int(present.sum())
    if not n_present:
        return []
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    right = np.cumsum(present[order], dtype=np.int64)[ends]
    if len(ends) > n_points:  # evenly in recall: where nothing is gained nothing is seen
        wanted = np.linspace(0, n_present, n_points)
        places = np.unique(np.minimum(np.searchsorted(right, wanted), len(ends) - 1))
        ends, right = ends[places], right[places]
    recall, precision = right / n_present, right / (ends + 1)
    return list(zip(recall.tolist(), precision.tolist(), strict=True))
