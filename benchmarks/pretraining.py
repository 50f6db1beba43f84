"""Recipe `cpu` of pretraining: kNN accuracy, neighbor purity, and CPU-seconds of each stage.

    python benchmarks/pretraining.py [--data PATH] [--threads N] [--seed N] [--set NAME=VALUE]...

PATH is a folder with train.parquet and test.parquet, or one table or folder of labeled images, of
which every fourth is held out. Labels only score. Times are of the process, all its threads
together; scoring is not counted. The dictionary features are scored beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path

HERE = Path(__file__).resolve()
N_NEIGHBORS = 20


def main() -> None:
    """Pretrain on the training images, transform all, print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data/cifar10")
    parser.add_argument("--label", default="label", help="column of the labels, of tables")
    parser.add_argument("--only", metavar="PREFIX", default="", help="images whose id begins so")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes")
    parser.add_argument("--out", type=Path, help="also write the features to this .npz")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)  # before numpy and torch read it

    import numpy as np
    import torch

    from labelsieve.config import overrides
    from labelsieve.data.batches import resident
    from labelsieve.data.decode import decode_images
    from labelsieve.features.joint import fit
    from labelsieve.features.pretrain import pretrain
    from labelsieve.features.recipes import cpu
    from labelsieve.loop.runtime import Runtime

    torch.set_num_threads(chosen.threads)
    settings = overrides(cpu(), chosen.changes)
    seconds: dict[str, float] = {}
    clock = time.process_time()

    def lap(stage: str) -> None:
        nonlocal clock
        seconds[stage] = round(time.process_time() - clock, 1)
        clock = time.process_time()

    train_set, test_set = sets(chosen)
    size = settings.image_size
    train, test = (
        decode_images(each, size, threads=chosen.threads).values for each in (train_set, test_set)
    )
    lap("decode")
    encoder = pretrain(
        resident(train), np.arange(len(train)), settings, pixels=train, seed=chosen.seed,
        runtime=Runtime.start("cpu", settings.training.precision),
    )  # fmt: skip
    lap("pretrain")
    model = fit(train, encoder.network, settings.joint, seed=chosen.seed)
    lap("fit")
    train_rows = model.transform(train)
    lap("transform")
    test_rows = model.transform(test)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # Linux: kB
    labels = [np.asarray(each.labels) for each in (train_set, test_set)]
    alone = [unit(model.dictionary.mapped, model.dictionary.agreement, p) for p in (train, test)]
    measured = {
        **scores(train_rows, labels[0], test_rows, labels[1]),
        "dictionary_alone": scores(alone[0], labels[0], alone[1], labels[1]),
        "cpu_seconds": round(sum(seconds.values()), 1),
        "seconds": seconds,
        "n_train": len(train),
        "n_test": len(test),
        "peak_memory_mb": peak,
        "threads": chosen.threads,
        "seed": chosen.seed,
        "changes": chosen.changes,
    }
    print(json.dumps(measured))
    if chosen.out:
        np.savez(
            chosen.out, train=train_rows, test=test_rows, label_train=labels[0],
            label_test=labels[1],
        )  # fmt: skip


def sets(chosen):
    """The images to learn from, and those to score on."""
    import numpy as np

    from labelsieve.data.read import read

    if (chosen.data / "train.parquet").exists():
        paths = [chosen.data / f"{part}.parquet" for part in ("train", "test")]
        return [read(str(path), label=chosen.label) for path in paths]
    every = read(str(chosen.data), label=chosen.label if chosen.data.is_file() else None)
    wanted = [row for row, name in enumerate(every.ids) if name.startswith(chosen.only)]
    held_out = np.arange(len(wanted)) % 4 == 3
    rows = np.array(wanted)
    return [every.take(rows[~held_out]), every.take(rows[held_out])]


def scores(train, train_labels, test, test_labels) -> dict[str, float]:
    """Of test images by training images; and how pure the neighborhoods of training images are."""
    from labelsieve.neighbors.knn import nearest_neighbors, search
    from labelsieve.neighbors.vote import neighbor_accuracy, purity

    found = search(test, train, N_NEIGHBORS)
    inside = nearest_neighbors(train, N_NEIGHBORS)
    return {
        "knn_accuracy": round(neighbor_accuracy(found, train_labels, test_labels), 4),
        "purity": round(purity(inside, train_labels), 4),
    }


def unit(mapped, agreement, pixels):
    """Rows of the dictionary inside, scaled as its own features are."""
    import torch

    from labelsieve.features.dictionary import unit_rows

    rows = []
    with torch.inference_mode():
        for first in range(0, len(pixels), 512):
            images = torch.from_numpy(pixels[first : first + 512]).float()
            both = mapped(images) + mapped(images.flip(3))
            rows.append(unit_rows(both[:, :256] * agreement[:256].clamp(min=1e-4) ** 1.5))
    return torch.cat(rows).numpy()


if __name__ == "__main__":
    main()
