"""A noisy set of digits, images to test on, and settings so small that tests may train on them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

from click.testing import CliRunner, Result

from labelsieve.cli import main
from made_digits import digit_files

DIGITS = (0, 1, 4)
N_IMAGES = 122  # 40 of each digit, a copy and a broken one
MOVED = 3  # of each digit, into the folder of another
N_TEST = 46  # 15 of each digit, and a broken one


def set_(*assignments: str) -> tuple[str, ...]:
    return tuple(word for one in assignments for word in ("--set", one))


AUDIT = (
    "dictionary.n_components=64", "dictionary.patches.n_atoms=48", "detection.n_repeats=1",
    "dictionary.views.in_all=1000", "dictionary.patches.n_patches=5000",
    "detection.classifier.least_steps=60",
)  # fmt: skip
LEARN = (
    "least_updates=0", "classify.training.epochs=8", "classify.training.batch_size=32",
    "classify.training.learning_rate.peak=0.01", "classify.average=0.5", "n_hidden=32",
)  # fmt: skip
WITH_AUDIT = set_(*(f"audit.{one}" for one in AUDIT))  # where images are given, and no run
ON_ROWS = set_(*LEARN)  # a classifier on features
ON_IMAGES = (
    "--model", "cpu",
    *set_(
        "least_updates=0", "classify.training.epochs=2", "classify.training.batch_size=32",
        "classify.training.precision=float32", "classify.clean_norms=64", "image_size=16",
        "classify.weak.size=16", "classify.weak.padding=2", "classify.strong.size=16",
    ),
)  # fmt: skip


def noisy_digits(root: Path) -> Path:
    """Digits in class folders; some in a wrong one, one copied, one broken."""
    digit_files(root, dict.fromkeys(DIGITS, 40))
    for digit, other in zip(DIGITS, (*DIGITS[1:], DIGITS[0]), strict=True):
        for i in range(MOVED):
            (root / f"{digit}/{i:03d}.png").rename(root / f"{other}/was{digit}-{i}.png")
    shutil.copy(root / "0" / "010.png", root / "0" / "copy.png")
    (root / "1" / "cut.png").write_bytes((root / "1" / "010.png").read_bytes()[:90])
    return root


def held_out_digits(root: Path) -> Path:
    """Others of the same digits, one of them broken."""
    digit_files(root, dict.fromkeys(DIGITS, 15), first=60)
    (root / "0" / "torn.png").write_bytes(b"no picture")
    return root


def true_digit(name: str) -> str:
    """Of an image of `noisy_digits`, by its id."""
    folder, file = name.split("/")
    return file[3] if file.startswith("was") else folder


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def done(*words: object) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def refusal(*words: object) -> str:
    """What a command that exits with 1 says, on one line."""
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def about(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def rows_of_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


KEPT = (
    "findings.parquet", "findings.csv", "audit.parquet", "predictions.parquet", "predictions.csv",
    "model.safetensors", "model.json",
)  # fmt: skip


def same_bytes(a: Path, b: Path, *more: str) -> None:
    for name in (*KEPT, *more):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
