"""The record of tags: what a noisy source said of each image, and what people found of it.

Axis letters: N images, C tags, P asserted pairs of an image and a tag.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.errors import DataError
from labelsieve.files import atomic
from labelsieve.records import ImageSet
from labelsieve.records.tables import read_table

Family = Literal[
    "lists",  # a row an image, with a column of its tags
    "multi-hot",  # a row an image, with a column a tag
    "long",  # a row a pair
    "open-images",  # labels files of Open Images V1 to V7
    "coco",  # instances of COCO
    "voc",  # CLASS_SPLIT.txt of Pascal VOC
    "nus-wide",  # Labels_CLASS.txt of NUS-WIDE, a line an image
    "per-class",  # CLASS.txt with the images that have it, as MIRFLICKR's
    "tag-lines",  # a line an image: its name, then its tags, as NUS-WIDE's All_Tags.txt
    "sidecar",  # NAME.txt beside NAME.jpg
    "image-set",  # an ImageSet that was read elsewhere: written as lists
]


@dataclass(frozen=True)
class Form:
    """How a source writes its tags, as far as is needed to write cleaned ones in the same way."""

    family: Family
    files: tuple[str, ...] = ()  # absolute paths that hold the assertions
    image: str = ""  # the column of the images' names
    tags: tuple[str, ...] = ()  # the columns that hold tags
    separator: str = ""  # between tags in a text; "json" for JSON lists; "" for a list column
    renamed: tuple[tuple[str, str], ...] = ()  # (as in the source, tag name) where they differ

    @classmethod
    def from_dict(cls, about: dict[str, Any]) -> Form:
        """The form that `asdict` and JSON made lists of."""
        renamed = tuple((old, new) for old, new in about["renamed"])
        texts = {name: tuple(about[name]) for name in ("files", "tags")}
        return cls(**{**about, **texts, "renamed": renamed})


@dataclass(frozen=True, repr=False)
class TagSet:
    """Asserted and verified tags of images, both sparse; a dense (N, C) is never made.

    A pair is asserted where the source says it, and verified where people have looked: present or
    absent. A pair that is neither asserted nor verified is unknown, not absent.
    """

    ids: tuple[str, ...]  # (N,) unique
    tag_names: tuple[str, ...]  # (C,) unique
    # Matrices are brought into `compact` form: columns int32 and rising in a row.
    asserted: csr_array  # (N, C) float32 confidences in (0, 1]
    verified: csr_array  # (N, C) int8: +1 present, -1 absent; what is not stored is not verified
    images: ImageSet | None = None  # where the bytes are; None where the source names no files
    source: str = ""  # as the user named it, for messages
    form: Form = Form("image-set")
    understood: tuple[str, ...] = ()  # sentences: what was read, what was dropped, and why
    truth: csr_array | None = None  # (N, C) int8 1 = the tag is right; for scores only

    def __post_init__(self) -> None:
        object.__setattr__(self, "asserted", compact(self.asserted, np.float32))
        object.__setattr__(self, "verified", compact(self.verified, np.int8))
        if self.truth is not None:
            object.__setattr__(self, "truth", compact(self.truth, np.int8))
        self._check_shapes()
        _check_names(self.source, "images", self.ids)
        _check_names(self.source, "tags", self.tag_names)
        for name, matrix in self._matrices().items():
            if not matrix.has_canonical_format:
                raise DataError(f"{self.source}: {name} tags hold a pair more than once.")
        data = self.asserted.data
        if len(data) and not 0 < data.min() <= data.max() <= 1:  # also refuses NaN
            raise DataError(
                f"{self.source}: confidences from {data.min():g} to {data.max():g}; expected "
                "more than 0, at most 1. A pair without confidence is left out."
            )
        if len(self.verified.data) and not (np.abs(self.verified.data) == 1).all():
            raise DataError(f"{self.source}: verified tags other than +1, present, and -1, absent.")

    def _matrices(self) -> dict[str, csr_array]:
        matrices = {"asserted": self.asserted, "verified": self.verified}
        return matrices if self.truth is None else matrices | {"true": self.truth}

    def _check_shapes(self) -> None:
        shape = (len(self.ids), len(self.tag_names))
        found = {name: matrix.shape for name, matrix in self._matrices().items()}
        if any(each != shape for each in found.values()):
            raise DataError(
                f"{self.source}: {shape[0]} images and {shape[1]} tags, but matrices of {found}."
            )
        if self.images is not None and self.images.ids != self.ids:
            raise DataError(
                f"{self.source}: the images that go along have other ids than the tags, or another "
                "order of them."
            )

    def __repr__(self) -> str:
        return (
            f"TagSet({self.source!r}, {len(self):,} images, {self.n_tags:,} tags, "
            f"{self.asserted.nnz:,} asserted, {self.verified.nnz:,} verified)"
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_tags(self) -> int:
        """C."""
        return len(self.tag_names)

    @cached_property
    def is_verified_row(self) -> NDArray[np.bool_]:
        """(N,) the images of which any tag is verified."""
        verified: NDArray[np.bool_] = np.diff(self.verified.indptr) > 0
        return verified

    @cached_property
    def never_verified(self) -> NDArray[np.bool_]:
        """(C,) the tags that nobody has looked at on any image."""
        never: NDArray[np.bool_] = np.bincount(self.verified.indices, minlength=self.n_tags) == 0
        return never

    def asserted_pairs(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(P,) rows and (P,) columns of what the source says, in the order of `asserted.data`."""
        return _rows(self.asserted), self.asserted.indices

    def verified_pairs(
        self,
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
        """(V,) rows, (V,) columns and whether the tag is present, of all verified pairs."""
        return _rows(self.verified), self.verified.indices, self.verified.data > 0

    def verified_of_asserted(self) -> NDArray[np.int8]:
        """(P,) +1 present, -1 absent, 0 not verified, in the order of `asserted.data`."""
        return values_at(self.verified, self.asserted)

    def take(self, rows: NDArray[np.int64]) -> TagSet:
        """Some of the images, in the order of `rows`; all tags stay."""
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows.tolist()),
            asserted=self.asserted[rows],
            verified=self.verified[rows],
            images=None if self.images is None else self.images.take(rows),
            truth=None if self.truth is None else self.truth[rows],
        )

    def fingerprint(self) -> str:
        """A hash of what is said of which images; where their bytes are is not part of it."""
        digest = hashlib.blake2b(repr(self.tag_names).encode(), digest_size=16)
        digest.update("\0".join(self.ids).encode("utf-8", "surrogateescape"))
        for name, matrix in self._matrices().items():
            digest.update(name.encode())
            for array, kind in ((matrix.indptr, np.int64), (matrix.indices, np.int32)):
                digest.update(np.ascontiguousarray(array, kind).tobytes())
            digest.update(np.ascontiguousarray(matrix.data).tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write a Parquet table, one row an image, and beside it that of the images, if any."""
        if self.images is not None:  # first: where the tags are, the images are too
            self.images.save(_images_beside(path))
        columns = {"image": pa.array(self.ids, pa.string())}
        for name, matrix in self._matrices().items():
            columns[name] = _lists(matrix, matrix.indices)
            if name != "true":
                columns[f"{name}_values"] = _lists(matrix, matrix.data)
        about = {
            "source": self.source,
            "tag_names": self.tag_names,
            "form": asdict(self.form),
            "understood": self.understood,
            "images": self.images is not None,
        }
        table = pa.table(columns).replace_schema_metadata({"labelsieve": json.dumps(about)})
        with atomic(path) as partial:
            pq.write_table(table, partial)

    @classmethod
    def load(cls, path: Path) -> TagSet:
        """Read what `save` wrote.

        Raises:
            DataError: it is no file that `save` wrote.
        """
        table, about = read_table(path)
        if "asserted" not in table.column_names:
            raise DataError(f"{path}: a table of ours, but not of tags. Name one that has them.")
        shape = (len(table), len(about["tag_names"]))
        return cls(
            ids=tuple(table.column("image").to_pylist()),
            tag_names=tuple(about["tag_names"]),
            asserted=_matrix(table, "asserted", shape),
            verified=_matrix(table, "verified", shape),
            images=ImageSet.load(_images_beside(path)) if about["images"] else None,
            source=about["source"],
            form=Form.from_dict(about["form"]),
            understood=tuple(about["understood"]),
            truth=_matrix(table, "true", shape) if "true" in table.column_names else None,
        )

    @classmethod
    def of_images(cls, images: ImageSet) -> TagSet:
        """The tags of images that `read` read, or their labels as one tag each; none verified.

        Raises:
            DataError: the images have neither.
        """
        n, n_tags = len(images), len(images.class_names)
        if images.tags is not None:
            asserted = csr_array(images.tags, dtype=np.float32)
        elif images.labels is not None:
            rows = np.flatnonzero(images.labels >= 0)
            ones = np.ones(len(rows), np.float32)
            asserted = csr_array((ones, (rows, images.labels[rows])), shape=(n, n_tags))
        else:
            raise DataError(
                f"{images.source}: images without tags or labels. Name a table that has them."
            )
        return cls(
            ids=images.ids,
            tag_names=images.class_names,
            asserted=asserted,
            verified=empty(n, n_tags),
            images=images,
            source=images.source,
            understood=(f"{n:,} images with {asserted.nnz:,} tags of {n_tags:,} kinds.",),
        )


def empty(n: int, n_tags: int) -> csr_array:
    """(N, C) int8 of nothing: no pair is verified."""
    return csr_array((n, n_tags), dtype=np.int8)


def compact(matrix: csr_array, kind: type[np.generic]) -> csr_array:
    """A matrix of a type, with columns rising in a row, and int32 columns wherever they suffice.

    Pointers are int32 too below 2^31 pairs: SciPy wants both of one type. What is so already is
    shared, not copied.
    """
    index = np.int32 if max(matrix.nnz, *matrix.shape) < 2**31 else np.int64
    columns = matrix.indices.astype(index, copy=False)
    pointers = matrix.indptr.astype(index, copy=False)
    values = matrix.data.astype(kind, copy=False)
    made = csr_array((values, columns, pointers), shape=matrix.shape)
    return made if made.has_sorted_indices else made.sorted_indices()


def values_at(matrix: csr_array, pairs: csr_array) -> NDArray[Any]:
    """What a matrix holds at the pairs that another one stores, 0 where it holds nothing.

    Only rows that `matrix` has anything in are looked at, so that a few verified images cost
    nothing among millions.

    Args:
        matrix: (N, C), columns rising in a row.
        pairs: (N, C), columns rising in a row; of P pairs.

    Returns:
        (P,) of the type of `matrix`, in the order of `pairs.data`.
    """
    found = np.zeros(pairs.nnz, matrix.dtype)
    rows = np.flatnonzero(np.diff(matrix.indptr))
    counts = np.diff(pairs.indptr)[rows].astype(np.int64)
    if not counts.sum():
        return found
    starts = pairs.indptr[rows] - (np.cumsum(counts) - counts)
    places = np.arange(counts.sum()) + np.repeat(starts, counts)
    width = np.int64(matrix.shape[1])
    wanted = np.repeat(rows, counts) * width + pairs.indices[places]
    known = _rows(matrix).astype(np.int64) * width + matrix.indices
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    found[places] = np.where(known[at] == wanted, matrix.data[at], 0)
    return found


def _rows(matrix: csr_array) -> NDArray[np.int32]:
    return np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))


def _check_names(source: str, what: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice, n = Counter(names).most_common(1)[0]
        raise DataError(f"{source}: among the {what}, {twice!r} is there {n} times. Expected once.")


def _images_beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.images.parquet")


def _lists(matrix: csr_array, values: NDArray[Any]) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(matrix.indptr.astype(np.int64), pa.array(values))


def _matrix(table: pa.Table, name: str, shape: tuple[int, int]) -> csr_array:
    columns = _one(table, name)
    if name == "true":
        values = np.ones(len(columns.values), np.int8)
    else:
        values = _one(table, f"{name}_values").values.to_numpy()
    pointers = columns.offsets.to_numpy()
    if len(columns.values) < 2**31:  # else SciPy makes the columns int64 as well
        pointers = pointers.astype(np.int32)
    parts = (values, columns.values.to_numpy(), pointers)
    return csr_array(parts, shape=shape)


def _one(table: pa.Table, name: str) -> pa.LargeListArray:
    """A column of lists in one piece that begins at its first value."""
    column = table.column(name)
    return pa.concat_arrays(column.chunks) if column.num_chunks > 1 else column.chunk(0)
