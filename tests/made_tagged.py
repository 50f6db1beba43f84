"""Tags made by chance with what is found of them, for the tests of what shows them."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from labelsieve.records import ImageSet
from labelsieve.records.tag_findings import Tagged
from labelsieve.records.tag_set import TagSet, empty
from labelsieve.report.tag_metrics import TagScores, score_tags
from labelsieve.report.tag_reliability import false_positive_share, reliability
from labelsieve.report.tag_rows import tag_rows


def made_tag_set(
    n: int, n_tags: int, seed: int = 0, verified: float = 0.3, per_image: int = 3, **more
) -> TagSet:
    """Images with a few tags each, some verified: every third pair of a tag is wrong on average.

    The last tag is never verified.
    """
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, n_tags, n * per_image)
    rows = np.repeat(np.arange(n), per_image)
    values = np.ones(len(rows), np.float32)
    asserted = csr_array((values, (rows, columns)), shape=(n, n_tags))
    asserted.sum_duplicates()
    asserted.data[:] = rng.uniform(0.5, 1, asserted.nnz)
    looked = (rng.random(asserted.nnz) < verified) & (asserted.indices < n_tags - 1)
    at = asserted.tocoo()
    said = np.where(rng.random(asserted.nnz) < 0.33, -1, 1).astype(np.int8)
    seen = csr_array((said[looked], (at.row[looked], at.col[looked])), shape=(n, n_tags))
    ids = more.pop("ids", tuple(f"im{i:05d}.jpg" for i in range(n)))
    names = more.pop("tag_names", tuple(f"tag {c}" for c in range(n_tags)))
    more.setdefault("source", "photos/tags.csv")
    return TagSet(ids, names, asserted, seen if verified else empty(n, n_tags), **more)


def made_probabilities(tag_set: TagSet, seed: int = 0, skill: float = 1.5):
    """(P,) of the asserted pairs, higher where people found the tag right."""
    rng = np.random.default_rng(seed)
    z = skill * tag_set.verified_of_asserted() + rng.normal(0.4, 1.5, tag_set.asserted.nnz)
    return (1 / (1 + np.exp(-z))).astype(np.float32)


def made_scores(
    tag_set: TagSet, seed: int = 0, skill: float = 1.5, threshold: float = 0.5
) -> TagScores:
    """Of the verified pairs that are asserted."""
    values = made_probabilities(tag_set, seed, skill)
    said = tag_set.verified_of_asserted()
    seen = said != 0
    columns = tag_set.asserted.indices[seen]
    return score_tags(values[seen], columns, said[seen] > 0, tag_set.tag_names,
                      kept=values[seen] >= threshold)  # fmt: skip


def made_methods(tag_set: TagSet, seed: int = 0) -> dict[str, TagScores]:
    skills = {"noisy": 0.3, "biases": 0.5, "default": 1.5}
    return {
        name: made_scores(tag_set, seed, skill, threshold=0 if name == "noisy" else 0.5)
        for name, skill in skills.items()
    }


def made_tagged(tag_set: TagSet, seed: int = 0, **more) -> Tagged:
    return Tagged.of_probabilities(tag_set, made_probabilities(tag_set, seed), **more)


def made_rows(tagged: Tagged, **more):
    seen = tagged.given & (tagged.verified != 0)
    wrong = false_positive_share(
        tagged.columns[seen], tagged.verified[seen] > 0, len(tagged.tag_names)
    )
    return tag_rows(tagged, wrong, **more)


def made_reliability(tag_set: TagSet, seed: int = 0):
    said = tag_set.verified_of_asserted()
    seen = said != 0
    values = made_probabilities(tag_set, seed)[seen]
    columns = tag_set.asserted.indices[seen]
    return reliability(values, columns, said[seen] > 0, tag_set.tag_names)


def with_images(tag_set: TagSet, images: ImageSet) -> TagSet:
    """The same with pictures, which other ids are given to."""
    return TagSet(
        tag_set.ids, tag_set.tag_names, tag_set.asserted, tag_set.verified,
        images=ImageSet(images.source, tag_set.ids, images.places),
        source=tag_set.source, understood=tag_set.understood,
    )  # fmt: skip
