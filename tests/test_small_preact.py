"""The small pre-activation network for CPUs, and both kinds of blocks."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from labelsieve.auditing.estimate import TRAINING_SECONDS
from labelsieve.errors import ConfigError
from labelsieve.features.backbones import network
from labelsieve.features.heads import Classifier, sncf_head
from labelsieve.features.pretrain import Pretrain
from labelsieve.features.resnets import PreActResNet, PreActShape, preact_resnet18, small_preact
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.weights import digest, drawn_from
from reference_networks import evaluated


def small() -> PreActResNet:
    with drawn_from(0):
        net = small_preact().eval()
    generator = torch.Generator().manual_seed(1)
    for each in net.modules():
        if isinstance(each, nn.BatchNorm2d):
            for tensor in (each.weight.data, each.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (each.bias.data, each.running_mean):
                tensor.normal_(generator=generator)
    return net


def pictures(n: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(2))


def n_parameters(*modules: nn.Module) -> int:
    return sum(each.numel() for module in modules for each in module.parameters())


def test_with_its_head_and_four_classes_it_has_as_many_parameters_as_the_prototype():
    net = small_preact()
    assert n_parameters(net) == 302_416
    head = sncf_head(net.n_features)
    shapes = [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)]
    assert shapes == [(512, 128), (512, 512), (128, 512)]  # 128-512-512-128
    assert n_parameters(net, head, Classifier(128, 4)) == 698_324  # 0.7 million


def test_a_picture_of_32_pixels_costs_22_mflop_and_ends_as_4x4():
    net = small_preact().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        maps = net.all_maps(pictures(1))
    assert [tuple(each.shape[1:]) for each in maps] == [(32, 16, 16), (64, 8, 8), (128, 4, 4)]
    assert counter.get_total_flops() / 1e6 == pytest.approx(22.24, abs=0.01)
    assert net.n_features == 128
    assert torch.equal(net.last_maps(pictures())[1], net.maps(pictures()))


def test_it_is_what_its_parameters_say_layer_by_layer():
    net = small().double()
    state, images = net.state_dict(), pictures().double()
    maps = conv2d(images, state["conv1.weight"], stride=2, padding=1)  # no norm after the stem
    for stage, stride in enumerate((1, 2, 2)):
        name = f"stages.{stage}.0"
        active = evaluated(state, f"{name}.bn1", maps).clamp(min=0)
        inner = conv2d(active, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        inner = evaluated(state, f"{name}.bn2", inner).clamp(min=0)
        inner = conv2d(inner, state[f"{name}.conv2.weight"], padding=1)
        # every block widens, so that each has a convolution around it
        maps = inner + conv2d(active, state[f"{name}.shortcut.weight"], stride=stride)
    maps = evaluated(state, "norm", maps).clamp(min=0)
    torch.testing.assert_close(net.maps(images), maps)
    torch.testing.assert_close(net(images), maps.mean((2, 3)))


def test_the_papers_variant_of_a_narrow_stem_has_its_norm_there():
    shape = PreActShape((8, 16), (1, 1), identity=False, stem_width=4, stem_stride=2)
    net = PreActResNet(shape).eval()
    assert net.conv1.weight.shape == (4, 3, 3, 3)
    assert net.norm.num_features == 4
    assert [tuple(each.shape[1:]) for each in net.all_maps(pictures())] == [(8, 16, 16), (16, 8, 8)]


def test_without_a_width_of_its_own_the_stem_is_as_wide_as_the_first_stage():
    assert PreActResNet(PreActShape((8, 16), (1, 1))).conv1.out_channels == 8
    assert preact_resnet18().conv1.weight.shape == (64, 3, 3, 3)
    assert preact_resnet18().conv1.stride == (1, 1)


def test_both_variants_of_the_large_network_have_names():
    papers, identity = network("preact-resnet18"), network("preact-resnet18-identity")
    assert not papers.settings.identity
    assert identity.settings.identity
    assert n_parameters(papers) - n_parameters(identity) == -896  # the norm of 512, and not of 64
    block = identity.stages[0][0].eval()
    maps = torch.randn(2, 64, 4, 4, generator=torch.Generator().manual_seed(0))
    for part in (block.conv1, block.conv2):
        part.weight.data.zero_()
    assert torch.equal(block(maps), maps)  # identity is one
    other = papers.stages[0][0].eval()
    other.conv2.weight.data.zero_()
    torch.testing.assert_close(other(maps), maps.clamp(min=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [8, 31, 32, 96])
def test_any_size_is_taken(size):
    assert small()(pictures(1, size)).shape == (1, 128)


def test_a_trained_one_is_saved_and_built_again(tmp_path):
    net = small()
    save_network(tmp_path, net, {"class_names": ["a"]})
    again, about = load_network(tmp_path)
    assert about == {"class_names": ["a"]}
    assert again.settings == net.settings
    assert digest(again) == digest(net)
    assert torch.equal(again(pictures()), net(pictures()))


def test_a_model_of_before_the_stem_had_settings_is_still_read(tmp_path):
    net = PreActResNet(PreActShape((4, 8), (1, 1)))
    save_network(tmp_path, net, {})
    path = tmp_path / "model.json"
    text = path.read_text()
    for line in ('    "stem_width": 0,\n', '    "stem_stride": 1,\n'):
        assert line in text
        text = text.replace(line, "")
    path.write_text(text)
    assert digest(load_network(tmp_path)[0]) == digest(net)


def test_gradients_reach_every_parameter_in_bfloat16():
    net = small().train()
    with torch.autocast("cpu", torch.bfloat16):
        features = net(pictures(16))
    towards = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    (features.float() * towards).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_a_stem_of_no_size_is_refused():
    with pytest.raises(ConfigError, match=r"stem_width is -1; expected 0 or more"):
        PreActShape(stem_width=-1)
    with pytest.raises(ConfigError, match=r"stem_stride is 0; expected 1 or more"):
        PreActShape(stem_stride=0)


def test_what_pretraining_a_network_costs_is_known_of_each():
    networks = get_args(get_type_hints(Pretrain)["network"])
    assert set(TRAINING_SECONDS) == set(networks)
    for name in set(networks) - {"dictionary-net"}:
        assert network(name).n_features > 0
