"""Sets with a known number of groups: blobs, uneven ones, chains, trees of groups, and none."""

import numpy as np


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def lifted(rows):
    """Unit rows whose angles keep the order of distances: centered, scaled, a constant added."""
    rows = rows - rows.mean(axis=0)
    return unit(np.c_[rows / (2 * np.sqrt(np.square(rows).sum(axis=1).mean())), np.ones(len(rows))])


def blobs(sizes, dim, apart, seed, tails=None, n=None):
    """`sizes` of the groups, or their number where `n` images fall among them by chance."""
    rng = np.random.default_rng(seed)
    n_groups = sizes if n else len(sizes)
    centers = rng.standard_normal((n_groups, dim)) * apart
    labels = rng.integers(0, n_groups, n) if n else np.repeat(np.arange(n_groups), sizes)
    shape = (len(labels), dim)
    noise = rng.standard_t(tails, shape) if tails else rng.standard_normal(shape)
    return unit(centers[labels] + noise), labels


def chains(n_groups, n_each, dim, seed, apart=1.5):
    rng = np.random.default_rng(seed)
    directions = unit(rng.standard_normal((n_groups, dim)))
    centers = rng.standard_normal((n_groups, dim)) * apart
    labels = np.repeat(np.arange(n_groups), n_each)
    along = rng.uniform(-6, 6, len(labels))[:, None]
    rows = centers[labels] + along * directions[labels]
    return rows + 0.25 * rng.standard_normal(rows.shape), labels


def tree(n_upper, n_lower, n, dim, upper, lower, seed):
    rng = np.random.default_rng(seed)
    centers = np.repeat(rng.standard_normal((n_upper, dim)) * upper, n_lower, axis=0)
    centers += rng.standard_normal(centers.shape) * lower
    labels = rng.integers(0, len(centers), n)
    return unit(centers[labels] + rng.standard_normal((n, dim))), labels


def cloud(n, dim, seed, decay=0.0):
    rows = np.random.default_rng(seed).standard_normal((n, dim)) * np.arange(1, dim + 1) ** -decay
    return (lifted(rows) if decay else unit(rows)), np.zeros(n, int)


SETS = {
    "blobs 5": lambda: blobs(5, 32, 0.8, 0, n=2000),
    "blobs 10": lambda: blobs(10, 64, 0.6, 1, n=5000),
    "blobs 10, overlapping": lambda: blobs(10, 64, 0.4, 2, n=5000),
    "blobs 20": lambda: blobs(20, 64, 0.6, 3, n=5000),
    "blobs 50": lambda: blobs(50, 64, 0.7, 4, n=8000),
    "blobs 100": lambda: blobs(100, 64, 0.8, 5, n=10000),
    "blobs 2": lambda: blobs(2, 16, 0.8, 6, n=1000),
    "blobs 3, 300 images": lambda: blobs(3, 16, 1.0, 7, n=300),
    "uneven 8": lambda: blobs([1500, 1000, 700, 450, 300, 200, 120, 80], 32, 0.9, 8),
    "heavy tails 10": lambda: blobs(10, 64, 0.6, 9, tails=3, n=5000),
    "chains through 0, 5": lambda: (lambda made: (unit(made[0]), made[1]))(
        chains(5, 400, 16, 0, apart=0)
    ),
    "chains 8": lambda: (lambda made: (lifted(made[0]), made[1]))(chains(8, 500, 16, 1)),
    "no groups": lambda: cloud(4000, 32, 0),
    "no groups, skewed": lambda: cloud(4000, 64, 0, decay=0.7),
    "held: blobs 7": lambda: blobs(7, 48, 0.6, 21, n=3000),
    "held: blobs 15, overlapping": lambda: blobs(15, 64, 0.45, 22, n=6000),
    "held: blobs 150": lambda: blobs(150, 96, 0.7, 23, n=15000),
    "held: heavy tails 35": lambda: blobs(35, 64, 0.7, 24, tails=4, n=7000),
    "held: uneven 12": lambda: blobs(
        [2000, 1500, 1000, 800, 600, 400, 300, 250, 200, 150, 100, 60], 48, 0.8, 25
    ),
    "held: chains 12": lambda: (lambda made: (lifted(made[0]), made[1]))(chains(12, 400, 24, 12)),
    "held: no groups": lambda: cloud(6000, 64, 31),
    "held: no groups, skewed": lambda: cloud(3000, 32, 32, decay=0.7),
    "later: tree 3 x 4": lambda: tree(3, 4, 4000, 48, 0.8, 0.6, 41),
    "later: tree 5 x 5": lambda: tree(5, 5, 6000, 64, 0.5, 0.5, 42),
    "later: tree 2 x 10": lambda: tree(2, 10, 6000, 64, 0.6, 0.7, 43),
    "later: blobs 200": lambda: blobs(200, 96, 0.7, 46, n=20000),
}
