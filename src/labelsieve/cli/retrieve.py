"""retrieve: an embedding that survives the noise."""

from __future__ import annotations

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
    from labelsieve.retrieval.retrieve import Retrieved


class Rate(click.ParamType):  # type: ignore[type-arg]  # not generic in click 8.1
    """A share, or auto."""

    name = "RATE|auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The number, or the word."""
        if isinstance(value, str) and value.strip().lower() == "auto":
            return "auto"
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is no share; expected one such as 0.2, or auto.", param, ctx)


@click.command(cls=Command)
@click.argument("images")
@click.option("--out", required=True, type=FILE, help="Folder of the run.")
@click.option("--test", metavar="IMAGES", help="Labeled images to test on, of any classes.")
@click.option(
    "--model",
    default="features",
    show_default=True,
    metavar="NAME",
    help="What is trained: features (a layer on them), small, cars, sop, finetune, ...",
)
@click.option(
    "--noise-rate",
    type=Rate(),
    metavar="RATE|auto",
    help="Share of wrong labels; auto estimates it.",
)
@click.option("--test-label", metavar="COLUMN", help="Column of the test images' labels.")
@click.option("--test-features", metavar="FILE", help="Of the test images, with --features.")
@table_options
@feature_options
@settings_options("prism")
@run_options
@json_option
def retrieve(
    images: str,
    out: Path,
    noise_rate: float | Literal["auto"] | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Train an embedding on noisily labeled images, in which like images lie close.

    IMAGES is what `audit` takes. Test images may show other classes than these: what is scored is
    whether the nearest ones show the same. OUT gets the model, embeddings.npy, findings of which
    labels are wrong, report.html, run.json and, with --test, scores and retrieved.csv.

    \b
    Example:
        labelsieve retrieve photos/ --test checked/ --out model/
        labelsieve retrieve photos/ --recipe two-stage --model small --out model/
        labelsieve predict model/ new-photos/ --out new.npy
    """
    from labelsieve.retrieval.retrieve import run_retrieve
    from labelsieve.retrieval.settings import retrieve_recipe
    from labelsieve.stages.inputs import Inputs

    settings = changed(
        retrieve_recipe(chosen["recipe"], chosen["model"], chosen["pretrain"]), chosen
    )
    if noise_rate is not None:
        settings = settings.with_noise_rate(noise_rate)
    with progress() as tell:
        found = run_retrieve(
            Inputs(source=images, **chosen), settings, out,
            resume=resume, overwrite=overwrite, progress=tell,
        )  # fmt: skip
    show_retrieval(found, out, as_json)


def show_retrieval(found: Retrieved | None, out: Path, as_json: bool) -> None:
    """Print what a training came to, and where it is written; a mere helper has nothing to say."""
    if found is None:
        return
    from labelsieve.report.retrieval_terminal import terminal_retrieval
    from labelsieve.run import read_run

    about = read_run(out)
    facts = {name: about.get(name) for name in ("summary", "scores", "label_scores")}
    scores = next(reversed(found.stages.values()), None)
    show(terminal_retrieval(found.findings, scores, stages=found.stages), facts, as_json)
    say(
        f"Model:      {out / 'model.safetensors'}\nEmbeddings: {out / 'embeddings.npy'}\n"
        f"Findings:   {out / 'findings.csv'}\nReport:     {out / 'report.html'}"
    )
