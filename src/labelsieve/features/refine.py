"""Features refined by their own neighbors: an image and a neighbor are brought together.

Contrastive pretraining brings two views of one image together and knows of no classes. Once its
features are good enough that most neighbors are of one class, neighbors can take the place of the
second view: classes draw together, and new neighbors are better ones. Idea: Dwibedi et al., "With a
little help from my friends", ICCV 2021, who look neighbors up in a queue; here they are mined once
a round among all images, as SCAN mines them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.data.augment import Contrastive, Normalization
from labelsieve.data.batches import Batch, Batches, Source
from labelsieve.data.samplers import anchor_neighbor
from labelsieve.errors import ConfigError
from labelsieve.features.contrast import Encoder, Step, View, random_views
from labelsieve.features.objectives import nt_xent
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.optimizers import Optimizer, make_optimizers
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime, bare
from labelsieve.loop.train import Training, train
from labelsieve.records import Neighbors

Progress = Callable[[int, int], None]  # batches done, batches in all


@dataclass(frozen=True)
class Refine:
    """How features are refined. Defaults: the best tried on CIFAR-10 with recipe `cpu`."""

    rounds: int = 2  # of mining neighbors and training with them
    n_neighbors: int = 20  # one of which, or the image itself, is the other of each pair
    temperature: float = 0.2  # higher than in pretraining: not every neighbor is of the class
    views: Contrastive = field(default_factory=lambda: Contrastive(size=24))
    training: Training = field(
        default_factory=lambda: Training(
            epochs=8,
            batch_size=256,
            learning_rate=LearningRate(peak=0.02, warmup=0.03, final=0.0),
            optimizer=Optimizer(
                "muon", nesterov=True, second_momentum=0.98, weight_decay=0.0, relative=True,
                n_iterations=3, rest_factor=0.06,
            ),
            precision="fastest",
        )
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("rounds", "n_neighbors"):
            if getattr(self, name) < 1:
                raise ConfigError(f"refine.{name} is {getattr(self, name)}; at least 1 is needed.")
        if not self.temperature > 0:
            raise ConfigError(f"refine.temperature is {self.temperature}; it must be above 0.")


def refine(  # noqa: PLR0913 -- everything a training has, in one place
    source: Source,
    encoder: Encoder,
    neighbors: Neighbors,
    settings: Refine | None = None,
    *,
    rows: NDArray[np.int64],
    normalization: Normalization,
    seed: int = 0,
    runtime: Runtime | None = None,
    folder: Path | None = None,
    log: EpochLog | None = None,
    progress: Progress | None = None,
) -> Encoder:
    """One round: train an encoder so that an image and its neighbors come close, others apart.

    Args:
        source: of the images; see data/batches.py.
        encoder: a pretrained network and its head; trained in place.
        neighbors: of `rows`, among them.
        settings: `Refine()` unless given.
        rows: which images to learn from: those that can be decoded.
        normalization: of the pixels, as in pretraining.
        seed: of the order of images, neighbors and views.
        runtime: device, precision and processes; one CPU process by default.
        folder: of the checkpoint, from which an interrupted training goes on; None keeps none.
        log: gets a line an epoch.
        progress: told batches done and batches in all.

    Returns:
        the encoder, in evaluation mode.

    Raises:
        DataError: neighbors of other rows.
        NumericError: the loss is not finite.
    """
    settings = settings or Refine()
    runtime = runtime or Runtime.start(precision=settings.training.precision)
    model = runtime.prepare(encoder, compiled=True)
    batches = Batches(
        source,
        anchor_neighbor(
            neighbors.indices[:, : settings.n_neighbors], settings.training.batch_size, seed,
            rows=rows, n_processes=runtime.n_processes,
        ),
        device=runtime.device, rank=runtime.rank, n_processes=runtime.n_processes,
    )  # fmt: skip
    view = random_views(settings.views, normalization, seed)
    model.train()
    train(
        neighbor_step(model, view, settings.temperature, runtime), batches,
        make_optimizers(settings.training.optimizer, [model]), settings.training,
        runtime=runtime, state={"encoder": model}, folder=folder, log=log, progress=progress,
    )  # fmt: skip
    trained = bare(model)
    assert isinstance(trained, Encoder)  # noqa: S101 -- what `prepare` was given
    return trained.eval()


def neighbor_step(model: nn.Module, view: View, temperature: float, runtime: Runtime) -> Step:
    """NT-Xent between a view of each image and one of its neighbor, among all of the batch."""

    def step(batch: Batch) -> Mapping[str, Tensor]:
        views = [
            view(batch.images[:, place], batch.rows[:, place], batch.epoch, place)
            for place in (0, 1)
        ]
        first, second = model(torch.cat(views)).chunk(2)
        return {"loss": nt_xent(runtime.gather(first), runtime.gather(second), temperature)}

    return step
