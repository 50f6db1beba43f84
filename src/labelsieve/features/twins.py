"""Two networks as one, for methods in which two of them learn from each other."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from labelsieve.errors import ConfigError
from labelsieve.features.heads import Classifier


class Twins(nn.Module):
    """Two networks of one kind side by side: inputs to the features of both, (B, 2D).

    Features are halved, so that a classifier on them says the mean of what each half of it says on
    one network (`apart`). So both are trained, averaged, saved and asked as one network.

    Example:
        >>> from labelsieve.features.rows import Rows
        >>> twins = Twins(Rows(2), Rows(2))
        >>> twins(torch.ones(1, 2))
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        """Take both as they are.

        Raises:
            ConfigError: they do not give rows of one width.
        """
        super().__init__()
        widths = [getattr(network, "n_features", None) for network in (first, second)]
        if widths[0] is None or widths[0] != widths[1]:
            raise ConfigError(
                f"twins of {widths[0]} and {widths[1]} features; expected two networks of one kind."
            )
        self.first, self.second = first, second
        self.n_features: int = 2 * cast(int, widths[0])

    def forward(self, images: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Both networks on the same inputs; or, of two batches, each on its own.

        Of two batches, row i has what the first says of row i of the first batch, then what the
        second says of row i of the second.
        """
        ours, theirs = images if isinstance(images, tuple) else (images, images)
        return torch.cat([self.first(ours), self.second(theirs)], dim=1) / 2


def apart(features: Tensor, classifier: Classifier) -> Tensor:
    """What each of two networks says, by its half of their classifier.

    Args:
        features: (B, 2D) of `Twins`.
        classifier: of 2D features; the biases are those of both.

    Returns:
        (2, B, C) logits; their mean is what the classifier says of the features.
    """
    with torch.autocast(features.device.type, enabled=False):
        weights = classifier.weight.chunk(2, dim=1)  # (C, D) each
        halves = features.to(classifier.weight.dtype).chunk(2, dim=1)  # (B, D) each
        says = [2 * half @ weight.T for half, weight in zip(halves, weights, strict=True)]
        return torch.stack(says) + classifier.bias


def twins_of(network: nn.Module, seed: int, *, redraw: bool = True) -> Twins:
    """A network and a second one of its kind; both are copies.

    Args:
        network: with `n_features`.
        seed: of the second one's weights.
        redraw: draw the second one's weights anew. False: it begins as the first does, as with
            pretrained weights; then only their classifiers differ at first.
    """
    second = copy.deepcopy(network)
    return Twins(copy.deepcopy(network), redrawn(second, seed) if redraw else second)


@torch.no_grad()
def redrawn(network: nn.Module, seed: int) -> nn.Module:
    """Draw the weights of a network anew, in place, as they were drawn at its first making.

    Each tensor gets normal numbers of its own mean and deviation: whatever rule scaled the layers
    of a network that was not trained yet is kept, and what is constant stays, such as the weights
    of batch norms. Weights that are not trained stay too.

    Args:
        network: not trained yet.
        seed: of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        if weight.requires_grad and weight.numel() > 1:
            mean, deviation = weight.mean(), weight.std()
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(mean + deviation * drawn.to(weight))
    return network
