"""The encoded bytes of images: from files, spans of tars and rows of tables."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.records import Places

BLOCK_BYTES = 16 << 20  # of image bytes in a block of table rows; memory for the sake of speed
BLOCKS_KEPT = 6  # blocks in memory at a time; several threads read neighboring blocks


class Reader:
    r"""Give the bytes of any image, from any thread, with bounded memory.

    Whole files and spans of a tar are read from disk at each call. Rows of a Parquet file are read
    in blocks of about 16 MB, of which the last few are kept, so that asking in the order of
    `reading_order` reads a file once, even where it is one row group. Asking at random in
    a large row group reads it from its start each time: right, but slow.

    Example:
        >>> reader = Reader(images.places)  # doctest: +SKIP
        >>> reader.read(0)[:3]  # doctest: +SKIP
        b'\xff\xd8\xff'
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self._tables: dict[int, _ParquetColumn | _ArrowColumn] = {}
        self._lock = threading.Lock()

    def read(self, row: int) -> bytes:
        """The encoded bytes of one image.

        Raises:
            DataError: they cannot be had; the text is the reason, without the image's name.
        """
        places = self.places
        index = int(places.file[row])
        path, start = places.files[index], int(places.start[row])
        try:
            if places.kind == "file":
                return _read_file(path)
            if places.kind == "tar":
                return _read_span(path, start, int(places.size[row]))
            with self._lock:
                value = self._table(index).value(start)
        except OSError as error:
            raise DataError(_why(error, path)) from error
        except pa.ArrowException as error:
            raise DataError(f"{path} cannot be read at row {start}: {error}") from error
        return _bytes_of(value, path)

    def _table(self, index: int) -> _ParquetColumn | _ArrowColumn:
        if index not in self._tables:
            # One open table at a time is enough for reading in order, and bounds the open files.
            if len(self._tables) >= 4:
                self._tables.pop(next(iter(self._tables)))
            make = _ParquetColumn if self.places.kind == "parquet" else _ArrowColumn
            self._tables[index] = make(self.places.files[index], self.places.column)
        return self._tables[index]


def reading_order(places: Places) -> NDArray[np.int64]:
    """The rows in the order in which they lie on disk: by file, then by position."""
    return np.lexsort((places.start, places.file)).astype(np.int64)


class _ParquetColumn:
    """One column of a Parquet file, read forward in blocks."""

    def __init__(self, path: str, column: str) -> None:
        # Without these two, pyarrow holds a whole row group: 820 MB in place of 50 for one of 800.
        self._file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        self._column = column
        metadata = self._file.metadata
        rows = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        self._first = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._blocks: OrderedDict[tuple[int, int], pa.Array] = (
            OrderedDict()
        )  # by (group, first row)
        self._group = -1
        self._cursor: Iterator[pa.RecordBatch] = iter(())
        self._next = 0  # row of the group that the cursor gives next

    def value(self, row: int) -> Any:
        group = int(np.searchsorted(self._first, row, side="right")) - 1
        within = row - int(self._first[group])
        for (block_group, first), block in reversed(self._blocks.items()):
            if block_group == group and first <= within < first + len(block):
                return block[within - first].as_py()
        if group != self._group or within < self._next:
            self._restart(group)
        while self._next <= within:
            self._advance()
        (_, first), block = next(reversed(self._blocks.items()))
        return block[within - first].as_py()

    def _restart(self, group: int) -> None:
        about = self._file.metadata.row_group(group)
        columns = [about.column(c) for c in range(about.num_columns)]
        mine = [c for c in columns if c.path_in_schema.partition(".")[0] == self._column]
        row_bytes = max(1, sum(c.total_uncompressed_size for c in mine) // max(1, about.num_rows))
        self._cursor = self._file.iter_batches(
            batch_size=max(1, min(BLOCK_BYTES // row_bytes, 1 << 16)),
            row_groups=[group],
            columns=[self._column],
            use_threads=False,
        )
        self._group, self._next = group, 0

    def _advance(self) -> None:
        block = next(self._cursor).column(0)
        self._blocks[self._group, self._next] = block
        self._next += len(block)
        while len(self._blocks) > BLOCKS_KEPT:
            self._blocks.popitem(last=False)


class _ArrowColumn:
    """One column of an Arrow stream file, memory-mapped: any row costs the same."""

    def __init__(self, path: str, column: str) -> None:
        with pa.ipc.open_stream(pa.memory_map(path)) as stream:
            self._chunks = [batch.column(column) for batch in stream]
        ends = np.cumsum([len(chunk) for chunk in self._chunks])
        self._first = np.concatenate([[0], ends]).astype(np.int64)

    def value(self, row: int) -> Any:
        chunk = int(np.searchsorted(self._first, row, side="right")) - 1
        return self._chunks[chunk][row - int(self._first[chunk])].as_py()


def _bytes_of(value: Any, table: str) -> bytes:
    """Bytes, or Hugging Face's {bytes, path}, whose path is read where it has no bytes."""
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
        if value is None and path:
            beside = str(Path(table).parent / path)
            try:
                return _read_file(beside)
            except OSError as error:
                raise DataError(_why(error, beside)) from error
    if value is None:
        raise DataError("no bytes in the table")
    return bytes(value)


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _read_span(path: str, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(size)
    if len(data) < size:
        raise DataError(f"the tar ends after {len(data)} of its {size} bytes")
    return data


def _why(error: OSError, path: str) -> str:
    """Plain words for what the operating system said."""
    if error.errno == errno.ENOENT:
        if os.path.islink(path):
            return f"a link to {os.readlink(path)}, where there is no file"
        return f"no such file: {path}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied"
    if error.errno == errno.EISDIR:
        return "a folder, not a file"
    if error.errno == errno.ELOOP:
        return "a link that leads back to itself"
    return f"cannot be read: {error.strerror or error}"
