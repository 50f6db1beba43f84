"""Veit et al. a second time: loops over lists, float64, no torch."""

from __future__ import annotations

import math


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def affine(weight, bias, values):
    """Weight as rows of outputs."""
    return [sum(w * v for w, v in zip(row, values, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)]  # fmt: skip


def clipped(values):
    return [min(max(v, 0.0), 1.0) for v in values]


def cleaned(weights, tags, features, *, relu=False):
    """c = clip(y + r, 0, 1) of one image; weights by name, each (weight, bias)."""
    active = (lambda x: [max(v, 0.0) for v in x]) if relu else (lambda x: x)
    a, b = affine(*weights["tags"], tags), affine(*weights["features"], features)
    hidden = active(affine(*weights["hidden"], active(a + b)))
    residual = affine(*weights["output"], hidden)
    return clipped([y + r for y, r in zip(tags, residual, strict=True)])


def gate(weights, tags, features, tag, logit):
    """The logit of one asserted tag of one image, by one member."""
    a, b = affine(*weights["tags"], tags), affine(*weights["features"], features)
    hidden = affine(*weights["hidden"], [max(v, 0.0) for v in a + b])
    weight, bias = weights["output"]
    own = sum(w * max(v, 0.0) for w, v in zip(weight[tag], hidden, strict=True)) + bias[tag]
    return weights["scale"] * logit + own


def distance(cleaned_rows, verified_rows):
    """L_clean: a sum."""
    return sum(
        abs(c - v)
        for cs, vs in zip(cleaned_rows, verified_rows, strict=True)
        for c, v in zip(cs, vs, strict=True)
    )


def cross_entropy(logits, targets):
    """L_classify: a sum, from probabilities as in the paper."""
    total = 0.0
    for zs, qs in zip(logits, targets, strict=True):
        for z, q in zip(zs, qs, strict=True):
            p = sigmoid(z)
            total -= q * math.log(p) + (1 - q) * math.log(1 - p)
    return total


def relevance(visual, if_present, if_absent):
    """p(y = 1) of one tag, from three logits."""
    v = sigmoid(visual)
    return sigmoid(if_present) * v + sigmoid(if_absent) * (1 - v)


def targets(asserted, verified, rule):
    """The pair rule, row by row; verified pairs are +1 and -1, others 0."""
    rows = []
    for ys, vs in zip(asserted, verified, strict=True):
        looked = any(vs)
        row = []
        for y, v in zip(ys, vs, strict=True):
            if v:
                row.append(1.0 if v > 0 else 0.0)
            else:
                row.append(0.0 if looked and rule == "absent" else y)
        rows.append(row)
    return rows


def average_precision(scores, present):
    """Over the cuts at each score: precision there, times the share of right ones gained."""
    total, before, n = 0.0, 0, sum(present)
    for cut in sorted(set(scores), reverse=True):
        above = [p for s, p in zip(scores, present, strict=True) if s >= cut]
        total += (sum(above) - before) / n * sum(above) / len(above)
        before = sum(above)
    return total


def rmsprop(weight, gradients, *, rate, share, momentum, eps, decay):
    square = velocity = 0.0
    for gradient in gradients:
        gradient = gradient + decay * weight
        square = share * square + (1 - share) * gradient**2
        velocity = momentum * velocity + gradient / (math.sqrt(square) + eps)
        weight -= rate * velocity
    return weight
