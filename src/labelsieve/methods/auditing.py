"""The recipes of the audit, of all methods, and one door to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from labelsieve.methods.detection import Detection, Progress
from labelsieve.methods.prism.detect import PrismDetection, detect_prism
from labelsieve.methods.sncf import recipes as sncf
from labelsieve.methods.sncf.detect import detect as detect_sncf
from labelsieve.methods.sncf.paper import PaperDetection
from labelsieve.methods.sncf.robust import RobustDetection
from labelsieve.records import Neighbors

AnyDetection = RobustDetection | PaperDetection | PrismDetection


def prism() -> PrismDetection:
    """Centers of the classes, a few rounds over: fast, also with thousands of classes.

    Run:      labelsieve audit photos/ --method prism --features f.npy --out run/
    Measured: docs/results.md. It judges by features alone; `robust` also asks the neighbors.
    """
    return PrismDetection()


RECIPES: dict[str, Callable[[], AnyDetection]] = {**sncf.RECIPES, "prism": prism}
METHODS = {"sncf": tuple(sncf.RECIPES), "prism": ("prism",)}  # the first of each is its default


def detect(
    features: NDArray[np.float32],
    neighbors: Neighbors,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    settings: AnyDetection,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Detection:
    """Detect by the method and recipe that the settings belong to.

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
    if isinstance(settings, PrismDetection):
        return detect_prism(features, labels, class_names, settings, seed=seed, progress=progress)
    return detect_sncf(
        features, neighbors, labels, class_names, settings,
        seed=seed, device=device, progress=progress,
    )  # fmt: skip
