"""The report as one HTML file that carries everything in itself: pictures, style and script.

It works from an e-mail: its content security policy forbids it to load anything at all, and its one
script runs because the policy names its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.files import atomic
from labelsieve.records import Features, Findings, ImageSet, Verdict
from labelsieve.report.figures import SHAPES, Dots, dots, heat_map, rate_axis
from labelsieve.report.galleries import Galleries, Group, choose
from labelsieve.report.metrics import Scores
from labelsieve.report.projection import layout, sample_rows
from labelsieve.report.table import (
    MEANINGS,
    every_label_fits,
    top_confusions,
    worst_classes,
)
from labelsieve.report.template import middle, render
from labelsieve.report.thumbnails import Thumbnails, make_thumbnails

N_CLASSES = 30  # rows of the noise chart
N_CONFUSIONS = 12
MAP_WIDTH, MAP_HEIGHT, MAP_MARGIN = 1000, 660, 24  # units of the drawing
TROUBLES = {  # of one image, of several
    Verdict.MISLABELED: ("looks mislabeled", "look mislabeled"),
    Verdict.FOREIGN: ("fits none of the classes", "fit none of the classes"),
    Verdict.BROKEN: ("cannot be read", "cannot be read"),
}


def write_page(
    findings: Findings,
    images: ImageSet,
    path: str | Path,
    *,
    features: Features | None = None,
    about: Mapping[str, Any] | None = None,
    scores: Scores | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the report, whole or not at all.

    What is shown is bounded (the galleries' numbers are at the top of `galleries.py`), so the page
    stays below 15 MB whatever the number of images; it says how many of how many it shows.

    Args:
        findings: what the audit said.
        images: the same images, in the same order.
        path: the file to write.
        features: for the map, matched by id; an image without features is not on it.
        about: what is known of how it was made, as in run.json; every entry may be missing.
        scores: against the truth, where it is known.
        progress: told (done, total) pictures.

    Raises:
        DataError: findings and images are not of the same images.
        RunError: the file cannot be written.
    """
    if findings.image != images.ids:
        raise DataError(
            f"findings of {len(findings)} images do not go with {images.source}, which has "
            f"{len(images)}: ids or their order differ. Run the audit again."
        )
    galleries = choose(findings)
    world = None if features is None else _map(findings, features)
    thumbnails = make_thumbnails(
        images,
        large=galleries.large(),
        small=galleries.small(),
        tiles=[] if world is None else world.rows.tolist(),
        hashed=galleries.copies(),
        progress=progress,
    )
    path = Path(path)
    about = {"run": path.absolute().parent.name, **(about or {})}
    text = _render(findings, images, galleries, thumbnails, world, about, scores)
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Map:
    """The map of the features: where its points are, and what the page's script knows of them."""

    rows: NDArray[np.int64]
    points: NDArray[np.int64]  # (n, 2) in units of the drawing
    dots: tuple[Dots, ...]
    n_readable: int  # images that could have been on it


def _map(findings: Findings, features: Features) -> Map | None:
    place = {name: row for row, name in enumerate(features.ids)}
    rows = sample_rows(findings)
    rows = rows[[findings.image[row] in place for row in rows]]
    if not len(rows):
        return None
    unit = layout(features.values[[place[findings.image[row]] for row in rows]])
    room = np.array([MAP_WIDTH, MAP_HEIGHT]) - 2 * MAP_MARGIN
    points = np.rint(MAP_MARGIN + unit * room).astype(np.int64)
    return Map(
        rows=rows,
        points=points,
        dots=dots(points, findings.verdict[rows]),
        n_readable=len(findings) - findings.count(Verdict.BROKEN),
    )


def _map_data(world: Map, findings: Findings, thumbnails: Thumbnails) -> dict[str, Any]:
    """What the script needs to tell of each point."""
    rows = world.rows
    used = np.unique(np.concatenate([findings.label[rows], findings.suggestion[rows], [-1]]))
    return {
        "x": world.points[:, 0].tolist(),
        "y": world.points[:, 1].tolist(),
        "id": [middle(findings.image[row]) for row in rows],
        "label": (np.searchsorted(used, findings.label[rows]) - 1).tolist(),
        "suggestion": (np.searchsorted(used, findings.suggestion[rows]) - 1).tolist(),
        "verdict": findings.verdict[rows].tolist(),
        "sure": [
            round(100 * float(findings.probabilities[row, findings.verdict[row]])) for row in rows
        ],
        "classes": [middle(findings.class_names[c]) for c in used[1:]],  # -1, none, comes first
        "shapes": list(SHAPES.values()),
        "columns": thumbnails.sheet_columns,
    }


def _render(
    findings: Findings,
    images: ImageSet,
    galleries: Galleries,
    thumbnails: Thumbnails,
    world: Map | None,
    about: Mapping[str, Any],
    scores: Scores | None,
) -> str:
    rates = worst_classes(findings)[:N_CLASSES]
    values = {
        "findings": findings,
        "verdicts": [(v, v.name.lower(), findings.count(v), MEANINGS[v]) for v in Verdict],
        "troubles": _troubles(findings),
        "n_unlabeled": int((findings.label < 0).sum()),
        "rates": rates,
        "axis": rate_axis(rates),
        "heat": heat_map(findings),
        "confusions": top_confusions(findings, N_CONFUSIONS),
        "galleries": galleries,
        "thumbnails": thumbnails,
        "identical": lambda group: _identical(group, thumbnails),
        "world": world,
        "map_data": None if world is None else _map_data(world, findings, thumbnails),
        "scores": scores,
    }
    return render(
        "page.html",
        values,
        source=images.source,
        about=about,
        styles=("page.css",),
        scripts=("nav.js", "page.js"),
    )


def _troubles(findings: Findings) -> list[tuple[str, str]]:
    """The page's first words on the labels: a number, or none, and what is said of so many."""
    counts = {verdict: findings.count(verdict) for verdict in TROUBLES}
    found = [(f"{n:,}", TROUBLES[v][n != 1]) for v, n in counts.items() if n]
    if counts[Verdict.MISLABELED] or counts[Verdict.FOREIGN]:
        return found
    fits = every_label_fits(findings)
    words = "Every label fits its image" if fits else "No image was called mislabeled or foreign"
    return [("", words), *found]


def _identical(group: Group, thumbnails: Thumbnails) -> bool:
    """Whether all pictures shown of a group have the same pixels."""
    hashes = {thumbnails.hashes.get(picture.row) for picture in group.pictures}
    return len(hashes) == 1 and None not in hashes
