"""Training a tagger on tags some of which are wrong, with a few that people verified.

::

    VeitTraining     the settings of a training
    train_tagger     trains, by the one loop, and says which asserted tags it believes

What comes of it is a `TrainedTagger`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import nn

from labelsieve.data.batches import Source, of_rows
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.rows import Rows
from labelsieve.features.shown import Views, row_views
from labelsieve.loop.optimizers import Optimizer
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import Training
from labelsieve.methods.veit.asking import blocks, own_logit, pair_answers
from labelsieve.methods.veit.baseline import learn_asserted, new_net
from labelsieve.methods.veit.network import TagNet
from labelsieve.methods.veit.objectives.biases import Biases
from labelsieve.methods.veit.objectives.gated import Gated
from labelsieve.methods.veit.objectives.joint import Joint
from labelsieve.methods.veit.objectives.misra import Misra
from labelsieve.methods.veit.objectives.plain import Clean, Mixed, Noisy
from labelsieve.methods.veit.relations import Relation, relations
from labelsieve.methods.veit.targets import (
    Unverified,
    frequencies,
    only_rows,
    overruled,
    pair_targets,
)
from labelsieve.methods.veit.trained_tagger import TrainedTagger, keep_answer
from labelsieve.methods.veit.work import Learned, LogOf, Progress, Work


class Tags(Protocol):
    """What is known of tags; a `TagSet` is one."""

    @property
    def asserted(self) -> csr_array: ...
    @property
    def verified(self) -> csr_array: ...


def rmsprop(updates_shown: int = 20) -> Training:
    """How Veit et al. train: RMSprop with an epsilon of 1, at one rate.

    Source: 0.001 for the tagger, from the paper; decay, momentum and epsilon from the same team's
    description of the next model. The batch is of 256, not 32: so much the fewer are needed.
    """
    return Training(
        epochs=updates_shown,
        batch_size=256,
        learning_rate=LearningRate(peak=1e-3, shape="constant"),
        optimizer=Optimizer(
            "rmsprop", momentum=0.9, second_momentum=0.9, epsilon=1.0, weight_decay=0.0
        ),
    )


def adam(updates_shown: int = 20, weight_decay: float = 0.0) -> Training:
    """Adam under a cosine to 0."""
    return Training(
        epochs=updates_shown,
        batch_size=256,
        learning_rate=LearningRate(peak=1e-3, final=0.0),
        optimizer=Optimizer("adamw", weight_decay=weight_decay),
    )


@dataclass(frozen=True)
class VeitTraining:
    """How a tagger is trained. Defaults: those of the recipe "default"."""

    objective: Gated | Joint | Noisy | Mixed | Clean | Misra | Biases = field(default_factory=Gated)
    baseline: Training = field(default_factory=adam)  # of the tagger of the tags as asserted
    # of what follows it
    training: Training = field(default_factory=lambda: adam(weight_decay=1.0))
    # Of the weights, in the first part and in the second: the epochs, which are what the log has
    # lines for, share them. More where they would be less than so many passes over the images.
    updates: int = 1000
    least_passes: float = 1.0
    # What is said of pairs that nobody verified, of images that people looked at: noisy, as
    # asserted; absent; ignore.
    unverified: Unverified = "noisy"
    verified_share: float = 0.1  # of a batch, images of which people verified tags
    backbone_rate: float = 1e-4  # learning rate of a backbone that learns along
    confidences: bool = False  # learn them in place of 1

    def __post_init__(self) -> None:
        if self.unverified not in get_args(Unverified):
            known = ", ".join(get_args(Unverified))
            raise ConfigError(f"unverified is {self.unverified!r}; expected one of {known}.")
        if self.updates < 1 or self.least_passes < 0 or not self.backbone_rate > 0:
            raise ConfigError(
                f"updates is {self.updates}, least_passes {self.least_passes} and backbone_rate "
                f"{self.backbone_rate}; expected 1 or more, 0 or more, and above 0."
            )
        if not 0 < self.verified_share < 1:
            raise ConfigError(
                f"verified_share is {self.verified_share}; expected 0 < verified_share < 1."
            )

    def updates_for(self, n_images: int) -> int:
        """Updates of each part, of so many images."""
        passes = self.least_passes * n_images / self.training.batch_size
        return max(self.updates, int(np.ceil(passes)))


def train_tagger(  # noqa: PLR0913 -- everything a training has, in one place
    source: Source | NDArray[np.float32],
    tags: Tags,
    settings: VeitTraining | None = None,
    *,
    rows: NDArray[np.int64] | None = None,
    verified_rows: NDArray[np.int64] | None = None,
    asked: NDArray[np.int64] | None = None,
    backbone: nn.Module | None = None,
    views: Views | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    folder: Path | None = None,
    log: LogOf | None = None,
    progress: Progress | None = None,
) -> TrainedTagger:
    """Train a tagger, and what cleans the tags it learns.

    Args:
        source: (N, D) rows of features, which may be memory-mapped, or a source of images.
        tags: of the same N images.
        settings: `VeitTraining()` unless given.
        rows: which images to learn from: those that can be decoded; all unless given.
        verified_rows: which of them are taken as verified, of those with verified tags; all of
            them unless given. What people said of others is not looked at.
        asked: whose asserted tags are judged in the end: `rows` unless given.
        backbone: of images; a copy is trained along, unless its weights want no gradient. None: the
            features stay as they are.
        views: what a backbone is shown of images.
        seed: of new layers, of the batches, of what is held out.
        runtime: device, precision and processes; one CPU process by default.
        folder: of checkpoints, one of each phase, from which an interrupted training goes on.
        log: makes the log of a phase by its name; it gets lines.
        progress: told updates done and updates in all; early stops jump.

    Raises:
        DataError: no image to learn from, or tags of another number of images.
        ConfigError: a batch that cannot be shared, or images without a backbone and views.
        NumericError: the loss is not finite.
    """
    settings = settings or VeitTraining()
    runtime = runtime or Runtime.start(precision=settings.training.precision)
    source, backbone, views = _inputs(source, backbone, views, seed)
    rows = np.arange(len(source)) if rows is None else np.asarray(rows, np.int64)
    work = prepared_work(source, tags, settings, rows, verified_rows, backbone, views, runtime)
    work.seed, work.folder, work.log, work.progress = seed, folder, log, progress
    warnings = _thin(work)
    objective = settings.objective
    helps = len(work.verified_rows) > 0
    work.n_planned = work.updates + (objective.planned(work) if helps else 0)
    work.net.train()
    learn_asserted(work, work.noisy_rows if len(work.noisy_rows) else rows)
    before = work.bare.twin()
    own = isinstance(objective, Noisy | Misra)
    learned = objective.learn(work, before) if helps or own else Learned()
    work.bare.eval()
    if progress is not None and runtime.is_main:
        progress(work.n_planned, work.n_planned)
    asked = rows if asked is None else np.asarray(asked, np.int64)
    judged = _said(work, before, learned, asked) if helps or own else _as_asserted(work, asked)
    return _trained(work, before, learned, judged, (*warnings, *learned.warnings))


def _inputs(
    source: Source | NDArray[np.float32],
    backbone: nn.Module | None,
    views: Views | None,
    seed: int,
) -> tuple[Source, nn.Module, Views]:
    """A source of rows gets a backbone that only centers and scales them."""
    if isinstance(source, np.ndarray):
        rows = of_rows(source)
        if backbone is None:
            backbone = Rows(source.shape[1]).fit(source)
        return rows, backbone, views or row_views(seed)
    if backbone is None or views is None:
        raise ConfigError(
            "a source of images needs a backbone and the views that it is shown. Give both, or "
            "features (N, D) in place of images."
        )
    return source, backbone, views


def prepared_work(
    source: Source,
    tags: Tags,
    settings: VeitTraining,
    rows: NDArray[np.int64],
    verified_rows: NDArray[np.int64] | None,
    backbone: nn.Module,
    views: Views,
    runtime: Runtime,
) -> Work:
    """A training that can begin: what is learned of which images, and a new network.

    Arguments are as for `train_tagger`; `seed`, `folder`, `log` and `progress` are set afterwards.
    """
    asserted = tags.asserted
    if asserted.shape[0] != len(source):
        raise DataError(
            f"tags of {asserted.shape[0]} images for a source of {len(source)}; expected one row "
            "each, in the same order."
        )
    if len(rows) == 0:
        raise DataError("there is no image to learn from. Give some that can be decoded.")
    if not settings.confidences:
        ones = np.ones(asserted.nnz, np.float32)
        asserted = csr_array((ones, asserted.indices, asserted.indptr), shape=asserted.shape)
    looked = np.flatnonzero(np.diff(tags.verified.indptr))
    looked = np.intersect1d(looked, rows)
    if verified_rows is not None:
        looked = np.intersect1d(looked, verified_rows)
    verified = only_rows(tags.verified, looked)
    noisy = np.setdiff1d(rows, looked)
    bare = new_net(backbone, frequencies(asserted, noisy if len(noisy) else rows))
    return Work(
        runtime.prepare(bare), bare, source, views, asserted, verified, noisy, looked,
        pair_targets(asserted, verified, settings.unverified), settings.unverified,
        settings.verified_share, settings.baseline, settings.training,
        settings.updates_for(len(rows)), settings.backbone_rate, runtime, seed=0,
    )  # fmt: skip


def _thin(work: Work) -> tuple[str, ...]:
    """What to say where there is little or nothing that people verified."""
    n = len(work.verified_rows)
    if n == 0:
        return (
            "No tag is verified, so nothing says which ones are wrong: all are kept as they are. "
            "Have some images looked at.",
        )
    present = work.verified.data > 0
    if present.all() or not present.any():
        kind = "right" if present.all() else "wrong"
        return (
            f"All {work.verified.nnz} verified tags are {kind}: nothing says what the others look "
            "like. Have more looked at, drawn at random.",
        )
    return ()


def _said(
    work: Work, before: TagNet, learned: Learned, asked: NDArray[np.int64]
) -> NDArray[np.float32]:
    never = np.bincount(work.verified.indices, minlength=work.n_tags) == 0
    logits = learned.pair_logits
    new = np.setdiff1d(asked, np.concatenate([work.noisy_rows, work.verified_rows]))
    if logits is not None and len(new):  # images that no tagger learned
        fresh = pair_answers(
            own_logit, before, work.source, work.asserted, new, work.views.clean, work.runtime
        )
        logits = np.where(np.isnan(fresh), logits, fresh)
    net, answer = keep_answer(work.bare, before, learned.cleaner, learned.gates, never, logits)
    return pair_answers(
        answer, net, work.source, work.asserted, asked, work.views.clean, work.runtime
    )


def _as_asserted(work: Work, asked: NDArray[np.int64]) -> NDArray[np.float32]:
    found = np.full(work.asserted.nnz, np.nan, np.float32)
    of_asked = np.zeros(work.asserted.shape[0], bool)
    of_asked[asked] = True
    found[np.repeat(of_asked, np.diff(work.asserted.indptr))] = 1
    return found


def _trained(
    work: Work,
    before: TagNet,
    learned: Learned,
    said: NDArray[np.float32],
    warnings: Sequence[str],
) -> TrainedTagger:
    return TrainedTagger(
        net=work.bare, baseline=before, cleaner=learned.cleaner, gates=learned.gates,
        relevance=learned.relevance, keep=overruled(said, work.asserted, work.verified), said=said,
        cross_fitted=learned.cross_fitted,
        never_verified=np.bincount(work.verified.indices, minlength=work.n_tags) == 0,
        relations=_relations(work, before, learned), n_updates=learned.n_updates,
        warnings=tuple(warnings), runtime=work.runtime, clean=work.views.clean,
    )  # fmt: skip


def _relations(work: Work, before: TagNet, learned: Learned) -> list[Relation]:
    cleaner = learned.cleaner or learned.gates
    if cleaner is None or not len(work.verified_rows):
        return []
    net = before if learned.gates is not None else work.bare
    rows = work.verified_rows
    seen = blocks(net, work.source, rows, work.views.clean, work.runtime)
    features = np.concatenate([each.float().cpu().numpy() for _, each, _ in seen])
    return relations(cleaner, work.asserted, work.verified, features, rows)
