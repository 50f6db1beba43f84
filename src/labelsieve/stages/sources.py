"""What the stages of audits, clusterings and pretraining share: pixels, rows, neighbors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.batches import Source, cached, resident, streamed
from labelsieve.data.decode import Pixels, decode_images
from labelsieve.errors import DataError
from labelsieve.features.dictionary import Dictionary
from labelsieve.neighbors.approximate import EXACT_LIMIT, approximate_neighbors
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Features, ImageSet, Neighbors
from labelsieve.run import Run
from labelsieve.stages.inputs import Progress

# Images up to this side are decoded once, to one array; larger ones while a network trains.
SMALL = 96  # pixels


def small_size(dictionary: Dictionary, image_size: int | None) -> int:
    """The side at which all images are decoded: that of a network where it is small.

    Args:
        dictionary: whose size is taken else.
        image_size: of a network that is trained, if any, pixels.
    """
    if image_size is not None and image_size <= SMALL:
        return image_size
    return dictionary.image_size


def fitting_pixels(
    images: ImageSet, pixels: Pixels, size: int, folder: Path, progress: Progress
) -> Pixels:
    """Pixels of a network's size where it is small: those there are may be of a dictionary's."""
    if size > SMALL or pixels.values.shape[-1] == size:
        return pixels
    tell = partial(progress, "decode")
    return decode_images(images, size, path=folder / f"pixels-{size}.npy", progress=tell)


def image_source(
    images: ImageSet, pixels: Pixels, size: int, folder: Path, progress: Progress
) -> Source:
    """Where training takes images from: the array there is, another one, or files decoded ahead."""
    if pixels.values.shape[-1] == size:
        return resident(pixels)
    if size > SMALL and images.places.kind != "parquet":
        return streamed(images, size)
    tell = partial(progress, "decode")
    return cached(images, size, folder / f"pixels-{size}.npy", progress=tell)


def neighbors_of(
    values: NDArray[np.float32], n_neighbors: int, *, seed: int, run: Run, progress: Progress
) -> Neighbors:
    """Exact up to a million images; beyond, most of them, and run.json says how many."""
    tell = partial(progress, "neighbors")
    if len(values) <= EXACT_LIMIT:
        return nearest_neighbors(values, n_neighbors, progress=tell)
    found = approximate_neighbors(values, n_neighbors, seed=seed, progress=tell)
    run.note(neighbor_recall=found.recall)
    return found.neighbors


def rows_of(features: Features, images: ImageSet, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The features of some images, in their order; no copy where the order is the same."""
    wanted = tuple(images.ids[row] for row in rows)
    if features.ids == wanted:
        return features.values
    place = {name: row for row, name in enumerate(features.ids)}
    missing = [name for name in wanted if name not in place]
    if missing:
        raise DataError(
            f"{features.made_by}: no features for {len(missing)} of {len(wanted)} images that "
            f"can be read, such as {missing[0]!r}. Make them for the whole set."
        )
    return features.values[[place[name] for name in wanted]]
