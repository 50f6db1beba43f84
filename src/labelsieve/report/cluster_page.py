"""The page of clusters as one HTML file: what each holds, a box for its name, and how it came.

Like the audit's report it loads nothing from anywhere. The names typed into it leave it as
names.csv, which the script makes in the page and the browser saves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.files import atomic
from labelsieve.records import ImageSet
from labelsieve.records.clusters import Clusters, Part
from labelsieve.report import curves
from labelsieve.report.cluster_galleries import (
    CONFIDENT,
    DOUBTFUL,
    N_DOUBTFUL,
    N_RANDOM,
    N_SURE,
    ClusterGalleries,
    Groups,
    choose_clusters,
    given_name,
    shown_clusters,
)
from labelsieve.report.cluster_scores import ClusterScores
from labelsieve.report.confusion import class_map
from labelsieve.report.curves import PHASES, Chart, Evidence, charts_of, evidence_chart
from labelsieve.report.template import render
from labelsieve.report.thumbnails import BUDGET, Thumbnails, make_thumbnails

N_LARGE = 200  # prototypes that are shown large; of more clusters all are small
N_MEASURED = 50  # pictures that tell how much room one takes
N_BARS = 500  # of the chart of sizes
PARTS = {  # in words, and what an image of this part was to the training
    Part.TRAIN: ("trained on", "They shaped the clusters."),
    Part.VALID: ("held out", "They chose epoch and head; no cluster was learned from them."),
    Part.NEW: ("new", "They were put into clusters made without them."),
    Part.BROKEN: ("broken", "The file cannot be read as an image."),
}

STAGES = {"scan": "network", "self-label": "self-labels"}  # phases whose scores read better so

Scores = Mapping[str, Mapping[str, ClusterScores]]
History = Mapping[str, Sequence[Mapping[str, Any]]]


def write_cluster_page(
    clusters: Clusters,
    images: ImageSet,
    path: str | Path,
    *,
    about: Mapping[str, Any] | None = None,
    scores: Scores | None = None,
    evidence: Evidence | None = None,
    history: History | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the page, whole or not at all.

    What is shown is bounded (the numbers are at the top of `cluster_galleries.py`), so the page
    stays below 15 MB whatever the number of images and clusters; it says how many of how many it
    shows.

    Args:
        clusters: what was found.
        images: the same images, in the same order.
        path: the file to write.
        about: what is known of how it was made, as in run.json; every entry may be missing.
        scores: against the truth: what was scored, such as "k-means", -> part, such as "valid".
            The last of them is that of `clusters`.
        evidence: for the number of classes, where it was not given.
        history: the epochs' lines of log.jsonl by phase.
        progress: told (done, total) pictures.

    Raises:
        DataError: clusters and images are not of the same images.
        RunError: the file cannot be written.
    """
    if clusters.image != images.ids:
        raise DataError(
            f"clusters of {len(clusters)} images do not go with {images.source}, which has "
            f"{len(images)}: ids or their order differ. Cluster the images again."
        )
    final = _final(clusters, scores)
    groups = Groups(clusters)
    galleries, thumbnails = _pictures(groups, images, None if final is None else final[2], progress)
    path = Path(path)
    about = {"run": path.absolute().parent.name, **(about or {})}
    values = {
        "clusters": clusters,
        "galleries": galleries,
        "thumbnails": thumbnails,
        "parts": [(p, p.name.lower(), clusters.count(p), *PARTS[p]) for p in Part],
        "n_copies": int((clusters.duplicate_of >= 0).sum()),
        "called": lambda c: given_name(clusters, c) or f"cluster {c}",
        "sizes": _sizes(clusters.counts()),
        "stages": STAGES,
        "lines": [(row, part, one) for row, part, one in _lines(scores)],
        "final": final,
        "right": None if final is None else _right(final[2]),
        "heat": None if final is None else class_map(final[2]),
        "evidence": evidence,
        "evidence_chart": None if evidence is None else evidence_chart(evidence),
        "phases": _phases(history or {}, len(clusters.names)),
        "curves": curves,
        "fingerprint": _fingerprint(clusters),
        "limits": {"sure": N_SURE, "random": N_RANDOM, "doubts": N_DOUBTFUL,
                   "confident": CONFIDENT, "doubtful": DOUBTFUL},
    }  # fmt: skip
    text = render(
        "clusters.html",
        values,
        source=images.source,
        about=about,
        styles=("page.css", "charts.css", "clusters.css"),
        scripts=("nav.js", "clusters.js"),
    )
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _pictures(
    groups: Groups,
    images: ImageSet,
    scores: ClusterScores | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[ClusterGalleries, Thumbnails]:
    """Prototypes first; then as many members of each cluster as there is room for."""
    shown = shown_clusters(groups.clusters)
    prototypes = [row for c in shown.tolist() if (row := groups.prototype(c)) >= 0]
    is_small = len(prototypes) > N_LARGE
    measured = prototypes if is_small else prototypes[:N_MEASURED]
    # Until the members are known their number is that of the most there can be.
    most = choose_clusters(groups, scores)
    n_expected = len(set(prototypes)) + len(most.members())
    first = make_thumbnails(
        images, large=[] if is_small else prototypes, small=measured,
        progress=None if progress is None else lambda done, _: progress(done, n_expected),
    )  # fmt: skip
    room = BUDGET - sum(map(len, (*first.large.values(), *first.small.values())))
    galleries = choose_clusters(groups, scores, _n_members(first, len(shown), room))
    members = galleries.members()
    n_done, n_all = len(set(prototypes)), len(set(prototypes)) + len(members)
    second = make_thumbnails(
        images, large=[], small=members - set(first.small), budget=max(0, room),
        progress=None if progress is None else lambda done, _: progress(n_done + done, n_all),
    )  # fmt: skip
    both = Thumbnails(first.large, first.small | second.small)
    both.n_left_out = first.n_left_out + second.n_left_out
    return galleries, both


def _n_members(pictures: Thumbnails, n_clusters: int, room: int) -> int:
    """How many members of each cluster the page has room for; a little of it stays free."""
    sizes = [len(picture) for picture in pictures.small.values()]
    if not sizes:
        return N_SURE + N_RANDOM
    n_in_all = 0.95 * room / float(np.mean(sizes)) - N_DOUBTFUL
    return int(min(N_SURE + N_RANDOM, max(0.0, n_in_all // max(1, n_clusters))))


def _final(clusters: Clusters, scores: Scores | None) -> tuple[str, str, ClusterScores] | None:
    """Row, part and scores that speak for these clusters: the last row, on held-out images."""
    rows = [row for row in (scores or {}) if (scores or {})[row]]
    if not rows:
        return None
    parts = (scores or {})[rows[-1]]
    part = "valid" if "valid" in parts else next(iter(parts))
    if parts[part].confusion.shape[1] != len(clusters.names) or not parts[part].n_scored:
        return None
    return rows[-1], part, parts[part]


def _right(scores: ClusterScores) -> tuple[float | None, str]:
    """The share of images where they belong, and in words where that is."""
    if scores.n_clusters <= scores.n_classes:
        return scores.accuracy, "in the cluster of their class"
    fitted = scores.majority_train_accuracy
    share = scores.majority_accuracy if fitted is None else fitted
    return share, "in a cluster most of which is of their class"


def _lines(scores: Scores | None) -> Iterator[tuple[str, str, ClusterScores]]:
    for row, parts in (scores or {}).items():
        for part, one in parts.items():
            yield row, part, one


def _phases(history: History, n_clusters: int) -> list[tuple[str, tuple[Chart, ...]]]:
    found = [(_words(phase), charts_of(epochs, n_clusters)) for phase, epochs in history.items()]
    return [(words, charts) for words, charts in found if charts]


def _words(phase: str) -> str:
    """What a phase of the log is called on the page; rounds of refining are numbered there."""
    name, _, number = phase.rpartition("-")
    return f"Refining, round {number}" if name == "refine" else PHASES.get(phase, phase)


@dataclass(frozen=True)
class Sizes:
    """The sizes of all clusters as one drawing, 100 units high."""

    largest: int
    median: int
    smallest: int
    n_bars: int
    path: str


def _sizes(counts: NDArray[np.int64]) -> Sizes:
    falling = np.sort(counts)[::-1]
    n = min(N_BARS, len(falling))
    bars = falling[np.linspace(0, len(falling) - 1, n).astype(int)] if n else falling
    gap = 0.2 if n <= 100 else 0.0
    tops = 100 - 100 * bars / max(1, falling.max(initial=0))
    path = "".join(
        f"M{i + gap / 2:g} 100V{top:.5g}H{i + 1 - gap / 2:g}V100" for i, top in enumerate(tops)
    )
    return Sizes(
        largest=int(falling.max(initial=0)),
        median=int(np.median(falling)) if n else 0,
        smallest=int(falling[-1]) if n else 0,
        n_bars=n,
        path=path,
    )


def _fingerprint(clusters: Clusters) -> str:
    """Names kept by the browser come back only to the clusters they were given to."""
    digest = hashlib.blake2b(repr((len(clusters), clusters.prototypes)).encode(), digest_size=12)
    digest.update(np.ascontiguousarray(clusters.cluster).tobytes())
    return digest.hexdigest()
