# ruff: noqa: E402  the number of threads is set before numpy reads it
"""Neighbors, embedding and clusters against the usual libraries: CPU seconds of both in one run.

    python benchmarks/neighbors.py [--threads 1] [--images 50000] [--repeats 1]

Prints Markdown rows. Bars: neighbors at most 1.5 times faiss' IndexFlatIP; embedding at least 3
times faster than the smallest-magnitude solve; OPTICS at least 20 times (500 rows) and 3 times
(5,000 rows) faster than scikit-learn's, with its labels.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
arguments.add_argument("--threads", type=int, default=1, help="for both sides alike")
arguments.add_argument("--images", type=int, default=50_000)
arguments.add_argument("--repeats", type=int, default=1, help="the least of so many is printed")
options = arguments.parse_args()
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(options.threads)

import numpy as np
from scipy.linalg import subspace_angles

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from golden.make import laplacian, sklearn_labels, smallest_magnitude_embedding
from labelsieve.neighbors.graph import affinity, doubly_normalized, spectral_embedding
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.neighbors.optics import Group, optics_by_class
from toy import structured


def timed(work):
    """The result, and the least CPU seconds of the repeats."""
    seconds, result = [], None
    for _ in range(options.repeats):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def row(what, ours, theirs, whose, note):
    print(
        f"| {what} | {ours:.2f} | {theirs:.2f} ({whose}) | {theirs / ours:.1f} | {note} |",
        flush=True,
    )


def neighbors(features, n_neighbors, name):
    import faiss

    faiss.omp_set_num_threads(options.threads)

    def flat():
        index = faiss.IndexFlatIP(features.shape[1])
        index.add(features)
        return index.search(features, n_neighbors + 1)

    found, ours = timed(lambda: nearest_neighbors(features, n_neighbors))
    (similarities, _), theirs = timed(flat)
    off = np.abs(similarities[:, 1:] - found.similarities).max()
    what = f"neighbors, {name}, {len(features):,} x {features.shape[1]}, K = {n_neighbors}"
    row(what, ours, theirs, "faiss IndexFlatIP", f"similarities differ by at most {off:.0e}")
    return found


def embedding(near):
    n = len(near.indices)
    operator, graph = timed(lambda: doubly_normalized(affinity(near)))
    found, ours = timed(lambda: spectral_embedding(operator))
    matrix = laplacian(near.indices, near.similarities)
    theirs_found, theirs = timed(lambda: smallest_magnitude_embedding(matrix))
    angle = np.degrees(subspace_angles(found.values, theirs_found.astype(float)).max())
    note = f"largest angle between the spaces {angle:.2f} degrees; making the graph {graph:.2f} s"
    row(f"20-d embedding, {n:,} nodes", ours, theirs, "eigsh, smallest magnitude", note)
    return found.values


def clusters(points, groups, name):
    """Three runs in each group, as the paper's detection asks for."""
    found, ours = timed(lambda: optics_by_class(points, groups))
    expected, theirs = timed(
        lambda: [
            [sklearn_labels(points[g.rows], m, g.min_cluster_size) for m in g.min_samples]
            for g in groups
        ]
    )
    same = np.concatenate([(a == b).ravel() for a, b in zip(found, expected, strict=True)])
    row(name, ours, theirs, "sklearn OPTICS", f"same label: {100 * same.mean():.2f} % of points")


def five_thousand():
    """A dense cluster, nine small ones and scattered points, on a sphere."""
    rng = np.random.default_rng(0)
    small = [rng.normal(0, 0.15, (139, 20)) + rng.normal(0, 1, (1, 20)) for _ in range(9)]
    scattered = rng.uniform(-1.5, 1.5, (749, 20))
    return np.concatenate([rng.normal(0, 0.15, (3000, 20)), *small, scattered])


def main():
    print(f"threads: {options.threads}, least of {options.repeats}, CPU seconds\n")
    print("| what | labelsieve | other | ratio | note |\n|---|---|---|---|---|")
    n = options.images
    toy = structured(n, max(n // 500, 1))
    rng = np.random.default_rng(1)
    uniform = rng.normal(size=toy.features.shape)
    uniform = (uniform / np.linalg.norm(uniform, axis=1, keepdims=True)).astype(np.float32)
    neighbors(uniform, 50, "uniform")
    neighbors(toy.features, 20, "structured")
    near = neighbors(toy.features, 50, "structured")
    points = embedding(near)
    groups = [Group(np.flatnonzero(toy.labels == c), (75, 50, 25), 75) for c in range(4)]
    clusters(points, groups, "OPTICS, 3 runs in 4 classes of about 500")
    points = five_thousand()
    clusters(points, [Group(np.arange(5000), (75,), 75)], "OPTICS, 1 run, 5,000 rows")


main()
