"""Taggers without a cleaner: on tags as asserted, on verified ones, on both; what ours must beat.

Source: Veit et al., section 4: "fine-tuning with mixed labels" and "with clean labels".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from labelsieve.data.batches import Batch
from labelsieve.data.samplers import Sampler, shuffled
from labelsieve.errors import ConfigError
from labelsieve.features.contrast import Step
from labelsieve.methods.veit.asking import own_logit, pair_answers
from labelsieve.methods.veit.batches import nine_to_one
from labelsieve.methods.veit.losses import sparse_cross_entropy
from labelsieve.methods.veit.network import TagNet
from labelsieve.methods.veit.stopping import average_precision, held_out
from labelsieve.methods.veit.targets import only_rows
from labelsieve.methods.veit.work import Learned, Work, numbers


@dataclass(frozen=True)
class Noisy:
    """Nothing more is learned: the tagger of the tags as asserted."""

    def planned(self, work: Work) -> int:
        return 0

    def learn(self, work: Work, before: TagNet) -> Learned:
        return Learned()


@dataclass(frozen=True)
class Mixed:
    """Tags as asserted and as verified, 9:1, without a cleaner."""

    def planned(self, work: Work) -> int:
        return work.updates

    def learn(self, work: Work, before: TagNet) -> Learned:
        work.train(
            "mixed", tagger_step(work, work.targets), both_kinds(work),
            work.optimizers(work.training), {"net": work.net}, n_updates=work.updates,
        )  # fmt: skip
        return Learned()


@dataclass(frozen=True)
class Clean:
    """The verified images alone. They are few, so that it soon knows them by heart."""

    # How many updates: those after which the average precision over all pairs is best on a fifth of
    # the verified images; then all of them are learned anew, for as many.
    stop_among: tuple[int, ...] = (50, 100, 200, 400, 800, 1600)
    updates: int = 0  # in place of that; 0: stop early

    def __post_init__(self) -> None:
        if self.updates < 0 or not self.stop_among or min(self.stop_among) < 1:
            raise ConfigError(
                f"updates is {self.updates} and stop_among {self.stop_among}; expected 0 or more, "
                "and numbers of updates."
            )

    def planned(self, work: Work) -> int:
        return self.updates or sum(self.stop_among) + max(self.stop_among)

    def learn(self, work: Work, before: TagNet) -> Learned:
        if self.updates:
            self._fit(work, "clean", work.verified_rows, self.updates)
            return Learned()
        n_updates, warnings = self._early(work, before)
        self._fit(work, "clean", work.verified_rows, n_updates)
        return Learned(n_updates=n_updates, warnings=warnings)

    def _early(self, work: Work, before: TagNet) -> tuple[int, tuple[str, ...]]:
        """The best number of updates on held-out images; the tagger is as before afterwards."""
        fit, held = held_out(work.verified_rows, work.seed)
        scores = []
        for n_updates in self.stop_among:
            self._fit(work, f"clean-{n_updates}", fit, n_updates)
            scores.append(_score(work, held))
            work.bare.load_state_dict(before.state_dict())
        if np.isnan(scores).all():
            return min(self.stop_among), (
                f"The {len(held)} verified images that are held out to stop in time have no right "
                f"and wrong tags both; the fewest updates, {min(self.stop_among)}, were taken.",
            )
        return self.stop_among[int(np.nanargmax(scores))], ()

    def _fit(self, work: Work, name: str, rows: NDArray[np.int64], n_updates: int) -> None:
        work.train(
            name, tagger_step(work, work.targets),
            shuffled(rows, work.batch_size, work.seed, n_processes=work.runtime.n_processes),
            work.optimizers(work.training), {"net": work.net}, n_updates=n_updates,
        )  # fmt: skip


def both_kinds(work: Work) -> Sampler:
    """Batches of images with tags as asserted, and verified ones."""
    return nine_to_one(
        work.noisy_rows, work.verified_rows, work.batch_size, work.seed,
        verified_share=work.verified_share, n_processes=work.runtime.n_processes,
    )  # fmt: skip


def tagger_step(work: Work, targets: csr_array) -> Step:
    """The tagger learns targets that do not change: L_classify, a mean over images.

    Where unverified pairs of verified images are to be ignored, they have no part in it.
    """
    verified = np.diff(work.verified.indptr) > 0

    def step(batch: Batch) -> Mapping[str, Tensor]:
        rows = numbers(batch.rows)
        _, logits = work.shown(batch)
        told = work.tags(targets, rows)
        if work.unverified != "ignore" or not verified[rows].any():
            return {"loss": sparse_cross_entropy(logits, told) / len(rows)}
        known = known_pairs(work, rows)
        losses = binary_cross_entropy_with_logits(logits, told.dense(), reduction="none")
        return {"loss": (losses * known).sum() / len(rows)}

    return step


def known_pairs(work: Work, rows: NDArray[np.int64]) -> Tensor:
    """(B, C) 1 for pairs that count: all of an image that nobody verified, else verified ones."""
    known = work.tags(work.verified, rows).dense().abs()
    counts = np.diff(work.verified.indptr)[rows]
    known[np.flatnonzero(counts == 0)] = 1
    return known


def _score(work: Work, rows: NDArray[np.int64]) -> float:
    """Average precision of the verified pairs of some images, all tags in one list."""
    pairs = only_rows(work.verified, rows)
    said = pair_answers(
        own_logit, work.bare, work.source, pairs, rows, work.views.clean, work.runtime
    )
    return average_precision(said, pairs.data > 0)
