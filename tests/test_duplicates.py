from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists

from labelsieve.errors import ConfigError
from labelsieve.neighbors.duplicates import Duplicates, exact_duplicates, near_duplicates
from labelsieve.records import Neighbors


def brute_neighbors(features: np.ndarray, k: int) -> Neighbors:
    similarity = features @ features.T
    np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return Neighbors(order, np.take_along_axis(similarity, order, 1).astype(np.float32))


def pictures(n: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures: 4 x 4 blocks blown up to 32 px."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (n, 3, 4, 4), dtype=np.uint8)
    return blocks.repeat(8, axis=2).repeat(8, axis=3)


def unit_rows(pixels: np.ndarray) -> np.ndarray:
    rows = pixels.reshape(len(pixels), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


NONE = np.full(0, -1)


@given(lists(integers(0, 5), max_size=30))
def test_exact_duplicates_point_to_the_first_of_their_kind(hashes):
    of = exact_duplicates(np.array(hashes, np.uint64))
    expected = [hashes.index(h) if hashes.index(h) < i else -1 for i, h in enumerate(hashes)]
    assert of.tolist() == expected


def test_a_brighter_noisy_copy_and_a_mirrored_one_are_found_and_others_are_not():
    pixels = pictures(40)
    noise = np.random.default_rng(1).normal(0, 6, pixels[0].shape)
    copy = np.clip(pixels[3] * 0.8 + 30 + noise, 0, 255).astype(np.uint8)
    mirrored = pixels[7][..., ::-1]
    pixels = np.concatenate([pixels, copy[None], mirrored[None]])
    straight = unit_rows(pixels)
    folded = unit_rows(pixels) + unit_rows(pixels[..., ::-1])  # features that ignore mirroring
    folded /= np.linalg.norm(folded, axis=1, keepdims=True)
    exact = np.full(len(pixels), -1)
    of = near_duplicates(pixels, brute_neighbors(folded, 10), exact)
    assert {i: j for i, j in enumerate(of) if j >= 0} == {40: 3, 41: 7}
    of = near_duplicates(pixels, brute_neighbors(straight, 10), exact)
    assert {i: j for i, j in enumerate(of) if j >= 0} == {40: 3}


def test_groups_are_stars_and_not_chains():
    # On a half circle each picture is like the next (cos 30) and unlike the one after (cos 60).
    base = pictures(2, seed=3).astype(float)
    base -= base.mean(axis=(1, 2, 3), keepdims=True)
    a, b = base[0], base[1]
    b -= a * (a * b).sum() / (a * a).sum()
    b *= np.sqrt((a * a).sum() / (b * b).sum())
    angles = np.deg2rad(np.arange(0, 181, 30))
    pixels = np.stack([127 + 0.6 * (np.cos(t) * a + np.sin(t) * b) for t in angles])
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    settings = Duplicates(n_neighbors=2, pixel_correlation=0.8, distance_ratio=0.4)
    of = near_duplicates(pixels, brute_neighbors(unit_rows(pixels), 6), np.full(7, -1), settings)
    assert of.tolist() == [-1, 0, -1, 2, -1, 4, -1]


def test_a_copy_follows_the_image_it_copies():
    pixels = pictures(20, seed=4)
    near = np.clip(pixels[2].astype(int) + 9, 0, 255).astype(np.uint8)
    pixels = np.concatenate([pixels, near[None], near[None]])
    exact = exact_duplicates([*range(20), 99, 99])
    of = near_duplicates(pixels, brute_neighbors(unit_rows(pixels), 5), exact)
    assert of[20] == 2
    assert of[21] == 2


def test_a_whole_kind_of_images_that_look_alike_are_not_duplicates():
    rng = np.random.default_rng(5)
    kind = pictures(1, seed=6).astype(float)
    pixels = np.clip(kind + rng.normal(0, 12, (60, 3, 32, 32)), 0, 255).astype(np.uint8)
    copy = np.clip(pixels[4].astype(int) + 3, 0, 255).astype(np.uint8)
    pixels = np.concatenate([pixels, copy[None]])
    of = near_duplicates(pixels, brute_neighbors(unit_rows(pixels), 30), np.full(61, -1))
    assert {i: j for i, j in enumerate(of) if j >= 0} == {60: 4}


def test_flat_images_are_like_nothing():
    pixels = np.stack([np.full((3, 32, 32), v, np.uint8) for v in (0, 10, 250)])
    features = np.ones((3, 1), np.float32)
    assert (
        near_duplicates(pixels, brute_neighbors(features, 2), np.full(3, -1)).tolist() == [-1] * 3
    )


def test_no_neighbors_means_no_duplicates():
    empty = Neighbors(np.empty((3, 0), np.int64), np.empty((3, 0), np.float32))
    assert near_duplicates(pictures(3), empty, np.full(3, -1)).tolist() == [-1] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_neighbors": 0}, "duplicates.n_neighbors is 0; at least 1"),
        ({"distance_ratio": 0.0}, "duplicates.distance_ratio is 0.0; it lies in"),
        ({"pixel_correlation": 1.5}, "duplicates.pixel_correlation is 1.5; it lies in"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Duplicates(**changes)
