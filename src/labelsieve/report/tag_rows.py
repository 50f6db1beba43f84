"""What every report says of tags: a row a tag, methods in words, and how much is wrong.

Axis letters: C tags, R pairs of `Tagged`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.records.tag_findings import BATCH, Tagged, TagVerdict
from labelsieve.report.classifier_scores import Interval, wilson
from labelsieve.report.tag_evaluation import BASELINE, CLEANER
from labelsieve.report.tag_metrics import TagScores
from labelsieve.report.tag_reliability import FalsePositives

METHODS = {  # what a method is called; others are called as they are
    "noisy": "tags as given",
    "biases": "biases only",
    "misra": "Misra et al.",
    "clean": "verified images only",
    "clean-long": "the same, long",
    "mixed": "verified and given, 9:1",
    "paper": "Veit et al.",
    "paper-pretrained": "Veit et al., pretrained",
    "default": "gates",
}
BASES = {  # what a threshold rests on
    "own": "its own verified",
    "shared": "those of all tags",
    "unreached": "not reached",
    "never": "keeps all",
    "fixed": "same for all",
}
MEANINGS = {
    TagVerdict.KEPT: "given, and stays",
    TagVerdict.REMOVED: "given, and goes",
    TagVerdict.ADDED: "not given, and comes",
    TagVerdict.REVIEW: "given, and for you to look at",
}
SHOWN_VERDICTS = (TagVerdict.KEPT, TagVerdict.REVIEW, TagVerdict.REMOVED, TagVerdict.ADDED)
CONTROL = (
    "AP over all tags ranks the pairs of all tags together. Most of what it gains is often mere "
    "calibration between tags: “biases only” learns one number a tag, and what it gains needs no "
    "look at the images. By MAP, which looks at each tag by itself, calibration gains nothing."
)


@dataclass(frozen=True)
class TagRow:
    """What is known of one tag."""

    name: str
    n_asserted: int
    n_verified: int  # of these, looked at by people
    n_looked: int  # of these, what the share of wrong ones rests on
    n_wrong: int  # of these, the wrong ones
    interval: Interval  # Wilson, 95 %, of the share of wrong ones; (0, 1) where nobody looked
    n_kept: int
    n_removed: int
    n_review: int
    n_added: int
    threshold: float  # from which a pair stays; 0 keeps all, inf what people verified
    expected_precision: float | None  # of what stays
    basis: str  # what the threshold rests on, such as "own"; "" where it is not known

    @property
    def share(self) -> float | None:
        """Of what the source asserts, the estimated share that is wrong."""
        return self.n_wrong / self.n_looked if self.n_looked else None

    @property
    def is_never_verified(self) -> bool:
        """Whether the source asserts it, and nobody looked at any of that."""
        return self.n_asserted > 0 and self.n_verified == 0


def tag_rows(
    tagged: Tagged,
    wrong: FalsePositives,
    expected_precision: NDArray[np.floating] | None = None,
    basis: Sequence[str] | None = None,
) -> tuple[TagRow, ...]:
    """One row a tag, in the order of the tags.

    Args:
        tagged: what is found.
        wrong: (C,) false positives, by pairs that were drawn at random.
        expected_precision: (C,) of what stays; NaN where nothing is known of it.
        basis: (C,) what each threshold rests on, as the keys of `BASES`.

    Raises:
        DataError: not one value a tag.
    """
    names, counts = tagged.tag_names, tagged.counts()
    expected = np.full(len(names), np.nan) if expected_precision is None else expected_precision
    bases = [""] * len(names) if basis is None else basis
    if not len(wrong.n_looked) == len(expected) == len(bases) == len(names):
        raise DataError(
            f"{len(wrong.n_looked)} shares of false positives, {len(expected)} precisions and "
            f"{len(bases)} bases for {len(names)} tags; expected one of each for each tag."
        )
    n_verified = np.zeros(len(names), np.int64)
    for start in range(0, len(tagged), BATCH):
        piece = slice(start, start + BATCH)
        seen = tagged.given[piece] & (tagged.verified[piece] != 0)
        n_verified += np.bincount(tagged.columns[piece][seen], minlength=len(names))
    return tuple(
        TagRow(
            name=name,
            n_asserted=int(counts[c].sum() - counts[c, TagVerdict.ADDED]),
            n_verified=int(n_verified[c]),
            n_looked=int(wrong.n_looked[c]),
            n_wrong=int(wrong.n_absent[c]),
            interval=(float(wrong.low[c]), float(wrong.high[c])),
            n_kept=int(counts[c, TagVerdict.KEPT]),
            n_removed=int(counts[c, TagVerdict.REMOVED]),
            n_review=int(counts[c, TagVerdict.REVIEW]),
            n_added=int(counts[c, TagVerdict.ADDED]),
            threshold=float(tagged.thresholds[c]),
            expected_precision=None if np.isnan(expected[c]) else float(expected[c]),
            basis=bases[c],
        )
        for c, name in enumerate(names)
    )


def rows_to_arrow(rows: Sequence[TagRow]) -> pa.Table:
    """All tags as a table; a share is null where nobody looked."""
    return pa.table(
        {
            "tag": pa.array([row.name for row in rows], pa.string()),
            **{
                name: pa.array([getattr(row, f"n_{name}") for row in rows], pa.int64())
                for name in ("asserted", "verified", "kept", "removed", "review", "added")
            },
            "wrong_share": pa.array([row.share for row in rows], pa.float64()),
            "wrong_low": pa.array([row.interval[0] for row in rows], pa.float64()),
            "wrong_high": pa.array([row.interval[1] for row in rows], pa.float64()),
            "threshold": pa.array([row.threshold for row in rows], pa.float64()),
            "expected_precision": pa.array([row.expected_precision for row in rows], pa.float64()),
            "basis": pa.array([row.basis for row in rows], pa.string()),
        }
    )


def worst_tags(rows: Sequence[TagRow]) -> list[TagRow]:
    """The tags that anybody looked at, the one with the most wrong assertions first.

    By the lower end of the interval: a tag of which two were looked at does not come first by
    chance.
    """
    known = [row for row in rows if row.n_looked]
    return sorted(known, key=lambda row: (-row.interval[0], -(row.share or 0.0), -row.n_asserted))


def never_verified(rows: Sequence[TagRow]) -> list[TagRow]:
    """The tags of which nobody looked at any assertion, the most frequent first."""
    return sorted((row for row in rows if row.is_never_verified), key=lambda row: -row.n_asserted)


@dataclass(frozen=True)
class WrongShare:
    """How much of the tags is wrong, as given and of what stays."""

    before: float
    before_interval: Interval | None  # None of an estimate, and of the truth
    after: float | None  # None where nothing stays
    after_interval: Interval | None
    n_pairs: int  # given, and known
    is_checked: bool  # counted, on verified pairs or by the truth; else as probabilities say
    recall_before: float | None = None  # of all right pairs, given or not, the given ones
    recall_after: float | None = None  # and those that stay; added ones count
    by_truth: bool = False  # counted on all pairs, whose truth is known


def wrong_share(tagged: Tagged, scores: Mapping[str, TagScores]) -> WrongShare | None:
    """By the verified pairs that were scored, else by the full truth, else by the probabilities.

    None without any of them.

    Probabilities of tags that nobody ever verified say nothing, and do not count.

    Args:
        tagged: what is found.
        scores: by method; "noisy" has what is given as kept, and the last one is what the tags
            were cleaned with. Verified pairs that are not given are no tags as given.
    """
    chosen = scores[list(scores)[-1]] if scores else None
    base = scores.get(BASELINE, chosen)
    if chosen is None or base is None:
        return _expected(tagged)
    by_truth = chosen.kept is None
    stay, given = (one.kept_full if by_truth else one.kept for one in (chosen, base))
    if stay is None or given is None or not given.n_kept:
        return _expected(tagged)
    n_wrong, bad = given.n_kept - given.n_right, stay.n_kept - stay.n_right
    return WrongShare(
        n_wrong / given.n_kept, None if by_truth else _interval(n_wrong, given.n_kept),
        bad / stay.n_kept if stay.n_kept else None,
        None if by_truth else _interval(bad, stay.n_kept),
        given.n_kept, True, given.recall, stay.recall, by_truth,
    )  # fmt: skip


def _interval(n_wrong: int, n: int) -> Interval | None:
    if not n:
        return None
    low, high = wilson(np.array([n_wrong]), np.array([n]))
    return float(low[0]), float(high[0])


def _expected(tagged: Tagged) -> WrongShare | None:
    n_tags, stays = len(tagged.tag_names), tagged.stays
    seen = np.zeros(n_tags, bool)
    for start in range(0, len(tagged), BATCH):
        piece = slice(start, start + BATCH)
        looked = (tagged.verified[piece] != 0) & tagged.given[piece]
        seen[tagged.columns[piece][looked]] = True
    n_given, n_stay, wrong_given, wrong_stay = 0, 0, 0.0, 0.0
    for start in range(0, len(tagged), BATCH):
        piece = slice(start, start + BATCH)
        verified = tagged.verified[piece]
        wrong = 1 - tagged.probability[piece].astype(np.float64)
        wrong = np.where(verified == 0, wrong, verified < 0)
        known = tagged.given[piece] & seen[tagged.columns[piece]] & ~np.isnan(wrong)
        stay = known & stays[piece]
        n_given, n_stay = n_given + int(known.sum()), n_stay + int(stay.sum())
        wrong_given += float(wrong[known].sum())
        wrong_stay += float(wrong[stay].sum())
    if not n_given:
        return None
    after = wrong_stay / n_stay if n_stay else None
    return WrongShare(wrong_given / n_given, None, after, None, n_given, False)


def ranked(scores: Mapping[str, TagScores]) -> bool:
    """Whether any method is scored by how it ranks pairs; without a test none is."""
    return any(
        one.ap_full is not None or int(one.n_present.sum() + one.n_absent.sum())
        for one in scores.values()
    )


def method_words(method: str) -> str:
    """A method as it is called in tables; of a recipe's cleaner, with its recipe's name."""
    recipe = method.removesuffix(CLEANER)
    return METHODS.get(recipe, recipe) + method[len(recipe) :]
