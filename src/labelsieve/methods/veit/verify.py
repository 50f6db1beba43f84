"""What to verify next, as yes or no questions about a tag of an image; and when to stop.

Measured on 14 tags of photographs, after 1,500 answers: most uncertain pairs with a quota for each
tag gave a cleaner MAP of 76.7, random pairs 73.4, most uncertain ones without a quota 74.7, most
suspicious ones 69.2.

Axis letters: N images, C tags, P asserted pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.errors import ConfigError, DataError
from labelsieve.files import write_csv
from labelsieve.records.tag_set import values_at

RANDOM_SHARE = 0.3  # of the questions
LEAST_GAIN = 0.005  # of a learning curve that still rises
PATIENCE = 2  # rounds that have to be flat
MORE_ANSWERS = 0.2  # by how much these have to add to the answers, else they say nothing
_BLOCK = 1 << 20  # pairs looked at together: 79 million pairs never have a sort of their own

Mode = Literal["learn", "fix"]


class Why(IntEnum):
    """Why a pair is asked about; the names in files are these in lower case."""

    UNCERTAIN = 0  # a probability near 0.5, among those of its tag
    RANDOM = 1  # drawn among all: these keep estimates unbiased
    SUSPICIOUS = 2  # the lowest probability


@dataclass(frozen=True, eq=False)
class Suggestions:
    """Pairs to be verified, the most useful first."""

    rows: NDArray[np.int64]  # (n,)
    columns: NDArray[np.int64]  # (n,)
    probability: NDArray[np.float32]  # (n,) that the tag is right
    why: NDArray[np.int8]  # (n,) a Why
    # All asserted pairs with a draw up to this one are verified once these are: see `drawn`.
    drawn_to: float = 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def by_tag(self) -> Suggestions:
        """The same in batches of one tag, large ones first: fastest for people to go through."""
        sizes = np.bincount(self.columns, minlength=1)
        order = np.lexsort((np.arange(len(self)), self.columns, -sizes[self.columns]))
        return replace(
            self,
            rows=self.rows[order],
            columns=self.columns[order],
            probability=self.probability[order],
            why=self.why[order],
        )

    def to_arrow(self, ids: Sequence[str], tag_names: Sequence[str]) -> pa.Table:
        """One row a question; `present` is left for the answer, 1 or 0."""
        words = [why.name.lower() for why in Why]
        return pa.table(
            {
                "image": pa.array([ids[row] for row in self.rows.tolist()], pa.string()),
                "tag": pa.array([tag_names[c] for c in self.columns.tolist()], pa.string()),
                "probability": pa.array(self.probability.astype(np.float32)),
                "why": pa.array([words[why] for why in self.why.tolist()], pa.string()),
                "present": pa.nulls(len(self), pa.int8()),
            }
        )

    def write(self, path: Path, ids: Sequence[str], tag_names: Sequence[str]) -> None:
        """Write a CSV table to fill in, in batches of one tag, that `--verified` takes back.

        What is left blank stays unverified. Who stops halfway should answer whole tags: then what
        was drawn at random still is, for each of these.

        Raises:
            RunError: the file cannot be written.
        """
        write_csv(self.by_tag().to_arrow(ids, tag_names), path)


def suggest(
    probabilities: NDArray[np.floating[Any]],
    asserted: csr_array,
    verified: csr_array,
    n: int,
    mode: Mode = "learn",
    seed: int = 0,
) -> Suggestions:
    """Pairs that people should look at, the most useful first.

    To learn: 30 % are drawn at random among all that nobody verified; 70 % are those whose
    probability is nearest 0.5, with a quota for each tag that goes by the root of how often it is
    asserted. What a tag cannot fill goes to the others. The two kinds come in turn, so that any
    beginning of the list has its share of both.

    To fix: the most suspicious first. That repairs most in least time, and teaches least; estimates
    of false positives must leave these out.

    Args:
        probabilities: (P,) that an asserted pair is right, in the order of `asserted.data`; pairs
            with NaN, of images that cannot be read, are not asked about.
        asserted: (N, C), P pairs.
        verified: (N, C), what is stored is verified.
        n: how many; fewer where there are fewer.
        mode: to "learn" or to "fix".
        seed: of the draw and of ties. With the same seed a later round goes on where the earlier
            one ended.

    Raises:
        ConfigError: n is below 1, or there is no such mode.
        DataError: not one probability a pair.
    """
    if n < 1:
        raise ConfigError(f"{n} tags to verify; expected 1 or more.")
    if mode not in ("learn", "fix"):
        raise ConfigError(f"there is no mode {mode!r} of what to verify; expected learn or fix.")
    if len(probabilities) != asserted.nnz:
        raise DataError(
            f"{len(probabilities)} probabilities for {asserted.nnz} asserted tags of images; "
            "expected one for each."
        )
    pairs = _Candidates(probabilities, asserted, verified, seed)
    if mode == "fix":
        every = np.array([n])
        places = pairs.first(lambda at: pairs.values[at], every)
        return pairs.suggestions(places, np.full(len(places), Why.SUSPICIOUS))
    n_free = int(pairs.free.sum())
    n_random = min(n_free, round(RANDOM_SHARE * n))
    chance = pairs.first(pairs.draws, np.array([n_random]))
    drawn_to = 1.0 if n_random == n_free else float(pairs.draws(chance).max(initial=0))
    pairs.free[chance] = False
    counts = np.bincount(asserted.indices, minlength=asserted.shape[1])
    quotas = tag_quotas(counts, pairs.free_by_tag(), n - n_random)
    near = pairs.first(pairs.doubt, quotas, by_tag=True)
    near = near[np.lexsort((pairs.draws(near), pairs.doubt(near)))]
    places = np.concatenate([near, chance])
    why = np.repeat([Why.UNCERTAIN, Why.RANDOM], [len(near), len(chance)])
    turn = [(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in (near, chance)]
    order = np.argsort(np.concatenate(turn), kind="stable")
    return pairs.suggestions(places[order], why[order], drawn_to)


def tag_quotas(
    n_asserted: NDArray[np.integer[Any]], n_free: NDArray[np.integer[Any]], n: int
) -> NDArray[np.int64]:
    """How many questions each tag gets: by the root of how often it is asserted.

    Args:
        n_asserted: (C,) pairs of the tag.
        n_free: (C,) of these, the ones that may be asked about: no tag gets more.
        n: questions in all; fewer are given out where fewer are free.

    Example:
        >>> tag_quotas(np.array([100, 400, 100]), np.array([100, 400, 2]), 14).tolist()
        [4, 8, 2]
    """
    weights = np.sqrt(n_asserted.astype(np.float64))
    free = n_free.astype(np.float64)
    total = min(float(n), float(free.sum()))
    shares, full = np.zeros(len(free)), free == 0
    while not full.all():
        open_share = (total - free[full].sum()) / weights[~full].sum()
        shares = np.where(full, free, open_share * weights)
        over = ~full & (shares > free)
        if not over.any():
            break
        full |= over
    shares = np.minimum(shares, free)
    quotas = np.floor(shares + 1e-9).astype(np.int64)
    order = np.argsort(quotas - shares, kind="stable")  # the largest remainders first
    room = order[quotas[order] < n_free[order]]
    quotas[room[: round(total) - int(quotas.sum())]] += 1
    return quotas


def drawn(
    rows: NDArray[np.integer[Any]],
    columns: NDArray[np.integer[Any]],
    seed: int,
    drawn_to: float,
) -> NDArray[np.bool_]:
    """Which pairs are a random sample of all asserted ones, once suggestions are answered.

    Each pair has a draw that depends on the seed, image and tag only, and the random questions of
    every round are the lowest draws that nobody verified. So the verified pairs with a draw up to
    the `drawn_to` of the last round are a random sample, for whatever reason they were verified.

    Args:
        rows: (V,) images of verified asserted pairs.
        columns: (V,) their tags.
        seed: of the suggestions.
        drawn_to: of the suggestions that were answered last.
    """
    return random_draw(rows, columns, seed) <= drawn_to


def random_draw(
    rows: NDArray[np.integer[Any]], columns: NDArray[np.integer[Any]], seed: int
) -> NDArray[np.float64]:
    """(V,) uniform in [0, 1): a hash of seed, image and tag, by the mixer of SplitMix64."""
    x = np.asarray(rows).astype(np.uint64) << np.uint64(32)
    x |= np.asarray(columns).astype(np.uint64)
    x += np.random.SeedSequence(seed).generate_state(1, np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Round(NamedTuple):
    """A point of the learning curve."""

    n_verified: int  # pairs
    score: float  # in [0, 1], such as the cleaner's MAP on verified pairs it did not learn from


class Advice(NamedTuple):
    """Whether more answers are worth their time."""

    stop: bool
    gain: float | None  # of the last rounds over the best before; None of too few rounds
    text: str


def stopping_advice(
    rounds: Sequence[Round], least_gain: float = LEAST_GAIN, patience: int = PATIENCE
) -> Advice:
    """Stop where the last rounds brought nothing, and had enough answers to bring something.

    Args:
        rounds: from the first on; of several with the same number of answers the last counts.
        least_gain: score that the last rounds have to add.
        patience: how many rounds that is.

    Example:
        >>> flat = [Round(300, 0.70), Round(600, 0.75), Round(900, 0.752), Round(1200, 0.751)]
        >>> stopping_advice(flat).stop, stopping_advice(flat[:3]).stop
        (True, False)
    """
    known = sorted({one.n_verified: one for one in rounds}.values())
    if len(known) <= patience:
        need = patience + 1 - len(known)
        rounds_show = "round shows" if need == 1 else "rounds show"
        return Advice(False, None, f"Too early to say: {need} more {rounds_show} how it goes on.")
    before, last = known[:-patience], known[-patience:]
    gain = max(one.score for one in last) - max(one.score for one in before)
    n_new = last[-1].n_verified - before[-1].n_verified
    what = f"the last {n_new:,} answers changed the score by {100 * gain:+.1f} points"
    if gain >= least_gain:
        return Advice(False, gain, f"Go on: {what}.")
    if n_new < MORE_ANSWERS * before[-1].n_verified:
        return Advice(False, gain, f"Too few new answers to say: {what}.")
    return Advice(True, gain, f"More answers are hardly worth it: {what}.")


class _Candidates:
    """Asserted pairs that nobody verified."""

    def __init__(
        self,
        probabilities: NDArray[np.floating[Any]],
        asserted: csr_array,
        verified: csr_array,
        seed: int,
    ) -> None:
        self.values = np.asarray(probabilities, np.float32)
        self.pairs = asserted
        self.seed = seed
        self.free = (values_at(verified, asserted) == 0) & ~np.isnan(self.values)  # (P,)

    def rows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Images of pairs."""
        found: NDArray[np.int64] = np.searchsorted(self.pairs.indptr, places, side="right") - 1
        return found.astype(np.int64)

    def draws(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Their random numbers."""
        return random_draw(self.rows(places), self.pairs.indices[places], self.seed)

    def free_by_tag(self) -> NDArray[np.int64]:
        """(C,) pairs that may be asked about."""
        found = np.zeros(self.pairs.shape[1], np.int64)
        for start in range(0, len(self.free), _BLOCK):
            piece = slice(start, start + _BLOCK)
            found += np.bincount(self.pairs.indices[piece][self.free[piece]], minlength=len(found))
        return found

    def doubt(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """How far their probabilities are from one half."""
        found: NDArray[np.float32] = np.abs(self.values[places] - 0.5)
        return found

    def first(
        self,
        score: Callable[[NDArray[np.int64]], NDArray[Any]],
        quotas: NDArray[np.integer[Any]],
        *,
        by_tag: bool = False,
    ) -> NDArray[np.int64]:
        """Free pairs of the lowest scores, ties by the draw: so many in all, or of each tag."""
        held = np.empty(0, np.int64)
        bars = np.full(len(quotas), np.inf)  # scores that are too high by what is held already
        for start in range(0, len(self.free), _BLOCK):
            places = start + np.flatnonzero(self.free[start : start + _BLOCK])
            low = score(places) <= bars[self._groups(places, by_tag)]
            both = np.concatenate([held, places[low]])
            scores, groups = score(both), self._groups(both, by_tag)
            order = np.lexsort((self.draws(both), scores, groups))
            ranked = groups[order]
            rank = np.arange(len(order)) - np.searchsorted(ranked, np.arange(len(quotas)))[ranked]
            held = both[order[rank < quotas[ranked]]]
            last = order[rank == quotas[ranked] - 1]  # of groups that are full
            bars[groups[last]] = scores[last]
            bars[quotas == 0] = -np.inf
        return held

    def _groups(self, places: NDArray[np.int64], by_tag: bool) -> NDArray[np.int32]:
        tags: NDArray[np.int32] = self.pairs.indices[places]
        return tags if by_tag else np.zeros_like(tags)

    def suggestions(
        self, places: NDArray[np.int64], why: NDArray[Any], drawn_to: float = 0.0
    ) -> Suggestions:
        """What is known of pairs."""
        columns = self.pairs.indices[places].astype(np.int64)
        kinds = why.astype(np.int8)
        return Suggestions(self.rows(places), columns, self.values[places], kinds, drawn_to)
