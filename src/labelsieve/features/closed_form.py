"""The linear map to what views of an image share, in closed form: no gradient, no epochs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of rows that come chunk by chunk."""

    def __init__(self, shift: Tensor) -> None:
        """Begin with nothing seen.

        Args:
            shift: (D,) near the mean; taken off before squaring, so that float32 is enough.
        """
        self.shift = shift
        self.n = 0
        self._sum = torch.zeros_like(shift)
        self._outer = shift.new_zeros(len(shift), len(shift))

    def add(self, rows: Tensor) -> None:
        """Take in (B, D) rows."""
        rows = rows - self.shift
        self.n += len(rows)
        self._sum += rows.sum(0)
        self._outer.addmm_(rows.T, rows)

    @property
    def mean(self) -> Tensor:
        """(D,)."""
        return self.shift + self._sum / self.n

    @property
    def covariance(self) -> Tensor:
        """(D, D), symmetric; divided by n."""
        off = self._sum / self.n
        return self._outer / self.n - torch.outer(off, off)


class Directions(NamedTuple):
    """Directions in the space of some rows, best first."""

    values: Tensor  # (n,) falling
    vectors: Tensor  # (D, n) columns


def principal_directions(
    covariance: Tensor, n: int, generator: torch.Generator, n_rounds: int = 2
) -> Directions:
    """The n directions of most variance, nearly.

    Source: N. Halko et al., "Finding structure with randomness", SIAM Review 2011, algorithm 4.4,
    which is several times faster than a full eigendecomposition of 4,800 dimensions. The leading
    directions are exact; the last ones are mixed with the next, which does no harm here.

    Args:
        covariance: (D, D).
        n: at most D.
        generator: on the CPU.
        n_rounds: of subspace iteration.

    Returns:
        values: variances, clipped at 0; vectors: unit length, at right angles.
    """
    size = len(covariance)
    start = torch.randn(size, min(size, n + 64), generator=generator)
    basis = torch.linalg.qr(start.to(covariance))[0]
    for _ in range(n_rounds):
        basis = torch.linalg.qr(covariance @ basis)[0]
    small = basis.T @ covariance @ basis
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    return Directions(values.flip(0)[:n].clamp(min=0), basis @ vectors.flip(1)[:, :n].contiguous())


def invariant_directions(
    views: Tensor, means: Tensor, n_views: int, n: int, ridge: float
) -> Directions:
    """The n directions in which views of an image agree most and images differ.

    The linear map w that maximizes cov(w x, w x') over two views x, x' of an image at
    var(w x) = 1: the generalized eigenproblem between w = rho views w, where rho is the correlation
    of two views along w. It is canonical correlation analysis of two views, which is what
    self-supervised learning finds with a linear network.

    Source: R. Balestriero and Y. LeCun, "Contrastive and non-contrastive self-supervised learning
    recover global and local spectral embedding methods", NeurIPS 2022.

    Args:
        views: (D, D) covariance of single views.
        means: (D, D) covariance of the means of n_views views of an image.
        n_views: of each image.
        n: at most D.
        ridge: added to `views`, as a share of its mean diagonal.

    Returns:
        values: correlations, clipped to [0, 1]; vectors: of variance 1 under `views`.
    """
    # The mean of V views has the covariance between + (views - between) / V.
    between = (n_views * means - views) / (n_views - 1)
    extra = ridge * views.diagonal().mean() + torch.finfo(views.dtype).tiny
    factor = torch.linalg.cholesky(views + extra * torch.eye(len(views)).to(views))
    half = torch.linalg.solve_triangular(factor, between, upper=False)
    whole = torch.linalg.solve_triangular(factor, half.T, upper=False)
    values, vectors = _eigh((whole + whole.T) / 2)
    back = torch.linalg.solve_triangular(factor.T, vectors.flip(1)[:, :n], upper=True)
    return Directions(values.flip(0)[:n].clamp(0, 1), back)


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors; of a few images many are 0, which float32 may not resolve."""
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = (each.to(matrix) for each in torch.linalg.eigh(matrix.double()))
    return values, vectors
