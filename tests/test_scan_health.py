"""The figures by which dying clusters are noticed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.errors import DataError
from labelsieve.methods.scan.health import Health, collapsed, health


def used(*clusters, n_clusters=10):
    """Health of a set where just these clusters have an image each."""
    return health(torch.eye(n_clusters)[list(clusters)])


def test_a_set_by_hand():
    probabilities = torch.tensor(
        [[0.92, 0.08, 0.0], [0.04, 0.96, 0.0], [0.003, 0.997, 0.0], [0.5, 0.4, 0.1]]
    )
    found = health(probabilities)
    assert (found.n_used, found.n_clusters, found.unused) == (2, 3, (2,))
    assert found.smallest_share == 0
    mean = [1.463 / 4, 2.437 / 4, 0.1 / 4]
    entropy = -sum(p * math.log(p) for p in mean) / math.log(3)
    assert found.entropy == pytest.approx(entropy, abs=1e-6)
    shares = found.confident_90, found.confident_95, found.confident_99
    assert shares == (0.75, 0.5, 0.25)


def test_the_log_has_plain_numbers():
    logged = health(torch.tensor([[0.97, 0.03], [0.2, 0.8], [0.4, 0.6]])).to_log()
    names = ["used_clusters", "entropy", "smallest_share"]
    assert list(logged) == [*names, "confident_90", "confident_95", "confident_99"]
    assert all(type(value) is float for value in logged.values())
    assert logged["used_clusters"] == 2
    assert logged["smallest_share"] == logged["confident_95"] == pytest.approx(1 / 3)


def test_even_clusters_have_entropy_1_and_one_cluster_has_0():
    assert health(torch.eye(4).repeat(3, 1)).entropy == pytest.approx(1)
    assert health(torch.full((5, 4), 0.25)).entropy == pytest.approx(1)
    assert health(torch.eye(4)[:1].repeat(3, 1)).entropy == 0
    assert health(torch.ones(3, 1)) == Health(1, 1, 1.0, 1.0, 1.0, 1.0, 1.0)


def test_a_probability_of_just_the_threshold_is_not_confident():
    assert health(torch.tensor([[0.5 + 0.4, 0.1]], dtype=torch.float64)).confident_90 == 0


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 5))
def test_the_order_of_images_and_clusters_changes_nothing_but_names(seed, n, n_clusters):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, n_clusters, generator=generator, dtype=torch.float64)
    rows, columns = (torch.randperm(size, generator=generator) for size in (n, n_clusters))
    first, second = health(logits.softmax(1)), health(logits.softmax(1)[rows][:, columns])
    assert first.to_log() == pytest.approx(second.to_log())
    assert sorted(columns[list(second.unused)].tolist()) == list(first.unused)
    assert first.n_used + len(first.unused) == n_clusters
    assert 0 <= first.entropy <= 1 + 1e-12
    assert (first.smallest_share == 0) == bool(first.unused)
    assert first.confident_90 >= first.confident_95 >= first.confident_99


@pytest.mark.parametrize(
    ("now", "before", "sentence"),
    [
        ((0, 1), (0, 1, 4), "Cluster 4 lost all its images: 2 of 10 clusters are used, 3 were bef"),
        ((5,), (5, 3, 7), "Clusters 3 and 7 lost all their images: 1 of 10 clusters are used, 3"),
        ((0,), range(7), "Clusters 1, 2, 3, 4, 5 and 1 more lost all their images: 1 of 10 clus"),
        ((9,), (0, 1, 2), "Clusters 0, 1 and 2 lost all their images: 1 of 10 clusters are used"),
    ],
)
def test_lost_clusters_are_named(now, before, sentence):
    assert collapsed(used(*now), used(*before)).startswith(sentence)


@pytest.mark.parametrize(("now", "before"), [((0, 1), (0, 1)), ((0, 1, 2), (0,)), ((3, 4), (0, 1))])
def test_where_as_many_are_used_nothing_is_said(now, before):
    assert collapsed(used(*now), used(*before)) is None


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (torch.zeros(0, 3), r"probabilities are \(0, 3\); expected \(N, C\) of N >= 1 images."),
        (torch.ones(3), r"probabilities are \(3,\); expected \(N, C\)"),
        (torch.tensor([[1.0], [math.nan]]), "row 1: a probability is not finite; leave broken im"),
    ],
)
def test_what_cannot_be_looked_at_is_told(probabilities, message):
    with pytest.raises(DataError, match=message):
        health(probabilities)
