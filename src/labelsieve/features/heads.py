"""What stands on a backbone: projections for contrastive losses, classifiers, cluster heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from labelsieve.errors import ConfigError


@dataclass(frozen=True)
class Projection:
    """The shape of a projection head. Defaults: SimCLR's on ResNet-18, as in SCAN."""

    n_in: int = 512  # features of the backbone
    n_hidden: int = 512  # of each layer but the last
    n_out: int = 128
    n_layers: int = 2  # linear ones; a ReLU stands between
    batch_norm: bool = False  # before each ReLU; the linear layers before it have no bias then

    def __post_init__(self) -> None:
        for name in ("n_in", "n_hidden", "n_out", "n_layers"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"projection.{name} is {getattr(self, name)}; at least 1 is needed."
                )


class ProjectionHead(nn.Sequential):
    """Linear layers with ReLUs between; rows come out with length 1, in float32.

    Whatever autocast says: the losses want unit rows, and a length that is rounded to bfloat16 is
    off by up to 0.4 %. A row of zeros stays one. Layers are numbered as in MoCo's files, whose head
    can be read with `load_strict(head, state, prefixes=("encoder_q.fc.",), ...)`.
    """

    def __init__(self, settings: Projection | None = None) -> None:
        self.settings = settings = settings or Projection()
        layers: list[nn.Module] = []
        n_in = settings.n_in
        for _ in range(settings.n_layers - 1):
            layers.append(nn.Linear(n_in, settings.n_hidden, bias=not settings.batch_norm))
            if settings.batch_norm:
                layers.append(nn.BatchNorm1d(settings.n_hidden))
            layers.append(nn.ReLU(inplace=True))
            n_in = settings.n_hidden
        super().__init__(*layers, nn.Linear(n_in, settings.n_out))
        self.n_features = settings.n_out

    def forward(self, features: Tensor) -> Tensor:
        """(B, n_in) to (B, n_out), unit-norm, float32."""
        rows: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return normalize(rows.float(), dim=1)


def simclr_head(n_features: int) -> ProjectionHead:
    """Linear, ReLU, linear to 128, with biases and without batch norm (SCAN 1.2)."""
    return ProjectionHead(Projection(n_features, n_features))


def sncf_head(n_features: int) -> ProjectionHead:
    """Three layers with batch norm, hidden ones four times as wide, but at most 3,072.

    So both of SNCF's come out: 512-2048-2048-128, and 1536-3072-3072-128 on an Inception-ResNet,
    where a bias that the batch norm after it takes out again is left out.
    """
    n_hidden = min(4 * n_features, 3072)
    return ProjectionHead(Projection(n_features, n_hidden, n_layers=3, batch_norm=True))


def moco_head(n_features: int) -> ProjectionHead:
    """MoCo v2's: 2048-2048-128 on ResNet-50. The same layers as SimCLR's."""
    return simclr_head(n_features)


def small_head(n_features: int) -> ProjectionHead:
    """Two layers with batch norm, 512 hidden: what small networks learn best with on a CPU."""
    return ProjectionHead(Projection(n_features, 512, batch_norm=True))


@dataclass(frozen=True)
class Classes:
    """The shape of a `Classifier`, or of `ClusterHeads`."""

    n_features: int = 512
    n_classes: int = 10
    n_heads: int = 1

    def __post_init__(self) -> None:
        for name in ("n_features", "n_classes", "n_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"classes.{name} is {getattr(self, name)}; at least 1 is needed.")


class Classifier(nn.Linear):
    """One linear layer: (B, n_features) to logits (B, n_classes)."""

    def __init__(self, n_features: int, n_classes: int) -> None:
        self.settings = Classes(n_features, n_classes)
        super().__init__(n_features, n_classes)


class ClusterHeads(nn.Module):
    """Several linear classifiers that learn apart on the same features, in one product.

    Each head draws its weights as `nn.Linear` does.
    """

    def __init__(self, n_features: int, n_clusters: int, n_heads: int = 1) -> None:
        super().__init__()
        self.settings = Classes(n_features, n_clusters, n_heads)
        heads = [nn.Linear(n_features, n_clusters) for _ in range(n_heads)]
        self.weight = nn.Parameter(torch.stack([head.weight.detach() for head in heads]))
        self.bias = nn.Parameter(torch.stack([head.bias.detach() for head in heads]))

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) to logits (H, B, C)."""
        n_heads, n_clusters = self.bias.shape
        logits = linear(features, self.weight.flatten(0, 1), self.bias.flatten())  # (B, H * C)
        return logits.view(-1, n_heads, n_clusters).transpose(0, 1)

    def head(self, place: int) -> Classifier:
        """A copy of one head, such as the one with the lowest loss.

        Raises:
            ConfigError: there is no such head.
        """
        n_heads = self.settings.n_heads
        if not 0 <= place < n_heads:
            raise ConfigError(f"there is no head {place}; there are 0 to {n_heads - 1}.")
        chosen = Classifier(self.settings.n_features, self.settings.n_classes)
        chosen = chosen.to(self.weight.device, self.weight.dtype)
        chosen.load_state_dict({"weight": self.weight[place], "bias": self.bias[place]})
        return chosen.train(self.training)


def width_of(network: nn.Module) -> int:
    """How wide the rows are that a network gives, for a head on it.

    Raises:
        ConfigError: it does not say.
    """
    width = getattr(network, "n_features", None)
    if not isinstance(width, int):
        raise ConfigError(
            f"{type(network).__name__} has no whole number n_features; set it to the width of the "
            "rows that the network gives."
        )
    return width


def cluster_probabilities(logits: Tensor) -> Tensor:
    """What several aligned heads say together: the mean of their probabilities.

    Args:
        logits: (H, B, C) of heads in which a cluster has the same number.

    Returns:
        (B, C) float32, rows sum to 1.
    """
    return logits.float().softmax(dim=2).mean(dim=0)
