"""From a folder of noisily labeled images to verdicts, clean labels and robust models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from labelsieve.data.augment import (
        Contrastive,
        Normalization,
        Weak,
        clean_view,
        contrastive_view,
        weak_view,
    )
    from labelsieve.data.draws import Draws, Stream
    from labelsieve.data.mixing import mixup
    from labelsieve.data.noise import asymmetric, symmetric, transition
    from labelsieve.data.read import read
    from labelsieve.data.strong import Strong, strong_view
    from labelsieve.features.backbones import network
    from labelsieve.features.bank import MemoryBank
    from labelsieve.features.dictionary import Dictionary
    from labelsieve.features.extract import extract, load_features
    from labelsieve.features.objectives import (
        guided_contrastive,
        info_nce_queue,
        n_pairs,
        n_pairs_mixed,
        nt_xent,
        supervised_contrastive,
    )
    from labelsieve.features.pretrain import Pretrain
    from labelsieve.features.recipes import PRETRAINING
    from labelsieve.features.saved import load_network
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
    from labelsieve.representation import represent

# Where each public name lives, once more: torch and scikit-learn cost seconds to import, so that a
# module is imported when the first of its names is asked for.
_HOMES = {
    "pipeline": ("Audit", "audit", "recipe"),
    "data.augment": (
        "Contrastive", "Normalization", "Weak", "clean_view", "contrastive_view", "weak_view",
    ),
    "data.draws": ("Draws", "Stream"),
    "data.mixing": ("mixup",),
    "data.noise": ("asymmetric", "symmetric", "transition"),
    "data.read": ("read",),
    "data.strong": ("Strong", "strong_view"),
    "features.backbones": ("network",),
    "features.bank": ("MemoryBank",),
    "features.dictionary": ("Dictionary",),
    "features.extract": ("extract", "load_features"),
    "features.objectives": (
        "guided_contrastive", "info_nce_queue", "n_pairs", "n_pairs_mixed", "nt_xent",
        "supervised_contrastive",
    ),
    "features.pretrain": ("Pretrain",),
    "features.recipes": ("PRETRAINING",),
    "features.saved": ("load_network",),
    "methods.sncf.paper": ("PaperDetection",),
    "methods.sncf.robust": ("RobustDetection",),
    "neighbors.duplicates": ("exact_duplicates", "near_duplicates"),
    "neighbors.graph": ("spectral_embedding",),
    "neighbors.knn": ("nearest_neighbors",),
    "neighbors.optics": ("optics",),
    "records": ("Features", "Findings", "ImageSet", "Neighbors", "NoiseRate", "Verdict"),
    "report.metrics": ("score",),
    "report.page": ("write_page",),
    "representation": ("represent",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
