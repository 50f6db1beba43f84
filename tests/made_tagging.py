"""Small pictures of shapes with tags, some of them wrong, and what people found of some."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from made_training import set_

N_IMAGES = 120
N_VERIFIED, N_TEST = 40, 40  # the first images, and the last
TAGS = ("red", "blue", "square", "disc", "dark")
BROKEN = "im005.png"
QUICK = set_(
    "train.updates=40", "train.least_passes=0", "train.baseline.epochs=2",
    "train.training.epochs=2", "train.baseline.batch_size=32", "train.training.batch_size=32",
    "dictionary.n_components=48", "dictionary.patches.n_atoms=32", "dictionary.views.in_all=500",
    "dictionary.patches.n_patches=2000", "dictionary.views.most=2", "dictionary.views.least=2",
)  # fmt: skip
FAST = (
    *QUICK,
    *set_(
        "train.objective.n_members=2", "train.objective.passes=4", "train.objective.n_folds=2",
        "train.objective.n_taggers=0", "train.objective.n_hidden=32", "train.objective.n_label=16",
    ),
)  # fmt: skip


def true_tags(seed: int = 0, n: int = N_IMAGES) -> np.ndarray:
    """(N, C) what the pictures show: a color, a shape, a background."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((n, len(TAGS)), bool)
    red, square = rng.random(n) < 0.5, rng.random(n) < 0.5
    truth[:, 0], truth[:, 1], truth[:, 2], truth[:, 3] = red, ~red, square, ~square
    truth[:, 4] = rng.random(n) < 0.4
    return truth


def given_tags(truth: np.ndarray, seed: int = 1) -> np.ndarray:
    """The same with every third assertion wrong."""
    rng = np.random.default_rng(seed)
    return truth | (rng.random(truth.shape) < 0.25)


def pictures(folder: Path, truth: np.ndarray, seed: int = 2) -> list[str]:
    """A picture of 16 pixels a row of the truth; one is broken."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"im{i:03d}.png" for i in range(len(truth))]
    for name, (red, _, square, _, dark) in zip(names, truth, strict=True):
        picture = Image.new("RGB", (16, 16), (40, 40, 40) if dark else (225, 225, 225))
        draw = ImageDraw.Draw(picture)
        x, y = rng.integers(1, 6, 2).tolist()
        color = (220, 60, 50) if red else (50, 70, 220)
        (draw.rectangle if square else draw.ellipse)((x, y, x + 8, y + 8), fill=color)
        picture.save(folder / name)
    (folder / BROKEN).write_bytes(b"no picture")
    return names


def list_table(path: Path, names: Sequence[str], tags: np.ndarray) -> Path:
    """A row an image, its tags joined by |."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "labels", "author"])
        for name, own in zip(names, tags, strict=True):
            rows.writerow([name, "|".join(np.array(TAGS)[own]), f"by {name}"])
    return path


def answers_table(
    path: Path, names: Sequence[str], truth: np.ndarray, asked: np.ndarray, rows: Sequence[int]
) -> Path:
    """What people found of the tags that were asked of some images: image,label,present."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["image", "label", "present"])
        for row in rows:
            for c in np.flatnonzero(asked[row]):
                out.writerow([names[row], TAGS[c], int(truth[row, c])])
    return path


def fill_in(path: Path, names: Sequence[str], truth: np.ndarray) -> int:
    """Answer the questions of a to_verify.csv as the truth has it; how many they are."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        shown = truth[names.index(row["image"]), TAGS.index(row["tag"])]
        row["present"] = str(int(shown))
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, rows[0].keys())
        out.writeheader()
        out.writerows(rows)
    return len(rows)
