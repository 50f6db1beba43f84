"""BN-Inception: the published network, under the names of its public weights; and a small one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, max_pool2d

from golden.make_bn_inception import SIZES
from golden.make_inception import parameter, pictures
from labelsieve.data.augment import IMAGENET
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.backbones import network
from labelsieve.features.bn_inception import (
    CAFFE,
    BnInception,
    BnInceptionShape,
    bn_inception,
    bn_inception_caffe,
)
from labelsieve.features.conv_net import ConvShape, SmallConvNet, small_conv_net
from labelsieve.features.inception import HALF
from labelsieve.features.pooling import max_over_places
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.weights import digest, drawn_from, load_strict
from reference_networks import evaluated

GOLDEN = Path(__file__).parent / "golden" / "bn_inception.npz"


@cache
def published_state() -> dict[str, torch.Tensor]:
    """Parameters as `golden/make_bn_inception.py` gave them to the public network."""
    file = np.load(GOLDEN)
    shapes = {
        str(name): tuple(map(int, str(sizes).split()))
        for name, sizes in zip(file["names"], file["sizes"], strict=True)
    }
    return {
        name: torch.from_numpy(parameter(name, shape))
        for name, shape in shapes.items()
        if not name.startswith("last_linear.")
    }


@cache
def published() -> BnInception:
    net = bn_inception()
    load_strict(net, published_state(), source="golden", name="bn-inception")
    return net.eval()


def n_parameters(net: nn.Module) -> int:
    return sum(each.numel() for each in net.parameters())


def random_pictures(n: int, height: int, width: int | None = None) -> torch.Tensor:
    made = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, height, width or height, generator=made)


# BN-Inception


def test_with_a_classifier_of_imagenet_it_has_the_published_number_of_parameters():
    net = bn_inception()
    assert n_parameters(net) + 1000 * (net.n_features + 1) == 11_295_240
    assert net.n_features == 1024
    assert sum(isinstance(each, nn.Conv2d) for each in net.modules()) == 69


def test_its_names_and_shapes_are_those_of_the_public_weights():
    ours = {
        name: tuple(value.shape)
        for name, value in bn_inception().state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert ours == {name: tuple(value.shape) for name, value in published_state().items()}


@pytest.mark.parametrize("size", SIZES)
def test_it_says_what_the_public_network_says(size):
    expected, images = np.load(GOLDEN), torch.from_numpy(pictures(size))
    with torch.no_grad():
        maps = published().maps(images)
        features = published()(images)[0].numpy()
    scale = float(np.std(expected[f"mean_{size}"]))
    assert scale > 1  # not a comparison of zeros
    assert maps.shape == (1, 1024, size // 32, size // 32)
    np.testing.assert_allclose(features, expected[f"mean_{size}"], rtol=1e-3, atol=1e-4 * scale)
    highest = max_over_places(maps)[0].numpy()
    np.testing.assert_allclose(highest, expected[f"max_{size}"], rtol=1e-3, atol=1e-4 * scale)


def as_first_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Batch norms' values as rows, (1, D): how the first port from Caffe wrote them."""
    return {name: value[None] if "_bn." in name else value for name, value in state.items()}


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.model."])
def test_a_file_of_the_public_weights_is_read(tmp_path, rows, prefix):
    state = as_first_published(published_state()) if rows else published_state()
    head = {"last_linear.weight": torch.zeros(1000, 1024), "last_linear.bias": torch.zeros(1000)}
    torch.save({prefix + name: value for name, value in {**state, **head}.items()},
               tmp_path / "bn_inception.pth")  # fmt: skip
    for name, colors in (("bn-inception", IMAGENET), ("bn-inception-caffe", CAFFE)):
        net = network(name, weights=tmp_path / "bn_inception.pth")
        assert net.normalization == colors
        assert digest(net) == digest(published())


def test_a_file_of_another_network_is_refused_with_what_is_missing(tmp_path):
    state = dict(published_state())
    del state["inception_5b_pool_proj.weight"]
    state["conv2_3x3.weight"] = torch.zeros(192, 32, 3, 3)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"1 missing \(inception_5b_pool_proj\.weight\)") as found:
        network("bn-inception", weights=tmp_path / "other.pth")
    assert "conv2_3x3.weight (192, 32, 3, 3) in place of (192, 64, 3, 3)" in str(found.value)


def test_other_tensors_with_one_dimension_more_are_still_refused():
    layer = nn.Linear(3, 2)
    state = {"weight": torch.zeros(1, 2, 3), "bias": torch.zeros(2)}
    with pytest.raises(ConfigError, match=r"weight \(1, 2, 3\) in place of \(2, 3\)"):
        load_strict(layer, state, source="file", name="layer")


@pytest.mark.parametrize(
    ("size", "across"),
    # odd maps where 224 pixels have even ones: convolutions and poolings must still fit
    [(32, (4, 2, 1)), (224, (28, 14, 7)), (227, (28, 14, 7)), (299, (37, 19, 10))],
)
def test_maps_of_each_resolution_are_stacked_at_any_size(size, across):
    with drawn_from(0):
        net = bn_inception().eval()
    with torch.no_grad():
        maps = net.all_maps(torch.zeros(1, 3, size, size))
    assert [tuple(each.shape) for each in maps] == [
        (1, width, side, side) for width, side in zip((320, 608, 1024), across, strict=True)
    ]


def test_features_are_the_mean_of_the_last_map_of_any_shape():
    images = random_pictures(2, 100, 70)
    with torch.no_grad():
        earlier, last = published().last_maps(images)
        features = published()(images)
    assert earlier.shape == (2, 608, 6, 4)
    assert last.shape == (2, 1024, 3, 2)
    torch.testing.assert_close(features, last.mean((2, 3)))


def test_caffes_colors_are_blue_green_and_red_from_0_to_255_less_their_means():
    net = bn_inception_caffe().eval()
    load_strict(net, published_state(), source="golden", name="bn-inception-caffe")
    pixels = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(2))
    mean, deviation = (torch.tensor(part)[:, None, None] for part in net.normalization)
    shown = (pixels / 255 - mean) / deviation
    red, green, blue = pixels[0].float()
    caffe = torch.stack([blue - 104, green - 117, red - 128])[None]
    with torch.no_grad():
        torch.testing.assert_close(net(shown), published()(caffe), rtol=1e-3, atol=1e-2)


def test_convolutions_start_as_he_et_al_have_them_and_biases_at_nothing():
    with drawn_from(0):
        net = bn_inception()
    for each in net.modules():
        if isinstance(each, nn.Conv2d):
            fan_out = each.weight.numel() // each.in_channels
            error = 4 / each.weight.numel() ** 0.5
            assert each.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=error)
            assert not each.bias.any()


def test_gradients_reach_every_weight():
    with drawn_from(0):
        net = bn_inception()
    images = random_pictures(2, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        features = net(images)
    towards = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    (features.float() * towards).sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad.isfinite().all(), name
        # a bias before a batch norm is taken out by it
        assert weight.grad.abs().sum() > 0 or name.endswith(".bias"), name


def test_small_images_and_unknown_orders_of_colors_are_refused():
    with pytest.raises(DataError, match=r"images of 31 x 40 pixels .* at least 32 x 32"):
        published()(torch.zeros(1, 3, 31, 40))
    with pytest.raises(ConfigError, match=r"channels are 'gbr'; expected one of rgb, bgr"):
        BnInceptionShape(channels="gbr")


def test_a_trained_one_is_saved_and_built_again(tmp_path):
    shape = BnInceptionShape(normalization=HALF, channels="bgr")
    with drawn_from(0):
        net = BnInception(shape).eval()
    save_network(tmp_path, net, {})
    again, _ = load_network(tmp_path)
    assert again.settings == shape
    assert again.normalization == HALF
    assert digest(again) == digest(net)


# the small one


def conv_net(size: int = 32) -> SmallConvNet:
    with drawn_from(0):
        net = small_conv_net(size).eval()
    made = torch.Generator().manual_seed(1)
    for each in net.modules():
        if isinstance(each, nn.BatchNorm2d):
            for tensor in (each.weight.data, each.running_var):
                tensor.uniform_(0.5, 1.5, generator=made)
            for tensor in (each.bias.data, each.running_mean):
                tensor.normal_(generator=made)
    # a negative gain turns the order of places around: pooling must come after it
    net.layers[1].norm.weight.data[::2] *= -1
    return net


@pytest.mark.parametrize(("size", "places"), [(32, 4), (28, 3), (8, 1)])
def test_the_small_net_is_three_convolutions_whose_places_are_features(size, places):
    net, images = conv_net(size), random_pictures(2, size)
    state, maps = net.state_dict(), images
    for k in range(3):
        maps = conv2d(maps, state[f"layers.{k}.conv.weight"], padding=1)
        maps = max_pool2d(evaluated(state, f"layers.{k}.norm", maps).clamp(min=0), 2)
    assert maps.shape == (2, 64, places, places)
    assert net.n_features == 64 * places**2
    with torch.no_grad():
        torch.testing.assert_close(net(images), maps.flatten(1))
    assert maps.std() > 0.1


def test_the_small_net_has_sixty_thousand_weights():
    assert n_parameters(small_conv_net()) == 9 * (3 * 32 + 32 * 64 + 64 * 64) + 2 * (32 + 64 + 64)


def test_by_name_the_small_net_is_for_32_pixels_unless_told():
    assert network("small-conv-net").settings == ConvShape()
    assert network("small-conv-net", size=28).n_features == 576
    assert network("small-preact", size=28).n_features == 128  # of no matter to others
    assert digest(network("small-conv-net", size=28, seed=3)) == digest(
        network("small-conv-net", size=28, seed=3)
    )


def test_the_small_net_is_saved_and_built_again(tmp_path):
    shape = ConvShape(widths=(4, 6), size=12, normalization=IMAGENET)
    net = SmallConvNet(shape)
    save_network(tmp_path, net, {})
    again, _ = load_network(tmp_path)
    assert again.settings == shape
    assert again.n_features == 6 * 9
    assert digest(again) == digest(net)


def test_pictures_of_another_size_and_impossible_shapes_are_refused():
    with pytest.raises(DataError, match=r"images of 28 x 32 pixels for a network of 32 x 32"):
        small_conv_net()(torch.zeros(1, 3, 28, 32))
    with pytest.raises(ConfigError, match=r"size is 7; 3 layers that halve it need at least 8"):
        small_conv_net(7)
    for widths in ((), (8, 0)):
        with pytest.raises(ConfigError, match="expected one of each layer, each at least 1"):
            ConvShape(widths=widths)
