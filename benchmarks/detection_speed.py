# ruff: noqa: E402  the number of threads is set before numpy reads it
"""The paper's whole detection against the same steps by other programs: CPU seconds in one run.

    python benchmarks/detection_speed.py [--threads 1] [--images 50000] [--classes 10] [--full]

The other side: faiss IndexFlatIP (or a brute force in numpy without faiss), the smallest-magnitude
solve with the published code's settings, scikit-learn's OPTICS. Its OPTICS within classes is timed
on --classes of them and scaled to all; --full runs them all (six minutes). Bar: at least 12 times
faster, and the same kind on at least 99.5 % of the rows.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
arguments.add_argument("--threads", type=int, default=1, help="for both sides alike")
arguments.add_argument("--images", type=int, default=50_000, help="500 a class")
arguments.add_argument("--classes", type=int, default=10, help="timed by scikit-learn's OPTICS")
arguments.add_argument("--full", action="store_true", help="all classes")
options = arguments.parse_args()
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(options.threads)

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from golden.make import (
    brute_force_neighbors,
    laplacian,
    sklearn_labels,
    smallest_magnitude_embedding,
    split_class,
)
from labelsieve.methods.sncf.paper import PaperDetection, detect_paper, embed, group_foreign
from labelsieve.neighbors.knn import nearest_neighbors
from toy import structured

clock = time.process_time


def flat_neighbors(features, n_neighbors=50):
    try:
        import faiss
    except ImportError:
        return brute_force_neighbors(features, n_neighbors)
    faiss.omp_set_num_threads(options.threads)
    index = faiss.IndexFlatIP(features.shape[1])
    index.add(features)
    similarities, indices = index.search(features, n_neighbors + 1)
    return indices[:, 1:], similarities[:, 1:]


def others(toy, foreign):
    """Seconds of each step, and the kinds of the rows that were judged (-1: not)."""
    seconds, start = {}, clock()

    def lap(step, scale=1.0):
        nonlocal start
        seconds[step] = (clock() - start) * scale
        start = clock()

    found = flat_neighbors(toy.features)
    lap("neighbors")
    points = smallest_magnitude_embedding(laplacian(*found))
    lap("graph and embedding")
    classes = np.unique(toy.labels)
    judged = classes if options.full else classes[:: max(len(classes) // options.classes, 1)]
    kinds = np.full(len(toy.labels), -1)
    for label in judged:
        rows = np.flatnonzero(toy.labels == label)
        kinds[rows] = split_class(points[rows], toy.features[rows])
    lap("clusters in classes", len(toy.labels) / (kinds >= 0).sum())
    points = smallest_magnitude_embedding(laplacian(*flat_neighbors(toy.features[foreign])))
    sklearn_labels(points, 100, 100)
    lap("groups among the foreign")
    return seconds, kinds, len(judged)


def ours(toy):
    seconds, start = {}, clock()
    settings = PaperDetection()
    near = nearest_neighbors(toy.features, settings.n_neighbors)
    seconds["neighbors"] = clock() - start
    found = detect_paper(toy.features, toy.labels, settings, neighbors=near)
    total = clock() - start
    start = clock()  # two steps a second time, to tell the parts apart
    embed(near, settings)
    seconds["graph and embedding"] = clock() - start
    start = clock()
    group_foreign(toy.features[found.kinds == 2], settings)
    seconds["groups among the foreign"] = clock() - start
    seconds["clusters in classes"] = total - sum(seconds.values())
    return seconds, found


def main():
    toy = structured(options.images, options.images // 500)
    mine, found = ours(toy)
    theirs, kinds, n_judged = others(toy, found.kinds == 2)
    judged = kinds >= 0
    scaled = "" if options.full else f" (of {n_judged} classes, scaled to {options.images // 500})"
    print(f"structured({options.images}, {options.images // 500}), threads: {options.threads}\n")
    print("| step | labelsieve, CPU s | others, CPU s | ratio |\n|---|---|---|---|")
    for step, seconds in theirs.items():
        note = scaled if step == "clusters in classes" else ""
        print(f"| {step}{note} | {mine[step]:.2f} | {seconds:.1f} | {seconds / mine[step]:.1f} |")
    a, b = sum(mine.values()), sum(theirs.values())
    print(f"| **all** | **{a:.1f}** | **{b:.1f}** | **{b / a:.1f}** |\n")
    same = (found.kinds == kinds)[judged].mean()
    print(f"same kind on {100 * same:.2f} % of {judged.sum():,} rows; clean, mislabeled, foreign:")
    print(np.bincount(found.kinds, minlength=3).tolist())


main()
