"""The four nouns that pass between stages: ImageSet, Features, Neighbors, Findings.

Each is frozen, checked when it is made, and has `save` and `load`. Axis letters, here and in the
whole package: N images, B batch, C classes, D feature, K neighbors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.errors import DataError, import_extra
from labelsieve.files import atomic, write_csv, write_json


class Verdict(IntEnum):
    """What is said of an image's label; the names in files are these in lower case."""

    CLEAN = 0
    MISLABELED = 1  # in-distribution noise: another of the classes would be right
    FOREIGN = 2  # out-of-distribution noise: none of the classes would be right
    BROKEN = 3  # the file cannot be read as an image


@dataclass(frozen=True)
class Places:
    """Where the encoded bytes of each image lie; nothing is opened until it is read.

    A place is a whole file, a span of bytes in a tar, or a row of a table's column.
    """

    kind: Literal["file", "tar", "parquet", "arrow"]
    files: tuple[str, ...]  # absolute paths, each once
    file: NDArray[np.int32]  # (N,) index into files
    start: NDArray[np.int64]  # (N,) byte in a tar, row in a table, 0 for a whole file
    size: NDArray[np.int64]  # (N,) bytes in a tar, 0 elsewhere
    column: str = ""  # of a table

    def take(self, rows: NDArray[np.int64]) -> Places:
        """The places of some rows, in their order."""
        return replace(self, file=self.file[rows], start=self.start[rows], size=self.size[rows])


@dataclass(frozen=True, repr=False)
class ImageSet:
    """What images there are, how to get their bytes, what is said of them. Never holds pixels."""

    source: str  # as the user named it, for messages
    ids: tuple[str, ...]  # stable and unique: relative paths or keys
    places: Places
    class_names: tuple[str, ...] = ()  # sorted; empty without labels
    labels: NDArray[np.int64] | None = None  # (N,) in [-1, C), -1 where an image has none
    tags: csr_array | None = None  # (N, C) 0/1, where an image may have several labels
    truth: tuple[str | None, ...] | None = None  # true class names, for scoring only

    def __post_init__(self) -> None:
        n = len(self.ids)
        lengths = {
            "places": len(self.places.file),
            "labels": n if self.labels is None else len(self.labels),
            "tags": n if self.tags is None else self.tags.shape[0],
            "truth": n if self.truth is None else len(self.truth),
        }
        if any(length != n for length in lengths.values()):
            raise DataError(f"{self.source}: {n} ids, but {lengths}.")
        if (
            self.labels is not None
            and n
            and not (-1 <= self.labels.min() <= self.labels.max() < len(self.class_names))
        ):
            raise DataError(
                f"{self.source}: labels run from {self.labels.min()} to {self.labels.max()} "
                f"with {len(self.class_names)} class names."
            )
        if len(set(self.ids)) < n:
            seen: set[str] = set()
            twice = sorted({i for i in self.ids if i in seen or seen.add(i)})  # type: ignore[func-returns-value]
            raise DataError(
                f"{self.source}: {len(twice)} ids occur more than once, such as {twice[0]!r}. "
                "Give each image one row and its own id."
            )

    def __repr__(self) -> str:
        n_classes = len(self.class_names)
        return f"ImageSet({self.source!r}, {len(self):,} images, {n_classes:,} classes)"

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> ImageSet:
        """Some of the images, in the order of `rows`."""
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            places=self.places.take(rows),
            labels=None if self.labels is None else self.labels[rows],
            tags=None if self.tags is None else self.tags[rows],
            truth=None if self.truth is None else tuple(self.truth[row] for row in rows),
        )

    def fingerprint(self) -> str:
        """A hash of ids and every file's size and time of change: equal means the same pixels."""
        digest = hashlib.blake2b(digest_size=16)
        for name in self.ids:
            digest.update(name.encode() + b"\0")
        for path in self.places.files:
            try:
                found = os.stat(path)
            except OSError:
                digest.update(b"missing\0")  # decoding reports it as broken
            else:
                digest.update(f"{found.st_size} {found.st_mtime_ns}\0".encode())
        for column in (self.places.file, self.places.start, self.places.size):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def label_fingerprint(self) -> str:
        """A hash of what is said of the images: class names, labels and truth."""
        digest = hashlib.blake2b(repr((self.class_names, self.truth)).encode(), digest_size=16)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write a Parquet manifest: one row an image, its place, label and truth."""
        columns: dict[str, Any] = {
            "image": pa.array(self.ids, pa.string()),
            "file": self.places.file,
            "start": self.places.start,
            "size": self.places.size,
        }
        if self.labels is not None:
            columns["label"] = self.labels
        if self.tags is not None:
            columns["tags"] = pa.array(
                np.split(self.tags.indices, self.tags.indptr[1:-1]), pa.list_(pa.int32())
            )
        if self.truth is not None:
            columns["truth"] = pa.array(self.truth, pa.string())
        about = {
            "source": self.source,
            "kind": self.places.kind,
            "column": self.places.column,
            "files": self.places.files,
            "class_names": self.class_names,
        }
        table = pa.table(columns).replace_schema_metadata({"labelsieve": json.dumps(about)})
        with atomic(path) as partial:
            pq.write_table(table, partial)

    @classmethod
    def load(cls, path: Path) -> ImageSet:
        """Read a manifest that `save` wrote."""
        table, about = read_table(path)
        column = {name: table.column(name) for name in table.column_names}
        tags = None
        if "tags" in column:
            rows = column["tags"].combine_chunks()
            indices = rows.values.to_numpy()
            shape = (len(table), len(about["class_names"]))
            tags = csr_array(
                (np.ones(len(indices), np.uint8), indices, rows.offsets.to_numpy()), shape=shape
            )
        return cls(
            source=about["source"],
            ids=tuple(column["image"].to_pylist()),
            places=Places(
                kind=about["kind"],
                files=tuple(about["files"]),
                file=column["file"].to_numpy(),
                start=column["start"].to_numpy(),
                size=column["size"].to_numpy(),
                column=about["column"],
            ),
            class_names=tuple(about["class_names"]),
            labels=column["label"].to_numpy() if "label" in column else None,
            tags=tags,
            truth=tuple(column["truth"].to_pylist()) if "truth" in column else None,
        )


@dataclass(frozen=True)
class Features:
    """One unit-norm row an image, and what made them."""

    ids: tuple[str, ...]
    values: NDArray[np.float32]  # (N, D) unit-norm rows; may be memory-mapped
    made_by: str  # model, preprocessing and a hash of both with the images: equal means equal rows

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != len(self.ids):
            raise DataError(
                f"{self.made_by}: features of shape {self.values.shape} for {len(self.ids)} "
                "images; expected one row an image."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write `path` (.npy) and, beside it, the ids and the maker (.json)."""
        write_json(path.with_suffix(".json"), {"made_by": self.made_by, "ids": self.ids})
        with atomic(path) as partial:  # after the ids: where the rows are, the ids are too
            np.save(partial, self.values)

    @classmethod
    def load(cls, path: Path) -> Features:
        """Read what `save` wrote; the rows stay on disk and are memory-mapped."""
        try:
            about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            return cls(tuple(about["ids"]), np.load(path, mmap_mode="r"), about["made_by"])
        except (OSError, EOFError, KeyError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as features: {error}.") from error


@dataclass(frozen=True)
class Neighbors:
    """The nearest other images of each image, nearest first."""

    indices: NDArray[np.int64]  # (N, K) rows; never the image itself
    similarities: NDArray[np.float32]  # (N, K) cosine, in [-1, 1], falling along a row

    def __post_init__(self) -> None:
        if self.indices.shape != self.similarities.shape:
            raise DataError(
                f"indices {self.indices.shape}, but similarities {self.similarities.shape}."
            )

    def save(self, path: Path) -> None:
        """Write one uncompressed .npz."""
        with atomic(path) as partial:
            np.savez(partial, indices=self.indices, similarities=self.similarities)

    @classmethod
    def load(cls, path: Path) -> Neighbors:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["indices"], arrays["similarities"])


@dataclass(frozen=True)
class NoiseRate:
    """How many of a class's images carry the label wrongly; how, docs/audit.md says."""

    class_name: str
    n_images: int
    mislabeled: float  # in [0, 1]
    mislabeled_interval: tuple[float, float]
    foreign: float  # in [0, 1]
    foreign_interval: tuple[float, float]


@dataclass(frozen=True, repr=False)
class Findings:
    """What a method says of each image: one row an image. Columns as in docs/formats.md."""

    image: tuple[str, ...]
    class_names: tuple[str, ...]
    label: NDArray[np.int64]  # (N,) the class as given, -1 none
    verdict: NDArray[np.int8]  # (N,) a Verdict
    probabilities: NDArray[
        np.float32
    ]  # (N, 3) clean, mislabeled, foreign; rows sum to 1; NaN where broken
    suggestion: NDArray[np.int64]  # (N,) the class the method would give, -1 none
    suggestion_probability: NDArray[np.float32]  # (N,) in [0, 1], NaN where there is no suggestion
    foreign_group: NDArray[np.int32]  # (N,) cluster among the foreign images, -1 none
    duplicate_of: NDArray[np.int64]  # (N,) row of the image it repeats, -1 none
    neighbors: NDArray[np.int64]  # (N, <= 5) rows of the nearest images, -1 none
    reason: tuple[str, ...]  # one plain sentence each
    noise_rates: tuple[NoiseRate, ...] = ()
    warnings: tuple[str, ...] = ()  # when and why the result should not be trusted

    def __post_init__(self) -> None:
        columns = ("label", "verdict", "probabilities", "suggestion", "suggestion_probability",
                   "foreign_group", "duplicate_of", "neighbors", "reason")  # fmt: skip
        lengths = {name: len(getattr(self, name)) for name in columns}
        if any(length != len(self.image) for length in lengths.values()):
            raise DataError(
                f"Findings of {len(self.image)} images with columns of other lengths: {lengths}."
            )
        known = self.probabilities[self.verdict != Verdict.BROKEN]
        if len(known) and not (np.abs(known.sum(axis=1) - 1) < 1e-3).all():
            raise DataError(
                "the three probabilities of an image sum to 1; in these findings some do not."
            )

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(v):,} {v.name.lower()}" for v in Verdict)
        return f"Findings({len(self):,} images: {counts})"

    def __len__(self) -> int:
        return len(self.image)

    def count(self, verdict: Verdict) -> int:
        """How many images got this verdict."""
        return int((self.verdict == verdict).sum())

    def to_arrow(self) -> pa.Table:
        """The contracted columns, names in place of rows and numbers."""
        names = pa.array(self.image, pa.string())
        classes = pa.array(self.class_names, pa.string())

        def pick(values: pa.Array, rows: NDArray[np.integer[Any]]) -> pa.Array:
            return values.take(pa.array(rows, mask=rows < 0))

        def nullable(values: NDArray[np.float32]) -> pa.Array:
            return pa.array(values.astype(np.float32), mask=np.isnan(values))

        verdicts = np.array([verdict.name.lower() for verdict in Verdict])
        near = self.neighbors
        return pa.table(
            {
                "image": names,
                "label": pick(classes, self.label),
                "verdict": pa.array(verdicts[self.verdict], pa.string()),
                "clean_probability": nullable(self.probabilities[:, 0]),
                "mislabeled_probability": nullable(self.probabilities[:, 1]),
                "foreign_probability": nullable(self.probabilities[:, 2]),
                "suggestion": pick(classes, self.suggestion),
                "suggestion_probability": nullable(self.suggestion_probability),
                "foreign_group": pa.array(self.foreign_group, pa.int32()),
                "duplicate_of": pick(names, self.duplicate_of),
                "neighbors": pa.array(
                    [[self.image[j] for j in row if j >= 0] for row in near], pa.list_(pa.string())
                ),
                "reason": pa.array(self.reason, pa.string()),
            }
        )

    def to_pandas(self) -> Any:
        """A pandas DataFrame of the contracted columns."""
        import_extra("pandas", "pandas", "Findings.to_pandas()")
        return self.to_arrow().to_pandas()

    def write(self, path: str | Path) -> None:
        """Write the contracted columns as .csv or .parquet, by the name of the file.

        Raises:
            DataError: another suffix.
            RunError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".csv":
            write_csv(self.to_arrow(), path)
        elif path.suffix.lower() == ".parquet":
            self.save(path)
        else:
            raise DataError(f"{path}: findings are written as .csv or .parquet. Name such a file.")

    def save(self, path: Path) -> None:
        """Write the contracted Parquet file; noise rates and warnings travel in its metadata."""
        about = {
            "class_names": self.class_names,
            "noise_rates": [asdict(rate) for rate in self.noise_rates],
            "warnings": self.warnings,
        }
        table = self.to_arrow().replace_schema_metadata({"labelsieve": json.dumps(about)})
        with atomic(path) as partial:
            pq.write_table(table, partial)

    @classmethod
    def load(cls, path: Path) -> Findings:
        """Read what `save` wrote."""
        table, about = read_table(path)
        column = {name: table.column(name).to_pylist() for name in table.column_names}
        images = tuple(column["image"])
        rows = {name: row for row, name in enumerate(images)}
        classes = {name: c for c, name in enumerate(about["class_names"])}
        width = max((len(near) for near in column["neighbors"]), default=0)
        neighbors = np.full((len(images), width), -1, np.int64)
        for row, near in enumerate(column["neighbors"]):
            neighbors[row, : len(near)] = [rows[name] for name in near]
        probabilities = [
            table.column(f"{kind}_probability").to_numpy()
            for kind in ("clean", "mislabeled", "foreign")
        ]
        return cls(
            image=images,
            class_names=tuple(about["class_names"]),
            label=_indices(column["label"], classes),
            verdict=np.array([Verdict[name.upper()] for name in column["verdict"]], np.int8),
            probabilities=np.stack(probabilities, axis=1).astype(np.float32),
            suggestion=_indices(column["suggestion"], classes),
            suggestion_probability=table.column("suggestion_probability")
            .to_numpy()
            .astype(np.float32),
            foreign_group=table.column("foreign_group").to_numpy(),
            duplicate_of=_indices(column["duplicate_of"], rows),
            neighbors=neighbors,
            reason=tuple(column["reason"]),
            noise_rates=tuple(_noise_rate(rate) for rate in about["noise_rates"]),
            warnings=tuple(about["warnings"]),
        )


def _indices(names: Sequence[str | None], index: dict[str, int]) -> NDArray[np.int64]:
    return np.array([-1 if name is None else index[name] for name in names], np.int64)


def _noise_rate(about: dict[str, Any]) -> NoiseRate:
    intervals = {name: tuple(about[name]) for name in ("mislabeled_interval", "foreign_interval")}
    return NoiseRate(**{**about, **intervals})


def read_table(path: Path, dictionary: Sequence[str] = ()) -> tuple[pa.Table, dict[str, Any]]:
    """A Parquet file of ours, and what its metadata say.

    Args:
        path: of the file.
        dictionary: columns of texts that repeat, read as dictionaries: a tenth of the memory.

    Raises:
        DataError: it cannot be read, or is not ours.
    """
    try:
        table = pq.read_table(path, read_dictionary=list(dictionary) or None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}.") from error
    metadata = table.schema.metadata or {}
    if b"labelsieve" not in metadata:
        raise DataError(f"{path}: not a file of ours: its metadata have no 'labelsieve' entry.")
    about: dict[str, Any] = json.loads(metadata[b"labelsieve"])
    return table, about
