"""Clusters from feature rows alone: linear heads, trained by SCAN's objective or by TEMI's.

The network that made the rows is neither needed nor changed: they may come from anywhere. Several
heads learn apart, in one product a step. Of all epochs the one with the lowest validation loss of
any head is gone back to; of its heads those that come near that loss are kept, in one order of
clusters, and predict together. No label is looked at anywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from labelsieve.errors import ConfigError, DataError
from labelsieve.features.heads import ClusterHeads
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.optimizers import make_optimizers
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import train
from labelsieve.methods.scan.consensus import (
    agreements,
    aligned,
    mean_agreement,
    row_logits,
    row_probabilities,
    some_heads,
)
from labelsieve.methods.scan.head_objectives import (
    HeadTraining,
    Temi,
    lengthened,
    scan_objective,
    temi_heads,
    temi_objective,
)
from labelsieve.methods.scan.health import Health, collapsed, health
from labelsieve.methods.scan.row_batches import PairBatches
from labelsieve.methods.scan.scaled_heads import ScaledHeads, Scaling, fit_scaling
from labelsieve.methods.scan.selection import Best, Judge
from labelsieve.records import Neighbors

__all__ = [
    "HeadTraining",
    "Scaling",
    "Temi",
    "TrainedHeads",
    "row_probabilities",
    "temi_heads",
    "train_heads",
]

Rows = NDArray[np.floating[Any]]
Progress = Callable[[int, int], None]  # batches done, batches in all


class TrainedHeads(NamedTuple):
    """What `train_heads` found."""

    heads: ClusterHeads  # aligned, on rows as they were given; `row_probabilities` predicts
    losses: tuple[float, ...]  # validation loss of each of them; -ln C at best
    chosen: int  # the one with the lowest
    epoch: int  # that was gone back to
    agreement: float  # mean adjusted Rand index of pairs of heads; NaN of one head
    warnings: tuple[str, ...]  # when and why the clusters should not be trusted


def train_heads(  # noqa: PLR0913 -- everything a training has, in one place
    rows: Rows,
    neighbors: Neighbors,
    n_clusters: int,
    settings: HeadTraining | None = None,
    *,
    valid: Rows,
    valid_neighbors: Neighbors,
    views: Rows | None = None,
    prior: ArrayLike | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    folder: Path | None = None,
    log: EpochLog | None = None,
    progress: Progress | None = None,
) -> TrainedHeads:
    """Train linear heads so that a row and its neighbors get one cluster, and all are used.

    Args:
        rows: (N, D) of any size and floating type; may be memory-mapped. Not changed.
        neighbors: of these rows, among them.
        n_clusters: C, at least 2.
        settings: `HeadTraining()` unless given.
        valid: (M, D) rows that are not trained on, made in the same way: they choose epoch and
            head.
        valid_neighbors: of `valid`, among them.
        views: (R, N, D) rows of R augmented views of the same images, which heads learn from in
            place of `rows`; see `features.views.view_rows`.
        prior: (C,) sizes that the clusters should have, of any sum; equal ones by default. For
            objective scan.
        seed: of first weights, orders, neighbors and views.
        runtime: device, precision and processes; one CPU process by default.
        folder: of the checkpoint, from which an interrupted training goes on; None keeps none.
        log: gets a line an epoch: of the training, means over heads; of the validation, the lowest
            loss, and how the head that has it uses its clusters.
        progress: told batches done and batches in all.

    Raises:
        DataError: rows that are too few, not finite or all equal, or arrays that do not fit.
        ConfigError: a number of clusters below 2, or a prior that is none.
        NumericError: the loss is not finite.
        RunError: the checkpoint is of other settings, or cannot be read or written.
    """
    settings = settings or HeadTraining()
    runtime = runtime or Runtime.start(precision=settings.training.precision)
    _check(rows, neighbors, n_clusters, valid, views)
    shares = None if prior is None else np.asarray(prior, np.float64)
    # a copy: torch warns of arrays that cannot be written to
    valid_neighbors = replace(valid_neighbors, indices=valid_neighbors.indices.astype(np.int64))
    judge = Judge(valid_neighbors, len(valid), settings.entropy_weight, shares, n_clusters)
    n_columns = settings.n_neighbors or neighbors.indices.shape[1]
    batches = PairBatches(
        rows if views is None else views, neighbors.indices[:, :n_columns],
        settings.training.batch_size, seed=seed, runtime=runtime,
    )  # fmt: skip
    scaling = fit_scaling(rows, settings.scaling)
    model = runtime.prepare(ScaledHeads(scaling, n_clusters, settings.n_heads, seed=seed))
    optimizers = make_optimizers(settings.training.optimizer, [model])
    if settings.objective == "temi":
        made = temi_objective(model, n_clusters, settings, shares, optimizers, runtime)
    else:
        made = scan_objective(model, n_clusters, settings, shares, runtime)
    step, state, predictor = made
    best = Best({name: each for name, each in state.items() if isinstance(each, nn.Module)})
    n_used = torch.zeros(())  # clusters, of the epoch that is kept

    def after_epoch(epoch: int, values: dict[str, float]) -> None:
        values["loss"] /= settings.n_heads  # of a head, for the log; all learn from the sum
        losses, found, now = _judged(predictor(), valid, judge)
        head = int(losses.argmin())
        values.update({**found, **now.to_log()})
        if settings.objective == "scan":
            best.offer(epoch, float(losses[head]), head)
        elif now.n_used >= 0.98 * n_used:
            # The validation loss is SCAN's and lowest early, while TEMI's heads go on learning: the
            # last epoch counts, as in its paper, unless clusters were lost.
            best.keep(epoch, float(losses[head]), head)
            n_used.fill_(now.n_used)

    same = _Same(
        settings, seed=seed, n_clusters=n_clusters, shape=rows.shape,
        n_views=0 if views is None else len(views),
        prior=None if shares is None else shares.tolist(),
    )  # fmt: skip
    train(
        step, batches, optimizers, lengthened(settings, len(batches)), runtime=runtime,
        state={**state, "best": best, "n_used": n_used, "settings": same},
        folder=folder, log=log, after_epoch=after_epoch, progress=progress,
    )  # fmt: skip
    _, _, last = _judged(predictor(), valid, judge, best.head)
    best.restore()
    return _ended(predictor(), best.epoch, last, rows, valid, judge, settings)


def _judged(
    heads: ClusterHeads, valid: Rows, judge: Judge, head: int | None = None
) -> tuple[Tensor, dict[str, float], Health]:
    """Each head's validation loss, what the log says of them, the health of one or of the best."""
    logits = torch.cat([part.cpu() for part in row_logits(heads, valid)], dim=1)
    losses, found = judge(logits)
    chosen = int(losses.argmin()) if head is None else head
    return losses, found, health(logits[chosen].softmax(dim=1))


def _ended(
    heads: ClusterHeads,
    epoch: int,
    last: Health,
    rows: Rows,
    valid: Rows,
    judge: Judge,
    settings: HeadTraining,
) -> TrainedHeads:
    """The heads that are kept, aligned, and what is to be said of them."""
    losses, _, now = _judged(heads, valid, judge)
    most = settings.largest_difference * math.log(heads.settings.n_classes)
    kept = (losses <= losses.min() + most).nonzero().flatten().tolist()
    chosen = kept.index(int(losses.argmin()))
    together = some_heads(heads, kept)
    alike = agreements(together, rows)
    # The head most like the others leads: what they agree on with it varies less from seed to seed
    # than what they agree on with the head of the lowest loss.
    together = aligned(together, rows, int(alike.sum(axis=1).argmax()))
    predicted = torch.from_numpy(row_probabilities(together, valid))
    return TrainedHeads(
        together.cpu(),
        tuple(float(losses[head]) for head in kept),
        chosen,
        epoch,
        mean_agreement(alike),
        _warnings(health(predicted), now, last, epoch, float(losses.min()), settings),
    )


def _warnings(
    together: Health, best: Health, last: Health, epoch: int, loss: float, settings: HeadTraining
) -> tuple[str, ...]:
    found = []
    lost = collapsed(last, best)
    if lost is not None:
        found.append(
            f"While the heads were trained: {lost} The heads are those of epoch {epoch + 1}."
        )
    if together.n_used < together.n_clusters:
        found.append(
            f"{together.n_used} of {together.n_clusters} clusters have any of the validation "
            "images. Ask for fewer clusters, or train longer."
        )
    most = math.log(together.n_clusters)
    if loss + most > settings.largest_gap * most:
        found.append(
            f"The validation loss is {loss:.3f}, where {-most:.3f} is possible: images and their "
            "nearest neighbors often come into different clusters. Many images will be in a wrong "
            "one; other features, or another number of clusters, may suit them better."
        )
    return tuple(found)


def _check(
    rows: Rows, neighbors: Neighbors, n_clusters: int, valid: Rows, views: Rows | None
) -> None:
    if n_clusters < 2:
        raise ConfigError(f"n_clusters is {n_clusters}; at least 2 are needed.")
    for name, array in (("rows", rows), ("valid", valid)):
        if array.ndim != 2 or array.dtype.kind != "f" or array.shape[1] != rows.shape[-1]:
            raise DataError(
                f"{name}: an array of shape {array.shape} and type {array.dtype}; expected "
                f"(N, {rows.shape[-1]}) of floating numbers."
            )
        if len(array) < n_clusters:
            raise DataError(
                f"{name}: {len(array)} images for {n_clusters} clusters; at least one for each is "
                "needed, and some hundred to learn anything. Ask for fewer clusters."
            )
    if len(neighbors.indices) != len(rows) or neighbors.indices.shape[1] == 0:
        raise DataError(
            f"neighbors of shape {neighbors.indices.shape} for {len(rows)} rows; expected at least "
            "one of each row."
        )
    if views is not None and (views.ndim != 3 or views.shape[1:] != rows.shape or not len(views)):
        raise DataError(
            f"views of shape {views.shape} for rows of shape {rows.shape}; expected (R, "
            f"{', '.join(map(str, rows.shape))}): each view has a row of each image."
        )


class _Same:
    """Part of a checkpoint, so that it is gone on from with what it was begun with only."""

    def __init__(self, settings: HeadTraining, **facts: Any) -> None:
        facts |= asdict(settings)
        # of the training `train` says it itself; the others matter after it
        for name in ("training", "largest_gap", "largest_difference"):
            del facts[name]
        self._facts = facts

    def state_dict(self) -> str:
        return json.dumps(self._facts)

    def load_state_dict(self, state: str) -> None:
        then, now = json.loads(state), json.loads(self.state_dict())
        changed = sorted(n for n in then.keys() | now.keys() if then.get(n) != now.get(n))
        if changed:
            raise ValueError(f"{', '.join(changed)} changed")
