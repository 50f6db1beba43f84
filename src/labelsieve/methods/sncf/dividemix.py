"""Two networks that tell each other which labels are right: in the manner of DivideMix.

::

    DivideMix      its settings; `DivideMix().phases(work)` is the whole of it
    Division       which labels each network takes for right
    warmup_step    cross-entropy with all labels
    divide_step    right labels are refined, the others guessed; both learn mixtures (MixMatch)

It knows labels alone: no verdict of an audit, and no foreign images, which are guessed as all
others are. What a person decided holds: labels called right are right, others are guessed, and
foreign images are left out. Source: J. Li et al., "DivideMix: learning with noisy labels as
semi-supervised learning", ICLR 2020. Where training by the one loop is another:

- Both networks learn in every step, where the paper trains one for an epoch while the other waits.
  They see the same images, in other mixtures; in the warm-up, other views of them.
- An epoch has each image once, whichever side of the division it is on. In the paper it is a pass
  over the images with right labels, with as many of the others in each batch. The two losses are
  means over their own images in both, so they weigh the same.
- Guesses are made in training mode; in the paper the other network is in evaluation mode.
- Both networks' classifiers share their biases, C numbers, so that they can be saved as one.
- The mixture that divides is made to never rise with the loss: see modes.py.

An epoch takes 5.9 times the CPU seconds of one of cross-entropy: each network guesses from two
views, learns from two, and is asked once more to divide.
"""

from __future__ import annotations

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
from labelsieve.features.inference import clean_outputs
from labelsieve.features.objectives import mixed_targets
from labelsieve.features.shown import WEAK
from labelsieve.features.twins import Twins, apart
from labelsieve.methods.sncf.guesses import sharpened_guess, soft_targets
from labelsieve.methods.sncf.losses import (
    balance_penalty,
    linear_rampup,
    negative_entropy,
    soft_cross_entropy,
    squared_difference,
)
from labelsieve.methods.sncf.modes import low_mode
from labelsieve.methods.sncf.work import Phase, Work, part_of
from labelsieve.records import Verdict

Second = Literal["new", "copy"]


@dataclass(frozen=True)
class DivideMix:
    """How two networks divide and refine labels. Defaults: CIFAR-10; shares are of 300 epochs."""

    # Share of the epochs on all labels; the paper: 10 epochs, CIFAR-100 30. Of a short training it
    # takes more: networks that have learned little by then confirm each other's mistakes, till all
    # images are in one class. Below 500 updates no share was better than plain training.
    warmup: float = 0.1
    rampup: float = 0.05  # share after that in which guesses come to count in full; the paper: 16
    threshold: float = 0.5  # a label more probable than this is right, in (0, 1); 0.6 at 90 % noise
    power: float = 2.0  # of guesses and refined labels, at least 1: 1 / T, T is 1/2
    alpha: float = 4.0  # of mixup, above 0: factors are of Beta(alpha, alpha)
    unlabeled_weight: float = 25.0  # lambda_u; the paper: 0 to 150, the more the more noise
    balance_weight: float = 1.0  # lambda_r, of using all classes alike
    # Of the warm-up's penalty for being sure. The paper: 1 where one class is taken for a certain
    # other one, as asymmetric noise is, 0 else.
    modesty: float = 0.0
    # Where the second network begins. new: with weights drawn anew; copy: where the first does,
    # for pretrained weights.
    second: Second = "new"

    def __post_init__(self) -> None:
        for name in ("warmup", "rampup"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 <= {name} < 1.")
        if not 0 < self.threshold < 1:
            raise ConfigError(f"threshold is {self.threshold}; expected 0 < threshold < 1.")
        if not self.power >= 1:
            raise ConfigError(f"power is {self.power}; expected 1 or more.")
        if not self.alpha > 0:
            raise ConfigError(f"alpha is {self.alpha}; expected a number above 0.")
        for name in ("unlabeled_weight", "balance_weight", "modesty"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        if self.second not in get_args(Second):
            known = ", ".join(get_args(Second))
            raise ConfigError(f"second is {self.second!r}; expected one of {known}.")

    def phases(self, work: Work) -> list[Phase]:
        """The warm-up on labeled images, then both networks on all, with and without a label.

        Raises:
            DataError: no image has a label.
            ConfigError: the network is not two.
        """
        if not isinstance(work.model.bare.trunk.backbone, Twins):
            kind = type(work.model.bare.trunk.backbone).__name__
            raise ConfigError(
                f"dividemix trains two networks; it was given one {kind}. Give twins_of({kind})."
            )
        beliefs = work.beliefs
        certain, verdict = beliefs.certain[work.rows], beliefs.verdict[work.rows]
        rows = work.rows[~certain | (verdict != Verdict.FOREIGN)]
        believed = ~certain | (verdict == Verdict.CLEAN)
        labeled = work.rows[believed & (beliefs.labels[work.rows] >= 0)]
        if len(labeled) == 0:
            raise DataError(f"none of {len(work.rows)} images has a label to learn from.")
        epochs, size, seed = work.training.epochs, work.training.batch_size, work.seed
        n_warmup = min(max(1, round(self.warmup * epochs)), epochs - 1)
        division = Division(work, labeled)
        state = {"clean": division.clean}

        def phase(name: str, rows: NDArray[np.int64], before: int, last: int) -> Phase:
            sampler = shuffled(rows, size, seed, n_processes=work.runtime.n_processes)
            step = warmup_step(self, work)
            if name == "train":
                step = divide_step(self, work, division, before, len(sampler))
            part = part_of(work.training, before, last - before)
            return Phase(name, sampler, part, step, state, lambda _: division.divide())

        main = phase("train", rows, n_warmup, epochs)
        return [phase("warm-up", labeled, 0, n_warmup), main] if n_warmup else [main]


class Division:
    """Which labels each of two networks takes for right, by their losses at the end of an epoch.

    Source: DivideMix, section 3.1: the posterior of the low mode of a network's losses on images as
    they are. Until the first division every label is right; those that a person called right stay.

    Attributes:
        clean: (2, N) float32 on the device, how likely each label is right by each network; 0
            where there is none. A state to be kept: it is changed in place.
    """

    def __init__(self, work: Work, labeled: NDArray[np.int64]) -> None:
        self._work, self._labeled = work, labeled
        self.clean = torch.zeros(2, len(work.beliefs), device=work.runtime.device)
        self.clean[:, torch.from_numpy(labeled).to(self.clean.device)] = 1

    def divide(self) -> dict[str, float]:
        """Divide anew, alike on all processes; for the log, how many labels are right by each."""
        trunk, runtime = self._work.model.bare.trunk, self._work.runtime

        def answer(images: Tensor) -> Tensor:
            with runtime.autocast():
                features, _ = trunk(images)
            return apart(features, trunk.classifier).transpose(0, 1)

        said = clean_outputs(
            answer, (trunk,), self._work.source, self._labeled, self._work.views.clean,
            runtime=runtime,
        )  # (M, 2, C)  # fmt: skip
        labels = torch.from_numpy(self._work.beliefs.labels[self._labeled])
        rows = torch.from_numpy(self._labeled).to(self.clean.device)
        decided = self._work.beliefs.certain[self._labeled]
        values = {}
        for k in (0, 1):
            losses = cross_entropy(said[:, k], labels, reduction="none").numpy()
            found = low_mode(losses, seed=self._work.seed)
            found[decided] = 1
            self.clean[k, rows] = torch.from_numpy(found).to(self.clean.device)
            values[f"clean_{k + 1}"] = float(found.mean())
        return values


def warmup_step(settings: DivideMix, work: Work) -> Step:
    """Each network learns the labels as given, of its own weak view.

    Source: DivideMix, algorithm 1, line 2, with the penalty of eq. 2 where `modesty` is above 0.
    """
    labels = work.on_device(work.beliefs.labels)

    def step(batch: Batch) -> dict[str, Tensor]:
        views = [work.views.weak(batch.images, batch.rows, batch.epoch, i) for i in WEAK]
        # a mean over the own share of the batch: nothing needs to be gathered
        losses = [
            cross_entropy(logits, labels[batch.rows]) + settings.modesty * negative_entropy(logits)
            for logits in _of_each(work, views[0], views[1])
        ]
        return {"loss": losses[0] + losses[1]}

    return step


def divide_step(
    settings: DivideMix, work: Work, division: Division, n_warmup: int, n_batches: int
) -> Step:
    """Each network learns the labels that the other takes for right, and guesses of both.

    Source: DivideMix, algorithm 1, lines 8 to 26, eq. 3 to 12. For a network, with the w that the
    other gave an image, and q sharpened::

        w > threshold:  q(w y + (1 - w) p),  p the network's own of two views  (co-refinement)
        else:           q(p),                p of both networks and both views (co-guessing)
        L = CE(right ones) + lambda_u |p - q|^2 (the others) + lambda_r KL(uniform || mean p)

    of both views of all images, mixed with each other.

    Args:
        settings: of the losses.
        work: model, views and labels.
        division: of the last epoch.
        n_warmup: epochs before this phase.
        n_batches: an epoch.
    """
    runtime, labels = work.runtime, work.on_device(work.beliefs.labels)
    length = settings.rampup * work.training.epochs

    def step(batch: Batch) -> dict[str, Tensor]:
        batch = batch._replace(epoch=batch.epoch + n_warmup)
        generator = batch_generator(work.seed, batch.epoch, batch.step)
        own = runtime.gather_detached(batch.rows)  # (B,) of the global batch, as all that follows
        views = [work.views.weak(batch.images, batch.rows, batch.epoch, i) for i in WEAK]
        said = _said(work, views)  # (2 networks, 2 views, B, C)
        everything = torch.cat([runtime.gather_detached(view) for view in views])  # (2B, ...)
        mixtures = [mixing(generator, len(everything), settings.alpha) for _ in range(2)]
        mixed = [_mixed(everything, *mixture, work) for mixture in mixtures]
        logits = runtime.gather(_of_each(work, *mixed).transpose(0, 1)).transpose(0, 1)
        epoch = batch.epoch + batch.step / n_batches
        ramp = settings.unlabeled_weight * linear_rampup(epoch, n_warmup, length)
        totals: dict[str, Tensor] = {}
        for k, (factor, order) in enumerate(mixtures):
            clean = division.clean[1 - k, own]
            right = (clean > settings.threshold).repeat(2)  # (2B,)
            targets = refined_or_guessed(labels[own], clean, said, k, settings)
            order = order.to(right.device, non_blocking=True)
            targets = mixed_targets(targets.repeat(2, 1), order, factor)
            fitted = _mean(soft_cross_entropy(logits[k], targets), right)
            guessed = _mean(squared_difference(logits[k], targets), ~right)
            balance = settings.balance_weight * balance_penalty(logits[k])
            parts = {
                "loss": fitted + ramp * guessed + balance,
                "fitted": fitted, "guessed": guessed, "right": right.float().mean(),
            }  # fmt: skip
            for name, value in parts.items():
                share = value if name == "loss" else value / 2
                totals[name] = totals.get(name, 0) + share
        return totals

    return step


def refined_or_guessed(
    labels: Tensor, clean: Tensor, said: Tensor, k: int, settings: DivideMix
) -> Tensor:
    """What network k learns of each image: the refined label, or what both networks guess.

    Source: DivideMix, eq. 3 and 4, and co-guessing as in algorithm 1, line 17.

    Args:
        labels: (B,) as given, -1 for none.
        clean: (B,) how likely they are right, by the other network; 0 where there is none.
        said: (2, 2, B, C) probabilities of both networks for two views.
        k: 0 or 1.
        settings: threshold and power.

    Returns:
        (B, C) rows sum to 1.
    """
    kinds = torch.stack([clean, 1 - clean, torch.zeros_like(clean)], dim=1)
    refined, _ = soft_targets(labels, kinds, said[k].mean(dim=0))
    right = (clean > settings.threshold)[:, None]
    targets = torch.where(right, refined, said.mean(dim=(0, 1)))
    return sharpened_guess(targets, settings.power)


def _of_each(work: Work, first: Tensor, second: Tensor) -> Tensor:
    """(2, b, C) logits of each network for its own batch."""
    features, _ = work.model.trunk((first, second))
    return apart(features, work.model.bare.trunk.classifier)


@torch.no_grad()
def _said(work: Work, views: list[Tensor]) -> Tensor:
    """(2, 2, B, C) what both networks say of two views, of the whole batch on all processes."""
    features, _ = work.model.trunk(torch.cat(views))
    logits = torch.stack(apart(features, work.model.bare.trunk.classifier).chunk(2, dim=1), dim=1)
    said = work.runtime.gather_detached(logits.movedim(2, 0).contiguous())  # (B, 2, 2, C)
    return said.softmax(dim=-1).movedim(0, 2)


def _mixed(everything: Tensor, factor: float, order: Tensor, work: Work) -> Tensor:
    """This process' share of a batch that is mixed with itself."""
    n = len(everything) // work.runtime.n_processes
    share = slice(work.runtime.rank * n, (work.runtime.rank + 1) * n)
    partners = everything[order[share].to(everything.device, non_blocking=True)]
    return torch.lerp(partners, everything[share], factor)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Over the chosen ones; 0 where there are none."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
