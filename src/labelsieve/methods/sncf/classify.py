"""Training a classifier on labels some of which are wrong, by any objective, on images or rows.

::

    Classify           the settings of a training
    train_classifier   trains, by the one loop, and says what it thinks of the images as they are
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from labelsieve.data.augment import Contrastive, Weak
from labelsieve.data.batches import Batches, Source
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.heads import Classifier, ProjectionHead, small_head, sncf_head, width_of
from labelsieve.features.shown import Views
from labelsieve.features.twins import twins_of
from labelsieve.features.weights import drawn_from
from labelsieve.loop.checkpoints import Kept
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.optimizers import Average, Optimizer, make_optimizers
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import Training, train
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.classifier import NoisyClassifier, Prepared, Trunk, averaged
from labelsieve.methods.sncf.dividemix import DivideMix
from labelsieve.methods.sncf.paper_training import Paper
from labelsieve.methods.sncf.plain_training import Plain
from labelsieve.methods.sncf.predictor import Predictor
from labelsieve.methods.sncf.robust_training import Robust
from labelsieve.methods.sncf.work import Phase, Work
from labelsieve.records import Verdict

Progress = Callable[[int, int], None]  # batches done, batches in all
LogOf = Callable[[str], EpochLog]  # the log of a phase, by its name
Test = Callable[[Predictor], Mapping[str, float]]  # what the log says of other images
Head = Literal["none", "small", "sncf"]

_HEADS: dict[str, Callable[[int], ProjectionHead]] = {"small": small_head, "sncf": sncf_head}


def sgd(epochs: int, batch_size: int) -> Training:
    """How SNCF trains on CIFAR: SGD at 0.1, a tenth of it from half on, again from four fifths."""
    return Training(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=LearningRate(peak=0.1, shape="steps", cuts=(0.5, 0.8), by_epoch=True),
        optimizer=Optimizer("sgd", momentum=0.9, weight_decay=5e-4, decay_all=True),
    )


@dataclass(frozen=True)
class Classify:
    """How a classifier is trained. Defaults: SNCF on CIFAR-100, as published."""

    objective: Robust | Paper | Plain | DivideMix = field(default_factory=Paper)
    weak: Weak = field(default_factory=Weak)
    strong: Contrastive = field(default_factory=lambda: Contrastive(smallest_crop=0.08))
    # The head that is contrasted. none: nothing is. small: two layers, for small networks; sncf:
    # three, hidden ones four times as wide as the features.
    projection: Head = "sncf"
    # Share that an update keeps of the average of weights that predicts, in [0, 1), such as 0.999.
    # 0: the network itself predicts, as published.
    average: float = 0.0
    # Images, as they are, from which batch norms take their statistics before each prediction: one
    # or two thousand are enough. 0: those of the training's views, which are mixed and recolored.
    clean_norms: int = 0
    test_every: int = 1  # epochs between two evaluations on test images; 0: only at the end
    training: Training = field(default_factory=lambda: sgd(epochs=100, batch_size=256))

    def __post_init__(self) -> None:
        if self.projection not in get_args(Head):
            known = ", ".join(get_args(Head))
            raise ConfigError(f"projection is {self.projection!r}; expected one of {known}.")
        if not 0 <= self.average < 1:
            raise ConfigError(f"average is {self.average}; expected 0 <= average < 1.")
        for name in ("clean_norms", "test_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        objective = self.objective
        if isinstance(objective, Paper) and objective.guess == "average" and self.average == 0:
            raise ConfigError(
                "guess is 'average' and no weights are averaged. Set average, such as 0.999, or "
                "guess=eval."
            )


class TrainedClassifier(NamedTuple):
    """What came of a training: that of its last epoch."""

    network: nn.Module  # (B, 3, S, S), or rows (B, D), to features; in evaluation mode
    classifier: Classifier  # of its features
    projection: ProjectionHead | None
    probabilities: NDArray[np.float32]  # (M, C) what they say of `rows` as they are


def train_classifier(  # noqa: PLR0913 -- everything a training has, in one place
    source: Source,
    network: nn.Module,
    beliefs: Beliefs,
    n_classes: int,
    settings: Classify | None = None,
    *,
    rows: NDArray[np.int64],
    views: Views,
    test: Test | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    folder: Path | None = None,
    log: LogOf | None = None,
    progress: Progress | None = None,
) -> TrainedClassifier:
    """Train a network and a classifier on it to say which class an image shows.

    The last epoch is given back, whatever a test says of it or of another.

    Args:
        source: of N images, or of N rows of features (`of_rows`).
        network: (B, 3, S, S) to (B, n_features), or `Rows`; stays as it is, a copy is trained.
        beliefs: of all N images.
        n_classes: C, at least 2.
        settings: `Classify()` unless given.
        rows: which images to learn from: those that can be decoded.
        views: what the network is shown: `image_views`, or `row_views`.
        test: asked every `settings.test_every` epochs, and at the end, on all processes, for values
            such as "test_accuracy"; it gets what predicts for any rows of any source. Never
            decides anything.
        seed: of new heads, of the order of images, and of what is mixed.
        runtime: device, precision and processes; one CPU process by default.
        folder: of the checkpoints, one of each phase, from which an interrupted training goes on;
            None keeps none.
        log: makes the log of a phase by its name; it gets a line an epoch.
        progress: told batches done and batches in all.

    Raises:
        DataError: no image to learn from, or beliefs or labels that do not fit.
        ConfigError: a network that does not say how wide its features are, or a batch that cannot
            be shared among the processes.
        NumericError: the loss is not finite.
    """
    settings = settings or Classify()
    runtime = runtime or Runtime.start(precision=settings.training.precision)
    _check(source, beliefs, n_classes, rows)
    if isinstance(settings.objective, DivideMix):
        network = twins_of(network, seed + 2, redraw=settings.objective.second == "new")
    model = Prepared(_made(network, n_classes, settings, seed), runtime)
    optimizers = make_optimizers(settings.training.optimizer, model.parts().values())
    average = _average(model, settings, optimizers)
    given = model.bare if average is None else averaged(average)
    predictor = Predictor(
        given.trunk, source, _known(rows, beliefs), settings.clean_norms, views.clean, runtime
    )
    work = Work(
        model, average, views, beliefs, rows, n_classes, settings.training, runtime, seed, source
    )
    phases = settings.objective.phases(work)
    state: dict[str, Kept] = {**model.parts(), **({} if average is None else {"average": average})}
    model.train()
    told = _Told(phases, settings, predictor, test, progress)
    for i, phase in enumerate(phases):
        train(
            phase.step,
            Batches(
                source, phase.sampler,
                device=runtime.device, rank=runtime.rank, n_processes=runtime.n_processes,
            ),
            optimizers, phase.training, runtime=runtime, state={**state, **phase.state},
            folder=None if folder is None else folder / phase.name,
            log=None if log is None else log(phase.name),
            after_epoch=told.after_epoch(i), progress=told.progress(i),
        )  # fmt: skip
    with predictor.unchanged():
        probabilities, trunk = predictor(source, rows).numpy(), predictor.trunk()
    return _trained(network, trunk, given.projection, probabilities)


class _Told:
    """What is told of all phases together: how far they are, and what a test says."""

    def __init__(
        self,
        phases: list[Phase],
        settings: Classify,
        predictor: Predictor,
        test: Test | None,
        progress: Progress | None,
    ) -> None:
        self._phases, self._settings, self._predictor = phases, settings, predictor
        self._test, self._progress = test, progress
        self._epochs = [phase.training.epochs for phase in phases]
        self._batches = [len(phase.sampler) * phase.training.epochs for phase in phases]

    def progress(self, i: int) -> Progress | None:
        """Of phase i to that of all."""
        if self._progress is None:
            return None
        tell, before, total = self._progress, sum(self._batches[:i]), sum(self._batches)
        return lambda done, _: tell(before + done, total)

    def after_epoch(self, i: int) -> Callable[[int, dict[str, float]], None]:
        """Of phase i: its own, then the test."""
        own, every = self._phases[i].after_epoch, self._settings.test_every
        before, epochs = sum(self._epochs[:i]), sum(self._epochs)

        def after_epoch(epoch: int, values: dict[str, float]) -> None:
            done = before + epoch + 1
            due = done == epochs or (every > 0 and done % every == 0)
            with self._predictor.unchanged():
                if own is not None:
                    values.update(own(epoch))
                if due and self._test is not None:
                    values.update(self._test(self._predictor))

        return after_epoch


def _check(source: Source, beliefs: Beliefs, n_classes: int, rows: NDArray[np.int64]) -> None:
    if n_classes < 2:
        raise ConfigError(f"n_classes is {n_classes}; at least 2 are needed to tell apart.")
    if len(beliefs) != len(source):
        raise DataError(
            f"beliefs of {len(beliefs)} images for a source of {len(source)}; expected one each."
        )
    if len(rows) == 0:
        raise DataError("there is no image to learn from. Give some that can be decoded.")
    most = int(beliefs.labels.max(initial=-1))
    if most >= n_classes:
        raise DataError(f"labels run up to {most}; expected less than n_classes={n_classes}.")


def _made(network: nn.Module, n_classes: int, settings: Classify, seed: int) -> NoisyClassifier:
    """The network with new heads, of the precision of its weights."""
    width, projection = width_of(network), None
    dtype = next((weight.dtype for weight in network.parameters()), torch.float32)
    with drawn_from(seed):
        classifier = Classifier(width, n_classes).to(dtype)
    if settings.projection != "none":
        with drawn_from(seed + 1):
            projection = _HEADS[settings.projection](width).to(dtype)
    return NoisyClassifier(network, classifier, projection)


def _average(
    model: Prepared, settings: Classify, optimizers: list[torch.optim.Optimizer]
) -> Average | None:
    if settings.average == 0:
        return None
    average = Average(model.bare, settings.average)
    average.follow(optimizers[-1])
    return average


def _known(rows: NDArray[np.int64], beliefs: Beliefs) -> NDArray[np.int64]:
    """Images whose statistics are taken: foreign ones are none of those to be classified."""
    known = rows[beliefs.verdict[rows] != Verdict.FOREIGN]
    return known if len(known) else rows


def _trained(
    network: nn.Module,
    trunk: Trunk,
    projection: ProjectionHead | None,
    probabilities: NDArray[np.float32],
) -> TrainedClassifier:
    """In evaluation mode, with gradients wanted of what they were wanted of before."""
    for before, after in zip(network.parameters(), trunk.backbone.parameters(), strict=True):
        after.requires_grad_(before.requires_grad)
    for head in (trunk.classifier, projection):
        if head is not None:
            head.requires_grad_(True).eval()
    return TrainedClassifier(trunk.backbone.eval(), trunk.classifier, projection, probabilities)
