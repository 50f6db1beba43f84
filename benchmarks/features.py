"""Dictionary features on CIFAR-10: kNN accuracy, neighbor purity, and CPU-seconds of each stage.

    python benchmarks/features.py [--data FOLDER] [--threads N] [--set NAME=VALUE]...

FOLDER holds train.parquet and test.parquet with columns `image` (encoded bytes) and `label`. Times
are of the process, all its threads together; scoring is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path

HERE = Path(__file__).resolve()
ROWS_A_BLOCK = 1000
N_NEIGHBORS = 20


def main() -> None:
    """Fit on the training images, transform all, print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data/cifar10")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-train", type=int, help="only so many training images, evenly spaced")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes")
    parser.add_argument("--out", type=Path, help="also write the features to this .npz")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)  # before numpy and torch read it

    import numpy as np
    import torch

    from labelsieve.config import overrides
    from labelsieve.data.decode import decode_images
    from labelsieve.data.read import read
    from labelsieve.features.dictionary import Dictionary, code_dtype, fit

    torch.set_num_threads(chosen.threads)
    settings = overrides(Dictionary(), chosen.changes)
    seconds: dict[str, float] = {}
    clock = time.process_time()

    def lap(stage: str) -> None:
        nonlocal clock
        seconds[stage] = round(time.process_time() - clock, 1)
        clock = time.process_time()

    sets = [read(str(chosen.data / f"{part}.parquet"), label="label") for part in ("train", "test")]
    if chosen.n_train:
        sets[0] = sets[0].take(np.arange(chosen.n_train) * len(sets[0]) // chosen.n_train)
    pixels = [decode_images(s, settings.image_size, threads=chosen.threads).values for s in sets]
    lap("decode")
    model = fit(pixels[0], settings, seed=chosen.seed)
    lap("fit")
    train, test = (model.transform(each) for each in pixels)
    lap("transform")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # Linux: kB
    labels = [np.asarray(s.labels) for s in sets]
    measured = {
        "knn_accuracy": round(knn_accuracy(train, labels[0], test, labels[1]), 4),
        "purity": round(purity(train, labels[0]), 4),
        "cpu_seconds": round(sum(seconds.values()), 1),
        "seconds": seconds,
        "n_train": len(train),
        "peak_memory_mb": peak,
        "dtype": str(code_dtype("cpu")),
        "threads": chosen.threads,
        "seed": chosen.seed,
        "changes": chosen.changes,
    }
    print(json.dumps(measured))
    if chosen.out:
        np.savez(chosen.out, train=train, test=test, label_train=labels[0], label_test=labels[1])


def knn_accuracy(train, train_labels, test, test_labels) -> float:
    """Share of test images whose 20 nearest training images' majority has their class."""
    import numpy as np

    n_classes = train_labels.max() + 1
    right = 0
    for first in range(0, len(test), ROWS_A_BLOCK):
        near = nearest(test[first : first + ROWS_A_BLOCK] @ train.T)
        votes = (train_labels[near][:, :, None] == np.arange(n_classes)).sum(1)
        right += (votes.argmax(1) == test_labels[first : first + ROWS_A_BLOCK]).sum()
    return float(right / len(test))


def purity(features, labels) -> float:
    """Share of images of the same class among the 20 nearest others, over every image."""
    import numpy as np

    same = 0
    for first in range(0, len(features), ROWS_A_BLOCK):
        rows = np.arange(first, min(len(features), first + ROWS_A_BLOCK))
        similarity = features[rows] @ features.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        same += (labels[nearest(similarity)] == labels[rows][:, None]).sum()
    return float(same / len(features) / N_NEIGHBORS)


def nearest(similarity):
    """Columns of the 20 greatest similarities of each row, in any order."""
    import torch

    return torch.from_numpy(similarity).topk(N_NEIGHBORS, 1, sorted=False).indices.numpy()


if __name__ == "__main__":
    main()
