"""PRISM's formulas a second time: loops over lists, float64, nothing shared with the package."""

from __future__ import annotations

import math


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(row):
    norm = math.sqrt(dot(row, row))
    return [x / norm for x in row]


def mean_row(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def average_similarity(row, memory, labels, k):
    """T(x, k); None for a class without rows."""
    own = [dot(row, other) for other, label in zip(memory, labels, strict=True) if label == k]
    return sum(own) / len(own) if own else None


def clean_log_probability(row, label, memory, labels, n_classes):
    """log of exp T(x, y) over the sum of exp T(x, k) of the classes that have rows."""
    similarity = [average_similarity(row, memory, labels, k) for k in range(n_classes)]
    total = sum(math.exp(t) for t in similarity if t is not None)
    return similarity[label] - math.log(total)


def smooth_thresholds(batches, rate, window):
    """Of each batch: the mean of the last quantiles, its own among them."""
    quantiles, thresholds = [], []
    for scores in batches:
        quantiles.append(sorted(scores)[int(rate * len(scores)) - 1])
        last = quantiles[-window:]
        thresholds.append(sum(last) / len(last))
    return thresholds


class SlowFilter:
    """The whole filter, by its description: a list for a memory, and means taken anew each step.

    Not for temperatures, score "vmf", or rows that cannot be used.
    """

    def __init__(self, n_classes, size, rate, window=30, least_scored=0.5, cosine=False):
        self.n_classes, self.size, self.rate = n_classes, size, rate
        self.window, self.least_scored, self.cosine = window, least_scored, cosine
        self.memory, self.centers, self.quantiles = [], {}, []

    def scores(self, rows, labels):
        found = []
        for row, label in zip(rows, labels, strict=True):
            row = unit(row)
            near = {}
            for k, center in self.centers.items():
                near[k] = dot(row, unit(center) if self.cosine else center)
            others = [value for k, value in near.items() if k != label]
            if label not in near or not others:
                found.append(None)
            else:
                found.append(1 / (1 + math.exp(-(near[label] - max(others)) / 0.1)))
        return found

    def step(self, rows, labels):
        keep = self.keep(self.scores(rows, labels))
        kept = [(unit(r), k) for r, k, good in zip(rows, labels, keep, strict=True) if good]
        self.memory = [*self.memory, *kept][-self.size :]
        for k in range(self.n_classes):
            own = [row for row, label in self.memory if label == k]
            if own:
                self.centers[k] = mean_row(own)
        return keep

    def keep(self, scores):
        known = sorted(s for s in scores if s is not None)
        started = self.quantiles or len(known) >= self.least_scored * len(scores)
        n_removed = int(self.rate * len(known))
        quantile = None
        if n_removed:
            quantile = known[n_removed - 1]
        elif len(known) > 1:  # on the line through the two lowest
            quantile = known[0] - (1 - self.rate * len(known)) * (known[1] - known[0])
        if started and quantile is not None:
            self.quantiles = [*self.quantiles, quantile][-self.window :]
        if not self.quantiles:
            return [True] * len(scores)
        threshold = sum(self.quantiles) / len(self.quantiles)
        keep = [s is None or s > threshold for s in scores]
        if any(keep):
            return keep
        if quantile is None:
            return [True] * len(scores)
        self.quantiles = [quantile]
        keep = [s > quantile for s in scores]
        return keep if any(keep) else [s >= quantile for s in scores]
