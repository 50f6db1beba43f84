"""The second stage: score all labels by a trained embedding, and train anew on what is kept.

Source: none; measured in docs/retrieval.md. PRISM learns what it needs to tell wrong labels, with a
sum over pairs that stands the noise. On labels that are clean for the most part the mean over pairs
learns far better, but filtered on the way it collapses: so the two take turns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from labelsieve.data.batches import Source
from labelsieve.errors import DataError
from labelsieve.features.shown import Views
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.prism.embedding import (
    Embed,
    Pairs,
    Progress,
    Test,
    TrainedEmbedding,
    embed,
    train_embedding,
)
from labelsieve.methods.prism.offline import Offline, OfflineScores, score_offline


@dataclass(frozen=True)
class SecondStage:
    """How the set is scored and learned anew."""

    offline: Offline = field(default_factory=Offline)
    loss: Pairs = field(default_factory=lambda: Pairs(over="mean"))


class TwoStages(NamedTuple):
    """What came of the second stage."""

    trained: TrainedEmbedding
    scores: OfflineScores  # of `rows`, in their order
    rows: NDArray[np.int64]  # (M,) those that have a label
    kept: NDArray[np.int64]  # of `rows`, those that were learned from


def second_stage(  # noqa: PLR0913 -- a training, as `train_embedding` has it, and what it follows
    source: Source,
    network: nn.Module,
    first: TrainedEmbedding,
    labels: NDArray[np.int64],
    n_classes: int,
    settings: Embed,
    second: SecondStage | None = None,
    *,
    rows: NDArray[np.int64],
    views: Views,
    test: Test | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    folder: Path | None = None,
    log: EpochLog | None = None,
    progress: Progress | None = None,
) -> TwoStages:
    """Score all labels by fresh embeddings of the first stage, and train anew on what is kept.

    Args:
        source: as the first stage had it, and so are all that are not named here.
        network: from the same first weights.
        first: what came of the first stage.
        labels: (N,).
        n_classes: C.
        settings: of the first stage; the second has another loss, and no filter.
        second: what is different; `SecondStage()` unless given.
        rows: which images may be learned from.
        views: of another seed than those of the first stage.
        test: what the log says of other images.
        seed: that of the first stage gives the same first weights of new layers.
        runtime: device, precision and processes.
        folder: of the checkpoint, another than that of the first stage.
        log: of this stage.
        progress: told batches done and batches in all, of this stage.

    Raises:
        DataError: fewer than two classes are kept; and as `train_embedding`.
    """
    second = second or SecondStage()
    runtime = runtime or Runtime.start(precision=settings.training.precision)
    rows = rows[labels[rows] >= 0]
    features = embed(first.embedder, source, rows, views.clean, runtime)
    scores = score_offline(features, labels[rows], n_classes, second.offline, seed=seed)
    kept = rows[scores.keep]
    if len(np.unique(labels[kept])) < 2:
        raise DataError(
            f"of {len(rows)} images {len(kept)} seem rightly labeled, of fewer than 2 classes. "
            "Lower offline.noise_rate, or train the first stage for longer."
        )
    trained = train_embedding(
        source, network, labels, n_classes, replace(settings, loss=second.loss, filter=None),
        rows=kept, views=views, test=test, seed=seed, runtime=runtime, folder=folder, log=log,
        progress=progress,
    )  # fmt: skip
    return TwoStages(trained, scores, rows, kept)
