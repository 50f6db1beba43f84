"""Two networks as one: what each says, weights drawn anew, and both on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from labelsieve.errors import ConfigError
from labelsieve.features.heads import Classifier
from labelsieve.features.resnets import ResNet, ResNetShape
from labelsieve.features.rows import Rows
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.twins import Twins, apart, redrawn, twins_of
from labelsieve.features.weights import drawn_from


def network(seed: int = 0) -> nn.Module:
    with drawn_from(seed):
        return ResNet(ResNetShape(widths=(8, 16), depths=(1, 1)))


def images(seed: int = 0, n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def classifier(n_features: int = 32, n_classes: int = 3) -> Classifier:
    with drawn_from(5):
        return Classifier(n_features, n_classes)


def test_a_classifier_of_twins_says_the_mean_of_what_its_halves_say_of_each():
    twins, head = Twins(network(0), network(1)).eval(), classifier()
    features = twins(images())
    weights = head.weight.detach().split(16, dim=1)
    for k, one in enumerate((twins.first, twins.second)):
        torch.testing.assert_close(
            apart(features, head)[k], one(images()) @ weights[k].T + head.bias
        )
    torch.testing.assert_close(apart(features, head).mean(dim=0), head(features))


def test_two_batches_go_to_one_network_each():
    twins = Twins(network(0), network(1)).eval()
    ours, theirs = images(0), images(1)
    both = twins((ours, theirs))
    torch.testing.assert_close(both[:, :16], twins(ours)[:, :16])
    torch.testing.assert_close(both[:, 16:], twins(theirs)[:, 16:])


def test_what_one_network_says_has_no_gradient_for_the_other():
    twins, head = Twins(network(0), network(1)), classifier()
    apart(twins((images(0), images(1))), head)[0].square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in twins.first.parameters())
    assert all(weight.grad.abs().sum() == 0 for weight in twins.second.parameters())
    assert head.weight.grad[:, 16:].abs().sum() == 0


def test_half_precision_features_are_classified_in_float32():
    features = torch.randn(3, 32).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        said = apart(features, classifier())
    assert said.dtype == torch.float32
    torch.testing.assert_close(said, apart(features.float(), classifier()))


def test_weights_drawn_anew_are_as_large_as_before_and_others():
    first = network()
    second = redrawn(network(), seed=1)
    for before, after in zip(first.parameters(), second.parameters(), strict=True):
        if before.std() == 0:  # of batch norms
            assert torch.equal(before, after)
            continue
        assert not torch.equal(before, after)
        margin = 4 * before.numel() ** -0.5 * before.std().item()
        assert after.std().item() == pytest.approx(before.std().item(), abs=margin)
        assert after.mean().item() == pytest.approx(before.mean().item(), abs=margin)
    again = redrawn(network(), seed=1)
    assert all(map(torch.equal, second.parameters(), again.parameters()))
    other = redrawn(network(), seed=2)
    assert not all(map(torch.equal, second.parameters(), other.parameters()))


def test_weights_that_are_not_trained_are_not_drawn_anew():
    frozen = network().requires_grad_(False)
    assert all(
        map(
            torch.equal,
            frozen.parameters(),
            redrawn(network().requires_grad_(False), 1).parameters(),
        )
    )


def test_drawing_anew_leaves_the_generator_and_the_given_network_alone():
    given = network()
    before = torch.get_rng_state()
    twins = twins_of(given, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert all(map(torch.equal, given.parameters(), network().parameters()))
    assert all(map(torch.equal, given.parameters(), twins.first.parameters()))
    assert not torch.equal(next(given.parameters()), next(twins.second.parameters()))
    copies = twins_of(given, seed=0, redraw=False)
    assert all(map(torch.equal, copies.first.parameters(), copies.second.parameters()))
    assert next(copies.first.parameters()) is not next(copies.second.parameters())


def test_twins_are_saved_and_loaded(tmp_path: Path):
    twins, head = Twins(network(0), network(1)).eval(), classifier()
    save_network(tmp_path, nn.ModuleDict({"backbone": twins, "classifier": head}), {"note": 1})
    found, about = load_network(tmp_path)
    assert about == {"note": 1}
    assert isinstance(found, nn.ModuleDict)
    assert found["backbone"].n_features == 32
    torch.testing.assert_close(
        found["classifier"](found["backbone"](images())), head(twins(images())), rtol=0, atol=0
    )


def test_twins_of_rows_are_two_classifiers():
    rows = torch.randn(5, 4)
    twins, head = twins_of(Rows(4), seed=0), classifier(8)
    said = apart(twins(rows), head)
    torch.testing.assert_close(said[0], rows @ head.weight[:, :4].T + head.bias)
    assert not torch.allclose(said[0], said[1])


def test_networks_of_two_kinds_are_no_twins():
    with pytest.raises(ConfigError, match="twins of 4 and 5 features"):
        Twins(Rows(4), Rows(5))
    with pytest.raises(ConfigError, match="twins of None and None features"):
        Twins(nn.Linear(2, 2), nn.Linear(2, 2))
