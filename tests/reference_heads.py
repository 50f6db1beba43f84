"""Heads on rows a second time: loops over numbers, float64, nothing shared with the package."""

from __future__ import annotations

import math
from itertools import permutations


def scaled(rows, *, center, size):
    """Each row less the mean, so that the mean square of all values is size^2 (0: as they are)."""
    n, width = len(rows), len(rows[0])
    mean = [sum(row[j] for row in rows) / n if center else 0.0 for j in range(width)]
    moved = [[value - m for value, m in zip(row, mean, strict=True)] for row in rows]
    square = sum(value * value for row in moved for value in row) / (n * width)
    factor = size / math.sqrt(square) if size else 1.0
    return [[factor * value for value in row] for row in moved]


def logits(weights, biases, rows):
    """(H, B, C) of weights (H, C, D) and biases (H, C)."""
    return [
        [
            [sum(w * v for w, v in zip(weight, row, strict=True)) + b
             for weight, b in zip(head, bias, strict=True)]
            for row in rows
        ]
        for head, bias in zip(weights, biases, strict=True)
    ]  # fmt: skip


def best_order(reference, head):
    """Of all orders of a head's clusters, the one whose probabilities fit the reference best.

    Probabilities are (N, C); order[c] is the head's cluster that becomes cluster c.
    """
    n_clusters = len(reference[0])

    def fit(order):
        return sum(
            ours[c] * theirs[order[c]]
            for ours, theirs in zip(reference, head, strict=True)
            for c in range(n_clusters)
        )

    return max(permutations(range(n_clusters)), key=fit)


def rand_index(a, b):
    """Adjusted for chance, by counting pairs (Hubert and Arabie 1985)."""
    pairs = [(i, j) for i in range(len(a)) for j in range(i)]
    both = sum(a[i] == a[j] and b[i] == b[j] for i, j in pairs)
    in_a, in_b = (sum(x[i] == x[j] for i, j in pairs) for x in (a, b))
    expected = in_a * in_b / len(pairs)
    most = (in_a + in_b) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)
