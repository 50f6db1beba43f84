"""train: a classifier that survives the noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from labelsieve.training.train import Taught


@click.command(cls=Command)
@click.argument("images", metavar="IMAGES|RUN")
@click.option("--out", required=True, type=FILE, help="Folder of the run.")
@click.option("--test", metavar="IMAGES", help="Labeled images to score the classifier on.")
@click.option(
    "--model",
    default="features",
    show_default=True,
    metavar="NAME",
    help="What is trained: features (a head on them), cpu, cifar, finetune, ...",
)
@click.option("--test-label", metavar="COLUMN", help="Column of the test images' labels.")
@click.option("--decisions", metavar="FILE", help="What people decided: .jsonl or .csv.")
@click.option("--test-features", metavar="FILE", help="Of the test images, with --features.")
@table_options
@feature_options
@settings_options("robust")
@run_options
@json_option
def train(
    images: str,
    out: Path,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Train a classifier on noisily labeled images, and refine what is said of each.

    IMAGES is what `audit` takes, and is audited first; RUN is the folder of an audit that is done,
    with the decisions in it. OUT gets the model, findings refined by what the classifier learned,
    report.html, run.json and, with --test, scores and predictions.csv.

    \b
    Example:
        labelsieve train photos/ --test checked/ --out model/
        labelsieve train run/ --model cpu --out model/
        labelsieve predict model/ new-photos/ --out new.csv
    """
    from labelsieve.training.checks import check_audit_settings, training_inputs
    from labelsieve.training.settings import train_recipe
    from labelsieve.training.train import run_train

    pretraining = chosen["pretrain"]
    named = {change.partition("=")[0] for change in chosen["changes"]}
    settings = changed(train_recipe(chosen["recipe"], chosen["model"], pretraining), chosen)
    if "classify.training.epochs" in named and not named & {"least_updates", "most_updates"}:
        settings = replace(settings, least_updates=0, most_updates=0)  # as many as asked for
    inputs = training_inputs(images, chosen)
    check_audit_settings(inputs, settings.audit)
    with progress() as tell:
        found = run_train(
            inputs,
            settings,
            out,
            resume=resume,
            overwrite=overwrite,
            progress=tell,
        )
    show_training(found, out, as_json)


def show_training(found: Taught | None, out: Path, as_json: bool) -> None:
    """Print what a training came to, and where it is written; a mere helper has nothing to say."""
    if found is None:
        return
    from labelsieve.report.classifier_terminal import terminal_training
    from labelsieve.run import read_run

    about = read_run(out)
    facts = {name: about.get(name) for name in ("summary", "changes", "scores")}
    if facts["scores"] is not None:  # its epochs are in log.jsonl
        facts["scores"] = {k: v for k, v in facts["scores"].items() if k != "epochs"}
    show(terminal_training(found.findings, found.scores, before=found.before), facts, as_json)
    say(
        f"Model:    {out / 'model.safetensors'}\nFindings: {out / 'findings.csv'}\n"
        f"Report:   {out / 'report.html'}"
    )
