"""Networks of timm, played by a stand-in: trained, saved and loaded like our own."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from labelsieve.data.augment import Normalization
from labelsieve.errors import ConfigError, MissingExtraError
from labelsieve.features.backbones import Backbone
from labelsieve.features.heads import Classifier
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.timm_nets import TimmNet, trainable
from labelsieve.stages.trained import load_trained, of_backbone

SIZE = 14


class Maps(nn.Module):
    """A model that gives maps, as some of timm's do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 5, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("timm")
    fake.create_model = lambda name, pretrained, num_classes: Maps()  # type: ignore[attr-defined]
    fake.is_model = lambda name: name == "maps"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", fake)


@pytest.fixture
def network() -> TimmNet:
    backbone = Backbone(Maps(), SIZE, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "timm:maps 1234")
    return trainable(backbone, "timm:maps")


def test_maps_are_pooled_and_the_normalization_is_the_model_s_own(network: TimmNet):
    images = torch.rand(2, 3, SIZE, SIZE)
    assert network.n_features == 5
    torch.testing.assert_close(network(images), network.module(images).mean((2, 3)))
    assert network.normalization == Normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


@pytest.mark.usefixtures("timm")
def test_it_is_saved_and_loaded_as_a_trained_network(network: TimmNet, tmp_path):
    shown = of_backbone(network)
    assert (shown.view_size, shown.image_size) == (SIZE, 16)
    about = {
        "image_size": shown.image_size,
        "view_size": shown.view_size,
        "normalization": shown.normalization._asdict(),
    }
    parts = nn.ModuleDict({"backbone": network, "classifier": Classifier(5, 2)})
    save_network(tmp_path, parts, about)
    again, _ = load_network(tmp_path)
    images = torch.rand(2, 3, SIZE, SIZE)
    torch.testing.assert_close(again["backbone"](images), network(images))
    assert load_trained(tmp_path).normalization == network.normalization


def test_a_model_that_this_timm_has_not_is_named(timm, network: TimmNet, monkeypatch):
    with pytest.raises(ConfigError, match=r"timm has no model 'resnet50' in this version"):
        TimmNet()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install"):
        TimmNet()
