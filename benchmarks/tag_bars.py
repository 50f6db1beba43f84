"""Tables of `benchmarks/tags.py`, and which of its bars several runs meet. Nothing is trained here.

A run is what `tags.measured` gives of each side, by its name; runs have the name of their seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from labelsieve.report.spread import spread_of
from labelsieve.report.tag_evaluation import tag_evaluation, wins
from labelsieve.report.tag_metrics import TagScores

Runs = Mapping[str, Mapping[str, Mapping[str, Any]]]  # seed -> side -> what it scored
ORDER = ("paper", "clean", "mixed", "noisy")  # by AP_all, the best first
OURS = ("default", "paper", "paper-pretrained", "mixed")  # that may not harm where noise is low
MEASURES = ("ap_all", "map", "map_full")
# What the default is to reach in one configuration.
AIMS = (("tagger", "ap_all", 88.5), ("tagger", "map", 73.0), ("cleaner", "map", 75.0))


class Bar(NamedTuple):
    """Something that has to hold."""

    what: str
    met: bool
    found: str


def table(title: str, runs: Runs) -> list[str]:
    """Lines: means over runs, in percent, and gains of the tagger over noisy within each run."""
    sides = list(next(iter(runs.values())))
    taggers = tag_evaluation(scores(runs, "tagger"))
    lines = [
        f"\n{title}: {len(runs)} seeds ({', '.join(runs)})",
        f"{'':16} {'AP_all':>20} {'MAP':>20} {'MAP_full':>20}   cleaner AP_all / MAP   "
        "cleaned precision / recall / F1 (given)   recall of true   CPU s",
    ]
    for side in sides:
        found = [run[side] for run in runs.values()]
        parts = [f"{side:16}"]
        for name in MEASURES:
            parts.append(f"{100 * mean_of(found, 'tagger', name):6.2f}{gain(taggers, side, name)}")
        cleaner = [100 * mean_of(found, "cleaner", name) for name in ("ap_all", "map")]
        full = [
            100 * mean_of(found, "cleaner", f"{name}_kept_full")
            for name in ("precision", "recall", "f1")
        ]
        given = 100 * float(np.mean([one["given f1"] for one in found]))
        parts.append(f"  {cleaner[0]:6.2f} / {cleaner[1]:6.2f}      ")
        parts.append(f"  {full[0]:6.2f} / {full[1]:6.2f} / {full[2]:6.2f} ({given:.2f})   ")
        parts.append(f"  {100 * mean_of(found, 'cleaner', 'recall_kept'):6.2f}   ")
        parts.append(f"  {np.mean([one['cpu s'] for one in found]):6.1f}")
        lines.append(" ".join(parts))
    return lines


def gain(taggers: Any, side: str, measure: str) -> str:
    """Mean and half the 95 % interval of the gain over noisy, in points; blank for noisy."""
    found = taggers.gains.get(side, {}).get(measure)
    if found is None:
        return " " * 14
    interval = found.spread.interval
    half = "" if interval is None else f"±{50 * (interval[1] - interval[0]):.2f}"
    return f" {100 * found.spread.mean:+6.2f}{half:>7}"


def scores(runs: Runs, which: str) -> dict[str, dict[str, TagScores]]:
    """Records of the taggers, or of the cleaners, of all runs and sides."""
    return {
        seed: {side: TagScores.from_dict(found[which]) for side, found in run.items()}
        for seed, run in runs.items()
    }


def mean_of(found: Sequence[Mapping[str, Any]], which: str, measure: str) -> float:
    return float(np.mean([one[which][measure] for one in found]))


def points(runs: Runs, side: str, other: str, measure: str, which: str = "tagger") -> list[float]:
    """By how many points a side is above another, run by run."""
    return [100 * (run[side][which][measure] - run[other][which][measure]) for run in runs.values()]


def bars(name: str, kind: str, runs: Runs) -> list[Bar]:
    """What is asked of a set, of those sides that were measured."""
    sides = set(next(iter(runs.values())))
    if name == "low-noise":
        return [
            at_least(f"{side} - noisy, AP_all", points(runs, side, "noisy", "ap_all"), -0.3)
            for side in OURS
            if {side, "noisy"} <= sides
        ]
    found = published(name, runs, sides)
    if {"default", "paper"} <= sides:
        pair = ("default", "paper", "map")
        found.append(at_least("default - paper, cleaner MAP", points(runs, *pair, "cleaner"), 1.0))
        found.append(at_least("default - paper, MAP", points(runs, *pair), 0.4))
    for side in sorted({"default", "paper"} & sides):
        recall = 82.0 if (name, side) == ("synthetic", "default") else None
        found += cleaned(runs, side, sides, least_recall=recall)
    if (name, kind) == ("primary", "described") and "default" in sides:
        for which, measure, least in AIMS:
            values = [100 * run["default"][which][measure] for run in runs.values()]
            found.append(at_least(f"default: {which} {measure}", values, least))
    return found


def published(name: str, runs: Runs, sides: set[str]) -> list[Bar]:
    """What Veit et al. found: the order on all sets, how far apart on the real ones."""
    found = []
    if set(ORDER) <= sides:
        counts = wins(tag_evaluation(scores(runs, "tagger")), "ap_all")
        for above, below in pairwise(ORDER):
            n = counts[above, below]
            gaps = " ".join(f"{gap:.2f}" for gap in points(runs, above, below, "ap_all"))
            found.append(
                Bar(f"{above} > {below}, AP_all", n == len(runs), f"{n}/{len(runs)}: {gaps}")
            )
    if not name.startswith("primary"):
        return found
    if {"paper", "noisy"} <= sides:
        gaps = points(runs, "paper", "noisy", "ap_all")
        found.append(at_least("paper - noisy, AP_all", gaps, 4.0))
        found.append(at_least("paper - noisy, MAP", points(runs, "paper", "noisy", "map"), 1.5))
    for side in ("clean-long", "clean-longest"):
        if {side, "noisy"} <= sides:
            gaps = points(runs, "noisy", side, "map")
            found.append(at_least(f"noisy - {side}, MAP", gaps, 0.0))
    return found


def cleaned(runs: Runs, side: str, sides: set[str], least_recall: float | None) -> list[Bar]:
    """The tags that a side leaves, against given ones and those that cleanlab leaves."""
    found = []
    own = [100 * run[side]["cleaner"]["f1_kept_full"] for run in runs.values()]
    others = {"given": [100 * run[side]["given f1"] for run in runs.values()]}
    if "cleanlab" in sides:
        others["cleanlab"] = [
            100 * run["cleanlab"]["cleaner"]["f1_kept_full"] for run in runs.values()
        ]
    for other, values in others.items():
        gaps = [mine - its for mine, its in zip(own, values, strict=True)]
        found.append(at_least(f"{side} - {other}, F1 of tags", gaps, 0.0))
    kept = [run[side]["never verified, kept"] for run in runs.values()]
    if None not in kept:
        what = f"{side}: never verified tags kept, %"
        found.append(at_least(what, [100 * one for one in kept], 100.0))
    if least_recall is not None:
        recall = [100 * run[side]["cleaner"]["recall_kept"] for run in runs.values()]
        found.append(at_least(f"{side}: recall of true tags, %", recall, least_recall))
    return found


def at_least(what: str, values: Sequence[float], least: float) -> Bar:
    """The mean over runs reaches so much."""
    spread = spread_of(values, is_share=False)
    each = " ".join(f"{value:.2f}" for value in values)
    return Bar(f"{what} >= {least:g}", spread.mean >= least, f"{spread.mean:.2f}: {each}")


def shown(bars: Sequence[Bar]) -> list[str]:
    return [f"  {'met   ' if bar.met else 'MISSED'} {bar.what:44} {bar.found}" for bar in bars]
