"""A second, slow way to say which images a process gets."""

from __future__ import annotations


def share_with_stand_ins(batch: list, rank: int, n_processes: int, broken: set[int]) -> list:
    """Of a global batch of rows (or of pairs), what one process sees when some rows are broken.

    A broken row gives its place to its partner; where there is none, to the first readable of the
    rows after it, those of the beginning after those of the end.
    """
    pairs = [row if isinstance(row, list) else [row] for row in batch]
    filled = []
    for i, pair in enumerate(pairs):
        queue = list(pair)
        for later in pairs[i + 1 :] + pairs[:i]:
            queue += later
        readable = [row for row in queue if row not in broken]
        filled.append([row if row not in broken else readable[0] for row in pair])
    n = len(batch)
    mine = [i for i in range(n) if rank * n // n_processes <= i < (rank + 1) * n // n_processes]
    return [filled[i] if isinstance(batch[i], list) else filled[i][0] for i in mine]
