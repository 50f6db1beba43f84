"""Exact nearest neighbors: equal to brute force, whatever the blocks, ties and copies."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

import reference
from labelsieve.errors import ConfigError, DataError, MissingExtraError
from labelsieve.neighbors import knn
from labelsieve.neighbors.approximate import approximate_neighbors
from labelsieve.neighbors.knn import nearest_neighbors, search
from toy import structured


def unit(rng, n, d):
    rows = rng.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute_force(queries, gallery, n_neighbors, own=None):
    """Sorted by float64 similarity, ties by row."""
    similarities = queries.astype(np.float64) @ gallery.astype(np.float64).T
    if own is not None:
        similarities[np.arange(len(queries)), own] = -np.inf
    indices = np.argsort(-similarities, axis=1, kind="stable")[:, :n_neighbors]
    return indices, np.take_along_axis(similarities, indices, axis=1)


def assert_same(found, indices, similarities):
    """Equal similarities row by row; other rows only where they tie within float32."""
    np.testing.assert_allclose(found.similarities, similarities, atol=1e-6)
    assert found.indices.shape == indices.shape
    assert all(len(set(row)) == len(row) for row in found.indices.tolist())
    differs = found.indices != indices
    assert differs.mean() < 1e-3


@given(seed=integers(0, 10_000), n=integers(2, 30), d=integers(1, 5), k=integers(1, 8))
def test_nearest_neighbors_are_those_of_a_loop_over_lists(seed, n, d, k):
    # Coordinates of few bits: products are exact, so that ties are ties in every program.
    rng = np.random.default_rng(seed)
    features = np.zeros((n, 4 * d), np.float32)
    for row in range(n):
        features[row, rng.choice(4 * d, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    expected = reference.nearest_neighbors(features.tolist(), k)
    assert nearest_neighbors(features, k).indices.tolist() == expected


@pytest.mark.parametrize("n", [511, 512, 513, 1500])
@pytest.mark.parametrize("k", [1, 20, 600])
def test_self_join_equals_brute_force_across_block_borders(n, k):
    features = unit(np.random.default_rng(n + k), n, 16)
    expected = brute_force(features, features, min(k, n - 1), np.arange(n))
    assert_same(nearest_neighbors(features, k), *expected)


@given(seed=integers(0, 10_000), block=integers(1, 40), k=integers(1, 12))
def test_blocks_do_not_change_the_result(seed, block, k):
    features = unit(np.random.default_rng(seed), 70, 6)
    whole = nearest_neighbors(features, k)
    usual, knn.BLOCK = knn.BLOCK, block
    try:
        split = nearest_neighbors(features, k)
    finally:
        knn.BLOCK = usual
    np.testing.assert_array_equal(split.indices, whole.indices)
    np.testing.assert_array_equal(split.similarities, whole.similarities)


def test_threads_do_not_change_the_result(monkeypatch):
    features = unit(np.random.default_rng(0), 3000, 24)
    alone = nearest_neighbors(features, 10)
    four = [{"user_api": "blas", "num_threads": 4}]
    monkeypatch.setattr(knn, "threadpool_info", lambda: four)
    together = nearest_neighbors(features, 10)
    np.testing.assert_array_equal(together.indices, alone.indices)
    np.testing.assert_array_equal(together.similarities, alone.similarities)


def test_an_image_is_never_its_own_neighbor_but_its_copies_are():
    features = np.repeat(unit(np.random.default_rng(1), 400, 8), 3, axis=0)
    found = nearest_neighbors(features, 2)
    own = np.arange(1200)
    assert not (found.indices == own[:, None]).any()
    first = own // 3 * 3
    copies = np.stack([first, first + 1, first + 2], axis=1)
    expected = copies[copies != own[:, None]].reshape(-1, 2)  # the two other copies, by row
    np.testing.assert_array_equal(found.indices, expected)


def test_a_thousand_copies_of_one_image_come_by_row():
    rng = np.random.default_rng(2)
    features = unit(rng, 1700, 12)
    copies = np.sort(rng.choice(1700, 1000, replace=False))
    features[copies] = features[copies[0]]
    found = nearest_neighbors(features, 5)
    np.testing.assert_array_equal(found.indices[copies[0]], copies[1:6])
    np.testing.assert_array_equal(found.indices[copies[-1]], copies[:5])
    assert len(set(map(tuple, found.indices[copies[5:]].tolist()))) == 1


def test_neighbors_fall_in_similarity_and_ties_rise_in_row():
    features = np.round(unit(np.random.default_rng(3), 800, 3), 1)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found = nearest_neighbors(features, 30)
    steps = np.diff(found.similarities, axis=1)
    assert (steps <= 0).all()
    assert (np.diff(found.indices, axis=1)[steps == 0] > 0).all()


def test_more_neighbors_than_images_are_clipped():
    features = unit(np.random.default_rng(4), 5, 3)
    assert nearest_neighbors(features, 50).indices.shape == (5, 4)
    assert nearest_neighbors(features[:1], 50).indices.shape == (1, 0)
    assert nearest_neighbors(features[:0], 50).indices.shape == (0, 0)
    assert search(features[:2], features, 50).indices.shape == (2, 5)


def test_rows_asks_for_some_images_only():
    features = unit(np.random.default_rng(5), 1300, 10)
    rows = np.array([1299, 3, 700])
    some, everything = nearest_neighbors(features, 7, rows=rows), nearest_neighbors(features, 7)
    np.testing.assert_array_equal(some.indices, everything.indices[rows])
    np.testing.assert_array_equal(some.similarities, everything.similarities[rows])


def test_search_finds_the_gallery_rows_of_each_query():
    rng = np.random.default_rng(6)
    queries, gallery = unit(rng, 700, 10), unit(rng, 1100, 10)
    assert_same(search(queries, gallery, 9), *brute_force(queries, gallery, 9))
    same = search(gallery, gallery, 1)  # here an image may find itself
    np.testing.assert_array_equal(same.indices[:, 0], np.arange(1100))


def test_progress_ends_at_its_total():
    features = unit(np.random.default_rng(7), 1200, 4)
    calls = []
    nearest_neighbors(features, 3, progress=lambda done, total: calls.append((done, total)))
    search(features, features, 3, progress=lambda done, total: calls.append((done, total)))
    done, totals = zip(*calls, strict=True)
    assert done == (3 + 2, 3 + 3, 6, 1, 2, 3)
    assert totals == (6, 6, 6, 3, 3, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(bad):
    features = unit(np.random.default_rng(8), 9, 3)
    features[[2, 7], 1] = bad
    with pytest.raises(DataError, match=r"features: 2 of 9 rows are not finite .*: 2, 7\. Leave"):
        nearest_neighbors(features, 2)


def test_rows_that_are_not_of_unit_norm_are_named():
    features = unit(np.random.default_rng(9), 9, 3)
    features[4] = 0
    with pytest.raises(DataError, match=r"1 of 9 rows are not of unit norm: 4\. Divide each row"):
        nearest_neighbors(features, 2)


def test_other_shapes_and_numbers_are_refused():
    features = unit(np.random.default_rng(10), 9, 3)
    with pytest.raises(DataError, match=r"an array of shape \(9,\); expected \(N, D\)"):
        nearest_neighbors(features[:, 0], 2)
    with pytest.raises(DataError, match="queries have 2 values a row, the gallery 3"):
        search(unit(np.random.default_rng(0), 4, 2), features, 2)
    with pytest.raises(ConfigError, match="n_neighbors is 0; expected at least 1"):
        nearest_neighbors(features, 0)


def test_approximate_neighbors_report_their_recall():
    pytest.importorskip("faiss")
    toy = structured(6000, 12)
    exact = nearest_neighbors(toy.features, 10)
    found, recall = approximate_neighbors(toy.features, 10, n_probed=8)
    hits = np.mean(
        [np.isin(a, b).mean() for a, b in zip(found.indices, exact.indices, strict=True)]
    )
    assert recall == pytest.approx(hits, abs=0.03)
    assert 0.5 < recall < 1
    assert not (found.indices == np.arange(6000)[:, None]).any()
    assert approximate_neighbors(toy.features, 10, n_probed=10_000).recall > 0.9999


def test_rows_in_cells_that_are_too_small_are_searched_exactly():
    pytest.importorskip("faiss")
    features = unit(np.random.default_rng(0), 900, 6)
    found = approximate_neighbors(features, 500, n_probed=1)
    assert (found.neighbors.indices >= 0).all()
    assert found.recall > 0.9
    assert approximate_neighbors(features[:3], 5).neighbors.indices.shape == (3, 2)


def test_without_faiss_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'labelsieve\[faiss\]'"):
        approximate_neighbors(unit(np.random.default_rng(0), 50, 6), 5)
