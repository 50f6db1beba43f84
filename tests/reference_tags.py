"""A second time, slowly: scores of tags, their verdicts, and what is verified next. Lists only."""

from __future__ import annotations

import math


def average_precision(scores, present):
    """Sum over different scores of (recall gained there) x (precision at and above it)."""
    n_present = sum(map(bool, present))
    if not n_present:
        return math.nan
    total = before = 0
    for bar in sorted(set(scores), reverse=True):
        above = [p for s, p in zip(scores, present, strict=True) if s >= bar]
        right = sum(map(bool, above))
        total += (right - before) / n_present * right / len(above)
        before = right
    return total


def average_precision_by_tag(scores, tags, present, n_tags):
    found = []
    for tag in range(n_tags):
        mine = [(s, p) for s, t, p in zip(scores, tags, present, strict=True) if t == tag]
        found.append(average_precision([s for s, _ in mine], [p for _, p in mine]))
    return found


def mean(values):
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def kept_scores(kept, present):
    """Precision, recall and F1 of sets of pairs."""
    right = len(kept & present)
    return (
        right / len(kept) if kept else None,
        right / len(present) if present else None,
        2 * right / (len(kept) + len(present)) if kept or present else None,
    )


def verdict(probability, verified, threshold, low, high):
    if verified:
        return "kept" if verified > 0 else "removed"
    if threshold == 0:
        return "kept"
    if math.isnan(probability):
        return "review"
    if probability >= max(threshold, high):
        return "kept"
    return "removed" if probability < min(threshold, low) else "review"


def quotas(n_asserted, n_free, n):
    """Real shares: what a tag cannot fill is dealt to the others again."""
    total = min(n, sum(n_free))
    full = {c for c, free in enumerate(n_free) if not free}
    while True:
        left = total - sum(n_free[c] for c in full)
        weight = sum(math.sqrt(a) for c, a in enumerate(n_asserted) if c not in full)
        shares = [
            n_free[c] if c in full else left * math.sqrt(a) / weight
            for c, a in enumerate(n_asserted)
        ]
        over = {c for c, share in enumerate(shares) if c not in full and share > n_free[c]}
        if not over:
            return shares
        full |= over
