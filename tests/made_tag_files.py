"""Small sets of tags as tests write and compare them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from labelsieve.records.tag_set import TagSet


def written(folder: Path, name: str, *lines: str) -> Path:
    """A text file of lines."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def tags_of(tag_set: TagSet, matrix: csr_array | None = None) -> dict[str, set[str]]:
    """Image -> its asserted tags, or those that a matrix stores."""
    found: dict[str, set[str]] = {name: set() for name in tag_set.ids}
    rows, columns = (tag_set.asserted if matrix is None else matrix).nonzero()
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        found[tag_set.ids[row]].add(tag_set.tag_names[column])
    return found


def verified_of(tag_set: TagSet) -> dict[tuple[str, str], int]:
    """(image, tag) -> +1 or -1."""
    rows, columns, present = tag_set.verified_pairs()
    each = zip(rows.tolist(), columns.tolist(), present.tolist(), strict=True)
    return {(tag_set.ids[r], tag_set.tag_names[c]): 1 if p else -1 for r, c, p in each}


def said(tag_set: TagSet) -> str:
    """All that was understood, as one text."""
    return "\n".join(tag_set.understood)


def without(tag_set: TagSet, *pairs: tuple[str, str]) -> csr_array:
    """What is asserted, but for some pairs."""
    dense = tag_set.asserted.toarray()
    for image, tag in pairs:
        dense[tag_set.ids.index(image), tag_set.tag_names.index(tag)] = 0
    return csr_array(dense)


def also(tag_set: TagSet, kept: csr_array, *pairs: tuple[str, str]) -> csr_array:
    """Kept pairs, and some more with a probability of 0.75."""
    dense = kept.toarray()
    for image, tag in pairs:
        dense[tag_set.ids.index(image), tag_set.tag_names.index(tag)] = 0.75
    return csr_array(dense.astype(np.float32))
