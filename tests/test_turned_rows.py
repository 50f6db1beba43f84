"""Rows of features turned to their principal directions, with which a layer on them begins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labelsieve.features.rows import SMALLEST, Rows
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.weights import digest
from labelsieve.methods.prism.embedder import linear_head
from labelsieve.methods.prism.embedding import new_embedder

DEVIATIONS = np.array([1.0, 8.0, 2.0, 4.0])


def values(n: int = 4000, seed: int = 0) -> np.ndarray:
    """(n, 4) rows, wide to different degrees along directions of no axis."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    return ((rng.standard_normal((n, 4)) * DEVIATIONS) @ turn + 3).astype(np.float32)


def turned(rows: np.ndarray, whitening: float) -> torch.Tensor:
    module = Rows(rows.shape[1], turned=True).fit(rows, whitening)
    return module(torch.from_numpy(rows)).double()


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_columns_are_uncorrelated_and_as_wide_as_whitening_leaves_them(whitening):
    found = turned(values(), whitening)
    covariance = torch.cov(found.T)
    deviations = covariance.diag().sqrt()
    correlation = covariance / deviations[:, None] / deviations
    torch.testing.assert_close(correlation, torch.eye(4).double(), atol=1e-4, rtol=0)
    expected = torch.from_numpy(np.sort(DEVIATIONS)[::-1] ** (1 - whitening))  # the widest first
    torch.testing.assert_close(
        deviations / deviations[0], expected / expected[0], rtol=0.06, atol=0
    )
    assert deviations.mean().item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(found.mean(0), torch.zeros(4).double(), atol=1e-4, rtol=0)


def test_without_whitening_rows_keep_their_distances():
    rows = values(50)
    before = torch.cdist(torch.from_numpy(rows).double(), torch.from_numpy(rows).double())
    after = torch.cdist(found := turned(rows, 0.0), found)
    torch.testing.assert_close(after / after.max(), before / before.max(), atol=1e-5, rtol=0)


def test_directions_that_hardly_vary_are_enlarged_only_so_far():
    rows = np.column_stack([np.linspace(-1, 1, 99), np.linspace(1, -1, 99) ** 2 * 1e-9])
    found = turned(rows.astype(np.float32), 1.0)
    assert found.isfinite().all()
    assert found[:, 1].std() < 1e-3 / SMALLEST**0.5 * found[:, 0].std() * 1e-3


def test_rows_that_are_all_equal_stay_so():
    rows = np.full((5, 3), 2.0, np.float32)
    assert not turned(rows, 0.5).any()


def test_the_layer_on_turned_rows_begins_with_the_first_of_them():
    rows = values(50)
    module = Rows(4, turned=True).fit(rows)
    embedder = new_embedder(module, dim=2, seed=0).eval()
    with torch.no_grad():
        found = embedder(torch.from_numpy(rows))
    first = module(torch.from_numpy(rows))[:, :2]
    torch.testing.assert_close(found, torch.nn.functional.normalize(first, dim=1))


@pytest.mark.parametrize("module", [Rows(4), Rows(4, 6, turned=True)])
def test_on_other_rows_the_layer_is_drawn(module):
    (layer,) = new_embedder(module, dim=3, seed=0).head
    (other,) = new_embedder(module, dim=3, seed=1).head
    assert not torch.equal(layer.weight, other.weight)


def test_a_layer_that_begins_as_the_features_may_be_wider_than_they():
    (layer,) = linear_head(2, 3, identity=True)
    assert layer.weight.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert layer.bias.tolist() == [0, 0, 0]


def test_turned_rows_are_saved_and_built_again(tmp_path):
    rows = values(20)
    module = Rows(4, 3, turned=True).fit(rows)
    save_network(tmp_path, module, {})
    again, _ = load_network(tmp_path)
    assert again.settings == module.settings
    assert digest(again) == digest(module)
    with torch.no_grad():
        assert torch.equal(again(torch.from_numpy(rows)), module(torch.from_numpy(rows)))
