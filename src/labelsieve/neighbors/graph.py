"""From neighbors to a spectral embedding: affinity, double normalization, leading eigenvectors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from labelsieve.errors import NumericError
from labelsieve.records import Neighbors

DENSE = 512  # nodes up to which a dense solve is faster than the iterative one


class Operator(NamedTuple):
    """A normalized affinity and the one eigenvector of it that is known beforehand."""

    matrix: csr_array  # (N, N) symmetric, eigenvalues in [-1, 1]
    trivial: NDArray[np.float64]  # (N,) unit-norm, eigenvalue 1; says nothing of the graph


class Embedding(NamedTuple):
    """Coordinates of the nodes along the leading eigenvectors."""

    values: NDArray[np.float64]  # (N, n_components) orthonormal columns, by falling eigenvalue
    eigenvalues: NDArray[np.float64]  # (n_components,) 1 in every further component of the graph


def affinity(neighbors: Neighbors, power: float = 3.0) -> csr_array:
    """How strongly two images hang together: A + A^T with A the similarity to a power.

    Source: SNCF, stage A. Deviation: negative similarities count as 0 (the odd power would keep
    their sign, and a row of negative degree has no square root).

    Args:
        neighbors: of each image; images that choose each other get the sum, about double.
        power: > 0, no unit. The paper uses 3.

    Returns:
        (N, N) symmetric, zero diagonal, float64.
    """
    n, k = neighbors.indices.shape
    weights = np.maximum(neighbors.similarities.astype(np.float64), 0) ** power
    index = np.int32 if n * k < 2**30 else np.int64
    starts = np.arange(0, n * k + 1, k or 1, dtype=index) if k else np.zeros(n + 1, index)
    chosen = neighbors.indices.ravel().astype(index)
    directed = csr_array((weights.ravel(), chosen, starts), shape=(n, n))
    return csr_array(directed + directed.T)


def doubly_normalized(weights: csr_array) -> Operator:
    """The affinity divided twice by the roots of its degrees: I minus it is the paper's Laplacian.

    Source: SNCF, stage A: W1 = D^-1/2 W D^-1/2, then D'^-1/2 W1 D'^-1/2 with the degrees D' of W1.
    The first division evens out density (diffusion maps with alpha = 1/2), the second normalizes.
    A node without neighbors keeps a row of zeros.
    """
    matrix, degrees = weights.astype(np.float64), np.empty(0)
    for _ in range(2):
        degrees = matrix.sum(axis=1)
        scale = np.where(degrees > 0, degrees, 1) ** -0.5
        counts = np.diff(matrix.indptr)
        data = matrix.data * np.repeat(scale, counts) * scale[matrix.indices]
        matrix = csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)
    norm = np.sqrt(degrees.sum())
    return Operator(matrix, np.sqrt(degrees) / (norm if norm > 0 else 1))


def spectral_embedding(
    operator: Operator, n_components: int = 20, tolerance: float = 1e-4
) -> Embedding:
    """Coordinates in which images of one dense region lie together.

    Source: SNCF, stage A: the smallest eigenvectors of I - operator but the first. Deviation:
    solved as the largest of the operator itself (same vectors, several times faster), and the
    trivial vector is deflated rather than dropped by rank: in a graph of several components
    eigenvalue 1 is multiple, and the first vector found would be any mixture.

    The same graph gives the same bits: fixed start, and each column's largest entry is positive.

    Args:
        operator: from `doubly_normalized`.
        n_components: >= 1; at most N - 1 columns come back. The paper uses 20.
        tolerance: relative accuracy of the eigenvalues. From 1e-5 on the search is in float32 (1.6
            times faster at 50k nodes) and its result refined in float64.

    Raises:
        NumericError: the solver did not converge.

    Example:
        >>> weights = csr_array(np.kron(np.eye(2), 1 - np.eye(3)) + 0.01)  # two triangles
        >>> found = spectral_embedding(doubly_normalized(weights), n_components=1)
        >>> np.sign(found.values).ravel().tolist()
        [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    """
    matrix, trivial = operator
    n = matrix.shape[0]
    n_components = max(min(n_components, n - 1), 0)
    if n_components == 0:
        return Embedding(np.empty((n, 0)), np.empty(0))
    if n <= max(DENSE, 2 * n_components + 1):
        values, vectors = np.linalg.eigh(matrix.toarray() - 2 * np.outer(trivial, trivial))
    else:
        dtype = np.float32 if tolerance >= 1e-5 else np.float64
        found = _leading(operator, n_components, tolerance, dtype)
        basis = np.linalg.qr(_deflated(matrix, trivial, found))[0]  # one power step
        values, rotation = np.linalg.eigh(basis.T @ _deflated(matrix, trivial, basis))
        vectors = basis @ rotation
    order = np.argsort(-values, kind="stable")[:n_components]
    values, vectors = values[order], vectors[:, order]
    peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(n_components)]
    return Embedding(vectors * np.where(peaks < 0, -1, 1), values)


def _deflated(matrix: csr_array, trivial: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """The operator with the trivial vector's eigenvalue turned from 1 to -1, applied to x."""
    projection = trivial @ x
    moved: NDArray[Any] = matrix @ x
    moved -= 2 * (trivial * projection if x.ndim == 1 else np.outer(trivial, projection))
    return moved


def _leading(
    operator: Operator, n_components: int, tolerance: float, dtype: type[np.floating[Any]]
) -> NDArray[np.float64]:
    """(N, n_components) leading eigenvectors of the deflated operator, in any order."""
    matrix, trivial = operator.matrix.astype(dtype), operator.trivial.astype(dtype)
    n = matrix.shape[0]
    apply = LinearOperator(matrix.shape, lambda x: _deflated(matrix, trivial, x), dtype=dtype)
    start = np.random.default_rng(0).standard_normal(n).astype(dtype)
    n_lanczos = min(max(2 * n_components + 1, n_components + 60), n)
    try:
        _, vectors = eigsh(apply, n_components, which="LA", v0=start, ncv=n_lanczos, tol=tolerance)
    except ArpackError as error:
        raise NumericError(
            f"the spectral embedding of {n} images did not converge: {error}. "
            "Use fewer components, or a larger tolerance."
        ) from error
    leading: NDArray[np.float64] = vectors.astype(np.float64)
    return leading


def eigengap(eigenvalues: NDArray[np.float64], minimum: int = 3) -> int:
    """How many components the graph speaks for: those before the largest drop of its spectrum.

    Components beyond the gap are noise, yet in a cosine distance they weigh as much as the others.
    The drop is relative: 1 - next / this, over positive eigenvalues.

    Args:
        eigenvalues: falling, without the trivial one. Ask for some more than may be kept: the
            number of classes twice, and 20.
        minimum: fewest components to keep.

    Returns:
        between `minimum` and the number of positive eigenvalues but one; all of them where there
        are not more than `minimum`.

    Example:
        >>> eigengap(np.array([0.957, 0.946, 0.939, 0.834, 0.415, 0.411, 0.40]))
        4
    """
    values = eigenvalues[eigenvalues > 0]
    if len(values) <= minimum:
        return len(values) or len(eigenvalues)
    drops = 1 - values[minimum:] / values[minimum - 1 : -1]
    return minimum + int(drops.argmax())
