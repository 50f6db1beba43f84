"""The losses of learning tags, each a sum over tags and over the rows given.

::

    cleaning_loss           how far cleaned tags are from verified ones: L_clean
    sparse_cross_entropy    of logits and of targets that are mostly 0: L_classify
    dense_cross_entropy     the same, of targets of any kind
    pair_cross_entropy      of some pairs alone
    clip_straight_through   the clip of eq. 1, with a gradient beyond it
    relevance_probability   how likely a tag is given, if people leave out what is not relevant

A caller divides by the rows of the batch: the paper's losses are sums over tags, means over rows.
Where the backbone stays as it is, only L_clean reaches the cleaner; then the weight of L_clean does
nothing but scale its gradient, which Adam undoes, and RMSprop with a large epsilon takes for a
learning rate.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus

from labelsieve.features.tag_batch import TagBatch
from labelsieve.features.tag_heads import clip_straight_through

__all__ = [
    "cleaning_loss",
    "clip_straight_through",
    "dense_cross_entropy",
    "pair_cross_entropy",
    "relevance_cross_entropy",
    "relevance_probability",
    "sparse_cross_entropy",
]


def cleaning_loss(cleaned: Tensor, verified: Tensor, known: Tensor | None = None) -> Tensor:
    """How far cleaned tags are from what people verified.

    Source: Veit et al., L_clean = sum over verified images of |c - v|. Absolute differences make c
    the median: 1 where a tag is more likely right than wrong, else 0.

    Args:
        cleaned: (B, C) in [0, 1], of verified images.
        verified: (B, C) what they should be.
        known: (B, C) bool the pairs that count; None: all.

    Returns:
        scalar, the sum over images and tags.

    Example:
        >>> cleaning_loss(torch.tensor([[0.7, 0.2, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]])).item()
        1.5
    """
    distance = (cleaned - verified).abs()
    return (distance if known is None else distance * known).sum()


def sparse_cross_entropy(logits: Tensor, targets: TagBatch) -> Tensor:
    """Binary cross-entropy with targets that are 0 but at some pairs.

    sum softplus(z) - sum over the pairs of q z: no dense targets are made.

    Args:
        logits: (B, C).
        targets: in [0, 1]; for another pair the target is 0.

    Returns:
        scalar, nats, the sum over images and tags.
    """
    at = logits[targets.rows, targets.columns]
    return cast(Tensor, _SoftplusSum.apply(logits)) - (targets.values * at).sum()  # type: ignore[no-untyped-call]


def dense_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy with any targets in [0, 1], which are constants.

    Args:
        logits: (B, C).
        targets: (B, C).

    Returns:
        scalar, nats, the sum over images and tags.

    Example:
        >>> z, c = torch.tensor([[0.0, 1.0, -1.0]]), torch.tensor([[0.7, 0.2, 1.0]])
        >>> round(dense_cross_entropy(z, c).item(), 4)
        3.1197
    """
    return cast(Tensor, _DenseCrossEntropy.apply(logits, targets))  # type: ignore[no-untyped-call]


def pair_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of pairs: (n,) logits and (n,) targets to a scalar, their sum."""
    return binary_cross_entropy_with_logits(logits, targets, reduction="sum")


def relevance_probability(
    visual: Tensor, if_present: Tensor, if_absent: Tensor
) -> tuple[Tensor, Tensor]:
    """How likely tags are given, where people do not name all that they see.

    Source: Misra et al., "Seeing through the human reporting bias", CVPR 2016, eq. 1::

        p(y = 1 | I) = r(1 | 1, I) v(I) + r(1 | 0, I) (1 - v(I))

    in log space, so that nothing underflows.

    Args:
        visual: (B, C) logits of v, whether the image shows it.
        if_present: (B, C) logits of r(1 | 1), whether it is named then.
        if_absent: (B, C) logits of r(1 | 0), whether it is named although it is not there.

    Returns:
        (B, C) log p(y = 1), and log p(y = 0).
    """
    shown, hidden = logsigmoid(visual), logsigmoid(-visual)
    given = torch.logaddexp(logsigmoid(if_present) + shown, logsigmoid(if_absent) + hidden)
    left_out = torch.logaddexp(logsigmoid(-if_present) + shown, logsigmoid(-if_absent) + hidden)
    return given, left_out


def relevance_cross_entropy(given: Tensor, left_out: Tensor, targets: TagBatch) -> Tensor:
    """Cross-entropy of `relevance_probability` and targets that are 0 but at some pairs: a sum."""
    at = (targets.rows, targets.columns)
    return -left_out.sum() - (targets.values * (given[at] - left_out[at])).sum()


class _SoftplusSum(torch.autograd.Function):
    """sum softplus(z), whose gradient is sigmoid(z): one pass over z each way."""

    @staticmethod
    def forward(context: Any, logits: Tensor) -> Tensor:
        context.save_for_backward(logits)
        return softplus(logits).sum()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (logits,) = context.saved_tensors
        found: Tensor = logits.sigmoid().mul_(gradient)
        return found


class _DenseCrossEntropy(torch.autograd.Function):
    """sum softplus(z) - q z, whose gradient is sigmoid(z) - q: twice as fast as PyTorch's own."""

    @staticmethod
    def forward(context: Any, logits: Tensor, targets: Tensor) -> Tensor:
        context.save_for_backward(logits, targets)
        return softplus(logits).sum() - torch.dot(logits.flatten(), targets.flatten())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets = context.saved_tensors
        return logits.sigmoid().sub_(targets).mul_(gradient), None
