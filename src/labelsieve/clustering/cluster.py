"""Clustering: from images without labels to clusters, phase by phase, all kept in the run's folder.

decode -> features -> neighbors -> [number of classes] -> duplicates -> k-means -> [heads]
-> [scan] -> [self-labels] -> report

Labels, where there are any, score what was found and decide nothing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from labelsieve.clustering.job import Job, Scored
from labelsieve.clustering.phases import clustered
from labelsieve.config import to_dict
from labelsieve.data.join import joined
from labelsieve.data.read import read
from labelsieve.errors import ConfigError, did_you_mean
from labelsieve.features import recipes
from labelsieve.files import write_csv
from labelsieve.loop.logs import history
from labelsieve.loop.runtime import n_launched
from labelsieve.methods.scan.number import Evidence
from labelsieve.methods.scan.recipes import RECIPES, Cluster
from labelsieve.methods.scan.self_labels import check_share
from labelsieve.records import Features, ImageSet
from labelsieve.records.clusters import Clusters, Part
from labelsieve.report.cluster_page import write_cluster_page
from labelsieve.report.cluster_scores import ClusterScores
from labelsieve.run import Run
from labelsieve.stages.inputs import Inputs, Progress, recorded, silent, stamps
from labelsieve.stages.makers import no_views_of_a_file
from labelsieve.stages.representation import feature_maker
from labelsieve.stages.trained import PRETEXT, Trained, load_trained


class Clustered(NamedTuple):
    """What a clustering leaves."""

    images: ImageSet
    clusters: Clusters
    scores: Scored  # empty where no class is known of any image
    evidence: Evidence | None  # for the number of clusters, where it was not given


def cluster_recipe(name: str = "heads", pretraining: str | None = None) -> Cluster:
    """The settings of a recipe by its name.

    Args:
        name: of a recipe for clustering.
        pretraining: name of a recipe for features and network, in place of the recipe's own.

    Raises:
        ConfigError: there is no such recipe.

    Example:
        >>> cluster_recipe("temi").heads.objective
        'temi'
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r}. {did_you_mean(name, RECIPES)}")
    if pretraining is None:
        return RECIPES[name]()
    return replace(RECIPES[name](), pretrain=recipes.pretraining(pretraining))


def cluster(
    images: ImageSet | str | Path,
    n_clusters: int | Literal["auto"],
    settings: Cluster | None = None,
    *,
    features: Features | None = None,
    network: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Clusters:
    """Put images into clusters; no label is needed, and none is looked at.

    Args:
        images: from `read`, or what `read` takes.
        n_clusters: how many, at least 2; "auto" looks for a number that the features support.
        settings: `cluster_recipe("heads")` unless given.
        features: one row for each image; made as the settings say unless given.
        network: the folder of a trained one, or its weights: of the features, where none are
            given, and of phases that train one.
        seed: of every random choice.
        device: "cpu", "cuda", ...
        progress: called with (stage, done, total).

    Raises:
        DataError: hardly an image can be read, or there are too few for so many clusters.
        ConfigError: a number of clusters below 2.

    Example:
        >>> import labelsieve as ls
        >>> clusters = ls.cluster("photos/", 10)  # doctest: +SKIP
        >>> clusters.write("clusters.csv")  # doctest: +SKIP
    """
    settings = settings or Cluster()
    check_number(n_clusters)
    source = images.source if isinstance(images, ImageSet) else str(images)
    inputs = Inputs(source, seed=seed, device=device, network=_text(network), recipe="heads")
    trained = _network(inputs, settings)
    if not isinstance(images, ImageSet):
        images = read(images)
    make = feature_maker(inputs, settings.dictionary, settings.pretrain, folder=PRETEXT)
    if features is not None:
        inputs = replace(inputs, features="given", network=None)
        make = lambda *_: features  # noqa: E731
    _check_phases(inputs, settings, n_clusters)
    with (
        tempfile.TemporaryDirectory(prefix="labelsieve-") as folder,
        Run.open(Path(folder), "cluster", {}) as run,
    ):
        job = Job(images, None, inputs, settings, run, progress or silent)
        return clustered(job, make, n_clusters, trained)[0]


def run_cluster(
    inputs: Inputs,
    settings: Cluster,
    n_clusters: int | Literal["auto"],
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Clustered:
    """Cluster what `inputs` names and write the run's folder: clusters, model, report, run.json.

    Raises:
        DataError: the images or features are not what a clustering needs.
        ConfigError: a number of clusters below 2, or options that do not go together.
        RunError: the folder cannot be used.
    """
    check_number(n_clusters)
    _check_places(inputs, out)
    _check_phases(inputs, settings, n_clusters)
    trained = _network(inputs, settings)
    images, held_out = read_images(inputs)
    learn = None if held_out is None else ~held_out
    make = feature_maker(
        inputs, settings.dictionary, settings.pretrain, learn=learn, folder=PRETEXT
    )
    about = {
        "inputs": recorded(inputs),
        "n_clusters": n_clusters,
        "cluster": to_dict(settings),
        "images": {"n": len(images), "fingerprint": images.fingerprint()},
        "files": stamps(inputs),
    }
    with Run.open(out, "cluster", about, resume=resume, overwrite=overwrite) as run:
        if run.done:
            return read_clustered(run.path, run.about, images)
        job = Job(images, held_out, inputs, settings, run, progress or silent)
        clusters, evidence = clustered(job, make, n_clusters, trained)
        found = Clustered(images, clusters, job.scores, evidence)
        _write(run, found)
        _note(run, found, inputs)
        with run.stage("report"):
            write_clustered_page(run, found, partial(job.progress, "report"))
        run.finish()
        return found


def read_clustered(run: Path, about: Mapping[str, Any], images: ImageSet) -> Clustered:
    """What a finished run found.

    Args:
        run: its folder.
        about: its run.json.
        images: what it was made from.
    """
    clusters = Clusters.load(run / "clusters.parquet")
    scores = {
        phase: {part: ClusterScores.from_dict(each) for part, each in parts.items()}
        for phase, parts in (about.get("scores") or {}).items()
    }
    evidence = about.get("evidence")
    return Clustered(
        images, clusters, scores, None if evidence is None else Evidence.from_dict(evidence)
    )


def write_clustered_page(run: Run | Path, found: Clustered, progress: Any = None) -> Path:
    """Write the report page of a run."""
    folder, about = (run.path, run.about) if isinstance(run, Run) else (run, _about(run))
    path = folder / "report.html"
    write_cluster_page(
        found.clusters, found.images, path, about=about, scores=found.scores or None,
        evidence=found.evidence, history=history(folder / "log.jsonl"), progress=progress,
    )  # fmt: skip
    return path


def _about(run: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return about


def check_number(n_clusters: int | Literal["auto"]) -> None:
    """Refuse numbers of clusters that are none.

    Raises:
        ConfigError: it is no whole number, or below 2.
    """
    if n_clusters == "auto":
        return
    if not isinstance(n_clusters, int | np.integer):
        raise ConfigError(f"{n_clusters!r} clusters are asked for; give a whole number, or 'auto'.")
    if n_clusters < 2:
        raise ConfigError(
            f"{n_clusters} clusters are asked for; at least 2 are needed, or auto to look for a "
            "number."
        )


def read_images(inputs: Inputs) -> tuple[ImageSet, NDArray[np.bool_] | None]:
    """The images, and which of them are only chosen by, where the user says so.

    Raises:
        DataError: they cannot be read, or those to choose by are of another kind.
    """
    images = read(inputs.source, label=inputs.label, truth=inputs.truth)
    if inputs.valid is None:
        return images, None
    return joined(images, read(inputs.valid, label=inputs.label, truth=inputs.truth))


def _check_places(inputs: Inputs, out: Path) -> None:
    if n_launched() > 1:
        raise ConfigError(
            f"{n_launched()} processes were begun; a clustering runs in one. Pretrain in several "
            "by `labelsieve features --pretrain` and give the run's folder with --network."
        )
    for given in (inputs.source, inputs.valid):
        source = None if given is None else Path(given).resolve()
        if source is not None and source.is_dir() and out.resolve().is_relative_to(source):
            raise ConfigError(
                f"--out {out}: lies among the images of {source}. Choose another place."
            )


def _check_phases(inputs: Inputs, settings: Cluster, n_clusters: int | Literal["auto"]) -> None:
    """Refuse now what a phase would refuse after hours of others, whose work would be lost."""
    if settings.refine is not None and (inputs.features or inputs.backbone):
        given = "--features" if inputs.features else "--backbone"
        raise ConfigError(
            f"refine is set with {given}: it trains the network that made the features, and there "
            "is none to train. Set refine=none, or leave out the option."
        )
    on_features = settings.heads is not None and settings.rows == "features"
    if on_features and settings.n_views and inputs.features is not None:
        raise no_views_of_a_file()
    if settings.self_labels is not None and n_clusters != "auto":
        check_share(settings.self_labels, settings.self_labels.training.batch_size, n_clusters)


def _network(inputs: Inputs, settings: Cluster) -> Trained | None:
    """The network that the user named, if any; what phases need is seen to before hours of work."""
    trained = None
    if inputs.network is not None:
        trained = load_trained(inputs.network, settings.pretrain)
    if not settings.needs_network and settings.refine is None:
        return trained
    if trained is None and settings.pretrain is None:
        raise ConfigError(
            "the settings train a network, and none says where it comes from. Add --pretrain "
            "RECIPE or --network PATH."
        )
    size = trained.image_size if trained is not None else settings.pretrain.image_size  # type: ignore[union-attr]
    for name in ("scan", "self_labels"):
        phase = getattr(settings, name)
        if phase is not None and phase.strong.size > size and _is_strong(phase):
            raise ConfigError(
                f"{name}.strong.size is {phase.strong.size} pixels, and the network's images have "
                f"{size}. Set {name}.strong.size={size} and {name}.clean_size={size}."
            )
    return trained


def _is_strong(phase: Any) -> bool:
    return getattr(phase, "augmentation", "strong") == "strong"


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _write(run: Run, found: Clustered) -> None:
    """The clusters, and the table of prototypes: with names in it, it is what `export` takes."""
    clusters = found.clusters
    clusters.write(run.path / "clusters.parquet")
    clusters.write(run.path / "clusters.csv")
    shown = [clusters.image[row] if row >= 0 else None for row in clusters.prototypes]
    columns = {
        "cluster": pa.array(range(len(shown)), pa.int32()),
        "name": pa.array(clusters.names, pa.string()),
        "image": pa.array(shown, pa.string()),
        "n_images": pa.array(clusters.counts(), pa.int64()),
    }
    write_csv(pa.table(columns), run.path / "prototypes.csv")


def _note(run: Run, found: Clustered, inputs: Inputs) -> None:
    clusters = found.clusters
    run.note(
        recipe=inputs.recipe,
        seed=inputs.seed,
        device=inputs.device,
        features=Features.load(run.path / "features.npy").made_by,
        summary={
            "n_images": len(clusters),
            "n_clusters": len(clusters.names),
            "sizes": clusters.counts().tolist(),
            "parts": {part.name.lower(): clusters.count(part) for part in Part},
            "n_duplicates": int((clusters.duplicate_of >= 0).sum()),
            "warnings": list(clusters.warnings),
        },
        scores={
            phase: {part: scores.to_dict() for part, scores in parts.items()}
            for phase, parts in found.scores.items()
        }
        or None,
        evidence=None if found.evidence is None else found.evidence.to_dict(),
    )
