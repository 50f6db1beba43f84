"""The step of a training for retrieval: sift the batch, learn from what is kept, remember it.

Rows are gathered from all processes before anything is judged, so that filter and memory are the
same on all of them, and as on one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from labelsieve.data.batches import Batch
from labelsieve.features.contrast import Step, View
from labelsieve.features.shown import WEAK
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.prism.filter import CleanFilter, Filtered
from labelsieve.methods.prism.objectives import Kept, Objective


class Tally(nn.Module):
    """How often each image was judged, and kept, from some batch on: once a filter has settled."""

    judged: Tensor  # (N,) int64
    kept: Tensor  # (N,) int64

    def __init__(self, n_images: int, first: int) -> None:
        """Begin with zeros.

        Args:
            n_images: N.
            first: number of the first batch that is counted, of all batches of the training.
        """
        super().__init__()
        self._first = first
        for name in ("judged", "kept"):
            self.register_buffer(name, torch.zeros(n_images, dtype=torch.int64))

    def add(self, number: int, rows: Tensor, last: Filtered, keep: Tensor) -> None:
        """Count a batch: its images (B,), what the filter saw in them, and which were kept."""
        if number < self._first:
            return
        judged = last.scored & last.threshold.isfinite()  # while there is none, all are kept
        self.judged.index_add_(0, rows, judged.long())
        self.kept.index_add_(0, rows, (judged & keep).long())


def embedding_step(
    embedder: nn.Module,
    show: View,
    labels: Tensor,
    objective: Objective,
    sieve: CleanFilter | None,
    tally: Tally,
    *,
    runtime: Runtime,
    n_batches: int,
) -> Step:
    """Embed a batch, keep what seems rightly labeled, learn from that, and remember it.

    Source: PRISM, algorithm 1. A batch of which nothing is kept has no loss.

    Args:
        embedder: as `Runtime.prepare` gave it; inputs to unit rows.
        show: what it is shown of a batch.
        labels: (N,) of all images, on the device.
        objective: of what is kept.
        sieve: None keeps everything.
        tally: counts what becomes of each image.
        runtime: whose processes share the batch.
        n_batches: an epoch.
    """

    def step(batch: Batch) -> Mapping[str, Tensor]:
        number = batch.epoch * n_batches + batch.step
        # An epoch may be several passes over the images: the number of the batch sets draws apart.
        shown = show(batch.images, batch.rows, number, WEAK[0])
        features = runtime.gather(embedder(shown))
        rows = runtime.gather_detached(batch.rows)
        given = labels[rows]
        if sieve is None:
            return objective(Kept(features, given, rows, len(rows)))
        keep = sieve(features.detach(), given)
        values = _logged(_last(sieve))
        values["noise_rate"] = sieve.rate.detach()
        kept = keep.nonzero()[:, 0]  # waits for the device once, where masks would at each use
        if len(kept):
            values |= objective(Kept(features[kept], given[kept], rows[kept], len(rows)))
        elif not bool(features.isfinite().any()):
            values["loss"] = features.sum()  # nothing is kept as nothing is a number: training ends
        sieve.update(features.detach(), given, keep)
        tally.add(number, rows, _last(sieve), keep)
        return values

    return step


def _last(sieve: CleanFilter) -> Filtered:
    """The filter's last answer."""
    assert sieve.last is not None  # noqa: S101 -- it has just answered
    return sieve.last


def _logged(last: Filtered) -> dict[str, Tensor]:
    """What the log shows of a filter's answer; no threshold while there is nothing to judge by."""
    values = {"kept": last.keep.double().mean()}
    if math.isfinite(float(last.threshold)):
        values["threshold"] = last.threshold
    return values
