"""Linear heads on feature rows that are scaled first; in the end the scaling is in their weights.

How fast weights learn depends on the size of what they multiply, and features come in any: unit
rows of 512 values have values of 0.04 around a mean that says nothing of the image. Nothing is
scaled in memory: a linear layer on scaled rows is another linear layer on the rows as they are.
Whitening, or one factor a column, gave no better clusters than one factor for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.errors import ConfigError, DataError
from labelsieve.features.heads import ClusterHeads
from labelsieve.features.weights import drawn_from

Rows = NDArray[np.floating[Any]]  # (N, D), may be memory-mapped

_CHUNK = 4096  # rows read at once


@dataclass(frozen=True)
class Scaling:
    """How rows are moved and stretched before heads learn on them."""

    center: bool = True  # the mean row is taken off
    size: float = 1.0  # root mean square of the values afterwards; 0: as they come

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ConfigError(f"scaling.size is {self.size}; expected 0 or more.")


class Map(NamedTuple):
    """What a row becomes: ``factor * (row - mean)``."""

    mean: Tensor  # (D,)
    factor: float


def fit_scaling(rows: Rows, settings: Scaling | None = None) -> Map:
    """The map that scales these rows as the settings say.

    Raises:
        DataError: a row is not finite, or all of them are equal.
    """
    settings = settings or Scaling()
    n_features = rows.shape[1]
    total, squares = np.zeros(n_features), 0.0
    for first, part in chunks(rows):
        finite = np.isfinite(part).all(axis=1)
        if not finite.all():
            raise DataError(
                f"row {first + int(finite.argmin())} of the features is not finite (NaN or "
                "infinity). Leave this image out."
            )
        total += part.sum(axis=0, dtype=np.float64)
        squares += float(np.square(part, dtype=np.float64).sum())
    mean = total / len(rows) if settings.center else np.zeros(n_features)
    variance = (squares / len(rows) - float(mean @ mean)) / n_features
    if not variance > 1e-12 * squares / (len(rows) * n_features):
        raise DataError(
            f"all {len(rows)} rows of the features are equal; there is nothing to tell them apart "
            "by. Look at what made the features."
        )
    factor = settings.size / variance**0.5 if settings.size else 1.0
    return Map(torch.from_numpy(mean).float(), factor)


def chunks(rows: Rows, size: int = _CHUNK) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Some rows after the other as float32, each with the number of its first."""
    for first in range(0, len(rows), size):
        yield first, np.asarray(rows[first : first + size], np.float32)


class ScaledHeads(nn.Module):
    """Heads that learn on scaled rows, and are given the rows as they are.

    Each head has weights of its own, drawn as `nn.Linear` does: an optimizer that looks at whole
    matrices (Muon) must see one head at a time.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, scaling: Map, n_clusters: int, n_heads: int, *, seed: int) -> None:
        super().__init__()
        self.register_buffer("mean", scaling.mean)
        self.register_buffer("factor", torch.tensor(scaling.factor))
        with drawn_from(seed):
            heads = [nn.Linear(len(scaling.mean), n_clusters) for _ in range(n_heads)]
        self.weights = nn.ParameterList([head.weight for head in heads])
        self.biases = nn.ParameterList([head.bias for head in heads])
        self.shape = (n_heads, n_clusters)

    def on_rows(self) -> tuple[Tensor, Tensor]:
        """Weights (H * C, D) and biases (H * C,) that give the same logits on rows as they are."""
        weight = torch.cat(list(self.weights)) * self.factor
        bias = torch.cat(list(self.biases))
        return weight, bias - weight @ self.mean

    def forward(self, rows: Tensor) -> Tensor:
        """(B, D) to logits (H, B, C), of which those of one cluster lie together."""
        with torch.autocast(rows.device.type, enabled=False):
            weight, bias = self.on_rows()
        # This way round, the product comes out as the losses want it, and is faster as well: half
        # of a step at 10 heads of 10 clusters.
        logits = weight @ rows.T + bias[:, None]  # (H * C, B)
        return logits.view(*self.shape, -1).mT

    @torch.no_grad()
    def predictor(self, temperature: float = 1.0) -> ClusterHeads:
        """Heads as they are for predictions: on rows as they are, logits over the temperature."""
        weight, bias = self.on_rows()
        n_heads, n_clusters = self.shape
        return predicting(
            weight.view(n_heads, n_clusters, -1) / temperature,
            bias.view(n_heads, n_clusters) / temperature,
        )


def predicting(weight: Tensor, bias: Tensor) -> ClusterHeads:
    """Heads of these weights (H, C, D) and biases (H, C) that are not to be trained."""
    n_heads, n_clusters, n_features = weight.shape
    with torch.device("meta"):  # draws no first weights
        heads = ClusterHeads(n_features, n_clusters, n_heads)
    heads.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return heads.requires_grad_(False).eval()
