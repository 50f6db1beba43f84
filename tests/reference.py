"""Published formulas a second time: loops over lists, float64, nothing shared with the package."""

from __future__ import annotations

import math


def nearest_neighbors(features, n_neighbors):
    """Rows by falling inner product, ties by row, self left out."""
    result = []
    for i, row in enumerate(features):
        others = [
            (-sum(a * b for a, b in zip(row, other, strict=True)), j)
            for j, other in enumerate(features)
            if j != i
        ]
        result.append([j for _, j in sorted(others)[:n_neighbors]])
    return result


def affinity(indices, similarities, power):
    """W = A + A^T with A_ij = s_ij^power for the neighbors j of i; negative s count as 0."""
    n = len(indices)
    directed = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j, similarity in zip(indices[i], similarities[i], strict=True):
            directed[i][j] = max(similarity, 0.0) ** power
    return [[directed[i][j] + directed[j][i] for j in range(n)] for i in range(n)]


def doubly_normalized(weights):
    """D^-1/2 W D^-1/2, twice, each time with the degrees of what it divides."""
    n = len(weights)
    for _ in range(2):
        degrees = [sum(row) or 1.0 for row in weights]
        weights = [
            [weights[i][j] / math.sqrt(degrees[i]) / math.sqrt(degrees[j]) for j in range(n)]
            for i in range(n)
        ]
    return weights


def optics_order(points, min_samples):
    """Order, reachability and predecessor of each point, by cosine distance of 15 places."""
    n = len(points)

    def distance(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        norms = math.hypot(*a) * math.hypot(*b)
        return min(max(round(1 - dot / norms, 15), 0.0), 2.0)

    distances = [
        [0.0 if i == j else distance(points[i], points[j]) for j in range(n)] for i in range(n)
    ]
    core = [sorted(row)[min_samples - 1] for row in distances]
    reachability, predecessor = [math.inf] * n, [-1] * n
    order, waiting = [], list(range(n))
    while waiting:
        point = min(waiting, key=lambda i: (reachability[i], i))
        waiting.remove(point)
        order.append(point)
        for other in waiting:
            reach = max(core[point], distances[point][other])
            if reach < reachability[other]:
                reachability[other], predecessor[other] = reach, point
    return order, reachability, predecessor


def spread(features, n_nearest):
    """Mean cosine distance of members to their n_nearest - 1 nearest fellow members."""
    means = []
    for i, row in enumerate(features):
        distances = sorted(
            1 - sum(a * b for a, b in zip(row, other, strict=True))
            for j, other in enumerate(features)
            if j != i
        )[: n_nearest - 1]
        means.append(sum(distances) / len(distances))
    return sum(means) / len(means)
