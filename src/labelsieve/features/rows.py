"""What stands in for a network where classifiers are trained on rows of features, made before."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from labelsieve.errors import ConfigError


@dataclass(frozen=True)
class Width:
    """The shape of `Rows`."""

    n_features: int = 512

    def __post_init__(self) -> None:
        if self.n_features < 1:
            raise ConfigError(f"n_features is {self.n_features}; at least 1 is needed.")


class Rows(nn.Module):
    """Gives rows of features as they are: a network without weights.

    Example:
        >>> import torch
        >>> Rows(2)(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.]])
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.settings = Width(n_features)
        self.n_features = n_features

    def forward(self, rows: Tensor) -> Tensor:
        """(B, n_features), unchanged."""
        return rows
