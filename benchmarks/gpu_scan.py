"""SCAN's recipe for CIFAR-10 at its full length on a GPU: accuracy and minutes against the paper's.

    python benchmarks/gpu_scan.py --out FOLDER [--recipe NAME] [--seed N] [--set NAME=VALUE]...
    python benchmarks/gpu_scan.py --tiny --out FOLDER

Everything is in it: pretext of 500 epochs, mining, SCAN, self-labels. The test images, without
their labels, choose epoch and head, as in the paper; labels only score. A call that was cut off
goes on where it was when it is given the same --out. Prints a table and a JSON line. With --tiny,
one epoch of each phase on a few made images, on a CPU too: a test that all of this runs.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from clustering import measured

HERE = Path(__file__).resolve()
PAPER = {"k-means": 0.659, "scan": 0.818, "self-label": 0.876}  # means of ten runs, test images
PAPER_MINUTES = 360  # "within six hours on one GPU"
BAR_MINUTES = 30
TINY = (
    "pretrain.network=narrow-resnet18", "pretrain.image_size=16", "pretrain.views.size=16",
    "pretrain.training.epochs=1", "pretrain.training.batch_size=16",
    "dictionary.image_size=16", "n_neighbors=5", "scan.strong.size=16", "scan.clean_size=16",
    "scan.training.epochs=1", "scan.training.batch_size=16", "self_labels.strong.size=16",
    "self_labels.clean_size=16", "self_labels.training.epochs=1",
    "self_labels.training.batch_size=16", "self_labels.threshold=0.05",
)  # fmt: skip


def main() -> None:
    """Run the recipe, or go on with it, and hold it against the paper."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data/cifar10")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, kept")
    parser.add_argument("--recipe", default="scan-cifar10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes")
    parser.add_argument("--tiny", action="store_true", help="some seconds, at no accuracy")
    chosen = parser.parse_args()
    if chosen.device == "cpu" and not chosen.tiny:
        sys.exit("There is no CUDA device here; --tiny runs the same on a CPU, at no accuracy.")
    classes = range(2) if chosen.tiny else range(10)
    if chosen.tiny:
        chosen.data = made(chosen.out / "made")
        chosen.changes = [*TINY, *chosen.changes]
    found = measured(
        SimpleNamespace(
            data=chosen.data, classes=",".join(map(str, classes)), recipe=chosen.recipe,
            seed=chosen.seed, device=chosen.device, network=None, changes=chosen.changes, threads=0,
        ),
        chosen.out,
    )  # fmt: skip
    minutes = {stage: seconds / 60 for stage, seconds in found["wall_seconds"].items()}
    found |= {"device": device_name(chosen.device), "minutes": sum(minutes.values())}
    show(found, minutes)
    print(json.dumps(found))


def show(found: dict, minutes: dict[str, float]) -> None:
    """Tables in Markdown: accuracy by phase, minutes by stage."""
    print("| phase | ACC, test images | paper |\n|---|---|---|")
    for phase, parts in found["accuracy"].items():
        print(f"| {phase} | {parts['valid']:.3f} | {PAPER.get(phase, float('nan')):.3f} |")
    print("\n| stage | minutes |\n|---|---|")
    for stage, took in minutes.items():
        print(f"| {stage} | {took:.1f} |")
    print(f"| all | {sum(minutes.values()):.1f} (aim {BAR_MINUTES}, paper {PAPER_MINUTES}) |\n")


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def made(folder: Path) -> Path:
    """Tables of a few noisy images of two colors, laid out as CIFAR-10's are here."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", 64), ("test", 32)):
        labels = np.arange(n) % 2
        pixels = rng.integers(0, 90, (n, 16, 16, 3), np.uint8)
        pixels[np.arange(n), :, :, labels] += 150
        images = []
        for picture in pixels:
            Image.fromarray(picture).save(file := io.BytesIO(), "PNG")
            images.append(file.getvalue())
        table = {
            "image": images, "path": [f"{part}/{i}.png" for i in range(n)], "label": labels,
            "label_name": [("red", "green")[label] for label in labels],
        }  # fmt: skip
        pq.write_table(pa.table(table), folder / f"{part}.parquet")
    return folder


if __name__ == "__main__":
    main()
