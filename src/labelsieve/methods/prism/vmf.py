"""The von Mises-Fisher distribution: how tightly the unit rows of a class lie about its center."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST_ORDER = 24  # from here on the expansion is exact to 1e-8; lower orders come by recurrence
LONGEST_MEAN = 0.995  # of a class of equal rows: the concentration would be infinite
LEAST_ROWS = 3  # of a class with a concentration of its own
LEAST_CONCENTRATION = 1e-6  # as good as uniform, and its logarithm is finite


def log_bessel(order: float, values: Tensor) -> Tensor:
    """Logarithm of the modified Bessel function of the first kind, where SciPy's underflows.

    Source: the uniform expansion for large orders (DLMF 10.41.3) with three terms; orders below
    24 are reached from above by the recurrence of DLMF 10.29.1, which is stable in that direction.

    Args:
        order: >= 0; D / 2 - 1 for rows of width D.
        values: > 0, any shape.

    Returns:
        like values, float64, off by less than 1e-7 at any order and by 1e-10 above 250.

    Example:
        >>> log_bessel(0.5, torch.tensor([1.0])).exp()  # sqrt(2 / pi) sinh 1
        tensor([0.9377], dtype=torch.float64)
    """
    values = values.double()
    n_steps = max(0, math.ceil(LEAST_ORDER - order))
    high = order + n_steps
    log_value = _log_bessel_of_high_order(high, values)
    ratio = (_log_bessel_of_high_order(high + 1, values) - log_value).exp()  # I_(v+1) / I_v
    for step in range(n_steps):
        ratio = 1 / (2 * (high - step) / values + ratio)
        log_value = log_value - ratio.log()
    return log_value


def _log_bessel_of_high_order(order: float, values: Tensor) -> Tensor:
    root = (1 + (values / order).square()).sqrt()
    t = 1 / root
    eta = root + (values / order / (1 + root)).log()
    terms = (
        (3 * t - 5 * t**3) / (24 * order)
        + (81 * t**2 - 462 * t**4 + 385 * t**6) / (1152 * order**2)
        + (30375 * t**3 - 369603 * t**5 + 765765 * t**7 - 425425 * t**9) / (414720 * order**3)
    )
    return order * eta - 0.5 * math.log(2 * math.pi * order) - 0.5 * root.log() + terms.log1p()


def vmf_log_constant(concentration: Tensor, dim: int) -> Tensor:
    """Logarithm of what the density exp(concentration * cosine) is multiplied by to sum to one.

    Args:
        concentration: kappa >= 0, any shape; below 1e-6 it is taken for 1e-6, nearly uniform.
        dim: D, width of the rows.

    Returns:
        like concentration, in its dtype; computed in float64. Minus the logarithm of the sphere's
        surface where the concentration is 0.

    Example:
        >>> vmf_log_constant(torch.tensor([0.0]), dim=3).exp() * 4 * torch.pi
        tensor([1.0000])
    """
    order, kappa = dim / 2 - 1, concentration.double().clamp(min=LEAST_CONCENTRATION)
    constant = order * kappa.log() - dim / 2 * math.log(2 * math.pi) - log_bessel(order, kappa)
    return constant.to(concentration.dtype)


def concentration(mean_length: Tensor, dim: int, counts: Tensor | None = None) -> Tensor:
    """How concentrated the rows of each class are, from the length of their mean.

    Source: Banerjee et al., JMLR 2005, eq. 4.4. Deviation, where counts are given: the mean of n
    rows without any direction has a squared length of 1/n, so that few rows look concentrated;
    (n R^2 - 1) / (n - 1) has no such bias. A class of fewer than 3 rows gets the median of the
    others.

    Args:
        mean_length: (C,) R in [0, 1], length of the mean of a class's unit rows.
        dim: D.
        counts: (C,) rows of each class, 0 for one without.

    Returns:
        (C,) kappa >= 0, at most that of R = 0.995.

    Example:
        >>> concentration(torch.tensor([0.0, 0.5]), dim=64)
        tensor([ 0.0000, 42.5000])
    """
    if counts is None:
        return _from_mean_length(mean_length.clamp(max=LONGEST_MEAN), dim)
    n = counts.to(mean_length.dtype)
    squared = (n * mean_length.square() - 1) / (n - 1).clamp(min=1)
    own = _from_mean_length(squared.clamp(min=0).sqrt().clamp(max=LONGEST_MEAN), dim)
    enough = counts >= LEAST_ROWS
    # nanmedian of what is left of an empty set is NaN: then the same for all, of uncorrected means
    crude = _from_mean_length(mean_length.clamp(max=LONGEST_MEAN), dim)
    middle = own.masked_fill(~enough, torch.nan).nanmedian()
    fallback = crude.masked_fill(counts < 1, torch.nan).nanmedian()
    return torch.where(enough, own, torch.where(middle.isnan(), fallback, middle))


def _from_mean_length(length: Tensor, dim: int) -> Tensor:
    squared = length.square()
    return length * (dim - squared) / (1 - squared)
