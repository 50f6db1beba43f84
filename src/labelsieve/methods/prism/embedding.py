"""Training an embedding for retrieval on labels some of which are wrong, on images or rows.

::

    Embed             the settings of a training
    train_embedding   trains, by the one loop
    embed             what a trained embedder makes of images as they are
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.data.augment import Contrastive, Weak
from labelsieve.data.batches import Batches, Source
from labelsieve.data.samplers import Sampler, grouped, in_epochs_of
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.heads import width_of
from labelsieve.features.inference import clean_outputs
from labelsieve.features.rows import Rows
from labelsieve.features.shown import Views
from labelsieve.features.weights import drawn_from
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.optimizers import Optimizer
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime, bare
from labelsieve.loop.train import Training, train
from labelsieve.methods.prism.embedder import Embedder, linear_head
from labelsieve.methods.prism.filter import CleanFilter, Filter
from labelsieve.methods.prism.objectives import (
    Loss,
    Pairs,
    Proxies,
    objective_of,
    optimizers_of,
)
from labelsieve.methods.prism.steps import Tally, embedding_step

__all__ = ["Embed", "Pairs", "Proxies", "TrainedEmbedding", "embed", "train_embedding"]

Progress = Callable[[int, int], None]  # batches done, in all
Embeds = Callable[[Source, NDArray[np.int64]], NDArray[np.float32]]  # as they are: (n, D) unit rows
Test = Callable[[Embeds], Mapping[str, float]]  # what the log says of other images


def adam(epochs: int, peak: float = 3e-5, batch_size: int = 64) -> Training:
    """How PRISM trains: Adam under a cosine to 0; weight decay also of biases and norms."""
    return Training(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=LearningRate(peak=peak, final=0.0),
        optimizer=Optimizer("adam", weight_decay=5e-4, decay_all=True),
    )


@dataclass(frozen=True)
class Embed:
    """How an embedding is trained. Defaults: PRISM on CARS-98N, but that it estimates the noise."""

    loss: Pairs | Proxies = field(default_factory=Pairs)
    filter: Filter | None = field(default_factory=Filter)  # none: nothing is filtered
    dim: int = 512  # numbers of a row
    images_per_class: int = 4  # in a batch, of training.batch_size / this classes: 16, as published
    # Of the weights, in all: the epochs, which are what the log has lines for, share them evenly.
    # 0: an epoch is a pass over the images.
    updates: int = 4000
    weak: Weak = field(default_factory=lambda: Weak(size=224, padding=0))  # and the size of tests
    # What is shown in training; none: weak views.
    crops: Contrastive | None = field(
        default_factory=lambda: Contrastive(size=224, jitter_rate=0.0, gray_rate=0.0)
    )
    test_every: int = 1  # epochs between two evaluations on test images; 0: only at the end
    training: Training = field(default_factory=lambda: adam(epochs=40))

    def __post_init__(self) -> None:
        for name, least in (
            ("dim", 1), ("images_per_class", 2), ("updates", 0), ("test_every", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} or more.")
        if self.training.batch_size % self.images_per_class or self.classes_per_batch < 2:
            raise ConfigError(
                f"training.batch_size is {self.training.batch_size} and images_per_class "
                f"{self.images_per_class}; expected a multiple of that, of 2 classes at least."
            )
        if 0 < self.updates < self.training.epochs:
            raise ConfigError(
                f"updates is {self.updates} and training.epochs {self.training.epochs}; expected "
                "at least one update an epoch."
            )
        if self.crops is not None and self.crops.size != self.weak.size:
            raise ConfigError(
                f"crops.size is {self.crops.size} and weak.size {self.weak.size}; expected one "
                "size, that of what the network is shown. Set both."
            )

    @property
    def classes_per_batch(self) -> int:
        """Classes that a batch has images of."""
        return self.training.batch_size // self.images_per_class


class TrainedEmbedding(NamedTuple):
    """What came of a training: that of its last epoch."""

    embedder: Embedder  # in evaluation mode
    filter: CleanFilter | None
    noise_rate: float | None  # that the filter used in the end; None: there was none
    # (N,) of the second half of the training: how often an image's label was judged, and how often
    # it was kept then. Zeros where nothing was filtered.
    times_judged: NDArray[np.int64]
    times_kept: NDArray[np.int64]
    warnings: tuple[str, ...]


def train_embedding(  # noqa: PLR0913 -- everything a training has, in one place
    source: Source,
    network: nn.Module,
    labels: NDArray[np.int64],
    n_classes: int,
    settings: Embed | None = None,
    *,
    rows: NDArray[np.int64],
    views: Views,
    loss: Loss | None = None,
    test: Test | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    folder: Path | None = None,
    log: EpochLog | None = None,
    progress: Progress | None = None,
) -> TrainedEmbedding:
    """Train a network, and a linear layer on it, so that images of a class lie close together.

    The last epoch is given back, whatever a test says of it or of another.

    Args:
        source: of N images, or of N rows of features (`of_rows`).
        network: (B, 3, S, S) to (B, n_features), or `Rows`; stays as it is, a copy is trained.
        labels: (N,) as given, some of them wrong; images of a negative one are not learned from.
        n_classes: C, at least 2.
        settings: `Embed()` unless given.
        rows: which images to learn from: those that can be decoded.
        views: what the network is shown: the strong views where there are any, else the weak ones.
        loss: in place of that of the settings: any of unit rows (n, D) and labels (n,), such as one
            of pytorch-metric-learning. What weights it has are trained like those of the network.
        test: asked every `settings.test_every` epochs, and at the end, on all processes, for values
            such as "test_precision_at_1"; it gets what embeds any rows of any source. Never decides
            anything.
        seed: of new layers, and of the batches.
        runtime: device, precision and processes; one CPU process by default.
        folder: of the checkpoint, from which an interrupted training goes on; None keeps none.
        log: gets a line an epoch.
        progress: told batches done and batches in all.

    Raises:
        DataError: fewer than two classes to learn from, or labels that do not fit.
        ConfigError: a batch that cannot be shared among the processes.
        NumericError: the loss is not finite.
    """
    settings = settings or Embed()
    runtime = runtime or Runtime.start(precision=settings.training.precision)
    labels = np.array(labels, np.int64)
    rows = _learned(source, labels, n_classes, rows)
    sampler = _sampler(settings, labels, rows, seed, runtime.n_processes)
    training = replace(settings.training, batch_size=sampler.batch_size)
    embedder = new_embedder(network, settings.dim, seed)
    prepared = runtime.prepare(embedder, compiled=True)
    sieve = None
    if settings.filter is not None:
        sieve = CleanFilter(n_classes, settings.dim, len(rows), settings.filter)
        sieve = sieve.to(runtime.device)
    objective = objective_of(
        settings.loss if loss is None else loss, n_classes, settings.dim, len(rows), sieve,
        seed + 1, runtime,
    )  # fmt: skip
    tally = Tally(len(source), len(sampler) * training.epochs // 2).to(runtime.device)
    step = embedding_step(
        prepared, views.strong or views.weak, torch.from_numpy(labels).to(runtime.device),
        objective, sieve, tally, runtime=runtime, n_batches=len(sampler),
    )  # fmt: skip
    prepared.train()
    history = train(
        step,
        Batches(
            source, sampler,
            device=runtime.device, rank=runtime.rank, n_processes=runtime.n_processes,
        ),
        optimizers_of(objective, prepared, training.optimizer, training.learning_rate.peak),
        training, runtime=runtime, folder=folder, log=log, progress=progress,
        state={
            "embedder": prepared, "tally": tally, **objective.parts,
            **({} if sieve is None else {"filter": sieve}),
        },
        after_epoch=_after_epoch(settings, embedder, views, test, runtime),
    )  # fmt: skip
    return TrainedEmbedding(
        embedder.eval(), sieve, None if sieve is None else sieve.noise_rate,
        tally.judged.cpu().numpy(), tally.kept.cpu().numpy(),
        tuple(_warnings(history, sieve, tally)),
    )  # fmt: skip


def new_embedder(network: nn.Module, dim: int, seed: int) -> Embedder:
    """A copy of a network, and a new linear layer on it: what training begins with.

    On turned rows the layer begins as the rows themselves: a random one loses 2 to 4 points of
    Precision@1 that training does not bring back where classes are few.
    """
    as_given = isinstance(network, Rows) and network.settings.turned and network.hidden is None
    with drawn_from(seed):
        head = linear_head(width_of(network), dim, identity=as_given)
    return Embedder(copy.deepcopy(network), head)


def embed(
    embedder: nn.Module,
    source: Source,
    rows: NDArray[np.int64],
    clean: Callable[[Tensor], Tensor],
    runtime: Runtime,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """The rows that an embedder makes of images as they are; all processes must ask.

    Args:
        embedder: moved to the runtime's device.
        source: of the images.
        rows: which of them: those that can be decoded.
        clean: what the network is shown of an image as it is: of `Views`.
        runtime: device, precision and processes.
        progress: told images done and images in all.

    Returns:
        (len(rows), D) float32, of unit length.
    """
    module = bare(embedder).to(runtime.device)

    def answer(images: Tensor) -> Tensor:
        with runtime.autocast():
            return module(images)  # type: ignore[no-any-return]

    found = clean_outputs(
        answer, (module,), source, rows, clean, runtime=runtime, progress=progress
    )
    return found.numpy()


def _learned(
    source: Source, labels: NDArray[np.int64], n_classes: int, rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The rows that have a label."""
    if labels.shape != (len(source),):
        raise DataError(
            f"labels of shape {labels.shape} for {len(source)} images; expected one each."
        )
    if labels.max(initial=-1) >= n_classes:
        raise DataError(
            f"labels run up to {labels.max()}; expected less than n_classes={n_classes}."
        )
    rows = rows[labels[rows] >= 0]
    n = len(np.unique(labels[rows]))
    if n < 2:
        raise DataError(
            f"the images to learn from are of {n} class{'' if n == 1 else 'es'}; at least 2 are "
            "needed to tell apart."
        )
    return rows


def _sampler(
    settings: Embed, labels: NDArray[np.int64], rows: NDArray[np.int64], seed: int, n_processes: int
) -> Sampler:
    sampler = grouped(
        labels, settings.classes_per_batch, settings.images_per_class, seed,
        rows=rows, n_processes=n_processes,
    )  # fmt: skip
    if not settings.updates:
        return sampler
    n_batches = settings.updates * settings.training.accumulate / settings.training.epochs
    return in_epochs_of(sampler, round(n_batches))


def _after_epoch(
    settings: Embed, embedder: Embedder, views: Views, test: Test | None, runtime: Runtime
) -> Callable[[int, dict[str, float]], None] | None:
    if test is None:
        return None
    every, epochs = settings.test_every, settings.training.epochs
    embeds: Embeds = functools.partial(_as_they_are, embedder, views.clean, runtime)

    def after_epoch(epoch: int, values: dict[str, float]) -> None:
        done = epoch + 1
        if done == epochs or (every > 0 and done % every == 0):
            values.update(test(embeds))

    return after_epoch


def _as_they_are(
    embedder: Embedder,
    clean: Callable[[Tensor], Tensor],
    runtime: Runtime,
    source: Source,
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    return embed(embedder, source, rows, clean, runtime)


def _warnings(
    history: list[dict[str, float]], sieve: CleanFilter | None, tally: Tally
) -> Iterator[str]:
    """When and why the result should not be trusted."""
    if sieve is None:
        return
    if not int(tally.judged.sum()):
        yield (
            "No label was judged in the second half of the training: at no time half of a batch "
            "were of a class that the memory knew. Train for more updates, or lower "
            "filter.least_scored."
        )
    elif not any("loss" in values for values in history[len(history) // 2 :]):
        yield "In the second half of the training nothing was kept. Lower filter.noise_rate."
