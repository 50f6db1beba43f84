"""Training: from noisily labeled images to a classifier, and to what it says of their labels.

decode -> features -> neighbors -> detect -> duplicates -> train -> refine -> test -> report

The first five are those of an audit, and are left out where an audit was done before.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from labelsieve.auditing.audit import check_labels
from labelsieve.config import to_dict
from labelsieve.data.held_out import HeldOut, read_held_out
from labelsieve.data.read import read
from labelsieve.errors import DataError
from labelsieve.loop.logs import history
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.sncf.plain_training import Plain
from labelsieve.methods.sncf.refine import refined_findings
from labelsieve.records import Features, Findings, ImageSet
from labelsieve.records.predictions import Predictions
from labelsieve.report.classifier_page import write_classifier_page
from labelsieve.report.classifier_scores import ClassifierScores, score_classifier
from labelsieve.report.metrics import score
from labelsieve.report.table import summary, verdict_changes
from labelsieve.run import Beside, Run, read_run
from labelsieve.stages.inputs import Inputs, Progress, check_device, recorded, silent, stamps
from labelsieve.stages.representation import FeatureMaker, feature_maker
from labelsieve.stages.trained import PRETEXT, Trained
from labelsieve.training.checks import check_places, check_test_features, check_test_file
from labelsieve.training.classifying import keep_classifier
from labelsieve.training.evidence import (
    are_of,
    at_chance,
    decisions_of,
    evidence_stamps,
    findings_of,
    keep_decisions,
    with_decisions,
)
from labelsieve.training.job import (
    Audited,
    Job,
    audited,
    copies_warning,
    given_network,
    material_of_images,
    material_of_rows,
    start_of,
    test_of,
    tested,
    trained_on,
)
from labelsieve.training.model import Model
from labelsieve.training.settings import Train, train_recipe

_GIVEN = "given"  # stands for a file of features where there are features in memory


class Taught(NamedTuple):
    """What a training leaves."""

    findings: Findings  # refined by what the classifier learned
    before: Findings  # of the audit
    scores: ClassifierScores | None  # on the test images, where there are any
    predictions: Predictions | None  # of them


def train(  # noqa: PLR0913 -- all that a training may be given
    images: ImageSet | str | Path,
    findings: Findings | None = None,
    settings: Train | None = None,
    *,
    features: Features | None = None,
    network: str | Path | None = None,
    test: ImageSet | str | Path | None = None,
    test_features: Features | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Model:
    """Train a classifier on images some of whose labels are wrong.

    Args:
        images: from `read`, with one label an image; or what `read` takes.
        findings: of an audit of these images; they are audited unless given.
        settings: `train_recipe("robust", "features")` unless given.
        features: one row for each image, where a classifier on features is trained, or for the
            audit; made unless given.
        network: the folder of a trained one: of the features, where none are given, and to begin
            with where `settings.start` is "pretrained".
        test: labeled images to score the classifier on; from `read`, or what `read` takes.
        test_features: of these, where `features` are given and a classifier on them is trained.
        seed: of every random choice.
        device: "cpu", "cuda", ...
        progress: called with (stage, done, total).

    Raises:
        DataError: there are no labels, only one class, or hardly an image that can be read; or
            findings or features of other images.
        ConfigError: there is no network to begin with, or features are missing or not needed.

    Example:
        >>> import labelsieve as ls
        >>> model = ls.train("photos/")  # doctest: +SKIP
        >>> model.predict("new-photos/").write("new.csv")  # doctest: +SKIP
        >>> model.save("model/")  # doctest: +SKIP
    """
    settings = settings or train_recipe()
    if not isinstance(images, ImageSet):
        images = read(images)
    check_labels(images)
    if findings is not None and not are_of(findings, images):
        raise DataError(
            f"findings of {len(findings)} images do not go with {images.source}, which has "
            f"{len(images)}: ids, classes or labels differ. Give those of its audit."
        )
    held_out = None if test is None else read_held_out(test, None, images.class_names)
    inputs = Inputs(
        images.source, seed=seed, device=device, network=None if network is None else str(network),
        test=None if held_out is None else held_out.images.source,
        test_features=None if test_features is None else _GIVEN,
    )  # fmt: skip
    make = feature_maker(inputs, settings.audit.dictionary, settings.audit.pretrain, folder=PRETEXT)
    given = given_network(inputs, settings)
    if features is not None:
        inputs = replace(inputs, features=_GIVEN, network=None)
        make = lambda *_: features  # noqa: E731
    check_test_features(inputs, settings)
    folder = Path(tempfile.mkdtemp(prefix="labelsieve-"))
    about = {"inputs": recorded(inputs), "train": to_dict(settings)}
    try:
        with Run.open(folder, "train", about) as run:
            job = Job(
                images, held_out, inputs, settings, run, progress or silent, findings=findings,
                test_features=test_features,
            )  # fmt: skip
            _finish(job, teach(job, make, given))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Model(folder, temporary=True)


def run_train(
    inputs: Inputs,
    settings: Train,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Taught | None:
    """Train on what `inputs` names, and write the run's folder: model, findings, report, run.json.

    Several processes (`torchrun`) share the training of a network.

    Returns:
        what was found; None on a process that only helped to train.

    Raises:
        DataError: the images, labels, features or decisions are not what a training needs.
        ConfigError: options that do not go together.
        RunError: the folder cannot be used, or the audit is of other images.
    """
    # mistakes are said at once, before hours of work
    check_device(inputs.device)
    check_places(inputs, settings, out)
    check_test_features(inputs, settings)
    check_test_file(inputs)
    images, held_out = sets_of(inputs)
    check_labels(images)
    decisions = decisions_of(inputs, images)
    if inputs.audited is not None:
        findings_of(Path(inputs.audited), images)
    given = given_network(inputs, settings)
    runtime = Runtime.start(inputs.device, settings.classify.training.precision)
    if not runtime.is_main:
        job = Job(images, held_out, inputs, settings, Beside(out), silent, decisions)
        _help(job, runtime, given)
        return None
    make = feature_maker(inputs, settings.audit.dictionary, settings.audit.pretrain, folder=PRETEXT)
    about = {
        "inputs": recorded(inputs),
        "train": to_dict(settings),
        "images": {"n": len(images), "fingerprint": images.fingerprint()},
        "labels": images.label_fingerprint(),
        "files": stamps(inputs),
        "evidence": evidence_stamps(inputs),
    }
    if held_out is not None:
        about["test"] = {
            "fingerprint": held_out.images.fingerprint(),
            "labels": held_out.images.label_fingerprint(),
        }
    with Run.open(out, "train", about, resume=resume, overwrite=overwrite) as run:
        if run.done:
            runtime.any(True)  # the others need not help
            return read_taught(run.path, run.about)
        keep_decisions(inputs, decisions, images, run.path)
        job = Job(images, held_out, inputs, settings, run, progress or silent, decisions)
        found = teach(job, make, given)
        _finish(job, found)
        return found


def sets_of(inputs: Inputs) -> tuple[ImageSet, HeldOut | None]:
    """The images to learn from, and those to be scored on, if any.

    Raises:
        DataError: they cannot be read, or do not go together.
    """
    images = read(inputs.source, label=inputs.label, truth=inputs.truth)
    if inputs.test is None:
        return images, None
    return images, read_held_out(inputs.test, inputs.test_label, images.class_names)


def teach(job: Job, make: FeatureMaker, given: Trained | None) -> Taught:
    """All stages but the report.

    Args:
        job: of the training.
        make: of features, where no audit was done before.
        given: the network that the user named, if any.
    """
    found = audited(job, make, given)
    known = with_decisions(found.findings, job.decisions)
    if job.settings.rows == "features":
        material = material_of_rows(job, found, known.beliefs)
    else:
        material = material_of_images(job, found, known.beliefs, start_of(job, given))
    test = test_of(job, material)
    material.runtime.any(False)  # the others, who wait for what was decoded, are to help
    trained = trained_on(job, material, test)
    keep_classifier(job.run.path, trained, job.images.class_names, material.about)
    settings, refined = job.settings, known.findings
    doubt = at_chance(trained.probabilities, material.beliefs, material.rows)
    # plain training learns wrong labels, too: what it believes of them says nothing
    if settings.refine is not None and not isinstance(settings.classify.objective, Plain):
        with job.run.stage("refine"):
            if doubt is None:
                refined = refined_findings(
                    known.findings, known.beliefs, trained.probabilities, material.whole,
                    settings.refine,
                )  # fmt: skip
    doubts = () if doubt is None else (doubt,)
    refined = replace(refined, warnings=(*doubts, *refined.warnings))
    said = tested(job)
    if said is None:
        return Taught(refined, found.findings, None, None)
    refined = replace(refined, warnings=(*refined.warnings, *copies_warning(job)))
    predictions, probabilities, truth = said
    scores = score_classifier(
        probabilities, truth, class_names=job.images.class_names,
        history=history(job.run.path / "log.jsonl"), n_broken=predictions.n_broken,
    )  # fmt: skip
    return Taught(refined, found.findings, scores, predictions)


def read_taught(run: Path, about: Mapping[str, Any]) -> Taught:
    """What a finished run left.

    Args:
        run: its folder.
        about: its run.json.
    """
    scores, predictions = about.get("scores"), run / "predictions.parquet"
    return Taught(
        Findings.load(run / "findings.parquet"),
        Findings.load(run / "audit.parquet"),
        None if scores is None else ClassifierScores.from_dict(scores),
        Predictions.load(predictions) if predictions.is_file() else None,
    )


def write_taught_page(
    run: Run | Path,
    found: Taught,
    images: ImageSet,
    held_out: HeldOut | None,
    progress: Any = None,
) -> Path:
    """Write the report page of a run."""
    folder, about = (run.path, run.about) if isinstance(run, Run) else (run, read_run(run))
    path = folder / "report.html"
    write_classifier_page(
        found.findings, found.before, images, path, about=about, scores=found.scores,
        predictions=found.predictions, test_images=None if held_out is None else held_out.images,
        history=history(folder / "log.jsonl"), progress=progress,
    )  # fmt: skip
    return path


def _help(job: Job, runtime: Runtime, given: Trained | None) -> None:
    """What the processes beside the main one do: wait for what it decoded, and train along."""
    if runtime.any(False):  # the main process found all done
        return
    before = Audited(Findings.load(job.run.path / "audit.parquet"), None, {})
    known = with_decisions(before.findings, job.decisions)
    material = material_of_images(job, before, known.beliefs, start_of(job, given))
    trained_on(job, material, test_of(job, material))


def _finish(job: Job, found: Taught) -> None:
    """Write what was found, and the report."""
    run, settings = job.run, job.settings
    for suffix in (".parquet", ".csv"):
        found.findings.write(run.path / f"findings{suffix}")
        if found.predictions is not None:
            found.predictions.write(run.path / f"predictions{suffix}")
    run.note(
        recipe=job.inputs.recipe,
        seed=job.inputs.seed,
        device=job.inputs.device,
        model=job.inputs.model,
        network=None if settings.rows == "features" else settings.network,
        summary=summary(found.findings),
        changes=verdict_changes(found.findings, found.before),
        scores=None if found.scores is None else found.scores.to_dict(),
        label_scores=_label_scores(found, job.images),
    )
    with run.stage("report"):
        tell = partial(job.progress, "report")
        write_taught_page(run, found, job.images, job.held_out, tell)
    run.finish()


def _label_scores(found: Taught, images: ImageSet) -> dict[str, Any] | None:
    """What was said of the labels before and after training, held against the truth."""
    if images.truth is None:
        return None
    said = {"audit": found.before, "train": found.findings}
    return {name: score(findings, images.truth).to_dict() for name, findings in said.items()}
