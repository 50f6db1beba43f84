"""How much of each class carries its label wrongly, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labelsieve.methods.sncf.transition import DOUBT
from labelsieve.records import NoiseRate, Verdict

NORMAL_95 = 1.96  # standard deviations


def noise_rates(
    members: NDArray[np.float64],
    most: NDArray[np.float64],
    belief: NDArray[np.float64],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
) -> tuple[NoiseRate, ...]:
    """The share of mislabeled and of foreign images among those that carry each label.

    The rate is the mean probability. Its interval runs over what the members of the ensemble assume
    differently, and over the chance that is left when each probability is right. For mislabeled
    images it also spans what no label can settle, whether a network and a label disagree because
    the network is weak (down to DOUBT below the members) or the label is wrong (up to `most`). Of
    what is not believed, any share may be wrong.

    Args:
        members: (R, N, 3) clean, mislabeled, foreign, from each member of the ensemble.
        most: (N,) mislabeled, where every disagreement is laid to the label.
        belief: (N,) in [0, 1], how far the evidence on an image is believed.
        labels: (N,) in [-1, C).
        class_names: C names; classes without images are left out.
    """
    rates = []
    for index, name in enumerate(class_names):
        rows = np.flatnonzero(labels == index)
        if not len(rows):
            continue
        wrong, (low, high) = _share(members[:, rows, Verdict.MISLABELED])
        foreign, foreign_interval = _share(members[:, rows, Verdict.FOREIGN])
        unknown = float(1 - belief[rows].mean())
        interval = max(0.0, low - DOUBT), min(1.0, max(high, float(most[rows].mean())) + unknown)
        foreign_interval = foreign_interval[0], min(1.0, foreign_interval[1] + unknown)
        rates.append(NoiseRate(name, len(rows), wrong, interval, foreign, foreign_interval))
    return tuple(rates)


def _share(members: NDArray[np.float64]) -> tuple[float, tuple[float, float]]:
    """(R, n) probabilities to their mean and a 95 % interval of the share that comes true."""
    n_images = members.shape[1]
    means = members.mean(axis=1)
    chance = NORMAL_95 * np.sqrt((members * (1 - members)).sum(axis=1)) / n_images
    low = max(0.0, float((means - chance).min()))
    high = min(1.0, float((means + chance).max()))
    return float(means.mean()), (low, high)
