"""What a run found, in a form that other programs take: `labelsieve export`."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.join import joined
from labelsieve.data.read import read
from labelsieve.errors import ConfigError, DataError, RunError, did_you_mean
from labelsieve.records import Findings, ImageSet, Verdict
from labelsieve.records.clusters import Clusters
from labelsieve.report.export import export_csv, export_links
from labelsieve.run import read_run

_GUARDED = tuple("=+-@\t\r'")  # what our tables put an apostrophe before, as docs/formats.md says


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    out: str
    labels: Mapping[str, int]  # label -> images, in the order of their clusters or classes
    n_broken: int  # left out: cannot be read
    n_foreign: int  # left out: none of the classes fits
    n_unnamed: int  # left out: their cluster has no name, or they have no label

    def __str__(self) -> str:
        out_of = {
            "that cannot be read": self.n_broken,
            "foreign": self.n_foreign,
            "without a name or label": self.n_unnamed,
        }
        left = [f"{n:,} {what}" for what, n in out_of.items() if n]
        n_images, n_labels = sum(self.labels.values()), len(self.labels)
        images = "1 image" if n_images == 1 else f"{n_images:,} images"
        labels = "1 label" if n_labels == 1 else f"{n_labels:,} labels"
        found = f"{images} under {labels} in {self.out}"
        return f"{found}; left out: {', '.join(left)}" if left else found

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)


def export_run(
    run: Path,
    to: Literal["links", "csv"],
    out: Path,
    names: Path | None = None,
    *,
    copy: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Exported:
    """Turn what a finished run found into labels: folders of links, or a table.

    Of a cluster run an image's label is the name of its cluster. Of findings it is the given label
    where that is clean and the suggested one where it is not; images without a label get the
    suggested one. Broken and foreign images are left out, and those of clusters without a name.

    Args:
        run: the folder of a finished run of `cluster`, `audit`, `demo` or `train`.
        to: "links" makes OUT/LABEL/ID, "csv" a table of image, label and probability.
        out: a folder that is not there or empty, or a file that is not there.
        names: a table of `cluster` and `name`; two clusters of one name become one, and clusters
            that it does not name are left out. Without it they keep their names, at first numbers.
        copy: of "links": copy the files in place of linking to them.
        progress: told stage, images done and images in all.

    Raises:
        RunError: the run did not finish or found nothing of the kind, or `out` cannot be written.
        DataError: the table of names or the images are not what was expected.
        ConfigError: `names` for a run without clusters.
    """
    if to not in ("links", "csv"):
        raise ConfigError(f"--to is {to!r}; expected 'links' or 'csv'.")
    if copy and to != "links":
        raise ConfigError("--copy is for --to links; a table copies nothing.")
    about = read_run(run)
    found = _labels_of(run, about["job"], names)
    if to == "csv":
        export_csv(found.image, found.labels, found.probabilities, out)
    else:
        images = _images_of(run, about["settings"], found.image)
        step = None if progress is None else lambda done, n: progress("export", done, n)
        export_links(images, found.labels, out, copy=copy, progress=step)
    counted = Counter(found.labels)
    return Exported(
        out=str(out),
        labels={name: counted[name] for name in found.names if counted[name]},
        n_broken=found.n_broken,
        n_foreign=found.n_foreign,
        n_unnamed=counted[None] - found.n_broken - found.n_foreign,
    )


def read_names(path: Path, n_clusters: int) -> dict[int, str]:
    """The names of clusters, from a CSV of `cluster` and `name`; other columns do not matter.

    Returns:
        name by cluster number; a cluster whose name is empty is not in it.

    Raises:
        DataError: the table cannot be read, lacks a column, names a cluster that is not there or
            one twice, or names none.
    """
    names: dict[int, str] = {}
    for line, number, text in _name_rows(path):
        try:
            cluster = int(number)
        except ValueError:
            raise DataError(
                f"{path}, line {line}: {number!r} is no number of a cluster. Put names in the "
                "column 'name'."
            ) from None
        if not 0 <= cluster < n_clusters:
            raise DataError(
                f"{path}, line {line}: there is no cluster {cluster}; they are 0 to "
                f"{n_clusters - 1}. Is it of another run?"
            )
        name = text.strip()
        if name.startswith("'") and name[1:].startswith(_GUARDED):
            name = name[1:]
        if names.get(cluster, name) != name:
            raise DataError(
                f"{path}, line {line}: cluster {cluster} is {names[cluster]!r} and {name!r}. "
                "Give it one name."
            )
        if name:
            names[cluster] = name
    if not names:
        raise DataError(f"{path}: names no cluster. Give at least one a name.")
    return names


def _name_rows(path: Path) -> list[tuple[int, str, str]]:
    """Line, cluster and name of each row, between commas or, as some spreadsheets do, ; or tabs."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            columns = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
            for column in ("cluster", "name"):
                if column not in columns:
                    near = did_you_mean(column, columns)
                    raise DataError(f"{path}: no column {column!r}. {near}")
            places = columns.index("cluster"), columns.index("name")
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            found = []
            for row in rows:
                if any(row):
                    number, name = (row[place] if place < len(row) else "" for place in places)
                    found.append((rows.line_num + 1, number, name))
            return found
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason}. Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


@dataclass(frozen=True)
class _Labels:
    """What a run found, as one label an image."""

    image: tuple[str, ...]
    labels: Sequence[str | None]  # None is left out
    probabilities: NDArray[np.float32]  # that the label is right, NaN where that is not known
    names: Sequence[str]  # all labels that there may be, in order
    n_broken: int
    n_foreign: int


def _labels_of(run: Path, job: str, names: Path | None) -> _Labels:
    if job == "cluster":
        return _of_clusters(Clusters.load(run / "clusters.parquet"), names)
    if names is not None:
        raise ConfigError(
            f"--names is for runs of `cluster`; {run} was made by `labelsieve {job}`."
        )
    if job not in ("audit", "demo", "train"):
        raise RunError(
            f"{run}: made by `labelsieve {job}`; expected a run of `cluster`, `audit`, `demo` or "
            "`train`."
        )
    return _of_findings(Findings.load(run / "findings.parquet"))


def _of_clusters(clusters: Clusters, names: Path | None) -> _Labels:
    given = None
    if names is not None:
        given = read_names(names, len(clusters.names))
        # A cluster that is left out may have a name that another gets: out of the way with it.
        others = {c: f"\0{c}" for c in range(len(clusters.names)) if c not in given}
        clusters = clusters.named({**given, **others})
    shown = [None if name.startswith("\0") else name for name in clusters.names]
    cluster = clusters.cluster
    return _Labels(
        image=clusters.image,
        labels=[None if c < 0 else shown[c] for c in cluster.tolist()],
        probabilities=clusters.probabilities[:, 0],
        names=[name for name in shown if name is not None],
        n_broken=int((cluster < 0).sum()),
        n_foreign=0,
    )


def _of_findings(findings: Findings) -> _Labels:
    fits = np.isin(findings.verdict, (Verdict.CLEAN, Verdict.MISLABELED))
    given = (findings.verdict == Verdict.CLEAN) & (findings.label >= 0)
    label = np.where(given, findings.label, findings.suggestion)
    known = np.where(label == findings.suggestion, findings.suggestion_probability, np.nan)
    names = findings.class_names
    return _Labels(
        image=findings.image,
        labels=[names[c] if fit and c >= 0 else None for fit, c in zip(fits, label, strict=True)],
        probabilities=known.astype(np.float32),
        names=names,
        n_broken=findings.count(Verdict.BROKEN),
        n_foreign=findings.count(Verdict.FOREIGN),
    )


def _images_of(run: Path, settings: Mapping[str, Any], ids: Sequence[str]) -> ImageSet:
    """The images of a run as they lie on disk now, in its order."""
    inputs = settings["inputs"]
    images = read(inputs["source"], label=inputs.get("label"), truth=inputs.get("truth"))
    if inputs.get("valid"):
        valid = read(inputs["valid"], label=inputs.get("label"), truth=inputs.get("truth"))
        images, _ = joined(images, valid)
    if images.ids == tuple(ids):
        return images
    place = {name: row for row, name in enumerate(images.ids)}
    missing = [name for name in ids if name not in place]
    if missing:
        raise DataError(
            f"{images.source}: {len(missing):,} images of {run} are not there any more, such as "
            f"{missing[0]!r}. Put them back, or run again."
        )
    return images.take(np.array([place[name] for name in ids], np.int64))
