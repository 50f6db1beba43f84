"""The merge of small clusters a second time: dictionaries and loops, to check the fast one."""

from __future__ import annotations

from itertools import combinations


def merges(links: list[list[int]]) -> list[tuple[int, int, float, float]]:
    """Of each merge: the cluster kept, the one gone, the crossing, the modularity before it."""
    n = len(links)
    groups = {i: [i] for i in range(n)}
    total = max(sum(map(sum, links)), 1)

    def between(a: int, b: int) -> int:
        return sum(links[i][j] for i in groups[a] for j in groups[b])

    def degree(a: int) -> int:
        return sum(links[i][j] for i in groups[a] for j in range(n))

    found = []
    while len(groups) > 1:
        modularity = sum(between(a, a) / total - (degree(a) / total) ** 2 for a in groups)
        lifts = {
            (a, b): between(a, b) / max(degree(a) * degree(b), 1)
            for a, b in combinations(sorted(groups), 2)
        }
        best = max(lifts.values())
        a, b = next(pair for pair, lift in lifts.items() if lift == best)
        within_a, within_b, across = between(a, a), between(b, b), between(a, b)
        ends_a, ends_b = within_a + across, within_b + across
        chance = ends_a * ends_b / (ends_a + ends_b) if ends_a and ends_b else 0
        found.append((a, b, across / chance if chance else 1.0, modularity))
        groups[a] += groups.pop(b)
    return found
