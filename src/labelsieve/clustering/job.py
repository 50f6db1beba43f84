"""What the phases of a clustering share: the images, the run's folder, and what was said so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.decode import Pixels
from labelsieve.data.sources import Source
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import Training
from labelsieve.methods.scan.recipes import Cluster
from labelsieve.records import ImageSet, Neighbors
from labelsieve.records.clusters import Clusters, Part
from labelsieve.report.cluster_scores import ClusterScores, score_parts
from labelsieve.run import Run
from labelsieve.stages.inputs import Inputs, Progress
from labelsieve.stages.sources import fitting_pixels, image_source

Scored = dict[str, dict[str, ClusterScores]]  # phase -> part -> scores


@dataclass(frozen=True)
class Split:
    """The images that can be read, and what each is to the training."""

    whole: NDArray[np.int64]  # (M,) rows of the set
    train: NDArray[np.int64]  # places in `whole` of those to learn from
    valid: NDArray[np.int64]  # and of those to choose by

    def parts(self, n_images: int) -> NDArray[np.int8]:
        """(N,) the Part of each image of the set."""
        parts = np.full(n_images, Part.BROKEN, np.int8)
        parts[self.whole[self.train]] = Part.TRAIN
        parts[self.whole[self.valid]] = Part.VALID
        return parts


@dataclass(frozen=True)
class Rows:
    """Features of the images that can be read, and the neighbors of each within its part."""

    split: Split
    values: NDArray[np.float32]  # (M, D)
    neighbors: Neighbors  # of those to learn from, among them
    valid_neighbors: Neighbors


@dataclass
class Job:
    """One clustering."""

    images: ImageSet
    held_out: NDArray[np.bool_] | None  # (N,) images that the user gave to choose by
    inputs: Inputs
    settings: Cluster
    run: Run
    progress: Progress
    warnings: list[str] = field(default_factory=list)
    scores: Scored = field(default_factory=dict)  # empty where no class is known of any image

    @property
    def learn(self) -> NDArray[np.bool_] | None:
        """(N,) what features may be learned from: all but those that the user gave to choose by."""
        return None if self.held_out is None else ~self.held_out

    @cached_property
    def truth(self) -> Sequence[str | None] | None:
        """The class of each image, if the set says any: its truth, else its labels."""
        if self.images.truth is not None:
            return self.images.truth
        if self.images.labels is None or (self.images.labels < 0).all():
            return None
        names = (*self.images.class_names, None)
        return [names[label] for label in self.images.labels.tolist()]

    def score(self, phase: str, split: Split, found: Clusters) -> None:
        """Hold what a phase found of the readable images against their classes, where known."""
        if self.truth is not None:
            self.scores[phase] = score_parts(found, [self.truth[row] for row in split.whole])

    def done(self, phase: str, split: Split, found: Clusters, warnings: Sequence[str]) -> None:
        """Score a training, and keep what it warns of."""
        self.warnings += [f"{phase}: {sentence}" for sentence in warnings]
        self.score(phase, split, found)

    def tell(self, stage: str) -> partial[None]:
        """Progress of a stage."""
        return partial(self.progress, stage)

    def source(self, pixels: Pixels, size: int) -> Source:
        """Where a network takes images of a size from."""
        folder = self.run.checkpoint
        fitting = fitting_pixels(self.images, pixels, size, folder, self.progress)
        return image_source(self.images, fitting, size, folder, self.progress)

    def runtime(self, training: Training) -> Runtime:
        """Where a training runs."""
        return Runtime.start(self.inputs.device, training.precision)

    def folder(self, phase: str) -> Path:
        """Of a phase's checkpoint."""
        folder = self.run.checkpoint / phase
        folder.mkdir(exist_ok=True)
        return folder

    def log(self, phase: str, training: Training) -> EpochLog:
        """Of a phase, in the run's log.jsonl."""
        events = self.run.path / "tensorboard" if training.tensorboard else None
        return EpochLog(self.run.path / "log.jsonl", phase, events)
