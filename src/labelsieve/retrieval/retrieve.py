"""Retrieval: train an embedding on noisy labels, say which labels are wrong, and test it.

decode -> [features] -> train -> embed -> suspects -> [second training on what is kept] -> test
-> report

Test images show classes that need not be those of the training: it is the distances that count.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labelsieve.auditing.audit import check_labels
from labelsieve.config import to_dict
from labelsieve.data.held_out import Gallery, read_gallery
from labelsieve.data.read import read
from labelsieve.features.weights import digest
from labelsieve.loop.logs import history
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.prism.embedding import TrainedEmbedding, embed
from labelsieve.records import Features, Findings, ImageSet
from labelsieve.report.metrics import score
from labelsieve.report.retrieval_galleries import nearest_rows, pick_queries
from labelsieve.report.retrieval_metrics import RetrievalScores, score_retrieval
from labelsieve.report.retrieval_page import write_retrieval_page
from labelsieve.report.table import summary
from labelsieve.retrieval.job import (
    SECOND,
    TRAIN,
    Job,
    Material,
    given_network,
    material_of_images,
    material_of_rows,
    rows_of_test_set,
    start_of,
    suspects,
    test_of,
    trained_again,
    trained_on,
)
from labelsieve.retrieval.kept import keep_embedder
from labelsieve.retrieval.model import EmbeddingModel
from labelsieve.retrieval.nearest import nearest_of_test, write_retrieved
from labelsieve.retrieval.settings import Retrieve, model_of, recipe_of, retrieve_recipe
from labelsieve.run import Beside, Run, read_run
from labelsieve.stages.inputs import Inputs, Progress, check_device, recorded, silent, stamps
from labelsieve.stages.representation import FeatureMaker, feature_maker
from labelsieve.stages.trained import PRETEXT, Trained
from labelsieve.training.checks import check_places, check_test_features, check_test_file


class Retrieved(NamedTuple):
    """What a retrieval training leaves."""

    findings: Findings  # of the training images' labels
    stages: dict[str, RetrievalScores]  # by phase, the last is the model's; empty without a test
    test_rows: Features | None  # embeddings of the test images


ROWS, TEST_ROWS = "embeddings.npy", "test-embeddings.npy"
_GIVEN = "given"  # stands for a file of features where there are features in memory


def retrieve(  # noqa: PLR0913 -- all that a training may be given
    images: ImageSet | str | Path,
    settings: Retrieve | None = None,
    *,
    features: Features | None = None,
    network: str | Path | None = None,
    test: ImageSet | str | Path | None = None,
    test_features: Features | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> EmbeddingModel:
    """Train an embedding on images some of whose labels are wrong.

    Args:
        images: from `read`, with one label an image; or what `read` takes.
        settings: `retrieve_recipe("prism", "features")` unless given.
        features: one row for each image, where an embedding of features is trained; made unless
            given.
        network: the folder of a trained one: of the features, where none are given, and to begin
            with where `settings.start` is "pretrained".
        test: labeled images to test the embedding on; their classes need not be those of `images`.
        test_features: of these, where `features` are given.
        seed: of every random choice.
        device: "cpu", "cuda", ...
        progress: called with (stage, done, total).

    Raises:
        DataError: there are no labels, only one class, or hardly an image that can be read.
        ConfigError: there is no network to begin with, or features are missing or not needed.

    Example:
        >>> import labelsieve as ls
        >>> model = ls.retrieve("photos/", test="checked/")  # doctest: +SKIP
        >>> model.scores.precision_at_1, model.embed("new-photos/").values.shape  # doctest: +SKIP
    """
    settings = settings or retrieve_recipe()
    if not isinstance(images, ImageSet):
        images = read(images)
    check_labels(images, "a retrieval training")
    held_out = None if test is None else read_gallery(test, None)
    inputs = Inputs(
        images.source, seed=seed, device=device, network=None if network is None else str(network),
        test=None if held_out is None else held_out.images.source,
        test_features=None if test_features is None else _GIVEN,
        recipe=recipe_of(settings), model=model_of(settings),
    )  # fmt: skip
    make = maker_of(inputs, settings)
    if features is not None:
        inputs = replace(inputs, features=_GIVEN, network=None)
        make = lambda *_: features  # noqa: E731
    given = given_network(inputs, settings)
    check_test_features(inputs, settings)
    folder = Path(tempfile.mkdtemp(prefix="labelsieve-"))
    about = {"inputs": recorded(inputs), "retrieve": to_dict(settings)}
    try:
        with Run.open(folder, "retrieve", about) as run:
            job = Job(images, held_out, inputs, settings, run, progress or silent, test_features)
            _finish(job, teach(job, make, given))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return EmbeddingModel(folder, temporary=True)


def run_retrieve(
    inputs: Inputs,
    settings: Retrieve,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Retrieved | None:
    """Train on what `inputs` names, and write the run's folder: model, findings, report, run.json.

    Several processes (`torchrun`) share the training of a network.

    Returns:
        what was found; None on a process that only helped to train.

    Raises:
        DataError: the images, labels or features are not what a training needs.
        ConfigError: options that do not go together.
        RunError: the folder cannot be used.
    """
    # mistakes are said at once, before hours of work
    check_device(inputs.device)
    check_places(inputs, settings, out)
    check_test_features(inputs, settings)
    check_test_file(inputs)
    images, held_out = sets_of(inputs)
    check_labels(images, "a retrieval training")
    given = given_network(inputs, settings)
    make = maker_of(inputs, settings)
    runtime = Runtime.start(inputs.device, settings.embed.training.precision)
    if not runtime.is_main:
        _help(Job(images, held_out, inputs, settings, Beside(out), silent), runtime, make, given)
        return None
    about = {
        "inputs": recorded(inputs),
        "retrieve": to_dict(settings),
        "images": {"n": len(images), "fingerprint": images.fingerprint()},
        "labels": images.label_fingerprint(),
        "files": stamps(inputs),
    }
    if held_out is not None:
        about["test"] = {
            "fingerprint": held_out.images.fingerprint(),
            "labels": held_out.images.label_fingerprint(),
        }
    with Run.open(out, "retrieve", about, resume=resume, overwrite=overwrite) as run:
        if run.done:
            runtime.any(True)  # the others need not help
            return read_retrieved(run.path, run.about)
        job = Job(images, held_out, inputs, settings, run, progress or silent)
        found = teach(job, make, given)
        _finish(job, found)
        return found


def maker_of(inputs: Inputs, settings: Retrieve) -> FeatureMaker:
    """What makes features, or the network to begin with where --pretrain names one."""
    if settings.rows == "images":  # a network that is given is trained itself
        inputs = replace(inputs, network=None, backbone=None, weights=None)
    return feature_maker(inputs, settings.dictionary, settings.pretrain, folder=PRETEXT)


def sets_of(inputs: Inputs) -> tuple[ImageSet, Gallery | None]:
    """The images to learn from, and those to be tested on, if any.

    Raises:
        DataError: they cannot be read, or have no labels.
    """
    images = read(inputs.source, label=inputs.label, truth=inputs.truth)
    if inputs.test is None:
        return images, None
    return images, read_gallery(inputs.test, inputs.test_label)


def teach(job: Job, make: FeatureMaker, given: Trained | None) -> Retrieved:
    """All stages but the report.

    Args:
        job: of the training.
        make: of features, where an embedding of features is trained.
        given: the network that the user named, if any.
    """
    material = _material(job, make, given)
    test = test_of(job, material)
    material.runtime.any(False)  # the others, who wait for what was decoded, are to help
    stages: dict[str, RetrievalScores] = {}
    trained = trained_on(job, material, test)
    rows = _kept_and_scored(job, material, trained, TRAIN, stages)
    if job.settings.second is not None:
        trained = trained_again(job, material, trained, test)
        rows = _kept_and_scored(job, material, trained, SECOND, stages)
    with job.run.stage("embed"):
        values = embed(
            trained.embedder, material.source, material.rows,
            material.views_of(job.inputs.seed).clean, Runtime.alone(job.inputs.device),
            job.tell("embed"),
        )  # fmt: skip
    ids = tuple(job.images.ids[row] for row in material.whole)
    made_by = f"embedding {digest(trained.embedder)} of {job.images.fingerprint()}"
    Features(ids, values, made_by).save(job.run.path / ROWS)
    return Retrieved(suspects(job, material, values), stages, rows)


def _material(job: Job, make: FeatureMaker, given: Trained | None) -> Material:
    if job.settings.rows == "features":
        return material_of_rows(job, make, given)
    return material_of_images(job, start_of(job, make, given))


def _kept_and_scored(
    job: Job,
    material: Material,
    trained: TrainedEmbedding,
    stage: str,
    stages: dict[str, RetrievalScores],
) -> Features | None:
    """Keep the model of a stage, and score it: the rows that it makes of the test images."""
    keep_embedder(job.run.path, trained.embedder, material.about)
    job.warnings += trained.warnings
    if trained.noise_rate is not None:
        job.run.note(noise_rate=trained.noise_rate)
    if job.test is None:
        return None
    rows = rows_of_test_set(job)
    place = {name: row for row, name in enumerate(job.test.images.ids)}
    labels = job.test.labels[[place[name] for name in rows.ids]]
    stages[stage] = score_retrieval(np.asarray(rows.values), labels)
    return rows


def read_retrieved(run: Path, about: Mapping[str, Any]) -> Retrieved:
    """What a finished run left.

    Args:
        run: its folder.
        about: its run.json.
    """
    path = run / TEST_ROWS
    scores = about.get("scores") or {}
    return Retrieved(
        Findings.load(run / "findings.parquet"),
        {phase: RetrievalScores.from_dict(each) for phase, each in scores.items()},
        Features.load(path) if path.is_file() else None,
    )


def write_retrieved_page(
    run: Run | Path,
    found: Retrieved,
    images: ImageSet,
    held_out: Gallery | None,
    progress: Any = None,
) -> Path:
    """Write the report page of a run."""
    folder, about = (run.path, run.about) if isinstance(run, Run) else (run, read_run(run))
    path = folder / "report.html"
    shown, nearest = [], None
    if held_out is not None and found.test_rows is not None:
        rows, neighbors = nearest_of_test(held_out, found.test_rows)
        shown = pick_queries(rows, neighbors, held_out.labels, seed=about["seed"])
        nearest = nearest_rows(rows, neighbors, len(held_out.images))
    write_retrieval_page(
        found.findings, images, path, about=about, stages=found.stages,
        test_images=None if held_out is None else held_out.images, shown=shown, nearest=nearest,
        history=history(folder / "log.jsonl"), progress=progress,
    )  # fmt: skip
    return path


def _help(job: Job, runtime: Runtime, make: FeatureMaker, given: Trained | None) -> None:
    """What the processes beside the main one do: wait for what it decoded, and train along."""
    if runtime.any(False):  # the main process found all done
        return
    material = material_of_images(job, start_of(job, make, given))
    test = test_of(job, material)
    trained = trained_on(job, material, test)
    if job.settings.second is not None:
        trained_again(job, material, trained, test)


def _finish(job: Job, found: Retrieved) -> None:
    """Write what was found, and the report."""
    run, settings = job.run, job.settings
    for suffix in (".parquet", ".csv"):
        found.findings.write(run.path / f"findings{suffix}")
    truth = job.images.truth
    run.note(
        recipe=job.inputs.recipe,
        seed=job.inputs.seed,
        device=job.inputs.device,
        model=job.inputs.model,
        network=None if settings.rows == "features" else settings.network,
        summary=summary(found.findings),
        scores={phase: each.to_dict() for phase, each in found.stages.items()} or None,
        label_scores=None if truth is None else score(found.findings, truth).to_dict(),
    )
    if job.test is not None and found.test_rows is not None:
        found.test_rows.save(run.path / TEST_ROWS)
        write_retrieved(job.test, found.test_rows, run.path)
    with run.stage("report"):
        tell = partial(job.progress, "report")
        write_retrieved_page(run, found, job.images, job.test, tell)
    run.finish()
