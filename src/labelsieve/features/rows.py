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
SMALLEST = 1e-4  # of the largest variance; what varies less is not enlarged any further


@dataclass(frozen=True)
class RowShape:
    """The shape of `Rows`."""

    n_in: int = 512  # width of the features
    n_hidden: int = 0  # of the one hidden layer; 0: none
    turned: bool = False  # to the principal directions, as `Rows.fit` may do it

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
    directions: Tensor  # (n_in, n_in) where rows are turned

    def __init__(self, n_in: int, n_hidden: int = 0, turned: bool = False) -> None:
        super().__init__()
        self.settings = RowShape(n_in, n_hidden, turned)
        self.n_features = n_hidden or n_in
        self.register_buffer("center", torch.zeros(n_in))
        self.register_buffer("spread", torch.ones(()))
        if turned:
            self.register_buffer("directions", torch.eye(n_in))
        self.hidden: nn.Linear | None = None
        if n_hidden:
            self.hidden = nn.Linear(n_in, n_hidden)
            nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
            nn.init.zeros_(self.hidden.bias)

    def fit(self, values: NDArray[np.float32], whitening: float = 0.5) -> Rows:
        """Take center and spread from rows (N, n_in): one number for all columns.

        Columns keep their sizes among each other: features often carry more in their larger ones.
        Where rows are turned, columns become the principal directions, the widest first.

        Args:
            values: the rows.
            whitening: of turned rows: directions are divided by their deviation to this power. 0:
                none is; 1: all are equally wide.
        """
        sample = np.asarray(values[:: max(1, len(values) // SAMPLE)], np.float64)
        self.center.copy_(torch.from_numpy(sample.mean(axis=0)))
        if self.settings.turned:
            found = _directions(sample - sample.mean(axis=0), whitening)
            self.directions.copy_(torch.from_numpy(found))
            sample = sample @ found
        self.spread.fill_(float(sample.std(axis=0).mean()) or 1.0)
        return self

    def forward(self, rows: Tensor) -> Tensor:
        """(B, n_in) to (B, n_features)."""
        scaled = (rows - self.center) / self.spread
        if self.settings.turned:
            scaled = scaled @ self.directions
        return scaled if self.hidden is None else relu(self.hidden(scaled))


def _directions(centered: NDArray[np.float64], whitening: float) -> NDArray[np.float64]:
    """(n_in, n_in): principal directions as columns, over their deviations to a power."""
    variances, directions = np.linalg.eigh(centered.T @ centered / len(centered))
    variances, directions = variances[::-1], directions[:, ::-1]
    if not variances[0] > 0:
        return np.eye(len(variances))
    # the sign of a direction is chance: the largest part of each points up
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(len(largest))])
    shares = np.maximum(variances / variances[0], SMALLEST)
    found: NDArray[np.float64] = directions / shares ** (whitening / 2)
    return found
