"""Tags that imply others: a dog is an animal, so who asserts dog asserts animal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.data.tags.gather import Pairs, matrix_of
from labelsieve.data.tags.hygiene import fold, trim
from labelsieve.errors import ConfigError, did_you_mean
from labelsieve.records.tag_set import values_at


def read_implied(implies: Sequence[str], tags: Sequence[str]) -> dict[str, set[str]]:
    """Child -> all its ancestors, by name, from texts such as "dog:animal".

    A parent that no image has is a new tag; a child must be one of the tags, or a parent itself.

    Raises:
        ConfigError: a text of another form, a child that is no tag, or a circle.
    """
    known = {fold(tag): tag for tag in tags}
    parents: dict[str, set[str]] = {}
    for text in implies:
        child, colon, parent = text.partition(":")
        if not colon or not child.strip() or not parent.strip():
            raise ConfigError(f"--implies {text!r}: expected CHILD:PARENT, such as dog:animal.")
        for name in (parent, child):  # parents may be new
            known.setdefault(fold(name), trim(name))
        parents.setdefault(known[fold(child)], set()).add(known[fold(parent)])
    above = set().union(*parents.values()) if parents else set()
    for child in parents:
        if child not in tags and child not in above:
            raise ConfigError(f"--implies: no tag {child!r}. {did_you_mean(child, tags)}")
    return {child: _ancestors(child, parents) for child in parents}


def _ancestors(child: str, parents: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead: list[tuple[str, tuple[str, ...]]] = [(p, (child, p)) for p in sorted(parents[child])]
    while ahead:
        name, path = ahead.pop()
        if name == child:
            raise ConfigError(
                f"--implies goes in a circle: {' : '.join(path)}. Leave out one of the pairs."
            )
        if name not in found:
            found.add(name)
            ahead += [(each, (*path, each)) for each in sorted(parents.get(name, ()))]
    return found


def closure(ancestors: Mapping[str, set[str]], tags: Sequence[str]) -> csr_array:
    """(C, C) 1 where the row's tag implies the column's."""
    column = {tag: c for c, tag in enumerate(tags)}
    pairs = [(column[child], column[name]) for child, names in ancestors.items() for name in names]
    rows, columns = np.array(pairs, np.int32).reshape(-1, 2).T
    return csr_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(tags), len(tags)))


def with_parents(asserted: csr_array, implied: csr_array) -> tuple[csr_array, int]:
    """Assertions with those of all ancestors; an ancestor is as sure as the surest that implies it.

    Returns:
        the matrix; how many pairs were added.
    """
    rows, columns, values = _expanded(asserted, implied)
    own = _pairs_of(asserted)
    each = Pairs(
        np.concatenate([own.rows, rows]),
        np.concatenate([own.columns, columns]),
        np.concatenate([own.values, values]),
    )
    made, _ = matrix_of(each, asserted.shape, np.maximum)
    return made, made.nnz - asserted.nnz


def with_verified_parents(
    verified: csr_array, asserted: csr_array, implied: csr_array
) -> tuple[csr_array, int]:
    """Verified pairs with what follows from them, for pairs that nobody answered themselves.

    Present verifies all ancestors present. Absent verifies the descendants absent that the image is
    asserted to have: the others nobody claims. What follows both ways stays unverified.

    Returns:
        the matrix; how many pairs were added.
    """
    present = _sign(verified, 1)
    absent = _sign(verified, -1)
    up = _expanded(present, implied)
    down = _expanded(absent, csr_array(implied.T))
    claimed = values_at(asserted, _of(down, verified.shape)) > 0
    below = _pairs_of(_of(down, verified.shape))
    follows = _of(up, verified.shape)  # +1
    against = _of(Pairs(*(part[claimed] for part in below)), verified.shape)
    follows.data[:] = 1
    against.data[:] = -1
    both = csr_array(follows + against)
    both.eliminate_zeros()  # that follow both ways
    both.sort_indices()
    new = _pairs_of(both)
    free = values_at(verified, both) == 0
    own = _pairs_of(verified)
    each = Pairs(*(np.concatenate([a, b[free]]) for a, b in zip(own, new, strict=True)))
    made, _ = matrix_of(Pairs(each.rows, each.columns, each.values.astype(np.int8)),
                        verified.shape, np.add)  # fmt: skip
    return made, made.nnz - verified.nnz


def _sign(verified: csr_array, sign: int) -> csr_array:
    rows, columns, values = _pairs_of(verified)
    chosen = values == sign
    return _of(Pairs(rows[chosen], columns[chosen], values[chosen]), verified.shape)


def _expanded(matrix: csr_array, implied: csr_array) -> Pairs:
    """What each stored pair implies, each with the value of the pair that implies it."""
    rows, columns, values = _pairs_of(matrix)
    counts: NDArray[np.int64] = np.diff(implied.indptr).astype(np.int64)
    implying = counts[columns] > 0  # most tags imply nothing; leave them out first
    rows, columns, values = rows[implying], columns[implying], values[implying]
    n = counts[columns]
    first = np.repeat(implied.indptr[columns] - (np.cumsum(n) - n), n)
    targets = implied.indices[first + np.arange(n.sum())]
    return Pairs(np.repeat(rows, n), targets.astype(np.int32), np.repeat(values, n))


def _pairs_of(matrix: csr_array) -> Pairs:
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
    return Pairs(rows, matrix.indices, matrix.data)


def _of(pairs: Pairs, shape: tuple[int, int]) -> csr_array:
    return matrix_of(pairs, shape, np.maximum)[0]
