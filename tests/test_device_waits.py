"""No step of pretraining makes the host wait for a GPU.

Without a GPU: on torch's meta device the branches for accelerators are taken, and whatever needs a
value on the host (`item`, `nonzero`, a mask as an index) is an error. Copies to the device that are
not on their way while the host goes on are found by what is dispatched.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from labelsieve.data.batches import Batch, resident
from labelsieve.features import pretrain as pretraining
from labelsieve.features.recipes import PRETRAINING
from labelsieve.loop.runtime import Runtime

META = torch.device("meta")
B = 64


class Waits(TorchDispatchMode):
    """Notes copies between devices that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        source, target = None, result
        if function is torch.ops.aten._to_copy.default:
            source, waits = args[0], not kwargs.get("non_blocking", False)
        elif function is torch.ops.aten.copy_.default:
            target, source = args[:2]
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        if isinstance(source, Tensor) and source.device != target.device and waits:
            self.found.append(f"{tuple(source.shape)} from {source.device} to {target.device}")
        return result


class OnMeta(Runtime):
    """Prepares networks for a device that holds no values."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), "float32")
        self.device = META


def step_of(settings: pretraining.Pretrain, runtime: Runtime, monkeypatch: pytest.MonkeyPatch):
    """The step that `pretrain` gives the loop, and what the loop is to keep; nothing is trained."""
    given = []
    monkeypatch.setattr(pretraining, "train", lambda *args, **named: given.append((args, named)))
    pixels = np.random.default_rng(0).integers(0, 256, (300, 3, 32, 32), np.uint8)
    pretraining.pretrain(
        resident(pixels), np.arange(len(pixels)), settings, pixels=pixels, runtime=runtime
    ).train()
    ((step, *_), named) = given[0]
    return step, named["state"]


@pytest.mark.parametrize("recipe", sorted(PRETRAINING))
def test_a_step_asks_the_device_for_nothing(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta has none
    settings, runtime = PRETRAINING[recipe](), OnMeta()
    settings = replace(
        settings, training=replace(settings.training, batch_size=B, precision="float32")
    )
    step, state = step_of(settings, runtime, monkeypatch)
    if "bank" in state:
        state["bank"]._full = True  # it asks while it is filling
    side = settings.image_size
    images = torch.zeros(B, 3, side, side, dtype=torch.uint8, device=META)
    batch = Batch(images, torch.arange(B, device=META), epoch=0, step=0)
    step(batch)  # constants are copied once
    with Waits() as waits:
        runtime.backward(step(batch)["loss"])
    assert waits.found == []
    weights = [weight for weight in state["encoder"].parameters() if weight.requires_grad]
    assert weights
    assert all(weight.grad is not None for weight in weights)


def test_a_wait_would_be_found() -> None:
    with Waits() as waits:
        torch.zeros(3).to(META)
        torch.zeros(3).to(META, non_blocking=True)
        torch.empty(3, device=META).copy_(torch.zeros(3))
    assert waits.found == ["(3,) from cpu to meta"] * 2
    for ask in (Tensor.item, Tensor.nonzero, Tensor.tolist):
        with pytest.raises((RuntimeError, NotImplementedError)):
            ask(torch.empty(1, device=META))
