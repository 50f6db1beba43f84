"""Training: from noisily labeled images to a classifier, and to what it says of their labels.

decode -> features -> neighbors -> detect -> duplicates -> train -> refine -> test -> report

The first five are those of an audit, and are left out where an audit was done before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from labelsieve.classified import Predictions
from labelsieve.clustering import history
from labelsieve.config import to_dict
from labelsieve.data.held_out import HeldOut, read_held_out
from labelsieve.data.read import read
from labelsieve.errors import ConfigError, RunError
from labelsieve.inputs import Inputs, Progress, recorded, silent, stamps
from labelsieve.methods.sncf.plain_training import Plain
from labelsieve.methods.sncf.refine import refined_findings
from labelsieve.model import Model
from labelsieve.pipeline import check_labels
from labelsieve.records import Features, Findings, ImageSet
from labelsieve.report.classifier_page import write_classifier_page
from labelsieve.report.classifier_scores import ClassifierScores, score_classifier
from labelsieve.report.table import summary
from labelsieve.representation import FeatureMaker, feature_maker
from labelsieve.run import Run, read_run
from labelsieve.runtime import n_launched
from labelsieve.trained import PRETEXT, Trained
from labelsieve.training_evidence import decisions_of, findings_of, with_decisions
from labelsieve.training_job import (
    Job,
    audited,
    given_network,
    material_of_images,
    material_of_rows,
    start_of,
    tested,
    trained_on,
)
from labelsieve.training_settings import Train, train_recipe

_SOURCES = ("audit", "demo", "train")  # whose findings can be trained on


class Taught(NamedTuple):
    """What a training leaves."""

    findings: Findings  # refined by what the classifier learned
    before: Findings  # of the audit
    scores: ClassifierScores | None  # on the test images, where there are any
    predictions: Predictions | None  # of them


def train(
    images: ImageSet | str | Path,
    findings: Findings | None = None,
    settings: Train | None = None,
    *,
    features: Features | None = None,
    test: str | Path | None = None,
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
        test: labeled images to score the classifier on; what `read` takes.
        seed: of every random choice.
        device: "cpu", "cuda", ...
        progress: called with (stage, done, total).

    Raises:
        DataError: there are no labels, only one class, or hardly an image that can be read.

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
    inputs = Inputs(
        images.source, seed=seed, device=device, test=None if test is None else str(test),
        features=None if features is None else "given",
    )  # fmt: skip
    make = feature_maker(
        replace(inputs, features=None), settings.audit.dictionary, settings.audit.pretrain,
        folder=PRETEXT,
    )  # fmt: skip
    if features is not None:
        make = lambda *_: features  # noqa: E731
    held_out = None
    if test is not None:
        held_out = read_held_out(str(test), None, images.class_names)
    scratch = TemporaryDirectory(prefix="labelsieve-")
    about = {"inputs": recorded(inputs), "train": to_dict(settings)}
    with Run.open(Path(scratch.name), "train", about) as run:
        job = Job(images, held_out, inputs, settings, run, progress or silent, findings)
        _finish(job, teach(job, make, None))
    return Model(Path(scratch.name), scratch)


def training_inputs(source: str, chosen: Mapping[str, Any]) -> Inputs:
    """What a training works on: images, or the folder of a finished audit.

    Args:
        source: of the command line.
        chosen: fields of `Inputs`.

    Raises:
        ConfigError: an option that the audit has decided already.
        RunError: the run has not finished, or made no findings.
    """
    if not (Path(source) / "run.json").is_file():
        return Inputs(source=source, **chosen)
    about = read_run(Path(source))
    if about["job"] not in _SOURCES:
        raise RunError(
            f"{source}: made by `labelsieve {about['job']}`, which leaves no findings; expected "
            "images, or a run of `labelsieve audit`."
        )
    decided = ("label", "truth", "features", "pretrain")
    given = [name for name in decided if chosen.get(name) is not None]
    if given:
        raise ConfigError(
            f"--{given[0]} {chosen[given[0]]}: the audit in {source} has decided that already. "
            "Leave it out, or give the images in place of the run."
        )
    audit = about["settings"]["inputs"]
    of_audit = {name: audit[name] for name in ("source", "label", "truth")}
    return Inputs(**{**chosen, **of_audit}, audited=source)


def run_train(
    inputs: Inputs,
    settings: Train,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Taught:
    """Train on what `inputs` names, and write the run's folder: model, findings, report, run.json.

    Raises:
        DataError: the images, labels, features or decisions are not what a training needs.
        ConfigError: options that do not go together.
        RunError: the folder cannot be used, or the audit is of other images.
    """
    _check_places(inputs, out)
    images, held_out = sets_of(inputs)
    check_labels(images)
    decisions_of(inputs, images)  # mistakes in them are said at once
    given = given_network(inputs, settings)
    make = feature_maker(inputs, settings.audit.dictionary, settings.audit.pretrain, folder=PRETEXT)
    about = {
        "inputs": recorded(inputs),
        "train": to_dict(settings),
        "images": {"n": len(images), "fingerprint": images.fingerprint()},
        "labels": images.label_fingerprint(),
        "files": stamps(inputs),
    }
    if held_out is not None:
        about["test"] = {
            "fingerprint": held_out.images.fingerprint(),
            "labels": held_out.images.label_fingerprint(),
        }
    if inputs.audited is not None:
        findings_of(Path(inputs.audited), images)  # wrong ones are said to be so at once
    with Run.open(out, "train", about, resume=resume, overwrite=overwrite) as run:
        if run.done:
            return read_taught(run.path, run.about)
        job = Job(images, held_out, inputs, settings, run, progress or silent)
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
    known = with_decisions(found.findings, decisions_of(job.inputs, job.images))
    if job.settings.rows == "features":
        material = material_of_rows(job, found, known.beliefs)
    else:
        material = material_of_images(job, found, known.beliefs, start_of(job, given))
    trained = trained_on(job, material)
    settings, refined = job.settings, known.findings
    # plain training learns wrong labels, too: what it believes of them says nothing
    if settings.refine is not None and not isinstance(settings.classify.objective, Plain):
        with job.run.stage("refine"):
            refined = refined_findings(
                known.findings, known.beliefs, trained.probabilities, material.whole,
                settings.refine,
            )  # fmt: skip
    refined = replace(refined, warnings=(*refined.warnings, *trained.warnings))
    test = tested(job)
    if test is None:
        return Taught(refined, found.findings, None, None)
    predictions, probabilities, truth = test
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


def _check_places(inputs: Inputs, out: Path) -> None:
    if n_launched() > 1:
        raise ConfigError(
            f"{n_launched()} processes were begun; `labelsieve train` runs in one. Train in several"
            " from Python with train_classifier."
        )
    for given in (inputs.source, inputs.test):
        source = None if given is None else Path(given).resolve()
        if source is not None and source.is_dir() and out.resolve().is_relative_to(source):
            raise ConfigError(
                f"--out {out}: lies among the images of {source}. Choose another place."
            )
    if inputs.audited is not None and out.resolve() == Path(inputs.audited).resolve():
        raise ConfigError(f"--out {out}: is the audit that is trained on. Choose another place.")
    if inputs.test_features is not None and inputs.test is None:
        raise ConfigError("--test-features needs --test IMAGES, whose rows they are.")


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
        scores=None if found.scores is None else found.scores.to_dict(),
    )
    with run.stage("report"):
        tell = partial(job.progress, "report")
        write_taught_page(run, found, job.images, job.held_out, tell)
    run.finish()
