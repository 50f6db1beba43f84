"""What is kept of a training: the state at its lowest loss."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import floats, lists
from torch import nn

from labelsieve.errors import RunError
from labelsieve.loop.checkpoints import Checkpoint
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.scan.selection import Best


def numbered(number: float) -> nn.Module:
    """A network whose weights and running statistics all say one number."""
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    number_all(network, number)
    return network


def number_all(network: nn.Module, number: float) -> None:
    with torch.no_grad():
        for value in network.state_dict().values():
            value.fill_(number)


def numbers(network: nn.Module) -> set[float]:
    return {float(each) for value in network.state_dict().values() for each in value.flatten()}


@given(losses=lists(floats(-3, 3) | floats(allow_nan=True, allow_infinity=False), max_size=9))
def test_the_state_of_the_first_of_the_lowest_losses_comes_back(losses):
    network = numbered(100)
    best = Best({"network": network})
    for epoch, loss in enumerate(losses):
        number_all(network, epoch)
        best.offer(epoch, loss, head=epoch + 1)
    number_all(network, 200)
    best.restore()
    numbered_losses = [(loss, epoch) for epoch, loss in enumerate(losses) if not math.isnan(loss)]
    if not numbered_losses:
        assert (numbers(network), best.epoch, best.loss, best.head) == ({200}, -1, math.inf, 0)
        return
    loss, epoch = min(numbered_losses)
    assert (best.epoch, best.loss, best.head) == (epoch, loss, epoch + 1)
    assert numbers(network) == {epoch}


def test_what_is_kept_does_not_change_with_the_network_it_is_a_copy_of():
    network = numbered(1)
    best = Best({"network": network})
    best.offer(0, 1.0)
    number_all(network, 2)
    best.restore()
    assert numbers(network) == {1}
    number_all(network, 3)  # nor does what came back share memory with what is kept
    best.restore()
    assert numbers(network) == {1}


def test_a_state_can_be_kept_without_regard_to_its_loss():
    network = numbered(1)
    best = Best({"network": network})
    best.keep(0, -1.0)
    number_all(network, 2)
    best.keep(1, 5.0, head=3)
    number_all(network, 4)
    best.restore()
    assert (numbers(network), best.epoch, best.loss, best.head) == ({2}, 1, 5.0, 3)


def test_the_best_survives_a_checkpoint(tmp_path: Path):
    runtime = Runtime.start()
    network, heads = numbered(1), numbered(2)
    best = Best({"network": network, "heads": heads})
    best.offer(4, -2.5, head=1)
    number_all(network, 8)
    kept = {"network": network, "heads": heads, "best": best}
    Checkpoint(tmp_path, kept, {}, runtime).save()

    again, heads_again = numbered(5), numbered(6)
    chosen = Best({"network": again, "heads": heads_again})
    kept = {"network": again, "heads": heads_again, "best": chosen}
    assert Checkpoint(tmp_path, kept, {}, runtime).load()
    assert numbers(again) == {8}  # as it was when saved
    assert not chosen.offer(5, -2.5)
    chosen.restore()
    assert (numbers(again), numbers(heads_again)) == ({1}, {2})
    assert (chosen.epoch, chosen.loss, chosen.head) == (4, -2.5, 1)


def test_a_best_that_saw_nothing_survives_a_checkpoint(tmp_path: Path):
    runtime = Runtime.start()
    Checkpoint(tmp_path, {"best": Best({"network": numbered(1)})}, {}, runtime).save()
    network = numbered(7)
    best = Best({"network": network})
    Checkpoint(tmp_path, {"best": best}, {}, runtime).load()
    best.restore()
    assert (numbers(network), best.epoch) == ({7}, -1)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path):
    runtime = Runtime.start()
    Checkpoint(tmp_path, {"best": nn.Linear(1, 1)}, {}, runtime).save()
    with pytest.raises(RunError, match="what was saved of 'best' does not fit"):
        Checkpoint(tmp_path, {"best": Best({})}, {}, runtime).load()
