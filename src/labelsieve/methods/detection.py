"""What every detecting method of the audit says of the images, as one record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelsieve.records import NoiseRate

Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Detection:
    """What is said of each image: one row an image, in the order of the features."""

    verdict: NDArray[np.int8]  # (N,) a Verdict: clean, mislabeled or foreign
    probabilities: NDArray[np.float32]  # (N, 3) clean, mislabeled, foreign; rows sum to 1
    suggestion: NDArray[np.int64]  # (N,) the given class if clean, else the likeliest other
    suggestion_probability: NDArray[np.float32]  # (N,) that it is right, the given label considered
    closest: NDArray[np.int64]  # (N,) the class it looks like, be it called clean or not
    foreign_group: NDArray[np.int32]  # (N,) cluster among the foreign images, -1 none
    reasons: tuple[str, ...]  # one plain sentence each
    noise_rates: tuple[NoiseRate, ...]  # of each class
    warnings: tuple[str, ...]  # when and why the result should not be trusted


def percent(probability: float) -> str:
    """A probability in words: never 0 % or 100 %, which nothing here can be.

    Example:
        >>> percent(0.913), percent(0.001), percent(0.9999)
        ('91 %', 'under 1 %', 'over 99 %')
    """
    if probability < 0.01:
        return "under 1 %"
    return "over 99 %" if probability > 0.99 else f"{probability:.0%}".replace("%", " %")
