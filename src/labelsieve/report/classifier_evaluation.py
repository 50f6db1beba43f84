"""Several trainings, such as those of three seeds, held against the truth and each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from labelsieve.choices import in_common
from labelsieve.classified import Predictions
from labelsieve.errors import DataError
from labelsieve.report.classifier_scores import LEVEL, MEASURES, ClassifierScores, Interval

_SHARES = ("accuracy", "top5", "balanced_accuracy", "calibration_error")  # in [0, 1]


@dataclass(frozen=True)
class Spread:
    """One measure over several trainings."""

    n_runs: int
    mean: float
    std: float | None  # with n - 1; None of one run
    interval: Interval | None  # of the mean, Student's t, 95 %: over other seeds; None of one run


@dataclass(frozen=True)
class ClassifierEvaluation:
    """One or several trainings against the truth; each by its last epoch."""

    runs: Mapping[str, ClassifierScores]  # by name of the run
    over_runs: Mapping[str, Spread]  # by measure; empty for one run
    agreement: float | None  # share of the images that two runs give one class, mean over pairs

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "runs": {run: scores.to_dict() for run, scores in self.runs.items()},
            "over_runs": {name: asdict(spread) for name, spread in self.over_runs.items()},
            "agreement": self.agreement,
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
    )


def over_seeds(scores: Sequence[ClassifierScores]) -> dict[str, Spread]:
    """Mean, standard deviation and interval of each measure that all runs have.

    The accuracy is that of the last epoch of each. The interval says where the mean over ever more
    trainings lies, on the same test images; it does not say how other test images would come out.
    """
    found = {}
    for name in MEASURES:
        values = [getattr(one, name) for one in scores]
        if values and None not in values:
            found[name] = _spread(np.array(values, np.float64), is_share=name in _SHARES)
    return found


def _agreement(predictions: Mapping[str, Predictions]) -> float:
    shares = []
    for a, b in combinations(predictions.values(), 2):
        first, second = in_common(a.image, a.label, b.image, b.label)
        shares.append(float((first == second).mean()))
    return float(np.mean(shares))


def _spread(values: NDArray[np.float64], *, is_share: bool) -> Spread:
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Spread(n, mean, None, None)
    std = float(values.std(ddof=1))
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * std / n**0.5
    low, high = mean - half, mean + half
    if is_share:
        low, high = max(0.0, low), min(1.0, high)
    return Spread(n, mean, std, (low, high))
