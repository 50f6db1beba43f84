"""Tables of images: CSV, Parquet and Arrow files with a column `image` and what is said of it."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labelsieve.data.folders import whole_files
from labelsieve.data.labels import Said, described, label_column
from labelsieve.errors import DataError
from labelsieve.records import ImageSet, Places

_LOOKED_AT = 100  # paths of a table that must not all be missing


def read_csv(path: Path, source: str, label: str | None, truth: str | None) -> ImageSet:
    """A CSV file, or TSV by its suffix, of paths relative to it or absolute.

    Raises:
        DataError: no such column, a row of another length, or text that is not UTF-8.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        # utf-8-sig drops the mark that spreadsheets put first
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(rows, [])]
            _check_header(path, header, delimiter)
            label = label_column(source, header, label, truth)
            wanted = _wanted(header, label, truth)
            places = [header.index(name) for name in wanted]
            columns: list[list[str]] = [[] for _ in wanted]
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{path}, line {rows.line_num}: {len(row)} values, where the header names "
                        f"{len(header)} columns. Put values that hold a {delimiter!r} in quotes."
                    )
                for column, place in zip(columns, places, strict=True):
                    column.append(row[place])
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason}. Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    table = pa.table({n: pa.array(c, pa.string()) for n, c in zip(wanted, columns, strict=True)})
    said = described(source, table, label, truth)
    return _of_paths(source, path.parent, table, "image", said)


def read_parquet(
    files: Sequence[Path], source: str, label: str | None, truth: str | None
) -> ImageSet:
    """One Parquet file, or several shards one after the other.

    Raises:
        DataError: a file cannot be read, or lacks a column.
    """
    return _read_columnar("parquet", files, source, label, truth)


def read_arrow(
    files: Sequence[Path], source: str, label: str | None, truth: str | None
) -> ImageSet:
    """The Arrow files of a Hugging Face data set, one after the other.

    Raises:
        DataError: a file cannot be read, or lacks a column.
    """
    return _read_columnar("arrow", files, source, label, truth)


def read_unlabeled(
    kind: Literal["parquet", "arrow"], files: Sequence[Path], source: str
) -> ImageSet:
    """The images of a table without what is said of them, which another reader takes from it.

    Raises:
        DataError: a file cannot be read, or lacks a column.
    """
    return _read_columnar(kind, files, source, None, None, labeled=False)


def _read_columnar(
    kind: Literal["parquet", "arrow"],
    files: Sequence[Path],
    source: str,
    label: str | None,
    truth: str | None,
    *,
    labeled: bool = True,
) -> ImageSet:
    schema = _schema(kind, files[0])
    image = _image_column(source, schema)
    label = label_column(source, schema.names, label, truth) if labeled else None
    wanted = _wanted([name for name in schema.names if name != image], label, truth)
    kind_of_image = schema.field(image).type
    if _is_text(kind_of_image):
        wanted.append(image)
    elif pa.types.is_struct(kind_of_image):
        wanted.append(f"{image}.path")
    tables = [_read(kind, file, wanted, image) for file in files]
    try:
        table = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise DataError(
            f"{source}: its {len(files)} files have columns of different types: {error}."
        ) from error
    said = described(source, table.replace_schema_metadata(schema.metadata), label, truth)
    if _is_text(kind_of_image):
        return _of_paths(source, files[0].parent, table, image, said)
    rows = [part.num_rows for part in tables]
    start = np.concatenate([np.arange(n, dtype=np.int64) for n in rows])
    places = Places(
        kind=kind,
        files=tuple(os.path.abspath(file) for file in files),
        file=np.repeat(np.arange(len(files), dtype=np.int32), rows),
        start=start,
        size=np.zeros_like(start),
        column=image,
    )
    return _image_set(source, _row_ids(table, image, len(start)), places, said)


def _of_paths(source: str, folder: Path, table: pa.Table, image: str, said: Said) -> ImageSet:
    """Images named by paths, relative to the folder of their table."""
    paths: list[str | None] = table.column(image).to_pylist()
    for row, path in enumerate(paths):
        if not path:
            raise DataError(f"{source}: row {row + 1} names no image. Remove the row.")
    texts = [path for path in paths if path]
    root = os.path.abspath(folder)
    where = [os.path.normpath(os.path.join(root, _native(path, root))) for path in texts]
    tried = where[:_LOOKED_AT]
    if tried and not any(os.path.lexists(path) for path in tried):
        raise DataError(
            f"{source}: none of its first {len(tried)} images can be found; the first would be "
            f"{tried[0]}. Paths are relative to the folder of the table, or absolute."
        )
    ids = tuple(texts)
    if len(set(ids)) < len(ids):
        ids = _unique(table, ("id", "path")) or ids
    if len(set(ids)) < len(ids):
        twice = [name for name, n in Counter(ids).most_common(3) if n > 1]
        first, second = (row + 1 for row in [i for i, t in enumerate(ids) if t == twice[0]][:2])
        raise DataError(
            f"{source}: the image {twice[0]!r} is named in more than one row, such as {first} and "
            f"{second}. Give each image one row, or each row its own name in a column 'id'."
        )
    return _image_set(source, ids, whole_files(where), said)


def _row_ids(table: pa.Table, image: str, n: int) -> tuple[str, ...]:
    """Names for images that come as bytes: their path, a column that tells them apart, or rows."""
    if image in table.column_names:
        inner = pc.struct_field(table.column(image), "path")
        table = table.append_column("\0path", inner)
    found = _unique(table, ("\0path", "id", "path"))
    if found is not None:
        return found
    return tuple(f"row{row:06d}" for row in range(n))


def _unique(table: pa.Table, names: Sequence[str]) -> tuple[str, ...] | None:
    """The first of the columns whose values are all there and all different, as text."""
    for name in names:
        if name not in table.column_names:
            continue
        column = table.column(name)
        if not (_is_text(column.type) or pa.types.is_integer(column.type)) or column.null_count:
            continue
        if pc.count_distinct(column).as_py() == len(column):
            return tuple(column.cast(pa.string()).to_pylist())
    return None


def _image_set(source: str, ids: tuple[str, ...], places: Places, said: Said) -> ImageSet:
    if not ids:
        raise DataError(f"{source}: no rows, so no images. Name another table.")
    return ImageSet(
        source=source,
        ids=ids,
        places=places,
        class_names=said.class_names,
        labels=said.labels,
        tags=said.tags,
        truth=said.truth,
    )


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    if "image" not in header:
        other = next((d for d in ";\t,|" if d != delimiter and d in "".join(header)), None)
        hint = (
            f" It seems to be separated by {other!r}; save it with {delimiter!r}." if other else ""
        )
        raise DataError(
            f"{path}: no column 'image' with the images' paths. Its columns are: "
            f"{', '.join(header) or 'none'}.{hint or ' Rename the column that holds them.'}"
        )
    twice = [name for name, n in Counter(header).items() if n > 1]
    if twice:
        raise DataError(f"{path}: the column {twice[0]!r} is there twice. Rename one of them.")


def _wanted(columns: Sequence[str], label: str | None, truth: str | None) -> list[str]:
    """The columns to read beside those of pixels."""
    return [name for name in columns if name in {"image", "id", "path", label, truth}]


def _schema(kind: str, file: Path) -> pa.Schema:
    try:
        if kind == "parquet":
            return pq.read_schema(file)
        with pa.ipc.open_stream(pa.memory_map(str(file))) as stream:
            return stream.schema
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise _unreadable(kind, file, error) from error


def _read(kind: str, file: Path, columns: list[str], image: str) -> pa.Table:
    """Some columns of a file; of the image's struct only its path, so that no pixels are read."""
    try:
        if kind == "parquet":
            table = pq.ParquetFile(file).read(columns=columns)
            missing = {name.partition(".")[0] for name in columns} - set(table.column_names)
        else:
            with pa.ipc.open_stream(pa.memory_map(str(file))) as stream:
                table = stream.read_all()
            missing = {name.partition(".")[0] for name in columns} - set(table.column_names)
            keep = {name.partition(".")[0] for name in columns}
            table = table.select([name for name in table.column_names if name in keep])
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise _unreadable(kind, file, error) from error
    if missing:
        raise DataError(f"{file}: no column {min(missing)!r}, which the other files have.")
    return table


def _unreadable(kind: str, file: Path, error: Exception) -> DataError:
    return DataError(f"{file}: cannot be read as {kind.capitalize()}: {error}. Is it complete?")


def _image_column(source: str, schema: pa.Schema) -> str:
    """`image`, or the only column of Hugging Face's {bytes, path}."""
    structs = [
        field.name
        for field in schema
        if pa.types.is_struct(field.type) and {"bytes", "path"} <= {f.name for f in field.type}
    ]
    if "image" in schema.names:
        kind = schema.field("image").type
        if not (_is_text(kind) or _is_bytes(kind) or "image" in structs):
            raise DataError(
                f"{source}: column 'image' holds {kind}; expected paths, bytes, or structs of "
                "bytes and path."
            )
        return "image"
    if len(structs) == 1:
        return str(structs[0])
    raise DataError(
        f"{source}: no column 'image' with paths or bytes. Its columns are: "
        f"{', '.join(schema.names) or 'none'}. Rename the column that holds them."
    )


def _native(path: str, root: str) -> str:
    r"""A path as this system writes it; one with \ from Windows is understood where / is used."""
    if "\\" in path and os.sep == "/" and not os.path.lexists(os.path.join(root, path)):
        return path.replace("\\", "/")
    return path


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
