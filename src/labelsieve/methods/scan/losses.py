"""What SCAN trains on: pure functions of logits, in log space.

::

    scan_loss          an image and its neighbor get one cluster, and all clusters are used
    validation_loss    the same on held-out images, by which epoch and head are chosen
    confident          clean views whose prediction is believed: above a threshold
    most_confident     the same by rank: so many of each cluster
    self_label_loss    strong views learn what was believed of the clean ones

Leading axes are kept, so that heads that learn apart are one product. Half-precision logits are
brought to float32; float64 stays. Values are in nats. On several processes, logits are gathered
first, rows before heads (`runtime.gather(logits.transpose(0, 1)).transpose(0, 1)`): all processes
then find the same loss, and the same rows confident.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from labelsieve.errors import ConfigError, DataError

_CHUNK = 1 << 22  # numbers gathered at once in `validation_loss`: 16 MiB


class ScanLoss(NamedTuple):
    """The loss and its two parts, one of each per head; loss = consistency - weight * entropy."""

    loss: Tensor  # (...,)
    consistency: Tensor  # (...,) 0 where every pair surely agrees; > 0 else
    entropy: Tensor  # (...,) of the mean prediction, at most ln C; with a prior -KL, at most 0


def scan_loss(
    anchors: Tensor,
    neighbors: Tensor,
    entropy_weight: float = 5.0,
    *,
    prior: Tensor | None = None,
    before: Tensor | None = None,
    keep: float = 0.0,
) -> ScanLoss:
    """Give an image and its neighbor the same cluster, while using all clusters.

    Source: W. Van Gansbeke et al., "SCAN: Learning to classify images without labels", ECCV 2020,
    eq. 2::

        L = - mean_i log <p_i, q_i> - weight * H(m),    m = mean_i p_i

    Deviations: in log space, where the authors' code ends at -100 and has no gradient beyond; one
    neighbor an anchor, as in that code, where the paper sums over all K. With a prior, -H(m) is
    KL(m || prior), as the paper suggests for classes of known, unequal sizes: -H(m) + ln C where
    the prior is uniform.

    A batch of fewer images than a few times C cannot show whether clusters are used evenly. Then m
    is ``keep * before + (1 - keep) * mean_i p_i`` with the `before` of a `RunningMean`. Only this
    batch has a gradient; it counts for all that are averaged, d/dp of H at m, so that
    `entropy_weight` means the same whatever is kept. By itself it would fade by 1 - keep.

    Args:
        anchors: (..., B, C) logits.
        neighbors: (..., B, C) logits; row i is of a neighbor of anchor i, or of another view of it.
        entropy_weight: lambda, >= 0. All recipes of the paper use 5; at 0 one cluster takes all.
        prior: (C,) above 0, of any sum.
        before: (..., C) mean probabilities of earlier batches.
        keep: weight of `before`, in [0, 1); 0 is the paper's loss.

    Returns:
        each (...,): 0 - weight * ln C at best; ln C - weight * ln C where all logits are equal.

    Raises:
        DataError: shapes that do not fit.
        ConfigError: a `keep` out of range, or without anything to keep.

    Example:
        >>> logits = 50 * torch.eye(4)
        >>> round(scan_loss(logits, logits, entropy_weight=1.0).loss.item(), 4)  # - ln 4
        -1.3863
    """
    _check_pairs(anchors, neighbors)
    _check_means(anchors, prior, before)
    if not 0 <= keep < 1 or (keep > 0 and before is None):
        raise ConfigError(
            f"keep is {keep}; expected 0 <= keep < 1, and above 0 with the mean `before`."
        )
    log_p, log_q = log_probabilities(anchors), log_probabilities(neighbors)
    consistency = -(log_p + log_q).logsumexp(dim=-1).mean(dim=-1)
    log_mean = log_p.logsumexp(dim=-2) - math.log(log_p.shape[-2])  # (..., C)
    if before is not None and keep > 0:
        earlier = before.detach().to(log_mean).log() + math.log(keep)
        log_mean = torch.logaddexp(log_mean + math.log1p(-keep), earlier)
    against = log_mean
    if prior is not None:
        shares = prior.to(log_mean)
        against = log_mean - (shares / shares.sum()).log()
    entropy = -(log_mean.exp() * against).sum(dim=-1)
    # adds 0, and a gradient of keep / (1 - keep) times that of the line above
    entropy = entropy + keep / (1 - keep) * (entropy - entropy.detach())
    return ScanLoss(consistency - entropy_weight * entropy, consistency, entropy)


class RunningMean(nn.Module):
    """Mean probabilities of the last batches, per head: `before` of `scan_loss`, prior of TEMI.

    A buffer, so that it is saved and moved with what it is part of. Begins uniform.

    Example:
        >>> running = RunningMean(n_heads=1, n_clusters=2, keep=0.5)
        >>> running.update(torch.tensor([[[50.0, 0.0]]]))
        tensor([[0.7500, 0.2500]])
    """

    mean: Tensor  # (H, C) float32

    def __init__(self, n_heads: int, n_clusters: int, keep: float = 0.9) -> None:
        """Begin uniform.

        Args:
            n_heads: H.
            n_clusters: C.
            keep: in [0, 1), of the mean at each batch; TEMI uses 0.9.

        Raises:
            ConfigError: `keep` out of range, or no head or cluster.
        """
        super().__init__()
        if not 0 <= keep < 1:
            raise ConfigError(f"keep is {keep}; expected 0 <= keep < 1.")
        if n_heads < 1 or n_clusters < 1:
            raise ConfigError(f"{n_heads} heads of {n_clusters} clusters; expected 1 or more each.")
        self.keep = keep
        self.register_buffer("mean", torch.full((n_heads, n_clusters), 1 / n_clusters))

    def forward(self, logits: Tensor) -> Tensor:
        """`update`."""
        return self.update(logits)

    @torch.no_grad()
    def update(self, logits: Tensor) -> Tensor:
        """Take a batch in, of all processes; the mean after it, as a copy.

        Args:
            logits: (H, B, C), divided by the temperature where there is one.
        """
        if logits.ndim != 3 or logits.shape[::2] != self.mean.shape or logits.shape[1] == 0:
            n_heads, n_clusters = self.mean.shape
            raise DataError(
                f"logits are {_shape(logits)}; expected ({n_heads}, B, {n_clusters}) of B >= 1 "
                "images."
            )
        mean = log_probabilities(logits).exp().mean(dim=1)
        self.mean.lerp_(mean.to(self.mean), 1 - self.keep)
        return self.mean.clone()


@torch.no_grad()
def validation_loss(logits: Tensor, neighbors: Tensor) -> Tensor:
    """The loss by which the epoch and the head are chosen, on images that are not trained on.

    Source: SCAN's code: an entropy weight of 1, whatever that of the training, and pairs of each
    image with itself and its K neighbors. Deviation: in log space, and of rows that are gathered;
    that code makes all N x N products, 10 GB at N = 50,000.

    Args:
        logits: (H, N, C) of clean views.
        neighbors: (N, K) int64 in 0 .. N - 1, without the image itself.

    Returns:
        (H,), at least -ln C, which is reached where neighbors surely agree and all clusters are
        used evenly; a gap to it is the sign of clusters that neighborhoods do not support. 0 where
        all logits are equal.

    Raises:
        DataError: shapes that do not fit, or a neighbor that is no row.
    """
    if logits.ndim != 3 or 0 in logits.shape or neighbors.shape[:1] != logits.shape[1:2]:
        raise DataError(
            f"logits are {_shape(logits)} and neighbors {_shape(neighbors)}; expected (H, N, C) "
            "and (N, K)."
        )
    n = len(neighbors)
    if neighbors.numel() and not 0 <= int(neighbors.min()) <= int(neighbors.max()) < n:
        raise DataError(
            f"neighbors are {int(neighbors.min())} to {int(neighbors.max())}; expected rows of the "
            f"logits, 0 to {n - 1}. Neighbors of validation images are validation images."
        )
    # one head at a time: all log-probabilities of 10 heads, 50,000 images, 1,000 clusters are 2 GB
    return torch.stack([_validation_loss_of_head(head, neighbors) for head in logits])


def _validation_loss_of_head(logits: Tensor, neighbors: Tensor) -> Tensor:
    log_p = log_probabilities(logits)  # (N, C)
    n, n_clusters = log_p.shape
    total = log_p.new_zeros((), dtype=torch.float64)
    step = max(1, _CHUNK // n_clusters)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        total += (2 * log_p[rows]).logsumexp(dim=1).sum(dtype=torch.float64)  # with itself
        for column in neighbors[rows].T:
            pairs = (log_p[rows] + log_p[column]).logsumexp(dim=1)
            total += pairs.sum(dtype=torch.float64)
    log_mean = log_p.logsumexp(dim=0) - math.log(n)
    entropy = -(log_mean.exp() * log_mean).sum()
    return (-total / (n * (neighbors.shape[1] + 1))).to(log_p.dtype) - entropy


class Confident(NamedTuple):
    """What is believed of a batch, as `self_label_loss` takes it."""

    labels: Tensor  # (B,) int64, the most probable cluster of each row
    mask: Tensor  # (B,) bool, the rows that are believed


def confident(logits: Tensor, threshold: float = 0.99) -> Confident:
    """The rows whose most probable cluster is more probable than a threshold.

    Source: SCAN, section 2.3.

    Args:
        logits: (B, C) of clean views.
        threshold: exceeded, not only reached; all recipes of the paper use 0.99.
    """
    _check_rows(logits)
    probabilities, labels = log_probabilities(logits).exp().max(dim=1)
    return Confident(labels, probabilities > threshold)


def most_confident(logits: Tensor, share: float, n_clusters: int) -> Confident:
    """Of each predicted cluster its most confident rows, equally many of each.

    Where few rows reach a threshold, as after a short pretraining, this finds some in every batch;
    and no cluster can grow by being the surest. Of equally confident rows the first are taken.

    Args:
        logits: (B, C) of clean views.
        share: of the batch, in [0, 1].
        n_clusters: among which the share is divided.

    Returns:
        of each cluster round(share * B / n_clusters) rows, or all where it has fewer: at most the
        share, but for rounding. None at all where B < n_clusters / (2 * share).
    """
    _check_rows(logits)
    if not 0 <= share <= 1:
        raise ConfigError(f"share is {share}; expected 0 to 1.")
    if n_clusters < 1:
        raise ConfigError(f"n_clusters is {n_clusters}; at least 1 is needed.")
    logits = _upcast(logits)
    highest, labels = logits.max(dim=1)
    # Log-odds order rows as probabilities do, which in float32 are all 1 above a gap of 17.
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
    order = (highest - others).argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]  # by cluster, then confidence, then row
    counts = _counts(labels, logits.shape[1])
    first = (counts.cumsum(0) - counts)[labels[order]]  # where the row's cluster begins
    rank = torch.arange(len(order), device=order.device) - first
    wanted = round(share * len(logits) / n_clusters)
    return Confident(labels, torch.empty_like(order).scatter(0, order, rank) < wanted)


def self_label_loss(logits: Tensor, found: Confident, balanced: bool = True) -> Tensor | None:
    """Cross-entropy of strong views with what is believed of the clean ones.

    Source: SCAN, section 2.3. The network sees the whole batch, and believed rows are picked
    afterwards: statistics of batch norm over them alone let clusters die.

    Args:
        logits: (B, C) of strong views.
        found: of `confident` or `most_confident` for clean views of the same images.
        balanced: all clusters that are there count the same, whatever their number of rows: the
            mean over clusters of the mean over their rows. SCAN does so on all sets but ImageNet.

    Returns:
        scalar; None where no row is believed: a step of `train.train` then returns no loss, and
        nothing is updated.
    """
    _check_rows(logits)
    rows = found.mask.nonzero().squeeze(1)
    if len(rows) == 0:
        return None
    labels = found.labels[rows]
    losses = cross_entropy(_upcast(logits)[rows], labels, reduction="none")
    if not balanced:
        return losses.mean()
    counts = _counts(labels, logits.shape[1])
    return (losses / counts[labels]).sum() / (counts > 0).sum()


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Logarithm of the softmax over the last axis; float32 or, for float64 input, float64."""
    logits = _upcast(logits)
    # With the clusters' rows contiguous: a softmax over the last axis is not vectorized on a CPU
    # where that has few entries. At 10 heads of 10 clusters, the whole loss takes a fifth.
    columns = (logits if temperature == 1 else logits / temperature).transpose(-1, -2)
    return columns.log_softmax(dim=-2).transpose(-1, -2)


def _upcast(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _counts(labels: Tensor, n_clusters: int) -> Tensor:
    """(C,) int64. Not by bincount, which waits for the device."""
    return labels.new_zeros(n_clusters).index_add(0, labels, torch.ones_like(labels))


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _check_rows(logits: Tensor) -> None:
    if logits.ndim != 2 or 0 in logits.shape:
        raise DataError(f"logits are {_shape(logits)}; expected (B, C) of B >= 1 images.")


def _check_pairs(anchors: Tensor, neighbors: Tensor) -> None:
    if anchors.ndim < 2 or 0 in anchors.shape or anchors.shape != neighbors.shape:
        raise DataError(
            f"anchors are {_shape(anchors)} and neighbors {_shape(neighbors)}; expected one shape "
            "(..., B, C) of B >= 1 images."
        )


def _check_means(anchors: Tensor, prior: Tensor | None, before: Tensor | None) -> None:
    expected = {"prior": anchors.shape[-1:], "before": anchors.shape[:-2] + anchors.shape[-1:]}
    for name, mean in (("prior", prior), ("before", before)):
        if mean is not None and mean.shape != expected[name]:
            raise DataError(
                f"{name} is {_shape(mean)}; expected {tuple(expected[name])} for logits "
                f"{_shape(anchors)}."
            )
