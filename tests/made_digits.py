"""Handwritten digits as image sets on disk, and settings so small that tests may train."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from labelsieve.data.augment import Contrastive
from labelsieve.data.strong import Strong
from labelsieve.features.dictionary import Dictionary
from labelsieve.features.joint import Joint
from labelsieve.features.patches import Patches
from labelsieve.features.pretrain import Pretrain
from labelsieve.loop.train import Training
from labelsieve.methods.scan.heads import HeadTraining
from labelsieve.methods.scan.network import ScanTraining, adam
from labelsieve.methods.scan.recipes import Cluster
from labelsieve.methods.scan.self_labels import SelfLabels

SIZE = 16  # pixels
FAST = (
    "--set", "dictionary.n_components=32", "--set", "dictionary.patches.n_atoms=32",
    "--set", "heads.n_heads=3", "--set", "heads.least_updates=60",
    "--set", "heads.training.epochs=1", "--set", "heads.training.batch_size=64",
)  # fmt: skip


def digit_files(root: Path, counts: dict[int, int], first: int = 0) -> list[str]:
    """One folder a digit, of its images from number `first` on; their ids, sorted."""
    digits = load_digits()
    ids = []
    for name, n in counts.items():
        (root / str(name)).mkdir(parents=True, exist_ok=True)
        for i, row in enumerate(np.flatnonzero(digits.target == name)[first : first + n]):
            gray = (255 - digits.images[row] * 15).astype(np.uint8)
            picture = Image.fromarray(gray).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            ids.append(f"{name}/{first + i:03d}.png")
            picture.save(root / ids[-1])
    return sorted(ids)


def table(path: Path, ids: Sequence[str], *columns: str) -> Path:
    """A CSV of images, with the digit of each under the names of `columns`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", *columns])
        rows.writerows([name, *[name.split("/")[0]] * len(columns)] for name in ids)
    return path


def tiny_heads(objective: str = "scan") -> HeadTraining:
    return HeadTraining(
        objective=objective, n_heads=2, n_neighbors=5, least_updates=0,
        training=Training(epochs=2, batch_size=32),
    )  # fmt: skip


def tiny_pretrain(rows: str = "network", **changes: object) -> Pretrain:
    dictionary = Dictionary(
        image_size=SIZE, n_components=32, n_dimensions=16, patches=Patches(n_atoms=16)
    )
    return Pretrain(
        network="narrow-resnet18", head="small", image_size=SIZE, views=Contrastive(size=SIZE),
        training=Training(epochs=2, batch_size=32), rows=rows, monitor_every=1,
        joint=Joint(dictionary=dictionary, n_dimensions=16), **changes,
    )  # fmt: skip


def tiny_cluster(**changes: object) -> Cluster:
    """All phases: pretraining, heads on the network with views, the network, self-labels."""
    strong = Strong(size=SIZE, largest_hole=8)
    settings = {
        "heads": tiny_heads(),
        "scan": ScanTraining(
            strong=strong, clean_size=SIZE, clean_norms=64, training=adam(2, 32)
        ),
        "self_labels": SelfLabels(
            strong=strong, clean_size=SIZE, clean_norms=64, training=adam(2, 32)
        ),
        "rows": "network",
        "n_views": 2,
        "n_neighbors": 5,
        "pretrain": tiny_pretrain(),
        "n_kmeans_runs": 2,
    }  # fmt: skip
    return Cluster(**{**settings, **changes})
