"""Images to score on: with their labels as classes of training, or with classes of their own."""

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


class Gallery(NamedTuple):
    """A test set for retrieval: every image is a query to all others."""

    images: ImageSet  # its class names are the classes of the labels
    labels: NDArray[np.int64]  # (N,) classes of its own, -1 none


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
    images, labels = _read_labeled(given, label)
    source = images.source
    place = {name: c for c, name in enumerate(class_names)}
    used = np.unique(labels[labels >= 0])
    strange = [images.class_names[c] for c in used if images.class_names[c] not in place]
    if strange:
        n = int(np.isin(labels, [images.class_names.index(name) for name in strange]).sum())
        raise DataError(
            f"--test {source}: {len(strange)} of its {len(used)} classes are none of the training "
            f"set's, such as {strange[0]!r} ({n} images in all); expected names among "
            f"{', '.join(map(repr, list(class_names)[:5]))}{', ...' if len(place) > 5 else ''}. "
            "Name the column of the same classes with --test-label, or leave those images out."
        )
    numbers = np.array([*(place.get(name, -1) for name in images.class_names), -1], np.int64)
    return HeldOut(images, numbers[labels])  # -1, none, is the last


def read_gallery(given: ImageSet | str | Path, label: str | None) -> Gallery:
    """Read test images for retrieval; their classes may be others than those of training.

    An image whose class has no other image is a query that nothing can be right for; it stays in
    the gallery. So does one without a label.

    Args:
        given: folder, table, tars, as for training; or what `read` made of them.
        label: column of the labels, for tables.

    Raises:
        DataError: they cannot be read, have no labels or several, or no class has two images.
    """
    images, labels = _read_labeled(given, label)
    counts = np.bincount(labels[labels >= 0])
    if counts.max() < 2:
        raise DataError(
            f"--test {images.source}: each of its {np.count_nonzero(counts)} classes has one image "
            "only, so no image can be found by another of its class. Name the column of the "
            "classes with --test-label, or give at least two images of a class."
        )
    return Gallery(images, labels)


def _read_labeled(
    given: ImageSet | str | Path, label: str | None
) -> tuple[ImageSet, NDArray[np.int64]]:
    images = given if isinstance(given, ImageSet) else read(given, label=label)
    if images.tags is not None or images.labels is None or (images.labels < 0).all():
        raise DataError(
            f"--test {images.source}: test images need one label each, and these have "
            f"{'none' if images.tags is None else 'several'}. Name the column that holds it with "
            "--test-label, or put the images of each class in a folder of its own."
        )
    return images, images.labels
