"""Several cluster runs held against the truth, and against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelsieve.records.clusters import Clusters
from labelsieve.report.cluster_scores import ClusterScores, over_seeds, score_parts, seed_agreement


@dataclass(frozen=True)
class ClusterEvaluation:
    """One or several cluster runs against the truth."""

    runs: Mapping[str, Mapping[str, ClusterScores]]  # run -> part -> scores
    over_runs: Mapping[str, Mapping[str, tuple[float, float]]]  # part -> measure -> mean, std
    agreement: float | None  # mean ARI of two runs, which no label enters; None for one run

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON; a standard deviation of one run is None."""
        return {
            "runs": {
                run: {part: scores.to_dict() for part, scores in parts.items()}
                for run, parts in self.runs.items()
            },
            "over_runs": {
                part: {
                    name: {"mean": mean, "std": None if np.isnan(std) else std}
                    for name, (mean, std) in measures.items()
                }
                for part, measures in self.over_runs.items()
            },
            "agreement": self.agreement,
        }


def evaluation(
    runs: Mapping[str, Clusters], truths: Mapping[str, Sequence[str | None]]
) -> ClusterEvaluation:
    """Score each run by parts; of several runs also mean and spread, and how alike they are.

    Args:
        runs: by name.
        truths: by the same names, one true class name an image of the run.
    """
    scores = {name: score_parts(clusters, truths[name]) for name, clusters in runs.items()}
    shared = [part for part in ("train", "valid", "new") if all(part in s for s in scores.values())]
    several = len(runs) > 1
    return ClusterEvaluation(
        runs=scores,
        over_runs={
            part: over_seeds([parts[part] for parts in scores.values()])
            for part in (shared if several else ())
        },
        agreement=seed_agreement(list(runs.values())) if several else None,
    )
