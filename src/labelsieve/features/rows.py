"""What stands in for a network where classifiers are trained on rows of features, made before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import relu

from labelsieve.errors import ConfigError

SAMPLE = 20_000  # rows, evenly spaced, that center and spread are taken from


@dataclass(frozen=True)
class RowShape:
    """The shape of `Rows`."""

    n_in: int = 512  # width of the features
    n_hidden: int = 0  # of the one hidden layer; 0: none

    def __post_init__(self) -> None:
        if self.n_in < 1 or self.n_hidden < 0:
            raise ConfigError(
                f"n_in is {self.n_in} and n_hidden {self.n_hidden}; expected at least 1, and 0 or "
                "more."
            )


class Rows(nn.Module):
    """Rows of features, centered and of unit mean spread, and a hidden layer, if any.

    Rows come with unit length, so the more columns they have, the less each varies: without the
    scale, one learning rate would not do for all.

    Example:
        >>> Rows(2)(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.]])
    """

    center: Tensor
    spread: Tensor

    def __init__(self, n_in: int, n_hidden: int = 0) -> None:
        super().__init__()
        self.settings = RowShape(n_in, n_hidden)
        self.n_features = n_hidden or n_in
        self.register_buffer("center", torch.zeros(n_in))
        self.register_buffer("spread", torch.ones(()))
        self.hidden: nn.Linear | None = None
        if n_hidden:
            self.hidden = nn.Linear(n_in, n_hidden)
            nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
            nn.init.zeros_(self.hidden.bias)

    def fit(self, values: NDArray[np.float32]) -> Rows:
        """Take center and spread from rows (N, n_in): one number for all columns.

        Columns keep their sizes among each other: features often carry more in their larger ones.
        """
        sample = np.asarray(values[:: max(1, len(values) // SAMPLE)], np.float64)
        self.center.copy_(torch.from_numpy(sample.mean(axis=0)))
        self.spread.fill_(float(sample.std(axis=0).mean()) or 1.0)
        return self

    def forward(self, rows: Tensor) -> Tensor:
        """(B, n_in) to (B, n_features)."""
        scaled = (rows - self.center) / self.spread
        return scaled if self.hidden is None else relu(self.hidden(scaled))
