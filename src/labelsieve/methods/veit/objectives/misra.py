"""Misra et al., CVPR 2016: what people see, and what of it they name; without verified tags."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labelsieve.data.batches import Batch
from labelsieve.data.samplers import shuffled
from labelsieve.features.heads import width_of
from labelsieve.features.tag_heads import Tagger
from labelsieve.features.weights import drawn_from
from labelsieve.loop.runtime import bare
from labelsieve.methods.veit.losses import relevance_cross_entropy, relevance_probability
from labelsieve.methods.veit.network import TagNet
from labelsieve.methods.veit.work import Learned, Work, numbers

_NAMED_IF_THERE, _NAMED_IF_NOT = 2.0, -4.0  # logits that training begins with: .88 and .02


@dataclass(frozen=True)
class Misra:
    """A tagger of what is seen, and how likely it is named; both learn the tags as asserted.

    It is made for tags that are missing, and Veit et al. find that it does not help against wrong
    ones. The trained tagger is the one of what is seen; `Relevance` gives the other answer.
    """

    def planned(self, work: Work) -> int:
        return work.updates

    def learn(self, work: Work, before: TagNet) -> Learned:
        with drawn_from(0):  # its first weights are set, not drawn
            named = work.runtime.prepare(Naming(width_of(before.backbone), work.n_tags))
        own = bare(named)
        assert isinstance(own, Naming)  # noqa: S101 -- what was prepared above

        def step(batch: Batch) -> Mapping[str, Tensor]:
            rows = numbers(batch.rows)
            features, visual = work.shown(batch)
            given, left_out = relevance_probability(visual, *named(features))
            told = work.tags(work.asserted, rows)
            return {"loss": relevance_cross_entropy(given, left_out, told) / len(rows)}

        rows = work.noisy_rows if len(work.noisy_rows) else work.verified_rows
        work.train(
            "misra", step,
            shuffled(rows, work.batch_size, work.seed, n_processes=work.runtime.n_processes),
            work.optimizers(work.training, {own: 1.0}),
            {"net": work.net, "naming": named}, n_updates=work.updates,
        )  # fmt: skip
        return Learned(relevance=Relevance(copy.deepcopy(work.bare.tagger), own).eval())


class Naming(nn.Module):
    """How likely each tag is named if it is there, and if it is not: logits (B, C) of each."""

    def __init__(self, n_features: int, n_tags: int) -> None:
        super().__init__()
        self.if_present, self.if_absent = Tagger(n_features, n_tags), Tagger(n_features, n_tags)
        starts = ((self.if_present, _NAMED_IF_THERE), (self.if_absent, _NAMED_IF_NOT))
        for layer, start in starts:
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, start)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.if_present(features), self.if_absent(features)


class Relevance(nn.Module):
    """Log probabilities (B, C) that tags are given, from features (B, D)."""

    def __init__(self, tagger: Tagger, naming: Naming) -> None:
        super().__init__()
        self.tagger, self.naming = tagger, naming

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        given, _ = relevance_probability(self.tagger(features), *self.naming(features))
        return given
