"""What `number_of_classes` and the eigengap say of made sets, or of .npz with `rows`, `labels`."""

import sys
import time
from pathlib import Path

import numpy as np
from made import SETS

from labelsieve import number_of_classes
from labelsieve.neighbors.graph import affinity, doubly_normalized, eigengap, spectral_embedding
from labelsieve.neighbors.knn import nearest_neighbors


def report(name, rows, labels, seeds=(0, 1, 2)):
    near = nearest_neighbors(rows, 20)
    said = []
    for seed in seeds:
        start = time.process_time()
        found = number_of_classes(rows, near, seed=seed)
        low, high = found.plausible
        clear = "clear" if found.is_clear else "not clear"
        seconds = time.process_time() - start
        agreed = found.stability[found.chosen - 2]
        said.append(f"{found.chosen} ({low}-{high}) {clear}, {agreed:.2f}, {seconds:.1f} s")
    n_components = min(250, len(rows) // 20)
    values = spectral_embedding(doubly_normalized(affinity(near)), n_components).eigenvalues
    gap = eigengap(values, minimum=1) + 1  # the trivial eigenvector is one class
    print(f"{name} | {len(rows)} | {len(np.unique(labels))} | {' | '.join(said)} | {gap}")


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        with np.load(path) as arrays:
            report(path.stem, arrays["rows"], arrays["labels"])
    if not sys.argv[1:]:
        for name, make in SETS.items():
            report(name, *make())
