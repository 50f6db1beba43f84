"""Trainings of a classifier with all that a checkpoint must hold, to be killed at any moment."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from labelsieve.methods.sncf.classify import Classify
from labelsieve.methods.sncf.paper_training import Paper
from labelsieve.methods.sncf.plain_training import Plain
from made_noisy import QUICK, accuracy_test, logs, noisy, trained, weights, with_training

# Updates of each are saved, so that any of them may be the last before a kill.
_SAVED = {"checkpoint_minutes": 1e-9, "epochs": 4, "batch_size": 24}


def settings_of(name: str) -> Classify:
    """Three: with a state of its own, in two phases, and with draws of torch's own generator."""
    objective = {"elr": Plain("elr"), "mixup": Plain(alpha=1.0), "paper": Paper(guess="average")}
    settings = replace(QUICK, objective=objective[name], average=0.8, clean_norms=60)
    return with_training(settings, **_SAVED)


def run(folder: Path, name: str) -> None:
    """Train, or go on, and leave the result in folder/result.pt."""
    torch.set_num_threads(1)
    made = noisy(n=60, n_mislabeled=30, n_foreign=30)
    log, _ = logs(folder / "log.jsonl")
    found = trained(
        made, settings_of(name), test=accuracy_test(made), folder=folder / "checkpoints", log=log
    )
    said = torch.from_numpy(found.probabilities)
    partial = folder / "result.partial"
    torch.save({"weights": weights(found), "said": said}, partial)
    partial.replace(folder / "result.pt")


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
