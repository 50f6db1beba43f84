from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.scan.prototypes import prototypes
from labelsieve.records.clusters import Clusters
from made_clusters import made_clusters, random_clusters
from reference_clusters import prototype


def test_the_prototype_is_the_surest_image_nearest_to_the_mean_of_the_surest():
    values = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.1, 0.9]]
    found = Clusters.of_probabilities("abcde", values)
    rows = np.array([[0.0], [10.0], [4.0], [4.6], [7.0]])
    assert prototypes(rows, found, n_sure=3) == (
        2,
        4,
    )  # mean of the three 4.67: row 3 is too unsure
    assert prototypes(rows, found) == (3, 4)
    assert prototypes(rows, found, n_sure=1) == (0, 4)


def test_a_cluster_without_images_has_no_prototype_and_a_broken_image_is_none():
    rows = np.array([[1.0], [np.nan], [2.0]])
    assert prototypes(rows, made_clusters([2, -1, 2], 4)) == (-1, -1, 0, -1)
    assert prototypes(rows, made_clusters([-1, -1, -1], 2)) == (-1, -1)
    assert prototypes(np.empty((0, 3)), made_clusters([], 2)) == (-1, -1)


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 12), st.integers(0, 10**6))
def test_prototypes_equal_those_of_loops(n, n_clusters, n_sure, seed):
    rows = np.random.default_rng(seed).integers(0, 3, (n, 2)).astype(np.float32)  # many ties
    found = random_clusters(n, n_clusters, seed)
    expected = []
    for c in range(n_clusters):
        members = [i for i in range(n) if found.cluster[i] == c]
        sure = found.probabilities[:, 0].tolist()
        expected.append(prototype(rows.tolist(), members, sure, n_sure))
    got = prototypes(rows, found, n_sure)
    for c, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        if mine != theirs:  # as near to the mean, but for the last bit
            members = np.flatnonzero(found.cluster == c)
            order = np.lexsort((members, -found.probabilities[members, 0]))[:n_sure]
            mean = rows[members[order]].astype(np.float64).mean(axis=0)
            apart = [((rows[i] - mean) ** 2).sum() for i in (mine, theirs)]
            assert apart[0] == pytest.approx(apart[1])


def test_rows_may_lie_on_disk(tmp_path: Path):
    rows = np.random.default_rng(0).random((30, 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    found = random_clusters(30, 3, 0)
    on_disk = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert prototypes(on_disk, found) == prototypes(rows, found)


def test_rows_of_other_images_are_refused():
    with pytest.raises(DataError, match="2 rows of features for clusters of 3 images"):
        prototypes(np.zeros((2, 1)), made_clusters([0, 1, 1]))
    with pytest.raises(ConfigError, match="n_sure is 0; expected 1 or more"):
        prototypes(np.zeros((1, 1)), made_clusters([0]), n_sure=0)
