"""audit, and what belongs to it: demo, corrupt, evaluate."""

from __future__ import annotations

import json
from functools import partial
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

    from labelsieve.auditing.audit import Audited


@click.command(cls=Command)
@click.argument("images")
@click.option("--out", required=True, type=FILE, help="Folder of the run.")
@table_options
@feature_options
@click.option(
    "--method", type=click.Choice(["sncf", "prism"]), help="Whose recipe, if none is named."
)
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
    method: str | None,
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
    from labelsieve.auditing.audit import run_audit
    from labelsieve.auditing.estimate import estimate

    if method is not None:
        chosen["recipe"] = _recipe_of(method, chosen["recipe"])
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


def _recipe_of(method: str, recipe: str) -> str:
    """The recipe that is named, if it is the method's; else the first of the method."""
    from labelsieve.methods.auditing import METHODS

    source = click.get_current_context().get_parameter_source("recipe")
    if recipe in METHODS[method]:
        return recipe
    if source == click.core.ParameterSource.DEFAULT:
        return METHODS[method][0]
    raise click.UsageError(
        f"--recipe {recipe} is none of method {method}: {', '.join(METHODS[method])}. Give one "
        "of --method and --recipe."
    )


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


_TAG_NOISE = ("tag_false_positives", "tag_missing", "confusable", "from_model")


@click.command(cls=Command)
@click.argument("images")
@click.option("--out", required=True, type=FILE, help="Folder for the noisy copy.")
@table_options
@click.option("--symmetric", default=0.0, metavar="RATE", help="Share given any other class.")
@click.option("--independent", default=0.0, metavar="RATE", help="The same, each image by itself.")
@click.option("--asymmetric", default=0.0, metavar="RATE", help="Share moved as --pair says.")
@click.option("--pair", "pairs", multiple=True, metavar="FROM:TO", help="Class pair, repeatable.")
@click.option("--matrix", type=FILE, metavar="FILE", help="CSV: P(given class | true class).")
@click.option("--foreign", default=0.0, metavar="RATE", help="Share replaced by other images.")
@click.option("--foreign-from", metavar="IMAGES", help="Where those come from.")
@click.option(
    "--small-cluster", default=0.0, metavar="RATE", help="Share of classes scattered over others."
)
@click.option("--features", type=FILE, metavar="FILE", help="What is alike, for --small-cluster.")
@click.option("--tag-false-positives", metavar="LOW:HIGH", help="Wrong share of each tag.")
@click.option("--tag-missing", type=float, metavar="RATE", help="Share of right tags dropped.")
@click.option("--confusable", type=FILE, metavar="FILE", help="CSV: tag,confused_with.")
@click.option("--from-model", type=FILE, metavar="FILE", help=".npy: a weak model's scores.")
@click.option("--seed", default=0, show_default=True, help="Of what is changed.")
@json_option
def corrupt(images: str, out: Path, as_json: bool, **chosen: Any) -> None:
    """Copy a set with noise made on purpose; the truth is kept beside it.

    OUT gets images.parquet (image, label, truth) and truth.csv. Your images are only read.
    Options of tags are for sets of many tags an image, in any form that `tag` reads: tags become
    wrong, frequent ones less, on images of a --confusable tag or where a weak model errs.
    With --small-cluster whole classes go, a few similar images each to one of the others; without
    --features, dictionary features of these images say which are similar.

    \b
    Example:
        labelsieve corrupt photos/ --out noisy/ --symmetric 0.2 --foreign 0.1 --foreign-from other/
        labelsieve audit noisy/images.parquet --truth truth --out run/
        labelsieve corrupt tagged.csv --out noisy/ --tag-false-positives 0.2:0.8
    """
    tag_noise = {name: chosen.pop(name) for name in _TAG_NOISE}
    if any(value is not None for value in tag_noise.values()):
        _corrupt_tags(images, out, as_json, tag_noise, chosen)
        return
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
    from labelsieve.jobs import (
        evaluate_classifiers,
        evaluate_clusters,
        evaluate_retrieval,
        evaluate_run,
        evaluate_tags,
    )
    from labelsieve.report.classifier_terminal import terminal_classifier_evaluation
    from labelsieve.report.cluster_terminal import terminal_evaluation
    from labelsieve.report.retrieval_terminal import terminal_retrieval_evaluation
    from labelsieve.report.tag_terminal import terminal_tag_evaluation
    from labelsieve.report.terminal import terminal_scores
    from labelsieve.run import read_run

    if truth is None:
        jobs = {read_run(run)["job"] for run in runs}
        if jobs == {"retrieve"}:
            found_of = evaluate_retrieval(runs)
            show(terminal_retrieval_evaluation(found_of), found_of.to_dict(), as_json)
            return
        if jobs == {"tag"}:
            cleaned = evaluate_tags(runs)
            show(terminal_tag_evaluation(cleaned), cleaned.to_dict(), as_json)
            return
        if jobs != {"train"}:
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


def _corrupt_tags(
    images: str, out: Path, as_json: bool, tag_noise: dict[str, Any], others: dict[str, Any]
) -> None:
    """The copy with wrong and missing tags, which no noise of single labels goes with."""
    from labelsieve.data.corrupt_tags import corrupt_tags_of

    label, seed = others.pop("label"), others.pop("seed")
    given = sorted(name for name, value in others.items() if value)
    if given:
        options = ", ".join(f"--{name.rstrip('s').replace('_', '-')}" for name in given)
        raise click.UsageError(f"noise of tags does not go with {options}.")
    with progress() as tell:
        made = corrupt_tags_of(
            images,
            out,
            label=label,
            false_positives=tag_noise["tag_false_positives"],
            missing=tag_noise["tag_missing"],
            confusable=tag_noise["confusable"],
            from_model=tag_noise["from_model"],
            seed=seed,
            progress=partial(tell, "write"),
        )
    if as_json:
        click.echo(json.dumps(made, indent=2))
    else:
        click.echo(
            f"{made['images']}: {made['n_images']:,} images, {made['n_asserted']:,} pairs of "
            f"{made['n_tags']:,} tags; {made['n_wrong']:,} are wrong, {made['n_missing']:,} right "
            "ones are missing."
        )


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
