"""Several trainings of an embedding, such as those of three seeds, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from labelsieve.errors import DataError
from labelsieve.report.retrieval_metrics import RetrievalScores
from labelsieve.report.spread import Spread, spread_of

_HEADINGS = {
    "precision_at_1": "Precision@1", "r_precision": "R-precision", "map_at_r": "MAP@R",
}  # fmt: skip
_RECALL = "recall_at_"


@dataclass(frozen=True)
class RetrievalEvaluation:
    """One or several trainings on the same test images; each by its last update."""

    runs: Mapping[str, RetrievalScores]  # by name of the run
    over_runs: Mapping[str, Spread]  # by measure; empty for one run

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "runs": {run: scores.to_dict() for run, scores in self.runs.items()},
            "over_runs": {name: asdict(spread) for name, spread in self.over_runs.items()},
        }


def retrieval_evaluation(runs: Mapping[str, RetrievalScores]) -> RetrievalEvaluation:
    """Put the scores of runs side by side; of several also mean and spread.

    Args:
        runs: scores by name of the run.

    Raises:
        DataError: the runs were tested on different numbers of images.
    """
    names = list(runs)
    for other in names[1:]:
        tested = [runs[name].n_queries + runs[name].n_without_mate for name in (names[0], other)]
        if tested[0] != tested[1]:
            raise DataError(
                f"{other}: tested on {tested[1]:,} images, and {names[0]} on {tested[0]:,}. "
                "Compare runs that were tested on the same images."
            )
    return RetrievalEvaluation(runs, over_seeds(list(runs.values())) if len(runs) > 1 else {})


def over_seeds(scores: Sequence[RetrievalScores]) -> dict[str, Spread]:
    """Mean, standard deviation and interval of each measure that all runs have.

    Example:
        >>> over_seeds([])
        {}
    """
    found = [measures(one) for one in scores]
    names = list(found[0]) if found else []
    columns = {name: [one.get(name) for one in found] for name in names}
    return {
        name: spread_of(known, is_share=True)
        for name, values in columns.items()
        if len(known := [value for value in values if value is not None]) == len(values)
    }


def measures(scores: RetrievalScores) -> dict[str, float | None]:
    """Every measure by its name, in the order of tables; Recall@1 is Precision@1, said once.

    All are shares in [0, 1]; None where there was no query.
    """
    recalls = {f"{_RECALL}{k}": share for k, share in sorted(scores.recall_at.items()) if k > 1}
    return {
        "precision_at_1": scores.precision_at_1,
        **recalls,
        "r_precision": scores.r_precision,
        "map_at_r": scores.map_at_r,
    }


def heading(name: str) -> str:
    """A measure as tables call it.

    Example:
        >>> heading("recall_at_4"), heading("map_at_r")
        ('Recall@4', 'MAP@R')
    """
    return _HEADINGS.get(name) or f"Recall@{name.removeprefix(_RECALL)}"
