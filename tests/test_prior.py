"""The sizes of clusters, where nobody says them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, lists

from labelsieve.errors import DataError
from labelsieve.methods.scan.prior import LEAST, class_shares
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Neighbors


def groups(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, Neighbors]:
    """Unit rows in groups of given sizes, far apart, and their neighbors."""
    rng = np.random.default_rng(seed)
    centers = np.eye(16)[np.repeat(np.arange(len(sizes)), sizes)]
    rows = centers * 6 + rng.standard_normal((sum(sizes), 16))
    rows = np.float32(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return rows, nearest_neighbors(rows, 10)


def test_shares_are_those_of_groups_of_different_sizes():
    sizes = [400, 200, 100, 60]
    shares = class_shares(*groups(sizes), 4)
    np.testing.assert_allclose(shares, np.array(sizes) / sum(sizes), atol=0.03)


def test_groups_of_one_size_get_equal_shares():
    np.testing.assert_allclose(class_shares(*groups([120] * 5), 5), 0.2, atol=0.02)


@settings(max_examples=8)
@given(sizes=lists(integers(12, 80), min_size=2, max_size=4), n=integers(2, 6))
def test_shares_fall_sum_to_one_and_none_vanishes(sizes: list[int], n: int):
    shares = class_shares(*groups(sizes), n)
    assert shares.shape == (n,)
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 1e-12).all()
    assert shares.min() >= LEAST / n / (1 + LEAST) - 1e-12  # what it was, over the new sum


def test_a_seed_decides_the_shares():
    rows, neighbors = groups([90, 50, 20])
    np.testing.assert_array_equal(
        class_shares(rows, neighbors, 3, seed=4), class_shares(rows, neighbors, 3, seed=4)
    )


def test_too_few_rows_and_neighbors_of_others_are_refused():
    rows, neighbors = groups([6, 6])
    with pytest.raises(DataError, match=r"12 rows and neighbors of 12 for 7 clusters.*prior=equal"):
        class_shares(rows, neighbors, 7)
    with pytest.raises(DataError, match="11 rows and neighbors of 12"):
        class_shares(rows[1:], neighbors, 2)
