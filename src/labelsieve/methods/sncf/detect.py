"""One door to both recipes: features, neighbors and labels in, a verdict on each image out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labelsieve.methods.detection import Detection, Progress
from labelsieve.methods.sncf.evidence import neighbor_labels
from labelsieve.methods.sncf.paper import PaperDetection, detect_paper
from labelsieve.methods.sncf.robust import RobustDetection, detect_robust
from labelsieve.records import Neighbors, NoiseRate, Verdict

_SAID = {
    Verdict.CLEAN: "The paper's rules leave it in its class",
    Verdict.MISLABELED: "It lies outside every cluster of its class",
    Verdict.FOREIGN: "It lies in the cluster that the paper's rule calls foreign",
}


def detect(
    features: NDArray[np.float32],
    neighbors: Neighbors,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    settings: RobustDetection | PaperDetection,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Detection:
    """Detect by the recipe that the settings belong to.

    Args:
        features: (N, D) unit-norm.
        neighbors: of all N images.
        labels: (N,) in [-1, C), -1 for none.
        class_names: C names.
        settings: of the recipe.
        seed: of every random choice.
        device: where networks are trained.
        progress: called with (done, total).
    """
    if isinstance(settings, RobustDetection):
        return detect_robust(
            features, neighbors, labels, class_names, settings,
            seed=seed, device=device, progress=progress,
        )  # fmt: skip
    split = detect_paper(
        features, labels, settings,
        neighbors=neighbors, class_names=class_names, seed=seed, progress=progress,
    )  # fmt: skip
    shares = neighbor_labels(neighbors, labels, len(class_names), settings.power)
    suggestion = _suggestions(shares, labels, split.kinds)
    share = shares[np.arange(len(labels)), suggestion]
    return Detection(
        verdict=split.kinds,
        probabilities=np.eye(3, dtype=np.float32)[split.kinds],
        suggestion=suggestion,
        suggestion_probability=share,
        closest=suggestion,
        foreign_group=split.foreign_groups,
        reasons=tuple(
            f"{_SAID[Verdict(kind)]}; {100 * s:.0f} % of the labels around it are "
            f"{class_names[c]!r}."
            for kind, s, c in zip(split.kinds, share, suggestion, strict=True)
        ),
        noise_rates=_shares_of_classes(split.kinds, labels, class_names),
        warnings=split.warnings,
    )


def _suggestions(
    shares: NDArray[np.float32], labels: NDArray[np.int64], kinds: NDArray[np.int8]
) -> NDArray[np.int64]:
    """The given class of a clean image, else the most frequent around it, another if mislabeled."""
    others = shares.copy()
    wrong = np.flatnonzero((kinds == Verdict.MISLABELED) & (labels >= 0))
    others[wrong, labels[wrong]] = -1
    kept = (kinds == Verdict.CLEAN) & (labels >= 0)
    return np.where(kept, labels, others.argmax(axis=1))


def _shares_of_classes(
    kinds: NDArray[np.int8], labels: NDArray[np.int64], class_names: Sequence[str]
) -> tuple[NoiseRate, ...]:
    """What share of each class is in each set; the paper's sets carry no doubt but sampling."""
    rates = []
    for c, name in enumerate(class_names):
        mine = kinds[labels == c]
        if len(mine):
            wrong, strange = (float((mine == kind).mean()) for kind in list(Verdict)[1:3])
            rates.append(
                NoiseRate(name, len(mine), wrong, _interval(wrong, len(mine)),
                          strange, _interval(strange, len(mine)))
            )  # fmt: skip
    return tuple(rates)


def _interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share of n by Wilson's score."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
