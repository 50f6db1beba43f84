"""Two opinions on the same event, made one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

SUREST = 1e-4  # no probability is taken to be nearer to 0 or 1


def calibrated(
    suspicion: NDArray[np.floating], target: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A suspicion of any scale as a probability, by what others believe of images as suspect.

    Isotonic regression (B. Zadrozny and C. Elkan, KDD 2002) with beliefs for outcomes: the truth is
    not known. It keeps the order of the suspicions, and the mean of the beliefs.

    Args:
        suspicion: (N,) higher is more so.
        target: (N,) in [0, 1], what is believed of each.
        weights: (N,) >= 0, how much each counts; not all of them 0.

    Returns:
        (N,) in [0, 1], never falling with the suspicion.

    Example:
        >>> calibrated(np.array([1.0, 5.0, 3.0]), np.array([0.1, 0.8, 0.4]), np.ones(3)).tolist()
        [0.1, 0.8, 0.4]
    """
    fitted = IsotonicRegression(out_of_bounds="clip").fit(suspicion, target, sample_weight=weights)
    scaled: NDArray[np.float64] = fitted.predict(suspicion)
    return scaled


def reordered(
    first: NDArray[np.float64], second: NDArray[np.float64], weight: float
) -> NDArray[np.float64]:
    """The first probabilities, dealt out anew in the order that both opinions give together.

    The order is that of the logarithmic opinion pool (C. Genest and J. Zidek, Statistical Science
    1986)::

        (1 - weight) * log odds(first) + weight * log odds(second)

    The pool itself is less sure than both where they differ, so that fewer images were called
    mislabeled. How many there are is not for the second to say; which ones, it helps to tell.

    Args:
        first: (N,) in [0, 1].
        second: (N,) in [0, 1], of the same events.
        weight: in [0, 1], of the second.

    Returns:
        (N,) the values of `first` in another order; unchanged where `second` is the same for all.

    Example:
        >>> reordered(np.array([0.1, 0.6, 0.5]), np.array([0.1, 0.2, 0.9]), 0.5).tolist()
        [0.1, 0.5, 0.6]
    """
    odds = (1 - weight) * _log_odds(first) + weight * _log_odds(second)
    # Ties by the first: where the second says nothing, what `SUREST` has made equal stays in order.
    dealt = np.empty_like(first)
    dealt[np.lexsort((first, odds))] = np.sort(first)
    return dealt


def _log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(probabilities, SUREST, 1 - SUREST)
    odds: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return odds
