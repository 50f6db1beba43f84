"""Veit et al.: a cleaner learns verified tags; the tagger learns what it makes of all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.data.batches import Batch
from labelsieve.data.samplers import shuffled
from labelsieve.errors import ConfigError
from labelsieve.features.contrast import Step
from labelsieve.features.heads import width_of
from labelsieve.features.tag_heads import CleanerShape, LabelCleaner
from labelsieve.features.weights import drawn_from
from labelsieve.loop.runtime import bare
from labelsieve.methods.veit.losses import cleaning_loss, dense_cross_entropy
from labelsieve.methods.veit.network import TagNet
from labelsieve.methods.veit.objectives.plain import both_kinds, known_pairs
from labelsieve.methods.veit.work import Learned, Work, numbers

MANY_TAGS = 1000  # from as many on, a cleaner is wide


@dataclass(frozen=True)
class Joint:
    """How cleaner and tagger learn. Defaults: as published, together from the first batch on."""

    # Over the learning rate of the tagger. With Adam at most 1: 15 would push right tags out of the
    # cleaner's reach.
    cleaner_factor: float = 15.0
    cleaning_weight: float = 0.1  # of L_clean; matters where the backbone learns, see `losses`
    classifying_weight: float = 1.0  # of L_classify
    pretrained: bool = False  # the cleaner learns alone before, and then as fast as the tagger
    pretraining_updates: int = 1000  # of the cleaner alone
    relu: bool = False  # between the layers of the cleaner
    straight_through: bool = False  # see `CleanerShape`; always with Adam
    # Numbers in the middle of the cleaner; 0: 128 and 256, with 1,000 tags or more both 512, or as
    # wide as the features are, if that is less.
    n_label: int = 0
    n_hidden: int = 0

    def __post_init__(self) -> None:
        for name in ("cleaner_factor", "cleaning_weight", "classifying_weight"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a number above 0.")
        for name in ("n_label", "n_hidden"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        if self.pretraining_updates < 1:
            raise ConfigError(
                f"pretraining_updates is {self.pretraining_updates}; at least 1 is needed."
            )

    def planned(self, work: Work) -> int:
        return work.updates + (self.pretraining_updates if self.pretrained else 0)

    def shape(self, n_tags: int, n_features: int, *, adaptive: bool) -> CleanerShape:
        """The shape of the cleaner.

        Args:
            n_tags: C.
            n_features: D.
            adaptive: whether the optimizer is one that makes small gradients large.
        """
        many = n_tags >= MANY_TAGS
        wide = min(512, max(128, n_features))
        return CleanerShape(
            n_tags, n_features,
            self.n_label or (wide if many else 128),
            self.n_hidden or (wide if many else 256),
            relu=self.relu, straight_through=self.straight_through or adaptive,
        )  # fmt: skip

    def learn(self, work: Work, before: TagNet) -> Learned:
        training = work.training
        adaptive = training.optimizer.name in ("adam", "adamw")
        shape = self.shape(work.n_tags, width_of(before.backbone), adaptive=adaptive)
        with drawn_from(work.seed + 1):
            cleaner = work.runtime.prepare(LabelCleaner(shape))
        factor = self.cleaner_factor
        if self.pretrained:
            self._pretrain(work, cleaner)
            factor = 1.0
        work.train(
            "joint", joint_step(work, cleaner, self), both_kinds(work),
            work.optimizers(training, {bare(cleaner): factor}),
            {"net": work.net, "cleaner": cleaner}, n_updates=work.updates,
        )  # fmt: skip
        found = bare(cleaner)
        assert isinstance(found, LabelCleaner)  # noqa: S101 -- what was prepared above
        return Learned(cleaner=found)

    def _pretrain(self, work: Work, cleaner: nn.Module) -> None:
        """The cleaner alone, on the verified images that a joint batch would have, twice."""
        optimizers = work.optimizers(work.training, {bare(cleaner): self.cleaner_factor})
        of_cleaner = optimizers[-1:]  # the tagger and the backbone stay as they are
        size = max(work.runtime.n_processes, round(2 * work.verified_share * work.batch_size))
        size -= size % work.runtime.n_processes
        work.train(
            "cleaner", cleaning_step(work, cleaner, self.cleaning_weight),
            shuffled(work.verified_rows, size, work.seed, n_processes=work.runtime.n_processes),
            of_cleaner, {"cleaner": cleaner}, n_updates=self.pretraining_updates,
        )  # fmt: skip


def joint_step(work: Work, cleaner: nn.Module, settings: Joint) -> Step:
    """Algorithm of Veit et al., section 3.

    L_clean teaches the cleaner what people found of the verified images. L_classify teaches the
    tagger cleaned tags, and verified ones where there are any; these are constants to it, as else
    cleaner and tagger would agree on nothing at all. Both losses reach a backbone that learns.
    """
    is_verified = np.diff(work.verified.indptr) > 0

    def step(batch: Batch) -> Mapping[str, Tensor]:
        rows = numbers(batch.rows)
        features, logits = work.shown(batch)
        with torch.no_grad():
            wanted = cleaner(work.tags(work.asserted, rows), features.detach())  # (B, C) constant
        places = np.flatnonzero(is_verified[rows])
        values = {}
        if len(places):
            values["cleaning"], verified = _cleaning(work, cleaner, rows[places], features[places])
            wanted[places] = torch.where(verified == 0, wanted[places], (verified > 0).float())
        if work.unverified == "absent" and len(places):
            wanted[places] = work.tags(work.targets, rows[places]).dense()
        classifying = _classifying(work, logits, wanted, rows, len(places)) / len(rows)
        loss = settings.classifying_weight * classifying
        if len(places):
            loss = loss + settings.cleaning_weight * values["cleaning"]
        return {"loss": loss, "classifying": classifying, **values}

    return step


def cleaning_step(work: Work, cleaner: nn.Module, weight: float) -> Step:
    """L_clean of verified images alone; the tagger and the backbone are not asked to learn."""

    def step(batch: Batch) -> Mapping[str, Tensor]:
        with torch.no_grad():
            features, _ = work.shown(batch)
        cleaning, _ = _cleaning(work, cleaner, numbers(batch.rows), features)
        return {"loss": weight * cleaning, "cleaning": cleaning}

    return step


def _cleaning(
    work: Work, cleaner: nn.Module, rows: NDArray[np.int64], features: Tensor
) -> tuple[Tensor, Tensor]:
    """L_clean, a mean over verified images; and what is verified of them, (n, C) +1, -1, 0."""
    cleaned = cleaner(work.tags(work.asserted, rows), features)
    verified = work.tags(work.verified, rows).dense()
    targets = work.tags(work.targets, rows).dense()
    known = verified != 0 if work.unverified == "ignore" else None
    return cleaning_loss(cleaned, targets, known) / len(rows), verified


def _classifying(
    work: Work, logits: Tensor, wanted: Tensor, rows: NDArray[np.int64], n_verified: int
) -> Tensor:
    if work.unverified != "ignore" or not n_verified:
        return dense_cross_entropy(logits, wanted)
    losses = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (losses * known_pairs(work, rows)).sum()
