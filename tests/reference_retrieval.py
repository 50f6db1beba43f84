"""Retrieval a second time: loops over lists, in float64, one query after another."""

from __future__ import annotations


def ranked(features, labels, query, label, own=None):
    """Whether each of the gallery is right, the nearest first; of equals the wrong ones first."""
    found = []
    for row, (other, its_label) in enumerate(zip(features, labels, strict=True)):
        if row == own:
            continue
        similarity = 0.0
        for a, b in zip(query, other, strict=True):
            similarity += float(a) * float(b)
        found.append((-similarity, its_label == label))
    return [right for _, right in sorted(found)]


def scores_of_query(right, ks):
    """None of a query without a mate."""
    n_mates = sum(right)
    if not n_mates:
        return None
    so_far, total, in_first_r = 0, 0.0, 0
    for place, one in enumerate(right, start=1):
        so_far += one
        if place <= n_mates and one:
            total += so_far / place
            in_first_r += 1
    return {
        "precision_at_1": float(right[0]),
        "r_precision": in_first_r / n_mates,
        "map_at_r": total / n_mates,
        **{f"recall_{k}": float(any(right[:k])) for k in ks},
        **{f"precision_{k}": sum(right[:k]) / min(k, n_mates) for k in ks},
    }


def scores(features, labels, ks, queries=None):
    """The mean of each measure over the queries that have a mate, and the rows of those without."""
    rows = []
    for own, (query, label) in enumerate(zip(*(queries or (features, labels)), strict=True)):
        if label < 0:
            rows.append(None)
            continue
        right = ranked(features, labels, query, label, own if queries is None else None)
        rows.append(scores_of_query(right, ks))
    known = [row for row in rows if row is not None]
    means = {name: sum(row[name] for row in known) / len(known) for name in (known or [{}])[0]}
    return means, [i for i, row in enumerate(rows) if row is None]


def most_rounds(n_groups, n_classes):
    """How many hands of P different classes can be dealt, tried one by one."""
    n = 0
    while sum(min(groups, n + 1) for groups in n_groups) >= (n + 1) * n_classes:
        n += 1
    return n
