"""A table again, batch by batch, with its tags cleaned."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.data.labels import declared_names
from labelsieve.data.tags.batches import Table, table_of
from labelsieve.data.tags.columns import CONFIDENCE, SOURCE, column_named, holds_bytes, is_text
from labelsieve.data.tags.gather import Rows, codes
from labelsieve.data.tags.lists import blank_to_null
from labelsieve.data.tags.long import HUMAN
from labelsieve.data.tags.multi_hot import signs_of
from labelsieve.records.tag_set import TagSet


def rewrite_table(
    tag_set: TagSet, kept: csr_array, files: Sequence[Path], out: Sequence[Path]
) -> tuple[str, ...]:
    """Write each file again with cleaned tags.

    Args:
        tag_set: as it was read from the files.
        kept: (N, C) pairs to keep or add; columns rising in a row.
        files: the source's.
        out: where each goes.

    Returns:
        sentences on what the form cannot hold.
    """
    again = _Again(tag_set, kept)
    for file, target in zip(files, out, strict=True):
        table = table_of(file)
        family = tag_set.form.family
        batches = {
            "lists": again.lists, "multi-hot": again.multi_hot,
            "long": again.long, "open-images": again.long,
        }[family](table)  # fmt: skip
        _write(batches, target, table)
    return again.notes(files[0])


def _write(batches: Iterator[pa.RecordBatch], target: Path, table: Table) -> None:
    if table.kind == "csv":
        with open(target, "wb") as file:
            for number, batch in enumerate(batches):
                if not number:
                    header = io.StringIO()
                    rows = csv.writer(header, delimiter=table.delimiter, lineterminator="\n")
                    rows.writerow(batch.schema.names)
                    file.write(header.getvalue().encode())
                _write_csv_rows(batch, file, table.delimiter)
        return
    writer: pq.ParquetWriter | None = None
    try:
        for batch in batches:
            if writer is None:
                writer = pq.ParquetWriter(target, batch.schema)
            writer.write_batch(batch)
    finally:
        if writer is not None:
            writer.close()


def _write_csv_rows(batch: pa.RecordBatch, file: IO[bytes], delimiter: str) -> None:
    """Rows without quotes where no text needs them: pyarrow quotes either all texts or none."""
    special = f'[{re.escape(delimiter)}"\\r\\n]|^$'  # "" is not the same as nothing
    needed = any(
        pc.any(pc.match_substring_regex(column, special)).as_py()
        for column in batch.columns
        if is_text(column.type)
    )
    style = "needed" if needed else "none"
    options = pa_csv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style=style)
    pa_csv.write_csv(batch, file, options)


class _Again:
    """The batches of a table with cleaned tags."""

    def __init__(self, tag_set: TagSet, kept: csr_array) -> None:
        self._set, self._kept, self._form = tag_set, kept, tag_set.form
        self._row = {name: row for row, name in enumerate(tag_set.ids)}
        self._column = {name: c for c, name in enumerate(tag_set.tag_names)}
        self._renamed = dict(tag_set.form.renamed)
        self._first = 0  # row of the next batch, of images that come as bytes
        self._unwritten = 0

    def notes(self, where: Path) -> tuple[str, ...]:
        """What could not be written."""
        if not self._unwritten:
            return ()
        return (f"{self._unwritten:,} pairs are of tags that {where.name} has no place for.",)

    def lists(self, table: Table) -> Iterator[pa.RecordBatch]:
        """The column of lists is replaced."""
        name = self._form.tags[0]
        kind = table.schema.field(name).type
        declared = declared_names(table.schema, name) or ()
        for batch, rows in self._batches(table):
            lists = self._tag_lists(rows)
            column = self._like(lists, kind, declared)
            was_blank = pc.and_(batch.column(name).is_null(), pc.equal(_lengths(lists), 0))
            column = pc.if_else(was_blank, pa.scalar(None, column.type), column)
            yield _with(batch, name, column)

    def multi_hot(self, table: Table) -> Iterator[pa.RecordBatch]:
        """Each column of a tag gets a 1 where the tag is kept."""
        prefix = self._form.separator
        tags = [name.removeprefix(prefix) for name in self._form.tags]
        places = [self._column[self._renamed.get(tag, tag)] for tag in tags]
        elsewhere = np.setdiff1d(np.arange(self._set.n_tags), places)
        self._unwritten += int(np.isin(self._kept.indices, elsewhere).sum())
        for batch, rows in self._batches(table):
            dense = (self._kept[rows] != 0).toarray()  # (B, C), of one batch
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for name, place in zip(self._form.tags, places, strict=True):
                signs = signs_of(columns[name], name, table)
                columns[name] = _cells(columns[name], signs, dense[:, place])
            yield pa.record_batch(list(columns.values()), schema=batch.schema)

    def long(self, table: Table) -> Iterator[pa.RecordBatch]:
        """Rows of pairs that go are left out; pairs that come get rows of their own at the end."""
        keys = _keys(self._kept)
        written = np.zeros(len(keys), np.bool_)
        here = np.zeros(len(self._set), np.bool_)
        source, machine = column_named(table, SOURCE), False
        tag, schema = self._form.tags[0], None
        for batch, rows in self._batches(table):
            texts = blank_to_null(batch.column(tag))
            columns = codes(self._column, self._final(texts), known_only=True)
            wanted = rows.astype(np.int64) * self._set.n_tags + columns
            at = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
            stays = (columns >= 0) & (keys[at] == wanted if len(keys) else False)
            human = self._human(batch, source)
            written[at[stays & ~human]] = True
            here[rows[~human & (rows >= 0)]] = True
            machine |= bool((~human).any())
            if self._form.family != "open-images":  # codes stay codes
                batch = _with(batch, tag, self._final(texts).cast(batch.column(tag).type))
            schema = batch.schema
            yield batch.filter(pa.array(stays | human | (columns < 0)))
        if schema is not None and machine:
            yield from self._added(table, schema, ~written & here[_rows(self._kept)])

    def _human(self, batch: pa.RecordBatch, source: str | None) -> NDArray[np.bool_]:
        if source is None:
            return np.zeros(len(batch), np.bool_)
        said_by = pc.utf8_lower(blank_to_null(batch.column(source)))
        if self._form.family == "open-images":
            return pc.invert(pc.is_in(said_by, pa.array(["machine"]))).to_numpy(False)  # type: ignore[no-any-return]
        return pc.is_in(said_by, pa.array(HUMAN)).to_numpy(False)  # type: ignore[no-any-return]

    def _added(
        self, table: Table, schema: pa.Schema, which: NDArray[np.bool_]
    ) -> Iterator[pa.RecordBatch]:
        if not which.any():
            return
        code = {name: raw for raw, name in reversed(self._form.renamed)}
        rows, columns = _rows(self._kept)[which], self._kept.indices[which]
        names = [self._set.tag_names[c] for c in columns.tolist()]
        if self._form.family == "open-images":
            names = [code.get(name, name) for name in names]
        filled: dict[str, Any] = {
            self._form.image: [self._set.ids[row] for row in rows.tolist()],
            self._form.tags[0]: names,
        }
        confidence, source = column_named(table, CONFIDENCE), column_named(table, SOURCE)
        if confidence is not None:
            filled[confidence] = [f"{value:.6g}" for value in self._kept.data[which].tolist()]
        if source is not None:
            machine = self._form.family == "open-images"
            filled[source] = ["machine" if machine else "cleaned"] * len(rows)
        yield pa.record_batch(
            [
                pa.array(filled[field.name], pa.string()).cast(field.type)
                if field.name in filled
                else pa.nulls(len(rows), field.type)
                for field in schema
            ],
            schema=schema,
        )

    def _batches(self, table: Table) -> Iterator[tuple[pa.RecordBatch, Rows]]:
        """All columns of each batch and the images of its rows; ids in place of bytes."""
        image = self._form.image
        as_bytes = holds_bytes(table.schema.field(image).type)
        names = [name for name in table.columns if not (as_bytes and name == image)]
        for batch in table.batches(names):
            if as_bytes:
                rows = np.arange(self._first, self._first + len(batch), dtype=np.int32)
                self._first += len(batch)
                ids = pa.array([self._set.ids[row] for row in rows.tolist()], pa.string())
                schema = batch.schema.insert(0, pa.field(image, pa.string()))
                batch = pa.record_batch([ids, *batch.columns], schema=schema)
            else:
                texts = blank_to_null(batch.column(image))
                rows = codes(self._row, texts, known_only=True)
                batch = batch.filter(pa.array(rows >= 0))
                rows = rows[rows >= 0]
            yield batch, rows

    def _final(self, texts: pa.Array) -> pa.Array:
        """Spellings as tags."""
        coded = texts.dictionary_encode()
        names = [self._renamed.get(text, text) for text in coded.dictionary.to_pylist()]
        return pa.array(names, pa.string()).take(coded.indices)

    def _tag_lists(self, rows: Rows) -> pa.ListArray:
        some = self._kept[rows]
        names = pa.array(self._set.tag_names, pa.string()).take(pa.array(some.indices))
        return pa.ListArray.from_arrays(some.indptr.astype(np.int32), names)

    def _like(self, lists: pa.ListArray, kind: pa.DataType, declared: Sequence[str]) -> pa.Array:
        """Lists of names as the source writes them: texts, lists of names or of numbers."""
        separator = self._form.separator
        if separator == "json":
            return pa.array([json.dumps(each, ensure_ascii=False) for each in lists.to_pylist()])
        if separator:
            names = lists.flatten()
            if separator == "|":
                names = pc.replace_substring_regex(names, r"([|\\])", r"\\\1")
            elif len(names):
                self._unwritten += pc.sum(pc.match_substring(names, separator)).as_py()
            joined = pc.binary_join(pa.ListArray.from_arrays(lists.offsets, names), separator)
            return joined.cast(pa.string() if pa.types.is_dictionary(kind) else kind)
        if is_text(kind) or not hasattr(kind, "value_type"):
            first = [each[0] if each else None for each in lists.to_pylist()]
            return pa.array(first, pa.string())
        if pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type):
            number = {name: place for place, name in enumerate(declared)}
            each = [
                [n for tag in tags if (n := self._number(tag, number)) is not None]
                for tags in lists.to_pylist()
            ]
            return pa.array(each, kind)
        return lists.cast(pa.list_(pa.string())).cast(kind)

    def _number(self, tag: str, declared: dict[str, int]) -> int | None:
        found = declared.get(tag) if declared else int(tag) if tag.lstrip("-").isdigit() else None
        self._unwritten += found is None
        return found


def _cells(column: pa.Array, signs: NDArray[np.int8], kept: NDArray[np.bool_]) -> pa.Array:
    """A tag's column: what is kept is 1; a 1 that goes becomes what the column says for "not"."""

    def as_there(sign: int) -> Any:
        at = np.flatnonzero(signs == sign)
        return column[int(at[0])].as_py() if len(at) else None

    no = as_there(0)
    no = as_there(-1) if no is None else no
    yes, text = as_there(1), is_text(column.type)
    if no is None:
        no = "0" if text else pa.scalar(0).cast(column.type).as_py()
    if yes is None:
        word = {"false": "true", "False": "True", "FALSE": "TRUE"}.get(str(no), "1")
        yes = word if text else pa.scalar(1).cast(column.type).as_py()
    kind = pa.string() if text else column.type
    goes = pc.if_else((signs == 1) & ~kept, pa.scalar(no, kind), column.cast(kind))
    return pc.if_else((signs != 1) & kept, pa.scalar(yes, kind), goes).cast(column.type)


def _with(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    place = batch.schema.names.index(name)
    schema = batch.schema.set(place, pa.field(name, column.type))  # keeps the metadata
    columns = [column if each == name else batch.column(each) for each in batch.schema.names]
    return pa.record_batch(columns, schema=schema)


def _lengths(lists: pa.ListArray) -> pa.Array:
    return pc.list_value_length(lists)


def _keys(matrix: csr_array) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = _rows(matrix).astype(np.int64) * matrix.shape[1] + matrix.indices
    return keys


def _rows(matrix: csr_array) -> Rows:
    return np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
