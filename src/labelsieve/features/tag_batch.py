"""The tags of the images of a batch, sparse: of 6,000 tags an image has nine."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor


class TagBatch(NamedTuple):
    """Values of n pairs of an image of the batch and a tag, image after image.

    Example:
        >>> asserted = csr_array(np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], np.float32))
        >>> batch = tag_batch(asserted, np.array([2, 0]))
        >>> batch.dense()
        tensor([[1., 0., 0.],
                [0., 1., 1.]])
    """

    columns: Tensor  # (n,) int32 the tags
    rows: Tensor  # (n,) int64 the place of the image in the batch, rising
    offsets: Tensor  # (B,) int32 where the pairs of each image begin
    values: Tensor  # (n,) float32, such as confidences
    n_tags: int  # C

    def dense(self) -> Tensor:
        """(B, C) float32, 0 where there is no pair."""
        found = torch.zeros(
            len(self.offsets), self.n_tags, dtype=self.values.dtype, device=self.values.device
        )
        return found.index_put_((self.rows, self.columns), self.values)


def tag_batch(
    matrix: csr_array, rows: NDArray[np.int64], device: str | torch.device = "cpu"
) -> TagBatch:
    """The pairs of some rows of a matrix.

    Args:
        matrix: (N, C) of any type.
        rows: (B,) which rows, in this order; a row may come twice.
        device: of the batch.
    """
    places = pair_places(matrix, rows)
    counts = np.diff(matrix.indptr)[rows]
    offsets = np.cumsum(counts) - counts
    places_in_batch = np.repeat(np.arange(len(rows)), counts)

    def sent(values: NDArray[Any], kind: type[np.generic]) -> Tensor:
        return torch.from_numpy(values.astype(kind, copy=False)).to(device, non_blocking=True)

    return TagBatch(
        columns=sent(matrix.indices[places], np.int32),
        rows=sent(places_in_batch, np.int64),
        offsets=sent(offsets, np.int32),
        values=sent(matrix.data[places], np.float32),
        n_tags=matrix.shape[1],
    )


def pair_places(matrix: csr_array, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the pairs of some rows lie in the arrays of a matrix, row after row.

    Example:
        >>> pair_places(csr_array(np.array([[1, 1], [1, 0], [1, 1]])), np.array([2, 0])).tolist()
        [3, 4, 0, 1]
    """
    counts = np.diff(matrix.indptr)[rows].astype(np.int64)
    starts = matrix.indptr[rows] - (np.cumsum(counts) - counts)
    found: NDArray[np.int64] = np.arange(counts.sum()) + np.repeat(starts, counts)
    return found
