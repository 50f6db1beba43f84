"""tag: tags cleaned by a few that people verified."""

from __future__ import annotations

from collections.abc import Sequence
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
    from labelsieve.tagging.written import Cleaned


@click.command(cls=Command)
@click.argument("table")
@click.option("--out", required=True, type=FILE, help="Folder of the run.")
@click.option("--verified", metavar="COLUMN|FILE", help="What people found of some of them.")
@click.option("--test", "answers", metavar="COLUMN|FILE", help="The same, only to score by.")
@click.option(
    "--images", "image_folder", metavar="FOLDER", help="Of the images, where TABLE names none."
)
@click.option("--synonyms", metavar="FILE", help="CSV from,to: two names of one tag.")
@click.option("--implies", multiple=True, metavar="TAG:TAG", help="As dog:animal; repeatable.")
@click.option("--groups", metavar="FILE", help="CSV tag,group: scored together.")
@click.option("--target-precision", type=float, metavar="SHARE", help="Of what stays, the right.")
@click.option(
    "--suggest-verify",
    "n_questions",
    default=0,
    type=click.IntRange(min=0),
    metavar="N",
    help="What to ask next.",
)
@click.option(
    "--suggest-for",
    "mode",
    default="learn",
    show_default=True,
    type=click.Choice(["learn", "fix"]),
    help="To learn most, or to mend most.",
)
@click.option("--compare", multiple=True, metavar="RECIPE", help="Train too; needs --test.")
@table_options
@feature_options
@settings_options("default")
@run_options
@json_option
def tag(  # noqa: PLR0913 -- one argument an option
    table: str,
    out: Path,
    target_precision: float | None,
    n_questions: int,
    mode: Literal["learn", "fix"],
    compare: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Clean noisy tags of images by a few that people verified, and train a tagger.

    TABLE has a column of lists, columns of 0 and 1, or a row a tag; or it is COCO, Pascal VOC, Open
    Images, NUS-WIDE, MIRFLICKR or text files beside images. OUT gets tags.csv (a row a tag),
    labels.csv (a row an image), the cleaned tags in the form of TABLE, the tagger, and report.html.
    Go on with --resume when more is verified: features are kept.

    \b
    Example:
        labelsieve tag photos.csv --verified checked.csv --suggest-verify 300 --out run/
        labelsieve tag photos.csv --verified run/to_verify.csv --out run/ --resume
    """
    from labelsieve.stages.inputs import Inputs
    from labelsieve.tagging.settings import Wanted, tagging_recipe
    from labelsieve.tagging.tag import run_tag

    settings = changed(tagging_recipe(chosen["recipe"], chosen["pretrain"]), chosen)
    if target_precision is not None:
        settings = settings.for_precision(target_precision)
    if compare and chosen["answers"] is None:
        raise click.UsageError("--compare needs --test: what others are scored on.")
    with progress() as tell:
        found = run_tag(
            Inputs(source=table, **chosen), settings, out,
            Wanted(n_questions, mode, compare), resume=resume, overwrite=overwrite, progress=tell,
            tell=say_all,
        )  # fmt: skip
    show_tags(found, out, as_json)


def say_all(sentences: Sequence[str]) -> None:
    """One a line."""
    for sentence in sentences:
        say(sentence)


def show_tags(found: Cleaned | None, out: Path, as_json: bool) -> None:
    """Print what was found of the tags, and where it is written."""
    from labelsieve.report.tag_terminal import terminal_tags
    from labelsieve.run import read_run
    from labelsieve.tagging.written import read_cleaned

    about = read_run(out)
    found = found or read_cleaned(out, about)  # a run that had finished
    say_all(about["notes"])
    facts = {name: about.get(name) for name in ("summary", "scores")}
    show(terminal_tags(found.tagged, found.scores, found.rows), facts, as_json)
    say_all(about.get("advice") or ())
    say(
        f"Tags:    {out / 'tags.csv'}\nCleaned: {out / about['cleaned']}\n"
        f"Report:  {out / 'report.html'}"
    )
    for command, _ in about["next"]:
        say(
            f"Verify:  {out / 'to_verify.csv'}: write 1 or 0 into its column present, then go on:\n"
            f"         {command}"
        )
