"""Images that a classifier is scored on, with their labels as the classes that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.read import read
from labelsieve.errors import DataError
from labelsieve.records import ImageSet


class HeldOut(NamedTuple):
    """A test set."""

    images: ImageSet
    labels: NDArray[np.int64]  # (N,) classes of the training set, -1 none


def read_held_out(
    given: ImageSet | str | Path, label: str | None, class_names: Sequence[str]
) -> HeldOut:
    """Read test images, and find their classes among those of the training set by name.

    Args:
        given: folder, table, tars, as for training; or what `read` made of them.
        label: column of the labels, for tables.
        class_names: of the training set.

    Raises:
        DataError: they cannot be read, have no labels, or classes that training does not know.
    """
    images = given if isinstance(given, ImageSet) else read(given, label=label)
    source = images.source
    if images.tags is not None or images.labels is None or (images.labels < 0).all():
        raise DataError(
            f"--test {source}: test images need one label each, and these have "
            f"{'none' if images.tags is None else 'several'}. Name the column that holds it with "
            "--test-label, or put the images of each class in a folder of its own."
        )
    place = {name: c for c, name in enumerate(class_names)}
    used = np.unique(images.labels[images.labels >= 0])
    strange = [images.class_names[c] for c in used if images.class_names[c] not in place]
    if strange:
        n = int(np.isin(images.labels, [images.class_names.index(name) for name in strange]).sum())
        raise DataError(
            f"--test {source}: {len(strange)} of its {len(used)} classes are none of the training "
            f"set's, such as {strange[0]!r} ({n} images in all); expected names among "
            f"{', '.join(map(repr, list(class_names)[:5]))}{', ...' if len(place) > 5 else ''}. "
            "Name the column of the same classes with --test-label, or leave those images out."
        )
    numbers = np.array([*(place.get(name, -1) for name in images.class_names), -1], np.int64)
    return HeldOut(images, numbers[images.labels])  # -1, none, is the last
