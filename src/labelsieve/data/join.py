"""Two image sets as one, of which it is known which image came from where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.records import ImageSet, Places

PREFIX = "valid/"  # before ids of the second set that the first has as well


def joined(first: ImageSet, second: ImageSet) -> tuple[ImageSet, NDArray[np.bool_]]:
    """The images of both, those of the first set first; and which are of the second.

    Ids stay as they are but for those that both have: of the second set they get "valid/" before
    them. Classes are united by name. Labels of one set alone are kept, with none for the other's.

    Args:
        first: the set.
        second: of the same kind of places: both in tables, in tars, or in files.

    Raises:
        DataError: the sets are of different kinds, or their ids clash even so.

    Returns:
        the set, with the source of the first; (N,) True for the second's images.
    """
    if first.places.kind != second.places.kind or first.places.column != second.places.column:
        kinds = [_kind(each) for each in (first, second)]
        raise DataError(
            f"{first.source} holds {kinds[0]} and {second.source} {kinds[1]}; to be worked on "
            "together both must be alike: two folders, or two tables with the same image column."
        )
    names = tuple(sorted({*first.class_names, *second.class_names}))
    place = {name: i for i, name in enumerate(names)}
    taken = set(first.ids)
    ids = [*first.ids, *(PREFIX + each if each in taken else each for each in second.ids)]
    both = replace(
        first,
        ids=tuple(ids),
        places=_places(first.places, second.places),
        class_names=names,
        labels=_labels(first, second, place),
        tags=None,
        truth=_truth(first, second),
    )
    return both, np.arange(len(both)) >= len(first)


def _kind(images: ImageSet) -> str:
    column = f" (column {images.places.column!r})" if images.places.column else ""
    return f"{images.places.kind} images{column}"


def _places(first: Places, second: Places) -> Places:
    files = list(dict.fromkeys((*first.files, *second.files)))
    number = {path: i for i, path in enumerate(files)}
    renumbered = [
        np.array([number[path] for path in each.files], np.int32)[each.file]
        for each in (first, second)
    ]
    return replace(
        first,
        files=tuple(files),
        file=np.concatenate(renumbered),
        start=np.concatenate([first.start, second.start]),
        size=np.concatenate([first.size, second.size]),
    )


def _labels(first: ImageSet, second: ImageSet, place: dict[str, int]) -> NDArray[np.int64] | None:
    if first.labels is None and second.labels is None:
        return None
    parts = []
    for each in (first, second):
        if each.labels is None:
            parts.append(np.full(len(each), -1))
            continue
        numbers = np.array([*(place[name] for name in each.class_names), -1], np.int64)
        parts.append(numbers[each.labels])  # -1, none, is the last
    return np.concatenate(parts)


def _truth(first: ImageSet, second: ImageSet) -> tuple[str | None, ...] | None:
    if first.truth is None and second.truth is None:
        return None
    nothing = [(None,) * len(each) for each in (first, second)]
    return (*(first.truth or nothing[0]), *(second.truth or nothing[1]))
