"""What a classifier's training hands to its objective, and what the objective hands back.

::

    Work     the model, the images, what is believed of them: all that an objective needs
    Views    what a network is shown of a batch
    Phase    a step for each batch, and which batches: one call of the one loop

An objective is its settings, a frozen dataclass, with a method `phases(work) -> list[Phase]`.
Images and rows of frozen features are trained on alike: of rows, a batch is (B, D) and views are
functions of rows, so that no objective need know which of them it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelsieve.checkpoints import Kept
from labelsieve.data.augment import Contrastive, Normalization, Weak, weak_view
from labelsieve.data.draws import Draws, Stream
from labelsieve.data.samplers import Sampler
from labelsieve.data.sources import Source
from labelsieve.features.contrast import Step, View, random_views
from labelsieve.features.inference import middle_of
from labelsieve.loop import LearningRate, Training
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.classifier import Prepared
from labelsieve.optimizers import Average
from labelsieve.runtime import Runtime

# Numbers of an image's views in an epoch, for `Views`: each is another draw.
WEAK = (0, 1)
STRONG = (2, 3)


class Views(NamedTuple):
    """What a network is shown of the images of a batch, or of its rows."""

    weak: View  # (images, rows, epoch, number) to network inputs: hardly changed
    strong: View | None  # as different as two views of an image may be; None: nothing is contrasted
    clean: Callable[[Tensor], Tensor]  # as they are: what predictions are made of


def image_views(
    weak: Weak, strong: Contrastive | None, normalization: Normalization, seed: int
) -> Views:
    """Views of images: shifted and mirrored; cropped and recolored; the middle as it is.

    Args:
        weak: their settings, and the size of clean views.
        strong: settings; None where nothing is contrasted.
        normalization: of the pixels, as the network expects them.
        seed: of all draws.
    """

    def weakly(images: Tensor, rows: Tensor, epoch: int, number: int) -> Tensor:
        return weak_view(images, weak, Draws(seed, epoch, rows, number), normalization)

    strongly = None if strong is None else random_views(strong, normalization, seed)
    return Views(weakly, strongly, middle_of(weak.size, normalization))


def row_views(
    views: NDArray[np.floating[Any]] | None, device: torch.device, seed: int, noise: float = 0.0
) -> Views:
    """Views of rows of features: the rows with some noise, or some of several views made before.

    Args:
        views: (R, N, D) features of R augmented views of each of the N images; may be
            memory-mapped on a CPU, and is copied to a GPU. None: there are the rows alone, and
            nothing to contrast.
        device: of the runtime.
        seed: of which view is taken.
        noise: standard deviation of what is added to each number of a row that has no views. It is
            uniform: over so many columns its shape does not show.
    """

    def blurred(values: Tensor, rows: Tensor, epoch: int, number: int) -> Tensor:
        drawn = Draws(seed, epoch, rows, number).uniform(Stream.NOISE, values.shape[1])
        return values + drawn.sub_(0.5).mul_(noise * math.sqrt(12))

    if views is None:
        weak = blurred if noise else lambda values, *_: values
        return Views(weak, None, lambda values: values)
    n_views, on_cpu = len(views), device.type == "cpu"
    held = None if on_cpu else torch.from_numpy(np.array(views)).to(device)

    def drawn(values: Tensor, rows: Tensor, epoch: int, number: int) -> Tensor:
        draws = Draws(seed, epoch, rows, number)
        which = draws.integers(Stream.CACHED_VIEW, n_views)[:, 0]
        if held is not None:
            return held[which, rows].to(values)
        return torch.from_numpy(views[which.numpy(), rows.numpy()]).to(values)

    return Views(drawn, drawn, lambda rows: rows)


class Work(NamedTuple):
    """One training of a classifier, as its objective sees it."""

    model: Prepared  # model(images, project=True) -> Answers(logits, projections)
    average: Average | None  # of the model's weights, if they are averaged; a `NoisyClassifier`
    # (M, C) float32 on the CPU: probabilities of `rows` as they are, by the averaged network where
    # there is one. A forward pass of all of them; all processes must ask.
    predict: Callable[[], Tensor]
    views: Views
    beliefs: Beliefs  # of all N images of the source
    rows: NDArray[np.int64]  # (M,) the images that may be trained on
    n_classes: int  # C
    training: Training  # epochs, batch size and schedule of all phases together
    runtime: Runtime
    seed: int
    warn: Callable[[str], None]  # says when and why the result should not be trusted
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
