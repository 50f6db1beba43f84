"""Which rows of a batch can be worked with: finite, of some length, and of a known class."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from labelsieve.methods.prism.thresholds import waits_for_nothing

UNIT = 1e-6  # rows whose norm is this near to 1 are taken as they are


class Prepared(NamedTuple):
    """Rows and labels as they are worked with."""

    rows: Tensor  # (B, D) unit-norm; not finite where not usable
    classes: Tensor  # (B,) in [0, C), -1 where not usable
    usable: Tensor  # (B,) bool
    whole: bool  # all of them are, and asking was free
    n_unknown: Tensor | None  # () int64, labels that are no class; None where all are


def prepared(
    rows: Tensor, labels: Tensor, values: Tensor, *, ordered: bool, unit: bool
) -> Prepared:
    """Map labels to classes, bring rows to norm 1, and say which of them are of use.

    Args:
        rows: (B, D) of any norm.
        labels: (B,) int64; below 0 for none.
        values: (C,) int64 label values of the classes, ascending.
        ordered: whether they are 0 to C - 1.
        unit: whether rows are brought to norm 1.
    """
    norms = torch.linalg.vector_norm(rows, dim=1)  # neither finite nor 0 where none can be used
    if ordered and len(labels) and waits_for_nothing(rows):
        # The usual batch is all usable: two questions instead of ten operations.
        shortest, longest = map(float, norms.aminmax())
        first, last = map(int, labels.aminmax())
        if shortest > 0 and longest < torch.inf and first >= 0 and last < len(values):
            if unit and not 1 - UNIT < shortest <= longest < 1 + UNIT:
                rows = rows / norms[:, None]
            return Prepared(rows, labels, torch.ones_like(labels, dtype=torch.bool), True, None)
    if ordered:
        classes, is_class = labels, (labels >= 0) & (labels < len(values))
    else:
        classes = torch.searchsorted(values, labels).clamp_(max=len(values) - 1)
        is_class = values[classes] == labels
    usable = is_class & norms.isfinite() & (norms > 0)
    if unit:
        rows = rows / norms[:, None]
    whole = waits_for_nothing(rows) and bool(usable.all())
    n_unknown = (~is_class & (labels >= 0)).sum()
    return Prepared(rows, classes.masked_fill(~usable, -1), usable, whole, n_unknown)
