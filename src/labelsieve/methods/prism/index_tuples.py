"""Pairs and triplets as pytorch-metric-learning names them: by their rows, in 3 or 4 tensors.

Triplets are (anchors, positives, negatives); pairs are (anchors, positives, anchors, negatives),
where the first two belong together, and so do the last two. Anchors are rows of the batch; the
others are rows of the references, which are the batch itself where no others are given.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from labelsieve.errors import DataError

Indices = tuple[Tensor, Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, Tensor]


def all_pairs(labels: Tensor, ref_labels: Tensor | None = None) -> Indices:
    """All pairs of one label and all of two; no row is its own pair.

    Args:
        labels: (B,).
        ref_labels: (R,) of other rows.

    Example:
        >>> [part.tolist() for part in all_pairs(torch.tensor([5, 5, 7]))]
        [[0, 1], [1, 0], [0, 1, 2, 2], [2, 2, 0, 1]]
    """
    same = labels[:, None] == (labels if ref_labels is None else ref_labels)[None]  # (B, R)
    positive = same.clone()
    if ref_labels is None:
        positive.fill_diagonal_(False)
    anchors, positives = positive.nonzero(as_tuple=True)
    other_anchors, negatives = (~same).nonzero(as_tuple=True)
    return anchors, positives, other_anchors, negatives


def numbered(indices: Indices, rows: Tensor, ref_rows: Tensor) -> Indices:
    """Indices into parts of a batch and of references, as indices into the whole.

    Args:
        indices: of pairs or triplets.
        rows: (b,) which rows of the batch the anchors were sought in.
        ref_rows: (r,) the same of positives and negatives.

    Raises:
        DataError: neither pairs nor triplets.
    """
    parts = zip(_is_anchor(indices), indices, strict=True)
    return cast(Indices, tuple((rows if own else ref_rows)[part.long()] for own, part in parts))


def renumbered(indices: Indices, keep: Tensor, ref_keep: Tensor) -> Indices:
    """Indices into whole batches as indices into the rows kept, without those of other rows.

    Args:
        indices: of pairs or triplets.
        keep: (B,) bool, of the batch.
        ref_keep: (R,) bool, of the references.

    Raises:
        DataError: neither pairs nor triplets.

    Example:
        >>> keep = torch.tensor([True, False, True, True])
        >>> triplets = torch.tensor([0, 2]), torch.tensor([2, 3]), torch.tensor([1, 0])
        >>> [part.tolist() for part in renumbered(triplets, keep, keep)]
        [[1], [2], [0]]
    """
    is_anchor = _is_anchor(indices)
    whole = [part.to(keep.device).long() for part in indices]
    masks = [(keep if own else ref_keep)[part] for own, part in zip(is_anchor, whole, strict=True)]
    new, ref_new = keep.cumsum(0) - 1, ref_keep.cumsum(0) - 1
    # a triplet is out where any of its rows is; positive and negative pairs stand apart
    groups = [(0, 1, 2)] if len(whole) == 3 else [(0, 1), (2, 3)]
    found: list[Tensor] = []
    for group in groups:
        stays = torch.stack([masks[i] for i in group]).all(dim=0)
        found += [(new if is_anchor[i] else ref_new)[whole[i][stays]] for i in group]
    return cast(Indices, tuple(found))


def shifted(indices: Indices, start: int, size: int) -> Indices:
    """References that are rows of a batch, as rows of a ring that the batch is written to.

    Args:
        indices: of pairs or triplets.
        start: where the batch's first row goes.
        size: of the ring.
    """
    parts = zip(_is_anchor(indices), indices, strict=True)
    return cast(Indices, tuple(part if own else (part + start) % size for own, part in parts))


def fingerprints(rows: Tensor, labels: Tensor) -> Tensor:
    """(n,) int64, different for rows that differ in a bit of float32, or in their label.

    Integers, as a product with a matrix would be rounded otherwise for other numbers of rows.

    Args:
        rows: (n, D) float32 or narrower.
        labels: (n,) int64.
    """
    bits = rows.float().contiguous().view(torch.int32).long()
    places = torch.arange(1, bits.shape[1] + 1, device=bits.device)
    odd = (places * 0x9E3779B97F4A7C1) | 1  # wraps around, as it may
    return (bits * odd).sum(dim=1) * 31 + labels.long()


def with_mates(labels: Tensor, keep: Tensor) -> Tensor:
    """The rows kept whose label another row kept has; none where all of these have one label.

    Args:
        labels: (B,) int64.
        keep: (B,) bool.

    Example:
        >>> labels = torch.tensor([1, 1, 2, 2, 3, 4, 4])
        >>> with_mates(labels, labels < 4).tolist()
        [True, True, True, True, False, False, False]
    """
    found, counts = labels[keep].unique(return_counts=True)  # type: ignore[no-untyped-call]
    known = found[counts > 1]
    return keep & torch.isin(labels, known) & (len(known) > 1)


def _is_anchor(indices: Indices) -> tuple[bool, ...]:
    """Which of the tensors hold anchors, not references."""
    if len(indices) not in (3, 4):
        raise DataError(
            f"indices_tuple holds {len(indices)} tensors; expected 3 (triplets) or 4 (pairs), "
            "as the miners of pytorch-metric-learning give them."
        )
    return (True, False, False) if len(indices) == 3 else (True, False, True, False)
