"""What refining findings does, a second time: loops over floats."""

from __future__ import annotations

import math


def isotonic(suspicion, target, weights):
    """Pool adjacent violators; equal suspicions are one."""
    order = sorted(range(len(suspicion)), key=lambda i: suspicion[i])
    blocks = []  # sum of weight * target, weight, members
    for i in order:
        equal = blocks and suspicion[blocks[-1][2][-1]] == suspicion[i]
        if equal and len(blocks[-1]) == 3:
            blocks[-1][0] += weights[i] * target[i]
            blocks[-1][1] += weights[i]
            blocks[-1][2].append(i)
        else:
            blocks.append([weights[i] * target[i], weights[i], [i]])
    merged = []
    for block in blocks:
        merged.append(block)
        while len(merged) > 1 and merged[-2][0] * merged[-1][1] >= merged[-1][0] * merged[-2][1]:
            last = merged.pop()
            merged[-1] = [merged[-1][0] + last[0], merged[-1][1] + last[1], merged[-1][2] + last[2]]
    found = [0.0] * len(suspicion)
    for total, weight, members in merged:
        for i in members:
            found[i] = total / weight
    return found


def log_odds(p):
    p = min(max(p, 1e-4), 1 - 1e-4)
    return math.log(p / (1 - p))


def reordered(first, second, weight):
    """The values of `first`, from the lowest, to the images in the order of the pool."""
    pool = [(1 - weight) * log_odds(a) + weight * log_odds(b)
            for a, b in zip(first, second, strict=True)]  # fmt: skip
    places = sorted(range(len(first)), key=lambda i: (pool[i], first[i]))
    found = [0.0] * len(first)
    for place, value in zip(places, sorted(first), strict=True):
        found[place] = value
    return found


def kinds(before, labels, probabilities, weight):
    """Clean, mislabeled, foreign of each image, after the classifier was heard; all labeled."""
    known = [clean + wrong for clean, wrong, _ in before]
    wrong = [w / k for (_, w, _), k in zip(before, known, strict=True)]
    own = [1 - p[y] for p, y in zip(probabilities, labels, strict=True)]
    wrong = reordered(wrong, isotonic(own, wrong, known), weight)
    torn = [-sum(p * math.log(max(p, 1e-6)) for p in row) for row in probabilities]
    foreign = [f for _, _, f in before]
    foreign = reordered(foreign, isotonic(torn, foreign, [1.0] * len(torn)), weight)
    return [[(1 - f) * (1 - w), (1 - f) * w, f] for w, f in zip(wrong, foreign, strict=True)]
