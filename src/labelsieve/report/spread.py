"""One measure over several runs, such as those of several seeds: mean, deviation and interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from labelsieve.report.classifier_scores import LEVEL, Interval


@dataclass(frozen=True)
class Spread:
    """One measure over several trainings."""

    n_runs: int
    mean: float
    std: float | None  # with n - 1; None of one run
    interval: Interval | None  # of the mean, Student's t, 95 %: over other seeds; None of one run


def spread_of(values: Sequence[float], *, is_share: bool) -> Spread:
    """Mean, standard deviation and interval of one measure.

    The interval says where the mean over ever more trainings lies, on the same test images; it
    does not say how other test images would come out.

    Args:
        values: of the runs, at least one.
        is_share: whether the measure lies in [0, 1], which its interval then does not leave.

    Example:
        >>> found = spread_of([0.5, 0.7], is_share=True)
        >>> round(found.mean, 3), round(found.std, 3), found.interval
        (0.6, 0.141, (0.0, 1.0))
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Spread(n, mean, None, None)
    std = float(np.std(values, ddof=1))
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * std / n**0.5
    low, high = mean - half, mean + half
    if is_share:
        low, high = max(0.0, low), min(1.0, high)
    return Spread(n, mean, std, (low, high))
