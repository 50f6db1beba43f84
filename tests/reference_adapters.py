"""A second time, slowly: what happens to pairs and triplets when rows are left out."""

from __future__ import annotations


def all_pairs(labels, ref_labels=None):
    others = labels if ref_labels is None else ref_labels
    same, apart = [], []
    for i, label in enumerate(labels):
        for j, other in enumerate(others):
            if label != other:
                apart.append((i, j))
            elif ref_labels is not None or i != j:
                same.append((i, j))
    return same, apart


def renumbered(indices, keep, ref_keep):
    """Lists of row numbers; each tuple is looked at by itself."""
    place = {row: i for i, row in enumerate(i for i, k in enumerate(keep) if k)}
    ref_place = {row: i for i, row in enumerate(i for i, k in enumerate(ref_keep) if k)}
    groups = [indices] if len(indices) == 3 else [indices[:2], indices[2:]]
    found = []
    for group in groups:
        stay = [
            (place[anchor], *(ref_place[row] for row in others))
            for anchor, *others in zip(*group, strict=True)
            if anchor in place and all(row in ref_place for row in others)
        ]
        found += [list(column) for column in zip(*stay, strict=True)] or [[] for _ in group]
    return found
