"""Losses that compare images of a batch: one process and two give the same values and gradients."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from labelsieve.data.draws import batch_generator
from labelsieve.features.bank import MemoryBank
from labelsieve.features.momentum import (
    GroupedBatchNorm,
    MomentumEncoder,
    average_statistics,
    exchange,
    group_batch_norms,
    restore,
)
from labelsieve.features.objectives import (
    guided_contrastive,
    info_nce_queue,
    n_pairs,
    n_pairs_mixed,
    nt_xent,
    nt_xent_one_sided,
    nt_xent_views,
    supervised_contrastive,
)
from labelsieve.loop.runtime import Runtime, bare
from processes import together

B, N_STEPS = 12, 3
GROUPS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, -1, -1, 3, 3])  # of both halves, but the last


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 8)
    ).double()
    for parameter in layers.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator).double()
    return layers


def views(step: int, view: int) -> torch.Tensor:
    """The whole batch, of which each process takes its rows."""
    rng = np.random.default_rng([step, view])
    return torch.from_numpy(rng.normal(size=(B, 2, 5, 5)))


def share(batch: torch.Tensor, runtime: Runtime) -> torch.Tensor:
    n = len(batch) // runtime.n_processes
    return batch[runtime.rank * n : (runtime.rank + 1) * n]


def projections(model: nn.Module, images: torch.Tensor, gather) -> torch.Tensor:
    return gather(normalize(model(images), dim=1))


def loss_of(name: str, model: nn.Module, step: int, runtime: Runtime, gather) -> torch.Tensor:
    """A step as training has it: own rows through the network, then the loss of the whole batch."""
    first, second, third = (share(views(step, view), runtime) for view in range(3))
    generator = batch_generator(0, 0, step)
    order, factor = torch.from_numpy(generator.permutation(B)), 0.7
    groups = runtime.gather_detached(share(GROUPS, runtime))
    if name in ("n_pairs_mixed", "guided_contrastive"):  # partners come from the other process
        first = factor * first + (1 - factor) * exchange(first, order, runtime)
    own = torch.cat([first, second, third])  # one forward pass, as SimCLR's
    z = normalize(model(own), dim=1).chunk(3)
    a, b, c = (gather(rows) for rows in z)
    return {
        "nt_xent": lambda: nt_xent(a, b),
        "decoupled": lambda: nt_xent(a, b, decoupled=True),
        "nt_xent_views": lambda: nt_xent_views(torch.stack([a, b, c])),
        "nt_xent_one_sided": lambda: nt_xent_one_sided(a, b),
        "n_pairs": lambda: n_pairs(a, b),
        "n_pairs_mixed": lambda: n_pairs_mixed(a, b, order, factor),
        "supervised_contrastive": lambda: supervised_contrastive(
            torch.cat([a, b]), groups.repeat(2)
        ),
        "guided_contrastive": lambda: guided_contrastive(a, b, groups, order, factor),
    }[name]()


def gather_own(rows: torch.Tensor, runtime: Runtime) -> torch.Tensor:
    """What is often done: the rows of other processes are constants."""
    everything = runtime.gather_detached(rows).clone()
    everything[runtime.rank * len(rows) : (runtime.rank + 1) * len(rows)] = rows
    return everything


def train(name: str, constant: bool = False) -> dict[str, list[torch.Tensor]]:
    runtime = Runtime.start("cpu")
    model = runtime.prepare(network())
    gather = partial(gather_own, runtime=runtime) if constant else runtime.gather
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, gradients = [], []
    for step in range(N_STEPS):
        optimizer.zero_grad()
        loss = loss_of(name, model, step, runtime, gather)
        runtime.backward(loss)
        losses.append(loss.detach())
        gradients += [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
    return {
        "losses": losses,
        "gradients": gradients,
        "state": list(bare(model).state_dict().values()),
    }


def train_with_queue() -> dict[str, list[torch.Tensor]]:
    """MoCo as the docstring of features/momentum.py has it, with groups of three images."""
    runtime = Runtime.start("cpu")
    encoder = group_batch_norms(network(), group_size=3)
    slow = MomentumEncoder(encoder, momentum=0.5)
    model, bank = runtime.prepare(encoder), MemoryBank(20, 8, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, gradients, banks = [], [], []
    for step in range(N_STEPS + 1):
        order = torch.from_numpy(batch_generator(0, 0, step).permutation(B))
        slow.follow(model)
        queries = projections(model, share(views(step, 0), runtime), runtime.gather)
        average_statistics(model, runtime.mean)
        images = exchange(share(views(step, 1), runtime), order, runtime)
        keys = restore(normalize(slow(images), dim=1), order, runtime)
        loss = info_nce_queue(queries, keys, bank.read()[0])
        bank.push(keys, torch.arange(B) + B * step)
        optimizer.zero_grad()
        runtime.backward(loss)
        losses.append(loss.detach())
        gradients += [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
        banks += [tensor.clone() for tensor in bank.state_dict().values()]
    slow.follow(model)
    states = [*bare(model).state_dict().values(), *slow.state_dict().values()]
    return {"losses": losses, "gradients": gradients, "banks": banks, "states": states}


def check_equal(alone, processes):
    assert len(processes) == 2
    for found in processes:
        for name, tensors in alone.items():
            torch.testing.assert_close(found[name], tensors, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    ["nt_xent", "decoupled", "nt_xent_views", "nt_xent_one_sided", "n_pairs", "n_pairs_mixed",
     "supervised_contrastive", "guided_contrastive"],
)  # fmt: skip
def test_loss_gradients_and_state_are_those_of_one_process(name):
    alone = train(name)
    assert all(gradient.abs().max() > 1e-6 for gradient in alone["gradients"][-1:])
    check_equal(alone, together(train, name))


def test_queue_loss_bank_and_both_encoders_are_those_of_one_process():
    alone = train_with_queue()
    assert alone["losses"][0] == 0  # the queue was empty
    assert all(loss > 0.1 for loss in alone["losses"][1:])
    check_equal(alone, together(train_with_queue))


def test_rows_of_other_processes_as_constants_would_have_been_noticed():
    alone, processes = train("nt_xent"), together(train, "nt_xent", True)
    first_step = slice(len(list(network().parameters())))
    for found in processes:
        torch.testing.assert_close(found["losses"][0], alone["losses"][0])
        pairs = zip(found["gradients"][first_step], alone["gradients"][first_step], strict=True)
        assert any((ours - theirs).norm() > 0.1 * theirs.norm() for ours, theirs in pairs)


def test_preparing_leaves_grouped_norms_as_they_are():
    for kinds in together(kinds_of_norm):
        assert kinds == ["GroupedBatchNorm"]


def kinds_of_norm() -> list[str]:
    model = Runtime.start("cpu").prepare(group_batch_norms(network(), group_size=3))
    norms = [layer for layer in model.modules() if isinstance(layer, GroupedBatchNorm)]
    return [type(layer).__name__ for layer in norms]
