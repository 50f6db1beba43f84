"""Training on labels as they are: what robust training is compared with.

Cross-entropy, with mixup or without, and two losses made for wrong labels; on all labeled images,
or on those that are believed to be clean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from labelsieve.data.batches import Batch
from labelsieve.data.draws import batch_generator
from labelsieve.data.mixing import mixing
from labelsieve.data.samplers import shuffled
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.contrast import Step
from labelsieve.features.momentum import exchange
from labelsieve.features.shown import WEAK
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.losses import (
    elr_penalty,
    generalized_cross_entropy,
    temporal_average,
)
from labelsieve.methods.sncf.work import Phase, Work
from labelsieve.records import Verdict

Loss = Literal["ce", "gce", "elr"]
Subset = Literal["all", "clean"]
# Averages of ELR that are held in float32, 1 GB; more are in float16: 2.6 GB of ImageNet's.
MOST_IN_FULL = 1 << 28
LossOf = Callable[[Tensor, Tensor], Tensor]  # of logits (B, C) and labels (B,): (B,)


@dataclass(frozen=True)
class Plain:
    """What is learned of labels as they are. Defaults: cross-entropy on all of them."""

    # ce: cross-entropy. gce: generalized cross-entropy, bounded. elr: cross-entropy, and to stay
    # with what was said before wrong labels are memorized.
    loss: Loss = "ce"
    alpha: float = 0.0  # mixup: factors are of Beta(alpha, alpha); 0: nothing is mixed
    # Labeled images, but those whose label a person called wrong; clean: those whose label is
    # believed to be right.
    on: Subset = "all"
    q: float = 0.7  # of gce, in (0, 1]: near 0 it is cross-entropy, at 1 absolute error
    strength: float = 3.0  # of elr's penalty; the paper: 3 on CIFAR-10, 7 on CIFAR-100
    keep: float = 0.7  # of elr's running averages, in [0, 1); the paper: 0.7, and 0.9 on CIFAR-100

    def __post_init__(self) -> None:
        for name, known in (("loss", get_args(Loss)), ("on", get_args(Subset))):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}."
                )
        if self.alpha < 0 or self.strength < 0:
            raise ConfigError(
                f"alpha is {self.alpha} and strength {self.strength}; expected 0 or more."
            )
        if not 0 < self.q <= 1:
            raise ConfigError(f"q is {self.q}; expected 0 < q <= 1.")
        if not 0 <= self.keep < 1:
            raise ConfigError(f"keep is {self.keep}; expected 0 <= keep < 1.")
        if self.loss == "elr" and self.alpha > 0:
            raise ConfigError(
                f"loss is 'elr' and alpha {self.alpha}; ELR averages what is said of an image, not "
                "of a mixture. Set alpha=0, or another loss."
            )

    def taught(self, beliefs: Beliefs, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which images are learned.

        Args:
            beliefs: of all N images.
            rows: (M,) those that may be.
        """
        believed = beliefs.verdict[rows] == Verdict.CLEAN
        if self.on == "all":
            believed |= ~beliefs.certain[rows]
        learned: NDArray[np.int64] = rows[believed & (beliefs.labels[rows] >= 0)]
        return learned

    def phases(self, work: Work) -> list[Phase]:
        """One: each image at most once an epoch.

        Raises:
            DataError: no image to learn from.
        """
        beliefs, rows = work.beliefs, self.taught(work.beliefs, work.rows)
        if len(rows) == 0:
            what = "has a label" if self.on == "all" else "is called clean"
            advice = "Give labels" if self.on == "all" else "Look at the audit, or set on=all"
            raise DataError(f"none of {len(work.rows)} images {what} to learn from. {advice}.")
        sampler = shuffled(
            rows, work.training.batch_size, work.seed, n_processes=work.runtime.n_processes
        )
        if self.loss == "elr":
            size = len(beliefs), work.n_classes
            dtype = torch.float32 if math.prod(size) <= MOST_IN_FULL else torch.float16
            averages = torch.zeros(size, device=work.runtime.device, dtype=dtype)
            step = elr_step(self, work, averages)
            return [Phase("train", sampler, work.training, step, {"averages": averages})]
        return [Phase("train", sampler, work.training, plain_step(self, work))]


def plain_step(settings: Plain, work: Work) -> Step:
    """One weak view of each image, mixed or not, learns the given label.

    Source of mixup: H. Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018; one
    factor a batch, as in the authors' code::

        L = mean_i [ lambda l(f(x_i), y_i) + (1 - lambda) l(f(x_i), y_o(i)) ]

    The loss is a mean over the own share of a batch, so that nothing is gathered from other
    processes but the images that are mixed in.
    """
    labels = work.on_device(work.beliefs.labels)
    loss_of = _loss_of(settings)

    def step(batch: Batch) -> dict[str, Tensor]:
        images = work.views.weak(batch.images, batch.rows, batch.epoch, WEAK[0])
        own = labels[batch.rows]
        if settings.alpha == 0:
            return {"loss": loss_of(work.model(images).logits, own).mean()}
        n = len(images) * work.runtime.n_processes
        generator = batch_generator(work.seed, batch.epoch, batch.step)
        factor, order = mixing(generator, n, settings.alpha, at_least_half=False)
        partners = exchange(images, order, work.runtime)
        others = exchange(own, order, work.runtime)
        logits = work.model(torch.lerp(partners, images, factor)).logits
        losses = factor * loss_of(logits, own) + (1 - factor) * loss_of(logits, others)
        return {"loss": losses.mean()}

    return step


def elr_step(settings: Plain, work: Work, averages: Tensor) -> Step:
    """One weak view of each image learns its label, and what was said of it before.

    Source: S. Liu et al., "Early-learning regularization prevents memorization of noisy labels",
    NeurIPS 2020. As in the authors' code, the averages take in a prediction before the penalty is
    computed with them.

    Args:
        settings: of the penalty.
        work: model, views and labels.
        averages: (N, C) float32 or float16 of all images, zeros at first; changed by each step,
            alike on all processes.
    """
    labels = work.on_device(work.beliefs.labels)

    def step(batch: Batch) -> dict[str, Tensor]:
        images = work.views.weak(batch.images, batch.rows, batch.epoch, WEAK[0])
        logits = work.model(images).logits
        rows = work.runtime.gather_detached(batch.rows)
        said = work.runtime.gather_detached(logits).softmax(dim=1)
        kept = temporal_average(averages[rows].float(), said, settings.keep)
        averages[rows] = kept.to(averages)
        penalty = elr_penalty(logits, averages[batch.rows]).mean()
        fitted = cross_entropy(logits, labels[batch.rows])
        return {"loss": fitted + settings.strength * penalty, "penalty": penalty}

    return step


def _loss_of(settings: Plain) -> LossOf:
    if settings.loss == "gce":
        return lambda logits, labels: generalized_cross_entropy(logits, labels, settings.q)
    return lambda logits, labels: cross_entropy(logits, labels, reduction="none")
