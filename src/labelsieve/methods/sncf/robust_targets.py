"""What images are trained toward: what the audit says of their class, and what the network says.

::

    class_evidence     what the audit says of each image's class, its label considered
    compact_evidence   the same, three numbers an image
    combined           the audit and the network, as two witnesses
    Memory             what was last said of each image, and what follows from it
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from labelsieve.errors import ConfigError, DataError
from labelsieve.features.objectives import contrast_groups
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.guesses import soft_targets
from labelsieve.methods.sncf.losses import pseudo_loss
from labelsieve.methods.sncf.modes import low_mode, pseudo_loss_weights
from labelsieve.records import Verdict

Evidence = Literal["both", "audit", "alternate"]

# What the audit gives a class at least, so that the network can still overrule it; a person can't
# be overruled.
LEAST_EVIDENCE = 1e-4

_BLOCK = 1 << 14  # images at a time: of 1.28 million x 1,000 classes each copy would take 10 GB


def class_evidence(beliefs: Beliefs, n_classes: int) -> NDArray[np.float32]:
    """What the audit says of each image's class, if it has one of them.

    The label has the probability that it is right; the suggestion its own, where it is another
    class; what is left is shared among the other classes.

    Args:
        beliefs: of N images.
        n_classes: C, at least 2.

    Returns:
        (N, C) rows sum to 1. At least `LEAST_EVIDENCE` each where no person decided; exactly 0 or
        1 where one did. Uniform where the audit says nothing but "foreign".

    Raises:
        DataError: a label or suggestion is no class.

    Example:
        >>> evidence = class_evidence(Beliefs.trusting(np.array([1, -1])), n_classes=4)
        >>> evidence.round(3).tolist()
        [[0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]
    """
    labels, suggestion = beliefs.labels, beliefs.suggestion
    if n_classes < 2 or max(labels.max(initial=-1), suggestion.max(initial=-1)) >= n_classes:
        raise DataError(
            f"labels up to {labels.max(initial=-1)} and suggestions up to "
            f"{suggestion.max(initial=-1)}; expected classes 0 to {n_classes - 1}, two or more."
        )
    rows = np.arange(len(labels))
    labeled = labels >= 0
    proposed = (suggestion >= 0) & (suggestion != labels)
    clean, mislabeled = (beliefs.kinds[:, kind].astype(np.float64) for kind in range(2))
    evidence = np.zeros((len(labels), n_classes))
    evidence[rows[labeled], labels[labeled]] = clean[labeled]
    likely = np.minimum(beliefs.suggestion_probability, mislabeled)
    evidence[rows[proposed], suggestion[proposed]] = likely[proposed]
    others = np.ones_like(evidence)
    others[rows[labeled], labels[labeled]] = 0
    others[rows[proposed], suggestion[proposed]] = 0
    rest = np.where(proposed, mislabeled - likely, mislabeled)  # of the classes not named
    n_others = others.sum(axis=1)
    shared = others * (rest / np.maximum(n_others, 1))[:, None]
    # of two classes, what the suggestion does not claim is its own as well: there is no third
    only = (n_others == 0) & proposed
    evidence[rows[only], suggestion[only]] += rest[only]
    evidence += shared
    total = evidence.sum(axis=1, keepdims=True)
    evidence = np.where(total > 0, evidence / np.where(total > 0, total, 1), 1 / n_classes)
    doubtful = ~beliefs.certain
    evidence[doubtful] = evidence[doubtful].clip(LEAST_EVIDENCE)
    evidence /= evidence.sum(axis=1, keepdims=True)
    return evidence.astype(np.float32)


def compact_evidence(
    beliefs: Beliefs, n_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """`class_evidence` in little room: of 1.28 million x 1,000 classes it would take 5 GB.

    Args:
        beliefs: of N images.
        n_classes: C, at least 2.

    Returns:
        (N, 3) the evidence of the label, of the suggestion and of each other class, whatever where
        there is none of the kind; and (C,) the sum over images of the evidence, each as far as it
        is not foreign.

    Raises:
        DataError: a label or suggestion is no class.
    """
    values, shares = np.empty((len(beliefs), 3), np.float32), np.zeros(n_classes)
    few = np.arange(min(n_classes, 3))  # at most two of them are named
    for first in range(0, len(beliefs), _BLOCK):
        block = slice(first, first + _BLOCK)
        part = Beliefs(**{name: column[block] for name, column in vars(beliefs).items()})
        evidence, rows = class_evidence(part, n_classes), np.arange(len(part))
        named = (few == part.labels[:, None]) | (few == part.suggestion[:, None])
        for column, classes in enumerate((part.labels, part.suggestion, named.argmin(axis=1))):
            values[block, column] = evidence[rows, classes]
        known = 1 - part.kinds[:, Verdict.FOREIGN]
        shares += np.einsum("n,nc->c", known, evidence, dtype=np.float64)
    return values, shares


@torch.no_grad()
def combined(
    evidence: Tensor, logits: Tensor, evidence_power: float = 1.0, guess_power: float = 1.0
) -> Tensor:
    """What two witnesses say of a class together: ``t_c ~ evidence_c^a p_c^b``.

    Bayes' rule for evidence from two sources and classes that are equally frequent, where powers of
    1 say that the two do not know of each other. They do: the network learned from the audit. Lower
    powers discount for that. What a person ruled out, with an evidence of 0, stays out.

    Args:
        evidence: (B, C) of `class_evidence`.
        logits: (B, C) of the network.
        evidence_power: a >= 0.
        guess_power: b >= 0.

    Returns:
        (B, C) rows sum to 1.

    Raises:
        ConfigError: a power below 0.

    Example:
        >>> combined(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 2.0, 9.0]]))
        tensor([[0.1192, 0.8808, 0.0000]])
    """
    if evidence_power < 0 or guess_power < 0:
        raise ConfigError(f"powers are {evidence_power} and {guess_power}; expected 0 or more.")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    said = guess_power * logits.log_softmax(dim=1)
    # the logarithm of 0 times a power of 0 would be NaN, where it is to stay impossible
    known = evidence_power * evidence.to(said).clamp(min=torch.finfo(said.dtype).tiny).log()
    return (said + known).masked_fill(evidence <= 0, -torch.inf).softmax(dim=1)


class Memory:
    """What was last said of each image, in tensors that a checkpoint keeps.

    Attributes:
        label_losses: (N,) cross-entropy of the given label; NaN before the first, or without one.
        pseudo_losses: (N,) cross-entropy of the guess.
        right: (N,) how likely a label is right by its small loss, since the last epoch that counts.
        worth: (N,) how much a guess counts by its pseudo-loss.
    """

    def __init__(self, n_images: int, device: torch.device) -> None:
        self.label_losses = torch.full((n_images,), torch.nan, device=device)
        self.pseudo_losses = torch.full((n_images,), torch.nan, device=device)
        self.right = torch.full((n_images,), torch.nan, device=device)
        self.worth = torch.ones(n_images, device=device)

    def state(self) -> dict[str, Tensor]:
        """For `Phase.state`."""
        return dict(vars(self))


class TargetSettings(Protocol):
    """What of `Robust` decides targets and weights."""

    @property
    def evidence(self) -> Evidence: ...
    @property
    def audit_power(self) -> float: ...
    @property
    def guess_power(self) -> float: ...
    @property
    def label_first(self) -> bool: ...
    @property
    def pseudo_loss(self) -> bool: ...
    @property
    def confidence(self) -> float: ...


class Targets:
    """Targets and weights of the images of a batch, by the audit and by what the network says."""

    def __init__(
        self, settings: TargetSettings, beliefs: Beliefs, n_classes: int, memory: Memory
    ) -> None:
        """Bring what is believed to the device.

        Args:
            settings: of `Robust`, where they are explained.
            beliefs: of all N images.
            n_classes: C.
            memory: on the device of the network; changed by each batch.
        """
        self._settings, self._memory = settings, memory
        self._n_classes, device = n_classes, memory.worth.device
        evidence, shares = compact_evidence(beliefs, n_classes)

        def on_device(values: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.array(values)).to(device)

        self._values, self._kinds = on_device(evidence), on_device(beliefs.kinds)  # (N, 3) both
        self._suggestion, self._class_numbers = (
            on_device(beliefs.suggestion),
            on_device(np.arange(n_classes)),
        )
        self._labels, self._certain = on_device(beliefs.labels), on_device(beliefs.certain)
        self._groups = on_device(beliefs.foreign_group.astype(np.int64))
        self._noisy = (beliefs.verdict == Verdict.MISLABELED) & ~beliefs.certain
        self.prior = on_device(shares.astype(np.float32))  # (C,) how often a class is there

    def of(self, rows: Tensor, logits: Tensor, trust: float, epoch: int) -> tuple[Tensor, Tensor]:
        """What images are trained toward, and how much each counts.

        Args:
            rows: (B,) which images.
            logits: (B, C) what the teacher says of them.
            trust: how far that counts, in [0, 1]: at 0 the audit alone.
            epoch: whose parity alternates.

        Returns:
            (B, C) rows sum to 1, and (B,) in [0, 1].
        """
        both = self._settings.evidence == "both"
        end = self._settings.audit_power if both else 0.0
        aims = combined(
            self._evidence(rows), logits, 1 - trust * (1 - end), trust * self._settings.guess_power
        )
        kinds, labels = self._kinds[rows], self._labels[rows]
        self._remember(rows, labels, logits, aims)
        if not both:
            aims = soft_targets(labels, self._kinds_of(rows, kinds, epoch), aims).targets
        weights = 1 - kinds[:, Verdict.FOREIGN]
        if self._settings.label_first:
            aims, believed = _label_first(aims, labels, trust)
            weights = weights * believed
        if self._settings.confidence:
            entropy = torch.special.entr(aims).sum(dim=1) / math.log(aims.shape[1])
            weights = weights * (1 - entropy).clamp(min=0) ** self._settings.confidence
        if self._settings.pseudo_loss:
            weights = weights * self._memory.worth[rows]
        return aims, weights

    def groups(self, rows: Tensor, aims: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Who is contrasted with whom: (B,) groups, and (B,) how sure they are.

        Images of a class are a group, as sure as they are known; those that are rather foreign are
        of their group of foreign images, or alone.
        """
        foreign = self._kinds[rows].argmax(dim=1) == Verdict.FOREIGN
        shared = contrast_groups(aims.argmax(dim=1), foreign, self._groups[rows], self._n_classes)
        return shared, torch.where(foreign, self._kinds[rows, Verdict.FOREIGN].to(weights), weights)

    def after_epoch(self, epoch: int, rows: NDArray[np.int64], *, begun: bool) -> dict[str, float]:
        """Tell small losses from large ones; for the log, how many labels are no longer believed.

        Args:
            epoch: that ended.
            rows: which images are trained on.
            begun: whether losses say anything yet.
        """
        memory, log = self._memory, {}
        if begun and self._settings.evidence == "alternate":
            losses = memory.label_losses.cpu().numpy()[rows]
            seen = rows[np.isfinite(losses)]
            right = low_mode(losses[np.isfinite(losses)])
            memory.right[seen] = torch.from_numpy(right).to(memory.right)
        if begun and self._settings.pseudo_loss:
            losses = memory.pseudo_losses.cpu().numpy()
            seen = rows[np.isfinite(losses[rows])]
            worth = pseudo_loss_weights(losses[seen], self._noisy[seen])
            memory.worth[seen] = torch.from_numpy(worth).to(memory.worth)
            log["worth"] = (
                float(worth[self._noisy[seen]].mean()) if self._noisy[seen].any() else 1.0
            )
        return log

    def _evidence(self, rows: Tensor) -> Tensor:
        """(B, C) of `class_evidence`, of which only three numbers an image are held."""
        label, suggestion, rest = (value[:, None] for value in self._values[rows].unbind(dim=1))
        found = torch.where(self._class_numbers == self._suggestion[rows, None], suggestion, rest)
        return torch.where(self._class_numbers == self._labels[rows, None], label, found)

    def _remember(self, rows: Tensor, labels: Tensor, logits: Tensor, aims: Tensor) -> None:
        """What the teacher's losses are now; where a class is missing, none."""
        if self._settings.evidence == "alternate":
            losses = cross_entropy(logits, labels.clamp(min=0), reduction="none")
            self._memory.label_losses[rows] = torch.where(labels >= 0, losses, torch.nan).to(
                self._memory.label_losses
            )
        if self._settings.pseudo_loss:
            losses = pseudo_loss(logits, aims)
            self._memory.pseudo_losses[rows] = losses.to(self._memory.pseudo_losses)

    def _kinds_of(self, rows: Tensor, kinds: Tensor, epoch: int) -> Tensor:
        """(B, 3) by the audit, or, in odd epochs of an alternation, by small losses."""
        right = self._memory.right[rows]
        if self._settings.evidence != "alternate" or epoch % 2 == 0:
            return kinds
        foreign = kinds[:, Verdict.FOREIGN]
        by_loss = torch.stack([(1 - foreign) * right, (1 - foreign) * (1 - right), foreign], dim=1)
        decided = self._certain[rows] | right.isnan()
        return torch.where(decided[:, None], kinds, by_loss)


def _label_first(aims: Tensor, labels: Tensor, trust: float) -> tuple[Tensor, Tensor]:
    """Targets in which other classes than the label count by `trust`, and what is left of each."""
    classes = torch.arange(aims.shape[1], device=aims.device)
    counted = torch.where(labels[:, None] == classes, aims, trust * aims)
    left = counted.sum(dim=1)
    # of an image without label nothing is left at first: it has a target, of no weight
    return torch.where((left > 0)[:, None], counted / left[:, None], aims), left
