"""Pictures of one set that are in another, too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.decode import Pixels
from labelsieve.data.picture import decode, pixel_hash
from labelsieve.data.places import Reader
from labelsieve.errors import DataError
from labelsieve.records import ImageSet


def copies_in(
    images: ImageSet, pixels: Pixels, others: ImageSet, other_pixels: Pixels
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images of a set whose pixels are those of an image of another.

    Args:
        images: such as those to test on.
        pixels: of these.
        others: such as those to learn from.
        other_pixels: of those, at the same size.

    Returns:
        (K,) rows of `images`, rising, and (K,) the first row of `others` with these pixels.
    """
    place: dict[int, int] = {}
    for row in np.flatnonzero(other_pixels.usable)[::-1].tolist():
        place[int(other_pixels.hashes[row])] = row
    readers = Reader(images.places), Reader(others.places)
    found = []
    for row in np.flatnonzero(pixels.usable).tolist():
        other = place.get(int(pixels.hashes[row]), -1)
        # A large JPEG is shrunk while it is decoded: pictures that differ in detail come out equal.
        if other >= 0 and _same(readers[0], row, readers[1], other):
            found.append((row, other))
    rows = np.array(found, np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _same(first: Reader, row: int, second: Reader, other: int) -> bool:
    """Whether two pictures are equal in full; not where one was lost since it was decoded."""
    try:
        return pixel_hash(decode(first.read(row))) == pixel_hash(decode(second.read(other)))
    except DataError:
        return False
