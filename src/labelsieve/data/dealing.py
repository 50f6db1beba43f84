"""How rows are dealt out to batches, like cards: no row a second time before all came once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dealt(n: int, n_hands: int, hand_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Items 0 to n - 1 dealt like cards: (n_hands, hand_size), shuffled anew when all are dealt.

    No item is twice in a hand, unless a hand is larger than n; then each is in it as often as any
    other, give or take one.
    """
    each, size = divmod(hand_size, n)
    whole = np.broadcast_to(np.tile(np.arange(n), each), (n_hands, each * n))
    n_decks = -(-n_hands * size // n)
    decks = rng.permuted(np.broadcast_to(np.arange(n), (n_decks, n)), axis=1)
    if size and n % size:
        _keep_apart(decks, size)
    return np.concatenate([whole, decks.ravel()[: n_hands * size].reshape(n_hands, size)], axis=1)


def _keep_apart(decks: NDArray[np.int64], hand_size: int) -> None:
    """Where a hand is dealt from two decks, see that none of the first is drawn from the second."""
    n_decks, n = decks.shape
    held = np.zeros(n, bool)
    for i in range(1, n_decks):
        n_held = i * n % hand_size  # cards that the last deck gave to the hand being dealt
        if not n_held:
            continue
        hand, deck = decks[i - 1, n - n_held :], decks[i]
        held[hand] = True
        free = np.flatnonzero(~held[deck])[: hand_size - n_held]
        held[hand] = False
        if len(free) and free[-1] != len(free) - 1:  # else its first cards are free as they lie
            decks[i] = np.concatenate([deck[free], np.delete(deck, free)])


def groups(n: int, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Items 0 to n - 1 cut into groups: (n / size rounded up, size), in random order.

    The last group is filled up with items of the others. Fewer items than a group are repeated as
    evenly as can be.
    """
    items = rng.permutation(n)
    missing = -n % size
    if n < size:
        return np.resize(items, (1, size))
    if missing:
        full = items[: n // size * size]
        items = np.concatenate([items, rng.choice(full, missing, replace=False)])
    return items.reshape(-1, size)


def n_rounds(n_groups: NDArray[np.int64], n_classes: int) -> int:
    """How many batches of P different classes can be made of (C,) groups of each class at most.

    The largest n with sum over classes of min(groups, n) >= n P: a class is once in a batch.
    """
    low, high = 0, int(n_groups.sum()) // n_classes
    while low < high:
        n = (low + high + 1) // 2
        if np.minimum(n_groups, n).sum() >= n * n_classes:
            low = n
        else:
            high = n - 1
    return low


def turns(
    n_groups: NDArray[np.int64], n_classes: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Which classes are in which batch: (n_rounds, P), none twice in a batch.

    The classes of a batch are drawn without replacement, in proportion to the groups they have
    left. Only where the batches could otherwise not be filled to the end, classes with a group for
    every batch to come go first. O(C) a batch: 0.2 s for the 1,200 batches of 11,318 classes.
    """
    left = n_groups.copy()
    n = n_rounds(n_groups, n_classes)
    chosen = np.empty((n, n_classes), np.int64)
    for i in range(n):
        to_come = n - i
        # The P least of Exp(1) / weight are P draws without replacement in proportion to weight.
        keys = np.full(len(left), np.inf)
        np.divide(rng.standard_exponential(len(left)), left, out=keys, where=left > 0)
        always = np.flatnonzero(left >= to_come)
        # Of those, each that is left out of this batch takes one place of the batches to come.
        spare = int(np.minimum(left, to_come).sum()) - to_come * n_classes
        if len(always) > spare:
            first = np.argsort(keys[always])[: len(always) - spare]
            keys[always[first]] = -1
        chosen[i] = np.argpartition(keys, n_classes - 1)[:n_classes]
        left[chosen[i]] -= 1
    return chosen
