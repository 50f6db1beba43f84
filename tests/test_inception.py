"""Inception-ResNet-v2: the published network, at the sizes of SNCF's."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from golden.make_inception import SIZES, parameter, pictures
from labelsieve.data.augment import IMAGENET
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.backbones import network
from labelsieve.features.heads import Classifier, sncf_head
from labelsieve.features.inception import (
    HALF,
    InceptionResNet,
    InceptionShape,
    Residual,
    Unit,
    inception_resnet_v2,
)
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.weights import digest, drawn_from, load_strict

GOLDEN = Path(__file__).parent / "golden" / "inception.npz"
SHALLOW = InceptionShape(repeats=(1, 1, 1))


@cache
def shallow() -> InceptionResNet:
    with drawn_from(0):
        return InceptionResNet(SHALLOW).eval()


@cache
def published_state() -> dict[str, torch.Tensor]:
    """Parameters as `golden/make_inception.py` gave them to timm's network."""
    shapes = {key: tuple(value.shape) for key, value in inception_resnet_v2().state_dict().items()}
    return {
        key: torch.from_numpy(parameter(key, shape))
        for key, shape in shapes.items()
        if not key.endswith("num_batches_tracked")
    }


def random_pictures(n: int, size: int) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def n_parameters(*modules: nn.Module) -> int:
    return sum(each.numel() for module in modules for each in module.parameters())


def test_with_a_classifier_of_imagenet_it_has_the_published_number_of_parameters():
    net = inception_resnet_v2()
    assert n_parameters(net) == 54_306_464
    assert n_parameters(net, Classifier(net.n_features, 1000)) == 55_843_464
    assert len(net.repeat) == 10
    assert len(net.repeat_1) == 20
    assert len(net.repeat_2) == 9


def test_it_is_timms_network_with_timms_names_and_a_file_of_its_weights_is_read(tmp_path):
    # the classifier of the file is left out
    classifier = {"classif.weight": torch.zeros(1000, 1536), "classif.bias": torch.zeros(1000)}
    torch.save({**published_state(), **classifier}, tmp_path / "inception.pth")
    net = network("inception-resnet-v2-tf", weights=tmp_path / "inception.pth").eval()
    assert net.normalization == HALF
    expected = np.load(GOLDEN)
    for size in SIZES:
        with torch.no_grad():
            found = net(torch.from_numpy(pictures(size)))[0].numpy()
        np.testing.assert_allclose(found, expected[f"features_{size}"], rtol=1e-3, atol=1e-4)
        assert np.std(found) > 0.05  # not a comparison of zeros


@pytest.mark.parametrize(
    ("size", "across"),
    [(75, (7, 3, 1)), (84, (8, 3, 1)), (227, (26, 12, 5)), (299, (35, 17, 8))],
)
def test_maps_of_each_resolution_are_as_large_as_the_papers(size, across):
    with torch.no_grad():
        maps = shallow().all_maps(torch.zeros(1, 3, size, size))
    widths = (320, 1088, 1536)
    assert [tuple(each.shape) for each in maps] == [
        (1, width, side, side) for width, side in zip(widths, across, strict=True)
    ]


def test_features_are_the_mean_of_the_last_map_of_any_shape():
    images = random_pictures(2, 120)[:, :, :, :100]
    with torch.no_grad():
        earlier, last = shallow().last_maps(images)
        features = shallow()(images)
    assert earlier.shape[1] == 1088
    torch.testing.assert_close(features, last.mean((2, 3)))


@pytest.mark.parametrize("activated", [False, True])
def test_a_residual_block_adds_a_small_part_of_what_its_branches_say(activated):
    with drawn_from(0):
        block = Residual(6, 7, Unit(6, 3, 1), Unit(6, 4, (1, 3)), scale=0.2, activated=activated)
        maps = torch.randn(2, 6, 5, 5)
    block.eval()
    branches = torch.cat([block.branch0(maps), block.branch1(maps)], dim=1)
    weight = block.conv2d.weight[:, :, 0, 0]
    expected = maps + 0.2 * torch.einsum("oi,bihw->bohw", weight, branches)  # its bias starts at 0
    assert (expected < 0).any()
    torch.testing.assert_close(block(maps), expected.clamp(min=0) if activated else expected)


def test_every_block_but_the_very_last_ends_in_a_relu():
    ends = {name: m.activated for name, m in shallow().named_modules() if isinstance(m, Residual)}
    assert ends == {"repeat.0": True, "repeat_1.0": True, "repeat_2.0": True, "block8": False}
    scales = {m.scale for m in shallow().modules() if isinstance(m, Residual)}
    assert scales == {0.17, 0.1, 0.2, 1.0}


def test_convolutions_start_as_he_et_al_have_them():
    for each in shallow().modules():
        if isinstance(each, nn.Conv2d):
            fan_out = each.weight.numel() // each.in_channels
            error = 4 / each.weight.numel() ** 0.5
            assert each.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=error)
            assert each.bias is None or not each.bias.any()


def test_evaluation_does_not_depend_on_the_rest_of_the_batch():
    images = random_pictures(3, 84)
    with torch.no_grad():
        torch.testing.assert_close(
            shallow()(images)[1:2], shallow()(images[1:2]), rtol=1e-4, atol=1e-5
        )


def test_gradients_reach_every_parameter_in_bfloat16_and_no_map_changes_its_layout():
    with drawn_from(0):
        net = InceptionResNet(SHALLOW).to(memory_format=torch.channels_last).train()
    seen = []

    def look(module, given, gave):
        if min(gave.shape[2:]) > 1:  # of one place, every layout is the same
            seen.append(gave.is_contiguous(memory_format=torch.channels_last))

    for each in net.modules():
        if isinstance(each, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d | nn.AvgPool2d):
            each.register_forward_hook(look)
    images = random_pictures(4, 84).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        features = net(images)
    towards = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    (features.float() * towards).sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().sum() > 0, name
    assert len(seen) > 40
    assert all(seen)


def test_a_trained_one_is_saved_and_built_again(tmp_path):
    shape = InceptionShape(repeats=(0, 1, 0), normalization=HALF)
    with drawn_from(0):
        net = InceptionResNet(shape).eval()
    save_network(tmp_path, net, {"class_names": ["a", "b"]})
    again, _ = load_network(tmp_path)
    assert again.settings == shape
    assert again.normalization == HALF
    assert digest(again) == digest(net)
    images = random_pictures(1, 84)
    with torch.no_grad():
        assert torch.equal(again(images), net(images))


def test_its_projection_head_is_the_papers():
    head = sncf_head(1536)
    shapes = [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)]
    assert shapes == [(3072, 1536), (3072, 3072), (128, 3072)]


def test_by_name_it_has_imagenets_colors_or_those_of_the_public_weights():
    assert InceptionResNet(SHALLOW).normalization == IMAGENET
    assert InceptionShape().normalization == IMAGENET
    assert HALF.mean == HALF.deviation == (0.5, 0.5, 0.5)


def test_small_images_and_wrong_shapes_are_refused():
    with pytest.raises(DataError, match=r"images of 74 x 80 pixels .* at least 75 x 75"):
        shallow()(torch.zeros(1, 3, 74, 80))
    for repeats in ((1, 2), (1, -1, 1)):
        with pytest.raises(ConfigError, match="expected three numbers of blocks"):
            InceptionShape(repeats=repeats)


def test_weights_of_a_shallower_one_are_refused_with_what_is_missing():
    deeper = InceptionResNet(InceptionShape(repeats=(1, 2, 1)))
    with pytest.raises(ConfigError, match=r"missing \(repeat_1\.1\.branch0"):
        load_strict(deeper, shallow().state_dict(), source="file", name="deeper")
