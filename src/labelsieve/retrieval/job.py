"""The stages of a retrieval training: what is learned from, the training, suspects, the test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from labelsieve.auditing.assemble import assemble, with_contradictions
from labelsieve.data.batches import Source
from labelsieve.data.decode import Pixels, confirmed_hashes, decode_images
from labelsieve.data.held_out import Gallery
from labelsieve.data.sources import of_rows
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.backbones import load_timm, network
from labelsieve.features.pooling import pooled_by
from labelsieve.features.rows import Rows
from labelsieve.features.shown import Views, image_views, row_views
from labelsieve.features.timm_nets import trainable
from labelsieve.features.weights import drawn_from
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.prism.detect import detect_prism
from labelsieve.methods.prism.embedding import Embeds, Test, TrainedEmbedding, train_embedding
from labelsieve.methods.prism.recipes import Retriever
from labelsieve.methods.prism.two_stage import second_stage
from labelsieve.neighbors.duplicates import exact_duplicates, near_duplicates
from labelsieve.records import Features, Findings, ImageSet
from labelsieve.report.retrieval_metrics import score_retrieval
from labelsieve.retrieval.kept import about_network, about_rows, embedded
from labelsieve.retrieval.settings import Retrieve
from labelsieve.run import Beside, Run
from labelsieve.stages.inputs import Inputs, Progress
from labelsieve.stages.makers import check_width, keep_maker, rows_of_new
from labelsieve.stages.new_images import Shown, readable_source
from labelsieve.stages.representation import FeatureMaker
from labelsieve.stages.sources import neighbors_of, rows_of
from labelsieve.stages.trained import (
    PRETEXT,
    Trained,
    in_training_format,
    load_trained,
    of_backbone,
)

TRAIN, SECOND = "train", "second"  # phases, as logged
SECOND_VIEWS = 1000  # added to the seed: what is shown in the second training is drawn anew
REMEDIES = {  # of embeddings that hardly tell the classes they were trained on
    "features": "Better features would tell (--pretrain, --backbone).",
    "images": "More updates (--set embed.updates=N) or a larger network (--model) would tell.",
}
N_NEIGHBORS = 10  # of each training image, to show, and to look for copies among


@dataclass
class Job:
    """One retrieval training."""

    images: ImageSet
    test: Gallery | None  # with classes of its own
    inputs: Inputs
    settings: Retrieve
    run: Run
    progress: Progress
    test_features: Features | None = None  # of test images, where they are in memory
    warnings: list[str] = field(default_factory=list)

    def tell(self, stage: str) -> Callable[[int, int], None]:
        """Progress of a stage."""
        return partial(self.progress, stage)

    def log(self, phase: str) -> EpochLog:
        """Of a phase, in the run's log.jsonl."""
        wanted = self.settings.embed.training.tensorboard
        return EpochLog(
            self.run.path / "log.jsonl", phase, self.run.path / "tensorboard" if wanted else None
        )

    @property
    def rows_of_test(self) -> str | Features | None:
        """Features of the user's own, of test images: in memory, or a file."""
        return self.inputs.test_features if self.test_features is None else self.test_features

    def runtime(self) -> Runtime:
        """Where the training runs."""
        return Runtime.start(self.inputs.device, self.settings.embed.training.precision)


class Material(NamedTuple):
    """What an embedder learns from: images or rows of features, and how they are shown."""

    source: Source
    rows: NDArray[np.int64]  # (M,) of the source, that can be read
    labels: NDArray[np.int64]  # of the source, -1 none
    network: nn.Module
    views_of: Callable[[int], Views]  # of a seed
    about: Mapping[str, Any]  # for model.json
    runtime: Runtime
    whole: NDArray[np.int64]  # (M,) the same images, as rows of the image set


def decoded(job: Job) -> Pixels:
    """All images at the size of the dictionary: features, and what shows which are copies."""
    with job.run.stage("decode"):
        return decode_images(
            job.images, job.settings.dictionary.image_size,
            path=job.run.checkpoint / "pixels.npy", progress=job.tell("decode"),
        )  # fmt: skip


def given_network(inputs: Inputs, settings: Retrieve) -> Trained | None:
    """The network that the user named, if any; that there is one to begin with is seen to.

    Raises:
        ConfigError: training is to begin with a network, and none says which; or what was given
            would change nothing.
    """
    _check_use(inputs, settings)
    given = None
    if inputs.network is not None:
        given = _named_network(Path(inputs.network), settings)
    if settings.rows == "features" or settings.start == "scratch":
        return given
    if given is None and inputs.backbone is None and settings.pretrain is None:
        raise ConfigError(
            "start is 'pretrained', and there is no network to begin with. Add --network PATH, "
            "--backbone timm:NAME or --pretrain RECIPE, or set start=scratch."
        )
    return given


def _check_use(inputs: Inputs, settings: Retrieve) -> None:
    """Refuse features and networks that the training would not look at.

    Raises:
        ConfigError: names the option.
    """
    if settings.rows == "features":
        return
    if inputs.features is not None:
        raise ConfigError(
            f"--features {inputs.features}: a network looks at the images itself. Leave it out, or "
            "train a layer on the features: --model features."
        )
    given = {
        "--network": inputs.network, "--backbone": inputs.backbone, "--pretrain": inputs.pretrain
    }  # fmt: skip
    for option, name in given.items():
        if settings.start == "scratch" and name is not None:
            raise ConfigError(
                f"{option} {name}: this model begins with new weights. Leave it out, or take "
                "--model finetune, which begins with what is given."
            )


def _named_network(path: Path, settings: Retrieve) -> Trained:
    """A network that was trained before; a file of weights is of the model's own network."""
    if settings.rows == "features" or settings.network is None or not path.is_file():
        return load_trained(path, settings.pretrain)
    module = in_training_format(network(settings.network, weights=path))
    normalization = settings.normalized(module)
    size = settings.view_size
    return Trained(module, None, settings.image_size, size, normalization, "network", None)


def start_of(job: Job, make: FeatureMaker, given: Trained | None) -> Trained | None:
    """What training a network begins with; None for new weights."""
    if job.settings.start == "scratch":
        return None
    if given is not None:
        return given
    if job.inputs.backbone is not None:
        backbone = load_timm(job.inputs.backbone, job.inputs.weights)
        return of_backbone(trainable(backbone, job.inputs.backbone))
    if not (job.run.path / PRETEXT).is_dir() and not isinstance(job.run, Beside):
        _features(job, make, decoded(job))
    return load_trained(job.run.path / PRETEXT)


def _features(job: Job, make: FeatureMaker, pixels: Pixels) -> Features:
    with job.run.stage("features"):
        return job.run.cached(
            job.run.path / "features.npy",
            lambda: make(job.images, pixels, job.run, job.progress),
            Features.save,
            Features.load,
        )


def material_of_rows(job: Job, make: FeatureMaker, trained: Trained | None) -> Material:
    """Rows of features of the images that can be read."""
    pixels = decoded(job)
    features = _features(job, make, pixels)
    whole = np.flatnonzero(pixels.usable)
    values, runtime = rows_of(features, job.images, whole), job.runtime()
    with drawn_from(job.inputs.seed):
        module = Rows(values.shape[1], job.settings.n_hidden, job.settings.turned).fit(values)
    noise = job.settings.noise * float(module.spread)
    return Material(
        of_rows(values), np.arange(len(whole)), np.asarray(job.images.labels)[whole], module,
        partial(row_views, noise=noise),
        about_rows(keep_maker(job.run, job.inputs, trained)), runtime, whole,
    )  # fmt: skip


def material_of_images(job: Job, start: Trained | None) -> Material:
    """The images themselves, at the size that the network takes."""
    settings: Retriever = job.settings
    seed = job.inputs.seed
    if start is not None:
        settings = settings.fitted_to(start.image_size, start.view_size)
    with job.run.stage("images"):
        folder = made(job.run.checkpoint / "images")
        pixels, source = readable_source(job.images, settings.image_size, folder, job.progress)
    rows = np.flatnonzero(pixels.usable)
    if start is not None:
        module, normalization = start.backbone, start.normalization
    else:
        module = network(
            str(settings.network), pixels=pixels.values, rows=rows, size=settings.view_size,
            seed=seed,
        )  # fmt: skip
        normalization = settings.normalized(module)
    shown = Shown(settings.image_size, settings.view_size, normalization)
    return Material(
        source, rows, np.asarray(job.images.labels), pooled_by(module, settings.pooling),
        partial(image_views, settings.embed.weak, settings.embed.crops, normalization),
        about_network(shown), job.runtime(), rows,
    )  # fmt: skip


def trained_on(job: Job, material: Material, test: Test | None) -> TrainedEmbedding:
    """Train on all labels, filtered as the settings say; of several processes all do."""
    settings = job.settings.for_images(len(material.rows))
    with job.run.stage(TRAIN):
        return train_embedding(
            material.source, material.network, material.labels, len(job.images.class_names),
            settings.embed, rows=material.rows, views=material.views_of(job.inputs.seed), test=test,
            seed=job.inputs.seed, runtime=material.runtime, log=job.log(TRAIN),
            folder=made(job.run.checkpoint / TRAIN), progress=job.tell(TRAIN),
        )  # fmt: skip


def trained_again(
    job: Job, material: Material, first: TrainedEmbedding, test: Test | None
) -> TrainedEmbedding:
    """Train anew on what the first embedding says is rightly labeled."""
    settings, seed = job.settings.for_images(len(material.rows)), job.inputs.seed
    with job.run.stage(SECOND):
        found = second_stage(
            material.source, material.network, first, material.labels, len(job.images.class_names),
            settings.embed, settings.second, rows=material.rows,
            views=material.views_of(seed + SECOND_VIEWS), test=test,
            seed=seed, runtime=material.runtime, log=job.log(SECOND),
            folder=made(job.run.checkpoint / SECOND), progress=job.tell(SECOND),
        )  # fmt: skip
    if not isinstance(job.run, Beside):  # which has no run.json
        counts = {"n_images": len(found.rows), "n_kept": len(found.kept)}
        job.run.note(second_stage=counts | {"noise_rate": found.scores.noise_rate})
    return found.trained


def suspects(job: Job, material: Material, values: NDArray[np.float32]) -> Findings:
    """What the trained embedding says of the label of each training image.

    Args:
        job: of the training.
        material: what was learned from.
        values: (M, D) embeddings of its rows.
    """
    images, settings, whole = job.images, job.settings, material.whole
    neighbors = neighbors_of(
        values, min(N_NEIGHBORS, len(values) - 1), seed=job.inputs.seed, run=job.run,
        progress=job.progress,
    )  # fmt: skip
    labels = np.asarray(images.labels)[whole]
    detection = detect_prism(
        values, labels, images.class_names, settings.suspects,
        seed=job.inputs.seed, progress=job.tell("suspects"), remedy=REMEDIES[settings.rows],
    )  # fmt: skip
    pixels = decoded(job)
    with job.run.stage("duplicates"):
        exact = exact_duplicates(confirmed_hashes(images, pixels)[whole])
        repeats = near_duplicates(pixels.values, neighbors, exact, settings.duplicates, whole)
    detection = with_contradictions(detection, exact, labels, [images.ids[row] for row in whole])
    findings = assemble(images, whole, pixels.reasons, detection, neighbors, repeats)
    return replace(findings, warnings=(*job.warnings, *findings.warnings))


def test_of(job: Job, material: Material) -> Test | None:
    """What the log says of the test images while the embedding learns; None: nothing.

    Raises:
        DataError: fewer than two of them can be read.
    """
    if job.test is None:
        return None
    images, labels = job.test
    if isinstance(material.network, Rows):
        with scratch(job) as folder:
            found = rows_of_new(
                job.run.path, material.about["features"], images, job.rows_of_test,
                device=job.inputs.device, run=folder, progress=job.progress,
            )  # fmt: skip
        check_width(found, material.network.settings.n_in, job.run.path)
        place = {name: row for row, name in enumerate(images.ids)}
        labels, source = labels[[place[name] for name in found.ids]], of_rows(found.values)
        rows = np.arange(len(labels))
    else:
        size = int(material.about["image_size"])
        with nullcontext() if isinstance(job.run, Beside) else scratch(job):
            folder_of_pixels = job.run.checkpoint / "test" / "checkpoint"
            pixels, source = readable_source(images, size, folder_of_pixels, job.progress)
        rows = np.flatnonzero(pixels.usable)
        labels = labels[rows]
    if len(rows) < 2:
        raise DataError(
            f"--test {job.inputs.test}: of {len(images)} images {len(rows)} can be read; expected "
            "at least two, for one to be found by the other. Look whether their files are whole."
        )

    def test(embeds: Embeds) -> dict[str, float]:
        found = score_retrieval(embeds(source, rows), labels)
        named = (("precision_at_1", found.precision_at_1), ("map_at_r", found.map_at_r))
        return {f"test_{name}": value for name, value in named if value is not None}

    return test


def rows_of_test_set(job: Job) -> Features:
    """What the model that was kept makes of the test images."""
    assert job.test is not None  # noqa: S101 -- asked only where there are any
    with job.run.stage("test"), scratch(job) as folder:
        return embedded(
            job.run.path, job.test.images, features=job.rows_of_test, device=job.inputs.device,
            run=folder, progress=job.progress,
        )  # fmt: skip


def scratch(job: Job) -> Run:
    """A folder like a run's for what is decoded of test images."""
    return Run.open(job.run.checkpoint / "test", "predict", {}, resume=True)


def made(folder: Path) -> Path:
    """The folder, made where it is missing."""
    folder.mkdir(exist_ok=True)
    return folder
