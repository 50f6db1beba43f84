"""The stages of a clustering before any head is trained: pixels, features, neighbors, a number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from labelsieve.clustering.job import Job, Rows, Split
from labelsieve.data.decode import Pixels, confirmed_hashes, decode_images
from labelsieve.errors import DataError
from labelsieve.features.extract import nothing_left
from labelsieve.files import atomic, write_json
from labelsieve.methods.scan.kmeans import KMeansFit, assign, kmeans
from labelsieve.methods.scan.number import FEWEST, Evidence, number_of_classes
from labelsieve.neighbors.duplicates import exact_duplicates, near_duplicates
from labelsieve.records import Features, Neighbors
from labelsieve.records.clusters import Clusters
from labelsieve.stages.representation import FeatureMaker
from labelsieve.stages.sources import neighbors_of, rows_of, small_size

KMEANS, REFINED_KMEANS = "k-means", "k-means refined"  # of the features, and of refined ones
LEAST_HELD_OUT = 50  # images: fewer choose badly; but never more than a quarter of all


def decoded(job: Job) -> Pixels:
    """All images at a small size."""
    pretext = job.settings.pretrain
    size = small_size(job.settings.dictionary, pretext.image_size if pretext else None)
    path = job.run.checkpoint / "pixels.npy"
    with job.run.stage("decode"):
        return decode_images(job.images, size, path=path, progress=job.tell("decode"))


def split(job: Job, pixels: Pixels, n_clusters: int | Literal["auto"]) -> Split:
    """Which images are learned from, and which are held out to choose by.

    Raises:
        DataError: too few can be read for so many clusters.
    """
    whole = np.flatnonzero(pixels.usable)
    if job.held_out is not None:
        out = job.held_out[whole]
    else:
        n = max(round(job.settings.valid_share * len(whole)), min(LEAST_HELD_OUT, len(whole) // 4))
        out = np.zeros(len(whole), bool)
        out[np.random.default_rng(job.inputs.seed).permutation(len(whole))[:n]] = True
    found = Split(whole, np.flatnonzero(~out), np.flatnonzero(out))
    _check_enough(job, pixels, found, n_clusters)
    return found


def _check_enough(job: Job, pixels: Pixels, found: Split, number: int | Literal["auto"]) -> None:
    n_clusters = 2 if number == "auto" else number
    # the prior is found from twice as many parts as there are clusters
    least = n_clusters * (2 if job.settings.prior == "estimated" else 1)
    if number == "auto":
        least = max(least, FEWEST)
    if len(found.train) >= least and len(found.valid) >= n_clusters:
        return
    if not len(found.whole):
        raise nothing_left(job.images, dict(enumerate(map(str, pixels.reasons))))
    where = job.images.source
    if job.inputs.valid is not None:
        where += f" and {job.inputs.valid}"
    advice = "Say how many clusters" if number == "auto" else "Ask for fewer clusters"
    lost = np.flatnonzero(~pixels.usable)
    broken = ""
    if len(lost):
        broken = (
            f" {len(lost):,} cannot be read; the first is {job.images.ids[lost[0]]}: "
            f"{pixels.reasons[lost[0]]}."
        )
    raise DataError(
        f"{where}: {len(found.train)} readable images to learn from and {len(found.valid)} held "
        f"out to choose by, for {number} clusters; at least {least} and {n_clusters} are needed, "
        f"and some dozens a cluster to be worth it.{broken} {advice}, or give more images."
    )


def features(job: Job, make: FeatureMaker, pixels: Pixels) -> Features:
    """One row for each image that can be read; where rows are refined, those before that."""
    folder = job.run.path if job.settings.refine is None else job.run.checkpoint
    with job.run.stage("features"):
        return job.run.cached(
            folder / "features.npy",
            lambda: make(job.images, pixels, job.run, job.progress),
            Features.save,
            Features.load,
        )


def rows(job: Job, found: Split, made: Features, name: str = "") -> Rows:
    """Features in the order of the readable images, and their neighbors.

    Args:
        job: whose folder keeps the neighbors.
        found: what is learned from.
        made: features of all readable images.
        name: of these rows among others of the run, in names of files.
    """
    values = rows_of(made, job.images, found.whole)
    settings = job.settings
    with job.run.stage("neighbors"):
        return Rows(
            found,
            values,
            _neighbors(job, values[found.train], settings.n_neighbors, f"neighbors{name}"),
            _neighbors(job, values[found.valid], settings.n_valid_neighbors, f"valid{name}"),
        )


def _neighbors(job: Job, values: NDArray[np.float32], n: int, name: str) -> Neighbors:
    return job.run.cached(
        job.run.checkpoint / f"{name}.npz",
        lambda: neighbors_of(
            values, n, seed=job.inputs.seed, run=job.run, progress=job.progress
        ),
        Neighbors.save,
        Neighbors.load,
    )  # fmt: skip


def number(job: Job, of: Rows, n: int | Literal["auto"]) -> tuple[Evidence | None, int]:
    """How many clusters, and why so many where it was not said."""
    if n != "auto":
        return None, n
    with job.run.stage("number"):
        # Kept, as k-means on several threads adds up in any order: a second look might find another
        # number than the heads of an interrupted run were trained for.
        evidence = job.run.cached(
            job.run.checkpoint / "number.json",
            lambda: number_of_classes(
                of.values[of.split.train], of.neighbors, job.settings.number,
                seed=job.inputs.seed, progress=job.tell("number"),
            ),
            lambda found, path: write_json(path, found.to_dict()),
            lambda path: Evidence.from_dict(json.loads(path.read_text(encoding="utf-8"))),
        )  # fmt: skip
    if not evidence.is_clear:
        job.warnings.append(evidence.sentence)
    return evidence, evidence.chosen


def duplicates(job: Job, pixels: Pixels, of: Rows) -> NDArray[np.int64]:
    """(N,) the image that each repeats: pixel for pixel in all parts, nearly in its own."""
    whole = of.split.whole
    with job.run.stage("duplicates"):
        exact = exact_duplicates(confirmed_hashes(job.images, pixels)[whole])
        same = np.where(exact >= 0, exact, np.arange(len(whole)))  # equal for equal pixels
        found = exact.copy()
        for places, near in (
            (of.split.train, of.neighbors), (of.split.valid, of.valid_neighbors)
        ):  # fmt: skip
            repeated = near_duplicates(
                pixels.values, near, exact_duplicates(same[places].astype(np.uint64)),
                job.settings.duplicates, whole[places],
            )  # fmt: skip
            mine = (found[places] < 0) & (repeated >= 0)
            found[places[mine]] = places[repeated[mine]]
        found = first_of_each(found)
    copies = np.full(len(job.images), -1, np.int64)
    copies[whole] = np.where(found >= 0, whole[found], -1)
    return copies


def first_of_each(repeats: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which image each repeats, where what it repeats may repeat another: always the first.

    Args:
        repeats: (N,) an earlier row, -1 none.

    Example:
        >>> first_of_each(np.array([-1, 0, 1, -1])).tolist()
        [-1, 0, 0, -1]
    """
    found = repeats.copy()
    while True:
        further = np.where(found >= 0, found[found], -1)
        if (further < 0).all():
            return found
        found = np.where(further >= 0, further, found)


def baseline(job: Job, of: Rows, n_clusters: int, name: str = KMEANS) -> None:
    """K-means: fitted on the images to learn from, all put to the nearest center, and scored."""
    n_runs, n = job.settings.n_kmeans_runs, len(of.values)
    if not n_runs:
        return
    with job.run.stage(name):
        fit = job.run.cached(
            job.run.checkpoint / f"{name}.npz",
            lambda: kmeans(
                of.values[of.split.train], n_clusters, n_runs=n_runs, seed=job.inputs.seed
            ),
            _save_fit,
            _load_fit,
        )
        nearest = assign(of.values, fit.centers)
    job.run.note(
        **{name.replace("-", "").replace(" ", "_"): {"n_runs": n_runs, "inertia": fit.inertia}}
    )
    found = Clusters(
        image=tuple(job.images.ids[row] for row in of.split.whole),
        names=tuple(map(str, range(n_clusters))),
        choices=nearest[:, None].astype(np.int64),
        probabilities=np.ones((n, 1), np.float32),  # of the only choice that is known
        part=of.split.parts(len(job.images))[of.split.whole],
        duplicate_of=np.full(n, -1, np.int64),
        prototypes=(-1,) * n_clusters,
    )
    job.score(name, of.split, found)


def _save_fit(fit: KMeansFit, path: Path) -> None:
    with atomic(path) as partial:
        np.savez(partial, **fit._asdict())


def _load_fit(path: Path) -> KMeansFit:
    with np.load(path) as kept:
        return KMeansFit(
            kept["centers"], float(kept["inertia"]), kept["labels"], int(kept["n_runs"])
        )
