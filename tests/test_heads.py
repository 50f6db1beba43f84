"""Heads: their layers, unit rows whatever the precision, and several that learn apart."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import linear

from labelsieve.errors import ConfigError
from labelsieve.features.heads import (
    Classifier,
    ClusterHeads,
    Projection,
    ProjectionHead,
    moco_head,
    simclr_head,
    small_head,
    sncf_head,
)
from labelsieve.features.resnets import cifar_resnet18, preact_resnet18
from labelsieve.features.weights import drawn_from


def n_parameters(*modules: nn.Module) -> int:
    return sum(each.numel() for module in modules for each in module.parameters())


def layers(head: nn.Module) -> list[str]:
    return [f"{type(each).__name__} {tuple(each.weight.shape)} {each.bias is not None}"
            if isinstance(each, nn.Linear) else type(each).__name__ for each in head]  # fmt: skip


# projections


def test_simclrs_head_is_scans_and_has_its_number_of_parameters():
    head = simclr_head(512)
    assert layers(head) == ["Linear (512, 512) True", "ReLU", "Linear (128, 512) True"]
    assert n_parameters(cifar_resnet18(), head) == 11_497_152  # SCAN brief 1.2


def test_sncfs_head_is_its_and_has_its_number_of_parameters():
    head = sncf_head(512)
    assert layers(head) == [
        "Linear (2048, 512) False", "BatchNorm1d", "ReLU",
        "Linear (2048, 2048) False", "BatchNorm1d", "ReLU",
        "Linear (128, 2048) True",
    ]  # fmt: skip
    assert n_parameters(head) == 5_513_344
    whole = n_parameters(preact_resnet18(), head, Classifier(512, 100))
    assert whole == 16_730_788  # SNCF brief A1: 16.73 million


def test_mocos_head_has_its_names_and_shapes():
    shapes = {name: tuple(each.shape) for name, each in moco_head(2048).state_dict().items()}
    assert shapes == {
        "0.weight": (2048, 2048), "0.bias": (2048,), "2.weight": (128, 2048), "2.bias": (128,)
    }  # fmt: skip


def test_the_small_head_has_batch_norm_and_512_hidden():
    assert layers(small_head(256)) == [
        "Linear (512, 256) False", "BatchNorm1d", "ReLU", "Linear (128, 512) True"
    ]  # fmt: skip


@pytest.mark.parametrize("make", [simclr_head, sncf_head, small_head])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_projections_have_length_1_to_float32_whatever_the_precision(make, dtype):
    with drawn_from(0):
        head = make(16)
        features = torch.randn(40, 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        rows = head(features.to(dtype))
    assert rows.dtype == torch.float32
    assert rows.shape == (40, 128)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(40), rtol=0, atol=1e-6)


def test_projections_point_where_the_layers_say():
    head = ProjectionHead(Projection(3, 4, 2, n_layers=3))
    features = torch.randn(5, 3)
    first, second, last = (each for each in head if isinstance(each, nn.Linear))
    inner = linear(features, first.weight, first.bias).clamp(min=0)
    inner = linear(inner, second.weight, second.bias).clamp(min=0)
    inner = linear(inner, last.weight, last.bias)
    expected = inner / inner.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(head(features), expected)


def test_one_layer_is_a_linear_map_and_a_row_without_length_stays_one():
    head = ProjectionHead(Projection(3, n_out=2, n_layers=1))
    assert layers(head) == ["Linear (2, 3) True"]
    nn.init.zeros_(head[0].bias)
    assert torch.equal(head(torch.zeros(1, 3)), torch.zeros(1, 2))


def test_gradients_of_projections_reach_every_parameter():
    with drawn_from(0):
        head = sncf_head(8)
        features = torch.randn(12, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        rows = head(features)
    (rows * torch.randn(rows.shape)).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert features.grad.abs().sum() > 0


def test_a_batch_of_one_is_projected_in_evaluation():
    assert sncf_head(8).eval()(torch.randn(1, 8)).shape == (1, 128)


# several heads


@given(
    seed=st.integers(0, 1000),
    n_heads=st.integers(1, 4),
    n_clusters=st.integers(1, 5),
    batch=st.integers(1, 6),
)
def test_cluster_heads_are_linear_layers_side_by_side(seed, n_heads, n_clusters, batch):
    with drawn_from(seed):
        heads = ClusterHeads(7, n_clusters, n_heads)
        features = torch.randn(batch, 7)
    logits = heads(features)
    assert logits.shape == (n_heads, batch, n_clusters)
    for place in range(n_heads):
        expected = features @ heads.weight[place].T + heads.bias[place]
        torch.testing.assert_close(logits[place], expected)
        torch.testing.assert_close(heads.head(place)(features), expected)


def test_each_cluster_head_starts_as_a_linear_layer_does_and_unlike_the_others():
    with drawn_from(0):
        heads = ClusterHeads(400, 50, 3)
    for parameter in (heads.weight, heads.bias):
        assert parameter.abs().max() <= 0.05  # 1 / sqrt(400), nn.Linear's bound
        assert parameter.abs().max() > 0.045
    assert heads.weight.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.02)  # uniform
    assert not torch.equal(heads.weight[0], heads.weight[1])


def test_cluster_heads_learn_apart():
    heads = ClusterHeads(4, 3, 2)
    heads(torch.randn(5, 4))[1].square().sum().backward()
    assert not heads.weight.grad[0].any()
    assert heads.weight.grad[1].any()
    assert not heads.bias.grad[0].any()


def test_a_head_that_is_taken_out_is_a_copy():
    heads = ClusterHeads(4, 3, 2).eval()
    chosen = heads.head(1)
    assert isinstance(chosen, Classifier)
    assert not chosen.training
    chosen.weight.data.zero_()
    assert heads.weight[1].any()
    for place in (2, -1):
        with pytest.raises(ConfigError, match=f"there is no head {place}; there are 0 to 1"):
            heads.head(place)


def test_sizes_below_1_are_named():
    with pytest.raises(ConfigError, match=r"projection\.n_layers is 0; at least 1 is needed"):
        Projection(n_layers=0)
    with pytest.raises(ConfigError, match=r"classes\.n_heads is 0"):
        ClusterHeads(4, 3, 0)
    with pytest.raises(ConfigError, match=r"classes\.n_classes is 0"):
        Classifier(4, 0)
