"""The measures of a classifier a second time: loops over lists, in float64."""

from __future__ import annotations

import math


def expected_calibration_error(probabilities, truth, n_bins=15):
    """Guo et al. 2017, eq. 3; a confidence on an edge belongs to the bin above, 1 to the last."""
    bins = [[] for _ in range(n_bins)]
    for row, true in zip(probabilities, truth, strict=True):
        best = max(range(len(row)), key=lambda c: (row[c], -c))
        place = min(int(float(row[best]) * n_bins), n_bins - 1)
        bins[place].append((float(row[best]), best == true))
    n = len(truth)
    error = 0.0
    for members in bins:
        if members:
            confidence = sum(c for c, _ in members) / len(members)
            accuracy = sum(right for _, right in members) / len(members)
            error += len(members) / n * abs(accuracy - confidence)
    return error


def brier(probabilities, truth):
    total = 0.0
    for row, true in zip(probabilities, truth, strict=True):
        total += sum((float(p) - (c == true)) ** 2 for c, p in enumerate(row))
    return total / len(truth)


def negative_log_likelihood(probabilities, truth):
    return sum(-math.log(float(row[t])) for row, t in zip(probabilities, truth, strict=True)) / len(
        truth
    )


def top(probabilities, truth, k):
    right = 0
    for row, true in zip(probabilities, truth, strict=True):
        ranked = sorted(range(len(row)), key=lambda c: (-row[c], c))
        right += true in ranked[:k]
    return right / len(truth)


def agreement(runs):
    """runs: of dicts id -> class; mean over pairs of the share that both give one class."""
    shares = []
    for i, a in enumerate(runs):
        for b in runs[i + 1 :]:
            both = [name for name in a if name in b]
            shares.append(sum(a[name] == b[name] for name in both) / len(both))
    return sum(shares) / len(shares)
