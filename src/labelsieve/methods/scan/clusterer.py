"""A network with cluster heads on it: to train as one, and to ask what it says of images."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labelsieve.data.augment import Normalization
from labelsieve.data.batches import Source
from labelsieve.errors import ConfigError
from labelsieve.features.heads import ClusterHeads, width_of
from labelsieve.features.inference import clean_of, clean_outputs
from labelsieve.loop.runtime import Runtime, bare


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
        if (shape.n_features, shape.n_classes) != (width_of(network), n_clusters):
            raise ConfigError(
                f"the heads take {shape.n_features} features to {shape.n_classes} clusters; the "
                f"network gives {width_of(network)}, and {n_clusters} clusters are wanted."
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
    network, heads = (bare(module).to(runtime.device) for module in (network, heads))  # type: ignore[assignment]

    def answer(images: Tensor) -> Tensor:
        with runtime.autocast():
            features = network(images)
        said: Tensor = heads(features.to(heads.weight.dtype))
        return said.transpose(0, 1)  # (B, H, C)

    logits = clean_outputs(
        answer, (network, heads), source, rows, clean_of(size, normalization), runtime=runtime,
        batch_size=batch_size,
    )  # fmt: skip
    return logits.transpose(0, 1).contiguous()


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


def as_trainable_as(network: nn.Module, trained: nn.Module) -> nn.Module:
    """The trained copy, with gradients wanted of the weights of which the network wants them."""
    for before, after in zip(network.parameters(), trained.parameters(), strict=True):
        after.requires_grad_(before.requires_grad)
    return trained
