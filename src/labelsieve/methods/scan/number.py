"""How many classes a set of images has, where nobody says: over-cluster, merge, and look twice.

Each of several runs takes a random half of the images, cuts all into many small clusters, and
merges these by the neighbor graph, the pair first whose links exceed chance the most. A number of
classes is believed where two things meet: runs from different halves agree on the clusters, and
the splits that lead up to it cut few links while any further split cuts through dense regions.
Where no number stands out, the answer says so and gives a range.

Cost: one k-means of each run on at most `n_fitted` images, and counts of links between small
clusters; neither grows beyond `n_sampled` images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.scan.hierarchy import Run, agreement, grown, links_among, principal
from labelsieve.records import Neighbors

Progress = Callable[[int, int], None]  # (done, total) runs

FEWEST = 40  # images; a half of fewer says nothing
RIVAL = 1 / 3  # of the best score: a number that is not ruled out
STABLE = 0.5  # of the best agreement: the same where no number stands out
COARSE = 50  # largest number of classes at the coarse level


@dataclass(frozen=True)
class NumberSettings:
    """How many runs, on how many images, and what counts as clear."""

    most: int = 0  # largest number considered; 0: by rule, one for 30 images and at most 250
    n_runs: int = 6  # hierarchies; each two share a split of the images into halves
    n_sampled: int = 100_000  # images looked at, at most
    n_fitted: int = 20_000  # images each k-means is fitted on, at most
    n_components: int = 64  # principal components that k-means sees
    clear_gap: float = 0.1  # least step of the crossing, in arcsines of roots, that stands out
    clear_stability: float = 0.75  # least agreement (ARI) of runs on a clear number
    clear_share: float = 0.6  # least share of runs that find a clear number each by itself

    def __post_init__(self) -> None:
        least = {"n_runs": 2, "n_sampled": FEWEST, "n_fitted": FEWEST, "n_components": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least {bound}.")
        if self.most < 0 or self.most == 1:
            raise ConfigError(f"most is {self.most}; expected at least 2, or 0 for the rule.")
        for name in ("clear_gap", "clear_stability", "clear_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 to 1.")


@dataclass(frozen=True)
class Evidence:
    """What speaks for each number of classes, and the number chosen."""

    numbers: NDArray[np.int64]  # (M,) numbers tried: 2, 3, ...
    stability: NDArray[np.float64]  # (M,) mean ARI of runs from different halves; 0 at chance
    support: NDArray[np.float64]  # (M,) links within clusters less those of chance (modularity)
    crossing: NDArray[np.float64]  # (M,) links across the split that leads to it; 1 at chance
    score: NDArray[np.float64]  # (M,) stability times the step of the crossing after it, or 0
    chosen: int
    plausible: tuple[int, int]  # lowest and highest number that the evidence does not speak against
    is_clear: bool
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON; `from_dict` reads it."""
        columns = ("numbers", "stability", "support", "crossing", "score")
        found = {name: getattr(self, name).tolist() for name in columns}
        return found | {
            "chosen": self.chosen,
            "plausible": list(self.plausible),
            "is_clear": self.is_clear,
            "sentence": self.sentence,
        }

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Evidence:
        """What `to_dict` gave."""
        floats = ("stability", "support", "crossing", "score")
        columns = {name: np.asarray(given[name], np.float64) for name in floats}
        low, high = given["plausible"]
        return cls(
            numbers=np.asarray(given["numbers"], np.int64),
            chosen=given["chosen"],
            plausible=(low, high),
            is_clear=given["is_clear"],
            sentence=given["sentence"],
            **columns,
        )


class Curves(NamedTuple):
    """What the runs of one level show."""

    stability: NDArray[np.float64]  # (M,) at 2, 3, ... classes
    crossings: NDArray[np.float64]  # (R, S) of each run, of the splits into 2, 3, ...; S > M
    support: NDArray[np.float64]  # (M,) at 2, 3, ... classes


class _Verdict(NamedTuple):
    chosen: int
    low: int
    high: int
    stands_out: bool  # the step of the crossing is large enough to go by
    is_clear: bool
    score: NDArray[np.float64]  # (M,)


def number_of_classes(
    rows: NDArray[np.floating[Any]],
    neighbors: Neighbors,
    settings: NumberSettings | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evidence:
    """How many classes the images seem to have, with the evidence and how clear it is.

    No label is used. The answer is about groups in the features: where classes are not groups
    there, no number stands out, and `is_clear` is false. Classes of fewer than about 30 images need
    `most` to be given.

    Args:
        rows: (N, D) features, finite; may be memory-mapped.
        neighbors: of each row among the rows.
        settings: `NumberSettings()` unless given.
        seed: of the sample, the halves and the starts of k-means.
        progress: called with (done, total) runs.

    Raises:
        DataError: fewer than 40 images, rows that are not finite, or neighbors of another set.

    Example:
        >>> from labelsieve.neighbors.knn import nearest_neighbors
        >>> noise = np.random.default_rng(0).standard_normal((400, 8))
        >>> rows = np.eye(8)[np.arange(400) % 4] * 9 + noise
        >>> rows = np.float32(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        >>> number_of_classes(rows, nearest_neighbors(rows, 10)).chosen
        4
    """
    settings = settings or NumberSettings()
    _check(rows, neighbors)
    rng = np.random.default_rng(seed)
    sample = np.arange(len(rows))
    if len(rows) > settings.n_sampled:
        sample = np.sort(rng.choice(len(rows), settings.n_sampled, replace=False))
    points = principal(rows, sample, settings.n_components, settings.n_fitted, rng)
    linked = links_among(neighbors, sample)
    halves = [
        np.sort(half)
        for _ in range(-(-settings.n_runs // 2))
        for half in np.array_split(rng.permutation(len(sample)), 2)
    ][: settings.n_runs]
    levels = _levels(len(sample), settings.most)
    curves = []
    for done, (n_small, most) in enumerate(levels):
        runs = []
        for i, half in enumerate(halves):
            runs.append(grown(points, linked, half, n_small, settings.n_fitted, rng))
            if progress:
                progress(done * len(halves) + i + 1, len(levels) * len(halves))
        curves.append(_curves(runs, most))
    return judged(curves, settings)


def judged(levels: Sequence[Curves], settings: NumberSettings) -> Evidence:
    """Choose a number from the curves of each level, and say how clear it is.

    Args:
        levels: curves from differently many small clusters; those that speak loudest are returned.
        settings: what counts as clear.
    """
    found = [_verdict(level, settings) for level in levels]
    at = max(range(len(found)), key=lambda i: float(found[i].score.max()))
    best, curves = found[at], levels[at]
    rivals = [
        verdict
        for verdict in found
        if verdict.stands_out == best.stands_out and verdict.score.max() >= best.score.max() * RIVAL
    ]
    low, high = int(min(v.low for v in rivals)), int(max(v.high for v in rivals))
    # it is not clear which, where both 3 and 10 will do
    is_clear = best.is_clear and high - low <= max(1, best.chosen // 5)
    crossing = _mean_crossing(curves.crossings)
    i = best.chosen - 2
    return Evidence(
        numbers=np.arange(2, len(best.score) + 2),
        stability=curves.stability,
        support=curves.support,
        crossing=crossing[: len(best.score)],
        score=best.score,
        chosen=best.chosen,
        plausible=(low, high),
        is_clear=is_clear,
        sentence=_sentence(
            best, (low, high), is_clear, float(curves.stability[i]), crossing[i : i + 2]
        ),
    )


def _verdict(curves: Curves, settings: NumberSettings) -> _Verdict:
    """What one level says by itself."""
    n = len(curves.stability)
    agreed = np.maximum(curves.stability, 0)
    steps = _steps(_spread(curves.crossings).mean(axis=0), n)
    score = agreed * np.maximum(steps, 0)
    best = int(score.argmax())
    if steps[best] < settings.clear_gap:
        # More clusters than classes can be merged by their names; classes in one cluster are lost.
        best = int(curves.support.argmax())
        among = [0, best, *np.flatnonzero(agreed >= agreed.max() * STABLE)]
        return _Verdict(best + 2, min(among) + 2, max(among) + 2, False, False, score)
    by_run = [agreed * np.maximum(_steps(_spread(run), n), 0) for run in curves.crossings]
    own = sorted(int(one.argmax()) for one in by_run if one.any())
    # one run may err to either side
    among = [best, *np.flatnonzero(score >= score[best] * RIVAL), *own[1:-1]]
    share = sum(abs(i - best) <= max(1, best // 10) for i in own) / len(by_run)
    is_clear = curves.stability[best] >= settings.clear_stability and share >= settings.clear_share
    return _Verdict(best + 2, min(among) + 2, max(among) + 2, True, bool(is_clear), score)


def _curves(runs: list[Run], most: int) -> Curves:
    agreed = [agreement(a, b, most) for a, b in combinations(runs, 2)]
    return Curves(
        np.mean(agreed, axis=0),
        np.stack([run.hierarchy.crossing[::-1] for run in runs]),
        np.mean([run.hierarchy.support[::-1][1:most] for run in runs], axis=0),
    )


def _sentence(
    verdict: _Verdict,
    plausible: tuple[int, int],
    is_clear: bool,
    stability: float,
    crossing: NDArray[np.float64],
) -> str:
    low, high = plausible
    between = f"{low}" if low == high else f"{low} to {high}"
    if not verdict.stands_out:
        return (
            "The features do not say how many classes there are: no number stands out, and "
            f"{between} are plausible. {verdict.chosen} is used, which keeps most neighbors within "
            "clusters against chance; look at the clusters and merge those that are one class, or "
            "give the number."
        )
    evidence = (
        f"runs on different halves of the images agree by {stability:.2f} (ARI), and of the links "
        f"that chance would give, {crossing[0]:.2f} cross the last split and {crossing[-1]:.2f} "
        "the next"
    )
    if is_clear:
        also = "" if low == high else f" Plausible: {between}."
        return f"The images fall into {verdict.chosen} groups: {evidence}.{also}"
    return (
        f"{verdict.chosen} is the best supported number of classes, but not a clear one "
        f"(plausible: {between}): {evidence}. Look at the clusters before you trust it, or give "
        "the number."
    )


def _mean_crossing(crossings: NDArray[np.float64]) -> NDArray[np.float64]:
    """(S,) mean of the runs, taken of what `_spread` gives."""
    mean: NDArray[np.float64] = np.square(np.sin(_spread(crossings).mean(axis=0)))
    return mean


def _spread(crossing: NDArray[np.float64]) -> NDArray[np.float64]:
    """The arcsine of the root: noise of a share is the same everywhere; 0 to pi / 2."""
    return np.arcsin(np.sqrt(np.clip(crossing, 0, 1)))


def _steps(spread: NDArray[np.float64], n_numbers: int) -> NDArray[np.float64]:
    """How far the splits after each number stand above those before it, the worst of each side.

    A number at fault by one has a good split after it, or a bad one before it. The sides reach half
    as far as the number, and two splits at least.
    """
    steps = np.empty(n_numbers)
    for i in range(n_numbers):  # of i + 2 classes
        reach = max(2, -(-(i + 2) // 2))
        steps[i] = spread[i + 1 : i + 1 + reach].min() - spread[max(i + 1 - reach, 0) : i + 1].max()
    return steps


def _check(rows: NDArray[Any], neighbors: Neighbors) -> None:
    if rows.ndim != 2:
        raise DataError(f"rows: an array of shape {rows.shape}; expected (N, D).")
    if len(rows) < FEWEST:
        raise DataError(
            f"{len(rows)} images are too few to find the number of classes; expected at least "
            f"{FEWEST}. Give the number."
        )
    n, k = neighbors.indices.shape
    if n != len(rows) or k == 0 or int(neighbors.indices.max()) >= n:
        raise DataError(
            f"neighbors of {n} images, {k} each; expected some for each of the {len(rows)} rows, "
            "among these rows. Make both from the same features."
        )


def _levels(n: int, most: int) -> list[tuple[int, int]]:
    """How many small clusters to start from, and the largest number of classes to look at.

    The fewer the small clusters, the more links tell two of them apart: classes that overlap show
    at the coarse level only, many classes at the fine one.
    """
    most = max(min(most or min(n // 30, 250), n // 8), 4)
    return [(2 * top, top) for top in ((most,) if most < 2 * COARSE else (COARSE, most))]
