"""Which tags support or contradict each other, as a cleaner learned it from verified images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from labelsieve.features.tag_batch import tag_batch
from labelsieve.features.tag_heads import GateCleaner, LabelCleaner

_BLOCK = 256  # tags at once: of 6,012, a block has 6 MB


class Relation(NamedTuple):
    """What it says of a tag that another one is asserted of the same image."""

    tag: int
    other: int
    # What `other` adds to the cleaned tag (a `LabelCleaner`, in [0, 1]), or to the logit of its
    # being right (`GateCleaner`): above 0 it supports the tag, below it contradicts it.
    weight: float
    n_images: int  # verified ones that both were asserted of


@torch.no_grad()
def relations(
    cleaner: LabelCleaner | GateCleaner,
    asserted: csr_array,
    verified: csr_array,
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    *,
    n_largest: int = 50,
    least_images: int = 5,
) -> list[Relation]:
    """The largest entries of the map from asserted tags to cleaned ones.

    Of cleaners with a ReLU, the mean slope over the verified images: how often each unit is active
    is taken for its slope.

    Args:
        cleaner: of gates the mean is taken.
        asserted: (N, C).
        verified: (N, C), what they learned from.
        features: (V, D) of the verified images, as the cleaner gets them.
        rows: (V,) which images these are.
        n_largest: how many to give, the largest first, whether above or below 0.
        least_images: a relation learned from fewer images than this says little.

    Returns:
        relations of two different tags, of which the first was verified.
    """
    own = asserted[rows].astype(np.float32)
    own.data[:] = 1
    looked = verified[rows].astype(np.float32)
    looked.data[:] = 1
    # (C, C) sparse: on how many images `tag` was asserted and verified, and `other` asserted
    both = (looked.multiply(own).T @ own).tocsr()
    outer, inner = _slopes(cleaner, asserted, features, rows)
    n_tags = asserted.shape[1]
    found: list[Relation] = []
    for first in range(0, n_tags, _BLOCK):
        part = both[first : first + _BLOCK].tocoo()
        keep = (part.data >= least_images) & (part.row + first != part.col)
        tags, others, counts = part.row[keep], part.col[keep], part.data[keep]
        if not len(tags):
            continue
        weights = (outer[first : first + _BLOCK] @ inner).cpu().numpy()[tags, others]
        found += _largest(
            zip(tags + first, others, weights, counts, strict=True), weights, n_largest
        )
    found.sort(key=lambda relation: (-abs(relation.weight), relation.tag, relation.other))
    return found[:n_largest]


def _largest(
    entries: Iterator[tuple[int, int, float, float]], weights: NDArray[np.float32], n: int
) -> list[Relation]:
    """So many of a block: no other can be among the largest of all."""
    order = set(np.argsort(-np.abs(weights), kind="stable")[:n].tolist())
    return [
        Relation(int(tag), int(other), float(weight), int(count))
        for i, (tag, other, weight, count) in enumerate(entries)
        if i in order
    ]


def _slopes(
    cleaner: LabelCleaner | GateCleaner,
    asserted: csr_array,
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> tuple[Tensor, Tensor]:
    """Two factors (C, k) and (k, C) of the slope of each cleaned tag by each asserted one."""
    if isinstance(cleaner, LabelCleaner):
        n_label = cleaner.settings.n_label
        hidden = cleaner.hidden.weight.T[None, :n_label]  # (1, e, m), the half of the tags
        outer = cleaner.output.weight[:, None]  # (C, 1, m)
    else:
        n_label = cleaner.settings.n_label
        hidden, outer = cleaner.hidden[:, :n_label], cleaner.output  # (M, e, m), (C, M, m)
        outer = outer / cleaner.settings.n_members
    n_members = len(hidden)
    first = cleaner.tags.weight.view(-1, n_members, n_label)  # (C, M, e)
    if isinstance(cleaner, GateCleaner) or cleaner.settings.relu:
        low, high = _active(cleaner, asserted, features, rows)  # (M, e), (M, m)
        first, outer = first * low, outer * high
    inner = torch.einsum("cne,nem->nmc", first, hidden)
    return outer.flatten(1), inner.flatten(0, 1)


def _active(
    cleaner: LabelCleaner | GateCleaner,
    asserted: csr_array,
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> tuple[Tensor, Tensor]:
    """How often each unit is active: those of the tags (M, e), and those after them (M, m)."""
    device = cleaner.tags.weight.device
    n_label = cleaner.settings.n_label
    low, high = torch.zeros((), device=device), torch.zeros((), device=device)
    for begin in range(0, len(rows), 1024):
        part = slice(begin, begin + 1024)
        tags = tag_batch(asserted, rows[part], device)
        joined, hidden = cleaner.units(tags, torch.from_numpy(features[part]).to(device))
        low = low + (joined[:, :, :n_label] > 0).float().sum(dim=1)
        high = high + (hidden > 0).float().sum(dim=1)
    return low / len(rows), high / len(rows)
