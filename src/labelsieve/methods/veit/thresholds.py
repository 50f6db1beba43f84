"""From which probability on a tag stays, so that of what stays a wanted share is right.

A gate's probability is calibrated over all tags, not for each. So a tag is judged by its own
verified pairs as far as there are any, and by those of all tags as far as there are not.

Axis letters: C tags, V verified pairs, G thresholds of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from labelsieve.errors import ConfigError, DataError

PRIOR = 10.0  # pairs that the precision of all tags counts as, beside a tag's own
N_CANDIDATES = 256  # thresholds tried for tags with few verified pairs
_NAMED = 5  # tags named in a warning


class Basis(IntEnum):
    """What a tag's threshold rests on; the names in files are these in lower case."""

    FIXED = 0  # the same for all: no precision was asked for
    OWN = 1  # its own verified pairs
    SHARED = 2  # the verified pairs of all tags; its own few do not say otherwise
    UNREACHED = 3  # none reaches the precision: nothing stays but what people verified
    NEVER = 4  # nobody looked at the tag: all of it stays


@dataclass(frozen=True)
class Keep:
    """What stays of the asserted tags."""

    threshold: float = 0.5  # from which a pair stays, where no precision is asked for
    target_precision: float | None = None  # share of what stays that is to be right, below 1
    min_verified: int = 20  # verified pairs from which a tag has a threshold of its own
    # How sure each threshold alone is to reach the precision, in [0.5, 1). The lowest of many is
    # taken, which is less sure: of made tags with 30 or 100 verified pairs 7 in 10 reached 0.9, the
    # others missed it by 0.02, and what stays of all together was right to 0.92 (0.90 in the worst
    # of 8 draws).
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ConfigError(
                f"threshold is {self.threshold:g}; expected more than 0, at most 1. A pair stays "
                "from there on."
            )
        target = self.target_precision
        if target is not None and not 0 < target < 1:
            raise ConfigError(
                f"target_precision is {target:g}; expected a share between 0 and 1, such as 0.95. "
                "No number of verified tags can promise 1."
            )
        if self.min_verified < 1:
            raise ConfigError(f"min_verified is {self.min_verified}; expected at least 1.")
        if not 0.5 <= self.level < 1:
            raise ConfigError(f"level is {self.level:g}; expected 0.5 or more, and below 1.")


@dataclass(frozen=True, eq=False)
class TagThresholds:
    """From which probability on a pair stays, tag by tag."""

    threshold: NDArray[np.float32]  # (C,) 0 keeps everything, inf nothing that is not verified
    expected_precision: NDArray[np.float64]  # (C,) of what stays; NaN where nothing is known of it
    n_verified: NDArray[np.int64]  # (C,) pairs that it rests on
    basis: NDArray[np.int8]  # (C,) a Basis
    target: float | None = None

    def warnings(self, tag_names: Sequence[str]) -> tuple[str, ...]:
        """What a reader of the result must know, as sentences."""
        said = {
            Basis.UNREACHED: f"cannot be given a precision of {self.target or 0:g} by what is "
            "verified: of their unverified pairs none stays. Verify more of them, or ask for less",
            Basis.NEVER: "were never verified: all that the source says of them stays",
        }
        found = []
        for basis, words in said.items():
            tags = np.flatnonzero(self.basis == basis)
            if len(tags):
                names = ", ".join(tag_names[c] for c in tags[:_NAMED])
                more = ", ..." if len(tags) > _NAMED else ""
                found.append(f"{len(tags):,} tags {words} ({names}{more}).")
        return tuple(found)


def tag_thresholds(
    probabilities: NDArray[np.floating[Any]],
    tags: NDArray[np.integer[Any]],
    present: NDArray[np.bool_],
    n_tags: int,
    settings: Keep | None = None,
) -> TagThresholds:
    """The threshold of each tag.

    With a target, it is the lowest threshold that one of two rules allows. Own: the precision of
    the tag's verified pairs from there on reaches the target with probability `level`, by their
    Beta posterior; the prior is the precision of all tags from there on, worth 10 pairs. This asks
    for `min_verified` pairs. Shared: the precision of all tags together does so, and that of the
    tag does not fall short, by the mean of the same posterior; the promise is then for all such
    tags together, not for each. Where no threshold does, it is infinite: what nobody verified does
    not stay. A tag without any verified pair keeps what is asserted of it, whatever the target.

    Pairs that were chosen for being uncertain are wrong more often than others, so that they make
    thresholds higher than needed, never lower.

    Args:
        probabilities: (V,) of verified asserted pairs, in [0, 1], by a cleaner that was not trained
            on the pair.
        tags: (V,) in [0, C).
        present: (V,) whether people found the tag present.
        n_tags: C.
        settings: what stays; 0.5 and more by default.

    Raises:
        DataError: probabilities are not in [0, 1], or columns do not go together.

    Example:
        >>> p, tags = np.linspace(0.0, 1, 200), np.zeros(200, np.int64)
        >>> found = tag_thresholds(p, tags, p > 0.6, 2, Keep(target_precision=0.9))
        >>> [round(float(t), 2) for t in found.threshold], [Basis(b).name for b in found.basis]
        ([0.58, 0.0], ['OWN', 'NEVER'])
    """
    settings = settings or Keep()
    values, rows = _by_tag(probabilities, tags, present, n_tags)
    pool = _Pool(values, present)
    target = settings.target_precision
    n_verified = np.bincount(tags, minlength=n_tags)
    threshold, basis = np.zeros(n_tags), np.full(n_tags, Basis.NEVER, np.int8)
    if target is None:
        threshold[n_verified > 0], basis[n_verified > 0] = settings.threshold, Basis.FIXED
    else:
        shared = pool.candidates(target, settings.level)
        for c in np.flatnonzero(n_verified):
            own = _Pool(values[rows[c]], present[rows[c]])
            alike = shared[own.mean(shared, pool) >= target]
            threshold[c], basis[c] = alike.min(initial=np.inf), Basis.SHARED
            if n_verified[c] >= settings.min_verified:
                sure = own.values[own.sure(target, settings.level, pool)]
                if sure.min(initial=np.inf) <= threshold[c]:
                    threshold[c], basis[c] = sure.min(initial=np.inf), Basis.OWN
        basis[np.isinf(threshold)] = Basis.UNREACHED
    expected = np.full(n_tags, np.nan)
    for c in np.flatnonzero((n_verified > 0) & np.isfinite(threshold)):
        own = _Pool(values[rows[c]], present[rows[c]])
        expected[c] = own.mean(threshold[c : c + 1], pool)[0]
    return TagThresholds(threshold.astype(np.float32), expected, n_verified, basis, target)


def expected_precision(
    probabilities: NDArray[np.floating[Any]],
    tags: NDArray[np.integer[Any]],
    present: NDArray[np.bool_],
    n_tags: int,
    at: NDArray[np.floating[Any]],
) -> NDArray[np.float64]:
    """What share of the pairs that stay is right, at each of some thresholds: for a curve.

    The mean of the same posterior as in `tag_thresholds`; that of all tags where the tag has no
    verified pair from there on.

    Args:
        probabilities: (V,) in [0, 1].
        tags: (V,) in [0, C).
        present: (V,).
        n_tags: C.
        at: (G,) thresholds.

    Returns:
        (C, G); NaN of a tag without verified pairs.
    """
    values, rows = _by_tag(probabilities, tags, present, n_tags)
    pool = _Pool(values, present)
    found = np.full((n_tags, len(at)), np.nan)
    for c, mine in enumerate(rows):
        if len(mine):
            found[c] = _Pool(values[mine], present[mine]).mean(np.asarray(at, np.float64), pool)
    return found


class _Pool:
    """Verified pairs, asked how many of them lie from a threshold on, and how many are right."""

    def __init__(self, values: NDArray[np.float64], present: NDArray[np.bool_]) -> None:
        order = np.argsort(values, kind="stable")
        self.sorted = values[order]
        self.values = np.unique(self.sorted)  # thresholds that make a difference, rising
        below = np.cumsum(present[order], dtype=np.int64)
        self.right_below = np.concatenate([[0], below])

    def counts(
        self, thresholds: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Right and wrong pairs from thresholds on."""
        place = np.searchsorted(self.sorted, thresholds)
        right = self.right_below[-1] - self.right_below[place]
        return right, len(self.sorted) - place - right

    def share(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the pairs from thresholds on, the share that is right, with Jeffreys' prior."""
        right, wrong = self.counts(thresholds)
        return (right + 0.5) / (right + wrong + 1)

    def mean(self, thresholds: NDArray[np.float64], prior: _Pool) -> NDArray[np.float64]:
        """The posterior mean of the precision from thresholds on."""
        right, wrong = self.counts(thresholds)
        found: NDArray[np.float64] = (right + PRIOR * prior.share(thresholds)) / (
            right + wrong + PRIOR
        )
        return found

    def sure(self, target: float, level: float, prior: _Pool | None = None) -> NDArray[np.bool_]:
        """At which of `values` the precision reaches the target with probability `level`."""
        right, wrong = self.counts(self.values)
        of_right, of_wrong = np.array(0.5), np.array(0.5)  # Jeffreys
        if prior is not None:
            share = prior.share(self.values)
            of_right, of_wrong = PRIOR * share, PRIOR * (1 - share)
        below = betainc(right + of_right, wrong + of_wrong, target)  # P(precision < target)
        found: NDArray[np.bool_] = below <= 1 - level
        return found

    def candidates(self, target: float, level: float) -> NDArray[np.float64]:
        """Thresholds from the lowest on at which all pairs together reach the target."""
        sure = self.sure(target, level)
        if not sure.any():
            return np.empty(0)
        higher = self.values[int(sure.argmax()) :]
        places = np.linspace(0, len(higher) - 1, min(N_CANDIDATES, len(higher)))
        return higher[places.round().astype(np.int64)]


def _by_tag(
    probabilities: NDArray[np.floating[Any]],
    tags: NDArray[np.integer[Any]],
    present: NDArray[np.bool_],
    n_tags: int,
) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    """Probabilities as float64, and the places of each tag's pairs."""
    values = np.asarray(probabilities, np.float64)
    if not len(values) == len(tags) == len(present):
        raise DataError(
            f"{len(values)} probabilities, {len(tags)} tags and {len(present)} answers of verified "
            "pairs; expected as many of each."
        )
    if len(values) and not (values.min() >= 0 and values.max() <= 1):  # refuses NaN, too
        raise DataError(
            f"probabilities of verified pairs from {values.min():g} to {values.max():g}; expected "
            "them in [0, 1]."
        )
    order = np.argsort(tags, kind="stable")
    ends = np.searchsorted(tags[order], np.arange(n_tags + 1))
    return values, [order[ends[c] : ends[c + 1]] for c in range(n_tags)]
