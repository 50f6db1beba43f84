"""Which losses are low: the posterior of the lower of two modes.

Networks learn what is common before they memorize what is not. Midway, losses of right labels and
of wrong ones are two heaps, and so are those of right guesses and of wrong ones.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from labelsieve.errors import DataError

SAMPLE = 100_000  # losses a mixture is fitted on
LEAST_VARIANCE = 5e-4  # added to those of the modes of losses in [0, 1], as in DivideMix
MOST_STEPS = 100  # of expectation-maximization; DivideMix stops after 10


def low_mode(losses: NDArray[np.floating], *, seed: int = 0) -> NDArray[np.float32]:
    """How likely each loss is one of the low ones: a mixture of two Gaussians.

    Source: J. Li et al., "DivideMix", ICLR 2020, section 3.1, after E. Arazo et al., ICML 2019; PLS
    has the same. Losses are brought to [0, 1] by the lowest and the highest, and variances are
    raised by `LEAST_VARIANCE`, as in both authors' code. Deviation: a loss below the mean of the
    low mode counts as that mean, one above that of the high mode as that; for of two Gaussians the
    wider has both tails, and the lowest of all losses could belong to the high mode. So the answer
    never rises with the loss.

    Two modes are found also where there is one: then about half of the losses are "low".

    Args:
        losses: (M,) in nats, or of any unit.
        seed: of the mixture's start.

    Returns:
        (M,) in [0, 1]; 0 for losses that are NaN or infinite, as nothing speaks for them; 1 for all
        others where they are equal, or only one.

    Example:
        >>> low_mode(np.array([0.1, 0.2, 0.1, 3.0, 3.1, 3.2])).round(2).tolist()
        [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """
    if losses.ndim != 1:
        raise DataError(f"losses are {losses.shape}; expected (M,).")
    finite = np.isfinite(losses)
    posterior = np.where(finite, 1, 0).astype(np.float32)
    values = losses[finite].astype(np.float64)
    if len(values) < 2 or values.min() == values.max():
        return posterior
    scaled = ((values - values.min()) / np.ptp(values))[:, None]  # (m, 1)
    sample = scaled[:: max(1, len(scaled) // SAMPLE)]
    if np.ptp(sample) == 0:  # all but losses that the sample passed over are equal
        sample = scaled
    mixture = GaussianMixture(
        2, max_iter=MOST_STEPS, tol=1e-4, reg_covar=LEAST_VARIANCE, random_state=seed
    )
    with warnings.catch_warnings():
        # a mixture that still moves a little is good enough
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(sample)
    between = np.clip(scaled, mixture.means_.min(), mixture.means_.max())
    posterior[finite] = mixture.predict_proba(between)[:, mixture.means_[:, 0].argmin()]
    return posterior


def pseudo_loss_weights(
    losses: NDArray[np.floating], noisy: NDArray[np.bool_], *, seed: int = 0
) -> NDArray[np.float32]:
    """How much each image's target is worth: guesses by their pseudo-loss, labels in full.

    Source: PLS (P. Albert et al., WACV 2023): the posterior of the low mode among the pseudo-losses
    of the noisy images alone.

    Args:
        losses: (M,) of `losses.pseudo_loss`; those of images that are not noisy are not looked at.
        noisy: (M,) images that are trained toward a guess.
        seed: as in `low_mode`.

    Returns:
        (M,) in [0, 1]; 1 where not noisy. Of fewer than three noisy images all are 1, as in the
        authors' code: no two modes can be told.

    Example:
        >>> noisy = np.array([False, True, True, True, True])
        >>> pseudo_loss_weights(np.array([9.0, 0.1, 0.2, 5.0, 5.1]), noisy).round(2).tolist()
        [1.0, 1.0, 1.0, 0.0, 0.0]
    """
    if losses.shape != noisy.shape:
        raise DataError(f"losses are {losses.shape} and noisy is {noisy.shape}; expected one (M,).")
    weights = np.ones(len(losses), np.float32)
    if np.count_nonzero(noisy) > 2:
        weights[noisy] = low_mode(losses[noisy], seed=seed)
    return weights
