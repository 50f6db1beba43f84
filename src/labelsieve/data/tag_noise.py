"""Wrong and missing tags made on purpose, with their truth: by a made-up annotator or a weak model.

Counts are met exactly, by tag: of a tag that n images have, so many more get it that a given share
of its assertions is wrong, and a given share of the n lose it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from labelsieve.errors import ConfigError, DataError, did_you_mean
from labelsieve.records.tag_set import compact

Scores = NDArray[np.floating] | Callable[[int], NDArray[np.floating]]  # (N, C), or (N,) of a tag


@dataclass(frozen=True)
class TagNoise:
    """How much of which noise. Defaults: the annotator of docs/results.md."""

    low: float = 0.2  # share of the most frequent tag's assertions that are wrong, in [0, 1)
    high: float = 0.8  # of the rarest tag's; those between lie between, in order of frequency
    jitter: float = 0.1  # added to each share, uniform in +-; shares stay between low and high
    on_confusable: float = 0.6  # share of the wrong assertions on images of a confusable tag
    missing: float = 0.1  # share of the right assertions that is dropped
    most: float = 0.7  # of the images without a tag, that get it wrongly
    temperature: float = 1.0  # of a model's scores: less makes its errors surer to be repeated

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < 1:
            raise ConfigError(
                f"wrong shares of tags from {self.low:g} to {self.high:g}; expected two numbers in "
                "[0, 1), the lower first, such as 0.2:0.8."
            )
        for name in ("jitter", "on_confusable", "missing", "most"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 to 1.")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}; expected more than 0.")


def wrong_shares(
    counts: NDArray[np.int64], settings: TagNoise, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(C,) the share of each tag's assertions to be wrong: frequent tags are the cleaner ones.

    Args:
        counts: (C,) images that have the tag; of equals the first is the more frequent.
        settings: range and jitter.
        rng: what to draw from.
    """
    shares = np.empty(len(counts))
    shares[np.argsort(-counts, kind="stable")] = np.linspace(
        settings.low, settings.high, len(counts)
    )
    shares += rng.uniform(-settings.jitter, settings.jitter, len(counts))
    return np.clip(shares, settings.low, settings.high)


def annotator(
    truth: csr_array,
    settings: TagNoise,
    rng: np.random.Generator,
    confusable: Mapping[int, Sequence[int]] | None = None,
) -> csr_array:
    """Tags as a careless annotator gives them: mistaken where an image has a confusable tag.

    Of a tag that n images have, round(n * share / (1 - share)) others get it, but at most `most` of
    them; `on_confusable` of these are drawn among the images that have a tag it is confused with,
    as far as there are so many, the rest among all others. Then round(missing * n) lose it.

    Args:
        truth: (N, C) nonzero where the tag is right.
        settings: how much.
        rng: what to draw from.
        confusable: tag -> tags that it is confused with; none by default.

    Returns:
        (N, C) float32 of ones: what is asserted.
    """
    by_tag = csc_array(truth)
    confusable = confusable or {}

    def draw(c: int, free: NDArray[np.bool_], n: int) -> NDArray[np.int64]:
        alike = np.zeros(len(free), np.bool_)
        for other in confusable.get(c, ()):
            alike[_rows_of(by_tag, other)] = True
        near = np.flatnonzero(alike & free)
        n_near = min(len(near), round(n * settings.on_confusable))
        first = rng.choice(near, n_near, replace=False)
        rest = free.copy()
        rest[first] = False
        return np.concatenate([first, rng.choice(np.flatnonzero(rest), n - n_near, replace=False)])

    def drop(c: int, rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        return rng.choice(rows, n, replace=False)

    return _noisy(by_tag, settings, rng, draw, drop)


def from_model(
    truth: csr_array, scores: Scores, settings: TagNoise, rng: np.random.Generator
) -> csr_array:
    """Tags as a weak model gives them: wrong where it is fooled, missing where it sees nothing.

    Counts are those of `annotator`. Wrong assertions are drawn without replacement with weights
    exp(score / temperature), missing ones with exp(-score / temperature). This noise is harder to
    clean than an annotator's: the errors lie where a model of the images makes them, too.

    Args:
        truth: (N, C) nonzero where the tag is right.
        scores: (N, C) logits of a model, or a function that gives (N,) of a tag by its number.
        settings: how much; `on_confusable` plays no part.
        rng: what to draw from.

    Raises:
        DataError: scores are of other images or tags, or no numbers.

    Returns:
        (N, C) float32 of ones: what is asserted.
    """
    n_images, n_tags = truth.shape
    if not callable(scores) and scores.shape != (n_images, n_tags):
        raise DataError(
            f"scores of shape {scores.shape}; expected a row for each of the {n_images} images and "
            f"a column for each of the {n_tags} tags, in their order."
        )

    def keys(c: int, rows: NDArray[np.int64], sign: int) -> NDArray[np.float64]:
        of_tag = np.asarray(scores(c) if callable(scores) else scores[:, c], np.float64)
        if of_tag.shape != (n_images,) or not np.isfinite(of_tag).all():
            raise DataError(
                f"scores of tag {c} are of shape {of_tag.shape}, or not finite; expected a number "
                f"for each of the {n_images} images."
            )
        # the n largest of log-weight + Gumbel are a draw of n by weight, without replacement
        return sign * of_tag[rows] / settings.temperature + rng.gumbel(size=len(rows))

    def draw(c: int, free: NDArray[np.bool_], n: int) -> NDArray[np.int64]:
        rows = np.flatnonzero(free)
        return rows[np.argsort(-keys(c, rows, 1), kind="stable")[:n]]

    def drop(c: int, rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        return rows[np.argsort(-keys(c, rows, -1), kind="stable")[:n]]

    return _noisy(csc_array(truth), settings, rng, draw, drop)


def read_confusable(path: Path, tags: Sequence[str]) -> dict[int, list[int]]:
    """A CSV file tag,confused_with: a row a pair, or several tags with | between.

    Raises:
        DataError: it cannot be read, or has another first line.
        ConfigError: it names a tag that the set does not have.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}. Save it as CSV in UTF-8.") from error
    if not rows or [name.strip().lower() for name in rows[0][:2]] != ["tag", "confused_with"]:
        raise DataError(f"{path}: expected a first line 'tag,confused_with'. Put it first.")
    place = {name: c for c, name in enumerate(tags)}
    found: dict[int, list[int]] = {}
    for number, row in enumerate(rows[1:], start=2):
        for name in (row[:1] + row[1].split("|")) if len(row) > 1 else ():
            if name.strip() not in place:
                raise ConfigError(
                    f"{path}, line {number}: no tag {name.strip()!r}. "
                    f"{did_you_mean(name.strip(), tags)}"
                )
        if len(row) > 1:
            others = [place[name.strip()] for name in row[1].split("|")]
            found.setdefault(place[row[0].strip()], []).extend(others)
    return found


def _noisy(
    by_tag: csc_array,
    settings: TagNoise,
    rng: np.random.Generator,
    draw: Callable[[int, NDArray[np.bool_], int], NDArray[np.int64]],
    drop: Callable[[int, NDArray[np.int64], int], NDArray[np.int64]],
) -> csr_array:
    n_images, n_tags = by_tag.shape
    by_tag.eliminate_zeros()
    counts: NDArray[np.int64] = np.diff(by_tag.indptr).astype(np.int64)
    shares = wrong_shares(counts, settings, rng)
    rows: list[NDArray[np.int64]] = []
    columns: list[NDArray[np.int64]] = []
    for c in range(n_tags):
        right = _rows_of(by_tag, c)
        free = np.ones(n_images, np.bool_)
        free[right] = False
        n_wrong = round(len(right) * shares[c] / (1 - shares[c]))
        wrong = draw(c, free, min(n_wrong, int(settings.most * (n_images - len(right)))))
        lost = drop(c, right, round(settings.missing * len(right)))
        rows.append(np.union1d(np.setdiff1d(right, lost), wrong))
        columns.append(np.full(len(rows[-1]), c))
    none = np.zeros(0, np.int64)
    places = (np.concatenate([none, *rows]), np.concatenate([none, *columns]))
    ones = np.ones(len(places[0]), np.float32)
    return compact(csr_array((ones, places), shape=(n_images, n_tags)), np.float32)


def _rows_of(by_tag: csc_array, c: int) -> NDArray[np.int64]:
    """The images that have a tag, in order."""
    rows: NDArray[np.int64] = by_tag.indices[by_tag.indptr[c] : by_tag.indptr[c + 1]]
    return np.sort(rows).astype(np.int64)
