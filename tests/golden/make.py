"""Make the golden arrays of the paper's detection: `python tests/golden/make.py`, two minutes.

Another program for the same steps, written from the paper's description and sharing no code with
the package: brute-force neighbors, scikit-learn's OPTICS, and scipy's smallest-magnitude solve with
the settings of the published code. detection_N_C.npz holds the kinds that it gives on
structured(N, C). The published functions give the same counts: 6224 clean, 1382 mislabeled, 2394
foreign on structured(10000, 20), and 837, 1047, 116 on structured(2000, 4).

Made with scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import eigsh
from sklearn.cluster import OPTICS

HERE = Path(__file__).resolve().parent


def brute_force_neighbors(features, n_neighbors):
    indices, similarities = [], []
    for start in range(0, len(features), 1000):
        tile = features[start : start + 1000] @ features.T
        tile[np.arange(len(tile)), start + np.arange(len(tile))] = -np.inf
        best = np.argsort(-tile, axis=1, kind="stable")[:, :n_neighbors]
        indices.append(best)
        similarities.append(np.take_along_axis(tile, best, axis=1))
    return np.concatenate(indices), np.concatenate(similarities)


def laplacian(indices, similarities):
    """I minus the affinity, divided twice by the roots of its degrees."""
    n, k = indices.shape
    places = (np.repeat(np.arange(n), k), indices.ravel())
    weights = sp.coo_matrix((similarities.ravel().astype(float) ** 3, places), shape=(n, n))
    weights = (weights + weights.T).tocsr()
    for _ in range(2):
        degrees = np.asarray(weights.sum(axis=1)).ravel()
        degrees[degrees == 0] = 1
        roots = sp.diags(degrees**-0.5)
        weights = roots @ weights @ roots
    return (sp.identity(n) - weights).tocsr()


def smallest_magnitude_embedding(operator, n_components=20):
    n = operator.shape[0]
    values, vectors = eigsh(
        operator,
        k=n_components + 1,
        which="SM",
        tol=1e-4,
        v0=np.ones(n),
        ncv=max(2 * n_components + 3, int(n**0.5)),
        maxiter=5 * n,
    )
    return vectors[:, np.argsort(values)[1:]].astype(np.float32)


def sklearn_labels(points, min_samples, min_cluster_size=75):
    model = OPTICS(
        min_samples=min_samples,
        metric="cosine",
        cluster_method="xi",
        xi=0.02,
        min_cluster_size=min_cluster_size,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # its division of equal points
        return model.fit(points).labels_


def split_class(points, features, base=75):
    """Kinds of one class's rows: 0 clean, 1 mislabeled, 2 foreign."""
    chosen = sklearn_labels(points, base)
    for min_samples in (base - 25, base - 50):
        candidate = sklearn_labels(points, min_samples)
        fewer = np.count_nonzero(candidate == -1) < np.count_nonzero(chosen == -1)
        if (fewer and len(set(candidate) - {-1}) > 1) or len(set(chosen) - {-1}) == 1:
            chosen = candidate
    kinds = np.where(chosen == -1, 1, 0)
    clusters = sorted(set(chosen) - {-1})
    if len(clusters) > 1:
        spread = []
        for cluster in clusters:
            members = features[chosen == cluster].astype(float)
            distances = np.sort(1 - members @ members.T, axis=1)
            spread.append(distances[:, 1 : min(base, len(members))].mean())
        kinds[chosen == clusters[int(np.argmax(spread))]] = 2
    return kinds


def detect(features, labels):
    operator = laplacian(*brute_force_neighbors(features, 50))
    points = smallest_magnitude_embedding(operator)
    kinds = np.zeros(len(labels), np.int8)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        kinds[rows] = split_class(points[rows], features[rows])
    return kinds


def main():
    sys.path.insert(0, str(HERE.parent))
    from toy import structured

    for n, n_classes in ((2000, 4), (10000, 20)):
        toy = structured(n, n_classes)
        kinds = detect(toy.features, toy.labels)
        np.savez_compressed(HERE / f"detection_{n}_{n_classes}.npz", kinds=kinds)
        print(n, n_classes, np.bincount(kinds, minlength=3).tolist())  # noqa: T201


if __name__ == "__main__":
    main()
