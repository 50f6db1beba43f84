"""Losses that bring images of a class together: between pairs, and between images and proxies.

Rows are unit-norm and float32; a loss of the whole batch is one of rows gathered from all
processes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from labelsieve.errors import ConfigError

Over = Literal["sum", "mean"]


class PairLoss(NamedTuple):
    """A loss between pairs, and how many of them it is made of."""

    total: Tensor  # scalar; 0 where there is no pair
    n_pairs: Tensor  # scalar: pairs that are pulled together or pushed apart


def contrastive_loss(
    anchors: Tensor,
    anchor_labels: Tensor,
    others: Tensor,
    other_labels: Tensor,
    *,
    margin: float = 0.5,
    over: Over = "sum",
    divisor: int,
    same_image: Tensor | None = None,
) -> PairLoss:
    """Pull pairs of one label together; push those of two labels below a similarity.

    Source: PRISM, eq. 6 and 7: the sum over positives of 1 - s, and over negatives of max(s -
    margin, 0), with cosines s. Deviations: the authors' code adds s where this adds s - margin,
    which has the same gradient; it leaves out positives of s >= 1 - 1e-5, among them the image
    itself, where this leaves out `same_image`. Over "mean", an anchor's positives are averaged, and
    so are its negatives above the margin: a sum lets large classes outweigh the negatives.

    Args:
        anchors: (A, D) unit-norm.
        anchor_labels: (A,) int64.
        others: (M, D) unit-norm: of the same batch, or of a memory.
        other_labels: (M,) int64.
        margin: similarity below which negatives are left alone.
        over: what becomes of the pairs of an anchor.
        divisor: of the sum over anchors. The authors' code divides by the anchors within the batch,
            and by the batch before filtering for those against a memory.
        same_image: (A, M) bool, where the two are one image; such pairs do not count.

    Returns:
        total 0 where all positives are equal, and all negatives at or below the margin.

    Raises:
        ConfigError: no such way to put pairs together.

    Example:
        >>> rows, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([3, 3])
        >>> itself = torch.eye(2, dtype=torch.bool)
        >>> loss = contrastive_loss(rows, labels, rows, labels, divisor=2, same_image=itself)
        >>> loss.total.item(), loss.n_pairs.item()
        (1.0, 2.0)
    """
    if over not in get_args(Over):
        raise ConfigError(f"over is {over!r}; expected one of {', '.join(get_args(Over))}.")
    others = others.to(anchors)
    with torch.no_grad():
        similarity = anchors @ others.T  # (A, M)
        positive = anchor_labels[:, None] == other_labels
        negative = (similarity > margin) & ~positive
        if same_image is not None:
            positive, negative = positive & ~same_image, negative & ~same_image
        n_positive, n_negative = positive.sum(dim=1).to(anchors), negative.sum(dim=1).to(anchors)
        of_positive = n_positive.clamp(min=1) if over == "mean" else torch.ones_like(n_positive)
        of_negative = n_negative.clamp(min=1) if over == "mean" else torch.ones_like(n_negative)
        weights = negative / of_negative[:, None] - positive / of_positive[:, None]
        constant = (n_positive / of_positive - margin * n_negative / of_negative).sum()
    # Once the pairs are chosen, the loss is linear in the similarities. In this order no (A, M)
    # table has a gradient: 1.7 times as fast at 64 anchors and 10,000 others of 64 numbers.
    total = (anchors * (weights @ others)).sum() + constant
    return PairLoss(total / divisor, (n_positive + n_negative).sum())


def soft_triple_loss(
    features: Tensor,
    labels: Tensor,
    proxies: Tensor,
    *,
    scale: float = 20.0,
    gamma: float = 0.1,
    margin: float = 0.01,
) -> Tensor:
    """Classify by the nearest of several proxies of each class, softly.

    Source: SoftTriple (Qian et al., ICCV 2019), eq. 7 and 8. Deviation: without the term that draws
    the proxies of a class together, as pytorch-metric-learning has it.

    Args:
        features: (B, D) unit-norm.
        labels: (B,) int64 in [0, C).
        proxies: (C, H, D), of any length; they are normalized here.
        scale: lambda, of the logits.
        gamma: temperature among the proxies of a class; toward 0 the nearest counts alone.
        margin: delta, that the own class's similarity is lessened by.

    Returns:
        scalar, nats; the mean over the batch. log C where all classes are equally near and margin
        is 0.
    """
    n_classes, n_centers = proxies.shape[:2]
    flat = normalize(proxies, dim=2).flatten(0, 1).to(features)
    similarity = (features @ flat.T).view(len(features), n_classes, n_centers)
    relaxed = ((similarity / gamma).softmax(dim=2) * similarity).sum(dim=2)  # (B, C)
    own = one_hot(labels, n_classes).to(relaxed)
    return cross_entropy(scale * (relaxed - margin * own), labels)


class SoftTriple(nn.Module):
    """`soft_triple_loss` with proxies that are learned."""

    def __init__(
        self,
        n_classes: int,
        dim: int,
        n_centers: int = 10,
        *,
        scale: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
    ) -> None:
        """Draw proxies in random directions.

        Args:
            n_classes: C.
            dim: D.
            n_centers: H, proxies of a class.
            scale: as for `soft_triple_loss`, as are the next two.
            gamma: temperature.
            margin: delta.

        Raises:
            ConfigError: a number is not positive.
        """
        super().__init__()
        if min(n_classes, dim, n_centers) < 1:
            raise ConfigError(
                f"{n_classes} classes of {n_centers} proxies of {dim} numbers; expected 1 or more."
            )
        self.proxies = nn.Parameter(normalize(torch.randn(n_classes, n_centers, dim), dim=2))
        self.scale, self.gamma, self.margin = scale, gamma, margin

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, D) and (B,) to a scalar."""
        return soft_triple_loss(
            features, labels, self.proxies, scale=self.scale, gamma=self.gamma, margin=self.margin
        )


class InFloat32(nn.Module):
    """A loss that is computed as it is written, whatever precision networks run in."""

    def __init__(self, loss: nn.Module) -> None:
        """Wrap it."""
        super().__init__()
        self.loss = loss

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(n, D) and (n,) to a scalar."""
        with torch.autocast(features.device.type, enabled=False):
            return self.loss(features, labels)  # type: ignore[no-any-return]
