"""SNCF's second stage as published: a classifier and a contrastive head learn together.

::

    Paper          its settings; `Paper().phases(work)` is the whole of it
    warmup_step    clean images alone, mixed
    paper_step     guesses for mislabeled images, mixed cross-entropy, guided contrast for all
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelsieve.data.batches import Batch
from labelsieve.data.draws import batch_generator
from labelsieve.data.mixing import mixing
from labelsieve.data.samplers import Sampler
from labelsieve.errors import ConfigError
from labelsieve.features.contrast import Step
from labelsieve.features.inference import in_mode
from labelsieve.features.momentum import exchange
from labelsieve.features.objectives import contrast_groups, guided_contrastive
from labelsieve.features.shown import STRONG, WEAK
from labelsieve.methods.sncf.guesses import label_guess, training_targets
from labelsieve.methods.sncf.losses import mixed_cross_entropy
from labelsieve.methods.sncf.streams import clean_stream, three_streams
from labelsieve.methods.sncf.work import Phase, Work, part_of
from labelsieve.records import Verdict

Guessing = Literal["train", "eval", "average"]
Guess = Callable[[Tensor, Tensor], Tensor]  # of two views of a batch: (B, C) of the global batch


@dataclass(frozen=True)
class Paper:
    """What SNCF learns of clean, mislabeled and foreign images. Defaults: CIFAR-100."""

    warmup: float = 0.3  # share of the epochs on clean images alone, in [0, 1)
    # How often an image is in a batch of the warm-up. 2: as in the authors' code, where the second
    # view is a copy of the first then. It costs twice as much for no more images.
    warmup_copies: int = 1
    power: float = 2.0  # tau1, of guesses, at least 1; 2 is MixMatch's temperature 1/2
    # Who guesses the class of mislabeled images. train: the network in training mode, whose batch
    # norms take in the batch, foreign images and all; eval: with its running statistics; average:
    # the average of its weights.
    guess: Guessing = "train"
    alpha: float = 1.0  # of mixup and i-Mix, above 0: factors are of Beta(alpha, alpha)
    temperature: float = 0.2  # tau2, of the contrastive loss
    contrast_weight: float = 1.0  # zeta
    # Instead, the share of images that are foreign, or 1/2 where none is: the authors' CNWL.
    contrast_by_share: bool = False
    # A mislabeled or foreign image is at most so often in an epoch: of few there are fewer in a
    # batch. Above 0; the authors' code repeats 3 images 28 times in each batch.
    most_repeats: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ConfigError(
                f"warmup is {self.warmup}; expected a share of the epochs, 0 <= warmup < 1."
            )
        if self.warmup_copies not in (1, 2):
            raise ConfigError(f"warmup_copies is {self.warmup_copies}; expected 1 or 2.")
        if not self.power >= 1:
            raise ConfigError(f"power is {self.power}; expected 1 or more.")
        if self.guess not in get_args(Guessing):
            known = ", ".join(get_args(Guessing))
            raise ConfigError(f"guess is {self.guess!r}; expected one of {known}.")
        for name in ("alpha", "temperature", "most_repeats"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a number above 0.")
        if self.contrast_weight < 0:
            raise ConfigError(f"contrast_weight is {self.contrast_weight}; expected 0 or more.")

    def phases(self, work: Work) -> list[Phase]:
        """The warm-up and the rest, at the learning rates of one schedule.

        Where nothing is contrasted, foreign images are left out: they would teach nothing.

        Raises:
            DataError: no image is clean.
        """
        verdict, rows, seed = work.beliefs.verdict, work.rows, work.seed
        foreign = verdict[rows] == Verdict.FOREIGN
        zeta = (float(foreign.mean()) or 0.5) if self.contrast_by_share else self.contrast_weight
        if not work.contrasts or zeta == 0:
            rows = rows[~foreign]
        shared = {"n_processes": work.runtime.n_processes}
        size, epochs = work.training.batch_size, work.training.epochs
        n_warmup = min(round(self.warmup * epochs), epochs - 1)
        streams = three_streams(verdict, rows, size, seed, most_repeats=self.most_repeats, **shared)
        main = Phase(
            "train", streams, part_of(work.training, n_warmup, epochs - n_warmup),
            paper_step(self, work, n_of_each_kind(streams, verdict), zeta, n_warmup),
        )  # fmt: skip
        if n_warmup == 0:
            return [main]
        warmup = Phase(
            "warm-up", clean_stream(verdict, rows, size, seed, **shared),
            part_of(work.training, 0, n_warmup), warmup_step(self, work),
        )  # fmt: skip
        return [warmup, main]


def warmup_step(settings: Paper, work: Work) -> Step:
    """Mixed weak views of clean images learn their labels."""
    labels = work.on_device(work.beliefs.labels)
    one_hot = torch.eye(work.n_classes, device=work.runtime.device)

    def step(batch: Batch) -> dict[str, Tensor]:
        views = work.views.weak(batch.images, batch.rows, batch.epoch, WEAK[0])
        own = labels[work.runtime.gather_detached(batch.rows)]  # (B,) of the global batch
        chosen = torch.arange(len(own), device=own.device).repeat(settings.warmup_copies)
        generator = batch_generator(work.seed, batch.epoch, batch.step)
        targets = one_hot[own[chosen]]
        return {"loss": _classify(settings, work, [views], chosen, targets, generator)}

    return step


def paper_step(
    settings: Paper, work: Work, n_of_kind: NDArray[np.int64], zeta: float, n_warmup: int
) -> Step:
    """Mislabeled images learn guesses, clean ones their labels, and all of them their place.

    Source: SNCF, stage B. The classes of mislabeled images are guessed from two weak views, without
    gradient. Clean images come in both views, mislabeled ones in the first, all mixed; foreign ones
    take no part in this. Strong views of all images, the first ones mixed, find the second views of
    their class, as given or guessed, or of their group of foreign images.

    Deviations: what is guessed for images that need no guess is not computed where no image needs
    one; the second view of clean images is always another one, where the authors' code repeats the
    first if there are no mislabeled images.

    Args:
        settings: of the losses.
        work: model, views and beliefs.
        n_of_kind: (3,) clean, mislabeled and foreign images in each global batch.
        zeta: weight of the contrastive loss.
        n_warmup: epochs before this phase, so that it has other draws.
    """
    beliefs, runtime = work.beliefs, work.runtime
    labels, verdicts = work.on_device(beliefs.labels), work.on_device(beliefs.verdict)
    groups = work.on_device(beliefs.foreign_group.astype(np.int64))
    guess_of = _guess_of(settings, work)
    n_clean, n_mislabeled = (int(n_of_kind[kind]) for kind in (Verdict.CLEAN, Verdict.MISLABELED))

    def step(batch: Batch) -> dict[str, Tensor]:
        batch = batch._replace(epoch=batch.epoch + n_warmup)
        generator = batch_generator(work.seed, batch.epoch, batch.step)
        rows = runtime.gather_detached(batch.rows)  # (B,) of the global batch, as all that follows
        verdict = verdicts[rows]
        views = [work.views.weak(batch.images, batch.rows, batch.epoch, i) for i in WEAK]
        guess = torch.zeros(len(rows), work.n_classes, device=rows.device)
        if n_mislabeled:
            guess = guess_of(*views)
        targets = training_targets(labels[rows], verdict, guess, work.n_classes)  # (B, C)
        # Known numbers of each kind: a mask would have the host wait for a GPU.
        by_kind = verdict.argsort(stable=True)
        clean, mislabeled = by_kind[:n_clean], by_kind[n_clean : n_clean + n_mislabeled]
        chosen = torch.cat([clean, clean + len(rows), mislabeled])
        aims = targets.repeat(2, 1)[chosen]
        classification = _classify(settings, work, views, chosen, aims, generator)
        if not work.contrasts or zeta == 0:
            return {"loss": classification}
        shared = contrast_groups(
            targets.argmax(dim=1), verdict == Verdict.FOREIGN, groups[rows], work.n_classes
        )
        contrast = _contrast(settings, work, batch, shared, generator)
        return {
            "loss": classification + zeta * contrast,
            "classification": classification,
            "contrast": contrast,
        }

    return step


def n_of_each_kind(sampler: Sampler, verdict: NDArray[np.int8]) -> NDArray[np.int64]:
    """(3,) how many images of each kind are in a batch of `three_streams`: as many in all."""
    return np.bincount(verdict[next(iter(sampler.epoch(0)))], minlength=3)


def _guess_of(settings: Paper, work: Work) -> Guess:
    """What is said of two views without gradient, of the whole batch on all processes."""
    model, runtime = work.model, work.runtime

    def said(views: Tensor) -> Tensor:
        if settings.guess == "train":
            logits = model(views).logits
        elif settings.guess == "eval":
            with in_mode(model.trunk, training=False):
                logits = model(views).logits
        else:
            with runtime.autocast():
                logits = work.average(views).logits  # type: ignore[misc]
        return runtime.gather_detached(logits)

    @torch.no_grad()
    def guess(first: Tensor, second: Tensor) -> Tensor:
        return label_guess(said(first), said(second), settings.power)

    return guess


def _classify(
    settings: Paper,
    work: Work,
    views: Sequence[Tensor],
    chosen: Tensor,
    targets: Tensor,
    generator: np.random.Generator,
) -> Tensor:
    """Mixed cross-entropy of some of the views of a global batch.

    Args:
        settings: of mixing.
        work: model and processes, each of which does its share.
        views: of this process' images: one or two of (b, ...).
        chosen: (L,) int64 which views are learned, first ones 0 to B - 1, second ones from B on; L
            is a multiple of the number of processes.
        targets: (L, C) of these.
        generator: of the batch.
    """
    runtime = work.runtime
    everything = torch.cat([runtime.gather_detached(each) for each in views])
    factor, order = mixing(generator, len(chosen), settings.alpha)
    order = order.to(chosen.device, non_blocking=True)
    n = len(chosen) // runtime.n_processes
    share = slice(runtime.rank * n, (runtime.rank + 1) * n)
    own, partners = (everything[each[share]] for each in (chosen, chosen[order]))
    logits = runtime.gather(work.model(torch.lerp(partners, own, factor)).logits)
    return mixed_cross_entropy(logits, targets, order, factor)


def _contrast(
    settings: Paper, work: Work, batch: Batch, groups: Tensor, generator: np.random.Generator
) -> Tensor:
    """Mixed first strong views find the second strong views of their group."""
    first, second = (
        work.views.strong(batch.images, batch.rows, batch.epoch, i)  # type: ignore[misc]
        for i in STRONG
    )
    factor, order = mixing(generator, len(groups), settings.alpha)
    mixed = torch.lerp(exchange(first, order, work.runtime), first, factor)
    anchors, candidates = (
        work.runtime.gather(work.model(views, project=True).projections)  # type: ignore[arg-type]
        for views in (mixed, second)
    )
    order = order.to(anchors.device, non_blocking=True)
    return guided_contrastive(anchors, candidates, groups, order, factor, settings.temperature)
