"""The map of the report: which images are on it, and where."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from labelsieve.records import Findings, Verdict

N_POINTS = 2500  # 6 CPU-seconds of t-SNE; 4 at 2,000 points and 10 at 3,000
N_RARE = 250  # points that a verdict gets at least, where it has so many images
MAX_FEATURES = 50  # leading components that are kept before the layout
PERPLEXITY = 30.0


def sample_rows(
    findings: Findings, n_points: int = N_POINTS, n_rare: int = N_RARE, seed: int = 0
) -> NDArray[np.int64]:
    """Draw the images of the map by chance; broken ones have no place on it.

    Verdicts get points in proportion to their images, but a rare one at least `n_rare`.

    Returns:
        rows in rising order, at most about `n_points`.
    """
    rng = np.random.default_rng(seed)
    groups = [
        np.flatnonzero(findings.verdict == verdict)
        for verdict in (Verdict.CLEAN, Verdict.MISLABELED, Verdict.FOREIGN)
    ]
    n_images = sum(len(group) for group in groups)
    drawn = []
    for group in groups:
        share = round(n_points * len(group) / max(1, n_images))
        size = min(len(group), max(n_rare, share))
        drawn.append(rng.choice(group, size, replace=False))
    return np.sort(np.concatenate(drawn))


def layout(features: NDArray[np.floating], seed: int = 0) -> NDArray[np.float64]:
    """Put alike images side by side in the plane, by t-SNE.

    The same features give the same map. Distances between far groups mean nothing,
    as always with t-SNE.

    Args:
        features: (n, D) finite; a few thousand rows, as the time grows with n².
        seed: of t-SNE.

    Returns:
        (n, 2) that fill [0, 1]², the longer side along x; all at the center where no row differs
        from another.
    """
    n = len(features)
    points = np.asarray(features, np.float64)
    points = points - points.mean(axis=0) if n else points.reshape(0, 1)
    if n < 2 or not np.abs(points).max() > 1e-9:
        return np.full((n, 2), 0.5)
    size = min(MAX_FEATURES, *points.shape)
    points = PCA(size, random_state=seed).fit_transform(points)
    if points.shape[1] < 2:
        points = np.column_stack([points[:, 0], np.zeros(n)])
    if n >= 10:
        tsne = TSNE(
            perplexity=min(PERPLEXITY, (n - 1) / 3),
            init=(points[:, :2] / points[:, 0].std() * 1e-4).astype(np.float32),
            learning_rate="auto",
            max_iter=500,
            random_state=seed,
        )
        # One thread: the same map whatever the number of cores, and on a busy machine four threads
        # that wait for one another took 67 CPU-seconds where one takes 6.
        with threadpool_limits(1):
            points = tsne.fit_transform(points.astype(np.float32))
    return _fit(points[:, :2].astype(np.float64))


def _fit(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn the widest direction to x, and fill the unit square in both directions."""
    centered = points - points.mean(axis=0)
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    turned = centered @ directions.T
    turned *= np.where(np.abs(turned.min(axis=0)) > turned.max(axis=0), -1.0, 1.0)  # fixed signs
    low, high = turned.min(axis=0), turned.max(axis=0)
    extent = high - low
    flat = extent <= 1e-9 * extent.max()
    return np.where(flat, 0.5, (turned - low) / np.where(flat, 1.0, extent))
