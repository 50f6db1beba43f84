"""Contrastive objectives: pure functions of unit-norm projections; a whole batch in, a scalar out.

All of them are a cross-entropy over candidates, with targets that say which ones are positives::

    L = mean_i [ - sum_j t_ij log softmax_j(s_ij) / sum_j t_ij ],    s_ij = <a_i, c_j> / temperature

They differ in who is an anchor a, who is a candidate c, and in t:

    nt_xent, nt_xent_views   all views against the views of other images; the image's other views
    nt_xent_one_sided        the first views against all views but itself; the second view
    n_pairs(_mixed)          the first views against the second views; the image's own (mixed)
    info_nce_queue           queries against their keys and a queue of older keys; the own key
    supervised_contrastive   all rows against all rows but itself; those of the same label
    guided_contrastive       the first views against the second views; those of the same group
    interpolated_contrastive the same, the less sure the group the more only itself

Logits and losses stay in log space. Half-precision input is brought to float32 and autocast is off
for the similarities, so that bfloat16 costs only the rounding of the projections; float64 stays.
Values are in nats. A row of zeros is at chance with everything, and gives no NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from labelsieve.errors import ConfigError, DataError


def nt_xent(
    first: Tensor, second: Tensor, temperature: float = 0.1, decoupled: bool = False
) -> Tensor:
    """Find an image's other view among all views of the batch: SimCLR's loss.

    Source: T. Chen et al., "A simple framework for contrastive learning of visual
    representations", ICML 2020, eq. 1, averaged over both orders of the two views.

    Args:
        first: (B, P) unit-norm.
        second: (B, P) row i is another view of the image of first[i].
        temperature: > 0. SCAN's pretext uses 0.1, SimCLR on CIFAR-10 0.5.
        decoupled: leave the positive out of the denominator, see `nt_xent_views`.

    Returns:
        scalar; log(2B - 1) where all rows are equal, 0 for B = 1.

    Example:
        >>> rows = torch.eye(4)
        >>> round(nt_xent(rows, rows, temperature=1.0).item(), 4)  # log(1 + 6 / e)
        1.1654
    """
    _check_pairs(first, second)
    return nt_xent_views(torch.stack([first, second]), temperature, decoupled)


def nt_xent_views(views: Tensor, temperature: float = 0.1, decoupled: bool = False) -> Tensor:
    """NT-Xent for two and more views of an image, such as crops of the same size or of several.

    The mean of NT-Xent over the ordered pairs of an image's views, each against all views of other
    images: third views are neither wanted nor shunned by a pair, so that positives don't repel each
    other as they do where `supervised_contrastive` takes images as labels.

    Source of the decoupled form: C.-H. Yeh et al., "Decoupled contrastive learning", ECCV 2022,
    eq. 6, without weights. The positive leaves the denominator, so that the gradient no longer
    fades for easy positives, which is what small batches suffer from.

    Args:
        views: (V, B, P) unit-norm; views[:, i] are of one image; V >= 2.
        temperature: > 0.
        decoupled: leave the positive out of the denominator; needs B >= 2.

    Returns:
        scalar; where all rows are equal log(VB - V + 1), decoupled log(VB - V); 0 for B = 1.

    Raises:
        DataError: fewer than two views, no image, or decoupled and nothing to tell it from.
    """
    if views.ndim != 3 or len(views) < 2:
        raise DataError(f"views is {_shape(views)}; expected (V, B, P) of V >= 2 views.")
    n, rows = views.shape[1], views.flatten(0, 1)  # (VB, P)
    if decoupled and n == 1:
        raise DataError("The decoupled loss got one image; it needs two or more to tell apart.")
    similarities = _similarities(rows, rows, temperature)
    order = torch.arange(len(rows), device=rows.device)
    same = (order[:, None] + order[::n]) % len(rows)  # (VB, V) the image's views, itself first
    positives = similarities.gather(1, same[:, 1:])  # (VB, V - 1)
    # A finite mask: the log of an empty sum, for B = 1, would have a NaN gradient.
    mask = torch.finfo(similarities.dtype).min
    negatives = similarities.scatter(1, same, mask).logsumexp(dim=1)
    gaps = negatives[:, None] - positives
    return gaps.mean() if decoupled else functional.softplus(gaps).mean()


def nt_xent_one_sided(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """NT-Xent with the first views alone as anchors, as SCAN's reference code computes it.

    Candidates of anchor i: all first views but itself, and all second views. `nt_xent` is the mean
    of this over both orders of the views: the same in expectation, with less variance.

    Args:
        first: (B, P) unit-norm.
        second: (B, P) row i is another view of the image of first[i].
        temperature: > 0.

    Returns:
        scalar; log(2B - 1) where all rows are equal, 0 for B = 1.
    """
    _check_pairs(first, second)
    similarities = _similarities(first, torch.cat([first, second]), temperature)  # (B, 2B)
    positives = torch.arange(len(first), 2 * len(first), device=first.device)
    return functional.cross_entropy(similarities.fill_diagonal_(-torch.inf), positives)


def soft_n_pairs(
    first: Tensor, second: Tensor, targets: Tensor, temperature: float = 0.2
) -> Tensor:
    """Find the positives of each first view among all second views; they may be shared and weighed.

    ``L = mean_i [ - sum_j t_ij log softmax_j(<first_i, second_j> / temperature) / sum_j t_ij ]``,
    which `n_pairs`, `n_pairs_mixed` and `guided_contrastive` are, each with its own targets.

    Args:
        first: (B, P) unit-norm: the anchors.
        second: (B, P) unit-norm: the candidates.
        targets: (B, B) >= 0, each row with a sum above 0; rows are divided by it.
        temperature: > 0.

    Returns:
        scalar; log B where all rows are equal, whatever the targets.
    """
    _check_pairs(first, second)
    if targets.shape != (len(first), len(first)):
        raise DataError(f"targets is {_shape(targets)}; expected ({len(first)}, {len(first)}).")
    log_p = _similarities(first, second, temperature).log_softmax(dim=1)  # (B, B)
    weights = targets.to(log_p)
    return -((weights * log_p).sum(1) / weights.sum(1)).mean()


def mixed_targets(targets: Tensor, permutation: Tensor, factor: float) -> Tensor:
    """The targets of mixed anchors: factor t_i + (1 - factor) t_o(i), as their pixels are mixed.

    Args:
        targets: (B, M) of the images before mixing.
        permutation: (B,) int64; o(i) is the image mixed into image i.
        factor: lambda in [0, 1], the share of image i itself.

    Raises:
        ConfigError: a factor outside [0, 1].
        DataError: a permutation of another length.
    """
    if not 0 <= factor <= 1:
        raise ConfigError(f"factor is {factor}; expected the share of an image, in [0, 1].")
    if permutation.shape != targets.shape[:1]:
        raise DataError(f"permutation is {_shape(permutation)}; expected ({len(targets)},).")
    return factor * targets + (1 - factor) * targets[permutation]


def n_pairs(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    """Find an image's second view among the second views of the batch; one direction only.

    Source: K. Sohn, "Improved deep metric learning with multi-class N-pair loss objective",
    NeurIPS 2016, eq. 6, on unit-norm rows with a temperature, as SNCF uses it.

    Args:
        first: (B, P) unit-norm.
        second: (B, P) row i is another view of the image of first[i].
        temperature: > 0. SNCF uses 0.2.

    Returns:
        scalar; log B where all rows are equal, 0 for B = 1.

    Example:
        >>> rows = torch.eye(4)
        >>> round(n_pairs(rows, rows, temperature=1.0).item(), 4)  # log(1 + 3 / e)
        0.7437
    """
    return soft_n_pairs(first, second, _identity(first), temperature)


def n_pairs_mixed(
    first_mixed: Tensor,
    second: Tensor,
    permutation: Tensor,
    factor: float,
    temperature: float = 0.2,
) -> Tensor:
    """i-Mix: a first view mixed of two images finds both second views, in the mixing proportion.

    Source: K. Lee et al., "i-Mix: a domain-agnostic strategy for contrastive representation
    learning", ICLR 2021, eq. 5; in SNCF the pretext task of stage A::

        L = mean_i [ - lambda log softmax_j(s_ij)[i] - (1 - lambda) log softmax_j(s_ij)[o(i)] ]

    Args:
        first_mixed: (B, P) unit-norm, of pixels lambda x_i + (1 - lambda) x_o(i).
        second: (B, P) unit-norm, of second views that are not mixed.
        permutation: (B,) int64, o, of the whole batch; fixed points are allowed.
        factor: lambda in [0, 1], one a batch; SNCF draws Beta(1, 1) and takes max(l, 1 - l).
        temperature: > 0. SNCF uses 0.2.

    Returns:
        scalar; log B where all rows are equal, `n_pairs` for factor = 1.
    """
    targets = mixed_targets(_identity(first_mixed), permutation, factor)
    return soft_n_pairs(first_mixed, second, targets, temperature)


def info_nce_queue(
    queries: Tensor, keys: Tensor, queue: Tensor, temperature: float = 0.2
) -> Tensor:
    """Tell a query's key from a queue of older keys: MoCo's loss.

    Source: K. He et al., "Momentum contrast for unsupervised visual representation learning",
    CVPR 2020, eq. 1. Keys of the present batch are no negatives of each other.

    Args:
        queries: (B, P) unit-norm; they alone get a gradient.
        keys: (B, P) row i is the momentum encoder's view of the image of queries[i].
        queue: (M, P) unit-norm, such as `MemoryBank.read` gives, before `keys` are pushed.
        temperature: > 0. MoCo v2 uses 0.2.

    Returns:
        scalar; log(1 + M) where all rows are equal, 0 for an empty queue.

    Example:
        >>> query = torch.eye(4)[:1]
        >>> round(info_nce_queue(query, query, torch.eye(4)[1:], temperature=1.0).item(), 4)
        0.7437
    """
    _check_pairs(queries, keys)
    negatives = _similarities(queries, queue.detach(), temperature).logsumexp(dim=1)  # (B,)
    scaled = _upcast(queries) / temperature
    positives = (scaled * _upcast(keys.detach())).sum(1)
    # -log(e^p / (e^p + e^n)); the (B, 1 + M) matrix of the usual form is never made.
    return functional.softplus(negatives - positives).mean()


def supervised_contrastive(projections: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Bring rows of the same label together, and all others apart.

    Source: P. Khosla et al., "Supervised contrastive learning", NeurIPS 2020, eq. 2 (L_out)::

        L = mean_i [ - 1/|P(i)| sum_{p in P(i)} log( e^{s_ip} / sum_{a != i} e^{s_ia} ) ]

    Several views of an image are rows of their own, with its label repeated.

    Args:
        projections: (B, P) unit-norm.
        labels: (B,) int.
        temperature: > 0. The paper uses 0.1.

    Returns:
        scalar: the mean over anchors that have a positive; 0, with a gradient of 0, where none has
        one; log(B - 1) where all rows are equal.
    """
    _check_rows(projections, "projections")
    if labels.shape != projections.shape[:1]:
        raise DataError(f"labels is {_shape(labels)}; expected ({len(projections)},).")
    similarities = _similarities(projections, projections, temperature)
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels) & ~own  # (B, B)
    # A finite mask: where a row is its only candidate, -inf would make the softmax NaN.
    log_p = similarities.masked_fill(own, torch.finfo(similarities.dtype).min).log_softmax(dim=1)
    n_positives = positive.sum(1)
    losses = -log_p.masked_fill(~positive, 0).sum(1) / n_positives.clamp(min=1)
    return losses.sum() / (n_positives > 0).sum().clamp(min=1)


def contrast_groups(
    classes: Tensor, foreign: Tensor, foreign_groups: Tensor, n_classes: int
) -> Tensor:
    """The groups of `guided_contrastive`: classes, then groups of foreign images, and loners.

    Args:
        classes: (B,) int64 label, or guess of it, of images that are not foreign.
        foreign: (B,) bool.
        foreign_groups: (B,) int64 cluster among the foreign images, -1 for none.
        n_classes: C; classes are 0 .. C - 1.

    Returns:
        (B,) int64: the class; C + u for foreign images of group u; -1 for those in none.

    Example:
        >>> group = torch.tensor([-1, -1, 4, -1])
        >>> foreign = torch.tensor([False, False, True, True])
        >>> contrast_groups(torch.tensor([0, 9, 3, 3]), foreign, group, n_classes=10)
        tensor([ 0,  9, 14, -1])
    """
    grouped = torch.where(foreign_groups >= 0, n_classes + foreign_groups, -1)
    return torch.where(foreign, grouped, classes)


def guided_contrastive(
    first_mixed: Tensor,
    second: Tensor,
    groups: Tensor,
    permutation: Tensor,
    factor: float,
    temperature: float = 0.2,
) -> Tensor:
    """i-Mix with positives shared within a group: what an image is said to show guides it.

    Source: P. Albert et al., "Embedding contrastive unsupervised features to cluster in- and
    out-of-distribution noise in corrupted image datasets", ECCV 2022 (SNCF), stage B::

        e_ij = 1 where i and j share a group, or i = j;  E_ij = lambda e_ij + (1 - lambda) e_o(i)j
        L = mean_i [ - sum_j E_ij log softmax_j(s_ij) / sum_j E_ij ]

    Deviation from the paper's text, and with its authors' code: a row is divided by its number of
    positives, not by B, so that large classes do not outweigh small ones.

    Args:
        first_mixed: (B, P) unit-norm, of pixels lambda x_i + (1 - lambda) x_o(i).
        second: (B, P) unit-norm, of second views that are not mixed.
        groups: (B,) int64, such as `contrast_groups` gives; below 0: no positive but itself.
        permutation: (B,) int64, o, of the whole batch.
        factor: lambda in [0, 1]; 1 where nothing is mixed.
        temperature: > 0. SNCF uses 0.2.

    Returns:
        scalar; log B where all rows are equal, `n_pairs_mixed` where no group has two members.
    """
    if groups.shape != first_mixed.shape[:1]:
        raise DataError(f"groups is {_shape(groups)}; expected ({len(first_mixed)},).")
    shared = (groups[:, None] == groups) & (groups >= 0)  # (B, B)
    targets = _identity(first_mixed).masked_fill(shared, 1)
    targets = mixed_targets(targets, permutation, factor)
    return soft_n_pairs(first_mixed, second, targets, temperature)


def interpolated_contrastive(
    first_mixed: Tensor,
    second: Tensor,
    groups: Tensor,
    weights: Tensor,
    permutation: Tensor,
    factor: float,
    temperature: float = 0.2,
) -> Tensor:
    """Positives shared within a group as far as the groups are sure, else only the own image.

    Source: P. Albert et al., "Is your noise correction noisy? PLS: robustness to label noise with
    two stage detection", WACV 2023, between supervised and unsupervised contrastive learning by the
    weight of a guess, in the form of its authors' code::

        e_ij = w_i w_j [i and j share a group] + (1 - w_i) (1 - w_j) [i = j]
        E_ij = lambda e_ij + (1 - lambda) e_o(i)j
        L = mean_i [ - sum_j E_ij log softmax_j(s_ij) / sum_j E_ij ]

    A pair counts by the doubts about both. An image of weight 0 is only its own positive, and no
    positive of others.

    Args:
        first_mixed: (B, P) unit-norm, of pixels lambda x_i + (1 - lambda) x_o(i).
        second: (B, P) unit-norm, of second views that are not mixed.
        groups: (B,) int64, such as `contrast_groups` gives; below 0: no positive but itself.
        weights: (B,) in [0, 1], how sure it is that an image is of its group.
        permutation: (B,) int64, o, of the whole batch.
        factor: lambda in [0, 1]; 1 where nothing is mixed.
        temperature: > 0. PLS uses 0.2.

    Returns:
        scalar; log B where all rows are equal, `guided_contrastive` where all weights are 1,
        `n_pairs_mixed` where all are 0.
    """
    if not groups.shape == weights.shape == first_mixed.shape[:1]:
        raise DataError(
            f"groups are {_shape(groups)} and weights {_shape(weights)}; expected "
            f"({len(first_mixed)},)."
        )
    own = _identity(first_mixed)  # (B, B)
    sure = weights.to(own)
    shared = (groups[:, None] == groups) & (groups >= 0)
    together, alone = sure[:, None] * sure, (1 - sure)[:, None] * (1 - sure)
    targets = own.masked_fill(shared, 1) * together + own * alone
    targets = mixed_targets(targets, permutation, factor)
    return soft_n_pairs(first_mixed, second, targets, temperature)


def _similarities(anchors: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """(B, M) inner products over the temperature, in float32 or, for float64 input, float64."""
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature}; expected a number above 0, such as 0.2.")
    _check_rows(anchors, "the anchors")
    with torch.autocast(anchors.device.type, enabled=False):
        return (_upcast(anchors) / temperature) @ _upcast(candidates).T


def _upcast(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _identity(rows: Tensor) -> Tensor:
    dtype = torch.promote_types(rows.dtype, torch.float32)
    return torch.eye(len(rows), dtype=dtype, device=rows.device)


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _check_rows(rows: Tensor, name: str) -> None:
    if rows.ndim != 2 or len(rows) == 0:
        raise DataError(f"{name} is {_shape(rows)}; expected (B, P) of B >= 1 images.")


def _check_pairs(first: Tensor, second: Tensor) -> None:
    _check_rows(first, "The first of two views")
    if first.shape != second.shape:
        raise DataError(
            f"The views of a batch are {_shape(first)} and {_shape(second)}; expected one shape."
        )
