"""The stages of a training: an audit, a classifier, what it says of the labels, and its test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from labelsieve.auditing.audit import audit_stages
from labelsieve.data.batches import Source
from labelsieve.data.copies import copies_in
from labelsieve.data.decisions import Decisions, no_decisions
from labelsieve.data.decode import Pixels, decode_images
from labelsieve.data.held_out import HeldOut
from labelsieve.data.sources import of_rows
from labelsieve.errors import ConfigError
from labelsieve.features.backbones import check_name, load_timm, network
from labelsieve.features.rows import Rows
from labelsieve.features.shown import Views, image_views, row_views
from labelsieve.features.timm_nets import trainable
from labelsieve.features.weights import drawn_from
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.classify import Test, TrainedClassifier, train_classifier
from labelsieve.methods.sncf.plain_training import Plain
from labelsieve.methods.sncf.predictor import Predictor
from labelsieve.records import Features, Findings, ImageSet, Verdict
from labelsieve.records.predictions import Predictions
from labelsieve.run import Beside, Run, read_run
from labelsieve.stages.inputs import Inputs, Progress
from labelsieve.stages.makers import check_width, keep_maker, keep_maker_of, rows_of_new
from labelsieve.stages.new_images import Shown, readable_source
from labelsieve.stages.representation import FeatureMaker
from labelsieve.stages.sources import rows_of
from labelsieve.stages.trained import PRETEXT, Trained, load_trained, of_backbone
from labelsieve.training.classifying import about_network, about_rows, classify
from labelsieve.training.evidence import findings_of, origin_of
from labelsieve.training.settings import Train

Maker = Mapping[str, Any]  # what makes the rows of new images, as model.json has it


@dataclass
class Job:
    """One training."""

    images: ImageSet
    held_out: HeldOut | None
    inputs: Inputs
    settings: Train
    run: Run
    progress: Progress
    decisions: Decisions = field(default_factory=no_decisions)
    findings: Findings | None = None  # of an audit, where they are given and not made
    test_features: Features | None = None  # of test images, where they are in memory

    def tell(self, stage: str) -> Callable[[int, int], None]:
        """Progress of a stage."""
        return partial(self.progress, stage)

    def log(self, phase: str) -> EpochLog:
        """Of a phase, in the run's log.jsonl."""
        wanted = self.settings.classify.training.tensorboard
        return EpochLog(
            self.run.path / "log.jsonl", phase, self.run.path / "tensorboard" if wanted else None
        )

    @property
    def rows_of_test(self) -> str | Features | None:
        """Features of the user's own, of test images: in memory, or a file."""
        return self.inputs.test_features if self.test_features is None else self.test_features

    def runtime(self) -> Runtime:
        """Where the training runs."""
        return Runtime.start(self.inputs.device, self.settings.classify.training.precision)


class Audited(NamedTuple):
    """What an audit said, here or before."""

    findings: Findings
    features: Features | None  # None where no classifier of features is trained
    maker: Maker


class Material(NamedTuple):
    """What a classifier learns from: images or rows of features, and how they are shown."""

    source: Source
    rows: NDArray[np.int64]  # (M,) of the source, that may be learned from
    network: nn.Module
    beliefs: Beliefs  # of the source
    views: Views
    about: Mapping[str, Any]  # for model.json
    runtime: Runtime
    whole: NDArray[np.int64]  # (M,) the same images, as rows of the image set


def audited(job: Job, make: FeatureMaker, trained: Trained | None) -> Audited:
    """Audit the images, or take what an audit said of them before.

    Args:
        job: of the training.
        make: of features, where no audit has left any.
        trained: the network that makes them, if one was given.
    """
    run, inputs = job.run, job.inputs
    kept, features = run.path / "audit.parquet", None
    maker: Maker = {}
    if inputs.audited is not None:
        audit = Path(inputs.audited)
        findings = findings_of(audit, job.images)
        begins = job.settings.start == "pretrained" and trained is None
        if job.settings.rows == "features" or begins:
            audit = origin_of(audit)
            maker = keep_maker_of(audit, read_run(audit), run)
        if job.settings.rows == "features":
            features = Features.load(audit / "features.npy")
    elif kept.is_file():
        findings, features = Findings.load(kept), Features.load(run.path / "features.npy")
    elif job.findings is None:
        findings, features = audit_stages(
            job.images, inputs, job.settings.audit, make, run, job.progress
        )
    else:
        findings = job.findings
        if job.settings.rows == "features":
            features = features_alone(job, make)
    if not kept.is_file():
        findings.write(kept)
    if inputs.audited is None:
        maker = keep_maker(run, inputs, trained)
    return Audited(findings, features, maker)


def given_network(inputs: Inputs, settings: Train) -> Trained | None:
    """The network that the user named, if any; that there is one to begin with is seen to.

    Raises:
        ConfigError: training is to begin with a network, and none says which.
    """
    given = None
    if inputs.network is not None:
        given = load_trained(inputs.network, settings.audit.pretrain)
    named = "--network" if given else "--backbone" if inputs.backbone else None
    if inputs.audited is not None and settings.rows == "features" and named:
        raise ConfigError(
            f"{named}: the features are those of the audit in {inputs.audited}. Leave it out, or "
            "train the network itself with --model finetune."
        )
    begins = settings.rows == "images" and settings.start == "pretrained"
    if settings.rows == "images" and not begins and settings.network is None:
        raise ConfigError("start is 'scratch', and no network is named. Set network=NAME.")
    if settings.rows == "images" and not begins:
        check_name(str(settings.network))
    others = (settings.audit.pretrain, inputs.audited, inputs.backbone)
    elsewhere = any(each is not None for each in others)
    if begins and given is None and not elsewhere:
        raise ConfigError(
            "start is 'pretrained', and there is no network to begin with. Add --network PATH, "
            "--backbone timm:NAME or --pretrain RECIPE, or set start=scratch."
        )
    return given


def start_of(job: Job, given: Trained | None) -> Trained | None:
    """What training a network begins with; None for new weights.

    Raises:
        ConfigError: the audit that is trained on has no network.
    """
    if job.settings.start == "scratch":
        return None
    if given is not None:
        return given
    if job.inputs.backbone is not None:
        backbone = load_timm(job.inputs.backbone, job.inputs.weights)
        return of_backbone(trainable(backbone, job.inputs.backbone))
    if (job.run.path / PRETEXT).is_dir():
        return load_trained(job.run.path / PRETEXT)
    raise ConfigError(
        f"start is 'pretrained', and {job.inputs.audited} has no network to begin with. Add "
        "--network PATH, or set start=scratch."
    )


def features_alone(job: Job, make: FeatureMaker) -> Features:
    """Features where the findings are given."""
    job.run.checkpoint.mkdir(exist_ok=True)
    pixels = decode_images(
        job.images, job.settings.audit.dictionary.image_size,
        path=job.run.checkpoint / "pixels.npy", progress=job.tell("decode"),
    )  # fmt: skip
    return make(job.images, pixels, job.run, job.progress)


def material_of_rows(job: Job, audited: Audited, beliefs: Beliefs) -> Material:
    """Rows of features of the images that can be read."""
    assert audited.features is not None  # noqa: S101 -- `audited` sees to it
    whole = np.flatnonzero(audited.findings.verdict != Verdict.BROKEN)
    values, runtime = rows_of(audited.features, job.images, whole), job.runtime()
    with drawn_from(job.inputs.seed):
        module = Rows(values.shape[1], job.settings.n_hidden).fit(values)
    return Material(
        of_rows(values), np.arange(len(whole)), module, taken(beliefs, whole),
        row_views(job.inputs.seed, job.settings.noise * float(module.spread)),
        about_rows(audited.maker), runtime, whole,
    )  # fmt: skip


def material_of_images(
    job: Job, audited: Audited, beliefs: Beliefs, start: Trained | None
) -> Material:
    """The images themselves, at the size that the network takes."""
    settings, seed = job.settings, job.inputs.seed
    if start is not None:
        settings = settings.fitted_to(start.image_size, start.view_size)
    classify, size = settings.classify, settings.image_size
    with job.run.stage("images"):
        folder = _made(job.run.checkpoint / "images")
        pixels, source = readable_source(job.images, size, folder, job.progress)
    rows = np.flatnonzero(pixels.usable & (audited.findings.verdict != Verdict.BROKEN))
    if start is not None:
        module, normalization = start.backbone, start.normalization
    else:
        assert settings.network is not None  # noqa: S101 -- `given_network` sees to it
        module = network(settings.network, pixels=pixels.values, rows=rows, seed=seed)
        normalization = settings.normalized(module)
    strong = None if classify.projection == "none" else classify.strong
    shown = Shown(size, classify.weak.size, normalization)
    return Material(
        source, rows, module, beliefs, image_views(classify.weak, strong, normalization, seed),
        about_network(shown), job.runtime(), rows,
    )  # fmt: skip


def trained_on(job: Job, material: Material, test: Test | None) -> TrainedClassifier:
    """Train, or go on with it; of several processes all do.

    Args:
        job: of the training.
        material: what is learned from.
        test: of `test_of`.
    """
    objective, rows = job.settings.classify.objective, material.rows
    if isinstance(objective, Plain):  # of clean images alone there are fewer batches an epoch
        rows = objective.taught(material.beliefs, rows)
    settings = job.settings.for_images(len(rows))
    with job.run.stage("train"):
        return train_classifier(
            material.source, material.network, material.beliefs, len(job.images.class_names),
            settings.classify, rows=material.rows, views=material.views, test=test,
            seed=job.inputs.seed, runtime=material.runtime, log=job.log,
            folder=_made(job.run.checkpoint / "train"), progress=job.tell("train"),
        )  # fmt: skip


def tested(job: Job) -> tuple[Predictions, NDArray[np.float32], NDArray[np.int64]] | None:
    """What the model that was kept says of the test images.

    Returns:
        all predictions; the probabilities of the images that can be read; their labels, -1 none.
    """
    if job.held_out is None:
        return None
    images, labels = job.held_out
    with job.run.stage("test"), _scratch(job) as scratch:
        said = classify(
            job.run.path, images, features=job.rows_of_test, device=job.inputs.device,
            run=scratch, progress=job.progress,
        )  # fmt: skip
    predictions = Predictions.of_probabilities(
        images.ids, said.rows, said.probabilities, said.class_names
    )
    return predictions, said.probabilities, labels[said.rows]


def copies_warning(job: Job) -> list[str]:
    """Says so where test images have the pixels of training images; needs both at one size."""
    assert job.held_out is not None  # noqa: S101 -- only tested ones are asked about
    folders = job.run.checkpoint, job.run.checkpoint / "images"
    trained_on = [found for at in folders if (found := _kept_pixels(job.images, at)) is not None]
    images, _ = job.held_out
    tested_on = _kept_pixels(images, _test_folder(job) / "checkpoint")
    for pixels in trained_on:
        if tested_on is None or tested_on.values.shape[1:] != pixels.values.shape[1:]:
            continue
        rows, others = copies_in(images, tested_on, job.images, pixels)
        if not len(rows):
            return []
        return [
            f"{len(rows):,} of {np.count_nonzero(tested_on.usable):,} test images have the pixels "
            f"of a training image, such as {images.ids[rows[0]]!r} those of "
            f"{job.images.ids[others[0]]!r}: what the classifier has seen it may know by heart, so "
            "that the scores may be too good. Leave these images out of one of the sets."
        ]
    return []


def _kept_pixels(images: ImageSet, folder: Path) -> Pixels | None:
    """What was decoded of a set on the way, if it was kept there."""
    path = folder / "pixels.npy"
    if not path.is_file():
        return None
    return decode_images(images, np.load(path, mmap_mode="r").shape[-1], path=path)


def taken(beliefs: Beliefs, rows: NDArray[np.int64]) -> Beliefs:
    """What is believed of some of the images, in the order of `rows`."""
    return Beliefs(**{name: column[rows] for name, column in vars(beliefs).items()})


def test_of(job: Job, material: Material) -> Test | None:
    """What the log says of the test images while the classifier learns; None: nothing."""
    if job.held_out is None:
        return None
    images, labels = job.held_out
    if isinstance(material.network, Rows):
        with _scratch(job) as scratch:
            found = rows_of_new(
                job.run.path, material.about["features"], images, job.rows_of_test,
                device=job.inputs.device, run=scratch, progress=job.progress,
            )  # fmt: skip
        check_width(found, material.network.settings.n_in, job.run.path)
        place = {name: row for row, name in enumerate(images.ids)}
        truth, source = labels[[place[name] for name in found.ids]], of_rows(found.values)
        rows = np.arange(len(truth))
    else:
        size = int(material.about["image_size"])
        with nullcontext() if isinstance(job.run, Beside) else _scratch(job):
            folder = _test_folder(job) / "checkpoint"
            pixels, source = readable_source(images, size, folder, job.progress)
        rows, truth = np.flatnonzero(pixels.usable), labels
    rows = rows[truth[rows] >= 0]
    if not len(rows):  # what has a label cannot be read; the scores will say so
        return None

    def test(predictor: Predictor) -> dict[str, float]:
        found = predictor(source, rows).argmax(1).numpy()
        return {"test_accuracy": float((found == truth[rows]).mean())}

    return test


def _scratch(job: Job) -> Run:
    """A folder like a run's for what is decoded of test images."""
    return Run.open(_test_folder(job), "predict", {}, resume=True)


def _test_folder(job: Job) -> Path:
    return job.run.checkpoint / "test"


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
