"""Networks: what they compute, how large they are, and that they stay fast."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import reference_networks as reference
from labelsieve.data.augment import AS_STORED, CIFAR10, IMAGENET
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.backbones import Pooled, n_features, network, wrap
from labelsieve.features.convolutions import Convolution
from labelsieve.features.patches import Patches, learn_patches, normalized_patches
from labelsieve.features.resnets import (
    PreActResNet,
    PreActShape,
    ResNet,
    ResNetShape,
    cifar_resnet18,
    narrow_resnet18,
    preact_resnet18,
    resnet50,
    stl_resnet18,
)
from labelsieve.features.small_nets import DictionaryNet, DictionaryShape, DictionaryStem, in_cells
from labelsieve.features.weights import digest, drawn_from

SMALL_PATCHES = Patches(n_atoms=8, threshold=0.5, n_patches=600, n_rounds=2)


def pictures(n: int, size: int = 24, seed: int = 0) -> np.ndarray:
    """(n, 3, size, size) uint8: noise that neighboring pixels share, so that patches have edges."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 3, size // 4 + 1, size // 4 + 1))
    fine = coarse.repeat(4, 2).repeat(4, 3)[:, :, :size, :size]
    return np.clip(fine + rng.integers(-20, 20, fine.shape), 0, 255).astype(np.uint8)


def dictionary_net(**settings) -> DictionaryNet:
    with drawn_from(0):
        net = DictionaryNet(DictionaryShape(**{"patches": SMALL_PATCHES, **settings}))
    net.learn_stem(pictures(20))
    return net


def randomize_norms(module: nn.Module, seed: int = 0) -> None:
    """Give batch norms parameters and statistics that do something."""
    generator = torch.Generator().manual_seed(seed)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            for tensor in (each.weight.data, each.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (each.bias.data, each.running_mean):
                tensor.normal_(generator=generator)


SMALL_NETS = {
    "cifar": lambda: ResNet(ResNetShape(widths=(8, 16), depths=(1, 2))),
    "stl": lambda: ResNet(ResNetShape(widths=(8, 16), depths=(1, 1), stem="middle")),
    "bottleneck": lambda: ResNet(ResNetShape((4, 8), (2, 1), bottleneck=True, stem="large")),
    "preact": lambda: PreActResNet(PreActShape(widths=(8, 16), depths=(2, 1))),
    "preact, identity": lambda: PreActResNet(PreActShape((8, 16), (2, 1), identity=True)),
    "dictionary": lambda: dictionary_net(widths=(16, 24)),
    "dictionary, others": lambda: dictionary_net(widths=(16, 24), activation="gelu", pooling="max"),
}
all_small_nets = pytest.mark.parametrize("make", SMALL_NETS.values(), ids=SMALL_NETS.keys())


# how large they are


def n_parameters(*modules: nn.Module) -> int:
    return sum(each.numel() for module in modules for each in module.parameters())


@pytest.mark.parametrize(
    ("make", "size", "n", "gflop", "n_out", "last"),
    [
        (cifar_resnet18, 32, 11_168_832, 1.111, 512, 4),  # SCAN brief 1.2
        (stl_resnet18, 96, 11_168_832, 2.926, 512, 7),  # likewise: 96 -> 49, 49, 25, 13, 7
        (preact_resnet18, 32, 11_166_144, 1.111, 512, 4),
        (resnet50, 224, 23_508_032, 8.174, 2048, 7),  # torchvision: 25,557,032 less its fc
        (narrow_resnet18, 32, 1_573_272, 0.157, 192, 4),
    ],
)
def test_parameters_and_work_are_the_papers(make, size, n, gflop, n_out, last):
    net = make().eval()
    assert n_parameters(net) == n
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        maps = net.maps(torch.zeros(1, 3, size, size))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=6e-4)
    assert maps.shape == (1, n_out, last, last)
    assert net.n_features == n_out


def test_resnet50_has_torchvisions_names_and_shapes():
    expected = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    table = [  # layer, blocks, channels in, inside, out, as torchvision has them
        ("layer1", 3, 64, 64, 256),
        ("layer2", 4, 256, 128, 512),
        ("layer3", 6, 512, 256, 1024),
        ("layer4", 3, 1024, 512, 2048),
    ]
    for layer, n_blocks, n_in, width, n_out in table:
        for block in range(n_blocks):
            name = f"{layer}.{block}"
            expected[f"{name}.conv1.weight"] = (width, n_out if block else n_in, 1, 1)
            expected[f"{name}.conv2.weight"] = (width, width, 3, 3)
            expected[f"{name}.conv3.weight"] = (n_out, width, 1, 1)
            expected |= norm(f"{name}.bn1", width) | norm(f"{name}.bn2", width)
            expected |= norm(f"{name}.bn3", n_out)
        expected[f"{layer}.0.downsample.0.weight"] = (n_out, n_in, 1, 1)
        expected |= norm(f"{layer}.0.downsample.1", n_out)
    net = resnet50()
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == expected
    assert len(expected) == 318  # torchvision's 320 less fc.weight and fc.bias
    # the stride stands in the 3x3 convolution, and in no other
    strides = {name: m.stride for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    halving = {name for name, stride in strides.items() if stride == (2, 2)}
    assert halving == {"conv1"} | {
        f"layer{stage}.0.{each}" for stage in (2, 3, 4) for each in ("conv2", "downsample.0")
    }


def norm(name: str, n: int) -> dict[str, tuple[int, ...]]:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{each}": (n,) for each in vectors} | {f"{name}.num_batches_tracked": ()}


@pytest.mark.parametrize("make", [narrow_resnet18, preact_resnet18, resnet50])
def test_convolutions_start_as_he_et_al_have_them_and_no_norm_starts_at_zero(make):
    with drawn_from(3):
        net = make()
    for each in net.modules():
        if isinstance(each, nn.Conv2d):
            assert each.bias is None
            fan_out = each.out_channels * each.kernel_size[0] ** 2
            n = each.weight.numel()  # the relative error of a deviation of n values is 1/sqrt(2n)
            assert each.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=4 / n**0.5)
        elif isinstance(each, nn.BatchNorm2d):
            assert (each.weight == 1).all()
            assert (each.bias == 0).all()


# what they compute


def test_a_resnet_is_what_its_parameters_say_layer_by_layer():
    with drawn_from(0):
        net = ResNet(ResNetShape(widths=(4, 6), depths=(2, 2))).double().eval()
    randomize_norms(net)
    images = torch.randn(3, 3, 9, 11, generator=torch.Generator().manual_seed(1)).double()
    expected = reference.resnet(net.state_dict(), images, (2, 2))
    torch.testing.assert_close(net.maps(images), expected)
    torch.testing.assert_close(net(images), expected.mean((2, 3)))


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_a_dictionary_net_is_its_stem_and_what_its_parameters_say(name):
    net = dictionary_net(widths=(6, 6), strides=(2, 1), activation=name).double().eval()
    randomize_norms(net)
    images = torch.from_numpy(pictures(2)).double()
    state = net.state_dict()
    maps = reference.evaluated(state, "norm", net.stem(images))
    for block, stride in enumerate((2, 1)):
        maps = reference.basic_block(
            state, f"blocks.{block}", maps, stride, getattr(nn.functional, name)
        )
    torch.testing.assert_close(net.maps(images), maps)


@pytest.mark.parametrize("identity", [False, True])
def test_a_preact_resnet_is_the_papers_or_he_et_als(identity):
    with drawn_from(0):
        net = PreActResNet(PreActShape((4, 6), (2, 2), identity)).double().eval()
    randomize_norms(net)
    images = torch.randn(3, 3, 9, 11, generator=torch.Generator().manual_seed(1)).double()
    expected = reference.preact_resnet(net.state_dict(), images, (2, 2), identity)
    torch.testing.assert_close(net.maps(images), expected)
    torch.testing.assert_close(net(images), expected.mean((2, 3)))


# what all of them keep to


@all_small_nets
def test_features_are_the_mean_of_the_last_map(make):
    net = make().eval()
    images = torch.from_numpy(pictures(3)).float()
    maps = net.maps(images)
    assert maps.ndim == 4
    assert maps.shape[:2] == (3, net.n_features)
    torch.testing.assert_close(net(images), maps.mean((2, 3)))


@all_small_nets
def test_the_last_two_maps_end_with_the_last(make):
    net = make().eval()
    images = torch.from_numpy(pictures(3)).float()
    earlier, last = net.last_maps(images)
    assert torch.equal(last, net.maps(images))
    halves = [-(-side // 2) for side in earlier.shape[2:]]  # the last stage halves the resolution
    assert list(last.shape[2:]) == halves
    assert 1.4 < last.shape[1] / earlier.shape[1] <= 2
    assert all(
        torch.equal(a, b) for a, b in zip(net.all_maps(images), (earlier, last), strict=True)
    )


@all_small_nets
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (33, 31), (64, 64), (96, 96), (224, 224)])
def test_any_size_and_a_batch_of_one_are_taken_in_evaluation(make, size):
    features = make().eval()(255 * torch.rand(1, 3, *size))
    assert features.isfinite().all()
    assert features.shape[0] == 1


@all_small_nets
def test_evaluation_changes_nothing_and_does_not_depend_on_the_rest_of_the_batch(make):
    net = make().eval()
    before = digest(net)
    images = torch.from_numpy(pictures(4)).float()
    whole = net(images)
    assert torch.equal(net(images), whole)
    torch.testing.assert_close(net(images[2:3]), whole[2:3], rtol=1e-4, atol=1e-4)
    assert digest(net) == before


@all_small_nets
def test_gradients_reach_every_parameter(make):
    net = make().train()
    with torch.autocast("cpu", torch.bfloat16):
        features = net(torch.from_numpy(pictures(16)).float())
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    (features.float() * weights).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@all_small_nets
@pytest.mark.parametrize("training", [False, True])
def test_no_map_is_copied_into_another_layout_forward_or_backward(make, training):
    net = make().to(memory_format=torch.channels_last).train(training)
    images = torch.from_numpy(pictures(4)).float()
    seen, gradients = [], []

    def is_last(maps):
        return maps.is_contiguous(memory_format=torch.channels_last)

    def look(module, given, gave):
        seen.extend((is_last(given[0]), is_last(gave)))
        if isinstance(module, nn.Conv2d):
            gave.register_hook(lambda gradient: gradients.append(is_last(gradient)))

    for each in net.modules():
        if isinstance(each, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d):
            each.register_forward_hook(look)
    with torch.autocast("cpu", torch.bfloat16):
        features = net(images.contiguous(memory_format=torch.channels_last))
    assert features.dtype == torch.bfloat16
    features.float().square().sum().backward()
    assert len(seen) > 8
    assert len(gradients) > 4
    assert all(seen)
    assert all(gradients)


@all_small_nets
def test_bfloat16_gives_nearly_the_same_features(make):
    net = make().eval()
    images = torch.from_numpy(pictures(8)).float()
    if net.normalization != AS_STORED:
        images = images / 128 - 1
    exact = net(images)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(images).float()
    similarity = nn.functional.cosine_similarity(exact, rough)
    assert similarity.min() > 0.999


@all_small_nets
def test_a_copy_computes_the_same_and_learns_apart(make):
    net = make().eval()
    twin = copy.deepcopy(net)
    images = torch.from_numpy(pictures(2)).float()
    assert torch.equal(twin(images), net(images))
    next(twin.parameters()).data += 1
    assert digest(twin) != digest(net)


@pytest.mark.parametrize("name", ["cifar", "preact", "dictionary"])
def test_a_network_compiles_as_one_graph(name):
    torch._dynamo.reset()
    net = SMALL_NETS[name]().eval()
    images = torch.from_numpy(pictures(4)).float()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)  # a break would be an error
    torch.testing.assert_close(compiled(images), net(images))


# small maps


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [(1, 1), (3, 2), (4, 4), (5, 8), (9, 9)])
def test_gradients_by_product_are_those_of_a_convolution(size, stride, side):
    with drawn_from(0):
        layer = Convolution(5, 7, size, stride)
        plain = nn.Conv2d(5, 7, size, stride, size // 2, bias=False).double()
        maps = torch.randn(6, 5, *side).bfloat16()
    layer.weight.data = layer.weight.data.bfloat16().float()  # equal to the last digit
    plain.weight.data = layer.weight.data.double()
    ours, theirs = maps.clone().requires_grad_(), maps.double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        gave = layer(ours)
    expected = plain(theirs)
    torch.testing.assert_close(gave.double(), expected, rtol=0.01, atol=0.01)
    towards = torch.randn(expected.shape).bfloat16()
    gave.backward(towards)
    expected.backward(towards.double())
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0.01, atol=0.02)
    torch.testing.assert_close(layer.weight.grad.double(), plain.weight.grad, rtol=0.01, atol=0.05)
    small = max(expected.shape[2:]) <= (3 if stride == 1 else 4)
    assert ("ByProduct" in gave.grad_fn.name()) == small


def test_only_learning_in_bfloat16_is_by_product():
    layer = Convolution(3, 4, 3)
    maps = torch.randn(2, 3, 3, 3)
    assert "ByProduct" not in layer(maps).grad_fn.name()
    with torch.autocast("cpu", torch.float16):
        assert "ByProduct" not in layer(maps).grad_fn.name()
    with torch.autocast("cpu", torch.bfloat16):
        assert "ByProduct" in layer(maps).grad_fn.name()
        layer.weight.requires_grad_(False)
        assert layer(maps).grad_fn is None
        assert "ByProduct" not in layer(maps.requires_grad_()).grad_fn.name()


# the dictionary in front


@pytest.mark.parametrize(("size", "stride"), [(6, 2), (6, 3), (4, 1)])
@pytest.mark.parametrize("side", [(24, 24), (17, 22)])
def test_the_stem_is_the_patch_coder_as_a_convolution(size, stride, side):
    patches = Patches(size=size, stride=stride, n_atoms=8, n_patches=600, n_rounds=2)
    generator = torch.Generator().manual_seed(0)
    coder = learn_patches(torch.from_numpy(pictures(20)), patches, torch.float32, generator)
    stem = DictionaryStem(patches, "mean")
    stem.fill(coder)
    images = torch.from_numpy(pictures(3, seed=1)).float()[:, :, : side[0], : side[1]]
    windows = normalized_patches(images, patches, torch.float32)  # (B, Y, X, L)
    expected = (windows @ coder.weights + coder.bias).permute(0, 3, 1, 2)
    products, scale = stem.responses(images)
    found = products * scale + stem.bias[:, None, None]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("threshold", [0.25, 1.0])
@pytest.mark.parametrize("side", [(8, 8), (13, 18)])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_the_stem_is_written_out_patch_by_patch(threshold, side, pooling):
    patches = Patches(n_atoms=5, threshold=threshold, n_patches=400, n_rounds=1)
    generator = torch.Generator().manual_seed(0)
    coder = learn_patches(torch.from_numpy(pictures(20)), patches, torch.float32, generator)
    stem = DictionaryStem(patches, pooling)
    stem.fill(coder)
    images = pictures(2, seed=3)[:, :, : side[0], : side[1]]
    found = stem(torch.from_numpy(images).float())
    assert (found > 0).any(dim=(0, 2, 3)).sum() >= 5  # or the comparison would say little
    weights, bias = coder.weights.double().numpy(), coder.bias.double().numpy()
    for image, answers in zip(images.astype(float), found, strict=True):
        expected = reference.dictionary_stem(
            image, weights, bias, patches, {"mean": np.mean, "max": np.max}[pooling]
        )
        np.testing.assert_allclose(answers.numpy(), expected, atol=2e-3)


def test_with_as_many_cells_as_places_the_codes_are_the_square_roots_of_the_stem():
    patches = Patches(n_atoms=8, threshold=0.5, n_cells=5, n_patches=600, n_rounds=2)
    generator = torch.Generator().manual_seed(0)
    coder = learn_patches(torch.from_numpy(pictures(20)), patches, torch.float32, generator)
    stem = DictionaryStem(patches, "mean")
    stem.fill(coder)
    images = torch.from_numpy(pictures(4, seed=1)).float()  # 24 px: 10 x 10 places, in 5 x 5 cells
    codes = coder.encode(images).view(4, 16, 5, 5)
    torch.testing.assert_close(stem(images).sqrt(), codes, rtol=1e-3, atol=5e-2)
    torch.testing.assert_close(stem(images), codes.square(), rtol=1e-3, atol=2e-3)


@given(seed=st.integers(0, 1000), shift=st.floats(-60, 60))
def test_the_stem_does_not_see_brightness(seed, shift):
    stem = dictionary_net().stem
    images = 90 + torch.from_numpy(pictures(2, seed=seed)).float() * 0.3
    answers = stem(images)
    torch.testing.assert_close(stem(images + shift), answers, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("side", [(24, 24), (23, 21)])
def test_cells_hold_their_pixels_row_by_row_and_stay_last_in_memory(side):
    images = torch.from_numpy(pictures(2)).float()[:, :, : side[0], : side[1]]
    cells = in_cells(images, 2)
    assert cells.shape == (2, 12, side[0] // 2, side[1] // 2)
    assert cells.is_contiguous(memory_format=torch.channels_last)
    expected = images[1, :, 8:10, 6:8].permute(1, 2, 0).flatten()  # y, x, color
    assert torch.equal(cells[1, :, 4, 3], expected)


def test_a_picture_of_one_color_gets_the_same_answer_everywhere():
    stem = dictionary_net().stem
    gray, red = torch.full((1, 3, 24, 24), 100.0), torch.full((1, 3, 24, 24), 200.0)
    for images in (gray, red):
        answers = stem(images)
        torch.testing.assert_close(answers, answers[:, :, :1, :1].expand_as(answers))
    torch.testing.assert_close(stem(gray), stem(red))


def test_the_stem_in_bfloat16_is_off_by_a_small_part():
    stem = dictionary_net().stem
    images = torch.from_numpy(pictures(32, seed=5)).float()
    exact = stem(images)
    with torch.autocast("cpu", torch.bfloat16):
        rough = stem(images).float()
    assert (rough - exact).square().mean().sqrt() < 0.02 * exact.square().mean().sqrt()


def test_bright_and_faint_pictures_keep_their_digits_in_bfloat16():
    stem = dictionary_net().stem
    images = 160 + torch.from_numpy(pictures(32, seed=5)).float() / 8  # of 160 to 192
    exact = stem(images)
    with torch.autocast("cpu", torch.bfloat16):
        rough = stem(images).float()
    # 3 times as much if 128 were not taken off before
    assert (rough - exact).square().mean().sqrt() < 0.02 * exact.square().mean().sqrt()


def test_nothing_of_the_stem_is_trained_and_all_of_it_is_saved():
    net = dictionary_net()
    assert not [name for name, _ in net.named_parameters() if name.startswith("stem")]
    assert {"stem.filters", "stem.bias"} <= net.state_dict().keys()
    images = torch.from_numpy(pictures(2)).float().requires_grad_()
    before = net.stem.filters.clone()
    net(images).sum().backward()
    assert images.grad is None
    assert torch.equal(net.stem.filters, before)


def test_a_dictionary_is_a_function_of_pixels_and_seed_alone():
    with drawn_from(7):
        first = dictionary_net()
    state = torch.get_rng_state()
    second = dictionary_net()
    assert torch.equal(torch.get_rng_state(), state)
    assert digest(first) == digest(second)
    second.learn_stem(pictures(20), seed=1)
    assert not torch.equal(first.stem.filters, second.stem.filters)
    assert torch.equal(first.blocks[0].conv1.weight, second.blocks[0].conv1.weight)


def test_of_many_images_a_part_is_read():
    few = Patches(n_atoms=4, n_images=5, n_patches=100, n_rounds=1)
    net = DictionaryNet(DictionaryShape(patches=few))

    class Watched(np.ndarray):
        def __getitem__(self, rows):
            read.append(rows)
            return super().__getitem__(rows)

    read: list = []
    net.learn_stem(pictures(50).view(Watched))
    assert [len(rows) for rows in read] == [5]
    assert net.stem.filters.isfinite().all()


def test_a_dictionary_is_learned_from_the_rows_named_and_no_others():
    few = Patches(n_atoms=4, n_images=20, n_patches=400, n_rounds=1)
    pixels, rows = pictures(12), np.array([0, 2, 3, 7, 11])
    nets = [DictionaryNet(DictionaryShape(patches=few)) for _ in range(2)]
    nets[0].learn_stem(pixels[rows])
    pixels[np.setdiff1d(np.arange(12), rows)] = 0  # as decoding leaves broken images
    nets[1].learn_stem(pixels, rows=rows)
    assert torch.equal(nets[0].stem.filters, nets[1].stem.filters)
    with pytest.raises(DataError, match="at least one image"):
        nets[1].learn_stem(pixels, rows=rows[:0])


def test_with_fewer_patches_than_atoms_the_rest_never_answers():
    net = DictionaryNet(DictionaryShape(patches=Patches(n_atoms=30, n_patches=20, n_rounds=1)))
    net.learn_stem(pictures(1, size=12))  # 16 patches
    answers = net.stem(torch.from_numpy(pictures(3)).float())
    assert answers.isfinite().all()
    silent = answers.view(3, 2, 30, -1).amax((0, 1, 3)) == 0
    assert silent[16:].all()
    assert not silent[:16].all()


def test_a_net_without_a_dictionary_cannot_seem_to_work():
    assert DictionaryNet()(torch.rand(2, 3, 24, 24)).isnan().all()


def test_images_that_hold_no_two_patches_are_refused():
    net = dictionary_net().eval()
    assert net(torch.zeros(1, 3, 8, 8)).isfinite().all()
    with pytest.raises(DataError, match="images of 8 x 7 pixels for patches of 6; at least 8 x 8"):
        net(torch.zeros(1, 3, 8, 7))


def test_pixels_that_are_none_are_refused():
    net = DictionaryNet()
    for bad in (
        np.zeros((0, 3, 9, 9), np.uint8),
        np.zeros((2, 3, 9, 9)),
        np.zeros((2, 9), np.uint8),
    ):
        with pytest.raises(
            DataError, match="expected uint8 of shape \\(N, 3, S, S\\), and at least"
        ):
            net.learn_stem(bad)


# settings and names


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(
        ConfigError, match=r"widths \(8, 8\) and depths \(1,\) of a network's stages"
    ):
        ResNetShape(widths=(8, 8), depths=(1,))
    with pytest.raises(ConfigError, match="each at least 1"):
        PreActShape(widths=(8, 0), depths=(1, 1))
    with pytest.raises(ConfigError, match="and strides"):
        DictionaryShape(widths=(8,))
    with pytest.raises(ConfigError, match="must be a multiple of the stride"):
        DictionaryShape(patches=Patches(size=5, stride=2))


def test_each_network_says_what_it_wants_of_its_input():
    assert cifar_resnet18().normalization == preact_resnet18().normalization == CIFAR10
    assert stl_resnet18().normalization == resnet50().normalization == IMAGENET
    net = DictionaryNet()
    assert net.normalization == AS_STORED
    backbone = wrap(net, 32)
    assert (backbone.mean, backbone.deviation) == AS_STORED
    assert ResNet(ResNetShape(normalization=IMAGENET)).normalization == IMAGENET


@pytest.mark.parametrize("name", ["cifar-resnet18", "narrow-resnet18", "preact-resnet18"])
def test_a_network_by_name_is_a_function_of_its_seed(name):
    state = torch.get_rng_state()
    first, second, other = (network(name, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert digest(first) == digest(second) != digest(other)


def test_wrong_names_get_near_ones():
    with pytest.raises(ConfigError, match=r"no network 'resnet5'\. Did you mean 'resnet50'"):
        network("resnet5")
    with pytest.raises(
        ConfigError, match=r"There are: bn-inception, .*cifar-resnet18, dictionary-net, .*load_timm"
    ):
        network("zzz")


def test_a_dictionary_net_by_name_needs_pixels():
    with pytest.raises(ConfigError, match="learns its first layer from your images"):
        network("dictionary-net")
    net = network("dictionary-net", pixels=pictures(20))
    assert net.n_features == 256
    assert net.eval()(torch.zeros(1, 3, 24, 24)).isfinite().all()


def test_a_network_by_name_takes_weights_from_a_file(tmp_path):
    donor = network("dictionary-net", pixels=pictures(20), seed=5)
    torch.save(donor.state_dict(), tmp_path / "net.pth")
    net = network("dictionary-net", weights=tmp_path / "net.pth")
    assert digest(net) == digest(donor)


# any module


class Odd(nn.Module):
    """Gives what it is told to, after a batch norm that would learn."""

    def __init__(self, shape):
        super().__init__()
        self.learning, self.frozen = nn.BatchNorm2d(3), nn.BatchNorm2d(3).eval()
        self.shape = shape

    def forward(self, images):
        return self.frozen(self.learning(images)).new_zeros(len(images), *self.shape)


@pytest.mark.parametrize("shape", [(7,), (7, 2, 3)])
def test_any_modules_features_are_counted_by_a_dry_run_that_leaves_no_trace(shape):
    module = Odd(shape)
    before = digest(module)
    net = Pooled(module, 16)
    assert net.n_features == 7
    assert module.training
    assert module.learning.training
    assert not module.frozen.training
    assert digest(module) == before
    assert net(torch.zeros(2, 3, 16, 16)).shape == (2, 7)
    assert net.maps(torch.zeros(2, 3, 16, 16)).shape == (2, 7, *(shape[1:] or (1, 1)))
    assert net.normalization == IMAGENET


def test_a_network_of_ours_says_its_number_of_features_itself():
    net = Pooled(dictionary_net(widths=(16, 24)), 1)  # a dry run at 1 pixel would fail
    assert net.n_features == 24
    assert net.normalization == AS_STORED
    assert net.maps(torch.zeros(2, 3, 24, 24)).shape == (2, 24, 3, 3)


def test_outputs_that_are_no_features_are_refused():
    with pytest.raises(ConfigError, match=r"Odd gives \(2, 3, 4\) for 2 images; expected a tensor"):
        n_features(Odd((3, 4)), 8)
