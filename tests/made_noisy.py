"""Images of three obvious classes, wrong labels, foreign images, and what is known of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from labelsieve.data.augment import Contrastive, Weak
from labelsieve.data.batches import Source, of_rows, resident
from labelsieve.features.rows import Rows
from labelsieve.features.shown import Views, image_views, row_views
from labelsieve.loop.logs import TIMINGS, EpochLog
from labelsieve.loop.optimizers import Optimizer
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.train import Training
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.classify import Classify, TrainedClassifier, train_classifier
from labelsieve.methods.sncf.plain_training import Plain
from made_colors import COLORS, NORMALIZATION, SIZE, states, tiny_network

N_CLASSES = 3
CONSTANT = LearningRate(0.05, shape="constant")
QUICK = Classify(
    objective=Plain(),
    weak=Weak(size=SIZE, padding=1),
    strong=Contrastive(size=SIZE, smallest_crop=0.3),
    projection="small",
    training=Training(epochs=3, batch_size=24, learning_rate=CONSTANT, optimizer=Optimizer()),
)


class Noisy(NamedTuple):
    pixels: NDArray[np.uint8]  # (N, 3, SIZE, SIZE); those of broken images are noise
    features: NDArray[np.float32]  # (N, 6); NaN of broken images
    truth: NDArray[np.int64]  # (N,) -1 of foreign images
    beliefs: Beliefs  # true kinds
    rows: NDArray[np.int64]  # that can be decoded
    test_rows: NDArray[np.int64]  # of the three classes, not among `rows`


def noisy(n=120, n_mislabeled=36, n_foreign=36, n_broken=4, n_test=60, seed=0) -> Noisy:
    """Red, green and blue images; foreign ones are yellow, cyan or of a color each."""
    random = np.random.default_rng(seed)
    n_known = n + n_mislabeled + n_test
    n_all = n_known + n_foreign + n_broken
    truth = np.concatenate([np.resize([0, 1, 2], n_known), np.full(n_foreign + n_broken, -1)])
    groups = np.full(n_all, -1, np.int32)
    groups[n_known : n_known + n_foreign] = np.resize([0, 1, -1], n_foreign)
    colors = COLORS[truth].astype(float)
    colors[truth < 0] = random.uniform(0, 255, ((truth < 0).sum(), 3))
    colors[groups == 0], colors[groups == 1] = (220, 220, 30), (30, 220, 220)
    ramp = np.linspace(-40, 40, SIZE)[None, None, None, :] * random.choice(
        [-1, 1], (n_all, 1, 1, 1)
    )
    noise = random.normal(0, 20, (n_all, 3, SIZE, SIZE))
    pixels = (colors[:, :, None, None] + ramp + noise).clip(0, 255).astype(np.uint8)
    kind = np.repeat([0, 1, 0, 2, 2], [n, n_mislabeled, n_test, n_foreign, n_broken])
    labels = truth.copy()
    labels[kind == 1] = (truth[kind == 1] + random.integers(1, 3, n_mislabeled)) % 3
    labels[kind == 2] = random.integers(0, 3, n_foreign + n_broken)
    features = np.concatenate([pixels.mean((2, 3)), pixels.std((2, 3))], axis=1) / 100 - 1
    features[n_all - n_broken :] = np.nan
    order = random.permutation(n_all)
    part = np.repeat([0, 0, 1, 0, 2], [n, n_mislabeled, n_test, n_foreign, n_broken])[order]
    beliefs = Beliefs(
        labels=labels[order],
        kinds=np.eye(3, dtype=np.float32)[kind[order]],
        suggestion=truth[order],
        suggestion_probability=(truth[order] >= 0).astype(np.float32),
        foreign_group=groups[order],
        certain=np.zeros(n_all, bool),
    )
    return Noisy(
        pixels[order], features[order].astype(np.float32), truth[order], beliefs,
        np.flatnonzero(part == 0), np.flatnonzero(part == 1),
    )  # fmt: skip


def views(settings: Classify, seed: int = 0) -> Views:
    strong = None if settings.projection == "none" else settings.strong
    return image_views(settings.weak, strong, NORMALIZATION, seed)


def trained(made: Noisy, settings: Classify = QUICK, **more) -> TrainedClassifier:
    """On images; `seed` is of views as well."""
    given = {
        "source": resident(made.pixels), "network": tiny_network(), "beliefs": made.beliefs,
        "n_classes": N_CLASSES, "rows": made.rows, "views": views(settings, more.get("seed", 0)),
    }  # fmt: skip
    return train_classifier(settings=settings, **{**given, **more})


def trained_on_rows(made: Noisy, settings: Classify = QUICK, **more) -> TrainedClassifier:
    given = {
        "source": of_rows(made.features), "network": Rows(made.features.shape[1]),
        "beliefs": made.beliefs, "n_classes": N_CLASSES, "rows": made.rows,
        "views": row_views(0),
    }  # fmt: skip
    return train_classifier(settings=settings, **{**given, **more})


def accuracy_test(made: Noisy, source: Source | None = None):
    """The share of test images that are classified right, for the log."""
    source = source or resident(made.pixels)

    def test(predict):
        said = predict(source, made.test_rows).argmax(1).numpy()
        return {"test_accuracy": float((said == made.truth[made.test_rows]).mean())}

    return test


def with_training(settings: Classify, **changes) -> Classify:
    return replace(settings, training=replace(settings.training, **changes))


def logs(path):
    """The log of each phase, and the lines of all of them without timings."""

    def lines() -> list[dict]:
        found = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in TIMINGS} for line in found]

    return lambda phase: EpochLog(path, phase), lines


def weights(found: TrainedClassifier) -> torch.Tensor:
    parts = [found.network, found.classifier, *([found.projection] if found.projection else [])]
    return states(*parts)
