"""A network with cluster heads on it: to train as one, and to ask what it says of images."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labelsieve.data.augment import Normalization, clean_view
from labelsieve.data.batches import Batches, Source
from labelsieve.data.samplers import in_order, shuffled
from labelsieve.errors import ConfigError
from labelsieve.features.heads import ClusterHeads
from labelsieve.runtime import Runtime, bare


class Clusterer(nn.Module):
    """A copy of a network and of heads on it: (B, 3, S, S) to logits (H, B, C).

    The heads multiply in float32 whatever the network does: bfloat16 rounds logits of 10 by 0.03,
    which ties what is to be ranked by confidence, and they are a thousandth of the work.
    """

    network: nn.Module
    heads: ClusterHeads

    def __init__(self, network: nn.Module, heads: ClusterHeads, n_clusters: int) -> None:
        super().__init__()
        shape = heads.settings
        if (shape.n_features, shape.n_classes) != (n_features(network), n_clusters):
            raise ConfigError(
                f"the heads take {shape.n_features} features to {shape.n_classes} clusters; the "
                f"network gives {n_features(network)}, and {n_clusters} clusters are wanted."
            )
        self.network, self.heads = copy.deepcopy(network), copy.deepcopy(heads)
        self.heads.requires_grad_(True)

    def forward(self, images: Tensor) -> Tensor:
        features = self.network(images)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.heads(features.to(self.heads.weight.dtype))
        return logits


@torch.no_grad()
def clean_logits(
    network: nn.Module,
    heads: ClusterHeads,
    source: Source,
    rows: NDArray[np.int64],
    normalization: Normalization,
    size: int,
    *,
    runtime: Runtime,
    batch_size: int = 512,
) -> Tensor:
    """What a network and its heads say of images as they are, in evaluation mode.

    Each of several processes sees its part of the rows, and gets the logits of all.

    Args:
        network: (B, 3, size, size) to (B, D); moved to the runtime's device.
        heads: on it; moved as well.
        source: of the images.
        rows: which of them: those that can be decoded.
        normalization: of the pixels.
        size: of the views, pixels.
        runtime: device, precision and processes.
        batch_size: images at once, on each process.

    Returns:
        (H, len(rows), C) float32, on the CPU.
    """
    n_each = -(-len(rows) // runtime.n_processes)
    # gathered shares must be equally long: the last ones get some rows from the beginning again
    share = np.resize(rows, n_each * runtime.n_processes)[runtime.rank * n_each :][:n_each]
    network, heads = (bare(module).to(runtime.device) for module in (network, heads))  # type: ignore[assignment]
    found = []
    with _in_mode(network, training=False), _in_mode(heads, training=False):
        for batch in Batches(source, in_order(share, batch_size), device=runtime.device).epoch(0):
            images = clean_view(batch.images, size, normalization)
            with runtime.autocast():
                features = network(images)
            found.append(heads(features.to(heads.weight.dtype)).float())
    logits = torch.cat(found, dim=1).transpose(0, 1).contiguous()  # (n_each, H, C)
    everyones = runtime.gather_detached(logits)[: len(rows)]
    return everyones.transpose(0, 1).contiguous().cpu()


@torch.no_grad()
def take_statistics(
    model: Clusterer,
    source: Source,
    rows: NDArray[np.int64],
    n_images: int,
    normalization: Normalization,
    size: int,
    *,
    runtime: Runtime,
    batch_size: int = 512,
) -> None:
    """Make the statistics of batch norms those of images as they are.

    Training leaves those of augmented views, whose colors are darker and weaker: by them, clean
    images come into uneven clusters.

    Args:
        model: changed in place, but for its weights; made by `Runtime.prepare` where there are
            several processes. Its parts keep their modes.
        source: of the images.
        rows: to draw images from, the same ones at each call.
        n_images: to draw; a thousand or two are enough.
        normalization: of the pixels.
        size: of the views, pixels.
        runtime: device, precision and processes.
        batch_size: images at once, on all processes together.
    """
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    drawn = np.random.default_rng(0).permutation(rows)[: max(n_images, runtime.n_processes)]
    batches = Batches(
        source, shuffled(drawn, batch_size, 0, n_processes=runtime.n_processes),
        device=runtime.device, rank=runtime.rank, n_processes=runtime.n_processes,
    )  # fmt: skip
    with _in_mode(model, training=False):
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean of all batches
        for batch in batches.epoch(0):
            with runtime.autocast():
                model(clean_view(batch.images, size, normalization))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def gathered(logits: Tensor, runtime: Runtime) -> Tensor:
    """(H, b, C) of each process to (H, B, C) of all, with gradient."""
    return runtime.gather(logits.transpose(0, 1)).transpose(0, 1)


def train_mode(
    model: Clusterer, *, frozen_network: bool = False, frozen_norms: bool = False
) -> None:
    """Training mode, but for a network that stays as it is, or for batch norms that do."""
    model.train()
    if frozen_network:
        model.network.eval()
    for part in model.modules() if frozen_norms else ():
        if isinstance(part, _BatchNorm):
            part.eval()


def clusterer(prepared: nn.Module) -> Clusterer:
    """What `Runtime.prepare` was given."""
    found = bare(prepared)
    assert isinstance(found, Clusterer)  # noqa: S101 -- what `prepare` was given
    return found


def one_head(heads: ClusterHeads, place: int = 0) -> ClusterHeads:
    """A copy of one of several heads, as heads of which there is one."""
    shape = heads.settings
    chosen = ClusterHeads(shape.n_features, shape.n_classes).to(heads.weight)
    with torch.no_grad():
        chosen.weight.copy_(heads.weight[place, None])
        chosen.bias.copy_(heads.bias[place, None])
    return chosen


def n_features(network: nn.Module) -> int:
    """How wide the rows are that a network gives."""
    width = getattr(network, "n_features", None)
    if not isinstance(width, int):
        raise ConfigError(
            f"{type(network).__name__} has no whole number n_features; set it to the width of the "
            "rows that the network gives."
        )
    return width


def as_trainable_as(network: nn.Module, trained: nn.Module) -> nn.Module:
    """The trained copy, with gradients wanted of the weights of which the network wants them."""
    for before, after in zip(network.parameters(), trained.parameters(), strict=True):
        after.requires_grad_(before.requires_grad)
    return trained


@contextmanager
def _in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode for a while; then every part has the mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, before in modes:
            part.training = before
