"""What is done with finished runs, and the list of recipes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from labelsieve.cli.audit import show_audit
from labelsieve.cli.cluster import show_clusters
from labelsieve.cli.console import progress, say
from labelsieve.cli.features import show_features
from labelsieve.cli.options import FILE, Command, json_option, run_options
from labelsieve.cli.retrieve import show_retrieval
from labelsieve.cli.tag import say_all, show_tags
from labelsieve.cli.train import show_training
from labelsieve.errors import ConfigError, did_you_mean


@click.command(cls=Command)
@click.argument("run", type=FILE)
def report(run: Path) -> None:
    """Write the report page of a finished run again.

    \b
    Example:
        labelsieve report run/
    """
    from labelsieve.jobs import rewrite_report

    say(f"Report: {rewrite_report(run)}")


@click.command(cls=Command)
@click.argument("run", type=FILE)
@click.option("--out", required=True, type=FILE, help="Folder of the new run.")
@run_options
@json_option
def rerun(run: Path, out: Path, resume: bool, overwrite: bool, as_json: bool) -> None:
    """Repeat a run from its run.json alone; of features, --out is the .npy file to write.

    \b
    Example:
        labelsieve rerun run/ --out again/
    """
    from labelsieve.run import read_run

    again = {
        "features": _features_again, "cluster": _clusters_again, "train": _training_again,
        "retrieve": _retrieval_again, "tag": _tags_again,
    }  # fmt: skip
    repeat = again.get(read_run(run)["job"], _audit_again)
    repeat(run, out, as_json, resume=resume, overwrite=overwrite)


def _features_again(run: Path, out: Path, as_json: bool, **how: bool) -> None:
    from labelsieve.jobs import features_of
    from labelsieve.stages.representation import run_features

    source, dictionary, pretraining = features_of(run)
    with progress() as tell:
        made = run_features(source, dictionary, pretraining, out, progress=tell, **how)
    show_features(made, out)


def _clusters_again(run: Path, out: Path, as_json: bool, **how: bool) -> None:
    from labelsieve.clustering.cluster import run_cluster
    from labelsieve.jobs import clustering_of

    inputs, settings, n_clusters = clustering_of(run)
    with progress() as tell:
        found = run_cluster(inputs, settings, n_clusters, out, progress=tell, **how)
    show_clusters(found, out, as_json)


def _training_again(run: Path, out: Path, as_json: bool, **how: bool) -> None:
    from labelsieve.jobs import training_of
    from labelsieve.training.evidence import repeated
    from labelsieve.training.train import run_train

    inputs, settings = training_of(run)
    with progress() as tell:
        found = run_train(repeated(inputs, run), settings, out, progress=tell, **how)
    show_training(found, out, as_json)


def _retrieval_again(run: Path, out: Path, as_json: bool, **how: bool) -> None:
    from labelsieve.jobs import retrieval_of
    from labelsieve.retrieval.retrieve import run_retrieve

    inputs, settings = retrieval_of(run)
    with progress() as tell:
        found = run_retrieve(inputs, settings, out, progress=tell, **how)
    show_retrieval(found, out, as_json)


def _tags_again(run: Path, out: Path, as_json: bool, **how: bool) -> None:
    from labelsieve.jobs import cleaning_of
    from labelsieve.tagging.tag import run_tag

    inputs, settings, wanted = cleaning_of(run)
    with progress() as tell:
        found = run_tag(inputs, settings, out, wanted, progress=tell, tell=say_all, **how)
    show_tags(found, out, as_json)


def _audit_again(run: Path, out: Path, as_json: bool, **how: bool) -> None:
    from labelsieve.auditing.audit import run_audit
    from labelsieve.jobs import inputs_of

    inputs, settings = inputs_of(run)
    with progress() as tell:
        audited = run_audit(inputs, settings, out, progress=tell, **how)
    show_audit(audited, out, as_json)


@click.command(cls=Command)
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the named settings, or show one with all its values.

    \b
    Example:
        labelsieve recipes robust
    """
    from labelsieve.config import to_dict

    all_jobs = _recipes()
    if name is None:
        for title, known in all_jobs.items():
            click.echo(title)
            for each, make in known.items():
                click.echo(f"  {each}\n      {(make.__doc__ or '').strip().splitlines()[0]}")
        return
    found = {title: known[name] for title, known in all_jobs.items() if name in known}
    if not found:
        every = {each for known in all_jobs.values() for each in known}
        raise ConfigError(f"there is no recipe {name!r}. {did_you_mean(name, every)}")
    headings = {title: title.replace("NAME", name) for title in found}
    if len(found) > 1:
        click.echo(f"{len(found)} settings have this name: {'; '.join(headings.values())}.\n")
    for title, make in found.items():
        heading, about = headings[title], inspect.cleandoc(make.__doc__ or "")
        click.echo(f"{heading}\n{'=' * len(heading)}\n\n{about}\n")
        click.echo(f"{json.dumps(to_dict(make()), indent=2)}\n")


def _recipes() -> dict[str, dict[str, Callable[[], Any]]]:
    """What makes the settings of each recipe, by what it is for and its name."""
    from labelsieve.features.recipes import PRETRAINING
    from labelsieve.methods import auditing
    from labelsieve.methods.prism import recipes as retrieval
    from labelsieve.methods.scan import recipes as clustering
    from labelsieve.methods.sncf.training_recipes import MODELS, OBJECTIVES
    from labelsieve.methods.veit import recipes as tags

    return {
        "of an audit, --recipe NAME": {**auditing.RECIPES},
        "of a training, --recipe NAME": {**OBJECTIVES},
        "of a training, --model NAME": {**MODELS},
        "of a clustering, --recipe NAME": {**clustering.RECIPES},
        "of a retrieval training, --recipe NAME": {**retrieval.OBJECTIVES},
        "of a retrieval training, --model NAME": {**retrieval.MODELS},
        "of a cleaning of tags, --recipe NAME": {**tags.OBJECTIVES},
        "of pretraining, --pretrain NAME": {**PRETRAINING},
    }
