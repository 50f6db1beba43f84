from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.scan.kmeans import assign, kmeans


def directions(sizes, seed=0, spread=0.1):
    """Rows around one direction a class, of all lengths, and their classes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.eye(6)[labels] + spread * rng.standard_normal((len(labels), 6))
    return (rows * rng.uniform(0.1, 10, (len(rows), 1))).astype(np.float32), labels


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def inertia_of(rows, labels):
    """Summed squared distances of unit rows to the means of their clusters."""
    return sum(
        ((members - members.mean(0)) ** 2).sum()
        for members in (unit(rows)[labels == c] for c in np.unique(labels))
    )


def pairs(labels):
    """What is together with what, whatever the clusters are called."""
    return labels[:, None] == labels[None]


def test_clusters_are_of_directions_whatever_the_lengths():
    rows, labels = directions((30, 20, 10))
    found = kmeans(rows, 3)
    assert np.array_equal(pairs(found.labels), pairs(labels))
    assert (found.labels.dtype, found.centers.shape, found.n_runs) == (np.int64, (3, 6), 10)


# not any seed: for one in some hundred no pair of rows as first centers leads to the best division
@pytest.mark.parametrize("seed", range(40))
def test_of_all_divisions_of_a_few_rows_the_best_is_found(seed):
    rows = np.random.default_rng(seed).standard_normal((7, 3))
    divisions = (np.array(division) for division in product(range(2), repeat=7))
    best = min(inertia_of(rows, labels) for labels in divisions if labels.any())
    found = kmeans(rows, 2, seed=seed, n_runs=20)
    assert found.inertia == pytest.approx(inertia_of(rows, found.labels), rel=1e-4)
    assert found.inertia == pytest.approx(best, rel=1e-4)


def test_the_run_of_the_lowest_inertia_is_kept():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 8))
    single = [kmeans(rows, 12, n_runs=1, seed=seed).inertia for seed in range(8)]
    assert min(single) < np.mean(single)  # else runs do not differ
    assert kmeans(rows, 12, n_runs=30).inertia <= min(single)


def test_centers_are_means_of_unit_rows():
    rows, _ = directions((30, 20, 10))
    found = kmeans(rows, 3)
    for c in range(3):
        assert found.centers[c] == pytest.approx(unit(rows)[found.labels == c].mean(0), abs=1e-5)


def test_the_same_seed_gives_the_same_clusters():
    rows, _ = directions((50, 50), spread=1.0)
    first, again = kmeans(rows, 5, seed=3), kmeans(rows, 5, seed=3)
    assert np.array_equal(first.centers, again.centers)
    assert first.inertia == again.inertia


def test_rows_stay_as_they_are():
    rows, _ = directions((30, 20, 10))
    before = rows.copy()
    found = kmeans(rows, 3)
    assign(rows, found.centers)
    assert np.array_equal(rows, before)


def test_rows_on_disk_in_half_precision_serve_as_well(tmp_path: Path):
    rows, labels = directions((30, 20, 10))
    np.save(tmp_path / "rows.npy", rows.astype(np.float16))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    found = kmeans(mapped, 3)
    assert np.array_equal(pairs(found.labels), pairs(labels))
    assert np.array_equal(assign(mapped, found.centers), found.labels)


def test_rows_are_assigned_to_the_nearest_center():
    rng = np.random.default_rng(0)
    rows, centers = rng.standard_normal((20_000, 5)), rng.standard_normal((4, 5))
    distance = ((unit(rows)[:, None] - centers[None]) ** 2).sum(2)
    assert np.array_equal(assign(rows, centers), distance.argmin(1))
    assert assign(np.ones((2, 2)), np.ones((3, 2))).tolist() == [0, 0]  # the first of equals
    assert assign(rows[:0], centers).tolist() == []


def test_fitted_rows_are_assigned_to_their_own_cluster():
    rows, _ = directions((200, 200, 200), spread=0.5)
    found = kmeans(rows, 7)
    assert np.array_equal(assign(rows, found.centers), found.labels)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (([], 0), {"n_clusters": 0}, ConfigError, "n_clusters is 0; at least 1 is needed."),
        (([], 0), {"n_runs": 0}, ConfigError, "n_runs is 0; at least 1 is needed."),
        (
            ([], 0),
            {"n_clusters": 11},
            DataError,
            r"rows of shape \(10, 6\) for 11 clusters; expected",
        ),
        (([3], np.nan), {}, DataError, "row 3 of the features is zero or not finite; it has no"),
        (([4], 0), {}, DataError, "row 4 of the features is zero or not finite"),
        ((range(1, 10), 2), {"n_clusters": 4}, DataError, "2 different rows for 4 clusters. Ask"),
    ],
)
def test_rows_that_cannot_be_clustered_are_refused(change, options, error, message):
    rows, _ = directions((5, 5))
    places, value = change
    rows[list(places)] = value
    with pytest.raises(error, match=message):
        kmeans(rows, **{"n_clusters": 2, **options})


def test_rows_that_cannot_be_assigned_are_refused():
    rows = np.ones((9000, 3))
    rows[8999] = 0
    with pytest.raises(DataError, match="row 8999 of the features is zero"):
        assign(rows, np.ones((2, 3)))
    with pytest.raises(DataError, match=r"rows of shape \(9000, 3\) for centers of 2 values."):
        assign(rows, np.ones((2, 2)))


def test_one_cluster_has_everything():
    rows, _ = directions((5, 5))
    assert kmeans(rows, 1).labels.tolist() == [0] * 10
    assert kmeans(rows[:1], 1).inertia == pytest.approx(0, abs=1e-6)
