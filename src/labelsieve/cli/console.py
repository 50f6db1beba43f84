"""What is printed: results to stdout, where `--json` can be piped; words and progress to stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

    from labelsieve.stages.inputs import Progress

PATIENCE = 60  # seconds between two lines of progress where stderr is no terminal


@contextmanager
def progress() -> Iterator[Progress]:
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

        def tell(stage: str, done: int, total: int) -> None:
            nonlocal said
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
                if not console.is_terminal:
                    say(f"{stage} ...")
            elif not console.is_terminal and time.monotonic() - said > PATIENCE:
                said = time.monotonic()
                say(f"{stage} {done:,} of {total:,}")
            bars.update(tasks[stage], completed=done, total=total)

        yield tell


def show(text: RenderableType, facts: dict[str, Any], as_json: bool) -> None:
    """Print a result: for people, or as JSON."""
    from rich.console import Console

    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        Console().print(text)


def say(words: str) -> None:
    """Print words that are no result."""
    click.echo(words, err=True)
