"""What is found of tags: one row a pair of an image and a tag, and what stays of each image.

Columns are arrays, and tables are made and written a million pairs at a time: 79 million pairs take
1.5 GB here, 19 bytes each, and 0.2 GB more while they are written.

Axis letters: N images, C tags, P asserted pairs, R rows of the record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.errors import DataError
from labelsieve.records.choices import to_pandas
from labelsieve.records.tables import read_table
from labelsieve.records.tag_set import TagSet
from labelsieve.records.tag_tables import (
    IMAGE_SCHEMA,
    PAIR_SCHEMA,
    image_runs,
    places_of,
    write_batches,
    write_parquet_batches,
)
from labelsieve.records.tag_verdicts import (
    KEEP_FROM,
    REVIEW,
    Pairs,
    TagVerdict,
    merge_pairs,
    not_given,
    tag_verdicts,
)

__all__ = ["IMAGE_SCHEMA", "PAIR_SCHEMA", "Pairs", "TagVerdict", "Tagged"]

BATCH = 1 << 20  # pairs in a piece of a table
_COLUMNS = ("rows", "columns", "given", "confidence", "verified", "probability", "verdict")


@dataclass(frozen=True, repr=False)
class Tagged:
    """What is found of each tag of each image. Columns as in docs/formats.md.

    Example:
        >>> from labelsieve.records.tag_set import empty
        >>> given = TagSet(("a", "b"), ("cat", "dog"), csr_array([[1.0, 1.0], [0.0, 1.0]]),
        ...                empty(2, 2))
        >>> found = Tagged.of_probabilities(given, np.array([0.9, 0.1, 0.6], np.float32))
        >>> [TagVerdict(v).name for v in found.verdict]
        ['KEPT', 'REMOVED', 'REVIEW']
        >>> found.images_to_arrow().column("clean_labels").to_pylist()
        [['cat'], ['dog']]
    """

    ids: tuple[str, ...]  # (N,) of all images, also of those without a tag
    tag_names: tuple[str, ...]  # (C,)
    rows: NDArray[np.int32]  # (R,) image of each pair, rising
    columns: NDArray[np.int32]  # (R,) its tag, rising within an image
    given: NDArray[np.bool_]  # (R,) the source asserts it
    confidence: NDArray[np.float32]  # (R,) of the source, in (0, 1]; NaN where it is not given
    verified: NDArray[np.int8]  # (R,) +1 people say present, -1 absent, 0 nobody looked
    probability: NDArray[np.float32]  # (R,) that the tag is right, in [0, 1]; NaN is unknown
    verdict: NDArray[np.int8]  # (R,) a TagVerdict
    thresholds: NDArray[np.float32]  # (C,) from which a pair stays; 0 keeps all, inf keeps none
    warnings: tuple[str, ...] = ()  # when and why the result should not be trusted

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in _COLUMNS}
        if any(length != len(self.rows) for length in lengths.values()):
            raise DataError(
                f"Tagged of {len(self.rows)} pairs with columns of other lengths: {lengths}."
            )
        if len(self.thresholds) != len(self.tag_names):
            raise DataError(
                f"{len(self.thresholds)} thresholds for {len(self.tag_names)} tags; expected one "
                "for each tag."
            )
        self._check_order()
        known = self.probability[~np.isnan(self.probability)]
        if len(known) and not 0 <= known.min() <= known.max() <= 1:
            raise DataError(
                f"probabilities of tags from {known.min():g} to {known.max():g}; expected them in "
                "[0, 1]."
            )
        if len(self.verdict) and not 0 <= self.verdict.min() <= self.verdict.max() <= max(
            TagVerdict
        ):
            raise DataError(
                f"verdicts of tags run from {self.verdict.min()} to {self.verdict.max()}; expected "
                "a TagVerdict each."
            )
        if ((self.verdict == TagVerdict.ADDED) == self.given).any():
            raise DataError("a pair is added where the source does not assert it, and only there.")

    def _check_order(self) -> None:
        for name, values, end in (
            ("images", self.rows, len(self.ids)), ("tags", self.columns, len(self.tag_names)),
        ):  # fmt: skip
            if len(values) and not 0 <= values.min() <= values.max() < end:
                raise DataError(
                    f"pairs of {name} from {values.min()} to {values.max()}, of {end} {name}."
                )
        later = self.rows[1:] > self.rows[:-1]
        later |= (self.rows[1:] == self.rows[:-1]) & (self.columns[1:] > self.columns[:-1])
        if not later.all():
            raise DataError(
                "pairs are not sorted by image, then tag, or are there more than once. Sort them."
            )

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(v):,} {v.name.lower()}" for v in TagVerdict)
        return f"Tagged({len(self.ids):,} images, {len(self.tag_names):,} tags: {counts})"

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of_probabilities(
        cls,
        tag_set: TagSet,
        keep: NDArray[np.floating[Any]],
        thresholds: NDArray[np.floating[Any]] | None = None,
        *,
        review: tuple[float, float] = REVIEW,
        added: Pairs | None = None,
        warnings: Sequence[str] = (),
    ) -> Tagged:
        """What is found, from the probability that each asserted pair is right.

        What people verified is never changed: present stays or is added, absent goes. Of other
        pairs a threshold of 0 keeps all. Else a pair of the review band, which is stretched so that
        it holds the threshold, is for review; one above stays, one below goes. A pair without a
        probability, of an image that cannot be read, is for review. What people found absent and
        nobody asserted is not listed.

        Args:
            tag_set: P asserted pairs.
            keep: (P,) in [0, 1], in the order of `asserted.data`.
            thresholds: (C,) from which a pair stays; 0.5 of every tag by default. A tag that was
                never verified should have 0.
            review: the band, from and below.
            added: pairs that nobody asserted, to be added; those that people verified or the source
                asserts are left out. What people found present is added anyway.
            warnings: when and why the result should not be trusted.

        Raises:
            DataError: not one probability a pair.
        """
        given = tag_set.asserted
        if len(keep) != given.nnz:
            raise DataError(
                f"{len(keep)} probabilities for {given.nnz} asserted tags of images; expected one "
                "for each."
            )
        bounds = np.full(tag_set.n_tags, KEEP_FROM) if thresholds is None else thresholds
        bounds = np.asarray(bounds, np.float32)
        rows, columns = tag_set.asserted_pairs()
        probability = np.asarray(keep, np.float32)
        verified = tag_set.verified_of_asserted()
        verdict = tag_verdicts(probability, columns, verified, bounds, review)
        said = np.ones(len(rows), bool)
        found = [rows, columns, said, given.data, verified, probability, verdict]
        extra = not_given(tag_set, added)
        if len(extra[0]):
            found = merge_pairs(found, extra, tag_set.n_tags)
        named: dict[str, Any] = dict(zip(_COLUMNS, found, strict=True))
        return cls(
            tag_set.ids, tag_set.tag_names, **named, thresholds=bounds, warnings=tuple(warnings)
        )

    def count(self, verdict: TagVerdict) -> int:
        """How many pairs got this verdict."""
        return int(np.count_nonzero(self.verdict == verdict))

    def counts(self) -> NDArray[np.int64]:
        """(C, 4) pairs of each tag by verdict, in the order of `TagVerdict`."""
        size = len(TagVerdict)
        found = np.zeros(len(self.tag_names) * size, np.int64)
        for start in range(0, len(self), BATCH):
            piece = slice(start, start + BATCH)
            cells = self.columns[piece].astype(np.int64) * size + self.verdict[piece]
            found += np.bincount(cells, minlength=len(found))
        return found.reshape(-1, size)

    @property
    def stays(self) -> NDArray[np.bool_]:
        """(R,) the pairs that are clean tags: kept, added, or for review and above the threshold.

        For review without a probability stays as it is given; verified pairs are never for review.
        """
        found = np.empty(len(self), bool)
        for start in range(0, len(self), BATCH):
            piece = slice(start, start + BATCH)
            verdict, bars = self.verdict[piece], self.thresholds[self.columns[piece]]
            review = (verdict == TagVerdict.REVIEW) & ~(
                self.probability[piece] < bars
            )  # NaN is not
            found[piece] = review | (verdict == TagVerdict.KEPT) | (verdict == TagVerdict.ADDED)
        return found

    def cleaned(self) -> csr_array:
        """(N, C) float32 of the clean tags: the source's confidence; of added, the probability."""
        stays = self.stays
        rows, values = self.rows[stays], self.confidence[stays]
        pointers = np.zeros(len(self.ids) + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=len(self.ids)), out=pointers[1:])
        if len(rows) < 2**31:  # SciPy wants pointers and columns of one type
            pointers = pointers.astype(np.int32)
        likely = np.maximum(self.probability[stays], np.float32(1e-6))  # a 0 would not be stored
        filled = np.where(np.isnan(values), likely, values)
        shape = (len(self.ids), len(self.tag_names))
        return csr_array((filled, self.columns[stays], pointers), shape=shape)

    def to_arrow(self) -> pa.Table:
        """The contracted columns, one row a pair; `verified` is null where nobody looked."""
        return pa.Table.from_batches(self.pair_batches(), PAIR_SCHEMA)

    def images_to_arrow(self) -> pa.Table:
        """The contracted columns, one row an image: its given and its clean tags."""
        return pa.Table.from_batches(self.image_batches(), IMAGE_SCHEMA)

    def pair_batches(self, size: int = BATCH) -> Iterator[pa.RecordBatch]:
        """`to_arrow`, so many pairs at a time."""
        tags = pa.array(self.tag_names, pa.string())
        words = pa.array([verdict.name.lower() for verdict in TagVerdict])
        for start in range(0, len(self), size):
            piece = slice(start, start + size)
            rows, verified = self.rows[piece], self.verified[piece]
            first = int(rows[0])  # rows rise: only the names of this piece are made texts
            names = pa.array(self.ids[first : int(rows[-1]) + 1], pa.string())
            columns = (
                names.take(pa.array(rows - first)),
                tags.take(pa.array(self.columns[piece])),
                pa.array(self.given[piece]),
                pa.array(verified > 0, mask=verified == 0),
                pa.array(self.probability[piece], mask=np.isnan(self.probability[piece])),
                words.take(pa.array(self.verdict[piece])),
            )
            yield pa.RecordBatch.from_arrays(list(columns), schema=PAIR_SCHEMA)

    def image_batches(self, size: int = BATCH // 8) -> Iterator[pa.RecordBatch]:
        """`images_to_arrow`, so many images at a time."""
        tags, stays = pa.array(self.tag_names, pa.string()), self.stays
        for start in range(0, len(self.ids), size):
            names = self.ids[start : start + size]
            ends = np.searchsorted(self.rows, [start, start + len(names)])
            piece = slice(*ends.tolist())
            rows, columns = self.rows[piece] - start, self.columns[piece]
            lists = []
            for chosen in (self.given[piece], stays[piece]):
                counts = np.bincount(rows[chosen], minlength=len(names))
                offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
                items = tags.take(pa.array(columns[chosen]))
                lists.append(pa.ListArray.from_arrays(pa.array(offsets), items))
            yield pa.RecordBatch.from_arrays(
                [pa.array(names, pa.string()), *lists], schema=IMAGE_SCHEMA
            )

    def to_pandas(self) -> Any:
        """A pandas DataFrame of the pairs."""
        return to_pandas(self)

    def write(self, path: str | Path) -> None:
        """Write the pairs as .csv or .parquet, by the name of the file.

        Raises:
            DataError: another suffix.
            RunError: the file cannot be written.
        """
        if Path(path).suffix.lower() == ".parquet":
            self.save(Path(path))
        else:
            write_batches(self.pair_batches(), PAIR_SCHEMA, Path(path))

    def write_images(self, path: str | Path) -> None:
        """Write one row an image, its given and clean tags, as .csv or .parquet.

        Raises:
            DataError: another suffix.
            RunError: the file cannot be written.
        """
        write_batches(self.image_batches(), IMAGE_SCHEMA, Path(path))

    def save(self, path: Path) -> None:
        """Write the contracted Parquet file of pairs, with the source's confidence beside.

        The names of tags, thresholds, warnings and the images that have no pair travel in its
        metadata.
        """
        bare = np.setdiff1d(np.arange(len(self.ids)), self.rows)
        about = {
            "tag_names": self.tag_names,
            "thresholds": [float(t) if np.isfinite(t) else None for t in self.thresholds],
            "n_images": len(self.ids),
            "without_pair": [[row, self.ids[row]] for row in bare.tolist()],
            "warnings": self.warnings,
        }
        schema = PAIR_SCHEMA.append(pa.field("confidence", pa.float32()))

        def batches() -> Iterator[pa.RecordBatch]:
            start = 0
            for batch in self.pair_batches():
                values = self.confidence[start : start + len(batch)]
                start += len(batch)
                column = pa.array(values, mask=np.isnan(values))
                yield pa.RecordBatch.from_arrays([*batch.columns, column], schema=schema)

        metadata = {"labelsieve": json.dumps(about)}
        write_parquet_batches(batches(), schema.with_metadata(metadata), path)

    @classmethod
    def load(cls, path: str | Path) -> Tagged:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, or one of something else.
        """
        table, about = read_table(Path(path), dictionary=("image", "tag", "verdict"))
        if "without_pair" not in about or "tag_names" not in about:
            raise DataError(f"{path}: a file of ours, but not of what was found of tags.")
        rows, ids = image_runs(table.column("image"), about["n_images"], about["without_pair"])
        words = [verdict.name.lower() for verdict in TagVerdict]
        thresholds = [np.inf if t is None else t for t in about["thresholds"]]
        twice = pc.multiply(table.column("verified").cast(pa.int8()), pa.scalar(2, pa.int8()))
        verified = pc.fill_null(pc.subtract(twice, pa.scalar(1, pa.int8())), 0)
        return cls(
            ids=ids,
            tag_names=tuple(about["tag_names"]),
            rows=rows,
            columns=places_of(table.column("tag"), about["tag_names"]),
            given=table.column("given").to_numpy(),
            confidence=table.column("confidence").to_numpy(),
            verified=verified.to_numpy(),
            probability=table.column("probability").to_numpy(),
            verdict=places_of(table.column("verdict"), words).astype(np.int8),
            thresholds=np.array(thresholds, np.float32),
            warnings=tuple(about["warnings"]),
        )
