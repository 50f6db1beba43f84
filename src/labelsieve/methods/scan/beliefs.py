"""What a teacher said last of each image, and what it says of the image with its neighbors.

An image whose neighbors are told another cluster is probably not of the one it is told: the mean
over neighbors is right more often than the prediction itself, and by it doubtful images are left
out first. Source of the idea: SPICE (Niu et al., TIP 2022) and nearest neighbor matching (Dang et
al., CVPR 2021); here it is a plain mean.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.errors import DataError
from labelsieve.records import Neighbors


class Beliefs(nn.Module):
    """The last prediction of each image, as part of a checkpoint. Memory: 4 N C bytes.

    Example:
        >>> from labelsieve.records import Neighbors
        >>> near = Neighbors(np.array([[1], [0]]), np.ones((2, 1), np.float32))
        >>> beliefs = Beliefs(torch.tensor([[1.0, 0], [0, 1]]), np.array([7, 9]), near, 1)
        >>> beliefs(torch.tensor([9]), torch.tensor([[5.0, -5]])).argmax().item()
        0
    """

    probabilities: Tensor  # (N, C)
    places: Tensor  # row of the source -> place among N, -1 of others
    near: Tensor  # (N, K + 1) places: itself and its neighbors

    def __init__(
        self,
        probabilities: Tensor,
        rows: NDArray[np.int64],
        neighbors: Neighbors,
        n_neighbors: int,
    ) -> None:
        """Begin with the predictions before training.

        Args:
            probabilities: (N, C) of each image.
            rows: (N,) which rows of the source they are.
            neighbors: of them, among them.
            n_neighbors: how many of them to ask, at most those that are given.

        Raises:
            DataError: neighbors of other images.
        """
        super().__init__()
        n = len(rows)
        if neighbors.indices.shape[0] != n or (n and int(neighbors.indices.max(initial=0)) >= n):
            raise DataError(
                f"neighbors of {neighbors.indices.shape[0]} images for {n} rows to learn from; "
                "expected neighbors of each among them."
            )
        places = torch.full((int(rows.max()) + 1,), -1, dtype=torch.int64)
        places[torch.from_numpy(rows)] = torch.arange(n)
        others = torch.from_numpy(np.asarray(neighbors.indices[:, :n_neighbors], np.int64))
        self.register_buffer("probabilities", probabilities.float().clone())
        self.register_buffer("places", places, persistent=False)
        self.register_buffer(
            "near", torch.cat([torch.arange(n)[:, None], others], dim=1), persistent=False
        )

    @torch.no_grad()
    def forward(self, rows: Tensor, logits: Tensor) -> Tensor:
        """Take in what is said of a batch; what is said of it with its neighbors.

        Args:
            rows: (B,) of the source.
            logits: (B, C).

        Returns:
            (B, C) logarithms of mean probabilities.
        """
        places = self.places[rows]
        self.probabilities[places] = logits.float().softmax(1)
        return self.probabilities[self.near[places]].mean(1).clamp(min=1e-12).log()
