"""A small real set to try everything on: handwritten digits, made noisy on purpose, truth kept.

The 1,797 digits and the two photographs come with scikit-learn, so nothing is downloaded.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelsieve.files import atomic

SIZE = 32  # px
FOREIGN, BROKEN = "foreign", "broken"  # the truth of an image that is none of the ten digits


@dataclass(frozen=True)
class DemoNoise:
    """How much of each kind of trouble is planted."""

    mislabeled: float = 0.12  # share of the digits that move to another digit's folder
    foreign: float = 0.08  # patches of photographs, as a share of the number of digits
    exact_duplicates: int = 12  # copies of digits, byte for byte
    near_duplicates: int = 12  # copies, a little brighter and saved as JPEG


@dataclass(frozen=True)
class DemoSet:
    """Where the demo set lies."""

    images: Path  # class folders 0 ... 9
    truth: Path  # CSV: image, truth, duplicate_of


def make_demo(folder: Path, noise: DemoNoise | None = None, seed: int = 0) -> DemoSet:
    """Write the demo set as class folders with a truth table beside them.

    Args:
        folder: made where it is missing; gets `images/` and `truth.csv`.
        noise: what is planted.
        seed: of what is planted where; the same seed writes the same files.

    Returns:
        the two paths.
    """
    from sklearn.datasets import load_digits  # scikit-learn takes a second to import

    noise = noise or DemoNoise()
    rng = np.random.default_rng(seed)
    digits = load_digits()
    pictures = [_digit(image) for image in digits.images]
    truth = digits.target.astype(int)
    n_foreign = round(noise.foreign * len(truth))
    given = _move_some(truth, noise.mislabeled, rng)

    root = folder / "images"
    for name in range(10):
        (root / str(name)).mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str, str]] = []
    for number, (picture, label) in enumerate(zip(pictures, given, strict=True)):
        image = f"{label}/{number:04d}.png"
        picture.save(root / image)
        rows.append((image, str(truth[number]), ""))
    for number, patch in enumerate(_photo_patches(n_foreign, rng)):
        image = f"{rng.integers(10)}/{2000 + number:04d}.png"
        patch.save(root / image)
        rows.append((image, FOREIGN, ""))
    rows += _plant_duplicates(root, rows[: len(truth)], noise, rng)
    broken = f"{rng.integers(10)}/5000.png"
    whole = (root / rows[0][0]).read_bytes()
    (root / broken).write_bytes(whole[: len(whole) // 2])
    rows.append((broken, BROKEN, ""))
    table = folder / "truth.csv"
    with atomic(table) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "truth", "duplicate_of"), *sorted(rows)])
    return DemoSet(root, table)


def _digit(image: NDArray[np.float64]) -> Image.Image:
    """An 8 x 8 digit of 17 gray levels as a 32-px picture, dark ink on white."""
    gray = (255 - np.clip(image, 0, 16) * (255 / 16)).astype(np.uint8)
    return Image.fromarray(gray).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _move_some(truth: NDArray[np.int_], rate: float, rng: np.random.Generator) -> NDArray[np.int_]:
    """Labels of which exactly `rate` are replaced by one of the nine others."""
    given = truth.copy()
    moved = rng.choice(len(truth), round(rate * len(truth)), replace=False)
    given[moved] = (truth[moved] + rng.integers(1, 10, len(moved))) % 10
    return given


def _photo_patches(n: int, rng: np.random.Generator) -> list[Image.Image]:
    """Gray patches of scikit-learn's two photographs: color alone must not give them away."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo).convert("L") for photo in load_sample_images().images]
    patches = []
    for _ in range(n):
        photo = photos[rng.integers(len(photos))]
        side = int(rng.integers(SIZE, 4 * SIZE))
        left = int(rng.integers(photo.width - side))
        top = int(rng.integers(photo.height - side))
        patch = photo.crop((left, top, left + side, top + side))
        patches.append(patch.resize((SIZE, SIZE), Image.Resampling.BOX))
    return patches


def _plant_duplicates(
    root: Path, rows: list[tuple[str, str, str]], noise: DemoNoise, rng: np.random.Generator
) -> list[tuple[str, str, str]]:
    """Copies beside their originals, in the same class folder."""
    n = noise.exact_duplicates + noise.near_duplicates
    planted = []
    for number, row in enumerate(rng.choice(len(rows), n, replace=False)):
        original, truth, _ = rows[row]
        folder = original.split("/")[0]
        if number < noise.exact_duplicates:
            image = f"{folder}/{3000 + number:04d}.png"
            (root / image).write_bytes((root / original).read_bytes())
        else:
            image = f"{folder}/{4000 + number:04d}.jpg"
            with Image.open(root / original) as picture:
                picture.point(lambda value: min(255, int(value * 0.92 + 20))).save(
                    root / image, quality=85
                )
        planted.append((image, truth, original))
    return planted
