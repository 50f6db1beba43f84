"""What a trained classifier says of images and rows: as it was kept, in blocks of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from labelsieve.data.batches import resident
from labelsieve.data.read import read
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.heads import Classifier
from labelsieve.features.rows import Rows
from labelsieve.features.saved import load_network
from labelsieve.features.weights import drawn_from
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.sncf.classify import TrainedClassifier
from labelsieve.records import Features
from labelsieve.run import Run
from labelsieve.stages.inputs import silent
from labelsieve.stages.makers import GLANCE
from labelsieve.training import classifying
from labelsieve.training.classifying import (
    NETWORK,
    ROWS,
    Shown,
    about_network,
    about_rows,
    classify,
    keep_classifier,
    network_probabilities,
    readable_source,
    row_probabilities,
)
from made_colors import NORMALIZATION, tiny_network
from made_sets import png, put

NAMES = ("gray", "loud")


def trained(network: nn.Module, n_classes: int = 2) -> TrainedClassifier:
    with drawn_from(1):
        head = Classifier(network.n_features, n_classes)
    return TrainedClassifier(network, head, None, np.zeros((0, n_classes), np.float32))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i in range(5):
        put(tmp_path / "set" / f"{i}.png", png(50 * i, 12))
    put(tmp_path / "set" / "5.png", b"torn")
    return tmp_path / "set"


def said_by(folder: Path, pictures: Path, scratch: Path, features: Features | str | None = None):
    with Run.open(scratch, "predict", {}) as run:
        return classify(
            folder, read(pictures), features=features, device="cpu", run=run, progress=silent
        )


def test_a_network_is_kept_with_how_it_is_shown_images(pictures: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    made = trained(tiny_network())
    keep_classifier(tmp_path / "run", made, NAMES, about_network(Shown(12, 8, NORMALIZATION)))
    about = load_network(tmp_path / "run")[1]
    assert about["kind"] == NETWORK
    found = said_by(tmp_path / "run", pictures, tmp_path / "scratch")
    assert found.class_names == NAMES
    assert found.rows.tolist() == [0, 1, 2, 3, 4]
    # the middle of each image, 8 of 12 pixels, normalized
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in NORMALIZATION)
    views = torch.stack(
        [(torch.full((3, 8, 8), 50 * i / 255) - mean) / deviation for i in range(5)]
    )
    with torch.no_grad():
        logits = made.classifier(made.network.eval()(views))
    np.testing.assert_allclose(found.probabilities, logits.softmax(1), atol=1e-5)


def test_a_classifier_of_features_takes_rows_of_its_width(pictures: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    values = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    made = trained(Rows(6, 4).fit(values))
    keep_classifier(tmp_path / "run", made, NAMES, about_rows({"maker": "file"}))
    assert load_network(tmp_path / "run")[1]["kind"] == ROWS
    ids = tuple(f"{i}.png" for i in (4, 0, 2))
    found = said_by(
        tmp_path / "run", pictures, tmp_path / "a", Features(ids, values[:3], "by hand")
    )
    assert found.rows.tolist() == [4, 0, 2]
    with torch.no_grad():
        logits = made.classifier(made.network(torch.from_numpy(values[:3])))
    np.testing.assert_allclose(found.probabilities, logits.softmax(1), atol=1e-6)
    other = Features(ids, values[:3, :4], "by hand")
    with pytest.raises(DataError, match=r"by hand: features of 4 columns; .* made from 6\. Give"):
        said_by(tmp_path / "run", pictures, tmp_path / "b", other)
    with pytest.raises(ConfigError, match="give those of the new images"):
        said_by(tmp_path / "run", pictures, tmp_path / "c")


def test_a_network_takes_no_features(pictures: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    about = about_network(Shown(8, 8, NORMALIZATION))
    keep_classifier(tmp_path / "run", trained(tiny_network()), NAMES, about)
    with pytest.raises(ConfigError, match="looks at images itself. Leave it out"):
        said_by(tmp_path / "run", pictures, tmp_path / "scratch", "f.npy")


def test_large_images_are_looked_at_small_first(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images = read(pictures)
    at_once, source = readable_source(images, 12, tmp_path, silent)
    monkeypatch.setattr("labelsieve.stages.new_images.SMALL", 11)
    monkeypatch.setattr("labelsieve.stages.sources.SMALL", 11)
    (tmp_path / "large").mkdir()
    glance, streamed = readable_source(images, 12, tmp_path / "large", silent)
    assert (at_once.values.shape[-1], glance.values.shape[-1]) == (12, GLANCE)
    assert glance.usable.tolist() == at_once.usable.tolist() == [True] * 5 + [False]
    head, network = Classifier(tiny_network().n_features, 2), tiny_network()
    rows = np.arange(5)
    shown = Shown(12, 12, NORMALIZATION)
    a, b = (
        network_probabilities(network, head, each, rows, shown, Runtime.start("cpu"))
        for each in (source, streamed)
    )
    np.testing.assert_array_equal(a, b)


def test_the_order_of_rows_is_that_asked_for_and_progress_is_told():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8), np.uint8)
    network = tiny_network()
    head = Classifier(network.n_features, 3)
    told: list[tuple[int, int]] = []

    def ask(rows: list[int], progress=None) -> np.ndarray:
        return network_probabilities(
            network, head, resident(pixels), np.array(rows), Shown(8, 8, NORMALIZATION),
            Runtime.start("cpu"), progress,
        )  # fmt: skip

    whole = ask(list(range(9)), lambda *at: told.append(at))
    np.testing.assert_allclose(ask([5, 2]), whole[[5, 2]], atol=1e-6)
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-6)
    assert told == [(9, 9)]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).standard_normal((23, 6)).astype(np.float32)
    model = nn.Sequential(Rows(6, 5).fit(values), Classifier(5, 4))
    model.train()
    at_once = row_probabilities(model, values, "cpu")
    monkeypatch.setattr(classifying, "_BLOCK", 7)
    np.testing.assert_allclose(row_probabilities(model, values, "cpu"), at_once, atol=1e-6)
    assert at_once.shape == (23, 4)
    assert at_once.dtype == np.float32
    read_only = values.copy()
    read_only.flags.writeable = False  # as a memory-mapped file gives it
    np.testing.assert_allclose(row_probabilities(model, read_only, "cpu"), at_once, atol=1e-6)
