"""Images with tags, some of them wrong, and a few verified: made data with known truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from labelsieve.methods.veit.stopping import average_precision


class Tagged(NamedTuple):
    features: np.ndarray  # (N, D) float32
    asserted: csr_array
    verified: csr_array  # of the first images
    truth: np.ndarray  # (N, C) bool
    held: np.ndarray  # images that nothing is learned of
    learned: np.ndarray


def tagged(
    n=1500, n_verified=200, n_held=500, n_tags=12, dim=24, most_false=0.8, least_false=0.2, seed=0
) -> Tagged:
    """Tags that hang together by what is shown; a share of each one's assertions is false.

    Half of the false ones are on images that show what the tag is mixed up with.
    """
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n_tags, dim))
    frequency = np.linspace(0.3, 0.08, n_tags)
    truth = rng.random((n, n_tags)) < frequency
    truth[:, 1] &= truth[:, 0]  # one implies another
    features = truth @ centers + 1.5 * rng.normal(size=(n, dim))
    shares = np.linspace(least_false, most_false, n_tags)
    asserted = truth.copy()
    for tag, share in enumerate(shares):
        wanted = int(truth[:, tag].sum() * share / (1 - share))
        alike = np.flatnonzero(truth[:, (tag + 1) % n_tags] & ~truth[:, tag])
        alike = rng.permutation(alike)[: wanted // 2]
        others = np.setdiff1d(np.flatnonzero(~truth[:, tag]), alike)
        asserted[alike, tag] = True
        asserted[rng.permutation(others)[: max(0, wanted - len(alike))], tag] = True
    verified = np.zeros((n, n_tags), np.int8)
    looked = slice(0, n_verified)
    verified[looked] = np.where(asserted[looked], np.where(truth[looked], 1, -1), 0)
    held = np.arange(n - n_held, n)
    return Tagged(
        features.astype(np.float32), csr_array(asserted.astype(np.float32)), csr_array(verified),
        truth & asserted, held, np.arange(n - n_held),
    )  # fmt: skip


def score(made: Tagged, probabilities: np.ndarray) -> float:
    """Average precision over all asserted pairs of the held images."""
    rows = np.repeat(np.arange(len(made.truth)), np.diff(made.asserted.indptr))
    of_held = np.isin(rows, made.held)
    rows, columns = rows[of_held], made.asserted.indices[of_held]
    at = np.searchsorted(made.held, rows)
    return 100 * average_precision(probabilities[at, columns], made.truth[rows, columns])


def recall(made: Tagged, keep: np.ndarray) -> float:
    """Share of the right assertions of held images that are kept."""
    rows = np.repeat(np.arange(len(made.truth)), np.diff(made.asserted.indptr))
    right = np.isin(rows, made.held) & made.truth[rows, made.asserted.indices]
    return 100 * float((keep[right] > 0.5).mean())
