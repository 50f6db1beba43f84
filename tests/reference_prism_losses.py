"""The losses of PRISM a second time: loops over lists of floats, nothing shared."""

from __future__ import annotations

import math


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(row):
    length = math.sqrt(dot(row, row))
    return [x / length for x in row]


def mean(values):
    return sum(values) / len(values) if values else 0.0


def contrastive(anchors, labels, others, other_labels, margin, over, divisor, same_image):
    """Pair after pair; `same_image` is a set of (anchor, other). Returns loss and pairs."""
    total, n_pairs = 0.0, 0
    for i, (anchor, label) in enumerate(zip(anchors, labels, strict=True)):
        pull, push = [], []
        for j, (other, other_label) in enumerate(zip(others, other_labels, strict=True)):
            if (i, j) in same_image:
                continue
            s = dot(anchor, other)
            if label == other_label:
                pull.append(1 - s)
            elif s > margin:
                push.append(s - margin)
        together = sum if over == "sum" else mean
        total += together(pull) + together(push)
        n_pairs += len(pull) + len(push)
    return total / divisor, n_pairs


def soft_triple(features, labels, proxies, scale, gamma, margin):
    losses = []
    for feature, label in zip(features, labels, strict=True):
        logits = []
        for c, centers in enumerate(proxies):
            cosines = [dot(feature, unit(center)) for center in centers]
            weights = [math.exp(s / gamma) for s in cosines]
            relaxed = dot(weights, cosines) / sum(weights)
            logits.append(scale * (relaxed - (margin if c == label else 0.0)))
        losses.append(math.log(sum(math.exp(x) for x in logits)) - logits[label])
    return mean(losses)


def mcl_losses(batches, size, memory_weight, margin, over):
    """Unfiltered, batch after batch of (rows, features, labels): the memory has the batch in it.

    Returns:
        the loss of each batch; the embeddings stay as they are.
    """
    memory, losses = [], []
    for rows, features, labels in batches:
        memory = [*memory, *zip(features, labels, range(len(labels)), strict=True)][-size:]
        n = len(labels)
        twins = {(i, j) for i in range(n) for j in range(n) if rows[i] == rows[j]}
        within, _ = contrastive(features, labels, features, labels, margin, over, n, twins)
        first = len(memory) - n
        itself = {(memory[first + j][2], first + j) for j in range(n)}
        others, other_labels = [m[0] for m in memory], [m[1] for m in memory]
        against, _ = contrastive(features, labels, others, other_labels, margin, over, n, itself)
        losses.append(within + memory_weight * against)
    return losses


def prism_losses(batches, size, keeps, memory_weight, margin, over):
    """Filtered: what each batch keeps is given; it enters the memory after its loss.

    Returns:
        the loss of each batch, None where nothing is kept.
    """
    memory, losses = [], []
    for (rows, features, labels), keep in zip(batches, keeps, strict=True):
        kept = [i for i, yes in enumerate(keep) if yes]
        ours, own = [features[i] for i in kept], [labels[i] for i in kept]
        places = range(len(kept))
        twins = {(i, j) for i in places for j in places if rows[kept[i]] == rows[kept[j]]}
        if kept:
            within, _ = contrastive(ours, own, ours, own, margin, over, len(kept), twins)
            others, other_labels = [m[0] for m in memory], [m[1] for m in memory]
            against, _ = contrastive(
                ours, own, others, other_labels, margin, over, len(labels), set()
            )
            losses.append(within + memory_weight * against)
        else:
            losses.append(None)
        memory = [*memory, *zip(ours, own, strict=True)][-size:]
    return losses
