"""SNCF's training formulas a second time: loops over lists of floats, in probabilities."""

from __future__ import annotations

import math

from reference_objectives import log_sum_exp, mean, similarity


def softmax(row):
    below = log_sum_exp(row)
    return [math.exp(value - below) for value in row]


def entropy(p):
    return -sum(value * math.log(value) for value in p if value > 0)


# guesses


def sharpened_guess(p, power):
    raised = [value**power for value in p]
    return [value / sum(raised) for value in raised]


def label_guess(first, second, power):
    """Of (B, C) logits, row by row."""
    guesses = []
    for a, b in zip(first, second, strict=True):
        p1, p2 = softmax(a), softmax(b)
        guesses.append(sharpened_guess([(x + y) / 2 for x, y in zip(p1, p2, strict=True)], power))
    return guesses


def training_targets(labels, verdicts, guess):
    targets = []
    for label, verdict, q in zip(labels, verdicts, guess, strict=True):
        if verdict == 2:
            targets.append([0.0] * len(q))
        elif verdict == 0 and label >= 0:
            targets.append([float(c == label) for c in range(len(q))])
        else:
            targets.append(list(q))
    return targets


def soft_targets(labels, kinds, guess):
    targets, weights = [], []
    for label, (clean, mislabeled, _), q in zip(labels, kinds, guess, strict=True):
        if label < 0:
            clean, mislabeled = 0.0, clean + mislabeled
        known = clean + mislabeled
        weights.append(known)
        targets.append(
            [(clean * (c == label) + mislabeled * q[c]) / known for c in range(len(q))]
            if known > 0
            else list(q)
        )
    return targets, weights


# losses


def cross_entropy(row, target):
    return -sum(t * math.log(p) for t, p in zip(target, softmax(row), strict=True))


def mixed_cross_entropy(logits, targets, permutation, factor, weights=None):
    total = 0.0
    counts = [1.0] * len(logits) if weights is None else weights
    for i, row in enumerate(logits):
        j = permutation[i]
        total += factor * counts[i] * cross_entropy(row, targets[i])
        total += (1 - factor) * counts[j] * cross_entropy(row, targets[j])
    return total / sum(counts) if sum(counts) else 0.0


def generalized_cross_entropy(logits, labels, q):
    return [(1 - softmax(row)[label] ** q) / q for row, label in zip(logits, labels, strict=True)]


def elr_penalty(logits, averages):
    return [
        math.log(1 - sum(p * min(t, 1 - 1e-4) for p, t in zip(softmax(row), average, strict=True)))
        for row, average in zip(logits, averages, strict=True)
    ]


def balance_penalty(logits, prior=None, weights=None):
    n_classes = len(logits[0])
    prior = [1.0] * n_classes if prior is None else prior
    weights = [1.0] * len(logits) if weights is None else weights
    if sum(weights) == 0:
        return 0.0
    total = 0.0
    for c in range(n_classes):
        said = sum(w * softmax(row)[c] for w, row in zip(weights, logits, strict=True))
        share = prior[c] / sum(prior)
        if share > 0:
            total += share * math.log(share / (said / sum(weights)))
    return total


def negative_entropy(logits):
    return mean([-entropy(softmax(row)) for row in logits])


def squared_difference(logits, targets):
    return [
        mean([(p - t) ** 2 for p, t in zip(softmax(row), target, strict=True)])
        for row, target in zip(logits, targets, strict=True)
    ]


# contrast


def interpolated_contrastive(first, second, groups, weights, permutation, factor, temperature):
    """By the rows that PLS multiplies: w_i at the group's place, 1 - w_i at the own place."""
    n = len(first)
    places = {group: c for c, group in enumerate(sorted({g for g in groups if g >= 0}))}
    vectors = []
    for i, (group, weight) in enumerate(zip(groups, weights, strict=True)):
        vector = [0.0] * (len(places) + 2 * n)
        vector[places[group] if group >= 0 else len(places) + i] = weight  # loners: their own group
        vector[len(places) + n + i] = 1 - weight
        vectors.append(vector)

    def shared(i, j):
        return sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True))

    losses = []
    for i, anchor in enumerate(first):
        row = [similarity(anchor, other, temperature) for other in second]
        targets = [
            factor * shared(i, j) + (1 - factor) * shared(permutation[i], j) for j in range(n)
        ]
        below = log_sum_exp(row)
        losses.append(
            sum(t * (below - s) for t, s in zip(targets, row, strict=True)) / sum(targets)
        )
    return mean(losses)


# modes


def low_posterior(losses, n_steps=2000, least_variance=5e-4):
    """A mixture of two Gaussians by plain expectation-maximization from the quartiles."""
    low, high = min(losses), max(losses)
    x = [(value - low) / (high - low) for value in losses]
    ranked = sorted(x)
    means = [ranked[len(x) // 4], ranked[3 * len(x) // 4]]
    variances, shares = [0.05, 0.05], [0.5, 0.5]

    def densities(value):
        return [
            share * math.exp(-((value - m) ** 2) / (2 * v)) / math.sqrt(v)
            for share, m, v in zip(shares, means, variances, strict=True)
        ]

    for _ in range(n_steps):
        parts = [densities(value) for value in x]
        first = [a / (a + b) for a, b in parts]
        for k, column in enumerate((first, [1 - value for value in first])):
            total = sum(column)
            means[k] = sum(r * value for r, value in zip(column, x, strict=True)) / total
            squares = sum(r * (value - means[k]) ** 2 for r, value in zip(column, x, strict=True))
            variances[k] = squares / total + least_variance
            shares[k] = total / len(x)
    lower = means.index(min(means))
    answers = []
    for value in x:
        inside = densities(min(max(value, min(means)), max(means)))
        answers.append(inside[lower] / sum(inside))
    return answers
