"""The default way to learn from labels some of which are wrong: all images in one stream.

SNCF's second stage takes the audit's verdicts for certain, and draws from three streams by them.
Here nothing is certain but what a person decided:

1. A target for each image: what the audit says of its class and what the averaged network says, as
   two witnesses (`robust_targets.combined`). Labels are refined by that, guesses and clean ones
   alike, and an image counts by how likely it is any of the classes.
2. Weak views are mixed and learn the mixed targets. The same pass gives the anchors of the
   contrastive loss: they find strong views of images that are likely of their class.
3. Images that are likely foreign come seldom (`thinned_stream`).

::

    Robust         its settings; `Robust().phases(work)` is the whole of it
    robust_step    of one batch: one pass without gradient, two with
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from labelsieve.data.batches import Batch
from labelsieve.data.draws import batch_generator
from labelsieve.data.mixing import mixing
from labelsieve.data.samplers import Sampler
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.contrast import Step
from labelsieve.features.inference import in_mode
from labelsieve.features.momentum import exchange
from labelsieve.features.objectives import interpolated_contrastive
from labelsieve.features.shown import STRONG, WEAK
from labelsieve.methods.sncf.losses import (
    balance_penalty,
    mixed_cross_entropy,
    soft_cross_entropy,
)
from labelsieve.methods.sncf.robust_targets import Evidence, Memory, Targets
from labelsieve.methods.sncf.thinned_stream import thinned
from labelsieve.methods.sncf.work import Phase, Work
from labelsieve.records import Verdict

Teacher = Literal["average", "network"]

_LEAST_RATE = 0.02  # of images that are called foreign: nothing is left out for good


@dataclass(frozen=True)
class Robust:
    """What is learned of images in doubt. Defaults: chosen on CIFAR-10, see docs/training.md."""

    # both: audit and network are two witnesses of an image's class. audit: whether a label is right
    # is left to the audit, the network guesses the class of others. alternate: the same, and every
    # other epoch labels of small loss are right, as PLS-LSA alternates detections.
    evidence: Evidence = "both"
    audit_power: float = 1.0  # of the audit's evidence when the network's counts in full, >= 0
    guess_power: float = 1.0  # of what the network says, > 0; above 1 sharpens it
    ramp: float = 0.3  # share of the epochs in which the network's word comes to count, in [0, 1]
    # Till then, other classes than the given one count as far as the network does: the audit's
    # suggestions come from features that confuse what is alike. False: they count from the first.
    label_first: bool = True
    teacher: Teacher = "average"  # who guesses: the averaged weights, or the network as it is
    pseudo_loss: bool = False  # guesses that the network contradicts count less (PLS)
    confidence: float = 0.0  # power of 1 - entropy / log C of a target, by which it counts; 0: none
    alpha: float = 1.0  # of mixing, above 0: factors are of Beta(alpha, alpha)
    contrast_weight: float = 1.0
    temperature: float = 0.2  # of the contrastive loss
    # Images of a class are positives of each other as far as it is sure that they are known (PLS);
    # else in full (SNCF).
    interpolated: bool = True
    strong_weight: float = 1.0  # of the cross-entropy of strong views, which are not mixed
    balance_weight: float = 0.0  # of the penalty on using classes less often than they are there
    # How often an image comes that is surely mislabeled, or surely foreign, for each time that a
    # clean one comes, in [0, 1]. There are as many updates as if each image came once an epoch.
    mislabeled_rate: float = 0.4
    foreign_rate: float = 0.1

    def __post_init__(self) -> None:
        for name, known in (("evidence", get_args(Evidence)), ("teacher", get_args(Teacher))):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}."
                )
        for name in ("alpha", "temperature", "guess_power"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a number above 0.")
        for name in (
            "audit_power", "confidence", "contrast_weight", "strong_weight", "balance_weight",
        ):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        for name in ("ramp", "mislabeled_rate", "foreign_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 to 1.")

    def sampler(self, work: Work) -> Sampler:
        """The stream, whose epochs are shorter by what comes seldom.

        Raises:
            DataError: all images are surely foreign.
        """
        rows = work.rows
        kinds = work.beliefs.kinds[rows].astype(np.float64)
        if not (kinds[:, Verdict.FOREIGN] < 1).any():
            raise DataError(
                f"all of {len(rows)} images are called foreign; a classifier needs some to begin "
                "with. Look at the audit, or train on all labels with --recipe plain."
            )
        if not self.contrasts(work):
            taught = kinds[:, Verdict.FOREIGN] < 1  # the others teach nothing
            rows, kinds = rows[taught], kinds[taught]
        rates = kinds @ [1.0, self.mislabeled_rate, self.foreign_rate]
        return thinned(
            rows, rates.clip(_LEAST_RATE, 1), work.training.batch_size, work.seed,
            n_processes=work.runtime.n_processes,
        )  # fmt: skip

    def phases(self, work: Work) -> list[Phase]:
        """One, with as many updates as if each of the images came once an epoch.

        Raises:
            DataError: all images are surely foreign, or labels or suggestions are no classes.
        """
        sampler = self.sampler(work)
        training, n_batches = work.training, len(sampler)
        n_plain = max(1, len(work.rows) // training.batch_size)  # batches an epoch
        if n_batches < n_plain:
            training = replace(training, epochs=round(training.epochs * n_plain / n_batches))
        memory = Memory(len(work.beliefs), work.runtime.device)
        targets = Targets(self, work.beliefs, work.n_classes, memory)
        ramp = self.ramp * training.epochs

        def trust(batch: Batch) -> float:
            done = batch.epoch + batch.step / n_batches
            return min(1.0, done / ramp) if ramp else 1.0

        def after_epoch(epoch: int) -> dict[str, float]:
            return targets.after_epoch(epoch, work.rows, begun=epoch + 1 >= ramp)

        step = robust_step(self, work, targets, trust)
        return [Phase("train", sampler, training, step, memory.state(), after_epoch)]

    def contrasts(self, work: Work) -> bool:
        return work.contrasts and self.contrast_weight > 0


def robust_step(
    settings: Robust, work: Work, targets: Targets, trust: Callable[[Batch], float]
) -> Step:
    """Mixed weak views learn mixed targets, and find strong views of their class.

    Per image, one pass without gradient, and two with: a third of the cost of a plain step and two
    plain steps. Without a contrastive loss, the second of the two is left out.

    Args:
        settings: of the losses.
        work: model and views.
        targets: of the images of a batch.
        trust: how far the network's word counts by then, in [0, 1].
    """
    runtime, views = work.runtime, work.views
    contrasts = settings.contrasts(work)
    guess_of = _guess_of(settings, work)

    def step(batch: Batch) -> dict[str, Tensor]:
        generator = batch_generator(work.seed, batch.epoch, batch.step)
        rows = runtime.gather_detached(batch.rows)  # (B,) of the global batch, as all that follows
        first = views.weak(batch.images, batch.rows, batch.epoch, WEAK[0])
        said = guess_of(views.weak(batch.images, batch.rows, batch.epoch, WEAK[1]))
        aims, weights = targets.of(rows, said, trust(batch), batch.epoch)
        factor, order = mixing(generator, len(rows), settings.alpha)
        mixed = torch.lerp(exchange(first, order, runtime), first, factor)
        order = order.to(rows.device, non_blocking=True)
        values: dict[str, Tensor] = {}
        if contrasts:
            second = views.strong(batch.images, batch.rows, batch.epoch, STRONG[0])  # type: ignore[misc]
            answers = work.model(torch.cat([mixed, second]), project=True)
            logits, others = (runtime.gather(each) for each in answers.logits.chunk(2))
            anchors, candidates = (
                runtime.gather(each)
                for each in answers.projections.chunk(2)  # type: ignore[union-attr]
            )
            groups, sure = targets.groups(rows, aims, weights)
            if not settings.interpolated:
                sure = torch.ones_like(sure)
            values["contrast"] = interpolated_contrastive(
                anchors, candidates, groups, sure, order, factor, settings.temperature
            )
        else:
            logits, others = runtime.gather(work.model(mixed).logits), None
        loss = mixed_cross_entropy(logits, aims, order, factor, weights)
        values["classification"] = loss
        if settings.strong_weight and others is not None:
            counted = weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
            values["strong"] = (counted * soft_cross_entropy(others, aims)).sum()
            loss = (loss + settings.strong_weight * values["strong"]) / (1 + settings.strong_weight)
        if settings.balance_weight:
            values["balance"] = balance_penalty(logits, targets.prior, weights)
            loss = loss + settings.balance_weight * values["balance"]
        if contrasts:
            loss = loss + settings.contrast_weight * values["contrast"]
        return {"loss": loss, **values}

    return step


def _guess_of(settings: Robust, work: Work) -> Callable[[Tensor], Tensor]:
    """Logits of views of the whole batch on all processes, without gradient."""
    model, runtime, average = work.model, work.runtime, work.average

    @torch.no_grad()
    def guess(shown: Tensor) -> Tensor:
        if average is not None and settings.teacher == "average":
            with runtime.autocast():
                logits = average(shown).logits
        else:
            with in_mode(model.trunk, training=False):
                logits = model(shown).logits
        return runtime.gather_detached(logits)

    return guess
