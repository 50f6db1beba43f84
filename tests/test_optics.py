"""OPTICS and xi extraction against scikit-learn's, and against a slow twin."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, lists, sampled_from
from sklearn.cluster import OPTICS, cluster_optics_xi

import reference
from labelsieve.errors import DataError
from labelsieve.neighbors import knn
from labelsieve.neighbors import optics as module
from labelsieve.neighbors.graph import affinity, doubly_normalized, spectral_embedding
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.neighbors.optics import Group, optics, optics_by_class, reachability_plot
from labelsieve.neighbors.xi import Plot, extract_xi
from toy import structured


def sklearn_optics(points, min_samples, min_cluster_size, xi=0.02):
    model = OPTICS(
        min_samples=min_samples,
        metric="cosine",
        cluster_method="xi",
        xi=xi,
        min_cluster_size=min_cluster_size,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it divides zero by zero for equal points
        return model.fit(points)


def _as_plot(model):
    return Plot(model.ordering_, model.reachability_, model.predecessor_, model.core_distances_)


def blobs(seed, n, d=5, n_blobs=3):
    """Blobs of different spread with scattered points between."""
    rng = np.random.default_rng(seed)
    centers, spreads = rng.normal(size=(n_blobs, d)), rng.uniform(0.05, 0.4, n_blobs)
    which = rng.integers(0, n_blobs, n)
    points = centers[which] + rng.normal(size=(n, d)) * spreads[which, None]
    scattered = rng.random(n) < 0.2
    points[scattered] = rng.normal(size=(scattered.sum(), d))
    return points


@pytest.fixture(scope="module")
def classes():
    """Embeddings of the toy's classes, about 500 rows each."""
    toy = structured(2000, 4)
    operator = doubly_normalized(affinity(nearest_neighbors(toy.features, 50)))
    points = spectral_embedding(operator, 20).values
    return points, [np.flatnonzero(toy.labels == label) for label in range(4)]


@given(seed=integers(0, 10_000), n=integers(4, 40), min_samples=integers(2, 4))
def test_the_plot_is_that_of_a_loop_over_lists(seed, n, min_samples):
    points = blobs(seed, n)
    order, reachability, predecessor = reference.optics_order(points.tolist(), min_samples)
    plot = reachability_plot(points, min_samples)
    assert plot.ordering.tolist() == order
    assert plot.predecessor.tolist() == predecessor
    np.testing.assert_allclose(plot.reachability, reachability, atol=3e-15)
    assert plot.reachability[0] == math.inf


@pytest.mark.parametrize("min_samples", [75, 50, 25])
@pytest.mark.parametrize("label", range(4))
def test_labels_are_scikit_learns_on_embedded_classes(classes, label, min_samples):
    points, rows = classes
    expected = sklearn_optics(points[rows[label]], min_samples, 75)
    np.testing.assert_array_equal(optics(points[rows[label]], min_samples, 75), expected.labels_)
    plot = reachability_plot(points[rows[label]], min_samples)
    # Two distances that are equal but for the last bit may be taken in either order.
    assert (plot.ordering == expected.ordering_).mean() > 0.95
    heights, theirs = (p.reachability[p.ordering] for p in (plot, _as_plot(expected)))
    np.testing.assert_allclose(heights, theirs, atol=3e-15)


@pytest.mark.parametrize("seed", range(8))
def test_labels_are_scikit_learns_on_blobs(seed):
    points = blobs(seed, 150, n_blobs=2 + seed % 4)
    for min_samples, size, xi in ((5, 10, 0.05), (12, 12, 0.02), (3, 5, 0.2)):
        expected = sklearn_optics(points, min_samples, size, xi).labels_
        np.testing.assert_array_equal(optics(points, min_samples, size, xi), expected)


@given(
    heights=lists(sampled_from([0.0, 0.1, 0.11, 0.2, 0.3, 0.5, 1.0]), min_size=2, max_size=60),
    seed=integers(0, 1000),
    min_samples=integers(2, 6),
    size=integers(2, 8),
    xi=floats(0.01, 0.6),
)
def test_extraction_is_scikit_learns_on_any_plot(heights, seed, min_samples, size, xi):
    n = len(heights)
    rng = np.random.default_rng(seed)
    ordering = rng.permutation(n)
    reachability, predecessor = np.empty(n), np.full(n, -1)
    reachability[ordering] = [np.inf, *heights[1:]]
    predecessor[ordering[1:]] = [ordering[rng.integers(0, i)] for i in range(1, n)]
    min_samples, size = min(min_samples, n), min(size, n)
    plot = Plot(ordering, reachability, predecessor, np.zeros(n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        expected, _ = cluster_optics_xi(
            reachability=reachability,
            predecessor=predecessor,
            ordering=ordering,
            min_samples=min_samples,
            min_cluster_size=size,
            xi=xi,
        )
    np.testing.assert_array_equal(extract_xi(plot, min_samples, size, xi), expected)


def test_groups_runs_and_batches_do_not_change_each_other(classes):
    points, rows = classes
    groups = [Group(part[: 500 - 90 * i], (75, 50, 25), 75) for i, part in enumerate(rows)]
    groups += [Group(rows[0][:40], (5,), 5), Group(rows[1][:41], (9,), 7)]
    together = optics_by_class(points, groups)
    for group, labels in zip(groups, together, strict=True):
        assert labels.shape == (len(group.min_samples), len(group.rows))
        for min_samples, found in zip(group.min_samples, labels, strict=True):
            alone = optics(points[group.rows], min_samples, group.min_cluster_size)
            np.testing.assert_array_equal(found, alone)


def test_threads_do_not_change_the_labels(classes, monkeypatch):
    points, rows = classes
    groups = [Group(part, (50, 25), 75) for part in rows]
    monkeypatch.setattr(module, "BATCH_BYTES", 0)  # a batch for each group
    alone = optics_by_class(points, groups)
    four = [{"user_api": "blas", "num_threads": 4}]
    monkeypatch.setattr(knn, "threadpool_info", lambda: four)
    for expected, found in zip(alone, optics_by_class(points, groups), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_rows_made_on_the_fly_give_the_labels_of_the_matrix(classes, monkeypatch):
    points, rows = classes
    group = Group(rows[0], (75, 25), 75)
    expected = optics_by_class(points, [group])[0]
    monkeypatch.setattr(module, "MATRIX_BYTES", 0)
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * 500 * 7)  # seven rows a block
    np.testing.assert_array_equal(optics_by_class(points, [group, group])[0], expected)


def test_norms_do_not_matter_and_a_tight_and_a_loose_blob_are_told_apart():
    rng = np.random.default_rng(0)
    tight, loose = np.eye(2, 20)
    points = np.concatenate(
        [tight + 0.05 * rng.normal(size=(300, 20)), loose + 0.1 * rng.normal(size=(150, 20))]
    )
    labels = optics(points, 75)
    assert set(labels[:300]) == {labels[0]}
    assert len(set(labels)) == 2
    scale = 2.0 ** rng.integers(-3, 4, size=(450, 1))
    np.testing.assert_array_equal(optics(points * scale, 75), labels)


def test_equal_points_and_zero_rows_are_legal():
    assert set(optics(np.ones((30, 3)), 5)) == {0}
    points = blobs(0, 60)
    points[[5, 17]] = 0  # as an isolated node's row in an embedding
    np.testing.assert_array_equal(optics(points, 5), sklearn_optics(points, 5, 5).labels_)


def test_below_the_floor_noise_is_one_cluster():
    rng = np.random.default_rng(0)
    points = np.repeat(np.eye(3), 100, axis=0) + 1e-6 * rng.normal(size=(300, 3))
    assert len(set(optics(points, 20).tolist())) > 3
    assert optics(points, 20, floor=1e-8).tolist() == np.repeat([0, 1, 2], 100).tolist()


def test_progress_counts_groups(classes):
    points, rows = classes
    calls = []
    groups = [Group(part, (25,), 25) for part in rows]
    optics_by_class(points, groups, progress=lambda *call: calls.append(call))
    assert calls[-1] == (4, 4)
    assert optics_by_class(points, []) == []


def test_too_few_points_and_points_that_are_not_finite_are_named():
    points = blobs(1, 20)
    text = r"OPTICS on 20 points with min_samples=25 and min_cluster_size=5; expected 2 to 20"
    with pytest.raises(DataError, match=text):
        optics(points, 25, 5)
    with pytest.raises(DataError, match="min_cluster_size=21; expected 2 to 20"):
        optics(points, 5, 21)
    with pytest.raises(DataError, match="min_samples=1 and"):
        reachability_plot(points, 1)
    points[7, 2] = np.nan
    with pytest.raises(DataError, match="coordinates of point 7 are not finite"):
        optics(points, 5)
