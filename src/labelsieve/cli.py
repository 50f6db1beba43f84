"""The command line: parse, call, print, exit. Nothing else in the package prints.

Words and progress go to stderr, results to stdout, so `--json` can be piped. Torch costs seconds to
import, so each command imports what it needs when it runs, and `--help` answers at once.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from labelsieve import __version__
from labelsieve.errors import ConfigError, LabelsieveError, did_you_mean

if TYPE_CHECKING:
    from rich.console import RenderableType

    from labelsieve.inputs import Inputs, Progress
    from labelsieve.pipeline import Audit, Audited
    from labelsieve.representation import Made

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)
PATIENCE = 60  # seconds between two lines of progress where stderr is no terminal


class Command(click.Command):
    """A command that prints our own errors as one message, and leaves bugs their traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            if context.params.get("resume") and context.params.get("overwrite"):
                raise click.UsageError("--resume and --overwrite contradict each other; give one.")
            return super().invoke(context)
        except LabelsieveError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            again = " --resume goes on from what is finished." if "resume" in context.params else ""
            _say(f"Stopped.{again}")
            context.exit(130)


class Group(click.Group):
    """A group whose commands are all a `Command`, and which names near commands."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No command {args[0]!r}. {did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="labelsieve")
def main() -> None:
    """From a folder of noisily labeled images to verdicts and clean labels.

    \b
    Try it:       labelsieve demo
    Your images:  labelsieve audit photos/ --out run/
    """


def options(*several: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator."""

    def decorate(command: F) -> F:
        for option in reversed(several):
            command = option(command)
        return command

    return decorate


table_options = options(
    click.option("--label", metavar="COLUMN", help="Column of the labels, for tables."),
    click.option("--truth", metavar="COLUMN", help="Column of true labels: scores, never decides."),
)
feature_options = options(
    click.option("--features", metavar="FILE", help="Your own: .npy, .npz or .parquet."),
    click.option("--backbone", metavar="timm:NAME", help="A pretrained network."),
    click.option("--weights", metavar="FILE", help="Its weights; nothing is ever downloaded."),
    click.option("--pretrain", metavar="RECIPE", help="Train a network on these images first."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps."),
)
settings_options = options(
    click.option("--recipe", default="robust", show_default=True, help="See `labelsieve recipes`."),
    click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="One setting."),
    click.option("--config", type=FILE, metavar="FILE", help="TOML file of settings."),
    click.option("--seed", default=0, show_default=True, help="Of every random choice."),
)
run_options = options(
    click.option("--resume", is_flag=True, help="Go on with the run that is in --out."),
    click.option("--overwrite", is_flag=True, help="Replace the run that is in --out."),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")


@main.command()
@click.argument("images")
@click.option("--out", required=True, type=FILE, help="Folder of the run.")
@table_options
@feature_options
@settings_options
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

    inputs, settings = _inputs(images, chosen)
    if dry_run:
        plan = estimate(inputs, settings)
        _show(plan.to_table(), plan.to_dict(), as_json)
        return
    with _progress() as progress:
        audited = run_audit(
            inputs, settings, out, resume=resume, overwrite=overwrite, progress=progress
        )
    _show_audit(audited, out, as_json)


@main.command()
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

    with _progress() as progress:
        audited = run_demo(out, seed=seed, resume=resume, overwrite=overwrite, progress=progress)
    _show_audit(audited, out, as_json)


@main.command()
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

    with _progress() as progress:
        made = run_corrupt(images, out, progress=progress, **chosen)
    if as_json:
        click.echo(json.dumps(made, indent=2))
    else:
        click.echo(
            f"{made['images']}: {made['n_images']:,} images, {made['n_mislabeled']:,} mislabeled, "
            f"{made['n_foreign']:,} foreign."
        )


@main.command()
@click.argument("run", type=FILE)
@click.option("--truth", required=True, type=FILE, help="Table with columns image and truth.")
@json_option
def evaluate(run: Path, truth: Path, as_json: bool) -> None:
    """Score the findings of a run against a table of true labels.

    The truth of an image is its class; any other word means foreign, and "broken" means broken.

    \b
    Example:
        labelsieve evaluate run/ --truth truth.csv
    """
    from labelsieve.jobs import evaluate_run
    from labelsieve.report.terminal import terminal_scores

    scores = evaluate_run(run, truth)
    _show(terminal_scores(scores), scores.to_dict(), as_json)


@main.command()
@click.argument("images")
@click.option("--out", required=True, type=FILE, help="The .npy file to write.")
@table_options
@feature_options
@settings_options
@run_options
def features(images: str, out: Path, resume: bool, overwrite: bool, **chosen: Any) -> None:
    """Write one unit-norm row an image, and the order of the rows beside it (.json).

    What was done is kept in a folder beside it (.run): settings, log, a network that was trained.

    \b
    Example:
        labelsieve features photos/ --pretrain cpu --out photos.npy
        labelsieve audit photos/ --features photos.npy --out run/
    """
    from labelsieve.representation import run_features

    inputs, settings = _inputs(images, chosen)
    with _progress() as progress:
        made = run_features(
            inputs, settings.dictionary, settings.pretrain, out,
            resume=resume, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    _show_features(made, out)


@main.command()
@click.argument("run", type=FILE)
def report(run: Path) -> None:
    """Write the report page of a finished run again.

    \b
    Example:
        labelsieve report run/
    """
    from labelsieve.jobs import rewrite_report

    _say(f"Report: {rewrite_report(run)}")


@main.command()
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
    from labelsieve.jobs import features_of, inputs_of
    from labelsieve.pipeline import run_audit
    from labelsieve.representation import run_features
    from labelsieve.run import read_run

    if read_run(run)["job"] == "features":
        source, dictionary, pretraining = features_of(run)
        with _progress() as progress:
            made = run_features(
                source, dictionary, pretraining, out,
                resume=resume, overwrite=overwrite, progress=progress,
            )  # fmt: skip
        _show_features(made, out)
        return
    inputs, settings = inputs_of(run)
    with _progress() as progress:
        audited = run_audit(
            inputs, settings, out, resume=resume, overwrite=overwrite, progress=progress
        )
    _show_audit(audited, out, as_json)


@main.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the named settings, or show one with all its values.

    \b
    Example:
        labelsieve recipes robust
    """
    from labelsieve.config import to_dict
    from labelsieve.features.recipes import PRETRAINING
    from labelsieve.methods.sncf.recipes import RECIPES

    both: dict[str, dict[str, Callable[[], Any]]] = {
        "of an audit, --recipe NAME": {**RECIPES},
        "of pretraining, --pretrain NAME": {**PRETRAINING},
    }
    if name is None:
        for title, known in both.items():
            click.echo(title)
            for each, make in known.items():
                click.echo(f"  {each}\n      {(make.__doc__ or '').strip().splitlines()[0]}")
        return
    every = {each: make for known in both.values() for each, make in known.items()}
    if name not in every:
        raise ConfigError(f"there is no recipe {name!r}. {did_you_mean(name, every)}")
    about = inspect.cleandoc(every[name].__doc__ or "")
    click.echo(f"{about}\n\n{json.dumps(to_dict(every[name]()), indent=2)}")


def _inputs(source: str, chosen: dict[str, Any]) -> tuple[Inputs, Audit]:
    """What the options say. Settings: recipe, then --config, then --set; the later wins."""
    from labelsieve.config import from_toml, overrides
    from labelsieve.inputs import Inputs
    from labelsieve.pipeline import recipe

    config, changes = chosen.pop("config"), chosen.pop("changes")
    settings = recipe(chosen["recipe"], chosen["pretrain"])
    if config is not None:
        settings = from_toml(settings, config)
    return Inputs(source=source, **chosen), overrides(settings, changes)


@contextmanager
def _progress() -> Iterator[Progress]:
    """One bar a stage on stderr, with the time left; a line a minute where it is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(elapsed_when_finished=True))  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}
        said = time.monotonic()

        def show(stage: str, done: int, total: int) -> None:
            nonlocal said
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
                if not console.is_terminal:
                    _say(f"{stage} ...")
            elif not console.is_terminal and time.monotonic() - said > PATIENCE:
                said = time.monotonic()
                _say(f"{stage} {done:,} of {total:,}")
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def _show_audit(audited: Audited, out: Path, as_json: bool) -> None:
    from rich.console import Group as Lines

    from labelsieve.report.table import summary
    from labelsieve.report.terminal import terminal_scores, terminal_summary

    findings, scores = audited.findings, audited.scores
    facts = summary(findings)
    shown: list[RenderableType] = [terminal_summary(findings)]
    if scores is not None:
        facts["scores"] = scores.to_dict()
        shown.append(terminal_scores(scores))
    _show(Lines(*shown), facts, as_json)
    _say(f"Findings: {out / 'findings.csv'}\nReport:   {out / 'report.html'}")


def _show_features(made: Made | None, out: Path) -> None:
    """Of a process that only helped to train there is nothing to say."""
    if made is None:
        return
    if made.broken:
        some = "; ".join(f"{name}: {why}" for name, why in list(made.broken.items())[:3])
        _say(
            f"{len(made.broken):,} images cannot be read and have no row: {some}"
            f"{'; ...' if len(made.broken) > 3 else ''}. All of them: "
            f"{out.with_suffix('.run') / 'run.json'}"
        )
    n, dimensions = made.features.values.shape
    _say(f"{out}: {n:,} rows of {dimensions} numbers.")
    _say(f"Next: labelsieve audit IMAGES --features {out} --out RUN")


def _show(text: RenderableType, facts: dict[str, Any], as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        Console().print(text)


def _say(words: str) -> None:
    click.echo(words, err=True)
