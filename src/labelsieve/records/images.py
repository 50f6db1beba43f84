"""ImageSet: what images there are, where their bytes lie, what is said of them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.errors import DataError
from labelsieve.files import atomic
from labelsieve.records.tables import read_table


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
