"""features: one row an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labelsieve.cli.console import progress, say
from labelsieve.cli.options import (
    FILE,
    Command,
    chosen_inputs,
    feature_options,
    run_options,
    settings_options,
    table_options,
)

if TYPE_CHECKING:
    from labelsieve.stages.representation import Made


@click.command(cls=Command)
@click.argument("images")
@click.option("--out", required=True, type=FILE, help="The .npy file to write.")
@table_options
@feature_options
@settings_options("robust")
@run_options
def features(images: str, out: Path, resume: bool, overwrite: bool, **chosen: Any) -> None:
    """Write one unit-norm row an image, and the order of the rows beside it (.json).

    What was done is kept in a folder beside it (.run): settings, log, a network that was trained.

    \b
    Example:
        labelsieve features photos/ --pretrain cpu --out photos.npy
        labelsieve audit photos/ --features photos.npy --out run/
    """
    from labelsieve.stages.representation import run_features

    inputs, settings = chosen_inputs(images, chosen)
    with progress() as tell:
        made = run_features(
            inputs, settings.dictionary, settings.pretrain, out,
            resume=resume, overwrite=overwrite, progress=tell,
        )  # fmt: skip
    show_features(made, out)


def show_features(made: Made | None, out: Path) -> None:
    """Of a process that only helped to train there is nothing to say."""
    if made is None:
        return
    if made.broken:
        some = "; ".join(f"{name}: {why}" for name, why in list(made.broken.items())[:3])
        say(
            f"{len(made.broken):,} images cannot be read and have no row: {some}"
            f"{'; ...' if len(made.broken) > 3 else ''}. All of them: "
            f"{out.with_suffix('.run') / 'run.json'}"
        )
    n, dimensions = made.features.values.shape
    say(f"{out}: {n:,} rows of {dimensions} numbers.")
    say(f"Next: labelsieve audit IMAGES --features {out} --out RUN")
