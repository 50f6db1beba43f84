"""Images of three obvious classes, and a network small enough to train in seconds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import nn

from labelsieve.data.augment import CIFAR10
from labelsieve.features.resnets import ResNet, ResNetShape
from labelsieve.features.weights import drawn_from
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Neighbors

SIZE = 12  # pixels
NORMALIZATION = CIFAR10
COLORS = np.array([[200, 60, 60], [60, 190, 70], [70, 80, 210]])


class Colors(NamedTuple):
    pixels: NDArray[np.uint8]  # (N, 3, SIZE, SIZE)
    truth: NDArray[np.int64]  # (N,)
    rows: NDArray[np.int64]  # to learn from
    valid_rows: NDArray[np.int64]
    neighbors: Neighbors  # of rows
    valid_neighbors: Neighbors  # of valid_rows


def colors(n=240, n_valid=60, seed=0, parts=(0, 1, 2)) -> Colors:
    """Red, green and blue images with a ramp and noise; rows of both parts in no order.

    Args:
        n: images.
        n_valid: of them, to validate on.
        seed: of all that is drawn.
        parts: the classes in turn, one of them more often for classes of unequal size.
    """
    random = np.random.default_rng(seed)
    truth = random.permutation(np.resize(parts, n))
    ramp = np.linspace(-50, 50, SIZE)[None, None, None, :] * random.choice([-1, 1], (n, 1, 1, 1))
    noise = random.normal(0, 25, (n, 3, SIZE, SIZE))
    pixels = (COLORS[truth][:, :, None, None] + ramp + noise).clip(0, 255).astype(np.uint8)
    order = random.permutation(n)
    rows, valid_rows = order[n_valid:], order[:n_valid]
    means = pixels.mean((2, 3)) - 128
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return Colors(
        pixels, truth, rows, valid_rows,
        nearest_neighbors(means[rows], 5), nearest_neighbors(means[valid_rows], 3),
    )  # fmt: skip


def tiny_network(seed=0) -> nn.Module:
    """(B, 3, S, S) to (B, 16), with batch norms."""
    with drawn_from(seed):
        return ResNet(ResNetShape(widths=(8, 16), depths=(1, 1)))


def states(*modules: nn.Module) -> torch.Tensor:
    """All weights and buffers in one row."""
    values = [value for module in modules for value in module.state_dict().values()]
    return torch.cat([value.detach().flatten().double() for value in values])


def accuracy(clusters: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """The share that is right when each cluster stands for the class that suits all best."""
    counts = np.zeros((clusters.max() + 1, truth.max() + 1))
    np.add.at(counts, (clusters, truth), 1)
    return counts[linear_sum_assignment(-counts)].sum() / len(truth)
