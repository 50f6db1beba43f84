"""Several trainings, such as those of three seeds, held against the truth and each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from labelsieve.errors import DataError
from labelsieve.records.choices import in_common
from labelsieve.records.predictions import Predictions
from labelsieve.report.classifier_scores import MEASURES, ClassifierScores, Interval, wilson
from labelsieve.report.spread import Spread, spread_of

_SHARES = ("accuracy", "top5", "balanced_accuracy", "calibration_error")  # in [0, 1]


@dataclass(frozen=True)
class ClassifierEvaluation:
    """One or several trainings against the truth; each by its last epoch."""

    runs: Mapping[str, ClassifierScores]  # by name of the run
    over_runs: Mapping[str, Spread]  # by measure; empty for one run
    agreement: float | None  # share of the images that two runs give one class, mean over pairs
    # Of the mean accuracy, Wilson, 95 %: over other test images, where `over_runs` has that over
    # other trainings on the same ones, which is narrow where two agree. None of one run.
    over_images: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "runs": {run: scores.to_dict() for run, scores in self.runs.items()},
            "over_runs": {name: asdict(spread) for name, spread in self.over_runs.items()},
            "agreement": self.agreement,
            "over_images": self.over_images,
        }


def classifier_evaluation(
    runs: Mapping[str, ClassifierScores], predictions: Mapping[str, Predictions] | None = None
) -> ClassifierEvaluation:
    """Put the scores of runs side by side; of several also mean, spread and how alike they are.

    Args:
        runs: scores by name of the run.
        predictions: of the test images, by the same names; without them there is no agreement.

    Raises:
        DataError: the runs know other classes, or two of them have no test image in common.
    """
    names = list(runs)
    for other in names[1:]:
        if runs[other].class_names != runs[names[0]].class_names:
            raise DataError(
                f"{other}: knows other classes than {names[0]}. Compare runs of the same classes."
            )
    several = len(runs) > 1
    return ClassifierEvaluation(
        runs=runs,
        over_runs=over_seeds(list(runs.values())) if several else {},
        agreement=_agreement(predictions) if several and predictions else None,
        over_images=over_images(list(runs.values())) if several else None,
    )


def over_images(scores: Sequence[ClassifierScores]) -> Interval | None:
    """The interval of the mean accuracy over other test images: Wilson, 95 %; None without one.

    Of runs tested on more and on fewer images, the fewest count.
    """
    found = [one.accuracy for one in scores if one.accuracy is not None]
    if not found or len(found) < len(scores):
        return None
    n = min(one.n_scored for one in scores)
    low, high = wilson(np.float64(np.mean(found) * n), np.int64(n))  # type: ignore[arg-type]
    return float(low), float(high)


def over_seeds(scores: Sequence[ClassifierScores]) -> dict[str, Spread]:
    """Mean, standard deviation and interval of each measure that all runs have.

    The accuracy is that of the last epoch of each.
    """
    found = {}
    for name in MEASURES:
        values = [getattr(one, name) for one in scores]
        if values and None not in values:
            found[name] = spread_of(values, is_share=name in _SHARES)
    return found


def _agreement(predictions: Mapping[str, Predictions]) -> float:
    shares = []
    for a, b in combinations(predictions.values(), 2):
        first, second = in_common(a.image, a.label, b.image, b.label)
        shares.append(float((first == second).mean()))
    return float(np.mean(shares))
