"""Tables of any kind as batches of some of their columns, in bounded memory."""

from __future__ import annotations

import codecs
import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from labelsieve.errors import DataError

_BLOCK = 8 << 20  # bytes of text parsed at once
_BATCH = 65_536  # rows of Parquet at once
_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Table:
    """One table, in one file or several of the same columns."""

    kind: Literal["csv", "parquet", "arrow"]
    files: tuple[Path, ...]
    schema: pa.Schema  # of CSV all columns are text
    delimiter: str = ","
    skipped: list[str] = field(default_factory=list)  # rows of CSV with too few or many values

    @property
    def columns(self) -> list[str]:
        """Their names."""
        return list(self.schema.names)

    def batches(
        self, columns: Sequence[str], kinds: Mapping[str, pa.DataType] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Some of the columns, a batch after the other.

        Args:
            columns: names; of structs also NAME.FIELD.
            kinds: other types than text for columns of CSV.

        Raises:
            DataError: a file cannot be read, or is not UTF-8.
        """
        self.skipped.clear()  # of an earlier pass
        for file in self.files:
            yield from self.batches_of(file, columns, kinds)

    def batches_of(
        self, file: Path, columns: Sequence[str], kinds: Mapping[str, pa.DataType] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The batches of one of the files."""
        try:
            if self.kind == "csv":
                with self._open_csv(file, columns, kinds or {}) as batches:
                    yield from batches
            elif self.kind == "parquet":
                with pq.ParquetFile(file) as parquet:
                    yield from parquet.iter_batches(_BATCH, columns=list(columns))
            else:
                with pa.ipc.open_stream(pa.memory_map(str(file))) as stream:
                    for batch in stream:
                        yield batch.select(list(columns))
        except (OSError, pa.ArrowException, UnicodeError) as error:
            raise unreadable(file, error) from error

    def _open_csv(
        self, file: Path, columns: Sequence[str], kinds: Mapping[str, pa.DataType]
    ) -> pa_csv.CSVStreamingReader:
        check_encoding(file)

        def skip(row: pa_csv.InvalidRow) -> str:
            self.skipped.append(row.text if row.text is not None else "")
            return "skip"

        text = {name: pa.string() for name in self.schema.names}
        return pa_csv.open_csv(
            file,
            # one thread: rows come in order, and memory stays that of a block
            read_options=pa_csv.ReadOptions(
                use_threads=False, block_size=_BLOCK, skip_rows=1, column_names=self.schema.names
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(columns),
                column_types=text | dict(kinds),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,  # "" is a list of nothing, blank is no list
                null_values=[""],
            ),
        )


def open_table(path: Path) -> Table | None:
    """A CSV, TSV or Parquet file, a folder of Parquet files, a saved data set; None if it is none.

    Raises:
        DataError: it cannot be read, or a column is there twice.
    """
    if path.is_dir():
        return _open_folder(path)
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return Table("parquet", (path,), _schema("parquet", path))
    if suffix in (".csv", ".tsv"):
        header, delimiter = read_header(path)
        return Table("csv", (path,), pa.schema([(n, pa.string()) for n in header]), delimiter)
    return None


def table_of(file: Path) -> Table:
    """One file of a table that was read before.

    Raises:
        DataError: it is there no more, or is no table.
    """
    if file.suffix.lower() == ".arrow":
        return Table("arrow", (file,), _schema("arrow", file))
    table = open_table(file) if file.is_file() else None
    if table is None:
        raise DataError(f"{file}: is there no more, or no table. Put the source back.")
    return table


def read_header(path: Path) -> tuple[list[str], str]:
    """The names of a CSV file's columns, and what stands between them.

    Raises:
        DataError: it cannot be read, is empty, or has a column twice.
    """
    check_encoding(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except (OSError, UnicodeError) as error:
        raise unreadable(path, error) from error
    if not line.strip():
        raise DataError(f"{path}: is empty. Expected a first line that names the columns.")
    counts = {each: line.count(each) for each in _DELIMITERS}
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(counts, key=lambda d: counts[d])
    names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise DataError(f"{path}: the column {twice[0]!r} is there twice. Rename one of them.")
    return names, delimiter


def check_encoding(path: Path) -> None:
    """Refuse UTF-16, which spreadsheets call "Unicode text"."""
    try:
        with open(path, "rb") as file:
            mark = file.read(2)
    except OSError as error:
        raise unreadable(path, error) from error
    if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise DataError(f"{path}: is UTF-16; expected UTF-8. Save it as UTF-8.")


def unreadable(path: Path, error: Exception) -> DataError:
    """What is wrong with a file; of text that is not UTF-8, in which line."""
    if isinstance(error, UnicodeError) or "utf8" in str(error).lower():
        return _not_utf8(path)
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DataError(f"{path}: cannot be read: {words}. Make it again, or name another file.")


def read_text(path: Path) -> str:
    """A small text file.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    check_encoding(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise unreadable(path, error) from error


def _not_utf8(path: Path) -> DataError:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                around = line[max(0, error.start - 12) : error.start + 12]
                guess = around.decode("cp1252", "replace").strip()
                return DataError(
                    f"{path}, line {number}: not UTF-8; as Windows-1252 it reads {guess!r}. "
                    "Save the file as UTF-8."
                )
    return DataError(f"{path}: not UTF-8. Save it as UTF-8.")


def _open_folder(path: Path) -> Table | None:
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        from labelsieve.data.read import arrow_files

        files = tuple(arrow_files(path))
        return Table("arrow", files, _schema("arrow", files[0]))
    shards = tuple(sorted(p for p in path.glob("*.parquet") if p.name[0] != "."))
    return Table("parquet", shards, _schema("parquet", shards[0])) if shards else None


def _schema(kind: str, file: Path) -> pa.Schema:
    try:
        if kind == "parquet":
            return pq.read_schema(file)
        with pa.ipc.open_stream(pa.memory_map(str(file))) as stream:
            return stream.schema
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise unreadable(file, error) from error


def load_json(path: Path, *, without: str = "") -> object:
    """A JSON file; the values of one key are dropped while it is parsed, which saves their memory.

    Raises:
        DataError: it cannot be read, is not UTF-8 or no JSON.
    """

    def lighter(found: dict[str, object]) -> dict[str, object]:
        found.pop(without, None)
        return found

    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file, object_hook=lighter if without else None)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}: no JSON: {error.msg}. Make the file again."
        ) from error
    except (OSError, UnicodeError) as error:
        raise unreadable(path, error) from error
