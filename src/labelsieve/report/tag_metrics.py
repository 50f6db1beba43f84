"""How well tags are found where people have looked: pure functions over pairs, and one record.

Only verified pairs of an image and a tag count; what nobody looked at is neither right nor wrong.
Everything works on lists of pairs, never on a dense (N, C). A measure that is not defined for the
pairs at hand is NaN in an array and None elsewhere, and is shown as a dash; it is never a silent 0.

Axis letters: N images, C tags, P verified pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.errors import DataError
from labelsieve.report.tag_breakdowns import Group, breakdown, equal_bins
from labelsieve.report.tag_ranking import (
    ScoreColumns,
    average_precision_by_tag,
    average_precision_of_all,
    full_average_precision,
    same_length,
)

__all__ = [
    "MEASURES",
    "KeptScores",
    "TagScores",
    "average_precision_by_tag",
    "average_precision_of_all",
    "full_average_precision",
    "score_kept",
    "score_tags",
]

EmptyTags = Literal["left-out", "zero"]

MEASURES = (
    "map", "ap_all", "map_informative", "precision_kept", "recall_kept", "f1_kept", "map_full",
    "precision_kept_full", "recall_kept_full", "f1_kept_full",
)  # fmt: skip


@dataclass(frozen=True)
class KeptScores:
    """How well a set of pairs that are kept agrees with those that are right."""

    n_kept: int
    n_present: int  # pairs that are right
    n_right: int  # kept and right
    precision: float | None  # n_right / n_kept
    recall: float | None  # n_right / n_present
    f1: float | None
    macro_f1: float | None  # mean F1 of the tags that have a right pair

    @classmethod
    def of_counts(
        cls, kept: NDArray[np.int64], present: NDArray[np.int64], right: NDArray[np.int64]
    ) -> KeptScores:
        """From counts of pairs by tag, (C,) each."""
        n_kept, n_present, n_right = int(kept.sum()), int(present.sum()), int(right.sum())
        some = present > 0
        by_tag = 2 * right[some] / (kept[some] + present[some])
        return cls(
            n_kept=n_kept,
            n_present=n_present,
            n_right=n_right,
            precision=n_right / n_kept if n_kept else None,
            recall=n_right / n_present if n_present else None,
            f1=2 * n_right / (n_kept + n_present) if n_kept + n_present else None,
            macro_f1=float(by_tag.mean()) if some.any() else None,
        )


@dataclass(frozen=True, eq=False)
class TagScores:
    """Scores of tags against verified pairs, and against full truth where it is known."""

    tag_names: tuple[str, ...]  # (C,)
    n_present: NDArray[np.int64]  # (C,) verified pairs that are right
    n_absent: NDArray[np.int64]  # (C,) and those that are wrong
    ap: NDArray[np.float64]  # (C,) average precision; NaN without a right pair
    map: float | None  # mean of `ap`
    map_informative: float | None  # over the tags with right and wrong pairs: others have 1 anyway
    ap_all: float | None  # one ranking of the pairs of all tags: rewards calibration across tags
    by_frequency: tuple[Group, ...]  # MAP in ten equal bins of tags, rare to common
    by_noise: tuple[Group, ...]  # the same, from low to high share of verified pairs that are right
    by_group: tuple[Group, ...] = ()  # as the user has them
    kept: KeptScores | None = None  # of the pairs that stay, against verified ones
    kept_by_tag: NDArray[np.int64] | None = None  # (C, 2) verified pairs kept; kept and right
    ap_full: NDArray[np.float64] | None = None  # (C,) of every image, by the full truth
    kept_full: KeptScores | None = None  # of the pairs that stay, against the full truth

    @property
    def without_positive(self) -> tuple[str, ...]:
        """Tags that have verified pairs, none of them right: average precision is not defined."""
        return self._named((self.n_present == 0) & (self.n_absent > 0))

    @property
    def without_negative(self) -> tuple[str, ...]:
        """Tags whose verified pairs are all right: any ranking has an average precision of 1."""
        return self._named((self.n_present > 0) & (self.n_absent == 0))

    @property
    def without_pair(self) -> tuple[str, ...]:
        """Tags that nobody looked at among these images: nothing here speaks of them."""
        return self._named((self.n_present == 0) & (self.n_absent == 0))

    @property
    def n_without_positive(self) -> int:
        """How many tags that is."""
        return len(self.without_positive)

    @property
    def n_without_negative(self) -> int:
        """How many tags that is."""
        return len(self.without_negative)

    @property
    def map_full(self) -> float | None:
        """Mean average precision over all images, by the full truth; of tags that any has."""
        return None if self.ap_full is None else _mean(self.ap_full)

    @property
    def precision_kept(self) -> float | None:
        """Of the verified pairs that are kept, the share that is right."""
        return None if self.kept is None else self.kept.precision

    @property
    def recall_kept(self) -> float | None:
        """Of the pairs verified as right, the share that is kept."""
        return None if self.kept is None else self.kept.recall

    @property
    def f1_kept(self) -> float | None:
        """Of both."""
        return None if self.kept is None else self.kept.f1

    def is_of_the_same_pairs(self, other: TagScores) -> bool:
        """Whether both were counted on the same verified pairs, as far as numbers tell."""
        return np.array_equal(self.n_present, other.n_present) and np.array_equal(
            self.n_absent, other.n_absent
        )

    def measures(self) -> dict[str, float | None]:
        """Every measure by its name, in [0, 1], in the order of tables."""
        full = self.kept_full
        parts = ("precision", "recall", "f1")
        of_full = {f"{name}_kept_full": getattr(full, name) if full else None for name in parts}
        known = {name: getattr(self, name) for name in MEASURES if name not in of_full}
        return {name: {**known, **of_full}[name] for name in MEASURES}

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON; None where a measure is not defined."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        derived = ("without_positive", "without_negative", "without_pair")
        return {
            **{name: _plain(value) for name, value in found.items()},
            **self.measures(),
            **{name: list(getattr(self, name)) for name in derived},
            "n_without_positive": self.n_without_positive,
            "n_without_negative": self.n_without_negative,
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> TagScores:
        """What `to_dict` gave, back from JSON."""
        own = {one.name: given[one.name] for one in fields(cls)}
        for name in ("n_present", "n_absent", "kept_by_tag"):
            own[name] = None if own[name] is None else np.array(own[name], np.int64)
        for name in ("ap", "ap_full"):
            own[name] = None if own[name] is None else np.array(own[name], np.float64)
        for name in ("by_frequency", "by_noise", "by_group"):
            own[name] = tuple(Group(**one) for one in own[name])
        for name in ("kept", "kept_full"):
            own[name] = None if own[name] is None else KeptScores(**own[name])
        return cls(**{**own, "tag_names": tuple(own["tag_names"])})

    def against_truth(
        self,
        scores: ScoreColumns | None,
        truth: csr_array,
        kept: csr_array | None = None,
        *,
        known: NDArray[np.bool_] | None = None,
    ) -> TagScores:
        """The same, with what the full truth says.

        Args:
            scores: gives (N, c) for some tags; None leaves out `map_full`.
            truth: (N, C), what is stored and positive is right.
            kept: (N, C), the tags that stay; None leaves out `kept_full`.
            known: (C,) the tags that the truth speaks of; by default those that any image has.
        """
        return replace(
            self,
            ap_full=None if scores is None else full_average_precision(scores, truth, known=known),
            kept_full=None if kept is None else score_kept(kept, truth, known=known),
        )

    def _named(self, which: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(self.tag_names[c] for c in np.flatnonzero(which))


def score_tags(
    scores: NDArray[np.floating[Any]],
    tags: NDArray[np.integer[Any]],
    present: NDArray[np.bool_],
    tag_names: Sequence[str],
    *,
    kept: NDArray[np.bool_] | None = None,
    frequency: NDArray[np.integer[Any]] | None = None,
    groups: Mapping[str, NDArray[np.int64]] | None = None,
    empty_tags: EmptyTags = "left-out",
) -> TagScores:
    """Hold scores of pairs against what people found.

    Source: Veit et al. 2017, Section 4.

    Args:
        scores: (P,) of verified pairs; any number that rises with how likely the tag is right.
        tags: (P,) the tag of each pair, in [0, C).
        present: (P,) whether it is right.
        tag_names: (C,).
        kept: (P,) whether the pair is among the cleaned tags.
        frequency: (C,) how often a tag is asserted; the number of its verified pairs by default.
        groups: tags by name of the group, as `read_groups` gives them; a tag may be in several.
        empty_tags: what the AP of a tag with verified pairs and none of them right is: "zero", or
            not defined and out of every mean. A tag without verified pairs is always left out.

    Raises:
        DataError: columns that do not go together, or scores that are no numbers.

    Example:
        >>> found = score_tags(np.array([0.9, 0.8, 0.7]), np.array([0, 0, 1]),
        ...                    np.array([False, True, True]), ("cat", "dog"))
        >>> found.ap.tolist(), found.map, found.without_negative
        ([0.5, 1.0], 0.75, ('dog',))
    """
    n_tags = len(tag_names)
    ap = average_precision_by_tag(scores, tags, present, n_tags)
    n_pairs = np.bincount(tags, minlength=n_tags)
    n_present = np.bincount(tags[present], minlength=n_tags)
    n_absent = n_pairs - n_present
    if empty_tags == "zero":
        ap[(n_pairs > 0) & (n_present == 0)] = 0.0
    quality = n_present / np.maximum(n_pairs, 1)
    by_tag = None
    if kept is not None:
        same_length("kept", kept, tags)
        sets = (tags[kept], tags[kept & present])
        by_tag = np.stack([np.bincount(one, minlength=n_tags) for one in sets], axis=1)
    return TagScores(
        tag_names=tuple(tag_names),
        n_present=n_present,
        n_absent=n_absent,
        ap=ap,
        map=_mean(ap),
        map_informative=_mean(ap[(n_present > 0) & (n_absent > 0)]),
        ap_all=average_precision_of_all(scores, present),
        by_frequency=equal_bins(ap, n_pairs if frequency is None else frequency),
        by_noise=equal_bins(ap, quality),
        by_group=breakdown(ap, groups or {}),
        kept=None
        if by_tag is None
        else KeptScores.of_counts(by_tag[:, 0], n_present, by_tag[:, 1]),
        kept_by_tag=by_tag,
    )


def score_kept(
    kept: csr_array, truth: csr_array, *, known: NDArray[np.bool_] | None = None
) -> KeptScores:
    """How well the tags that stay agree with the full truth; the same of given tags, to compare.

    Args:
        kept: (N, C), every stored pair stays.
        truth: (N, C), what is stored and positive is right.
        known: (C,) the tags that the truth speaks of; by default those that any image has, so that
            a table of truth which leaves tags out does not make them wrong.

    Raises:
        DataError: matrices of two shapes.
    """
    if kept.shape != truth.shape:
        raise DataError(f"tags of shape {kept.shape} and truth of {truth.shape}; expected one.")
    n_tags = truth.shape[1]
    right = csr_array(truth > 0)
    counts = [
        np.bincount(one.indices, minlength=n_tags)
        for one in (kept, right, csr_array((kept != 0).multiply(right)))
    ]
    of = counts[1] > 0 if known is None else known
    return KeptScores.of_counts(counts[0][of], counts[1][of], counts[2][of])


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _plain(value: Any) -> Any:
    """Arrays as lists, NaN as None, records as dicts."""
    if isinstance(value, np.ndarray):
        if value.dtype == np.float64:
            return [None if np.isnan(one) else one for one in value.tolist()]
        return value.tolist()
    if isinstance(value, (Group, KeptScores)):
        return asdict(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value
