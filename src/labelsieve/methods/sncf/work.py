"""What a classifier's training hands to its objective, and what the objective hands back.

::

    Work     the model, the images, what is believed of them: all that an objective needs
    Phase    a step for each batch, and which batches: one call of the one loop

An objective is its settings, a frozen dataclass, with a method `phases(work) -> list[Phase]`.
Images and rows of frozen features are trained on alike, so that no objective need know which of
them it has: see `features/shown.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelsieve.data.samplers import Sampler
from labelsieve.data.sources import Source
from labelsieve.features.contrast import Step
from labelsieve.features.shown import Views
from labelsieve.loop.checkpoints import Kept
from labelsieve.loop.optimizers import Average
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import Training
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.classifier import Prepared


class Work(NamedTuple):
    """One training of a classifier, as its objective sees it."""

    model: Prepared  # model(images, project=True) -> Answers(logits, projections)
    average: Average | None  # of the model's weights, if they are averaged; a `NoisyClassifier`
    views: Views
    beliefs: Beliefs  # of all N images of the source
    rows: NDArray[np.int64]  # (M,) the images that may be trained on
    n_classes: int  # C
    training: Training  # epochs, batch size and schedule of all phases together
    runtime: Runtime
    seed: int
    source: Source  # of all N images, for an objective that asks its network in its own way

    @property
    def contrasts(self) -> bool:
        """Whether there is what a contrastive loss needs: a projection head and strong views."""
        return self.model.projection is not None and self.views.strong is not None

    def on_device(self, values: NDArray[Any]) -> Tensor:
        """A column of the beliefs where the network is, to be indexed by `batch.rows`."""
        # a copy: torch warns of arrays that cannot be written to, such as memory-mapped ones
        return torch.from_numpy(np.array(values)).to(self.runtime.device)


class Phase(NamedTuple):
    """A part of a training with batches and a step of its own.

    The model, its average, the optimizers and their momentum go on from phase to phase.
    """

    name: str  # of its lines in the log, and of the folder of its checkpoint
    sampler: Sampler
    training: Training  # as that of `Work`, or its part (`part_of`)
    step: Step
    # what step and after_epoch change, beside the model, its average and the optimizers
    state: Mapping[str, Kept] = MappingProxyType({})
    # told the number of an epoch that ended, of this phase; its values go into the log
    after_epoch: Callable[[int], Mapping[str, float]] | None = None


class Objective(Protocol):
    """Settings that say what a classifier learns."""

    def phases(self, work: Work) -> list[Phase]:
        """The phases, in order; almost always one."""


@dataclass(frozen=True)
class PartOfSchedule(LearningRate):
    """The learning rate in some epochs of a longer training."""

    before: int = 0  # epochs of the phases before
    epochs: int = 1  # of this one
    whole: int = 1  # of all phases

    def at(self, progress: float) -> float:
        """The rate when this share of the phase is done."""
        # Rounded, so that a cut at epoch 50 is not missed where 20 / 70 * 70 is 19.999999999999996.
        done = self.before + round(progress * self.epochs, 6)
        return super().at(done / self.whole)


def part_of(training: Training, before: int, epochs: int) -> Training:
    """Some epochs of a training, at the learning rates that they have within the whole of it.

    Args:
        training: the whole.
        before: its epochs that are trained before these.
        epochs: of this part, 1 or more.

    Example:
        >>> rate = LearningRate(peak=1.0, shape="steps", cuts=(0.5,))
        >>> later = part_of(Training(epochs=100, learning_rate=rate), before=30, epochs=70)
        >>> later.learning_rate.at(19 / 70), later.learning_rate.at(20 / 70)
        (1.0, 0.1)
    """
    rate = PartOfSchedule(
        **vars(training.learning_rate), before=before, epochs=epochs, whole=training.epochs
    )
    return replace(training, epochs=epochs, learning_rate=rate)
