"""The stages of a training: an audit, a classifier, what it says of the labels, and its test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from labelsieve.classified import Predictions
from labelsieve.classifying import (
    Shown,
    about_network,
    about_rows,
    classify,
    keep_classifier,
    readable_source,
)
from labelsieve.data.batches import Source
from labelsieve.data.decode import decode_images
from labelsieve.data.held_out import HeldOut
from labelsieve.data.sources import of_rows
from labelsieve.errors import ConfigError
from labelsieve.features.backbones import load_timm, network
from labelsieve.features.rows import Rows
from labelsieve.features.timm_nets import trainable
from labelsieve.features.weights import drawn_from
from labelsieve.inputs import Inputs, Progress
from labelsieve.logs import EpochLog
from labelsieve.makers import keep_maker, keep_maker_of, rows_of_new
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.classify import Start, TrainedClassifier, train_classifier
from labelsieve.methods.sncf.predictor import Predictor
from labelsieve.methods.sncf.work import Views, image_views, row_views
from labelsieve.pipeline import audit_stages
from labelsieve.records import Features, Findings, ImageSet, Verdict
from labelsieve.representation import FeatureMaker
from labelsieve.run import Run, read_run
from labelsieve.runtime import Runtime
from labelsieve.stages import rows_of
from labelsieve.trained import PRETEXT, Trained, load_trained, of_backbone
from labelsieve.training_evidence import findings_of
from labelsieve.training_settings import Train

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
    findings: Findings | None = None  # of an audit, where they are given and not made

    def tell(self, stage: str) -> Callable[[int, int], None]:
        """Progress of a stage."""
        return partial(self.progress, stage)

    def log(self, phase: str) -> EpochLog:
        """Of a phase, in the run's log.jsonl."""
        wanted = self.settings.classify.training.tensorboard
        return EpochLog(
            self.run.path / "log.jsonl", phase, self.run.path / "tensorboard" if wanted else None
        )

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
        if job.settings.rows == "features":
            features = Features.load(audit / "features.npy")
        if job.settings.rows == "features" or job.settings.start == "pretrained":
            maker = keep_maker_of(audit, read_run(audit), run)
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
        row_views(None, runtime.device, job.inputs.seed, job.settings.noise * float(module.spread)),
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


def trained_on(job: Job, material: Material, start: Start | None = None) -> TrainedClassifier:
    """Train, or go on with it; the model is kept in the run's folder."""
    settings = job.settings.for_images(len(material.rows))
    with job.run.stage("train"):
        found = train_classifier(
            material.source, material.network, material.beliefs, len(job.images.class_names),
            settings.classify, rows=material.rows, views=material.views, start=start,
            test=_test(job, material), seed=job.inputs.seed, runtime=material.runtime,
            folder=_made(job.run.checkpoint / "train"), log=job.log, progress=job.tell("train"),
        )  # fmt: skip
    keep_classifier(job.run.path, found, job.images.class_names, material.about)
    return found


def tested(job: Job) -> tuple[Predictions, NDArray[np.float32], NDArray[np.int64]] | None:
    """What the model that was kept says of the test images.

    Returns:
        all predictions; the probabilities of the images that can be read and have a label; those
        labels.
    """
    if job.held_out is None:
        return None
    images, labels = job.held_out
    with job.run.stage("test"), _scratch(job) as scratch:
        said = classify(
            job.run.path, images, features=job.inputs.test_features, device=job.inputs.device,
            run=scratch, progress=job.progress,
        )  # fmt: skip
    predictions = Predictions.of_probabilities(
        images.ids, said.rows, said.probabilities, said.class_names
    )
    labeled = labels[said.rows] >= 0
    return predictions, said.probabilities[labeled], labels[said.rows][labeled]


def taken(beliefs: Beliefs, rows: NDArray[np.int64]) -> Beliefs:
    """What is believed of some of the images, in the order of `rows`."""
    return Beliefs(**{name: column[rows] for name, column in vars(beliefs).items()})


def _test(job: Job, material: Material) -> Callable[[Predictor], Mapping[str, float]] | None:
    """What the log says of the test images while the classifier learns."""
    if job.held_out is None or not job.settings.classify.test_every:
        return None
    images, labels = job.held_out
    with _scratch(job) as scratch:
        if isinstance(material.network, Rows):
            found = rows_of_new(
                job.run.path, material.about["features"], images, job.inputs.test_features,
                device=job.inputs.device, run=scratch, progress=job.progress,
            )  # fmt: skip
            place = {name: row for row, name in enumerate(images.ids)}
            truth, source = labels[[place[name] for name in found.ids]], of_rows(found.values)
            rows = np.arange(len(truth))
        else:
            size = int(material.about["image_size"])
            pixels, source = readable_source(images, size, scratch.checkpoint, job.progress)
            rows, truth = np.flatnonzero(pixels.usable), labels
    rows = rows[truth[rows] >= 0]

    def test(predictor: Predictor) -> dict[str, float]:
        found = predictor(source, rows).argmax(1).numpy()
        return {"test_accuracy": float((found == truth[rows]).mean())}

    return test


def _scratch(job: Job) -> Run:
    """A folder like a run's for what is decoded of test images."""
    return Run.open(job.run.checkpoint / "test", "predict", {}, resume=True)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
