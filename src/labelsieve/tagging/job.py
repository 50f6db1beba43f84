"""The stages of a cleaning of tags up to the trained tagger: features or images, training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import nn

from labelsieve.data.augment import Weak
from labelsieve.data.batches import Source
from labelsieve.data.decode import decode_images
from labelsieve.data.sources import of_rows
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.load import load_features
from labelsieve.features.rows import Rows
from labelsieve.features.shown import Views, image_views, row_views
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.veit.trained_tagger import TrainedTagger
from labelsieve.methods.veit.training import VeitTraining, train_tagger
from labelsieve.records import Features, ImageSet, Places
from labelsieve.records.tag_set import TagSet
from labelsieve.run import Run
from labelsieve.stages.inputs import Inputs, Progress
from labelsieve.stages.makers import keep_maker
from labelsieve.stages.new_images import Shown, readable_source
from labelsieve.stages.representation import FeatureMaker, feature_maker
from labelsieve.stages.sources import rows_of
from labelsieve.stages.trained import PRETEXT, Trained, load_trained
from labelsieve.tagging.kept import about_network, about_rows
from labelsieve.tagging.settings import Tag, Wanted

FEATURES = "features.npy"  # of a run
_FEW = 20  # images that can be read, below which nothing is learned


@dataclass
class Job:
    """One cleaning of tags."""

    tags: TagSet
    answers: csr_array | None  # (N, C) +1 and -1 of pairs that only score
    inputs: Inputs
    settings: Tag
    run: Run
    progress: Progress
    wanted: Wanted = field(default_factory=Wanted)
    groups: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    features: Features | None = None  # of the user's own, where they are in memory

    def tell(self, stage: str) -> Callable[[int, int], None]:
        """Progress of a stage."""
        return partial(self.progress, stage)

    def log(self, recipe: str) -> Callable[[str], EpochLog]:
        """Makes the log of a phase; phases of recipes that are only compared bear their name."""
        first = recipe == self.inputs.recipe

        def of(phase: str) -> EpochLog:
            name = phase if first else f"{recipe}: {phase}"
            return EpochLog(self.run.path / "log.jsonl", name, None)

        return of

    @property
    def images(self) -> ImageSet:
        """The images of the tags; without files of them, their names alone."""
        if self.tags.images is not None:
            return self.tags.images
        n = len(self.tags)
        nowhere = Places("file", (), np.zeros(n, np.int32), np.zeros(n, np.int64),
                         np.zeros(n, np.int64))  # fmt: skip
        return ImageSet(self.tags.source, self.tags.ids, nowhere)

    @property
    def only_scores(self) -> NDArray[np.bool_]:
        """(N,) the images of which nothing is learned."""
        if self.answers is None:
            return np.zeros(len(self.tags), np.bool_)
        scores: NDArray[np.bool_] = np.diff(self.answers.indptr) > 0
        return scores


class Material(NamedTuple):
    """What a tagger learns from: rows of features, or images."""

    source: Source
    whole: NDArray[np.int64]  # (M,) rows of the set that the rows of the source are
    tags: TagSet  # of the source
    answers: csr_array | None  # of the source
    rows: NDArray[np.int64]  # of the source, that may be learned from
    asked: NDArray[np.int64]  # of the source, whose tags are judged: all that can be read
    backbone: nn.Module
    views: Views
    about: Mapping[str, Any]  # for model.json
    runtime: Runtime

    def in_set(self, tags: TagSet, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(P,) of all asserted pairs of the set, from those of the source; NaN of the others."""
        if len(values) == tags.asserted.nnz:
            return values
        there = np.zeros(len(tags), np.bool_)
        there[self.whole] = True
        found = np.full(tags.asserted.nnz, np.nan, np.float32)
        found[np.repeat(there, np.diff(tags.asserted.indptr))] = values
        return found


def material_of_rows(job: Job, make: FeatureMaker | None, trained: Trained | None) -> Material:
    """Rows of features of the images that can be read."""
    features = _features(job, make)
    place = {name: row for row, name in enumerate(job.tags.ids)}
    whole = np.sort(np.array([place[name] for name in features.ids if name in place], np.int64))
    check_enough(job.tags, len(whole))
    values = rows_of(features, job.images, whole)
    backbone = Rows(values.shape[1]).fit(values)
    about = about_rows(keep_maker(job.run, job.inputs, trained))
    answers = None if job.answers is None else csr_array(job.answers[whole])
    return Material(
        of_rows(values), whole, job.tags.take(whole), answers,
        np.flatnonzero(~job.only_scores[whole]), np.arange(len(whole)), backbone,
        row_views(job.inputs.seed), about, _runtime(job),
    )  # fmt: skip


def material_of_images(job: Job, make: FeatureMaker | None, given: Trained | None) -> Material:
    """The images themselves, at the size of the network that learns along."""
    start = given
    if start is None:
        if not (job.run.path / PRETEXT).is_dir():
            _features(job, make)
        start = load_trained(job.run.path / PRETEXT)
    with job.run.stage("images"):
        folder = job.run.checkpoint / "images"
        folder.mkdir(exist_ok=True)
        pixels, source = readable_source(job.images, start.image_size, folder, job.progress)
    usable = np.flatnonzero(pixels.usable)
    check_enough(job.tags, len(usable))
    views = image_views(Weak(start.view_size), None, start.normalization, job.inputs.seed)
    shown = Shown(start.image_size, start.view_size, start.normalization)
    return Material(
        source, np.arange(len(job.tags)), job.tags, job.answers,
        np.flatnonzero(pixels.usable & ~job.only_scores), usable, start.backbone, views,
        about_network(shown), _runtime(job),
    )  # fmt: skip


def train_on(job: Job, material: Material, recipe: str, settings: VeitTraining) -> TrainedTagger:
    """Train by a recipe."""
    folder = job.run.checkpoint / f"train-{recipe}"
    folder.mkdir(exist_ok=True)
    with job.run.stage("train" if recipe == job.inputs.recipe else f"train {recipe}"):
        return train_tagger(
            material.source, material.tags, settings,
            rows=material.rows, asked=material.asked, backbone=material.backbone,
            views=material.views, seed=job.inputs.seed, runtime=material.runtime, folder=folder,
            log=job.log(recipe), progress=job.tell(f"train {recipe}"),
        )  # fmt: skip


def given_network(inputs: Inputs, settings: Tag) -> Trained | None:
    """The network that the user named, if any; that there is one to learn is seen to.

    Raises:
        ConfigError: the backbone is to learn, and none is named.
    """
    given = None
    if inputs.network is not None:
        given = load_trained(inputs.network, settings.pretrain)
    if settings.learn_backbone and given is None and settings.pretrain is None:
        raise ConfigError(
            "learn_backbone is set, and there is no network to learn along. Add --network PATH or "
            "--pretrain RECIPE, or leave the features as they are: learn_backbone=false."
        )
    return given


def maker_of(tags: TagSet, inputs: Inputs, settings: Tag) -> FeatureMaker:
    """What makes features, or the network to learn along where --pretrain names one.

    Raises:
        ConfigError: no such device, backbone or network.
        DataError: there are neither images nor features, or no such file of them.
    """
    if tags.images is None and inputs.features is None:
        raise DataError(
            f"{tags.source}: names no files of images, and features are made of them. Give their "
            "folder with --images, or features with --features FILE."
        )
    if settings.learn_backbone:
        inputs = replace(inputs, network=None)
    return feature_maker(inputs, settings.dictionary, settings.pretrain, folder=PRETEXT)


def check_enough(tags: TagSet, n_readable: int) -> None:
    """Refuse to learn of hardly any image.

    Raises:
        DataError: there are too few.
    """
    if n_readable < _FEW:
        raise DataError(
            f"{tags.source}: {n_readable:,} of {len(tags):,} images can be read; expected {_FEW} "
            "or more to learn tags from. Give more images, or see why these cannot be read: "
            "labelsieve audit."
        )


def _features(job: Job, make: FeatureMaker | None) -> Features:
    """One row for each image that can be read."""
    if job.features is not None:
        return job.features
    assert make is not None  # noqa: S101 -- it is where features are not in memory
    if job.tags.images is None:
        assert job.inputs.features is not None  # noqa: S101 -- `maker_of` sees to it
        with job.run.stage("features"):
            return load_features(Path(job.inputs.features), job.images)
    kept = job.run.path / FEATURES
    if kept.exists():  # of an attempt before, or of the round before
        return Features.load(kept)
    with job.run.stage("decode"):
        pixels = decode_images(
            job.images, job.settings.dictionary.image_size,
            path=job.run.checkpoint / "pixels.npy", progress=job.tell("decode"),
        )  # fmt: skip
    with job.run.stage("features"):
        made = make(job.images, pixels, job.run, job.progress)
        made.save(kept)
    return Features.load(kept)


def _runtime(job: Job) -> Runtime:
    return Runtime.alone(job.inputs.device, job.settings.train.training.precision)
