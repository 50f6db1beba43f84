"""Images that repeat another one: the same pixels, or almost.

Groups are stars, not chains: every member was compared with the one image it is said to repeat, so
"A is like B, B is like C" never makes A and C duplicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import ConfigError
from labelsieve.records import Neighbors

THUMB = 16  # px; fine enough to tell two shots of one scene apart, coarse enough to survive JPEG


N_BACKGROUND = 10  # further neighbors that say how alike images of this kind are anyway


@dataclass(frozen=True)
class Duplicates:
    """When two images, each among the other's nearest, count as almost the same.

    Their thumbnails must be alike, and far more alike than those of either and its further
    neighbors (the ratio test of Lowe, IJCV 2004): two handwritten ones are always alike, two
    photographs of a street hardly ever.
    """

    n_neighbors: int = 10  # each must be among the other's nearest this many
    pixel_correlation: float = 0.9  # of 16-px thumbnails, straight or mirrored, at least
    distance_ratio: float = 0.05  # of 1 - correlation, against the further neighbors' median

    def __post_init__(self) -> None:
        if self.n_neighbors < 1:
            raise ConfigError(
                f"duplicates.n_neighbors is {self.n_neighbors}; at least 1 is needed."
            )
        for name in ("pixel_correlation", "distance_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"duplicates.{name} is {getattr(self, name)}; it lies in (0, 1].")


def exact_duplicates(hashes: Sequence[int] | NDArray[np.uint64]) -> NDArray[np.int64]:
    """Which image has the same pixels, by the hash of its decoded pixels.

    Args:
        hashes: (N,) equal for equal pixels.

    Returns:
        (N,) the first row with the same hash, -1 for that first row itself and for single images.

    Example:
        >>> exact_duplicates([7, 8, 7, 7]).tolist()
        [-1, -1, 0, 0]
    """
    _, first, group = np.unique(np.asarray(hashes), return_index=True, return_inverse=True)
    of = first[group.ravel()].astype(np.int64)
    of[of == np.arange(len(of))] = -1
    return of


def near_duplicates(
    pixels: NDArray[np.uint8],
    neighbors: Neighbors,
    exact: NDArray[np.int64],
    settings: Duplicates | None = None,
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Which image each one almost repeats; exact duplicates are kept as they are.

    Brightness, contrast and mirroring make no difference.

    Args:
        pixels: (P, 3, S, S) uint8.
        neighbors: of N images.
        exact: (N,) from `exact_duplicates`.
        settings: thresholds.
        rows: (N,) where in `pixels` each image lies; in the same order unless given.

    Returns:
        (N,) the row that each image repeats, always an earlier one that itself repeats nothing;
        -1 for an image that repeats none.
    """
    settings = settings or Duplicates()
    of = exact.copy()
    if not neighbors.indices.size:
        return of
    rows = np.arange(len(pixels)) if rows is None else rows
    pairs = _mutual_pairs(neighbors, settings.n_neighbors)
    pairs = pairs[(exact[pairs] < 0).all(axis=1)]  # copies follow the image they copy
    distance = 1 - _correlation(pixels, rows[pairs])
    pairs = pairs[distance <= 1 - settings.pixel_correlation]
    distance = distance[distance <= 1 - settings.pixel_correlation]
    usual = np.minimum(*(_usual_distance(pixels, rows, neighbors, settings, i) for i in pairs.T))
    alike = distance <= settings.distance_ratio * usual
    center = np.zeros(len(of), bool)
    for first, second in pairs[alike]:  # by first, then second: the earliest image is the center
        if of[first] < 0 and of[second] < 0 and not center[second]:
            of[second], center[first] = first, True
    copies = exact >= 0
    followed = of[exact[copies]]
    of[copies] = np.where(followed >= 0, followed, exact[copies])
    return of


def _mutual_pairs(neighbors: Neighbors, n_neighbors: int) -> NDArray[np.int64]:
    """(P, 2) pairs i < j that hold each other among their nearest, in order."""
    near = neighbors.indices[:, :n_neighbors]
    n, width = near.shape
    i, j = np.repeat(np.arange(n), width), near.ravel()
    found, times = np.unique(np.minimum(i, j) * n + np.maximum(i, j), return_counts=True)
    both = found[times == 2]
    return np.stack([both // n, both % n], axis=1)


def _usual_distance(
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64],
    neighbors: Neighbors,
    settings: Duplicates,
    images: NDArray[np.int64],
) -> NDArray[np.float32]:
    """(B,) median of 1 - correlation of some images and their further neighbors.

    Further ones, because the nearest of an image with many copies are its copies.
    """
    width = neighbors.indices.shape[1]
    first = min(settings.n_neighbors, width - 1)
    columns = np.unique(np.linspace(first, width - 1, N_BACKGROUND).round().astype(np.int64))
    others = neighbors.indices[images][:, columns]  # (B, F)
    pairs = np.stack([np.repeat(images, len(columns)), others.ravel()], axis=1)
    distance = 1 - _correlation(pixels, rows[pairs])
    return np.asarray(np.median(distance.reshape(others.shape), axis=1), np.float32)


def _correlation(
    pixels: NDArray[np.uint8], pairs: NDArray[np.int64], chunk: int = 4096
) -> NDArray[np.float32]:
    """(P,) correlation of the thumbnails of each pair, the better of straight and mirrored."""
    found = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), chunk):
        part = pairs[start : start + chunk]
        first, second = (_thumbnails(pixels[rows]) for rows in part.T)
        straight = (_standardized(first) * _standardized(second)).sum(axis=1)
        mirrored = (_standardized(first) * _standardized(second[..., ::-1])).sum(axis=1)
        found[start : start + chunk] = np.maximum(straight, mirrored)
    return found


def _thumbnails(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, 3, S, S) to (B, 3, 16, 16) by the mean over areas."""
    size = pixels.shape[-1]
    edges = np.linspace(0, size, min(size, THUMB) + 1).astype(int)[:-1]
    rows = np.add.reduceat(pixels.astype(np.float32), edges, axis=2)
    sums = np.add.reduceat(rows, edges, axis=3)
    widths = np.diff([*edges, size]).astype(np.float32)
    return np.asarray(sums / np.outer(widths, widths), np.float32)


def _standardized(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, 768) rows of mean 0 and norm 1; a flat image gives 0 and so is like nothing."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(norm > 1e-3, flat / np.maximum(norm, 1e-3), np.float32(0))
