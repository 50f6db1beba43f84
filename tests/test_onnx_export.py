"""ONNX files say what the classifier says, without PyTorch."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from labelsieve.data.augment import CIFAR10, IMAGENET
from labelsieve.data.sources import resident
from labelsieve.errors import ConfigError, MissingExtraError, RunError
from labelsieve.features.backbones import network
from labelsieve.features.heads import Classifier, ClusterHeads, small_head
from labelsieve.features.resnets import PreActResNet, PreActShape
from labelsieve.features.rows import Rows
from labelsieve.features.saved import save_network
from labelsieve.features.twins import twins_of
from labelsieve.features.weights import drawn_from
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.sncf.classify import TrainedClassifier
from labelsieve.training.classifying import (
    Shown,
    about_network,
    about_rows,
    keep_classifier,
    network_probabilities,
    row_probabilities,
)
from labelsieve.training.onnx_export import export_onnx

NAMES = ("cat", "dög", "=1+1")


@pytest.fixture(scope="module")
def run_onnx():
    """Runs a file on an array: onnxruntime, or onnx's own evaluator where that is missing."""
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'labelsieve[onnx]'")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed, which torch exports by")
    try:
        from onnxruntime import InferenceSession as Session
    except ImportError:
        from onnx.reference import ReferenceEvaluator as Session

    def run(path, name, values):
        return Session(str(path)).run(["probabilities", "logits"], {name: values})

    return run


def pictures(n: int, size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


def trained(network: nn.Module) -> TrainedClassifier:
    """As a training leaves it, with norms and a classifier that do something."""
    generator = torch.Generator().manual_seed(1)
    with drawn_from(2):
        classifier = Classifier(network.n_features, len(NAMES))
        head = small_head(network.n_features)
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            for tensor in (each.weight.data, each.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            each.running_mean.normal_(generator=generator)
    return TrainedClassifier(network.eval(), classifier, head, np.zeros((0, 3), np.float32))


def small() -> PreActResNet:
    shape = PreActShape((8, 16), (1, 1), identity=True, stem_width=4, stem_stride=2)
    with drawn_from(3):
        return PreActResNet(shape)


NETWORKS = {
    "small": (small, 32, 32, CIFAR10),
    "the middle of 36 pixels": (small, 36, 31, IMAGENET),
    "the papers'": (lambda: PreActResNet(PreActShape((4, 8), (2, 1))), 32, 32, CIFAR10),
    "dictionary": (lambda: network("dictionary-net", pixels=pictures(40, 32)), 32, 24, None),
    "twins": (lambda: twins_of(small(), 1, redraw=True), 32, 32, CIFAR10),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_says_of_images_what_predict_says(tmp_path, run_onnx, name):
    make, size, view, normalization = NETWORKS[name]
    with drawn_from(0):
        made = trained(make())
    shown = Shown(size, view, normalization or made.network.normalization)
    keep_classifier(tmp_path, made, NAMES, about_network(shown))
    done = export_onnx(tmp_path, tmp_path / "model.onnx")
    assert (done.input, done.shape, done.class_names) == ("images", (3, size, size), NAMES)
    images = pictures(5, size)
    expected = network_probabilities(
        made.network, made.classifier, resident(images), np.arange(5), shown, Runtime.start()
    )
    assert expected.std(axis=0).max() > 1e-3  # images differ
    for n in (5, 1):  # any batch size
        probabilities, logits = run_onnx(
            tmp_path / "model.onnx", "images", images[:n].astype(np.float32)
        )
        assert probabilities.dtype == logits.dtype == np.float32
        np.testing.assert_allclose(probabilities, expected[:n], atol=1e-4)
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        np.testing.assert_allclose(
            shifted / shifted.sum(1, keepdims=True), probabilities, atol=1e-5
        )


@pytest.mark.parametrize("n_hidden", [0, 6])
def test_a_file_says_of_rows_what_predict_says(tmp_path, run_onnx, n_hidden):
    values = np.random.default_rng(0).standard_normal((9, 7)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    with drawn_from(0):
        made = trained(Rows(7, n_hidden).fit(values))
    keep_classifier(tmp_path, made, NAMES, about_rows({"maker": "dictionary"}))
    done = export_onnx(tmp_path, tmp_path / "model.onnx")
    assert (done.input, done.shape) == ("features", (7,))
    expected = row_probabilities(nn.Sequential(made.network, made.classifier), values, "cpu")
    found, _ = run_onnx(tmp_path / "model.onnx", "features", values)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def kept(folder) -> None:
    keep_classifier(folder, trained(small()), NAMES, about_network(Shown(36, 32, CIFAR10)))


def test_a_file_says_what_it_takes_and_what_its_columns_are(tmp_path, run_onnx):
    import onnx

    kept(tmp_path)
    done = export_onnx(tmp_path, tmp_path / "model.onnx")
    made = onnx.load(tmp_path / "model.onnx")
    facts = {each.key: each.value for each in made.metadata_props}
    assert json.loads(facts["class_names"]) == list(NAMES)
    assert "resized to 36 x 36 pixels" in facts["input"]
    assert "from 0 to 255" in facts["input"]
    assert facts["weights"] == json.loads((tmp_path / "model.json").read_text())["digest"]
    (given,) = made.graph.input
    first, *rest = (dim.dim_value for dim in given.type.tensor_type.shape.dim)
    assert (first, rest) == (0, [3, 36, 36])  # any batch, a fixed size
    assert [each.name for each in made.graph.output] == ["probabilities", "logits"]
    assert not any("projection" in each.name for each in made.graph.initializer)
    assert done.n_bytes == (tmp_path / "model.onnx").stat().st_size
    assert done.to_dict()["shape"] == (3, 36, 36)
    assert str(done).endswith("images (B, 3, 36, 36) to probabilities of 3 classes")
    assert {each.name for each in tmp_path.iterdir()} == {
        "model.json", "model.safetensors", "model.onnx"
    }  # fmt: skip


def test_exporting_says_nothing_and_leaves_the_log_as_it_was(tmp_path, run_onnx, capfd):
    import logging

    kept(tmp_path)
    logging.getLogger("torch.onnx").setLevel(logging.INFO)
    try:
        export_onnx(tmp_path, tmp_path / "model.onnx")
        assert logging.getLogger("torch.onnx").level == logging.INFO
    finally:
        logging.getLogger("torch.onnx").setLevel(logging.NOTSET)
    assert capfd.readouterr() == ("", "")


def test_what_is_there_already_is_not_replaced(tmp_path, run_onnx):
    kept(tmp_path)
    out = tmp_path / "model.onnx"
    out.write_bytes(b"mine")
    with pytest.raises(RunError, match=r"model\.onnx: exists already"):
        export_onnx(tmp_path, out)
    assert out.read_bytes() == b"mine"
    with pytest.raises(RunError, match=r"nowhere.model\.onnx: cannot be written"):
        export_onnx(tmp_path, tmp_path / "nowhere" / "model.onnx")
    with pytest.raises(ConfigError, match=r"--out .*model\.pt: .* ends in \.onnx"):
        export_onnx(tmp_path, tmp_path / "model.pt")


def test_other_models_are_refused(tmp_path, run_onnx):
    with pytest.raises(ConfigError, match="Give a folder with a trained model"):
        export_onnx(tmp_path, tmp_path / "model.onnx")
    heads = nn.ModuleDict({"backbone": small(), "heads": ClusterHeads(16, 3)})
    save_network(tmp_path, heads, {"kind": "network"})
    with pytest.raises(ConfigError, match="no trained classifier; expected a run of `labelsieve t"):
        export_onnx(tmp_path, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_without_the_extra_it_is_said_how_to_get_it(tmp_path, monkeypatch, missing):
    kept(tmp_path)
    if missing == "onnxscript":
        pytest.importorskip("onnx", reason="onnx is not installed: pip install 'labelsieve[onnx]'")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        MissingExtraError,
        match=rf"{missing} is not installed; .* --to onnx.*pip install 'labelsieve\[onnx\]'",
    ):
        export_onnx(tmp_path, tmp_path / "model.onnx")
