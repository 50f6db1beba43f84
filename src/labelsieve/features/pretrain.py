"""Contrastive pretraining: a network learns features from the images alone, no labels needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from labelsieve.data.augment import CIFAR10, CIFAR100, IMAGENET, Contrastive, Normalization
from labelsieve.data.batches import Batches, Source
from labelsieve.data.samplers import shuffled
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.backbones import network
from labelsieve.features.bank import MemoryBank
from labelsieve.features.contrast import (
    Encoder,
    Step,
    View,
    imix_step,
    moco_step,
    random_views,
    simclr_step,
)
from labelsieve.features.heads import moco_head, simclr_head, small_head, sncf_head
from labelsieve.features.joint import Joint
from labelsieve.features.momentum import MomentumEncoder, group_batch_norms
from labelsieve.features.weights import drawn_from
from labelsieve.loop.checkpoints import Kept
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.optimizers import make_optimizers
from labelsieve.loop.runtime import Runtime, bare
from labelsieve.loop.train import Training, train

Progress = Callable[[int, int], None]  # batches done, batches in all
Monitor = Callable[[Encoder], Mapping[str, float]]  # scores of an encoder in evaluation mode

_HEADS: dict[str, Callable[[int], nn.Module]] = {
    "simclr": simclr_head,
    "sncf": sncf_head,
    "moco": moco_head,
    "small": small_head,
}
_NORMALIZATIONS = {"cifar10": CIFAR10, "cifar100": CIFAR100, "imagenet": IMAGENET}


@dataclass(frozen=True)
class Queue:
    """What MoCo keeps beside the network. Defaults: MoCo v2 on ImageNet."""

    size: int = 65_536  # keys
    momentum: float = 0.999  # of the encoder of keys
    group_size: int = 32  # images that are normalized together, see features/momentum.py

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"queue.size is {self.size}; at least 1 key is needed.")


@dataclass(frozen=True)
class Pretrain:
    """How a network is pretrained. Defaults: SimCLR on CIFAR-10, as SCAN has it."""

    network: Literal[
        "cifar-resnet18", "narrow-resnet18", "stl-resnet18", "preact-resnet18",
        "preact-resnet18-identity", "small-preact", "resnet50", "inception-resnet-v2",
        "dictionary-net",
    ] = "cifar-resnet18"  # fmt: skip
    head: Literal["simclr", "sncf", "moco", "small"] = "simclr"
    objective: Literal["nt-xent", "imix", "moco"] = "nt-xent"
    temperature: float = 0.1
    image_size: int = 32  # side of the images that views are cut from, pixels
    # What is taken off colors and what they are divided by; "network": as the network expects.
    normalization: Literal["network", "cifar10", "cifar100", "imagenet"] = "network"
    views: Contrastive = field(default_factory=Contrastive)
    training: Training = field(default_factory=Training)
    # Updates of the weights after which the epoch at work is the last, where training.epochs would
    # take longer: large sets get fewer epochs. 0: training.epochs, whatever the number of images.
    most_updates: int = 0
    queue: Queue = field(default_factory=Queue)  # of objective moco
    # What becomes of the features: the head's rows, as SCAN and SNCF have it on small images, the
    # network's, or both the network's and a dictionary's through a closed-form map (joint.py).
    rows: Literal["head", "network", "joint"] = "head"
    joint: Joint = field(default_factory=Joint)  # of rows joint
    monitor_every: int = 50  # epochs between two scores by neighbors, where labels exist; 0: never

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}; it must be above 0.")
        inner = self.joint.dictionary.image_size
        if self.rows == "joint" and self.image_size != inner:
            raise ConfigError(
                f"image_size is {self.image_size} and joint.dictionary.image_size {inner}; rows="
                "joint needs them equal. Set both."
            )
        for name, least in (("image_size", 1), ("monitor_every", 0), ("most_updates", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} or more.")


def pretrain(  # noqa: PLR0913 -- everything a training has, in one place
    source: Source,
    rows: NDArray[np.int64],
    settings: Pretrain | None = None,
    *,
    pixels: NDArray[np.uint8] | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    folder: Path | None = None,
    log: EpochLog | None = None,
    monitor: Monitor | None = None,
    progress: Progress | None = None,
) -> Encoder:
    """Train a network and its head so that two views of an image come close, others apart.

    Args:
        source: of the images at `settings.image_size`; see data/batches.py.
        rows: which of them to learn from: those that can be decoded.
        settings: `Pretrain()` unless given.
        pixels: (N, 3, S, S) some of the images, needed by a network whose first layer is learned
            from them.
        seed: of first weights, order of images, views and mixing.
        runtime: device, precision and processes; one CPU process by default.
        folder: of the checkpoint, from which an interrupted training goes on; None keeps none.
        log: gets a line an epoch.
        monitor: asked every `settings.monitor_every` epochs, on all processes; never decides.
        progress: told batches done and batches in all.

    Returns:
        the encoder in evaluation mode.

    Raises:
        NumericError: the loss is not finite.
        ConfigError: a batch cannot be shared among the processes.
    """
    settings = settings or Pretrain()
    runtime = runtime or Runtime.start(precision=settings.training.precision)
    made = build(settings, pixels, seed, rows)
    if len(rows) < 2 or settings.training.batch_size < 2:
        raise DataError(
            f"{len(rows)} images in batches of {settings.training.batch_size}; to tell images "
            "apart takes two of them in a batch, and some hundred to learn anything."
        )
    if settings.objective == "moco":
        made = _grouped(made, settings, len(rows), runtime.n_processes)
    encoder = runtime.prepare(made, compiled=True)
    batches = Batches(
        source,
        shuffled(rows, settings.training.batch_size, seed, n_processes=runtime.n_processes),
        device=runtime.device, rank=runtime.rank, n_processes=runtime.n_processes,
    )  # fmt: skip

    training = shortened(settings, len(batches))
    view = random_views(settings.views, normalization_of(settings, made.network), seed)
    step, state = _objective(encoder, view, settings, runtime, seed)

    def after_epoch(epoch: int, values: dict[str, float]) -> None:
        every = settings.monitor_every
        if monitor is not None and every and (epoch + 1) % every == 0:
            encoder.eval()
            values.update(monitor(_encoder(encoder)))
            encoder.train()

    encoder.train()
    train(
        step, batches, make_optimizers(training.optimizer, [encoder]), training,
        runtime=runtime, state=state, folder=folder, log=log, after_epoch=after_epoch,
        progress=progress,
    )  # fmt: skip
    return _encoder(encoder).eval()


def build(
    settings: Pretrain,
    pixels: NDArray[np.uint8] | None,
    seed: int,
    rows: NDArray[np.int64] | None = None,
) -> Encoder:
    """The network and head with their first weights.

    Args:
        settings: of both.
        pixels: (N, 3, S, S) that a first layer is learned from, by networks that do so.
        seed: of the weights.
        rows: which of the pixels; all by default.

    Raises:
        ConfigError: the network learns its first layer from images, and there are none.
    """
    backbone = network(settings.network, pixels=pixels, rows=rows, seed=seed)
    with drawn_from(seed + 1):
        head = _HEADS[settings.head](int(backbone.n_features))  # type: ignore[arg-type]
    return Encoder(backbone, head)


def normalization_of(settings: Pretrain, backbone: nn.Module) -> Normalization:
    """What is done to the colors of an image before this network sees it."""
    if settings.normalization == "network":
        return backbone.normalization  # type: ignore[return-value]
    return _NORMALIZATIONS[settings.normalization]


def shortened(settings: Pretrain, n_batches: int) -> Training:
    """The training with no more epochs than `most_updates` take."""
    training = settings.training
    if not settings.most_updates:
        return training
    updates = -(-n_batches // training.accumulate)  # an epoch
    return replace(training, epochs=min(training.epochs, -(-settings.most_updates // updates)))


def _encoder(prepared: nn.Module) -> Encoder:
    encoder = bare(prepared)
    assert isinstance(encoder, Encoder)  # noqa: S101 -- what `prepare` was given
    return encoder


def _grouped(encoder: Encoder, settings: Pretrain, n_images: int, n_processes: int) -> Encoder:
    """MoCo: batch norm that does not tell a key from the queue."""
    group = settings.queue.group_size
    n = min(settings.training.batch_size, n_images)
    if n % (n_processes * group):
        raise ConfigError(
            f"batches of {n} images on {n_processes} process{'es' * (n_processes > 1)} cannot be "
            f"normalized in groups of {group} (queue.group_size). Set pretrain.queue.group_size or "
            "pretrain.training.batch_size so that each process gets whole groups; a set of fewer "
            "images than the batch is one batch."
        )
    return Encoder(
        group_batch_norms(encoder.network, group), group_batch_norms(encoder.head, group)
    )


def _objective(
    encoder: nn.Module, view: View, settings: Pretrain, runtime: Runtime, seed: int
) -> tuple[Step, dict[str, Kept]]:
    """The step, and all that it changes."""
    state: dict[str, Kept] = {"encoder": encoder}
    if settings.objective == "nt-xent":
        return simclr_step(encoder, view, settings.temperature, runtime), state
    if settings.objective == "imix":
        return imix_step(encoder, view, settings.temperature, runtime, seed), state
    inner = _encoder(encoder)
    slow = MomentumEncoder(inner, settings.queue.momentum).to(runtime.device)
    n_out = int(inner.head.n_features)  # type: ignore[arg-type]
    bank = MemoryBank(settings.queue.size, n_out).to(runtime.device)
    step = moco_step(encoder, slow, bank, view, settings.temperature, runtime, seed)
    return step, {**state, "slow": slow, "bank": bank}
