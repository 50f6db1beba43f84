"""One training of a tagger, as its objective sees it, and how a phase of it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from labelsieve.data.batches import Batch, Batches, Source
from labelsieve.data.samplers import Sampler
from labelsieve.features.contrast import Step
from labelsieve.features.shown import WEAK, Views
from labelsieve.features.tag_batch import TagBatch, tag_batch
from labelsieve.features.tag_heads import GateCleaner, LabelCleaner
from labelsieve.loop.checkpoints import Kept
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.optimizers import make_optimizers
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import AfterEpoch, Training, train
from labelsieve.methods.veit.batches import for_updates
from labelsieve.methods.veit.network import TagNet
from labelsieve.methods.veit.targets import Unverified

Progress = Callable[[int, int], None]  # batches done, batches in all
LogOf = Callable[[str], EpochLog]  # the log of a phase, by its name


class Learned(NamedTuple):
    """What an objective gives beside the tagger, which it trains in place."""

    cleaner: LabelCleaner | None = None
    gates: GateCleaner | None = None
    # (P,) what the gates' tagger says of each asserted pair, by taggers that did not learn it where
    # that matters
    pair_logits: NDArray[np.float32] | None = None
    # (P,) what cleaners say that did not learn from the image; NaN but at verified pairs
    cross_fitted: NDArray[np.float32] | None = None
    relevance: nn.Module | None = None  # of Misra et al.: features to log p of a tag being given
    n_updates: int | None = None  # that an early stop chose
    warnings: tuple[str, ...] = ()


class Objective(Protocol):
    """Settings that say what a tagger learns after it learned the tags as they are."""

    def learn(self, work: Work, before: TagNet) -> Learned:
        """Train `work.net`, of which `before` is a copy as it is now."""

    def planned(self, work: Work) -> int:
        """Updates that it will take, at most."""


@dataclass
class Work:
    """One training of a tagger. N images of the source, C tags."""

    net: nn.Module  # a `TagNet`, prepared: inputs to features and logits
    bare: TagNet  # the same, of the same weights
    source: Source
    views: Views
    asserted: csr_array  # (N, C) float32: 1, or confidences
    verified: csr_array  # (N, C) int8, of the verified images alone
    noisy_rows: NDArray[np.int64]  # images with tags as asserted: T
    verified_rows: NDArray[np.int64]  # images of which people verified tags: V
    targets: csr_array  # (N, C) float32, `pair_targets` of these
    unverified: Unverified
    verified_share: float  # of a batch
    baseline: Training  # of the tagger of the tags as asserted
    training: Training  # of what follows it
    updates: int  # of the weights, in a phase that learns from all images
    backbone_rate: float
    runtime: Runtime
    seed: int
    folder: Path | None = None
    log: LogOf | None = None
    progress: Progress | None = None
    n_planned: int = 0  # updates of all phases together
    n_done: int = 0

    @property
    def n_tags(self) -> int:
        """C."""
        return int(self.asserted.shape[1])

    @property
    def batch_size(self) -> int:
        """Images a batch, of all processes together."""
        return self.training.batch_size

    def shown(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features and logits of a batch, with gradient."""
        seen: tuple[Tensor, Tensor] = self.net(
            self.views.weak(batch.images, batch.rows, batch.epoch, WEAK[0])
        )
        return seen

    def tags(self, matrix: csr_array, rows: NDArray[np.int64]) -> TagBatch:
        """Pairs of a batch where the network is."""
        return tag_batch(matrix, rows, self.runtime.device)

    def optimizers(
        self, training: Training, factors: Mapping[nn.Module, float] | None = None
    ) -> list[torch.optim.Optimizer]:
        """What moves the tagger, the backbone if it learns, and other parts.

        Args:
            training: whose learning rate is the tagger's.
            factors: other parts, and how many times that rate is theirs.
        """
        backbone_factor = self.backbone_rate / training.learning_rate.peak
        parts = {self.bare.tagger: 1.0, self.bare.backbone: backbone_factor, **(factors or {})}
        found = []
        for part, factor in parts.items():
            if any(weight.requires_grad for weight in part.parameters()):
                made = make_optimizers(training.optimizer, [part])
                for group in (group for optimizer in made for group in optimizer.param_groups):
                    group["lr_factor"] = factor * group.get("lr_factor", 1.0)
                found += made
        return found

    def train(  # noqa: PLR0913 -- everything a phase has, in one place
        self,
        name: str,
        step: Step,
        sampler: Sampler,
        optimizers: Sequence[torch.optim.Optimizer],
        state: Mapping[str, Kept],
        *,
        n_updates: int | None = None,
        training: Training | None = None,
        source: Source | None = None,
        after_epoch: AfterEpoch | None = None,
    ) -> list[dict[str, float]]:
        """Run a phase by the one loop, or go on where its checkpoint ends.

        Args:
            name: of its lines in the log, and of the folder of its checkpoint.
            step: gives the loss of a batch.
            sampler: of its batches.
            optimizers: of all that it trains.
            state: all that it changes.
            n_updates: as many; None: as many as `training.epochs` of the sampler have.
            training: `self.training` unless given.
            source: `self.source` unless given.
            after_epoch: as for `loop.train`.
        """
        training = training or self.training
        if n_updates is not None:
            sampler, epochs = for_updates(sampler, n_updates, training.epochs)
            training = replace(training, epochs=epochs)
        training = replace(training, batch_size=sampler.batch_size)
        runtime, n = self.runtime, len(sampler) * training.epochs
        history = train(
            step,
            Batches(
                source or self.source, sampler,
                device=runtime.device, rank=runtime.rank, n_processes=runtime.n_processes,
            ),
            optimizers, training, runtime=runtime, state=state,
            folder=None if self.folder is None else self.folder / name,
            log=None if self.log is None else self.log(name),
            after_epoch=after_epoch, progress=self._told(),
        )  # fmt: skip
        self.n_done += n
        return history

    def _told(self) -> Progress | None:
        if self.progress is None:
            return None
        tell, before = self.progress, self.n_done
        return lambda done, _: tell(min(before + done, self.n_planned), self.n_planned)


def numbers(rows: Tensor) -> NDArray[np.int64]:
    """Row numbers of a batch as numpy has them, to look up sparse tags."""
    found: NDArray[np.int64] = rows.cpu().numpy()
    return found
