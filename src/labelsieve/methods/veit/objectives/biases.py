"""One number a tag, learned from verified images: the control that says what cleaning adds.

Average precision over all tags together rewards that tags are comparable, which biases alone
achieve; that of each tag by itself they cannot change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from labelsieve.errors import ConfigError
from labelsieve.methods.veit.asking import blocks
from labelsieve.methods.veit.network import TagNet
from labelsieve.methods.veit.targets import frequencies
from labelsieve.methods.veit.work import Learned, Work

_STEPS = 50  # at most
_FARTHEST = 20.0  # that a bias may move
_VALUES = 8 << 20  # of logits at once: 32 MB


@dataclass(frozen=True)
class Biases:
    """The tagger of the tags as asserted, but for its biases."""

    pull: float = 1.0  # back to where they were: as many images would say as they say now

    def __post_init__(self) -> None:
        if self.pull < 0:
            raise ConfigError(f"pull is {self.pull}; expected 0 or more.")

    def planned(self, work: Work) -> int:
        return 0

    def learn(self, work: Work, before: TagNet) -> Learned:
        refit_biases(work, self.pull)
        return Learned()


def refit_biases(work: Work, pull: float) -> None:
    """Move each bias so that a tag is as frequent on the verified images as people found it.

    To where the likelihood of the targets of verified images, less `pull / 2` times the square of
    the move, is largest. Tags that nobody verified stay as they are.
    """
    rows, tagger = work.verified_rows, work.bare.tagger
    columns = np.unique(work.verified.indices)
    wanted = frequencies(work.targets, rows)[columns] * len(rows)
    seen = blocks(work.bare, work.source, rows, work.views.clean, work.runtime)
    features = torch.cat([features for _, features, _ in seen])  # (V, D)
    size = max(1, _VALUES // len(rows))
    for first in range(0, len(columns), size):
        own = torch.from_numpy(columns[first : first + size]).long().to(features.device)
        with torch.no_grad():
            logits = linear(features, tagger.weight[own], tagger.bias[own]).double()
            moves = bias_moves(logits, torch.from_numpy(wanted[first : first + size]), pull)
            tagger.bias[own] += moves.to(tagger.bias)


def bias_moves(logits: Tensor, wanted: Tensor, pull: float) -> Tensor:
    """By how much to move the logits of each tag: the b of sum sigmoid(z + b) + pull b = wanted.

    By Newton's method with steps of at most 1.5, which on this rising curve do not go astray.

    Args:
        logits: (n, K) float64.
        wanted: (K,) float64 sums of targets, each in [0, n].
        pull: of b to 0.

    Returns:
        (K,) float64, within 20.

    Example:
        >>> moves = bias_moves(torch.zeros(4, 1).double(), torch.tensor([1.0]).double(), 0.0)
        >>> round(moves.item(), 4)
        -1.0986
    """
    moves = torch.zeros_like(wanted, device=logits.device)
    wanted = wanted.to(logits.device)
    for _ in range(_STEPS):
        said = (logits + moves).sigmoid()
        excess = said.sum(dim=0) + pull * moves - wanted
        slope = (said * (1 - said)).sum(dim=0) + pull
        step = (excess / slope.clamp(min=1e-12)).clamp(-1.5, 1.5)
        moves = (moves - step).clamp(-_FARTHEST, _FARTHEST)
        if bool((step.abs() < 1e-9).all()):
            break
    return moves
