from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import reference_training
from labelsieve.errors import ConfigError
from labelsieve.loop.optimizers import Average, Muon, Optimizer, make_optimizers, orthogonal
from labelsieve.loop.runtime import Runtime

rates = st.floats(0.01, 0.5)
shares = st.floats(0.1, 0.95)
gradients = st.lists(st.floats(-2, 2).filter(lambda g: abs(g) > 1e-3), min_size=1, max_size=5)


class OneWeight(nn.Module):
    """A weight of one row and column: what matrices are to optimizers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.7]], dtype=torch.float64))


def after(settings, rate, values):
    net = OneWeight()
    (optimizer,) = make_optimizers(settings, [net])
    for value in values:
        net.weight.grad = torch.tensor([[value]], dtype=torch.float64)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return net.weight.item()


@given(rates, shares, st.booleans(), st.floats(0, 0.3), gradients)
def test_sgd_is_its_formula(rate, momentum, nesterov, decay, values):
    settings = Optimizer("sgd", momentum=momentum, nesterov=nesterov, weight_decay=decay)
    expected = reference_training.sgd(
        0.7, values, rate=rate, momentum=momentum, nesterov=nesterov, decay=decay
    )
    assert after(settings, rate, values) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.sampled_from(["adam", "adamw"]), rates, shares, shares, st.floats(0, 0.3), gradients)
def test_adam_and_adamw_are_their_formulas(name, rate, first, second, decay, values):
    settings = Optimizer(name, momentum=first, second_momentum=second, weight_decay=decay)
    expected = reference_training.adam(
        0.7, values, rate=rate, betas=(first, second), decay=decay, decoupled=name == "adamw"
    )
    assert after(settings, rate, values) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(
    st.sampled_from([(2, 3), (3, 2), (2, 3, 1, 2), (1, 4)]),
    rates, shares, st.booleans(), st.floats(0, 0.3), st.integers(0, 99),
)  # fmt: skip
def test_muon_is_its_formula(shape, rate, momentum, nesterov, decay, seed):
    made = torch.Generator().manual_seed(seed)
    weight, *given_gradients = torch.randn(4, *shape, generator=made, dtype=torch.float64)
    expected = reference_training.muon(
        weight.flatten(1).tolist(), [g.flatten(1).tolist() for g in given_gradients],
        rate=rate, momentum=momentum, nesterov=nesterov, decay=decay,
    )  # fmt: skip
    parameter = nn.Parameter(weight.clone())
    settings = Optimizer("muon", momentum, nesterov=nesterov and momentum > 0, weight_decay=decay)
    optimizer = Muon([parameter], settings)
    optimizer.param_groups[0]["lr"] = rate
    for gradient in given_gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = torch.tensor(expected, dtype=torch.float64).view(shape)
    assert torch.allclose(parameter, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (1, 6)])
def test_directions_stay_and_become_about_equally_long(shape):
    made = torch.Generator().manual_seed(3)
    matrix = torch.randn(shape, generator=made, dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    lengths = torch.logspace(0, -2, len(right), dtype=torch.float64)
    found = left.T @ orthogonal(left * lengths @ right) @ right.T
    assert torch.allclose(found, torch.diag(found.diag()), atol=1e-9)
    assert float(found.diag().min()) > 0.68
    assert float(found.diag().max()) < 1.21


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (3, 12), (12, 3), (16, 2, 2, 2)])
def test_relative_steps_are_the_rates_share_of_a_length_that_stays(shape):
    made = torch.Generator().manual_seed(5)
    weight = nn.Parameter(torch.randn(shape, generator=made, dtype=torch.float64))
    optimizer = Muon([weight], Optimizer("muon", momentum=0.0, relative=True))
    optimizer.param_groups[0]["lr"] = 1e-12
    weight.grad = torch.randn(shape, generator=made, dtype=torch.float64)
    optimizer.step()
    length = shape[0] ** 0.5
    assert float(weight.detach().norm()) == pytest.approx(length)
    before = weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.05
    optimizer.step()
    step = float((weight.detach() - before).norm())
    assert 0.65 * 0.05 * length < step < 1.25 * 0.05 * length  # of directions 0.68 to 1.21 long


def test_bfloat16_is_near_enough_for_directions():
    made = torch.Generator().manual_seed(6)
    matrix = torch.randn(32, 96, generator=made)
    exact, fast = (orthogonal(matrix, precision=p) for p in ("float32", "bfloat16"))
    assert fast.dtype == torch.float32
    assert float((exact - fast).norm() / exact.norm()) < 0.05


def test_no_direction_gives_no_step():
    assert orthogonal(torch.zeros(2, 3)).tolist() == [[0] * 3] * 2


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.layers = nn.Sequential(nn.Linear(4, 2), nn.LayerNorm((2, 1)))
        self.temperature = nn.Parameter(torch.ones(()))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def decays(optimizers, net):
    names = {id(weight): name for name, weight in net.named_parameters()}
    return {
        names[id(weight)]: group["weight_decay"]
        for optimizer in optimizers
        for group in optimizer.param_groups
        for weight in group["params"]
    }


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_biases_norms_and_scalars_are_not_decayed_unless_all_are(name):
    net = Several()
    found = decays(make_optimizers(Optimizer(name, weight_decay=0.5), [net]), net)
    matrices = {"conv.weight", "layers.0.weight"}
    others = {"conv.bias", "norm.weight", "norm.bias", "layers.0.bias", "layers.1.weight",
              "layers.1.bias", "temperature"}  # fmt: skip
    assert found == dict.fromkeys(matrices, 0.5) | dict.fromkeys(others, 0.0)
    settings = Optimizer(name, weight_decay=0.5, decay_all=True)
    found = decays(make_optimizers(settings, [net]), net)
    assert found == dict.fromkeys(matrices | others, 0.5)


def test_a_weight_of_two_modules_is_trained_once():
    net = Several()
    (optimizer,) = make_optimizers(Optimizer(), [net, net.conv])
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert len(weights) == len({id(weight) for weight in weights}) == 9


def test_muon_leaves_what_is_no_matrix_to_adamw():
    first, second = make_optimizers(Optimizer("muon"), [Several()])
    assert type(first) is Muon
    assert type(second) is torch.optim.AdamW
    (only,) = make_optimizers(Optimizer("muon"), [nn.BatchNorm1d(2)])
    assert type(only) is torch.optim.AdamW


def test_muon_passes_over_weights_without_gradient():
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([weight], Optimizer("muon", weight_decay=0.1))
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step()
    assert weight.tolist() == [[1, 1], [1, 1]]
    assert not optimizer.state


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_an_optimizer_that_is_restored_goes_on_as_before(name):
    def stepped(net, optimizers, seed):
        made = torch.Generator().manual_seed(seed)
        for weight in net.parameters():
            weight.grad = torch.randn(weight.shape, generator=made)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.1
            optimizer.step()

    settings = Optimizer(name)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    optimizers = make_optimizers(settings, [net])
    stepped(net, optimizers, 1)
    other = copy.deepcopy(net)
    others = make_optimizers(settings, [other])
    for ours, theirs in zip(others, optimizers, strict=True):
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    stepped(net, optimizers, 2)
    stepped(other, others, 2)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "lion"}, "name is 'lion'; expected one of sgd, adam, adamw, rmsprop, muon."),
        ({"momentum": 1.0}, "momentum is 1.0; expected 0 <= momentum < 1."),
        ({"second_momentum": -0.1}, "second_momentum is -0.1; expected 0 <= second_momentum < 1."),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; expected 0 or more."),
        ({"nesterov": True, "momentum": 0.0}, "nesterov is on with sgd, momentum 0.0; it needs"),
        ({"nesterov": True, "name": "adam"}, "nesterov is on with adam, momentum 0.9; it needs"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Optimizer(**changes)


def test_nothing_to_train_is_refused():
    with pytest.raises(ConfigError, match="there is nothing to train: no weight of the networks"):
        make_optimizers(Optimizer(), [nn.Linear(1, 1).requires_grad_(False), nn.ReLU()])


def test_an_average_is_the_weighted_sum_of_all_weights_and_statistics_so_far():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()
    average = Average(net, momentum=0.75)
    expected = {name: value.clone() for name, value in net.state_dict().items()}
    made = torch.Generator().manual_seed(0)
    for _ in range(3):
        net(torch.randn(5, 2, generator=made, dtype=torch.float64))
        with torch.no_grad():
            net[0].weight.add_(1)
        average.update()
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                expected[name] = 0.75 * expected[name] + 0.25 * value
    expected["1.num_batches_tracked"] = torch.tensor(3)
    for name, value in average.module.state_dict().items():
        assert torch.allclose(value, expected[name], rtol=1e-12), name


def test_an_average_follows_each_step_and_is_no_part_of_training():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(net, momentum=0.5)
    assert not any(weight.requires_grad for weight in average.parameters())
    assert not average.module[1].training
    assert all(name.startswith("module.") for name in average.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    average.follow(optimizer)
    before = net[0].bias.detach().clone()
    net[0].bias.grad = torch.ones(2)
    optimizer.step()
    assert torch.allclose(average.module[0].bias, before - 0.5)
    assert torch.equal(average(torch.ones(1, 2)), average.module(torch.ones(1, 2)))


def test_an_average_of_a_wrapped_network_follows_what_is_inside():
    net = nn.Linear(2, 2)
    average = Average(Runtime.start(precision="bfloat16").prepare(net), momentum=0.0)
    nn.init.zeros_(net.weight)
    average.update()
    assert average.module.weight.tolist() == [[0, 0], [0, 0]]


def test_an_average_needs_a_momentum_below_one():
    with pytest.raises(ConfigError, match="momentum is 1.0; expected 0 <= momentum < 1"):
        Average(nn.Linear(1, 1), momentum=1.0)
