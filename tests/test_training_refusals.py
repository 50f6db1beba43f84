"""What a training refuses before any work, because it would change nothing or cannot be done."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import labelsieve as ls
from made_training import ON_ROWS, refusal, set_


@pytest.mark.parametrize("how", ["--set", "--config"])
def test_settings_of_an_audit_that_is_done_are_refused(how: str, audit_run: Path, tmp_path: Path):
    words = set_("audit.detection.n_repeats=2")
    if how == "--config":
        (tmp_path / "s.toml").write_text("[audit.detection]\nn_repeats = 2\n")
        words = ("--config", tmp_path / "s.toml")
    said = refusal("train", audit_run, "--out", tmp_path / "run", *words, *ON_ROWS)
    assert f"audit.detection.n_repeats: the audit in {audit_run} is done" in said
    assert "Leave it out, or give the images in place of the run." in said
    assert not (tmp_path / "run").exists()


def test_a_file_of_weights_is_not_said_to_go_with_what_is_refused(photos: Path, tmp_path: Path):
    torch.save(ls.network("narrow-resnet18", seed=3).state_dict(), tmp_path / "weights.pt")
    words = (photos, "--network", tmp_path / "weights.pt", "--out", tmp_path / "run")
    for command in ("audit", "train"):
        said = refusal(command, *words)
        assert "a file of weights does not say of which network. Give the folder with mod" in said
        assert "--pretrain" not in said
    assert "both name features" in refusal("audit", *words, "--pretrain", "cpu")
