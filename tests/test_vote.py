"""What the neighbors vote for."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.neighbors.vote import neighbor_accuracy, purity, vote
from labelsieve.records import Neighbors


def some_neighbors(seed: int, n: int = 12, k: int = 5) -> tuple[Neighbors, np.ndarray]:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n, 3)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return nearest_neighbors(rows, k), random.integers(-1, 3, n)


@given(seed=integers(0, 10_000))
def test_a_vote_is_the_commonest_label_among_neighbors(seed):
    neighbors, labels = some_neighbors(seed)
    for row, winner in zip(neighbors.indices, vote(neighbors, labels), strict=True):
        counts = Counter(int(labels[j]) for j in row if labels[j] >= 0)
        best = max(counts.values(), default=0)
        assert winner == min((c for c, n in counts.items() if n == best), default=0)


@given(seed=integers(0, 10_000))
def test_a_weighted_vote_counts_the_exponential_of_similarity(seed):
    neighbors, labels = some_neighbors(seed)
    found = vote(neighbors, labels, temperature=0.3)
    for row, near, winner in zip(neighbors.indices, neighbors.similarities, found, strict=True):
        sums = [0.0, 0.0, 0.0]
        for j, similarity in zip(row, near, strict=True):
            if labels[j] >= 0:
                sums[labels[j]] += math.exp(similarity / 0.3)
        assert sums[winner] == pytest.approx(max(sums))


def test_a_low_temperature_follows_the_nearest_and_does_not_overflow():
    near = Neighbors(np.array([[1, 2, 3]]), np.array([[0.9, 0.8, 0.8]], np.float32))
    labels = np.array([-1, 0, 1, 1])
    assert vote(near, labels).tolist() == [1]
    assert vote(near, labels, temperature=1e-3).tolist() == [0]


def test_accuracy_and_purity_of_a_case_in_the_head():
    near = Neighbors(np.array([[1, 2], [0, 2], [0, 1]]), np.full((3, 2), 0.5, np.float32))
    labels = np.array([0, 0, 1])
    # votes: a tie for 0 and for 1 goes to class 0; the third sees two of class 0
    assert neighbor_accuracy(near, labels) == pytest.approx(2 / 3)
    assert purity(near, labels) == pytest.approx(2 / 6)


def test_accuracy_of_other_images_uses_their_own_labels():
    near = Neighbors(np.array([[1], [0], [2]]), np.ones((3, 1), np.float32))
    own = np.array([1, 0, -1])
    assert neighbor_accuracy(near, np.array([0, 1, 1]), own) == 1.0


def test_without_labels_nothing_is_known():
    neighbors, _ = some_neighbors(0)
    assert math.isnan(neighbor_accuracy(neighbors, np.full(12, -1)))
    assert math.isnan(purity(neighbors, np.full(12, -1)))
