"""A slow twin of the offline filter: loops over rows, float64, each row really taken out."""

from __future__ import annotations

import math


def unit(row):
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def likelihoods(features, labels, keep, n_classes, score):
    """(N, C) cosine or mean similarity, each row to the others that are kept; None for nobody."""
    rows = [unit(row) for row in features]
    lost = [
        not any(k and label == c for k, label in zip(keep, labels, strict=True))
        for c in range(n_classes)
    ]
    found = []
    for i, row in enumerate(rows):
        line = []
        for c in range(n_classes):
            members = [
                rows[j]
                for j in range(len(rows))
                if labels[j] == c and (keep[j] or lost[c]) and j != i
            ]
            if not members:
                line.append(None)
                continue
            mean = [sum(column) / len(members) for column in zip(*members, strict=True)]
            value = sum(x * y for x, y in zip(row, mean, strict=True))
            length = math.sqrt(sum(y * y for y in mean))
            line.append(value if score == "average" else value / length)
        found.append(line)
    return found


def clean_log_probability(line, label, temperature):
    """Logarithm of the softmax of one row at its label."""
    terms = [math.exp(value / temperature) for value in line if value is not None]
    return line[label] / temperature - math.log(sum(terms))


def wrong_probability(log_odds, rate):
    """Bayes' rule with the prior, found by trying, at which the mean is the rate."""

    def of(prior):
        return [1 / (1 + math.exp(odds - prior)) for odds in log_odds]

    return of(min((step / 200 for step in range(-8000, 8001)),
                  key=lambda prior: abs(sum(of(prior)) / len(log_odds) - rate)))  # fmt: skip
