"""What networks are told of tags: as asserted, as verified, and by which rule where nobody looked.

Of a verified image often some tags are verified and not all. Whether the others count is the rule:

    noisy     they are taken as asserted: nothing is unlearned because nobody looked at it
    absent    they are absent, as in the paper, where people looked at all tags of an image: it
              deletes every assertion of a tag that nobody verified
    ignore    they teach nothing
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.errors import ConfigError
from labelsieve.records.tag_set import values_at

Unverified = Literal["noisy", "absent", "ignore"]


def pair_targets(
    asserted: csr_array, verified: csr_array, unverified: Unverified = "noisy"
) -> csr_array:
    """1 where people found the tag, 0 where they did not, and by the rule where nobody looked.

    Images without any verified tag are taken as asserted. With "ignore", what the matrix says of
    unverified pairs of verified images is that of "noisy": those who use it leave them out.

    Args:
        asserted: (N, C) confidences, columns rising in a row.
        verified: (N, C) +1 and -1, columns rising in a row.
        unverified: the rule.

    Returns:
        (N, C) float32 without zeros.

    Raises:
        ConfigError: there is no such rule.

    Example:
        >>> asserted = csr_array(np.array([[1, 1, 1, 0]], np.float32))
        >>> verified = csr_array(np.array([[1, -1, 0, 0]], np.int8))
        >>> pair_targets(asserted, verified).toarray().tolist()
        [[1.0, 0.0, 1.0, 0.0]]
        >>> pair_targets(asserted, verified, "absent").toarray().tolist()
        [[1.0, 0.0, 0.0, 0.0]]
    """
    if unverified not in get_args(Unverified):
        known = ", ".join(get_args(Unverified))
        raise ConfigError(f"unverified is {unverified!r}; expected one of {known}.")
    left = asserted.data.astype(np.float32)
    left[values_at(verified, asserted) != 0] = 0
    if unverified == "absent":
        left[np.repeat(np.diff(verified.indptr) > 0, np.diff(asserted.indptr))] = 0
    remaining = csr_array((left, asserted.indices, asserted.indptr), shape=asserted.shape)
    present = csr_array(
        ((verified.data > 0).astype(np.float32), verified.indices, verified.indptr),
        shape=verified.shape,
    )
    found: csr_array = remaining + present
    found.eliminate_zeros()
    return found


def only_rows(matrix: csr_array, rows: NDArray[np.int64]) -> csr_array:
    """The same matrix with nothing in all other rows, such as those that are held out."""
    wanted = np.zeros(matrix.shape[0], bool)
    wanted[rows] = True
    counts = np.diff(matrix.indptr)
    kept = np.repeat(wanted, counts)
    pointers = np.concatenate([[0], np.cumsum(counts * wanted)]).astype(matrix.indptr.dtype)
    return csr_array((matrix.data[kept], matrix.indices[kept], pointers), shape=matrix.shape)


def frequencies(matrix: csr_array, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C,) the share of some rows that has each tag, or its mean confidence."""
    if not len(rows):
        return np.zeros(matrix.shape[1])
    found = only_rows(matrix, rows)
    sums = np.bincount(found.indices, weights=found.data, minlength=matrix.shape[1])
    return np.asarray(sums / len(rows))


def overruled(
    values: NDArray[np.float32], asserted: csr_array, verified: csr_array
) -> NDArray[np.float32]:
    """Values of asserted pairs, 1 and 0 where people found the tag, or did not."""
    said = values_at(verified, asserted)
    return np.where(said == 0, values, said > 0).astype(np.float32)
