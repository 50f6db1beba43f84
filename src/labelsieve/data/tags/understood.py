"""Sentences of what was read: what is in the matrices, and what is odd about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.errors import did_you_mean

_NAMED = 10  # tags listed in a sentence


def summary(
    asserted: csr_array,
    verified: csr_array,
    tags: Sequence[str],
) -> list[str]:
    """What is in the matrices, and what is odd about them."""
    n, n_tags = asserted.shape
    untagged = int(np.count_nonzero(np.diff(asserted.indptr) == 0))
    notes = [
        f"In all {n:,} images, {n_tags:,} tags, {asserted.nnz:,} asserted pairs"
        f"{f'; {untagged:,} images have no tag' if untagged else ''}."
    ]
    if not verified.nnz:
        return [
            *notes,
            "Nothing is verified: a tagger can be trained and pairs to verify be suggested, but "
            "which tags are wrong is not known. Verify some with --verified.",
        ]
    n_present = int(np.count_nonzero(verified.data > 0))
    looked = int(np.count_nonzero(np.diff(verified.indptr)))
    notes.append(
        f"{looked:,} images have verified tags: {n_present:,} pairs present, "
        f"{verified.nnz - n_present:,} absent."
    )
    if n_present == verified.nnz:
        notes.append(
            "Only present is verified, never absent: nothing says what a wrong tag looks like. "
            "Verify some that are wrong."
        )
    given = np.bincount(asserted.indices, minlength=n_tags) > 0
    checked = np.bincount(verified.indices, minlength=n_tags) > 0
    strange = _names(tags, checked & ~given)
    if strange:
        known = _names(tags, given)
        near = did_you_mean(strange[0], known) if len(known) <= 10_000 else ""
        hint = f" {near}" if near.startswith("Did") else ""
        notes.append(
            f"{len(strange):,} tags are verified and asserted nowhere: {_some(strange)}. They are "
            f"kept as tags.{hint}"
        )
    never = _names(tags, given & ~checked)
    if never:
        notes.append(f"{len(never):,} tags are never verified: {_some(never)}.")
    return notes


def never_named(never: NDArray[np.bool_], tags: Sequence[str]) -> list[str]:
    """What is said of asserted tags that no list of right tags has."""
    names = _names(tags, never)
    if not names:
        return []
    return [
        f"{len(names):,} tags are on no list of right tags: {_some(names)}. They are taken as "
        "never looked at, not as always wrong."
    ]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _names(tags: Sequence[str], chosen: NDArray[np.bool_]) -> list[str]:
    return [tags[c] for c in np.flatnonzero(chosen).tolist()]
