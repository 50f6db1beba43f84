"""Affinity, double normalization and spectral embedding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers
from scipy.linalg import subspace_angles
from scipy.sparse import csr_array

import reference
from labelsieve.errors import NumericError
from labelsieve.neighbors import graph
from labelsieve.neighbors.graph import (
    affinity,
    doubly_normalized,
    eigengap,
    spectral_embedding,
)
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Neighbors
from toy import structured


def some_neighbors(seed, n, k, d=4):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d))
    features = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return nearest_neighbors(features, k)


@pytest.fixture(scope="module")
def toy_operator():
    return doubly_normalized(affinity(nearest_neighbors(structured(2000, 4).features, 50)))


def islands(n_islands, size):
    """A graph of complete components, as neighbors."""
    n = n_islands * size
    own = np.arange(n) // size * size
    others = own[:, None] + np.arange(size)
    others = others[others != np.arange(n)[:, None]].reshape(n, size - 1)
    return Neighbors(others, np.ones(others.shape, np.float32))


@given(seed=integers(0, 999), n=integers(2, 14), k=integers(1, 6), power=floats(0.5, 4))
def test_affinity_is_the_powered_similarities_and_their_mirror(seed, n, k, power):
    near = some_neighbors(seed, n, k)
    expected = reference.affinity(near.indices.tolist(), near.similarities.tolist(), power)
    np.testing.assert_allclose(affinity(near, power).toarray(), expected, atol=1e-12)


@given(seed=integers(0, 999), n=integers(2, 14), k=integers(1, 6))
def test_doubly_normalized_divides_twice_by_the_roots_of_degrees(seed, n, k):
    weights = affinity(some_neighbors(seed, n, k))
    expected = reference.doubly_normalized(weights.toarray().tolist())
    np.testing.assert_allclose(doubly_normalized(weights).matrix.toarray(), expected, atol=1e-12)


@given(seed=integers(0, 999), n=integers(3, 40), k=integers(1, 9))
def test_eigenvalues_lie_between_minus_one_and_one_with_the_trivial_vector_at_one(seed, n, k):
    matrix, trivial = doubly_normalized(affinity(some_neighbors(seed, n, k)))
    values = np.linalg.eigvalsh(matrix.toarray())
    assert values.min() > -1 - 1e-9
    assert values.max() < 1 + 1e-9
    np.testing.assert_allclose(matrix @ trivial, trivial, atol=1e-9)


def test_the_affinity_of_the_toy_is_symmetric_without_diagonal_and_sparse():
    near = nearest_neighbors(structured(2000, 4).features, 50)
    weights = affinity(near)
    assert abs(weights - weights.T).max() == 0
    assert not weights.diagonal().any()
    assert 60 <= weights.nnz / 2000 <= 75


def test_negative_similarities_count_as_zero_and_isolated_nodes_do_no_harm():
    near = Neighbors(np.array([[1], [0], [0]]), np.array([[0.5], [0.5], [-0.8]], dtype=np.float32))
    matrix, trivial = doubly_normalized(affinity(near))
    assert np.isfinite(matrix.toarray()).all()
    assert trivial[2] == 0
    found = spectral_embedding(doubly_normalized(affinity(near)), 2)
    assert np.isfinite(found.values).all()


def test_embedding_is_orthonormal_and_orthogonal_to_the_trivial_vector(toy_operator):
    found = spectral_embedding(toy_operator, 20, tolerance=1e-8)
    np.testing.assert_allclose(found.values.T @ found.values, np.eye(20), atol=1e-9)
    np.testing.assert_allclose(toy_operator.trivial @ found.values, 0, atol=1e-9)
    assert (np.diff(found.eigenvalues) <= 0).all()
    np.testing.assert_allclose(
        toy_operator.matrix @ found.values, found.values * found.eigenvalues, atol=1e-6
    )


def test_embedding_spans_what_a_dense_solve_spans(toy_operator):
    values, vectors = np.linalg.eigh(toy_operator.matrix.toarray())
    found = spectral_embedding(toy_operator, 4)
    assert values[-1] == pytest.approx(1)
    angles = subspace_angles(found.values, vectors[:, -5:-1])
    assert np.degrees(angles.max()) < 0.1


def test_embedding_gives_the_same_bits_again_with_its_largest_entries_positive(toy_operator):
    first, second = spectral_embedding(toy_operator), spectral_embedding(toy_operator)
    np.testing.assert_array_equal(first.values, second.values)
    assert (first.values.max(axis=0) >= -first.values.min(axis=0)).all()


@pytest.mark.parametrize("dense", [0, 10_000])
def test_in_a_graph_of_islands_the_trivial_vector_is_gone_and_islands_stay_apart(
    dense, monkeypatch
):
    monkeypatch.setattr(graph, "DENSE", dense)
    operator = doubly_normalized(affinity(islands(7, 20)))
    found = spectral_embedding(operator, 6)
    np.testing.assert_allclose(found.eigenvalues, 1, atol=1e-6)
    np.testing.assert_allclose(operator.trivial @ found.values, 0, atol=1e-6)
    rows = found.values / np.linalg.norm(found.values, axis=1, keepdims=True)
    cosine = (rows @ rows.T).reshape(7, 20, 7, 20).transpose(0, 2, 1, 3)
    assert cosine[np.eye(7, dtype=bool)].min() > 0.999
    assert cosine[~np.eye(7, dtype=bool)].max() < 0.1


def test_more_components_than_nodes_are_clipped():
    operator = doubly_normalized(affinity(some_neighbors(0, 6, 2)))
    assert spectral_embedding(operator, 20).values.shape == (6, 5)
    alone = doubly_normalized(csr_array((1, 1)))
    assert spectral_embedding(alone, 20).values.shape == (1, 0)


def test_a_solve_that_does_not_converge_is_a_named_error(toy_operator, monkeypatch):
    def give_up(*args, **kwargs):
        raise graph.ArpackError(-9999)

    monkeypatch.setattr(graph, "eigsh", give_up)
    with pytest.raises(NumericError, match=r"embedding of 2000 images did not converge.*fewer"):
        spectral_embedding(toy_operator)


def test_eigengap_counts_the_components_before_the_largest_drop(toy_operator):
    values = spectral_embedding(toy_operator, 28).eigenvalues
    assert eigengap(values) == 4  # as many as the toy has classes
    assert eigengap(np.array([0.9, 0.1, 0.09, 0.08, 0.01])) == 4  # not before `minimum`
    assert eigengap(np.array([0.9, 0.5])) == 2
    assert eigengap(np.array([0.9, 0.8, 0.7, 0.2, -0.5, -0.6])) == 3
