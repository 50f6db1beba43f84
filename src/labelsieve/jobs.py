"""What the command line does besides auditing: demo, corrupt, evaluate, report, rerun."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from labelsieve.auditing.audit import Audit, Audited, audit_into, recipe
from labelsieve.clustering.cluster import (
    cluster_recipe,
    read_clustered,
    read_images,
    write_clustered_page,
)
from labelsieve.config import from_dict, to_dict
from labelsieve.data.corrupt import corrupt
from labelsieve.data.decode import decode_images
from labelsieve.data.demo import DemoNoise, make_demo
from labelsieve.data.read import read
from labelsieve.data.truth import read_truth
from labelsieve.errors import ConfigError, RunError
from labelsieve.features.dictionary import Dictionary
from labelsieve.features.extract import dictionary_features
from labelsieve.features.load import load_features
from labelsieve.features.pretrain import Pretrain
from labelsieve.methods.scan.recipes import Cluster
from labelsieve.records import Features, Findings, ImageSet
from labelsieve.records.clusters import Clusters
from labelsieve.report.classifier_evaluation import ClassifierEvaluation, classifier_evaluation
from labelsieve.report.cluster_evaluation import ClusterEvaluation, evaluation
from labelsieve.report.metrics import Scores, score
from labelsieve.report.page import write_page
from labelsieve.report.retrieval_evaluation import RetrievalEvaluation, retrieval_evaluation
from labelsieve.report.retrieval_metrics import RetrievalScores
from labelsieve.report.tag_evaluation import TagEvaluation, tag_evaluation
from labelsieve.report.tag_metrics import TagScores
from labelsieve.retrieval.retrieve import read_retrieved, write_retrieved_page
from labelsieve.retrieval.retrieve import sets_of as retrieval_sets
from labelsieve.retrieval.settings import Retrieve, retrieve_recipe
from labelsieve.run import Run, read_run
from labelsieve.stages.inputs import Inputs, Progress, recorded
from labelsieve.stages.representation import feature_maker
from labelsieve.tagging.settings import Tag, Wanted, tagging_recipe
from labelsieve.tagging.written import read_cleaned, read_scores, write_cleaned_page
from labelsieve.training.settings import Train, train_recipe
from labelsieve.training.train import Taught, read_taught, sets_of, write_taught_page


def run_demo(out: Path, *, seed: int, resume: bool, overwrite: bool, progress: Progress) -> Audited:
    """Make the demo set inside the run's folder, audit it, and score it against its truth."""
    noise, settings = DemoNoise(), Audit()
    inputs = Inputs(str(out / "images"), seed=seed)
    make = feature_maker(inputs, settings.dictionary)
    about = {"inputs": recorded(inputs), "audit": to_dict(settings), "demo": asdict(noise)}
    with Run.open(out, "demo", about, resume=resume, overwrite=overwrite) as run:
        table = out / "truth.csv"
        if not table.exists():  # it is written after the images
            with run.stage("make"):
                make_demo(out, noise, seed)
        images = read(inputs.source)
        images = replace(images, truth=read_truth(table, images.ids))
        return audit_into(run, images, inputs, settings, make, progress)


def run_corrupt(  # noqa: PLR0913 -- one argument for each kind of noise
    source: str,
    out: Path,
    *,
    label: str | None,
    truth: str | None,
    symmetric: float,
    independent: float,
    asymmetric: float,
    pairs: Sequence[str],
    matrix: Path | None,
    foreign: float,
    foreign_from: str | None,
    small_cluster: float,
    features: Path | None,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Write a noisy copy of a set, and count what was done to it."""
    if features is not None and not small_cluster:
        raise ConfigError("--features says what is alike for --small-cluster; give its rate, too.")
    images = read(source, label=label, truth=truth)
    corrupt(
        images, out, symmetric=symmetric, independent=independent, asymmetric=asymmetric,
        pairs=_pairs(pairs), matrix=None if matrix is None else _matrix(matrix), foreign=foreign,
        foreign_source=None if foreign_from is None else read(foreign_from),
        small_cluster=small_cluster,
        features=partial(_likeness, images, features, seed, progress),
        seed=seed, progress=partial(progress, "write"),
    )  # fmt: skip
    with (out / "truth.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wrong = [row for row in rows if row["truth"] and row["truth"] != row["label"]]
    classes = {row["label"] for row in rows}  # what the copy's are: small clusters leave fewer
    mislabeled = sum(row["truth"] in classes for row in wrong)
    return {
        "images": str(out / "images.parquet"),
        "n_images": len(rows),
        "n_mislabeled": mislabeled,
        "n_foreign": len(wrong) - mislabeled,
    }


def _likeness(
    images: ImageSet, path: Path | None, seed: int, progress: Progress
) -> NDArray[np.float32]:
    """(N, D) features that say which images are alike: of a file, or dictionary features.

    An image that cannot be read gets a row of zeros: it is like the others of them.
    """
    settings = Dictionary()
    tell = partial(progress, "decode")
    pixels = decode_images(images, settings.image_size, progress=tell)
    if path is not None:
        found = load_features(path, images, pixels.usable)
    else:
        tell = partial(progress, "features")
        found = dictionary_features(images, pixels, settings, seed=seed, progress=tell)
    rows = np.zeros((len(images), found.values.shape[1]), np.float32)
    rows[pixels.usable] = found.values
    return rows


def evaluate_run(run: Path, truth: Path) -> Scores:
    """Score the findings of a finished run against a table of true labels."""
    job = read_run(run)["job"]
    if job == "features":
        raise RunError(f"{run}: a run that made features; there are no findings to score.")
    if job == "cluster":
        raise RunError(f"{run}: a run that made clusters; there are no findings to score.")
    findings = Findings.load(run / "findings.parquet")
    return score(findings, read_truth(truth, findings.image))


def evaluate_clusters(runs: Sequence[Path], truth: Path) -> ClusterEvaluation:
    """Score the clusters of finished runs, such as those of several seeds, against a table.

    Raises:
        RunError: a run did not make clusters, or is named twice.
        DataError: the table does not match the images, or two runs are of different images.
    """
    found: dict[str, Clusters] = {}
    for run in runs:
        if (job := read_run(run)["job"]) != "cluster":
            raise RunError(f"{run}: made by `labelsieve {job}`; expected runs of `cluster`.")
        if any(run.resolve() == Path(other).resolve() for other in found):
            raise RunError(f"{run}: named twice. A run always agrees with itself; name it once.")
        found[str(run)] = Clusters.load(run / "clusters.parquet")
    truths = {name: read_truth(truth, clusters.image) for name, clusters in found.items()}
    return evaluation(found, truths)


def evaluate_classifiers(runs: Sequence[Path]) -> ClassifierEvaluation:
    """Put the test scores of trainings side by side, such as those of several seeds.

    Raises:
        RunError: a run is no training, was not tested, or is named twice.
        DataError: the runs know other classes, or were tested on other images.
    """
    found: dict[str, Taught] = {}
    for run in runs:
        about = read_run(run)
        if about["job"] != "train":
            raise RunError(f"{run}: made by `labelsieve {about['job']}`; expected runs of `train`.")
        if about["scores"] is None:
            raise RunError(f"{run}: trained without --test, so there are no scores of it.")
        if any(run.resolve() == Path(other).resolve() for other in found):
            raise RunError(f"{run}: named twice. A run always agrees with itself; name it once.")
        found[str(run)] = read_taught(run, about)
    scores = {name: each.scores for name, each in found.items() if each.scores is not None}
    said = {n: each.predictions for n, each in found.items() if each.predictions is not None}
    return classifier_evaluation(scores, said)


def evaluate_retrieval(runs: Sequence[Path]) -> RetrievalEvaluation:
    """Put the test scores of retrieval trainings side by side, such as those of several seeds.

    Raises:
        RunError: a run is no retrieval training, was not tested, or is named twice.
    """
    found: dict[str, RetrievalScores] = {}
    for run in runs:
        about = read_run(run)
        if about["job"] != "retrieve":
            raise RunError(
                f"{run}: made by `labelsieve {about['job']}`; expected runs of `retrieve`."
            )
        if any(run.resolve() == Path(other).resolve() for other in found):
            raise RunError(f"{run}: named twice. A run always agrees with itself; name it once.")
        stages = read_retrieved(run, about).stages
        if not stages:
            raise RunError(f"{run}: trained without --test, so there are no scores of it.")
        found[str(run)] = next(reversed(stages.values()))
    return retrieval_evaluation(found)


def evaluate_tags(runs: Sequence[Path]) -> TagEvaluation:
    """Put the scores of cleanings of tags side by side, such as those of several seeds.

    Raises:
        RunError: a run is no cleaning, was not scored, or is named twice.
    """
    found: dict[str, dict[str, TagScores]] = {}
    for run in runs:
        about = read_run(run)
        if about["job"] != "tag":
            raise RunError(f"{run}: made by `labelsieve {about['job']}`; expected runs of `tag`.")
        if any(run.resolve() == Path(other).resolve() for other in found):
            raise RunError(f"{run}: named twice. A run always agrees with itself; name it once.")
        if not about.get("scores"):
            raise RunError(f"{run}: made without --test, so there are no scores of it.")
        found[str(run)] = read_scores(about)
    return tag_evaluation(found)


def rewrite_report(run: Path) -> Path:
    """Write the page of a finished run again."""
    about = read_run(run)
    if about["job"] == "features":
        raise RunError(f"{run}: a run that made features; an audit writes a report.")
    if about["job"] == "cluster":
        images, _ = read_images(Inputs(**about["settings"]["inputs"]))
        return write_clustered_page(run, read_clustered(run, about, images))
    if about["job"] == "train":
        inputs, _ = training_of(run)
        return write_taught_page(run, read_taught(run, about), *sets_of(inputs))
    if about["job"] == "retrieve":
        inputs, _ = retrieval_of(run)
        return write_retrieved_page(run, read_retrieved(run, about), *retrieval_sets(inputs))
    if about["job"] == "tag":
        return write_cleaned_page(run, read_cleaned(run, about), about)
    inputs, _ = inputs_of(run)
    images = read(inputs.source, label=inputs.label, truth=inputs.truth)
    findings = Findings.load(run / "findings.parquet")
    scores = None
    if about["job"] == "demo":
        scores = score(findings, read_truth(run / "truth.csv", findings.image))
    elif images.truth is not None:
        scores = score(findings, images.truth)
    path = run / "report.html"
    features = Features.load(run / "features.npy")
    write_page(findings, images, path, features=features, about=about, scores=scores)
    return path


def inputs_of(run: Path) -> tuple[Inputs, Audit]:
    """What a finished run was made from, by its run.json alone."""
    about = read_run(run)["settings"]
    inputs = Inputs(**about["inputs"])
    return inputs, from_dict(
        recipe(inputs.recipe, inputs.pretrain), about["audit"], str(run / "run.json")
    )


def clustering_of(run: Path) -> tuple[Inputs, Cluster, int | Literal["auto"]]:
    """What finished clusters were made from, and how many were asked for, by run.json alone."""
    about = read_run(run)["settings"]
    inputs = Inputs(**about["inputs"])
    settings = cluster_recipe(inputs.recipe, inputs.pretrain)
    found = from_dict(settings, about["cluster"], str(run / "run.json"))
    return inputs, found, about["n_clusters"]


def training_of(run: Path) -> tuple[Inputs, Train]:
    """What a finished training was made from, by its run.json alone."""
    about = read_run(run)["settings"]
    inputs = Inputs(**about["inputs"])
    settings = train_recipe(inputs.recipe, inputs.model, inputs.pretrain)
    return inputs, from_dict(settings, about["train"], str(run / "run.json"))


def retrieval_of(run: Path) -> tuple[Inputs, Retrieve]:
    """What a finished retrieval training was made from, by its run.json alone."""
    about = read_run(run)["settings"]
    inputs = Inputs(**about["inputs"])
    settings = retrieve_recipe(inputs.recipe, inputs.model, inputs.pretrain)
    return inputs, from_dict(settings, about["retrieve"], str(run / "run.json"))


def cleaning_of(run: Path) -> tuple[Inputs, Tag, Wanted]:
    """What finished clean tags were made from, by run.json alone."""
    about = read_run(run)["settings"]
    known = about["inputs"] | {"implies": tuple(about["inputs"]["implies"])}
    inputs = Inputs(**{**known, "audited": str(run)})  # its tags, with all that was verified
    settings = tagging_recipe(inputs.recipe, inputs.pretrain)
    wanted = Wanted(**{**about["wanted"], "compare": tuple(about["wanted"]["compare"])})
    return inputs, from_dict(settings, about["tag"], str(run / "run.json")), wanted


def features_of(run: Path) -> tuple[Inputs, Dictionary, Pretrain | None]:
    """What finished features were made from, by the run.json beside them."""
    about, where = read_run(run)["settings"], str(run / "run.json")
    inputs = Inputs(**about["inputs"])
    pretraining = recipe(inputs.recipe, inputs.pretrain).pretrain
    if pretraining is not None:
        pretraining = from_dict(pretraining, about["pretrain"], where)
    return inputs, from_dict(Dictionary(), about["dictionary"], where), pretraining


def _pairs(words: Sequence[str]) -> dict[str, str]:
    """Class pairs as given: FROM:TO."""
    pairs: dict[str, str] = {}
    for word in words:
        given, colon, target = word.partition(":")
        if not colon or not given or not target:
            raise ConfigError(f"--pair takes FROM:TO, such as cat:dog; got {word!r}.")
        if given in pairs:
            raise ConfigError(f"--pair: {given!r} goes to {pairs[given]!r} and to {target!r}.")
        pairs[given] = target
    return pairs


def _matrix(path: Path) -> NDArray[np.float64]:
    """A CSV of numbers: row = true class, column = given class, in sorted order of names."""
    try:
        return np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a matrix of numbers: {error}.") from error
