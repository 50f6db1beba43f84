"""Heads on cached features: CPU seconds of their training, and how right their clusters are.

    python benchmarks/cluster_heads.py [--rows 50000] [--features 512] [--epochs 50] [--heads 10]
    python benchmarks/cluster_heads.py --data FEATURES.npz [--seeds 3]

The first trains on random rows with random neighbors and takes the time of `train_heads`, alignment
and validation on a tenth as many rows included. The second takes features of a labeled set: arrays
train, test (N, D), label_train, label_test (N,). A tenth of train is held out to choose epoch and
head by; neighbors are mined; labels score. It prints, for each seed, the accuracy of k-means (best
of 10 by inertia, unit rows), and of both objectives, under the best assignment of clusters to
classes, on all of train and on test. CPU seconds of the process. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from labelsieve.config import overrides
from labelsieve.methods.scan.consensus import row_probabilities
from labelsieve.methods.scan.heads import HeadTraining, temi_heads, train_heads
from labelsieve.methods.scan.kmeans import assign, kmeans
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Neighbors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--heads", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=50, help="of random rows")
    parser.add_argument("--neighbors", type=int, default=20)
    parser.add_argument("--data", type=Path, help="an .npz: accuracy in place of time")
    parser.add_argument("--seeds", type=int, default=3, help="of --data")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                        help="change a setting of both objectives")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    figures = speed(chosen) if chosen.data is None else quality(chosen)
    figures |= {"threads": chosen.threads, "torch": torch.__version__}
    print(json.dumps(figures))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1))


def recipes(chosen):
    """Settings of both objectives."""
    scan, temi = (overrides(each, chosen.set) for each in (HeadTraining(), temi_heads()))
    return {"scan": scan, "temi": temi}


def speed(chosen):
    """CPU seconds of both objectives on rows that mean nothing."""
    rng = np.random.default_rng(0)
    rows, valid = (random_rows(n, chosen.features, rng) for n in (chosen.rows, chosen.rows // 10))
    near, valid_near = (
        random_neighbors(len(values), k, rng)
        for values, k in ((rows, chosen.neighbors), (valid, 5))
    )
    figures = {"rows": chosen.rows, "features": chosen.features, "clusters": chosen.clusters,
               "heads": chosen.heads, "epochs": chosen.epochs}  # fmt: skip
    print("| objective | CPU seconds |\n|---|---:|")
    for name, settings in recipes(chosen).items():
        training = replace(settings.training, epochs=chosen.epochs)
        settings = replace(settings, n_heads=chosen.heads, training=training)
        begun = time.process_time()
        train_heads(rows, near, chosen.clusters, settings, valid=valid, valid_neighbors=valid_near)
        figures[f"{name}_cpu_seconds"] = time.process_time() - begun
        print(f"| {name} | {figures[f'{name}_cpu_seconds']:.1f} |", flush=True)
    return figures


def random_rows(n, n_features, rng):
    rows = rng.standard_normal((n, n_features), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random_neighbors(n, n_neighbors, rng):
    others = (np.arange(n)[:, None] + rng.integers(1, n, (n, n_neighbors))) % n
    return Neighbors(others, np.zeros(others.shape, np.float32))


def quality(chosen):
    """Accuracy of k-means and of both objectives, seed after seed."""
    with np.load(chosen.data) as arrays:
        data = {name: arrays[name] for name in ("train", "test", "label_train", "label_test")}
    held_out = np.random.default_rng(0).permutation(len(data["train"])) < len(data["train"]) // 10
    rows, valid = data["train"][~held_out], data["train"][held_out]
    near, valid_near = nearest_neighbors(rows, chosen.neighbors), nearest_neighbors(valid, 5)
    n_classes = int(data["label_train"].max()) + 1
    found = []
    print("| seed | method | ACC train, % | ACC test, % | heads agree (ARI) | CPU seconds |")
    print("|---:|---|---:|---:|---:|---:|")
    for seed in range(chosen.seeds):
        for name, settings in {"k-means": None, **recipes(chosen)}.items():
            begun, alike = time.process_time(), float("nan")
            if settings is None:
                centers = kmeans(data["train"], n_classes, seed=seed).centers
                clusters = [assign(data[part], centers) for part in ("train", "test")]
            else:
                fit = train_heads(
                    rows, near, n_classes, settings, valid=valid, valid_neighbors=valid_near,
                    seed=seed,
                )  # fmt: skip
                clusters = [
                    row_probabilities(fit.heads, data[part]).argmax(1) for part in ("train", "test")
                ]
                alike = fit.agreement
            scores = [
                accuracy(own, data[f"label_{part}"])
                for own, part in zip(clusters, ("train", "test"), strict=True)
            ]
            cpu = time.process_time() - begun
            found.append({"seed": seed, "method": name, "train": scores[0], "test": scores[1],
                          "agreement": alike, "cpu_seconds": cpu})  # fmt: skip
            print(f"| {seed} | {name} | {100 * scores[0]:.2f} | {100 * scores[1]:.2f} | "
                  f"{alike:.3f} | {cpu:.1f} |", flush=True)  # fmt: skip
    for name in ("k-means", "scan", "temi"):
        test = [100 * each["test"] for each in found if each["method"] == name]
        print(f"| mean ± std | {name} | | {np.mean(test):.2f} ± {np.std(test):.2f} | | |")
    return {"data": chosen.data.name, "runs": found}


def accuracy(clusters, labels):
    n = int(max(clusters.max(), labels.max())) + 1
    counts = np.zeros((n, n), int)
    np.add.at(counts, (clusters, labels), 1)
    return counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels)


if __name__ == "__main__":
    main()
