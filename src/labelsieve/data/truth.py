"""Tables of true labels, matched to images by id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from labelsieve.errors import DataError, did_you_mean


def read_truth(path: Path, ids: Sequence[str]) -> tuple[str | None, ...]:
    """The true class names of some images, from a CSV or Parquet table of `image` and `truth`.

    A Parquet table whose `image` column holds bytes is matched by its column `path`.

    Returns:
        one for each id; None where the table does not have the image, or its truth is empty.

    Raises:
        DataError: the table cannot be read, lacks a column, or has none of the images.
    """
    table = _table(path)
    for column in ("image", "truth"):
        if column not in table.column_names:
            near = did_you_mean(column, table.column_names)
            raise DataError(f"{path}: no column {column!r}. {near}")
    key = "image" if pa.types.is_string(table.schema.field("image").type) else "path"
    if key not in table.column_names:
        raise DataError(f"{path}: no column 'path' with the ids of the images. Add one.")
    names = [str(name) for name in table.column(key).to_pylist()]
    known = dict(zip(names, table.column("truth").cast(pa.string()).to_pylist(), strict=True))
    if not any(name in known for name in ids):
        such = f"it names such as {names[0]!r}" if names else "it has no rows"
        raise DataError(
            f"{path}: none of the {len(ids)} images is in it: {such}, "
            f"and the images are such as {ids[0]!r}."
        )
    return tuple(known.get(name) or None for name in ids)


def _table(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            columns = [name for name in pq.read_schema(path).names]
            light = [name for name in ("image", "path", "truth") if name in columns]
            return pq.read_table(path, columns=light or None)
        text = csv.ConvertOptions(
            column_types={"image": pa.string(), "truth": pa.string()},
            strings_can_be_null=True,
            null_values=[""],
        )
        return csv.read_csv(path, convert_options=text)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}.") from error
