"""The robust objective a second time: one batch, plain lists, float64; and the thinned stream."""

from __future__ import annotations

import math

from reference_paper_training import cross_entropy, softmax

LEAST = 1e-4


def evidence(label, kinds, suggestion, probability, certain, n_classes):
    """What the audit says of one image's class."""
    clean, mislabeled, _ = kinds
    row = [0.0] * n_classes
    named = set()
    if label >= 0:
        row[label] = clean
        named.add(label)
    left = mislabeled
    if suggestion >= 0 and suggestion != label:
        row[suggestion] = min(probability, mislabeled)
        left -= row[suggestion]
        named.add(suggestion)
    others = [c for c in range(n_classes) if c not in named]
    for c in others:
        row[c] = left / len(others)
    if not others and suggestion >= 0 and suggestion != label:
        row[suggestion] += left
    if sum(row) == 0:
        return [1 / n_classes] * n_classes
    row = [value / sum(row) for value in row]
    if not certain:
        row = [max(value, LEAST) for value in row]
    return [value / sum(row) for value in row]


def combined(row, logits, audit_power, guess_power):
    """Both witnesses: evidence^a p^b over its sum."""
    found = [
        0.0 if value == 0 else value**audit_power * p**guess_power
        for value, p in zip(row, softmax(logits), strict=True)
    ]
    return [value / sum(found) for value in found]


def label_first(target, label, trust):
    """Classes other than the label count by trust: the target, and how much is left of it."""
    counted = [value if c == label else trust * value for c, value in enumerate(target)]
    left = sum(counted)
    return (target if left == 0 else [value / left for value in counted]), left


def classification_loss(logits, targets, weights, order, factor):
    """Mixtures learn both targets, each with the weight of its own image."""
    total = 0.0
    for i, j in enumerate(order):
        total += factor * weights[i] * cross_entropy(logits[i], targets[i])
        total += (1 - factor) * weights[j] * cross_entropy(logits[i], targets[j])
    return total / sum(weights)


def strong_loss(logits, targets, weights):
    losses = [cross_entropy(each, target) for each, target in zip(logits, targets, strict=True)]
    return sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)


def balance_loss(logits, weights, prior):
    n_classes = len(prior)
    mean = [0.0] * n_classes
    for row, weight in zip(logits, weights, strict=True):
        for c, p in enumerate(softmax(row)):
            mean[c] += weight * p / sum(weights)
    shares = [value / sum(prior) for value in prior]
    return sum(s * math.log(s / m) for s, m in zip(shares, mean, strict=True))


def positives(groups, sure):
    """Images of a group by how sure both are of it, each itself by the doubt as well."""
    n = len(groups)
    found = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(n):
            if i == j or (groups[i] >= 0 and groups[i] == groups[j]):
                found[i][j] = sure[i] * sure[j]
            if i == j:
                found[i][j] += (1 - sure[i]) * (1 - sure[j])
    return found


def contrast_loss(anchors, candidates, wanted, order, factor, temperature):
    n, total = len(anchors), 0.0
    for i in range(n):
        logits = [
            sum(a * b for a, b in zip(anchors[i], candidates[j], strict=True)) / temperature
            for j in range(n)
        ]
        log_p = [math.log(p) for p in softmax(logits)]
        row = [factor * wanted[i][j] + (1 - factor) * wanted[order[i]][j] for j in range(n)]
        total -= sum(e * value for e, value in zip(row, log_p, strict=True)) / sum(row)
    return total / n
