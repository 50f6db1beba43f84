"""SCAN: the whole network, or heads on it, learns that an image and its neighbor are of one class.

::

    train_scan     trains, and gives the epoch and the head of the lowest validation loss
    clean_logits   what a network and its heads say of images as they are

Labels have no place here: nothing in this module takes any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.data.augment import Contrastive, Normalization, contrastive_view
from labelsieve.data.batches import Batch, Batches, Source
from labelsieve.data.draws import Draws
from labelsieve.data.samplers import anchor_neighbor
from labelsieve.data.strong import Strong, strong_view
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.contrast import Step, View
from labelsieve.features.heads import ClusterHeads, width_of
from labelsieve.features.inference import clean_of, take_statistics
from labelsieve.features.weights import drawn_from
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.optimizers import Optimizer, make_optimizers
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import Training, train
from labelsieve.methods.scan.clusterer import (
    Clusterer,
    as_trainable_as,
    clean_logits,
    clusterer,
    gathered,
    one_head,
    train_mode,
)
from labelsieve.methods.scan.health import Health, health
from labelsieve.methods.scan.losses import RunningMean, scan_loss
from labelsieve.methods.scan.selection import Best, Judge, Watch
from labelsieve.records import Neighbors

__all__ = [
    "ScanTraining",
    "TrainedScan",
    "adam",
    "check_rows",
    "clean_logits",
    "scan_step",
    "train_scan",
    "view_of",
]

Progress = Callable[[int, int], None]  # batches done, batches in all


def adam(epochs: int, batch_size: int) -> Training:
    """How SCAN trains whole networks: Adam, a constant rate of 1e-4, decay on every weight."""
    return Training(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=LearningRate(peak=1e-4, shape="constant"),
        optimizer=Optimizer("adam", weight_decay=1e-4, decay_all=True),
    )


_LEAST = {"n_heads": 1, "clean_size": 1, "clean_norms": 0, "patience": 0}


@dataclass(frozen=True)
class ScanTraining:
    """How SCAN's second step trains. Defaults: CIFAR-10 in the authors' code."""

    # Of an anchor and of its neighbor: strong on small images, contrastive on ImageNet.
    augmentation: Literal["strong", "contrastive"] = "strong"
    strong: Strong = field(default_factory=Strong)
    contrastive: Contrastive = field(default_factory=Contrastive)
    clean_size: int = 32  # side of the views without augmentation that are evaluated, pixels
    n_heads: int = 1  # that learn side by side; the one of the lowest validation loss is chosen
    entropy_weight: float = 5.0  # lambda: how much all clusters must be used
    # Share of earlier batches in the mean whose entropy is taken, in [0, 1): for batches of less
    # than some ten images a cluster. 0: this batch alone, as the reference has it.
    keep: float = 0.0
    # heads: the network stays as it is, its batch norms too, as on ImageNet.
    trained: Literal["all", "heads"] = "all"
    # Whether heads that are given, on the network as it was, compete with what comes of training.
    start_counts: bool = True
    # Training images, without augmentation, from which batch norms take their statistics before
    # each evaluation. 0: those of the augmented views, as in the authors' code.
    clean_norms: int = 2048
    patience: int = 5  # epochs in a row with fewer clusters than the best one; 0: never stop
    training: Training = field(default_factory=lambda: adam(epochs=50, batch_size=128))

    def __post_init__(self) -> None:
        parts = {"augmentation": ("strong", "contrastive"), "trained": ("all", "heads")}
        for name, known in parts.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}."
                )
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} or more.")
        if self.entropy_weight < 0 or not 0 <= self.keep < 1:
            raise ConfigError(
                f"entropy_weight is {self.entropy_weight} and keep {self.keep}; expected 0 or "
                "more, and 0 <= keep < 1."
            )


class TrainedScan(NamedTuple):
    """A network and the one head on it that were chosen."""

    network: nn.Module  # (B, 3, S, S) to (B, D); in evaluation mode, on the runtime's device
    heads: ClusterHeads  # of one head
    epoch: int  # the one chosen, from 0; -1 where what was given is better than any
    loss: float  # on the validation images: of SCAN, or how doubtful self-labels are
    warnings: tuple[str, ...]


def train_scan(  # noqa: PLR0913 -- everything a training has, in one place
    source: Source,
    network: nn.Module,
    neighbors: Neighbors,
    n_clusters: int,
    settings: ScanTraining | None = None,
    *,
    rows: NDArray[np.int64],
    valid_rows: NDArray[np.int64],
    valid_neighbors: Neighbors,
    normalization: Normalization,
    heads: ClusterHeads | None = None,
    prior: NDArray[np.floating[Any]] | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    folder: Path | None = None,
    log: EpochLog | None = None,
    progress: Progress | None = None,
) -> TrainedScan:
    """Train a network so that an image and its neighbors come into one of so many clusters.

    Source: SCAN, section 2.2. Each image is an anchor once an epoch; its partner is one of its K
    neighbors or itself, each equally often. After each epoch the loss on the validation images, as
    they are and with an entropy weight of 1, is found for each head; the lowest of all decides what
    is given back. Where an epoch uses fewer clusters than the best one so far, and so do those that
    follow, training stops.

    Args:
        source: of the images; see data/batches.py.
        network: pretrained, (B, 3, S, S) to (B, n_features); stays as it is, a copy is trained.
        neighbors: of `rows`, as indices into `rows`.
        n_clusters: C, at least 2.
        settings: `ScanTraining()` unless given.
        rows: which images to learn from: those that can be decoded.
        valid_rows: images by which epoch and head are chosen.
        valid_neighbors: of `valid_rows` among themselves; the authors use five each.
        normalization: of the pixels, as in pretraining.
        heads: to begin with, such as those of `train_heads`; a copy is trained, and as they are
            they are chosen among. New ones, of `settings.n_heads`, by default.
        prior: (C,) expected sizes of the clusters, of any sum and in any order, where they are
            known to differ.
        seed: of new heads, partners, order of images, and views.
        runtime: device, precision and processes; one CPU process by default.
        folder: of the checkpoint, from which an interrupted training goes on; None keeps none.
        log: gets a line an epoch.
        progress: told batches done and batches in all.

    Raises:
        DataError: fewer images than clusters, no validation images, or neighbors of other rows.
        ConfigError: heads or a prior of another shape.
        NumericError: the loss is not finite.
    """
    settings = settings or ScanTraining()
    runtime = runtime or Runtime.start(precision=settings.training.precision)
    check_rows(rows, valid_rows, n_clusters)
    judge = Judge(valid_neighbors, len(valid_rows), settings.entropy_weight, prior, n_clusters)
    with drawn_from(seed):
        made = heads or ClusterHeads(width_of(network), n_clusters, settings.n_heads)
    inner = Clusterer(network, made, n_clusters)
    if settings.trained == "heads":
        inner.network.requires_grad_(False)
    model = runtime.prepare(inner, compiled=True)
    inner = clusterer(model)
    batches = Batches(
        source,
        anchor_neighbor(
            neighbors.indices, settings.training.batch_size, seed, rows=rows,
            n_processes=runtime.n_processes,
        ),
        device=runtime.device, rank=runtime.rank, n_processes=runtime.n_processes,
    )  # fmt: skip
    running = RunningMean(inner.heads.settings.n_heads, n_clusters, settings.keep)
    running = running.to(runtime.device)
    best, watch = Best({"clusterer": model}), Watch(settings.patience)

    def validate(epoch: int) -> tuple[Health, bool, dict[str, float]]:
        logits = clean_logits(
            inner.network, inner.heads, source, valid_rows, normalization, settings.clean_size,
            runtime=runtime,
        )  # fmt: skip
        losses, values = judge(logits)
        head = int(losses.argmin())
        now = health(logits[head].softmax(1))
        return now, best.offer(epoch, float(losses[head]), head), {**values, **now.to_log()}

    def after_epoch(epoch: int, values: dict[str, float]) -> bool:
        if settings.clean_norms and settings.trained == "all":
            take_statistics(
                inner, source, rows, settings.clean_norms,
                clean_of(settings.clean_size, normalization), runtime=runtime,
            )  # fmt: skip
        now, is_best, found = validate(epoch)
        values.update(found)
        return watch.look(epoch, now, None if is_best else watch.lost(now), is_new=is_best)

    if heads is not None and settings.start_counts:  # they may be better than all that follows
        watch.look(-1, validate(-1)[0], None, is_new=True)
    train_mode(inner, frozen_network=settings.trained == "heads")
    train(
        scan_step(model, view_of(settings, normalization, seed), settings, running, runtime, prior),
        batches, make_optimizers(settings.training.optimizer, [model]), settings.training,
        runtime=runtime, state={"clusterer": model, "running": running, "best": best,
                                "watch": watch},
        folder=folder, log=log, after_epoch=after_epoch, progress=progress,
    )  # fmt: skip
    best.restore()
    return TrainedScan(
        as_trainable_as(network, inner.network).eval(),
        one_head(inner.heads, best.head).eval(),
        best.epoch,
        best.loss,
        watch.warnings(best.epoch),
    )


def scan_step(
    model: nn.Module,
    view: View,
    settings: ScanTraining,
    running: RunningMean,
    runtime: Runtime,
    prior: NDArray[np.floating[Any]] | None = None,
) -> Step:
    """A batch of anchors and one of neighbors: two passes, each with its own batch statistics.

    Source: SCAN, eq. 2, as the authors' code has it. The loss is that of the global batch, summed
    over heads; these learn apart but for the network they share.

    Args:
        model: a `Clusterer`, prepared.
        view: of the images of a batch.
        settings: of the loss.
        running: mean probabilities of earlier batches; brought up to date by each step.
        runtime: that gathers the batch.
        prior: (C,) expected sizes of the clusters, of any sum and in any order.
    """
    shares = None
    if prior is not None:
        shares = torch.as_tensor(np.sort(prior) / np.sum(prior), device=runtime.device).float()

    def step(batch: Batch) -> dict[str, Tensor]:
        anchors, neighbors = (
            gathered(
                model(view(batch.images[:, place], batch.rows[:, place], batch.epoch, place)),
                runtime,
            )
            for place in (0, 1)
        )
        before = running.mean.clone()
        mean = running.update(anchors)
        expected = None
        if shares is not None:
            # The smallest share belongs to the smallest cluster, and so on: which cluster becomes
            # which class is open, and clusters bound to the share of another class are lost.
            order = mean.argsort(dim=1, stable=True)  # (H, C)
            places = order[:, None].expand_as(anchors)
            anchors, neighbors = anchors.gather(2, places), neighbors.gather(2, places)
            before = before.gather(1, order)
            # Equal shares for a quarter of the training, those of the prior from three quarters on:
            # else a cluster of which little is expected may never find its class, as some doubt
            # about all images gives it that little as well.
            known = min(1.0, max(0.0, 2 * batch.epoch / settings.training.epochs - 0.5))
            expected = torch.lerp(torch.full_like(shares, 1 / len(shares)), shares, known)
        found = scan_loss(
            anchors, neighbors, settings.entropy_weight, prior=expected, before=before,
            keep=settings.keep,
        )  # fmt: skip
        return {
            "loss": found.loss.sum(),
            "consistency": found.consistency.mean(),
            "batch_entropy": found.entropy.mean(),
        }

    return step


class Augmented(Protocol):
    """Settings that say how images are augmented."""

    @property
    def augmentation(self) -> Literal["strong", "contrastive"]: ...
    @property
    def strong(self) -> Strong: ...
    @property
    def contrastive(self) -> Contrastive: ...


def view_of(settings: Augmented, normalization: Normalization, seed: int) -> View:
    """The augmentation of the settings; views of other numbers are other draws."""

    def strong(images: Tensor, rows: Tensor, epoch: int, place: int) -> Tensor:
        return strong_view(images, settings.strong, Draws(seed, epoch, rows, place), normalization)

    def contrastive(images: Tensor, rows: Tensor, epoch: int, place: int) -> Tensor:
        draws = Draws(seed, epoch, rows, place)
        return contrastive_view(images, settings.contrastive, draws, normalization)

    return strong if settings.augmentation == "strong" else contrastive


def check_rows(rows: NDArray[np.int64], valid_rows: NDArray[np.int64], n_clusters: int) -> None:
    """Raise where there is too little to learn from, or nothing to choose by."""
    if n_clusters < 2:
        raise ConfigError(f"n_clusters is {n_clusters}; at least 2 are needed.")
    if len(rows) < n_clusters:
        raise DataError(
            f"{len(rows)} images for {n_clusters} clusters; expected more images than clusters. "
            "Give more images, or ask for fewer clusters."
        )
    if len(valid_rows) == 0:
        raise DataError(
            "there are no validation images; the epoch and the head are chosen by images that are "
            "not trained on. Hold some out, such as a tenth."
        )
