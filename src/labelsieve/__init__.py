"""From a folder of noisily labeled images to verdicts, clean labels and robust models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from labelsieve.data.noise import asymmetric, symmetric, transition
    from labelsieve.data.read import read
    from labelsieve.features.dictionary import Dictionary
    from labelsieve.features.extract import load_features
    from labelsieve.methods.sncf.paper import PaperDetection
    from labelsieve.methods.sncf.robust import RobustDetection
    from labelsieve.neighbors.duplicates import exact_duplicates, near_duplicates
    from labelsieve.neighbors.graph import spectral_embedding
    from labelsieve.neighbors.knn import nearest_neighbors
    from labelsieve.neighbors.optics import optics
    from labelsieve.pipeline import Audit, audit, recipe
    from labelsieve.records import Features, Findings, ImageSet, Neighbors, NoiseRate, Verdict
    from labelsieve.report.metrics import score
    from labelsieve.report.page import write_page

# Where each public name lives, once more: torch and scikit-learn cost seconds to import, so that a
# module is imported when the first of its names is asked for.
_HOMES = {
    "pipeline": ("Audit", "audit", "recipe"),
    "data.noise": ("asymmetric", "symmetric", "transition"),
    "data.read": ("read",),
    "features.dictionary": ("Dictionary",),
    "features.extract": ("load_features",),
    "methods.sncf.paper": ("PaperDetection",),
    "methods.sncf.robust": ("RobustDetection",),
    "neighbors.duplicates": ("exact_duplicates", "near_duplicates"),
    "neighbors.graph": ("spectral_embedding",),
    "neighbors.knn": ("nearest_neighbors",),
    "neighbors.optics": ("optics",),
    "records": ("Features", "Findings", "ImageSet", "Neighbors", "NoiseRate", "Verdict"),
    "report.metrics": ("score",),
    "report.page": ("write_page",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
