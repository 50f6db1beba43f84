"""SCAN's losses and TEMI a second time: loops over rows, in probabilities, float64.

Numbers are float64 scalars of torch, so that autograd gives their gradients.
"""

from __future__ import annotations

import torch


def softmax(row, temperature=1.0):
    exponentials = [(value.double() / temperature).exp() for value in row]
    return [value / sum(exponentials) for value in exponentials]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def product(p, q):
    return sum(a * b for a, b in zip(p, q, strict=True))


def scan_loss(anchors, neighbors, entropy_weight=5.0, prior=None, before=None, keep=0.0):
    """Of (B, C) logits: loss, consistency, entropy. The gradient is that of the last batch."""
    ps, qs = [softmax(row) for row in anchors], [softmax(row) for row in neighbors]
    consistency = mean(-product(p, q).log() for p, q in zip(ps, qs, strict=True))
    entropy = 0
    for c in range(len(ps[0])):
        share = mean(p[c] for p in ps)
        mixed = share if before is None else keep * before[c].double() + (1 - keep) * share
        against = 1.0 if prior is None else float(prior[c]) / float(sum(prior))
        entropy = entropy - mixed * (mixed / against).log()
    return consistency - entropy_weight * entropy, consistency, entropy


def validation_loss(logits, neighbors):
    """Of (N, C) logits and N lists of neighbors."""
    ps = [softmax(row) for row in logits]
    pairs = [
        -product(p, ps[j]).log() for i, p in enumerate(ps) for j in [i, *neighbors[i].tolist()]
    ]
    shares = [mean(p[c] for p in ps) for c in range(len(ps[0]))]
    return mean(pairs) + sum(share * share.log() for share in shares)


def validation_loss_by_matrix(logits, neighbors):
    """The same from all N x N products, as SCAN's code has it."""
    p = logits.double().softmax(dim=1)
    wanted = torch.eye(len(p), dtype=torch.float64)
    for i, row in enumerate(neighbors.tolist()):
        for j in row:
            wanted[i, j] += 1
    consistency = -(wanted * (p @ p.T).log()).sum() / wanted.sum()
    return consistency + (p.mean(0) * p.mean(0).log()).sum()


def confident(logits, threshold):
    labels, mask = [], []
    for row in logits:
        p = [value.item() for value in softmax(row)]
        labels.append(p.index(max(p)))
        mask.append(max(p) > threshold)
    return labels, mask


def most_confident(logits, share, n_clusters):
    """By sorting (cluster, -probability, row)."""
    n = round(share * len(logits) / n_clusters)
    ranked: dict[int, list[tuple[float, int]]] = {}
    labels = []
    for i, row in enumerate(logits):
        p = [value.item() for value in softmax(row)]
        labels.append(p.index(max(p)))
        ranked.setdefault(labels[-1], []).append((-max(p), i))
    chosen = {i for rows in ranked.values() for _, i in sorted(rows)[:n]}
    return labels, [i in chosen for i in range(len(logits))]


def self_label_loss(logits, labels, mask, balanced):
    """Weighted cross-entropy with the weights of the paper's code, |M| / |M_c|, normalized."""
    rows = [i for i, keep in enumerate(mask) if keep]
    if not rows:
        return None
    total = weights = 0
    for i in rows:
        n = sum(labels[j] == labels[i] for j in rows)
        weight = len(rows) / n if balanced else 1.0
        total = total - weight * softmax(logits[i])[labels[i]].log()
        weights += weight
    return total / weights


def running_mean(before, logits, keep):
    ps = [softmax(row) for row in logits]
    return [keep * before[c] + (1 - keep) * mean(p[c] for p in ps) for c in range(len(before))]


def temi_loss(student, teacher, prior, beta, temperature, weights):
    """Of one head: (B, C) logits, (C,) prior, (B,) weights."""
    losses = []
    for s_row, t_row, weight in zip(student, teacher, weights, strict=True):
        s, t = softmax(s_row, temperature), softmax(t_row, temperature)
        ratio = sum(
            (a * b) ** beta / share.double() for a, b, share in zip(s, t, prior, strict=True)
        )
        losses.append(-float(weight) * ratio.log())
    return mean(losses)


def agreement_weights(teacher_a, teacher_b, temperature):
    """Of (H, B, C) logits."""
    n = len(teacher_a[0])
    return [
        mean(
            product(softmax(a[i], temperature), softmax(b[i], temperature))
            for a, b in zip(teacher_a, teacher_b, strict=True)
        )
        for i in range(n)
    ]
