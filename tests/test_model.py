"""A classifier from Python: trained on what is in memory, kept, and asked."""

from __future__ import annotations

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import labelsieve as ls
from labelsieve.config import from_dict
from labelsieve.errors import ConfigError, DataError, RunError
from labelsieve.records import Features, Findings
from labelsieve.training import train as training
from labelsieve.training.settings import Train, train_recipe
from made_training import N_IMAGES, N_TEST, about, done, same_bytes


@pytest.fixture(scope="module")
def settings(row_run: Path) -> Train:
    """Those of the command's run."""
    return from_dict(train_recipe(), about(row_run)["settings"]["train"], "run.json")


@pytest.fixture(scope="module")
def model(photos: Path, checked: Path, audit_run: Path, settings: Train) -> ls.Model:
    """Trained on findings and features in memory."""
    features = Features.load(audit_run / "features.npy")
    findings = Findings.load(audit_run / "findings.parquet")
    return ls.train(ls.read(photos), findings, settings, features=features)


def test_a_folder_in_python_is_what_it_is_for_the_command(
    photos: Path, checked: Path, row_run: Path, settings: Train, tmp_path: Path
):
    model = ls.train(photos, settings=settings, test=ls.read(checked))
    same_bytes(row_run, model.folder, "features.npy", "dictionary.safetensors")
    assert model.scores.to_dict() == ls.Model.load(row_run).scores.to_dict()
    said = model.predict(checked)
    np.testing.assert_array_equal(said.probabilities, ls.predict(row_run, checked).probabilities)
    model.save(tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        path.name for path in row_run.iterdir()
    }
    kept = ls.Model.load(tmp_path / "kept")
    np.testing.assert_array_equal(kept.predict(ls.read(checked)).probabilities, said.probabilities)
    assert kept.findings.verdict.tolist() == model.findings.verdict.tolist()
    done("report", tmp_path / "kept")


def test_findings_and_features_in_memory_are_taken(
    model: ls.Model, row_run: Path, audit_run: Path, checked: Path, tmp_path: Path
):
    weights = [(run / "model.safetensors").read_bytes() for run in (model.folder, row_run)]
    assert weights[0] == weights[1]
    assert model.scores is None
    assert len(model.findings) == N_IMAGES
    with pytest.raises(ConfigError, match="give those of the new images"):
        model.predict(checked)
    images = ls.read(checked)
    n_columns = np.load(audit_run / "features.npy").shape[1]
    rows = np.eye(n_columns, dtype=np.float32)[:3]
    said = model.predict(images, features=Features(images.ids[:3], rows, "by hand"))
    assert len(said) == N_TEST
    assert said.n_broken == N_TEST - 3


def test_test_features_go_with_features(
    photos: Path, checked: Path, audit_run: Path, settings: Train
):
    features = Features.load(audit_run / "features.npy")
    findings = Findings.load(audit_run / "findings.parquet")
    both = {"features": features, "test": checked}
    with pytest.raises(ConfigError, match="features of your own; expected those of the test"):
        ls.train(photos, findings, settings, **both)
    images = ls.read(checked)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((len(images), features.values.shape[1])).astype(np.float32)
    known = Features(images.ids, rows, "by hand")
    model = ls.train(photos, findings, settings, **both, test_features=known)
    assert model.scores.n_scored == N_TEST
    with pytest.raises(ConfigError, match="of which images"):
        ls.train(photos, findings, settings, features=features, test_features=known)
    with pytest.raises(ConfigError, match="are made here, and so are those of the test images"):
        ls.train(photos, findings, settings, test=checked, test_features=known)


def test_features_are_made_where_findings_alone_are_given(
    photos: Path, checked: Path, audit_run: Path, row_run: Path, settings: Train
):
    findings = Findings.load(audit_run / "findings.parquet")
    model = ls.train(photos, findings, settings)
    weights = [(run / "model.safetensors").read_bytes() for run in (model.folder, row_run)]
    assert weights[0] == weights[1]
    assert model.predict(checked).n_broken == 1


def test_a_network_learns_on_from_python(
    photos: Path, network_run: Path, audit_run: Path, checked: Path
):
    given = from_dict(
        train_recipe("robust", "cpu"), about(network_run)["settings"]["train"], "run.json"
    )
    training = replace(given.classify.training, epochs=1)
    settings = replace(
        given, start="pretrained", classify=replace(given.classify, training=training)
    )
    findings = Findings.load(audit_run / "findings.parquet")
    with pytest.raises(ConfigError, match="there is no network to begin with"):
        ls.train(photos, findings, settings)
    model = ls.train(photos, findings, settings, network=network_run)
    assert model.predict(checked).n_broken == 1
    again = ls.train(photos, findings, settings, network=model.folder)
    assert json.loads((again.folder / "model.json").read_text())["kind"] == "classifier"


def test_what_cannot_work_is_said_at_once(
    photos: Path, checked: Path, audit_run: Path, tmp_path: Path
):
    findings = Findings.load(audit_run / "findings.parquet")
    with pytest.raises(DataError, match=f"findings of {N_IMAGES} images do not go with"):
        ls.train(checked, findings)
    with pytest.raises(DataError, match="without labels"):
        ls.train(replace(ls.read(photos), labels=None))
    with pytest.raises(ConfigError, match="device"):
        ls.train(photos, findings, device="foo")


def test_the_folder_goes_with_the_model(
    photos: Path, audit_run: Path, settings: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    features = Features.load(audit_run / "features.npy")
    findings = Findings.load(audit_run / "findings.parquet")
    model = ls.train(photos, findings, settings, features=features)
    assert model.folder.parent == tmp_path
    del model
    gc.collect()
    assert list(tmp_path.iterdir()) == []

    def fail(*_: object, **__: object) -> None:
        raise DataError("no")

    monkeypatch.setattr(training, "write_classifier_page", fail)
    with pytest.raises(DataError):
        ls.train(photos, findings, settings, features=features)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_saved_where_nothing_is(row_run: Path, tmp_path: Path):
    model = ls.Model.load(str(row_run))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty. Choose another folder"):
        model.save(tmp_path / "full")
    with pytest.raises(RunError, match="not empty"):
        model.save(row_run)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="a file where a folder is needed"):
        model.save(tmp_path / "file")
    model.save(tmp_path / "new" / "place")
    same_bytes(row_run, tmp_path / "new" / "place")


def test_folders_without_a_model_are_refused(
    audit_run: Path, row_run: Path, checked: Path, tmp_path: Path
):
    with pytest.raises(RunError, match="it has no run"):
        ls.Model.load(tmp_path)
    with pytest.raises(RunError, match="made by `labelsieve audit`; expected a run of `train`"):
        ls.Model.load(audit_run)
    shutil.copytree(row_run, tmp_path / "run")
    (tmp_path / "run" / "model.json").unlink()
    with pytest.raises(ConfigError, match=r"model\.json: there is no such file"):
        ls.Model.load(tmp_path / "run").predict(checked)
