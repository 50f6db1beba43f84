"""The command line: parse, call, print, exit. Nothing else in the package prints.

Torch costs seconds to import, so each command imports what it needs when it runs, and `--help`
answers at once.
"""

from __future__ import annotations

import click

from labelsieve import __version__
from labelsieve.cli.audit import audit, corrupt, demo, evaluate
from labelsieve.cli.cluster import cluster, export, predict
from labelsieve.cli.features import features
from labelsieve.cli.options import Group
from labelsieve.cli.retrieve import retrieve
from labelsieve.cli.runs import recipes, report, rerun
from labelsieve.cli.tag import tag
from labelsieve.cli.train import train

__all__ = ["main"]


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="labelsieve")
def main() -> None:
    """From a folder of noisily labeled images, or unlabeled ones, to labels that hold.

    \b
    Try it:          labelsieve demo
    Labeled images:  labelsieve audit photos/ --out run/
    A classifier:    labelsieve train run/ --test checked/ --out model/
    Without labels:  labelsieve cluster photos/ --classes 10 --out run/
    To search with:  labelsieve retrieve photos/ --test checked/ --out model/
    Noisy tags:      labelsieve tag photos.csv --verified checked.csv --out run/
    """


for command in (
    audit, train, demo, corrupt, evaluate, features, cluster, retrieve, tag, predict, export,
    report, rerun, recipes,
):  # fmt: skip
    main.add_command(command)
