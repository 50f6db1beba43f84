"""What a classifier is trained on when labels are noisy: pure functions of logits, in log space.

::

    soft_cross_entropy          toward targets that are distributions
    mixed_cross_entropy         the same for mixtures of images (mixup)
    generalized_cross_entropy   bounded, so that no wrong label can pull without limit (GCE)
    elr_penalty                 holds on to what was said before labels were memorized (ELR)
    balance_penalty             all classes are used
    negative_entropy            modesty, for a warm-up on asymmetric noise
    squared_difference          toward guesses that may be wrong, bounded (MixMatch)
    pseudo_loss                 how little a guess is believed: no loss, but a measure (PLS)

Half-precision logits are brought to float32; float64 stays. Values are in nats. Functions that
give a scalar look at the whole batch: on several processes, logits are gathered first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labelsieve.errors import ConfigError, DataError
from labelsieve.features.objectives import mixed_targets

_MOST_SURE = 1 - 1e-4  # of a running average in `elr_penalty`, as the authors clip probabilities


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with targets that are distributions: - sum_c t_c log p_c.

    Args:
        logits: (B, C).
        targets: (B, C) >= 0; rows sum to 1, or are zeros for images that take no part.

    Returns:
        (B,): log C where all logits of a row are equal and its targets sum to 1.

    Raises:
        DataError: two shapes.

    Example:
        >>> soft_cross_entropy(torch.zeros(2, 4), torch.eye(4)[:2])
        tensor([1.3863, 1.3863])
    """
    _check_same(logits, targets, "targets")
    log_p = _log_probabilities(logits)
    return -(targets.to(log_p) * log_p).sum(dim=1)


def mixed_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    permutation: Tensor,
    factor: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of mixtures with the targets of both images, as they are mixed.

    Source: H. Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018; in SNCF
    stage B, step 2::

        L = mean_i [ lambda CE(f(x_i), t_i) + (1 - lambda) CE(f(x_i), t_o(i)) ]

    with x_i already mixed. With weights, ``sum_i [ lambda w_i CE(.., t_i) + (1 - lambda) w_o(i)
    CE(.., t_o(i)) ] / sum_i w_i``: each target brings the weight of its own image, as in the
    authors' code of PLS (P. Albert et al., WACV 2023). How many images of a batch are believed
    changes the direction of its gradient, not the size.

    Args:
        logits: (B, C) of the mixed images.
        targets: (B, C) of the images before mixing.
        permutation: (B,) int64 of `data.mixing.mixing`: o(i) is mixed into image i.
        factor: lambda in [0, 1], the share of image i itself; 1 where nothing is mixed.
        weights: (B,) >= 0 of the images before mixing; all 1 by default.

    Returns:
        scalar: log C where all logits are equal; 0, with a gradient of 0, where all weights are 0.

    Raises:
        ConfigError: a factor outside [0, 1].
        DataError: shapes that do not fit, or an empty batch.

    Example:
        >>> order = torch.tensor([1, 0])
        >>> mixed_cross_entropy(torch.zeros(2, 4), torch.eye(4)[:2], order, factor=0.7)
        tensor(1.3863)
    """
    _check_same(logits, targets, "targets")
    _check_some(logits)
    order = permutation.to(logits.device, non_blocking=True)
    log_p = _log_probabilities(logits)
    counted = targets.to(log_p)
    if weights is None:
        # as losses are linear in targets, those of both images are added first
        return -(mixed_targets(counted, order, factor) * log_p).sum() / len(log_p)
    _check_weights(weights, logits)
    counts = weights.to(log_p)
    mixed = mixed_targets(counts[:, None] * counted, order, factor)
    return -(mixed * log_p).sum() / counts.sum().clamp(min=torch.finfo(log_p.dtype).tiny)


def generalized_cross_entropy(logits: Tensor, labels: Tensor, q: float = 0.7) -> Tensor:
    """A loss between cross-entropy and absolute error: (1 - p_y^q) / q.

    Source: Z. Zhang and M. Sabuncu, "Generalized cross entropy loss for training deep neural
    networks with noisy labels", NeurIPS 2018, eq. 6, without the truncation of their section 3.3.
    Its gradient is that of cross-entropy times p_y^q: labels that the network finds unlikely, as
    wrong ones are at first, pull little. Deviation: in log space, so that p_y of 0 in float32 has
    the gradient it should have.

    Args:
        logits: (B, C).
        labels: (B,) int64 in [0, C).
        q: in (0, 1]; the paper uses 0.7. Near 0 this is cross-entropy, at 1 half the sum of
            absolute errors.

    Returns:
        (B,) in [0, 1 / q): (1 - C^-q) / q where all logits are equal.

    Raises:
        ConfigError: q outside (0, 1].
        DataError: shapes that do not fit.

    Example:
        >>> generalized_cross_entropy(torch.zeros(1, 4), torch.tensor([2]), q=1.0)
        tensor([0.7500])
    """
    if not 0 < q <= 1:
        raise ConfigError(f"q is {q}; expected 0 < q <= 1. For cross-entropy train with loss=ce.")
    _check_rows(logits)
    if labels.shape != logits.shape[:1]:
        raise DataError(f"labels are {_shape(labels)}; expected ({len(logits)},).")
    log_p = _log_probabilities(logits).gather(1, labels[:, None]).squeeze(1)
    return -torch.expm1(q * log_p) / q


def elr_penalty(logits: Tensor, averages: Tensor) -> Tensor:
    """Early-learning regularization: stay with what was said before labels were memorized.

    Source: S. Liu et al., "Early-learning regularization prevents memorization of noisy labels",
    NeurIPS 2020: ``L = L_CE + lambda / n sum_i log(1 - <p_i, t_i>)`` with t of `temporal_average`.
    (As in the authors' code; the number of the equation could not be looked up.) This is the
    logarithm; lambda is 3 on CIFAR-10 and 7 on CIFAR-100 in the paper. Deviation: that code keeps
    probabilities within 1e-4 and 1 - 1e-4; here the averages are kept below 1 - 1e-4, for the same
    bound, and probabilities are as they are: log(1 - <p, t>) = log sum_c p_c (1 - t_c), in log
    space.

    Args:
        logits: (B, C); they alone have a gradient.
        averages: (B, C) >= 0, of sums up to 1: the running averages of these images.

    Returns:
        (B,) in [log 1e-4, 0]: 0 where the averages are zeros; log(1 - 1 / C) where logits are equal
        and averages sum to 1.

    Raises:
        DataError: two shapes.

    Example:
        >>> elr_penalty(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor([-0.6930])
    """
    _check_same(logits, averages, "averages")
    log_p = _log_probabilities(logits)
    kept = averages.detach().to(log_p).clamp(min=0, max=_MOST_SURE)
    return (log_p + torch.log1p(-kept)).logsumexp(dim=1)


@torch.no_grad()
def temporal_average(before: Tensor, probabilities: Tensor, keep: float = 0.7) -> Tensor:
    """The running average of what is said of each image: keep * before + (1 - keep) * p.

    Source: ELR (Liu et al., NeurIPS 2020), the target estimates t(k); temporal ensembling of
    S. Laine and T. Aila, ICLR 2017. As in ELR it begins at zeros and is not corrected for that:
    the penalty grows in the first epochs. The authors take the probabilities of the batch at hand
    in before the penalty is made of it.

    Args:
        before: (B, C) averages of these images.
        probabilities: (B, C) said of them now.
        keep: beta in [0, 1); the paper uses 0.7 on CIFAR-10, 0.9 on CIFAR-100.

    Raises:
        ConfigError: `keep` out of range.
        DataError: two shapes.

    Example:
        >>> temporal_average(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor([[0.3000, 0.0000]])
    """
    if not 0 <= keep < 1:
        raise ConfigError(f"keep is {keep}; expected 0 <= keep < 1. The paper uses 0.7.")
    _check_same(before, probabilities, "probabilities")
    return torch.lerp(probabilities.to(before), before, keep)


def balance_penalty(
    logits: Tensor, prior: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Use all classes as often as they are there: KL(prior || mean_i p_i).

    Source: J. Li et al., "DivideMix: learning with noisy labels as semi-supervised learning", ICLR
    2020, eq. 11, with a uniform prior and the logits of mixed images; PLS has it too.

    Args:
        logits: (B, C).
        prior: (C,) >= 0 of any sum; uniform by default.
        weights: (B,) >= 0, how much each image counts in the mean; all the same by default.

    Returns:
        scalar >= 0: 0 where the mean prediction is the prior, and, with a gradient of 0, where all
        weights are 0.

    Raises:
        DataError: shapes that do not fit, or an empty batch.

    Example:
        >>> balance_penalty(torch.tensor([[50.0, 0.0], [0.0, 50.0]])).abs()
        tensor(0.)
    """
    _check_rows(logits)
    _check_some(logits)
    log_p = _log_probabilities(logits)
    if prior is None:
        prior = log_p.new_ones(log_p.shape[1])
    if prior.shape != log_p.shape[1:]:
        raise DataError(f"prior is {_shape(prior)}; expected ({log_p.shape[1]},).")
    shares = prior.to(log_p) / prior.to(log_p).sum()
    if weights is None:
        return _divergence(shares, log_p.logsumexp(dim=0) - math.log(len(log_p)))
    _check_weights(weights, logits)
    counts = weights.to(log_p)
    # A weight of 0 has a finite logarithm here: that of -inf in all rows would have a NaN gradient.
    log_w = counts.clamp(min=torch.finfo(log_p.dtype).tiny).log()
    log_mean = (log_p + log_w[:, None]).logsumexp(dim=0) - log_w.logsumexp(dim=0)
    return _divergence(shares, log_mean) * (counts.sum() > 0)


def negative_entropy(logits: Tensor) -> Tensor:
    """The mean of sum_c p_c log p_c, against predictions that are too sure.

    Source: DivideMix, eq. 2 (G. Pereyra et al., ICLR Workshop 2017): added to the cross-entropy of
    the warm-up where noise is asymmetric, as then wrong labels are learned as fast as right ones.

    Args:
        logits: (B, C).

    Returns:
        scalar in [-log C, 0].

    Example:
        >>> negative_entropy(torch.zeros(3, 4))
        tensor(-1.3863)
    """
    _check_rows(logits)
    _check_some(logits)
    log_p = _log_probabilities(logits)
    return (log_p.exp() * log_p).sum(dim=1).mean()


def squared_difference(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over classes of (p_c - t_c)^2: bounded, for guesses that may be wrong.

    Source: MixMatch (D. Berthelot et al., NeurIPS 2019, eq. 4); DivideMix, eq. 10. It is divided by
    C as in MixMatch and in both authors' code, for which their weights of up to 150 are meant.

    Args:
        logits: (B, C).
        targets: (B, C) rows sum to 1.

    Returns:
        (B,) in [0, 2 / C].

    Example:
        >>> squared_difference(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor([0.2500])
    """
    _check_same(logits, targets, "targets")
    p = _log_probabilities(logits).exp()
    return (p - targets.to(p)).square().mean(dim=1)


@torch.no_grad()
def pseudo_loss(logits: Tensor, guess: Tensor) -> Tensor:
    """How far a prediction is from the guess for its image: the higher, the worse the guess.

    Source: P. Albert et al., "Is your noise correction noisy? PLS: robustness to label noise with
    two stage detection", WACV 2023: the cross-entropy CE(f(x), q). In the authors' code x is the
    image without augmentation, after each epoch and in eval mode, and q the guess of that epoch.
    `modes.pseudo_loss_weights` makes weights of it.

    Args:
        logits: (B, C).
        guess: (B, C) of `guesses.label_guess`.

    Returns:
        (B,) >= 0.

    Example:
        >>> pseudo_loss(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.5, 0.5]]))
        tensor([25.])
    """
    return soft_cross_entropy(logits, guess)


def linear_rampup(epoch: float, begin: float, length: float) -> float:
    """From 0 at `begin` straight up to 1 after `length` epochs.

    Source: MixMatch and DivideMix, for the weight of unlabeled images; DivideMix takes 16 epochs
    after its warm-up. 1 at once where the length is 0.

    Example:
        >>> linear_rampup(14, begin=10, length=16)
        0.25
    """
    if length <= 0:
        return float(epoch >= begin)
    return min(max((epoch - begin) / length, 0.0), 1.0)


def _divergence(shares: Tensor, log_mean: Tensor) -> Tensor:
    """KL(shares || mean); classes of no share take no part."""
    return (torch.xlogy(shares, shares) - shares * log_mean).sum()


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _check_rows(logits: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise DataError(f"logits are {_shape(logits)}; expected (B, C) of C >= 1 classes.")


def _check_some(logits: Tensor) -> None:
    if len(logits) == 0:
        raise DataError("no image in the batch; expected at least one for a mean over images.")


def _check_same(logits: Tensor, others: Tensor, name: str) -> None:
    _check_rows(logits)
    if logits.shape != others.shape:
        raise DataError(f"{name} are {_shape(others)}; expected {_shape(logits)}, as the logits.")


def _check_weights(weights: Tensor, logits: Tensor) -> None:
    if weights.shape != logits.shape[:1]:
        raise DataError(f"weights are {_shape(weights)}; expected ({len(logits)},).")
