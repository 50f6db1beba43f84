"""A network that says where an image lies among others, for retrieval."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labelsieve.errors import ConfigError
from labelsieve.features.heads import Projection, ProjectionHead, width_of


class Embedder(nn.Module):
    """A backbone and one linear layer on it: inputs to unit rows (B, D), in float32.

    The layer multiplies in float32 whatever the backbone does: of similarities that are rounded to
    bfloat16, those of near copies cannot be ordered.

    Saved by its parts: `save_network(folder, nn.ModuleDict({"backbone": ..., "head": ...}), ...)`.
    """

    backbone: nn.Module
    head: ProjectionHead

    def __init__(self, backbone: nn.Module, head: ProjectionHead) -> None:
        """Put the two together, as they are.

        Raises:
            ConfigError: the head takes features of another width.
        """
        super().__init__()
        if head.settings.n_in != width_of(backbone):
            raise ConfigError(
                f"the head takes {head.settings.n_in} features and {type(backbone).__name__} gives "
                f"{width_of(backbone)}. Give one that was made for this network."
            )
        self.backbone, self.head = backbone, head
        self.n_features = head.n_features

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S), or rows (B, n), to (B, D) float32 of unit length."""
        features = self.backbone(images)
        with torch.autocast(features.device.type, enabled=False):
            rows: Tensor = self.head(features.to(next(self.head.parameters()).dtype))
        return rows


def linear_head(n_in: int, dim: int, *, identity: bool = False) -> ProjectionHead:
    """One linear layer to `dim` numbers, drawn as PRISM's code does: Kaiming, by fan-out.

    Args:
        n_in: width of the features.
        dim: of what it gives.
        identity: begin with the features themselves, the first of them where there are more.
    """
    head = ProjectionHead(Projection(n_in, dim, dim, n_layers=1))
    (layer,) = head
    assert isinstance(layer, nn.Linear)  # noqa: S101 -- the only one there is
    if identity:
        nn.init.eye_(layer.weight)
    else:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    nn.init.zeros_(layer.bias)
    return head
