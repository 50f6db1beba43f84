"""TEMI, for heads on frozen features: neighbors that say much about each other's cluster.

Source: N. Adaloglou, F. Michels, H. Kalisch, M. Kollmann, "Exploring the limits of deep image
clustering using pretrained models", BMVC 2023. Of an image x and its neighbor x', a student s
learns from a teacher t, whose weights follow the student's slowly::

    q(c|x)     = softmax(logits / temperature)                                 log_probabilities
    q(c)       = E_x q_t(c|x), as a running mean                               RunningMean
    pmi(x, x') = log sum_c (q_s(c|x) q_t(c|x'))^beta / q(c)                    information
    w(x, x')   = mean over heads of sum_c q_t(c|x) q_t(c|x')                   agreement_weights
    L          = - mean_i w(x, x') (pmi(x, x') + pmi(x', x)) / 2               a step, as below

One step of training, of logits (H, B, C) of student and teacher for x and x'::

    prior = running.update(torch.cat([teacher_a, teacher_b], dim=1) / temperature)
    weights = agreement_weights(teacher_a, teacher_b, temperature)
    first = temi_loss(student_a, teacher_b, prior, beta, temperature, weights)
    second = temi_loss(student_b, teacher_a, prior, beta, temperature, weights)
    loss = ((first + second) / 2).sum()  # heads learn apart

At beta = 1 the mean of pmi is at most ln C, where neighbors surely agree and all clusters are used
evenly, and 0 where one cluster has taken all. The prior does what the entropy does in SCAN. Below 1
beta keeps clusters from winning more and more, but also lets unsure predictions have a pmi above
ln C. The authors' recipe: beta 0.6, temperature 0.1 for both, a running mean that keeps 0.9, a
teacher that keeps 0.996, 16 heads, 50 neighbors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labelsieve.errors import DataError
from labelsieve.methods.scan.losses import log_probabilities


def temi_loss(
    student: Tensor,
    teacher: Tensor,
    prior: Tensor,
    beta: float = 0.6,
    temperature: float = 0.1,
    weights: Tensor | None = None,
) -> Tensor:
    """One direction of TEMI: the student's images learn from the teacher's neighbors of them.

    Args:
        student: (H, B, C) logits.
        teacher: (H, B, C) logits; row i is of a neighbor of the student's row i. No gradient.
        prior: (H, C) mean probabilities of the teacher, with those of this batch.
        beta: in (0, 1]; the paper uses 0.6.
        temperature: > 0, of both; the paper uses 0.1.
        weights: (B,) of `agreement_weights`; without them all pairs count the same.

    Returns:
        (H,), each at least -ln C for beta = 1, weights up to 1 and a prior that is the teacher's
        mean over the batch.

    Raises:
        DataError: shapes that do not fit.

    Example:
        >>> logits = 50 * torch.eye(4)[None]
        >>> round(temi_loss(logits, logits, torch.full((1, 4), 0.25), beta=1.0).item(), 4)  # -ln 4
        -1.3863
    """
    _check(student, teacher)
    if prior.shape != student.shape[::2]:
        raise DataError(
            f"prior is {tuple(prior.shape)}; expected {tuple(student.shape[::2])}, one mean a head."
        )
    log_s = log_probabilities(student, temperature)
    log_t = log_probabilities(teacher.detach(), temperature)
    # A cluster that is never used has a mean that shrinks until it is 0 in float32, and log 0 would
    # make the loss NaN; its sum over images below stays 0 with any finite number.
    smallest = torch.finfo(log_s.dtype).tiny
    log_prior = prior.detach().to(log_s).clamp(min=smallest).log()
    pmi = information(log_s, log_t, log_prior, beta)
    return -(pmi if weights is None else weights.detach().to(pmi) * pmi).mean(dim=1)


def information(log_s: Tensor, log_t: Tensor, log_prior: Tensor, beta: float) -> Tensor:
    """Pointwise mutual information of pairs, ``log sum_c (q_s(c|x) q_t(c|x'))^beta / q(c)``.

    Args:
        log_s: (H, B, C) log probabilities of the student.
        log_t: (H, B, C) of the teacher, for the neighbors.
        log_prior: (H, C).
        beta: 1 gives that of the two clusters, if they are independent given the images.

    Returns:
        (H, B)
    """
    return (beta * (log_s + log_t) - log_prior[:, None]).logsumexp(dim=-1)


@torch.no_grad()
def agreement_weights(teacher_a: Tensor, teacher_b: Tensor, temperature: float = 0.1) -> Tensor:
    """How much a pair counts: how likely, to all heads, image and neighbor share a cluster.

    ``mean over heads of sum_c q_t(c|x) q_t(c|x')``. False neighbors thus count less.

    Args:
        teacher_a: (H, B, C) logits of the images.
        teacher_b: (H, B, C) logits of their neighbors.
        temperature: > 0; the paper uses 0.1.

    Returns:
        (B,) in [0, 1]; 1/C where all logits are equal.

    Example:
        >>> agreement_weights(torch.tensor([[[9.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]]))
        tensor([0.5000])
    """
    _check(teacher_a, teacher_b)
    log_a, log_b = (log_probabilities(each, temperature) for each in (teacher_a, teacher_b))
    return (log_a + log_b).logsumexp(dim=-1).exp().mean(dim=0)


def _check(first: Tensor, second: Tensor) -> None:
    if first.ndim != 3 or 0 in first.shape or first.shape != second.shape:
        raise DataError(
            f"logits are {tuple(first.shape)} and {tuple(second.shape)}; expected one shape "
            "(H, B, C) of B >= 1 images."
        )
