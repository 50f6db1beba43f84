"""SNCF's second stage a second time: one batch, plain lists, float64."""

from __future__ import annotations

import math

CLEAN, MISLABELED, FOREIGN = 0, 1, 2


def softmax(row):
    top = max(row)
    values = [math.exp(value - top) for value in row]
    return [value / sum(values) for value in values]


def guess(first, second, power):
    """((p1 + p2) / 2)^power over its sum, for logits of two views of one image."""
    mean = [(p + q) / 2 for p, q in zip(softmax(first), softmax(second), strict=True)]
    raised = [p**power for p in mean]
    return [p / sum(raised) for p in raised]


def one_hot(label, n_classes):
    return [float(c == label) for c in range(n_classes)]


def cross_entropy(logits, target):
    return -sum(t * math.log(p) for t, p in zip(target, softmax(logits), strict=True))


def mixed(images, order, factor):
    """Pixels (any nested numbers that add up, such as tensors), mixed one by one."""
    return [
        factor * image + (1 - factor) * images[j] for image, j in zip(images, order, strict=True)
    ]


def classification_loss(logits, targets, order, factor):
    total = 0.0
    for i, j in enumerate(order):
        total += factor * cross_entropy(logits[i], targets[i])
        total += (1 - factor) * cross_entropy(logits[i], targets[j])
    return total / len(order)


def contrast_classes(labels, kinds, guesses, groups, n_classes):
    """A pseudo-class for each image; ungrouped foreign images get one that nobody else has."""
    classes, lone = [], 10_000
    for label, kind, q, group in zip(labels, kinds, guesses, groups, strict=True):
        if kind == CLEAN:
            classes.append(label)
        elif kind == MISLABELED:
            classes.append(q.index(max(q)))
        elif group >= 0:
            classes.append(n_classes + group)
        else:
            lone += 1
            classes.append(lone)
    return classes


def contrast_loss(anchors, candidates, classes, order, factor, temperature):
    """The guided N-pairs loss of mixed anchors."""
    n, total = len(anchors), 0.0
    alike = [[float(classes[i] == classes[j]) for j in range(n)] for i in range(n)]
    for i in range(n):
        logits = [
            sum(a * b for a, b in zip(anchors[i], candidates[j], strict=True)) / temperature
            for j in range(n)
        ]
        log_p = [math.log(p) for p in softmax(logits)]
        row = [factor * alike[i][j] + (1 - factor) * alike[order[i]][j] for j in range(n)]
        total -= sum(e * value for e, value in zip(row, log_p, strict=True)) / sum(row)
    return total / n
