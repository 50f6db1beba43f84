"""What a training for retrieval learns of the images that are kept, and with which settings.

::

    Pairs           settings of pairs within the batch, and against a memory: `PairObjective`
    Proxies         settings of learned proxies of each class: `BatchObjective` of SoftTriple
    objective_of    the objective of such settings, or of any loss
    optimizers_of   what moves the network's weights, and those of a loss
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn

from labelsieve.errors import ConfigError
from labelsieve.features.bank import MemoryBank
from labelsieve.features.weights import drawn_from
from labelsieve.loop.optimizers import Optimizer, make_optimizers
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.prism.filter import CleanFilter
from labelsieve.methods.prism.losses import InFloat32, Over, SoftTriple, contrastive_loss

Loss = Callable[[Tensor, Tensor], Tensor]  # of unit rows (n, D) and labels (n,): a scalar


class Kept(NamedTuple):
    """What is left of a global batch."""

    features: Tensor  # (n, D) unit-norm, with gradient
    labels: Tensor  # (n,)
    rows: Tensor  # (n,) which images they are
    batch_size: int  # before filtering


class Objective(Protocol):
    """Gives the loss of what was kept, and what else the log shows."""

    parts: dict[str, nn.Module]  # what it learns or remembers, for the checkpoint

    def __call__(self, kept: Kept) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Pairs:
    """Contrastive loss within the batch and against a memory. Defaults: PRISM's."""

    margin: float = 0.5  # cosine below which images of two labels are left alone
    over: Over = "sum"  # the pairs of an image; mean: positives apart from negatives
    memory_weight: float = 1.0  # of the part against the memory; 0: the batch alone
    memory_size: int = 0  # rows, where nothing is filtered; 0: as many as images to learn from

    def __post_init__(self) -> None:
        if not -1 <= self.margin < 1:
            raise ConfigError(f"margin is {self.margin}; expected a cosine, -1 <= margin < 1.")
        if self.over not in get_args(Over):
            raise ConfigError(
                f"over is {self.over!r}; expected one of {', '.join(get_args(Over))}."
            )
        for name in ("memory_weight", "memory_size"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more.")


@dataclass(frozen=True)
class Proxies:
    """SoftTriple: several learned proxies of each class. Defaults: PRISM's code."""

    n_centers: int = 0  # proxies of a class; 0: 10, of 500 classes or more 2
    scale: float = 20.0  # lambda, of the logits
    gamma: float = 0.1  # temperature among the proxies of a class
    margin: float = 0.01  # cosine that the own class is lessened by
    learning_rate: float = 0.1  # peak, of the proxies' own Adam

    def __post_init__(self) -> None:
        for name in ("n_centers", "margin"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        for name in ("scale", "gamma", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected above 0.")


class PairObjective:
    """Pairs of the kept images with each other, and with a memory of earlier ones.

    Source: PRISM, algorithm 1; without a filter, cross-batch memory (Wang et al., CVPR 2020) with
    the contrastive loss, where the batch enters the memory before it is compared with it.
    """

    def __init__(self, settings: Pairs, memory: CleanFilter | MemoryBank | None) -> None:
        """Name the parts.

        Args:
            settings: of the pairs.
            memory: of a filter, which learns of the batch after the step; or a bank, which this
                fills. None: the batch alone.
        """
        self._settings, self._memory = settings, memory
        self.parts: dict[str, nn.Module] = {}
        if isinstance(memory, MemoryBank):
            self.parts["memory"] = memory

    def __call__(self, kept: Kept) -> dict[str, Tensor]:
        settings, features, labels = self._settings, kept.features, kept.labels
        twins = kept.rows[:, None] == kept.rows  # a class of few images has some of them twice
        within = contrastive_loss(
            features, labels, features, labels,
            margin=settings.margin, over=settings.over, divisor=len(features), same_image=twins,
        )  # fmt: skip
        others, other_labels, itself = self._remembered(kept)
        if not len(others):
            return {"loss": within.total, "pairs": within.n_pairs}
        against = contrastive_loss(
            features, labels, others, other_labels,
            margin=settings.margin, over=settings.over, divisor=kept.batch_size, same_image=itself,
        )  # fmt: skip
        return {
            "loss": within.total + settings.memory_weight * against.total,
            "pairs": within.n_pairs + against.n_pairs,
        }

    def _remembered(self, kept: Kept) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows of the memory, their labels, and which are those of the batch itself, if any."""
        memory = self._memory
        if memory is None:
            return kept.features[:0], kept.labels[:0], None
        if isinstance(memory, CleanFilter):
            return *memory.memory(), None
        size, n = len(memory.features), len(kept.rows)
        own = (memory.next_slot + torch.arange(n, device=kept.rows.device)) % size
        memory.push(kept.features, kept.labels)
        others, labels = memory.read()
        return others, labels, torch.arange(len(others), device=own.device) == own[:, None]


class BatchObjective:
    """Any loss of the kept images alone: the memory, if there is one, is for the filter only."""

    def __init__(self, loss: Loss, learning_rate: float | None = None) -> None:
        """Name the loss.

        Args:
            loss: as `Runtime.prepare` gave it where it has weights.
            learning_rate: peak, of its weights and their own Adam; None: as the network's.
        """
        self._loss, self.learning_rate = loss, learning_rate
        self.parts = {"loss": loss} if isinstance(loss, nn.Module) else {}

    def __call__(self, kept: Kept) -> dict[str, Tensor]:
        return {"loss": self._loss(kept.features, kept.labels)}


def objective_of(
    loss: Pairs | Proxies | Loss,
    n_classes: int,
    dim: int,
    n_images: int,
    sieve: CleanFilter | None,
    seed: int,
    runtime: Runtime,
) -> Objective:
    """What settings say, or any loss, ready to be asked.

    Args:
        loss: settings, or a loss; one with weights is moved to the runtime's device.
        n_classes: C.
        dim: D.
        n_images: to learn from.
        sieve: whose memory pairs are compared with; None: they have a memory of their own.
        seed: of new proxies.
        runtime: device and processes.
    """
    if isinstance(loss, Pairs):
        memory: CleanFilter | MemoryBank | None = sieve
        if loss.memory_weight == 0:
            memory = None
        elif sieve is None:
            memory = MemoryBank(loss.memory_size or n_images, dim).to(runtime.device)
        return PairObjective(loss, memory)
    if isinstance(loss, Proxies):
        n_centers = loss.n_centers or (10 if n_classes < 500 else 2)
        with drawn_from(seed):
            proxies = SoftTriple(
                n_classes, dim, n_centers,
                scale=loss.scale, gamma=loss.gamma, margin=loss.margin,
            )  # fmt: skip
        return BatchObjective(runtime.prepare(InFloat32(proxies)), loss.learning_rate)
    if isinstance(loss, nn.Module):
        return BatchObjective(runtime.prepare(InFloat32(loss)))
    return BatchObjective(loss)


def optimizers_of(
    objective: Objective, embedder: nn.Module, settings: Optimizer, peak: float
) -> list[torch.optim.Optimizer]:
    """What moves the weights of the network, and those of a loss.

    Args:
        objective: of `objective_of`.
        embedder: as `Runtime.prepare` gave it.
        settings: of the network's weights.
        peak: their highest learning rate.
    """
    loss = objective.parts.get("loss")
    if loss is None or not isinstance(objective, BatchObjective):
        return make_optimizers(settings, [embedder])
    if objective.learning_rate is None:
        return make_optimizers(settings, [embedder, loss])
    group = {"params": list(loss.parameters()), "lr_factor": objective.learning_rate / peak}
    return [*make_optimizers(settings, [embedder]), torch.optim.Adam([group], 0.0)]
