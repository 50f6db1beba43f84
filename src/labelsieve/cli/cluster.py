"""cluster, and what is done with clusters: predict, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from labelsieve.cli.console import progress, say, show
from labelsieve.cli.options import (
    FILE,
    Command,
    changed,
    feature_options,
    json_option,
    run_options,
    settings_options,
    table_options,
)

if TYPE_CHECKING:
    from labelsieve.clustering.cluster import Clustered


class NumberOfClasses(click.ParamType):  # type: ignore[type-arg]  # not generic in click 8.1
    """A whole number, or auto."""

    name = "N|auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The number, or the word."""
        if isinstance(value, str) and value.strip().lower() == "auto":
            return "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is no whole number; expected one, or auto.", param, ctx)


@click.command(cls=Command)
@click.argument("images")
@click.option(
    "--classes",
    required=True,
    metavar="N|auto",
    type=NumberOfClasses(),
    help="How many clusters; auto looks for a number.",
)
@click.option("--out", required=True, type=FILE, help="Folder of the run.")
@click.option("--valid", metavar="IMAGES", help="To choose by; else a tenth is held out.")
@table_options
@feature_options
@settings_options("heads")
@run_options
@json_option
def cluster(
    images: str,
    classes: Any,
    out: Path,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Put images without labels into clusters: classes that nobody has named yet.

    IMAGES is a folder, a CSV or Parquet table, a Hugging Face data set folder, or WebDataset tars.
    Labels, where there are any, score the clusters and decide nothing. OUT gets clusters.csv,
    clusters.parquet, report.html, run.json and the model.

    \b
    Example:
        labelsieve cluster photos/ --classes 10 --out run/
        labelsieve cluster photos/ --classes auto --features dino.npy --out run/
    """
    from labelsieve.clustering.cluster import cluster_recipe, run_cluster
    from labelsieve.stages.inputs import Inputs

    settings = changed(cluster_recipe(chosen["recipe"], chosen["pretrain"]), chosen)
    with progress() as tell:
        found = run_cluster(
            Inputs(source=images, **chosen), settings, classes, out,
            resume=resume, overwrite=overwrite, progress=tell,
        )  # fmt: skip
    show_clusters(found, out, as_json)


@click.command(cls=Command)
@click.argument("run", type=FILE)
@click.argument("images")
@click.option("--out", required=True, type=FILE, help="The .csv, .parquet or .npy file to write.")
@click.option("--names", type=FILE, metavar="FILE", help="CSV: the name of each cluster.")
@click.option("--features", metavar="FILE", help="Of these images, where the run's were your own.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps.")
@click.option("--overwrite", is_flag=True, help="Replace the file that is there.")
@json_option
def predict(run: Path, images: str, out: Path, as_json: bool, **chosen: Any) -> None:
    """Put new images into the clusters of a finished run, or say which of its classes they show.

    Of a retrieval training: their embeddings, as .npy with the ids beside it. Of cleaned tags: the
    tags of each.

    \b
    Example:
        labelsieve predict run/ new-photos/ --out new.csv
    """
    from labelsieve.prediction import run_predict
    from labelsieve.records import Features
    from labelsieve.records.predictions import Predictions
    from labelsieve.records.tagged_images import TaggedImages
    from labelsieve.report.classifier_terminal import terminal_predictions
    from labelsieve.report.cluster_terminal import terminal_clusters

    with progress() as tell:
        found = run_predict(run, images, out, progress=tell, **chosen)
    if isinstance(found, Features):
        n, width = found.values.shape
        show(f"{n:,} images, {width} numbers each", {"n_images": n, "n_columns": width}, as_json)
        say(f"Embeddings: {out}")
        return
    if isinstance(found, TaggedImages):
        n_tags = int(found.counts().sum())
        said = f"{len(found):,} images, {n_tags:,} tags"
        facts_of = {"n_images": len(found), "n_broken": found.n_broken, "n_tags": n_tags}
        show(said if not found.n_broken else f"{said}; {found.n_broken:,} could not be read",
             facts_of, as_json)  # fmt: skip
        say(f"Tags: {out}")
        return
    facts: dict[str, Any] = {"n_images": len(found), "sizes": found.counts().tolist()}
    if isinstance(found, Predictions):
        show(terminal_predictions(found), {**facts, "names": list(found.class_names)}, as_json)
    else:
        show(terminal_clusters(found), {**facts, "names": list(found.names)}, as_json)
    say(f"Predictions: {out}")


@click.command(cls=Command)
@click.argument("run", type=FILE)
@click.option(
    "--to",
    "kind",
    required=True,
    type=click.Choice(["links", "csv", "onnx"]),
    help="What to write.",
)
@click.option("--out", required=True, type=FILE, help="The folder (links) or file to write.")
@click.option("--names", type=FILE, metavar="FILE", help="CSV: the name of each cluster.")
@click.option("--copy", is_flag=True, help="Files in place of links.")
@json_option
def export(
    run: Path,
    kind: Literal["links", "csv", "onnx"],
    out: Path,
    names: Path | None,
    copy: bool,
    as_json: bool,
) -> None:
    """Write what a run found as a folder tree with one folder a class, as a table, or its model.

    Of a clustering: clusters, under the names that --names gives them. Of an audit or a training:
    clean labels, mislabeled images under their suggestion; foreign ones are left out. onnx: the
    classifier of a training, for other programs.

    \b
    Example:
        labelsieve export run/ --to links --names names.csv --out photos-by-class/
        labelsieve export model/ --to onnx --out model.onnx
    """
    if kind == "onnx":
        export_model(run, out, as_json)
        return
    from labelsieve.exports import export_run

    with progress() as tell:
        done = export_run(run, kind, out, names=names, copy=copy, progress=tell)
    if as_json:
        click.echo(json.dumps(done.to_dict(), indent=2))
    else:
        click.echo(str(done))


def export_model(run: Path, out: Path, as_json: bool) -> None:
    """Write a classifier as ONNX."""
    from labelsieve.training.onnx_export import export_onnx

    done = export_onnx(run, out)
    if as_json:
        click.echo(json.dumps(done.to_dict(), indent=2))
    else:
        click.echo(str(done))


def show_clusters(found: Clustered, out: Path, as_json: bool) -> None:
    """Print what a clustering found, and where it is written."""
    from rich.console import Group

    from labelsieve.report.cluster_terminal import terminal_cluster_scores, terminal_clusters
    from labelsieve.run import read_run

    about = read_run(out)
    facts = {name: about.get(name) for name in ("summary", "scores", "evidence")}
    shown = [terminal_clusters(found.clusters)]
    evidence = found.evidence
    if evidence is not None and evidence.sentence not in found.clusters.warnings:
        shown.append(evidence.sentence)
    if found.scores:
        shown.append(terminal_cluster_scores(found.scores))
    show(Group(*shown), facts, as_json)
    say(f"Clusters: {out / 'clusters.csv'}\nReport:   {out / 'report.html'}")
