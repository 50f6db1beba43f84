"""Scores of clusters and prototypes once more: loops over lists, all mappings tried."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, permutations


def best_one_to_one(clusters, labels, n_clusters, n_classes):
    """The most images that any one-to-one mapping gets right."""
    pairs = Counter(zip(clusters, labels, strict=True))
    width = max(n_clusters, n_classes)
    return max(
        sum(n for (c, g), n in pairs.items() if order[c] == g)
        for order in permutations(range(width))
    )


def majority_mapping(clusters, labels, n_clusters):
    found = []
    for c in range(n_clusters):
        mine = [g for k, g in zip(clusters, labels, strict=True) if k == c]
        found.append(min(set(mine), key=lambda g: (-mine.count(g), g)) if mine else -1)
    return found


def entropy(values):
    n = len(values)
    return -sum(k / n * math.log(k / n) for k in Counter(values).values())


def nmi(a, b):
    """Mutual information over the mean of both entropies; 1 where neither says anything."""
    both = entropy(a) + entropy(b)
    if both == 0:
        return 1.0
    return 2 * (both - entropy(list(zip(a, b, strict=True)))) / both


def ari(a, b):
    """Of all pairs of rows: together in both, against what chance would give."""
    pairs = list(combinations(range(len(a)), 2))
    in_a = [a[i] == a[j] for i, j in pairs]
    in_b = [b[i] == b[j] for i, j in pairs]
    together = sum(x and y for x, y in zip(in_a, in_b, strict=True))
    if not pairs:
        return 1.0
    expected = sum(in_a) * sum(in_b) / len(pairs)
    most = (sum(in_a) + sum(in_b)) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def prototype(rows, members, probability, n_sure):
    """Of the surest members, that nearest to their mean; lowest row among equals."""
    sure = sorted(members, key=lambda i: (-probability[i], i))[:n_sure]
    if not sure:
        return -1
    mean = [sum(rows[i][d] for i in sure) / len(sure) for d in range(len(rows[0]))]
    return min(
        sure, key=lambda i: (sum((x - m) ** 2 for x, m in zip(rows[i], mean, strict=True)), i)
    )
