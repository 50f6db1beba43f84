"""audit, and what belongs to it: demo, corrupt, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labelsieve.cli.console import progress, say, show
from labelsieve.cli.options import (
    FILE,
    Command,
    chosen_inputs,
    feature_options,
    json_option,
    run_options,
    settings_options,
    table_options,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from labelsieve.pipeline import Audited


@click.command(cls=Command)
@click.argument("images")
@click.option("--out", required=True, type=FILE, help="Folder of the run.")
@table_options
@feature_options
@settings_options("robust")
@run_options
@click.option("--dry-run", is_flag=True, help="Say what would be done, in what time and memory.")
@json_option
def audit(
    images: str,
    out: Path,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Sort labeled images into clean, mislabeled, foreign and broken; find duplicates.

    IMAGES is a folder with one folder a class, a CSV or Parquet table, a Hugging Face data set
    folder, or WebDataset tars. Images are only ever read. OUT gets findings.csv, findings.parquet,
    report.html and run.json.

    \b
    Example:
        labelsieve audit photos/ --out run/
    """
    from labelsieve.estimate import estimate
    from labelsieve.pipeline import run_audit

    inputs, settings = chosen_inputs(images, chosen)
    if dry_run:
        plan = estimate(inputs, settings)
        show(plan.to_table(), plan.to_dict(), as_json)
        return
    with progress() as tell:
        audited = run_audit(
            inputs, settings, out, resume=resume, overwrite=overwrite, progress=tell
        )
    show_audit(audited, out, as_json)


@click.command(cls=Command)
@click.option("--out", default="demo-run", show_default=True, type=FILE, help="Folder of the run.")
@click.option("--seed", default=0, show_default=True, help="Of the planted noise and the audit.")
@run_options
@json_option
def demo(out: Path, seed: int, resume: bool, overwrite: bool, as_json: bool) -> None:
    """Make a small real set with planted trouble, audit it, and score it against the truth.

    1,797 handwritten digits, some moved to a wrong folder, with patches of photographs, duplicates
    and a broken file among them. Nothing is downloaded.

    \b
    Example:
        labelsieve demo
    """
    from labelsieve.jobs import run_demo

    with progress() as tell:
        audited = run_demo(out, seed=seed, resume=resume, overwrite=overwrite, progress=tell)
    show_audit(audited, out, as_json)


@click.command(cls=Command)
@click.argument("images")
@click.option("--out", required=True, type=FILE, help="Folder for the noisy copy.")
@table_options
@click.option("--symmetric", default=0.0, metavar="RATE", help="Share given any other class.")
@click.option("--asymmetric", default=0.0, metavar="RATE", help="Share moved as --pair says.")
@click.option("--pair", "pairs", multiple=True, metavar="FROM:TO", help="Class pair, repeatable.")
@click.option("--matrix", type=FILE, metavar="FILE", help="CSV: P(given class | true class).")
@click.option("--foreign", default=0.0, metavar="RATE", help="Share replaced by other images.")
@click.option("--foreign-from", metavar="IMAGES", help="Where those come from.")
@click.option("--seed", default=0, show_default=True, help="Of what is changed.")
@json_option
def corrupt(images: str, out: Path, as_json: bool, **chosen: Any) -> None:
    """Copy a set with noise made on purpose; the truth is kept beside it.

    OUT gets images.parquet (image, label, truth) and truth.csv. Your images are only read.

    \b
    Example:
        labelsieve corrupt photos/ --out noisy/ --symmetric 0.2 --foreign 0.1 --foreign-from other/
        labelsieve audit noisy/images.parquet --truth truth --out run/
    """
    from labelsieve.jobs import run_corrupt

    with progress() as tell:
        made = run_corrupt(images, out, progress=tell, **chosen)
    if as_json:
        click.echo(json.dumps(made, indent=2))
    else:
        click.echo(
            f"{made['images']}: {made['n_images']:,} images, {made['n_mislabeled']:,} mislabeled, "
            f"{made['n_foreign']:,} foreign."
        )


@click.command(cls=Command)
@click.argument("runs", metavar="RUN...", type=FILE, nargs=-1, required=True)
@click.option("--truth", type=FILE, help="Table with columns image and truth.")
@json_option
def evaluate(runs: tuple[Path, ...], truth: Path | None, as_json: bool) -> None:
    """Score what a run found against a table of true labels.

    Of an audit, the truth of an image is its class; any other word means foreign, and "broken"
    means broken. Of clusterings several runs may be given, such as those of several seeds: their
    mean, spread and agreement are shown too. Without --truth, trainings are compared by the scores
    on their test images.

    \b
    Example:
        labelsieve evaluate run/ --truth truth.csv
        labelsieve evaluate seed0/ seed1/ seed2/ --truth truth.csv
        labelsieve evaluate model0/ model1/ model2/
    """
    from labelsieve.jobs import evaluate_classifiers, evaluate_clusters, evaluate_run
    from labelsieve.report.classifier_terminal import terminal_classifier_evaluation
    from labelsieve.report.cluster_terminal import terminal_evaluation
    from labelsieve.report.terminal import terminal_scores
    from labelsieve.run import read_run

    if truth is None:
        if any(read_run(run)["job"] != "train" for run in runs):
            raise click.UsageError("Missing option '--truth': only trainings have scores already.")
        compared = evaluate_classifiers(runs)
        show(terminal_classifier_evaluation(compared), compared.to_dict(), as_json)
        return
    if len(runs) > 1 or read_run(runs[0])["job"] == "cluster":
        found = evaluate_clusters(runs, truth)
        show(terminal_evaluation(found), found.to_dict(), as_json)
        return
    scores = evaluate_run(runs[0], truth)
    show(terminal_scores(scores), scores.to_dict(), as_json)


def show_audit(audited: Audited, out: Path, as_json: bool) -> None:
    """Print what an audit found, and where it is written."""
    from rich.console import Group as Lines

    from labelsieve.report.table import summary
    from labelsieve.report.terminal import terminal_scores, terminal_summary

    findings, scores = audited.findings, audited.scores
    facts = summary(findings)
    shown: list[RenderableType] = [terminal_summary(findings)]
    if scores is not None:
        facts["scores"] = scores.to_dict()
        shown.append(terminal_scores(scores))
    show(Lines(*shown), facts, as_json)
    say(f"Findings: {out / 'findings.csv'}\nReport:   {out / 'report.html'}")
