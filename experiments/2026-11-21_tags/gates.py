"""Other settings of the default's gates, on seeds that the benchmark does not use.

    python experiments/2026-11-21_tags/gates.py --data DIR --cache FOLDER --set primary
        --seeds 10 11 --change images_a_direction=0 --change "n_members=1 dropout=0.2"

A line a seed and change: AP_all and MAP of the cleaner and of the tagger, and CPU seconds. The
first is the recipe as it is. DIR and FOLDER as for `benchmarks/tags.py`, which makes the features.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from labelsieve.config import override
from labelsieve.methods.veit.recipes import tag_recipe
from labelsieve.methods.veit.training import VeitTraining
from tags import FEATURES, SETS, case, features_of, figures, measured, photos

SHOWN = ("cleaner AP_all", "cleaner MAP", "AP_all", "MAP", "MAP_full", "cpu s")


def changed(words: str) -> VeitTraining:
    """The default recipe with some settings of its gates changed: "rate=0.001 passes=8"."""
    settings = tag_recipe("default")
    for word in words.split():
        settings = replace(settings, objective=override(settings.objective, word))
    return settings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--set", default="primary", choices=SETS)
    parser.add_argument("--features", default="described", choices=FEATURES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11])
    parser.add_argument("--change", action="append", default=[""], help="name=value, several")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    given = photos(chosen.data)
    features = features_of(chosen.features, chosen.data, chosen.cache)
    for seed in chosen.seeds:
        on = case(chosen.set, given, features, seed)
        for words in chosen.change:
            found = figures(measured(on, "default", changed(words)))
            line = ", ".join(f"{name} {found[name]:.2f}" for name in SHOWN)
            print(f"{chosen.set} {seed} {words or 'as it is':40} {line}", flush=True)


if __name__ == "__main__":
    main()
