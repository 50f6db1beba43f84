"""Slips of the fingers are told at once, before what takes seconds is imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labelsieve.cli.early import MODELS, PRETRAINING, RECIPES
from labelsieve.features import recipes as pretraining
from labelsieve.methods import auditing as audits
from labelsieve.methods.prism import recipes as retrieving
from labelsieve.methods.scan import recipes as clustering
from labelsieve.methods.sncf import training_recipes as trainings
from labelsieve.methods.veit import recipes as tagging
from made_training import about, done, refusal


def test_the_names_that_are_known_early_are_those_there_are():
    found = {command: set(names) for command, names in RECIPES.items()}
    assert found == {
        "audit": set(audits.RECIPES),
        "features": set(audits.RECIPES),
        "train": set(trainings.OBJECTIVES),
        "cluster": set(clustering.RECIPES),
        "retrieve": set(retrieving.OBJECTIVES),
        "tag": set(tagging.OBJECTIVES),
    }
    assert {command: set(names) for command, names in MODELS.items()} == {
        "train": set(trainings.MODELS),
        "retrieve": set(retrieving.MODELS),
    }
    assert set(PRETRAINING) == set(pretraining.PRETRAINING)


SLIPS = [
    (("audit", "nowhere", "--out", "run"), "nowhere: no such file or folder."),
    (("train", ".", "--test", "nowhere", "--out", "run"), "nowhere: no such file or folder."),
    (
        ("cluster", "nowhere", "--classes", "3", "--out", "run"),
        "nowhere: no such file or folder.",
    ),
    (("tag", "nowhere", "--out", "run"), "nowhere: no such file or folder."),
    (
        ("audit", ".", "--features", "f.npy", "--out", "run"),
        "--features f.npy: there is no such fi",
    ),
    (
        ("audit", ".", "--backbone", "timm:x", "--weights", "w.pt", "--out", "run"),
        "--weights w.pt: there is no such file.",
    ),
    (
        ("features", ".", "--network", "n", "--out", "f.npy"),
        "--network n: there is no such folder or file.",
    ),
    (("audit", ".", "--recipe", "robus", "--out", "run"), "there is no recipe 'robus'. Did you m"),
    (("train", ".", "--model", "cup", "--out", "run"), "--model: there is no 'cup'. Did you mean"),
    (
        ("features", ".", "--pretrain", "cup", "--out", "f.npy"),
        "--pretrain: there is no recipe 'cup'. Did you mean 'cpu'?",
    ),
    (("report", "run"), "run: not a run's folder: it has no run.json."),
    (("evaluate", "run", "--truth", "t.csv"), "run: not a run's folder: it has no run.json."),
    (("export", "run", "--to", "csv", "--out", "t.csv"), "run: not a run's folder"),
]
CODE = """
import json, sys
from click.testing import CliRunner
from labelsieve.cli import main
said = []
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(main, words)
    said.append([result.exit_code, result.stderr, "torch" in sys.modules])
print(json.dumps(said))
"""


def test_a_slip_is_told_without_torch(tmp_path: Path):
    words = json.dumps([words for words, _ in SLIPS])
    child = subprocess.run(
        [sys.executable, "-c", CODE, words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for (words, message), (code, stderr, with_torch) in zip(
        SLIPS, json.loads(child.stdout), strict=True
    ):
        assert (code, with_torch) == (1, False), (words, stderr)
        assert message in " ".join(stderr.split()), words
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_has_no_use_for_is_told_by_the_run(audit_run: Path, tmp_path: Path):
    said = refusal("train", audit_run, "--features", "f.npy", "--out", tmp_path / "run")
    assert "--features f.npy: the audit in" in said


def test_a_run_that_trained_nothing_says_what_it_is_and_what_to_do(
    audit_run: Path, photos: Path, tmp_path: Path
):
    pytest.importorskip("onnx")
    said = refusal("export", audit_run, "--to", "onnx", "--out", tmp_path / "m.onnx")
    assert f"{audit_run}: made by `labelsieve audit`, which trains no classifier" in said
    assert "Train one on it first: labelsieve train RUN --out MODEL" in said
    said = refusal("audit", photos, "--network", audit_run, "--out", tmp_path / "run")
    assert f"--network {audit_run}: made by `labelsieve audit`, and no network was trained" in said
    assert f"For its features, say --features {audit_run / 'features.npy'}." in said
    shutil.copytree(audit_run, tmp_path / "cluster")
    facts = {**about(audit_run), "job": "cluster"}
    (tmp_path / "cluster" / "run.json").write_text(json.dumps(facts))
    said = refusal("export", tmp_path / "cluster", "--to", "onnx", "--out", tmp_path / "m.onnx")
    assert said.endswith("expected a run of `labelsieve train`.")


def test_settings_of_one_name_are_told_apart():
    shown = done("recipes", "cpu").stdout
    first = "3 settings have this name: of a training, --model cpu; of a clustering, --recipe cpu;"
    assert shown.startswith(first)
    assert "\n\nof a training, --model cpu\n==========================\n\nA small netwo" in shown
    assert "\n\nof pretraining, --pretrain cpu\n===" in shown
    assert done("recipes", "gce").stdout.startswith("of a training, --recipe gce\n====")
