"""What commands have in common: how they end, and the options that several of them take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from labelsieve.cli.console import say
from labelsieve.cli.early import refuse_slips
from labelsieve.errors import LabelsieveError, did_you_mean

if TYPE_CHECKING:
    from labelsieve.auditing.audit import Audit
    from labelsieve.stages.inputs import Inputs

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")  # settings
FILE = click.Path(path_type=Path)


class Command(click.Command):
    """A command that prints our own errors as one message, and leaves bugs their traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            if context.params.get("resume") and context.params.get("overwrite"):
                raise click.UsageError("--resume and --overwrite contradict each other; give one.")
            refuse_slips(str(context.command.name), context.params)
            return super().invoke(context)
        except LabelsieveError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            again = " --resume goes on from what is finished." if "resume" in context.params else ""
            say(f"Stopped.{again}")
            context.exit(130)


class Group(click.Group):
    """A group that names near commands where there is none of a name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No command {args[0]!r}. {did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


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
    click.option("--network", metavar="PATH", help="One trained before: its folder, or weights."),
    click.option("--pretrain", metavar="RECIPE", help="Train a network on these images first."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps."),
)


def settings_options(recipe: str) -> Callable[[F], F]:
    """Recipe and settings, with the recipe that is taken where none is named."""
    return options(
        click.option(
            "--recipe", default=recipe, show_default=True, help="See `labelsieve recipes`."
        ),
        click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="One setting."),
        click.option("--config", type=FILE, metavar="FILE", help="TOML file of settings."),
        click.option("--seed", default=0, show_default=True, help="Of every random choice."),
    )


run_options = options(
    click.option("--resume", is_flag=True, help="Go on with the run that is in --out."),
    click.option("--overwrite", is_flag=True, help="Replace the run that is in --out."),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")


def chosen_inputs(source: str, chosen: dict[str, Any]) -> tuple[Inputs, Audit]:
    """What the options of an audit say."""
    from labelsieve.auditing.audit import recipe
    from labelsieve.stages.inputs import Inputs

    settings = changed(recipe(chosen["recipe"], chosen["pretrain"]), chosen)
    return Inputs(source=source, **chosen), settings


def changed(settings: S, chosen: dict[str, Any]) -> S:
    """Settings of a recipe as --config changes them, then --set; both are taken out of `chosen`."""
    from labelsieve.config import from_toml, overrides

    config, changes = chosen.pop("config"), chosen.pop("changes")
    if config is not None:
        settings = from_toml(settings, config)
    return overrides(settings, changes)
