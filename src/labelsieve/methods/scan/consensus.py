"""Several heads speak as one: their clusters are matched, their probabilities averaged.

Heads that learn apart find about the same clusters in another order each. After `aligned`, cluster
c means the same in all of them, so that `cluster_probabilities` may average.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from labelsieve.features.heads import ClusterHeads, cluster_probabilities
from labelsieve.methods.scan.scaled_heads import predicting

Rows = NDArray[np.floating[Any]]  # (N, D), may be memory-mapped

_ENOUGH = 50_000  # rows that heads are compared on, of larger sets evenly spread ones
_LOGITS_AT_ONCE = 1 << 24  # 64 MB
_ROUNDS = 4  # of matching heads to their mean, which changes little after the first


@torch.inference_mode()
def row_logits(heads: ClusterHeads, rows: Rows) -> Iterator[Tensor]:
    """Logits (H, b, C) float32 of b rows after the other, on the device of the heads."""
    n_heads, n_clusters = heads.bias.shape
    at_once = max(1, _LOGITS_AT_ONCE // (n_heads * n_clusters))
    for first in range(0, len(rows), at_once):
        # a copy: torch warns of arrays that cannot be written to, such as memory-mapped ones
        part = torch.from_numpy(np.array(rows[first : first + at_once], np.float32))
        yield heads(part.to(heads.weight.device))


def row_probabilities(heads: ClusterHeads, rows: Rows) -> NDArray[np.float32]:
    """What aligned heads say together of each row.

    Args:
        heads: aligned, as `train_heads` gives them.
        rows: (N, D) made as those that the heads were trained on.

    Returns:
        (N, C), each row sums to 1.
    """
    found = np.empty((len(rows), heads.bias.shape[1]), np.float32)  # once: of millions it is large
    done = 0
    for logits in row_logits(heads, rows):
        part = cluster_probabilities(logits).cpu().numpy()
        found[done : done + len(part)] = part
        done += len(part)
    return found


def aligned(heads: ClusterHeads, rows: Rows, reference: int) -> ClusterHeads:
    """The same heads, with the clusters of each in an order that suits the others best.

    First each head is matched to the reference, by the assignment of clusters that makes the sum of
    products of probabilities largest; then to the mean of all heads, until nothing changes.

    Args:
        heads: that predict on rows.
        rows: (N, D) of which 50,000 at most are looked at.
        reference: the head whose order is kept.
    """
    rows = spread(rows, _ENOUGH)
    n_heads, n_clusters = heads.bias.shape
    orders = np.tile(np.arange(n_clusters), (n_heads, 1))
    alone = torch.zeros(n_heads)
    alone[reference] = 1
    for weights in (alone, *(torch.full((n_heads,), 1 / n_heads) for _ in range(_ROUNDS))):
        overlaps = _overlaps(heads, rows, orders, weights)
        found = np.stack([linear_sum_assignment(each, maximize=True)[1] for each in overlaps])
        # the order of the mean is that of the reference, also where it would rather have another
        found = found[:, np.argsort(found[reference])]
        if np.array_equal(found, orders):
            break
        orders = found
    return _reordered(heads, orders)


def _overlaps(
    heads: ClusterHeads, rows: Rows, orders: NDArray[np.int64], weights: Tensor
) -> NDArray[np.float64]:
    """(H, C, C) sums over rows of p(cluster of the weighted mean of heads) * p(cluster of head)."""
    n_heads, n_clusters = orders.shape
    device = heads.weight.device
    total = torch.zeros(n_heads, n_clusters, n_clusters, dtype=torch.float64, device=device)
    index = torch.from_numpy(orders).to(device)[:, None]
    weights = weights.to(device)
    for logits in row_logits(heads, rows):
        p = logits.softmax(dim=2)  # (H, b, C)
        ordered = p.gather(2, index.expand_as(p))
        mean = torch.einsum("h,hbc->bc", weights, ordered)
        total += (mean.T @ p).double()
    return total.cpu().numpy()


def _reordered(heads: ClusterHeads, orders: NDArray[np.int64]) -> ClusterHeads:
    weight, bias = heads.weight.detach(), heads.bias.detach()
    index = torch.from_numpy(orders).to(weight.device)
    return predicting(weight.gather(1, index[:, :, None].expand_as(weight)), bias.gather(1, index))


def some_heads(heads: ClusterHeads, places: list[int]) -> ClusterHeads:
    """Copies of the heads at these places."""
    return predicting(heads.weight.detach()[places], heads.bias.detach()[places])


def agreements(heads: ClusterHeads, rows: Rows) -> NDArray[np.float64]:
    """How alike each two heads divide the rows: (H, H) adjusted Rand indices. Needs no labels.

    1 where two heads find the same clusters, about 0 where they find unrelated ones.
    """
    from sklearn.metrics import adjusted_rand_score  # scikit-learn takes a second to import

    found = [logits.argmax(dim=2).cpu() for logits in row_logits(heads, spread(rows, _ENOUGH))]
    labels = torch.cat(found, dim=1).numpy()  # (H, n)
    alike = np.eye(len(labels))
    for a, b in combinations(range(len(labels)), 2):
        alike[a, b] = alike[b, a] = adjusted_rand_score(labels[a], labels[b])
    return alike


def mean_agreement(alike: NDArray[np.float64]) -> float:
    """The mean over pairs of different heads; NaN of a single head."""
    n = len(alike)
    return float((alike.sum() - n) / (n * (n - 1))) if n > 1 else float("nan")


def spread(rows: Rows, most: int) -> Rows:
    """The rows, or of more than `most` of them as many or fewer at even distances."""
    return rows[:: -(-len(rows) // most)]
