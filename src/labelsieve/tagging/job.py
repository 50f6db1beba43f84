"""The stages of a cleaning of tags: features, training, what is said of each pair, scores."""

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

from labelsieve.classifying import Shown, readable_source
from labelsieve.data.augment import Weak
from labelsieve.data.batches import Source
from labelsieve.data.decode import Pixels, decode_images
from labelsieve.data.sources import of_rows
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.load import load_features
from labelsieve.features.rows import Rows
from labelsieve.features.shown import Views, image_views, row_views
from labelsieve.inputs import Inputs, Progress
from labelsieve.logs import EpochLog
from labelsieve.makers import keep_maker
from labelsieve.methods.veit.recipes import tag_recipe
from labelsieve.methods.veit.trained_tagger import TrainedTagger
from labelsieve.methods.veit.training import VeitTraining, train_tagger
from labelsieve.records import Features, ImageSet, Places
from labelsieve.report.tag_metrics import TagScores, score_tags
from labelsieve.representation import FeatureMaker
from labelsieve.run import Run
from labelsieve.runtime import Runtime
from labelsieve.stages import rows_of
from labelsieve.tag_set import TagSet, values_at
from labelsieve.tagging.kept import about_network, about_rows
from labelsieve.tagging.settings import Tag
from labelsieve.trained import PRETEXT, Trained, load_trained

NOISY, BIASES = "noisy", "biases"  # scored beside whatever is trained


@dataclass
class Job:
    """One cleaning of tags."""

    tags: TagSet
    answers: csr_array | None  # (N, C) +1 and -1 of pairs that only score
    inputs: Inputs
    settings: Tag
    run: Run
    progress: Progress
    compare: tuple[str, ...] = ()  # recipes that are trained beside, to be scored
    groups: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

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


class Material(NamedTuple):
    """What a tagger learns from: rows of features, or images."""

    source: Source
    whole: NDArray[np.int64]  # (M,) images that can be read, or have features, as rows of the set
    tags: TagSet  # of the source
    answers: csr_array | None  # of the source
    rows: NDArray[np.int64]  # of the source, that may be learned from
    asked: NDArray[np.int64]  # of the source, whose tags are judged
    backbone: nn.Module
    views: Views
    about: Mapping[str, Any]  # for model.json
    runtime: Runtime
    broken: tuple[str | None, ...]  # (N,) why an image cannot be read


def material_of_rows(job: Job, make: FeatureMaker, trained: Trained | None) -> Material:
    """Rows of features of the images that can be read."""
    features, broken = _features(job, make)
    place = {name: row for row, name in enumerate(job.tags.ids)}
    whole = np.sort(np.array([place[name] for name in features.ids if name in place], np.int64))
    values = rows_of(features, job.images, whole)
    backbone = Rows(values.shape[1]).fit(values)
    about = about_rows(keep_maker(job.run, job.inputs, trained))
    tags, answers = job.tags.take(whole), _taken(job.answers, whole)
    return Material(
        of_rows(values), whole, tags, answers, _learned(len(whole), answers),
        np.arange(len(whole)), backbone, row_views(job.inputs.seed), about, _runtime(job), broken,
    )  # fmt: skip


def material_of_images(job: Job, make: FeatureMaker, given: Trained | None) -> Material:
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
    views = image_views(Weak(start.view_size), None, start.normalization, job.inputs.seed)
    shown = Shown(start.image_size, start.view_size, start.normalization)
    learned = _learned(len(job.tags), job.answers)
    return Material(
        source, usable, job.tags, job.answers, np.intersect1d(usable, learned), usable,
        start.backbone, views, about_network(shown), _runtime(job), tuple(pixels.reasons),
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


def compared(job: Job, material: Material) -> dict[str, TagScores]:
    """Scores of the recipes that are trained beside, and always of the honest control."""
    if material.answers is None:
        return {}
    beside = dict.fromkeys((BIASES, *job.compare))
    names = [name for name in beside if name not in (NOISY, job.inputs.recipe)]
    found = {}
    for name in names:
        trained = train_on(job, material, name, like(tag_recipe(name), job.settings.train))
        found[name] = score_of(job, material, trained)
    return found


def like(recipe: VeitTraining, settings: VeitTraining) -> VeitTraining:
    """A recipe with the budget and the batches of other settings, to be compared with them."""
    return replace(
        recipe,
        updates=settings.updates,
        least_passes=settings.least_passes,
        unverified=settings.unverified,
        verified_share=settings.verified_share,
        backbone_rate=settings.backbone_rate,
        confidences=settings.confidences,
    )


def score_of(
    job: Job,
    material: Material,
    trained: TrainedTagger,
    kept: csr_array | None = None,
    *,
    baseline: bool = False,
) -> TagScores:
    """What a tagger says of the pairs that only score, against what people found.

    Args:
        job: of the cleaning.
        material: what was learned from.
        trained: the tagger.
        kept: (N, C) tags that stay, of the source.
        baseline: of the tagger of the tags as given.
    """
    assert material.answers is not None  # noqa: S101 -- scored only where there are any
    answers = material.answers
    asked = replace(trained, net=trained.baseline) if baseline else trained
    rows = np.flatnonzero(np.diff(answers.indptr))
    said = asked.pair_probabilities(material.source, answers, rows)
    return _scored(job, said, answers, kept)


def _scored(
    job: Job, said: NDArray[np.float32], answers: csr_array, kept: csr_array | None
) -> TagScores:
    known = ~np.isnan(said)
    frequency = np.bincount(job.tags.asserted.indices, minlength=job.tags.n_tags)
    return score_tags(
        said[known], answers.indices[known], answers.data[known] > 0, job.tags.tag_names,
        kept=None if kept is None else values_at(kept, answers)[known] != 0,
        frequency=frequency, groups=job.groups,
    )  # fmt: skip


def score_cleaner(
    job: Job, material: Material, keep: NDArray[np.float32], kept: csr_array
) -> TagScores | None:
    """How well a cleaner ranks asserted pairs that only score; None where there are none.

    Args:
        job: of the cleaning.
        material: what was learned from.
        keep: (P,) probability of each asserted pair of the source, people not considered.
        kept: (N, C) tags that stay, of the source.
    """
    assert material.answers is not None  # noqa: S101
    asserted = material.tags.asserted
    answers = csr_array(material.answers.multiply(asserted != 0))
    answers.sort_indices()
    if not answers.nnz:
        return None
    found = csr_array((keep + 1, asserted.indices, asserted.indptr), shape=asserted.shape)
    return _scored(job, values_at(found, answers) - 1, answers, kept)


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


def check_images(tags: TagSet, inputs: Inputs) -> None:
    """See that features can be made or are given.

    Raises:
        DataError: there are neither images nor features.
    """
    if tags.images is None and inputs.features is None:
        raise DataError(
            f"{tags.source}: names no files of images, and features are made of them. Give their "
            "folder with --images, or features with --features FILE."
        )


def _features(job: Job, make: FeatureMaker) -> tuple[Features, tuple[str | None, ...]]:
    """Features, and why images have none."""
    n = len(job.tags)
    if job.tags.images is None:
        assert job.inputs.features is not None  # noqa: S101 -- `check_images` sees to it
        with job.run.stage("features"):
            found = load_features(Path(job.inputs.features), job.images)
        return found, (None,) * n
    with job.run.stage("decode"):
        pixels: Pixels = decode_images(
            job.images, job.settings.dictionary.image_size,
            path=job.run.checkpoint / "pixels.npy", progress=job.tell("decode"),
        )  # fmt: skip
    with job.run.stage("features"):
        found = job.run.cached(
            job.run.path / "features.npy",
            lambda: make(job.images, pixels, job.run, job.progress),
            Features.save,
            Features.load,
        )
    return found, tuple(pixels.reasons)


def _learned(n: int, answers: csr_array | None) -> NDArray[np.int64]:
    """Images to learn from: none that is scored."""
    if answers is None:
        return np.arange(n)
    return np.flatnonzero(np.diff(answers.indptr) == 0)


def _taken(matrix: csr_array | None, rows: NDArray[np.int64]) -> csr_array | None:
    return None if matrix is None else csr_array(matrix[rows])


def _runtime(job: Job) -> Runtime:
    return Runtime.alone(job.inputs.device, job.settings.train.training.precision)


def in_set(tags: TagSet, material: Material, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P,) of all asserted pairs, from those of the source; NaN of images without a row there."""
    if len(values) == tags.asserted.nnz:
        return values
    there = np.zeros(len(tags), bool)
    there[material.whole] = True
    found = np.full(tags.asserted.nnz, np.nan, np.float32)
    found[np.repeat(there, np.diff(tags.asserted.indptr))] = values
    return found
