"""Features as the maximum over places of the last map."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from labelsieve.data.augment import CIFAR10
from labelsieve.errors import ConfigError
from labelsieve.features.backbones import network
from labelsieve.features.conv_net import SmallConvNet
from labelsieve.features.heads import Classifier
from labelsieve.features.pooling import MaxPooled, max_over_places, pooled_by
from labelsieve.features.resnets import ResNet, ResNetShape
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.weights import digest, drawn_from


def resnet() -> ResNet:
    with drawn_from(0):
        return ResNet(ResNetShape(widths=(8, 16), depths=(1, 1))).eval()


def images(size: int = 12) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_the_maximum_is_of_each_map_by_itself(n, width, height, across, channels_last):
    maps = torch.randn(n, width, height, across, generator=torch.Generator().manual_seed(n))
    expected = [
        [max(value for row in one for value in row) for one in each] for each in maps.tolist()
    ]
    if channels_last:
        maps = maps.contiguous(memory_format=torch.channels_last)
    assert max_over_places(maps).tolist() == expected


def test_only_the_highest_place_learns():
    maps = torch.tensor([[[[1.0, 3.0], [2.0, -5.0]]]], requires_grad=True)
    max_over_places(maps).sum().backward()
    assert maps.grad.tolist() == [[[[0, 1], [0, 0]]]]


def test_features_are_the_maximum_of_the_networks_own_last_map():
    net = resnet()
    pooled = MaxPooled(net)
    with torch.no_grad():
        maps = net.maps(images())
        assert maps.shape[2:] == (6, 6)
        assert torch.equal(pooled(images()), maps.flatten(2).max(dim=2).values)
        assert torch.equal(pooled.maps(images()), maps)
        assert not torch.allclose(pooled(images()), net(images()))
    assert (pooled.n_features, pooled.normalization) == (16, CIFAR10)


@pytest.mark.parametrize(
    ("name", "size", "width"),
    [
        ("bn-inception", 64, 1024),
        ("resnet50", 64, 2048),
        ("small-preact", 16, 128),
        ("inception-resnet-v2", 75, 1536),
    ],
)
def test_networks_by_name_can_be_pooled_so(name, size, width):
    net = pooled_by(network(name), "max").eval()
    with torch.no_grad():
        features = net(images(size)[:1])
    assert features.shape == (1, width)
    assert net.n_features == width


def test_a_network_is_wrapped_once_and_unwrapped_for_the_mean():
    net = resnet()
    pooled = pooled_by(net, "max")
    assert type(pooled) is MaxPooled
    assert pooled_by(pooled, "max") is pooled
    assert pooled_by(pooled, "mean") is net
    assert pooled_by(net, "mean") is net


def test_a_pooled_network_is_saved_and_built_again_also_as_a_part(tmp_path):
    pooled, head = MaxPooled(resnet()).eval(), Classifier(16, 4)
    for name, module in (
        ("alone", pooled),
        ("part", nn.ModuleDict({"backbone": pooled, "head": head})),
    ):
        (tmp_path / name).mkdir()
        save_network(tmp_path / name, module, {"image_size": 12})
        again, about = load_network(tmp_path / name)
        assert about == {"image_size": 12}
        assert digest(again) == digest(module)
        backbone = again if name == "alone" else again["backbone"]
        assert type(backbone) is MaxPooled
        with torch.no_grad():
            assert torch.equal(backbone(images()), pooled(images()))


def test_what_has_no_maps_is_refused():
    with pytest.raises(ConfigError, match=r"SmallConvNet has no maps .* or set pooling=mean"):
        pooled_by(SmallConvNet(), "max")
    with pytest.raises(ConfigError, match=r"pooling is 'median'; expected one of mean, max"):
        pooled_by(resnet(), "median")
