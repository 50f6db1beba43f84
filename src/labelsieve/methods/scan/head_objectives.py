"""What heads learn on feature rows, and how: SCAN's objective, or TEMI's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.errors import ConfigError
from labelsieve.features.heads import ClusterHeads
from labelsieve.loop.checkpoints import Kept
from labelsieve.loop.optimizers import Average, Optimizer
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime, bare
from labelsieve.loop.train import Training
from labelsieve.methods.scan.losses import RunningMean, scan_loss
from labelsieve.methods.scan.row_batches import RowBatch
from labelsieve.methods.scan.scaled_heads import ScaledHeads, Scaling
from labelsieve.methods.scan.temi import agreement_weights, temi_loss

Step = Callable[[RowBatch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Temi:
    """What TEMI's objective has beside SCAN's. Defaults: the authors'."""

    beta: float = 0.6  # in (0.5, 1]: 1 makes clusters of unequal size, 0.5 of equal size
    temperature: float = 0.1  # logits are divided by it
    momentum: float = 0.996  # of the teacher, the average of the heads that also predicts
    keep: float = 0.9  # of the running mean of the teacher's probabilities at each batch
    weighted: bool = True  # pairs count by how surely the teacher takes them for one cluster

    def __post_init__(self) -> None:
        if not (0 < self.beta <= 1 and self.temperature > 0):
            raise ConfigError(
                f"temi.beta is {self.beta} and temi.temperature {self.temperature}; expected "
                "0 < beta <= 1, and a temperature above 0."
            )
        for name in ("momentum", "keep"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"temi.{name} is {getattr(self, name)}; expected 0 <= {name} < 1."
                )


@dataclass(frozen=True)
class HeadTraining:
    """How heads learn clusters on feature rows."""

    objective: Literal["scan", "temi"] = "scan"
    n_heads: int = 10
    # Heads whose validation loss is further above the lowest, as a share of ln C, do not predict: a
    # head may get stuck. 0: the one with the lowest alone, as in the paper.
    largest_difference: float = 0.02
    n_neighbors: int = 20  # nearest ones of each row that are drawn from; 0: all that are given
    entropy_weight: float = 5.0  # of scan
    # scan: the mean prediction, whose entropy is taken, is over anchors and neighbors; in the paper
    # over anchors.
    symmetric: bool = True
    keep: float = 0.0  # scan: of the mean prediction, at each batch; for batches below 5 * C rows
    temi: Temi = field(default_factory=Temi)
    scaling: Scaling = field(default_factory=Scaling)
    # Small sets get more epochs, so that there are so many updates in all. 0: training.epochs.
    least_updates: int = 1500
    # A warning is given where the validation loss stays further than this share of ln C above
    # -ln C, its lowest possible value.
    largest_gap: float = 0.5
    training: Training = field(
        default_factory=lambda: Training(
            epochs=20,
            batch_size=512,
            learning_rate=LearningRate(peak=0.5),
            optimizer=Optimizer("sgd", weight_decay=0.0),
        )
    )

    def __post_init__(self) -> None:
        if self.objective not in ("scan", "temi"):
            raise ConfigError(f"objective is {self.objective!r}; expected scan or temi.")
        for name, least in (
            ("n_heads", 1),
            ("n_neighbors", 0),
            ("largest_difference", 0),
            ("least_updates", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} or more.")
        if not (self.entropy_weight >= 0 and 0 <= self.keep < 1 and self.largest_gap >= 0):
            raise ConfigError(
                f"entropy_weight is {self.entropy_weight}, keep {self.keep}, largest_gap "
                f"{self.largest_gap}; expected 0 or more each, and keep below 1."
            )


def temi_heads() -> HeadTraining:
    """TEMI's objective, trained as long as SCAN's.

    Deviation: the authors' teacher, which keeps 0.996 of itself, would follow too slowly for that.
    """
    settings = HeadTraining(objective="temi", temi=Temi(momentum=0.95))
    rate = LearningRate(peak=0.03)
    return replace(settings, training=replace(settings.training, learning_rate=rate))


def lengthened(settings: HeadTraining, n_batches: int) -> Training:
    """The training with no fewer epochs than `least_updates` take."""
    training = settings.training
    updates = -(-n_batches // training.accumulate)  # an epoch
    return replace(training, epochs=max(training.epochs, -(-settings.least_updates // updates)))


class Objective(NamedTuple):
    """How heads learn, as `train_heads` uses it."""

    step: Step
    state: dict[str, Kept]  # all that the step changes
    predictor: Callable[[], ClusterHeads]  # the heads that predict, as they are now


def scan_objective(
    model: nn.Module,
    n_clusters: int,
    settings: HeadTraining,
    prior: NDArray[np.float64] | None,
    runtime: Runtime,
) -> Objective:
    """SCAN's: an image and its neighbor get one cluster, and all are used.

    Source: SCAN, eq. 2. Heads learn apart: their losses are added.
    """
    shares = None if prior is None else torch.as_tensor(prior, device=runtime.device).float()
    running = RunningMean(settings.n_heads, n_clusters, settings.keep).to(runtime.device)

    def step(batch: RowBatch) -> dict[str, Tensor]:
        anchors, neighbors = _pair(model(batch.rows), runtime)
        if settings.symmetric:
            anchors, neighbors = (
                torch.cat([anchors, neighbors], dim=1), torch.cat([neighbors, anchors], dim=1)
            )  # fmt: skip
        found = scan_loss(
            anchors, neighbors, settings.entropy_weight, prior=shares, before=running.mean,
            keep=settings.keep,
        )  # fmt: skip
        if settings.keep > 0:
            running.update(anchors)
        return {
            "loss": found.loss.sum(),
            "consistency": found.consistency.mean(),
            "batch_entropy": found.entropy.mean(),
        }

    return Objective(step, {"heads": model, "running": running}, lambda: _scaled(model).predictor())


def temi_objective(
    model: nn.Module,
    n_clusters: int,
    settings: HeadTraining,
    prior: NDArray[np.float64] | None,
    optimizers: list[torch.optim.Optimizer],
    runtime: Runtime,
) -> Objective:
    """TEMI's: each of a pair tells a slow teacher's view of the other much. The teacher predicts.

    Source: TEMI, eq. 7; see temi.py. Both of a pair learn from the other.
    """
    if prior is not None:
        raise ConfigError("objective is temi; a prior goes with scan only. Set objective=scan.")
    chosen = settings.temi
    teacher = Average(model, chosen.momentum)
    teacher.follow(optimizers[-1])
    running = RunningMean(settings.n_heads, n_clusters, chosen.keep).to(runtime.device)

    def step(batch: RowBatch) -> dict[str, Tensor]:
        student_a, student_b = _pair(model(batch.rows), runtime)
        with torch.no_grad():
            teacher_a, teacher_b = _pair(teacher(batch.rows), runtime)
        means = running.update(torch.cat([teacher_a, teacher_b], dim=1) / chosen.temperature)
        weights = None
        if chosen.weighted:
            weights = agreement_weights(teacher_a, teacher_b, chosen.temperature)
        directions = ((student_a, teacher_b), (student_b, teacher_a))
        losses = [
            temi_loss(student, guide, means, chosen.beta, chosen.temperature, weights)
            for student, guide in directions
        ]
        return {"loss": torch.stack(losses).mean(dim=0).sum()}

    state: dict[str, Kept] = {"heads": model, "teacher": teacher, "running": running}
    return Objective(step, state, lambda: _scaled(teacher.module).predictor(chosen.temperature))


def _pair(logits: Tensor, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Logits (H, B, C) of the anchors of the global batch, and of their neighbors."""
    parts = logits.chunk(2, dim=1)
    if runtime.n_processes > 1:
        parts = tuple(runtime.gather(part.transpose(0, 1)).transpose(0, 1) for part in parts)
    return parts[0], parts[1]


def _scaled(module: nn.Module) -> ScaledHeads:
    found = bare(module)
    assert isinstance(found, ScaledHeads)  # noqa: S101 -- what `prepare` was given
    return found
