"""SCAN's third step: the network learns from its own surest predictions, strongly augmented.

Labels have no place here: nothing in this module takes any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.data.augment import Contrastive, Normalization, clean_view
from labelsieve.data.batches import Batch, Batches, Source
from labelsieve.data.samplers import shuffled
from labelsieve.data.strong import Strong
from labelsieve.errors import ConfigError
from labelsieve.features.contrast import Step
from labelsieve.features.heads import ClusterHeads
from labelsieve.features.inference import clean_of, take_statistics
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.optimizers import Average, make_optimizers
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import Training, train
from labelsieve.methods.scan.beliefs import Beliefs
from labelsieve.methods.scan.clusterer import (
    Clusterer,
    as_trainable_as,
    clean_logits,
    clusterer,
    gathered,
    train_mode,
)
from labelsieve.methods.scan.health import Health, health
from labelsieve.methods.scan.losses import Confident, confident, most_confident, self_label_loss
from labelsieve.methods.scan.network import TrainedScan, adam, check_rows, view_of
from labelsieve.methods.scan.selection import Best, Watch
from labelsieve.records import Neighbors

Progress = Callable[[int, int], None]  # batches done, batches in all
Teacher = Callable[[Tensor], Tensor]  # (B, 3, S, S) to logits (1, B, C)
Choice = Callable[[Tensor, float], Confident]  # of logits (B, C), and how much of training is done

_VIEW = 2  # number of the strong view; 0 and 1 are drawn in SCAN's second step


_LEAST = {"n_neighbors": 0, "plateau": 0, "clean_norms": 0, "patience": 0, "clean_size": 1}


@dataclass(frozen=True)
class SelfLabels:
    """How a network learns from itself.

    Defaults: CIFAR-10 in the authors' code, but the teacher and the rule: `teacher="itself"`,
    `rule="threshold"`, `plateau=0` and `clean_norms=0` are theirs.
    """

    # Whose predictions of clean views are learned. itself: the network's. average: those of the
    # running average of its weights, which is also what is given back. Batch norms of either take
    # the statistics of the clean batch: with the running ones, of strong views, clusters die.
    teacher: Literal["itself", "average"] = "average"
    momentum: float = 0.99  # share of the average that an update keeps, in [0, 1)
    # Which predictions are learned. threshold: those more probable than it. share: the surest of
    # each cluster, equally many, from `smallest_share` of the images at the start of the training
    # to `largest_share` at its end: it finds some however unsure the network is.
    rule: Literal["threshold", "share"] = "share"
    threshold: float = 0.99
    smallest_share: float = 0.3
    largest_share: float = 0.6
    # Predictions are averaged with the last ones of so many neighbors, see beliefs.py. 0: as they
    # are, as in the paper.
    n_neighbors: int = 0
    balanced: bool = True  # clusters count the same, whatever their number of sure images
    # threshold: stop where the share of images above it has not grown by `plateau_gain` for so
    # many epochs, as the paper does; 0: train all epochs, as its code does.
    plateau: int = 10
    plateau_gain: float = 0.002
    # threshold: stop where fewer of the images than this are above it. Share of an epoch's.
    least_confident: float = 0.01
    # Batch norms keep their statistics. With a thousandth of ImageNet's rate, 3e-5, this is what
    # the authors' "EMA" comes to: it moves the weights by 1/1000 and puts buffers back.
    frozen_norms: bool = False
    # The smallest cluster may shrink to this share of what it was; below it is lost. 0: no limit.
    least_kept: float = 0.4
    # Training images, without augmentation, from which batch norms take their statistics before
    # each evaluation. 0: those of all views that were seen, as in the authors' code.
    clean_norms: int = 2048
    patience: int = 3  # epochs in a row with clusters lost since the beginning; 0: never stop
    augmentation: Literal["strong", "contrastive"] = "strong"  # of the views that learn
    strong: Strong = field(default_factory=Strong)
    contrastive: Contrastive = field(default_factory=Contrastive)
    clean_size: int = 32  # side of the views without augmentation, pixels
    training: Training = field(default_factory=lambda: adam(epochs=200, batch_size=1000))

    def __post_init__(self) -> None:
        kinds = {
            "teacher": ("itself", "average"), "rule": ("threshold", "share"),
            "augmentation": ("strong", "contrastive"),
        }  # fmt: skip
        for name, known in kinds.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}."
                )
        for name in ("threshold", "plateau_gain", "least_confident", "least_kept", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 <= {name} < 1.")
        if not 0 <= self.smallest_share <= self.largest_share <= 1 or self.largest_share == 0:
            raise ConfigError(
                f"shares are {self.smallest_share} to {self.largest_share}; expected them to rise, "
                "within 0 and 1."
            )
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} or more.")


def train_self_labels(  # noqa: PLR0913 -- everything a training has, in one place
    source: Source,
    network: nn.Module,
    heads: ClusterHeads,
    settings: SelfLabels | None = None,
    *,
    rows: NDArray[np.int64],
    valid_rows: NDArray[np.int64],
    normalization: Normalization,
    neighbors: Neighbors | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    folder: Path | None = None,
    log: EpochLog | None = None,
    progress: Progress | None = None,
) -> TrainedScan:
    """Train a network on what it is sure of.

    Source: SCAN, section 2.3. Without labels there is no saying which epoch is best: the surer the
    network, the lower any loss on its own predictions, whether they are right or not. So the last
    epoch is given back, as in the paper, unless clusters were lost: then the last one in which, on
    the validation images, as many clusters were used as at the beginning, and the smallest had not
    fallen below `least_kept` of its size. That is what self-labels do when they fail.

    Args:
        source: of the images; see data/batches.py.
        network: of `train_scan`, (B, 3, S, S) to (B, n_features); a copy is trained.
        heads: one head on it; a copy is trained.
        settings: `SelfLabels()` unless given.
        rows: which images to learn from: those that can be decoded.
        valid_rows: images on which clusters are counted.
        normalization: of the pixels, as in pretraining.
        neighbors: of `rows`, among them; asked where settings.n_neighbors is above 0.
        seed: of the order of images, and of views.
        runtime: device, precision and processes; one CPU process by default.
        folder: of the checkpoint, from which an interrupted training goes on; None keeps none.
        log: gets a line an epoch.
        progress: told batches done and batches in all.

    Raises:
        DataError: fewer images than clusters, or no validation images.
        ConfigError: more heads than one, batches too small for the number of clusters, or no
            neighbors where some are to be asked.
        NumericError: the loss is not finite.
    """
    settings = settings or SelfLabels()
    runtime = runtime or Runtime.start(precision=settings.training.precision)
    shape = heads.settings
    if shape.n_heads != 1:
        raise ConfigError(f"{shape.n_heads} heads; self-labels need the chosen one (`one_head`).")
    check_rows(rows, valid_rows, shape.n_classes)
    model = runtime.prepare(Clusterer(network, heads, shape.n_classes), compiled=True)
    student = clusterer(model)
    batches = Batches(
        source,
        shuffled(rows, settings.training.batch_size, seed, n_processes=runtime.n_processes),
        device=runtime.device, rank=runtime.rank, n_processes=runtime.n_processes,
    )  # fmt: skip
    choose = _choice(settings, batches.batch_size, shape.n_classes)
    optimizers = make_optimizers(settings.training.optimizer, [model])
    state: dict[str, Any] = {"clusterer": model}
    teacher, given = _teacher(model, settings, optimizers, runtime, state)

    def look() -> tuple[Health, float]:
        logits = clean_logits(
            given.network, given.heads, source, valid_rows, normalization, settings.clean_size,
            runtime=runtime,
        )[0]  # fmt: skip
        return health(logits.softmax(1)), -float(logits.log_softmax(1).amax(1).mean())

    beliefs = None
    if settings.n_neighbors:
        said = clean_logits(
            network, heads, source, rows, normalization, settings.clean_size, runtime=runtime
        )[0].softmax(1)
        state["beliefs"] = beliefs = _beliefs(said, rows, neighbors, settings, runtime)
    start, doubt = look()
    best, watch = Best({"given": given}), Watch(settings.patience, start)
    plateau = Plateau(settings)
    best.keep(-1, doubt)

    def after_epoch(epoch: int, values: dict[str, float]) -> bool:
        if settings.clean_norms and not settings.frozen_norms:
            take_statistics(
                given, source, rows, settings.clean_norms,
                clean_of(settings.clean_size, normalization), runtime=runtime,
            )  # fmt: skip
        now, doubt = look()
        values.update({"valid_doubt": doubt, **now.to_log()})
        if settings.rule == "threshold" and (advice := too_few(values["confident"], settings)):
            watch.stop(epoch, advice)
            return True
        problem = watch.lost(now) or shrunk(now, start, len(valid_rows), settings.least_kept)
        if problem is None:
            best.keep(epoch, doubt)
        ended = settings.rule == "threshold" and plateau.reached(values["confident"])
        return watch.look(epoch, now, problem) or ended

    train_mode(student, frozen_norms=settings.frozen_norms)
    step = self_label_step(
        model, teacher, choose, settings, normalization, runtime, seed, len(batches), beliefs
    )
    train(
        step, batches, optimizers, settings.training, runtime=runtime,
        state={**state, "best": best, "watch": watch, "plateau": plateau},
        folder=folder, log=log, after_epoch=after_epoch, progress=progress,
    )  # fmt: skip
    best.restore()
    return TrainedScan(
        as_trainable_as(network, given.network).eval(),
        given.heads.requires_grad_(True).eval(),
        best.epoch,
        best.loss,
        watch.warnings(best.epoch),
    )


def self_label_step(  # noqa: PLR0913 -- what it learns, how, and where
    model: nn.Module,
    teacher: Teacher,
    choose: Choice,
    settings: SelfLabels,
    normalization: Normalization,
    runtime: Runtime,
    seed: int,
    n_batches: int,
    beliefs: Beliefs | None = None,
) -> Step:
    """Strong views learn the surest predictions of clean views, nothing where there are none.

    All strong views go through the network, and the sure ones are picked afterwards: batch norm
    must see the whole batch, else clusters die.

    Args:
        model: a `Clusterer` of one head, prepared.
        teacher: what is believed.
        choose: which of it.
        settings: of views and loss.
        normalization: of the pixels.
        runtime: that gathers the batch.
        seed: of the views.
        n_batches: an epoch.
        beliefs: of all images, where neighbors are asked.
    """
    epochs, view = settings.training.epochs, view_of(settings, normalization, seed)

    def step(batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            clean = clean_view(batch.images, settings.clean_size, normalization)
            logits = gathered(teacher(clean), runtime)[0]
            if beliefs is not None:
                logits = beliefs(runtime.gather_detached(batch.rows), logits)
            found = choose(logits, (batch.epoch + batch.step / n_batches) / epochs)
            sure = confident(logits, settings.threshold).mask
        values = {"confident": sure.float().mean(), "learned": found.mask.float().mean()}
        if not found.mask.any():
            return values
        views = view(batch.images, batch.rows, batch.epoch, _VIEW)
        loss = self_label_loss(gathered(model(views), runtime)[0], found, settings.balanced)
        return values if loss is None else {"loss": loss, **values}

    return step


def shrunk(now: Health, before: Health, n_images: int, least_kept: float) -> str | None:
    """Say that the smallest cluster is much smaller than it was; None where it is not.

    Of a few images it takes more than chance: three times the root of their number.
    """
    then, there = before.smallest_share * n_images, now.smallest_share * n_images
    if there >= least_kept * then or then - there <= 3 * then**0.5:
        return None
    return (
        f"The smallest cluster has {100 * now.smallest_share:.1f} % of the images; it had "
        f"{100 * before.smallest_share:.1f} % before."
    )


def too_few(share: float, settings: SelfLabels) -> str | None:
    """Say that there is too little to learn from, and what to do; None where there is enough."""
    if share >= settings.least_confident:
        return None
    return (
        f"Only {100 * share:.2f} % of the images had a cluster more probable than "
        f"{settings.threshold}; {100 * settings.least_confident:.2f} % are needed to learn from. "
        "Set rule=share, lower the threshold, or train SCAN for longer."
    )


class Plateau:
    """Sees that the share of sure images no longer grows. Part of a checkpoint."""

    def __init__(self, settings: SelfLabels) -> None:
        self._patience, self._gain = settings.plateau, settings.plateau_gain
        self._highest, self._n_flat = -math.inf, 0

    def reached(self, share: float) -> bool:
        """Take in the share of an epoch; whether so many in a row have not raised the highest."""
        if share > self._highest + self._gain:
            self._highest, self._n_flat = share, 0
        else:
            self._n_flat += 1
        return 0 < self._patience <= self._n_flat

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"highest": self._highest, "n_flat": self._n_flat}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._highest, self._n_flat = state["highest"], state["n_flat"]


def _beliefs(
    said: Tensor,
    rows: NDArray[np.int64],
    neighbors: Neighbors | None,
    settings: SelfLabels,
    runtime: Runtime,
) -> Beliefs:
    if neighbors is None:
        raise ConfigError(
            f"n_neighbors is {settings.n_neighbors} and there are no neighbors. Give those of the "
            "images to learn from, or set n_neighbors=0."
        )
    return Beliefs(said, rows, neighbors, settings.n_neighbors).to(runtime.device)


def _choice(settings: SelfLabels, batch_size: int, n_clusters: int) -> Choice:
    """The rule; refused where it would never choose any."""
    if settings.rule == "threshold":
        return lambda logits, _: confident(logits, settings.threshold)
    check_share(settings, batch_size, n_clusters)
    first, last = settings.smallest_share, settings.largest_share
    return lambda logits, done: most_confident(logits, first + (last - first) * done, n_clusters)


def check_share(settings: SelfLabels, batch_size: int, n_clusters: int) -> None:
    """Refuse batches so small that rule share would never choose any image of them.

    Raises:
        ConfigError: they are.
    """
    last = settings.largest_share
    if settings.rule == "share" and round(last * batch_size / n_clusters) < 1:
        raise ConfigError(
            f"a share of {last} of {batch_size} images a batch is none for each of {n_clusters} "
            f"clusters. Take batches of at least {math.ceil(n_clusters / last)}."
        )


def _teacher(
    model: nn.Module,
    settings: SelfLabels,
    optimizers: list[torch.optim.Optimizer],
    runtime: Runtime,
    state: dict[str, Any],
) -> tuple[Teacher, Clusterer]:
    """What is believed, and what is evaluated and given back; `state` gets what is new."""
    if settings.teacher == "itself":
        return model, clusterer(model)
    average = Average(model, settings.momentum)
    average.follow(optimizers[-1])
    state["average"] = average
    train_mode(clusterer(average.module), frozen_norms=settings.frozen_norms)

    def teacher(images: Tensor) -> Tensor:
        with runtime.autocast():
            logits: Tensor = average(images)
        return logits

    return teacher, clusterer(average.module)
