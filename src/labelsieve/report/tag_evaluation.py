"""Several runs of the same methods, such as those of five seeds, side by side and in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

from labelsieve.errors import DataError, did_you_mean
from labelsieve.report.spread import Spread, spread_of
from labelsieve.report.tag_metrics import MEASURES, TagScores

BASELINE = "noisy"
CLEANER = ": cleaner"  # ends the name of a method that is scored on given pairs only


@dataclass(frozen=True)
class Gain:
    """What a method gains over the baseline of the same run."""

    values: tuple[float, ...]  # of the runs, in their order
    spread: Spread  # the deviation is that of the gains, not of the scores

    @property
    def n_better(self) -> int:
        """Runs in which it gains."""
        return sum(value > 0 for value in self.values)


@dataclass(frozen=True)
class TagEvaluation:
    """One or several runs, each with the scores of its methods."""

    runs: Mapping[str, Mapping[str, TagScores]]  # run -> method -> scores
    baseline: str | None  # the method that the others are compared with; None where no run has it
    over_runs: Mapping[str, Mapping[str, Spread]]  # method -> measure; empty for one run
    gains: Mapping[str, Mapping[str, Gain]]  # method -> measure; of those scored as the baseline is
    by_frequency: Mapping[str, Sequence[float]]  # method -> mean MAP gain of each bin
    by_noise: Mapping[str, Sequence[float]]

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""

        def plain(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
            return {
                method: {name: asdict(one) for name, one in found.items()}
                for method, found in table.items()
            }

        return {
            "runs": {
                run: {method: scores.to_dict() for method, scores in methods.items()}
                for run, methods in self.runs.items()
            },
            "baseline": self.baseline,
            "over_runs": plain(self.over_runs),
            "gains": plain(self.gains),
            "by_frequency": {name: list(bins) for name, bins in self.by_frequency.items()},
            "by_noise": {name: list(bins) for name, bins in self.by_noise.items()},
        }


def tag_evaluation(
    runs: Mapping[str, Mapping[str, TagScores]], baseline: str = BASELINE
) -> TagEvaluation:
    """Put runs side by side; gains are taken within a run, then over runs.

    Runs differ by their draw of images and noise far more than methods do within one: mean and
    deviation of the paired gains say what a method brings, those of the scores do not.

    Args:
        runs: scores of each method, by name of the run.
        baseline: the method that others are compared with; without it there are no gains.

    Raises:
        DataError: runs of other tags, or without a method in common; methods of a run that were
            scored on other pairs.
    """
    names = list(runs)
    if not names:
        raise DataError("no run to evaluate; expected the scores of one or more.")
    methods = [method for method in runs[names[0]] if all(method in runs[run] for run in names)]
    if not methods:
        raise DataError(
            f"{', '.join(names)}: no method that all of them have. Compare runs of one kind."
        )
    _check(runs, methods)
    found = {method: [runs[run][method] for run in names] for method in methods}
    base = found.get(baseline)
    others = {
        method: scores
        for method, scores in found.items()
        if base and method != baseline and all(map(TagScores.is_of_the_same_pairs, scores, base))
    }
    return TagEvaluation(
        runs=runs,
        baseline=baseline if base else None,
        over_runs={m: over_seeds(scores) for m, scores in found.items()} if len(names) > 1 else {},
        gains={m: paired_gains(scores, base or []) for m, scores in others.items()},
        by_frequency={m: _bin_gains(s, base or [], "by_frequency") for m, s in others.items()},
        by_noise={m: _bin_gains(s, base or [], "by_noise") for m, s in others.items()},
    )  # fmt: skip


def over_seeds(scores: Sequence[TagScores]) -> dict[str, Spread]:
    """Mean, standard deviation and interval of each measure that all runs have."""
    found = [one.measures() for one in scores]
    columns = {name: [one[name] for one in found] for name in MEASURES}
    return {
        name: spread_of(known, is_share=True)
        for name, values in columns.items()
        if values and len(known := [v for v in values if v is not None]) == len(values)
    }


def paired_gains(scores: Sequence[TagScores], baselines: Sequence[TagScores]) -> dict[str, Gain]:
    """What a method gains in each run over that run's own baseline, by measure.

    Args:
        scores: of the runs.
        baselines: of the same runs, in the same order.

    Raises:
        DataError: not one baseline a run.
    """
    if len(scores) != len(baselines):
        raise DataError(
            f"{len(scores)} runs and {len(baselines)} baselines; expected one of each for each run."
        )
    gains = {}
    for name in MEASURES:
        pairs = [
            (one.measures()[name], base.measures()[name])
            for one, base in zip(scores, baselines, strict=True)
        ]
        values = tuple(a - b for a, b in pairs if a is not None and b is not None)
        if values and len(values) == len(pairs):
            gains[name] = Gain(values, spread_of(values, is_share=False))
    return gains


def wins(evaluation: TagEvaluation, measure: str) -> dict[tuple[str, str], int]:
    """In how many runs the first method is above the second, for every two that are in all runs.

    Args:
        evaluation: of the runs.
        measure: one of `MEASURES`.

    Raises:
        DataError: there is no such measure.
    """
    if measure not in MEASURES:
        raise DataError(f"there is no measure {measure!r}. {did_you_mean(measure, MEASURES)}")
    runs = [
        {method: scores.measures()[measure] for method, scores in methods.items()}
        for methods in evaluation.runs.values()
    ]
    common = [name for name in runs[0] if all(run.get(name) is not None for run in runs)]
    return {
        (a, b): sum((run[a] or 0.0) > (run[b] or 0.0) for run in runs)
        for a, b in permutations(common, 2)
    }


def _check(runs: Mapping[str, Mapping[str, TagScores]], methods: Sequence[str]) -> None:
    names = list(runs)
    tags = runs[names[0]][methods[0]].tag_names
    for run in names:
        first = runs[run][methods[0]]
        for method in methods:
            scores = runs[run][method]
            if scores.tag_names != tags:
                raise DataError(
                    f"{run}: has other tags than {names[0]}. Compare runs of the same tags."
                )
            if not (method.endswith(CLEANER) or scores.is_of_the_same_pairs(first)):
                raise DataError(
                    f"{run}: {method} was scored on other pairs than {methods[0]}. Score all "
                    "methods of a run on the same verified pairs."
                )


def _bin_gains(
    scores: Sequence[TagScores], baselines: Sequence[TagScores], which: str
) -> list[float]:
    """The mean over runs of the MAP gain of each bin; runs with fewer bins are left out."""
    tables = []
    for one, base in zip(scores, baselines, strict=True):
        bins = zip(getattr(one, which), getattr(base, which), strict=True)
        tables.append([mine.map - other.map for mine, other in bins])
    width = max((len(row) for row in tables), default=0)
    whole = [row for row in tables if len(row) == width]
    return [sum(column) / len(whole) for column in zip(*whole, strict=True)]
