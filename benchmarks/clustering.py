"""Clustering of CIFAR-10 as a user runs it: accuracy of each phase, and its CPU-seconds.

    python benchmarks/clustering.py [--classes 0,1,6,7,8] [--recipe NAME] [--seed N] [--threads N]
                                    [--network RUN] [--set NAME=VALUE]... [--out FOLDER]

Five classes are the scaled-down experiment of docs/results.md; all ten are the default. The test
images, without their labels, choose epoch and head, as in the paper; labels only score. k-means is
the best of ten runs by inertia on the very features that the other phases have. Pretrained in
another run, --network takes its network, and its time is not counted. A killed call goes on where
it was when it is given the same --out.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve()


def main() -> None:
    """Cluster the training images and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data/cifar10")
    parser.add_argument("--classes", default="0,1,2,3,4,5,6,7,8,9", help="numbers of the labels")
    parser.add_argument("--recipe", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", help="folder of `labelsieve features --pretrain`")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes")
    parser.add_argument("--out", type=Path, help="folder of the run, kept")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)  # before numpy and torch read it

    import torch

    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measured(chosen, chosen.out or Path(scratch))))


def measured(chosen: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run, and what run.json says of it."""
    from labelsieve.clustering.cluster import cluster_recipe, run_cluster
    from labelsieve.config import overrides
    from labelsieve.run import read_run
    from labelsieve.stages.inputs import Inputs

    classes = [int(word) for word in chosen.classes.split(",")]
    folder.mkdir(parents=True, exist_ok=True)
    train, test = (part_of(chosen.data, part, classes, folder) for part in ("train", "test"))
    inputs = Inputs(
        str(train), valid=str(test), label="label_name", network=chosen.network,
        recipe=chosen.recipe, seed=chosen.seed, device=chosen.device,
    )  # fmt: skip
    settings = overrides(cluster_recipe(chosen.recipe), chosen.changes)
    found = run_cluster(inputs, settings, len(classes), folder / "run", resume=True)
    about = read_run(folder / "run")
    timings = {name: each["cpu_seconds"] for name, each in about["timings"].items()}
    return {
        "accuracy": of_each(found.scores, "accuracy"),
        "nmi": of_each(found.scores, "nmi"),
        "cpu_seconds": round(sum(timings.values()), 1),
        "seconds": timings,
        "wall_seconds": {name: each["seconds"] for name, each in about["timings"].items()},
        "peak_memory_mb": about["peak_memory_mb"],
        "classes": classes,
        "recipe": chosen.recipe,
        "network": chosen.network,
        "seed": chosen.seed,
        "threads": chosen.threads,
        "changes": chosen.changes,
        "warnings": list(found.clusters.warnings),
    }


def part_of(data: Path, part: str, classes: list[int], folder: Path) -> Path:
    """The images of some classes as a table of its own, made once."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = folder / f"{part}.parquet"
    if not path.exists():
        table = pq.read_table(
            data / f"{part}.parquet", columns=["image", "path", "label", "label_name"]
        )
        pq.write_table(table.filter(pc.field("label").isin(classes)), path, row_group_size=5000)
    return path


def of_each(scores, measure: str) -> dict[str, dict[str, float]]:
    """A measure by phase and part."""
    return {
        phase: {part: round(getattr(each, measure), 4) for part, each in parts.items()}
        for phase, parts in scores.items()
    }


if __name__ == "__main__":
    main()
