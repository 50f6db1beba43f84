"""The contrastive objectives a second time: loops over lists of floats, nothing shared."""

from __future__ import annotations

import math


def similarity(a, b, temperature):
    return sum(x * y for x, y in zip(a, b, strict=True)) / temperature


def log_sum_exp(values):
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values))


def mean(values):
    return sum(values) / len(values)


def nt_xent_one_sided(first, second, temperature):
    losses = []
    for i, anchor in enumerate(first):
        among_first = [
            similarity(anchor, row, temperature) for j, row in enumerate(first) if j != i
        ]
        among_second = [similarity(anchor, row, temperature) for row in second]
        losses.append(log_sum_exp(among_first + among_second) - among_second[i])
    return mean(losses)


def nt_xent(first, second, temperature):
    orders = (first, second), (second, first)
    return mean([nt_xent_one_sided(*order, temperature) for order in orders])


def nt_xent_views(views, temperature, decoupled):
    """Mean over anchors and their positives, one at a time; decoupled: not in the denominator."""
    places = [(v, i) for v in range(len(views)) for i in range(len(views[0]))]
    losses = []
    for v, i in places:
        anchor = views[v][i]
        positives = [
            similarity(anchor, view[i], temperature) for u, view in enumerate(views) if u != v
        ]
        others = [similarity(anchor, views[u][j], temperature) for u, j in places if j != i]
        for positive in positives:
            candidates = others if decoupled else [*others, positive]
            losses.append(log_sum_exp(candidates) - positive)
    return mean(losses)


def n_pairs_mixed(first, second, permutation, factor, temperature):
    losses = []
    for i, anchor in enumerate(first):
        row = [similarity(anchor, other, temperature) for other in second]
        own, mixed = row[i] - log_sum_exp(row), row[permutation[i]] - log_sum_exp(row)
        losses.append(-factor * own - (1 - factor) * mixed)
    return mean(losses)


def info_nce_queue(queries, keys, queue, temperature):
    losses = []
    for query, key in zip(queries, keys, strict=True):
        positive = similarity(query, key, temperature)
        negatives = [similarity(query, row, temperature) for row in queue]
        losses.append(log_sum_exp([positive, *negatives]) - positive)
    return mean(losses)


def supervised_contrastive(rows, labels, temperature):
    losses = []
    for i, anchor in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            below = log_sum_exp([similarity(anchor, rows[j], temperature) for j in others])
            losses.append(
                mean([below - similarity(anchor, rows[j], temperature) for j in positives])
            )
    return mean(losses) if losses else 0.0


def guided_contrastive(first, second, groups, permutation, factor, temperature):
    def shared(i, j):
        return 1.0 if i == j or (groups[i] == groups[j] and groups[i] >= 0) else 0.0

    losses = []
    for i, anchor in enumerate(first):
        row = [similarity(anchor, other, temperature) for other in second]
        below = log_sum_exp(row)
        total = weighted = 0.0
        for j, value in enumerate(row):
            weight = factor * shared(i, j) + (1 - factor) * shared(permutation[i], j)
            total += weight
            weighted += weight * (below - value)
        losses.append(weighted / total)
    return mean(losses)
