"""Which column of a table holds what: by name, and by the kind of its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from labelsieve.data.labels import declared_names
from labelsieve.data.tags.batches import Table
from labelsieve.errors import DataError, did_you_mean

IMAGE = ("image", "image_id", "imageid", "file_name", "filename", "file", "path", "id", "key")
TAG = ("label", "tag", "labelname", "label_name", "class", "category", "concept")
LISTS = ("labels", "tags")
CONFIDENCE = ("confidence", "score", "probability")
SOURCE = ("source",)
PRESENT = ("present", "verified", "is_present")

_ZERO_ONE = frozenset({"0", "1", "-1", "0.0", "1.0", "-1.0", "true", "false", ""})
_SAMPLE = 1000  # rows that tell what a column holds


@dataclass(frozen=True)
class TagColumn:
    """A column of tag lists, or of one tag a row."""

    name: str
    separator: str  # between tags in a text; "json"; "" for a list column
    names: tuple[str, ...] = ()  # of integers, where the schema declares them


def column_named(table: Table, names: Sequence[str]) -> str | None:
    """The first of some names that the table has, in any case."""
    known = {name.casefold(): name for name in reversed(table.columns)}
    return next((known[name] for name in names if name in known), None)


def image_column(table: Table, source: str) -> str:
    """The column of the images or their names.

    Raises:
        DataError: there is none.
    """
    name = column_named(table, IMAGE)
    if name is None:
        raise DataError(
            f"{source}: no column 'image' with the images' names. Its columns are: "
            f"{shown(table.columns)}. Rename the column that holds them."
        )
    return name


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column of images holds the images themselves."""
    return bool(
        pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether each value is a list."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether each value is text, be it as numbers of a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def tag_column(table: Table, name: str) -> TagColumn:
    """How a column holds its lists; of texts, by what its first values look like."""
    names = tuple(declared_names(table.schema, name) or ())
    if not is_text(table.schema.field(name).type):
        return TagColumn(name, "", names)
    return TagColumn(name, separator_of(sample(table, name)), names)


def separator_of(texts: Sequence[str | None]) -> str:
    """What stands between tags: a JSON list's comma, else the first of | ; , that occurs, else " ".

    Example:
        >>> separator_of(["cat", "cat, dog"]), separator_of(["sea sky", None])
        (',', ' ')
    """
    found = [text.strip() for text in texts if text and text.strip()]
    if found and all(text[0] == "[" and text[-1] == "]" for text in found):
        return "json"
    inside = "".join(found)
    first = next((each for each in "|;," if each in inside), None)
    if first is not None:
        return first
    return " " if any(" " in text or "\t" in text for text in found) else "|"


def prefixed(table: Table, prefix: str) -> list[str]:
    """The columns whose names begin with a prefix and go on after it."""
    return [name for name in table.columns if name.startswith(prefix) and name != prefix]


def multi_hot_columns(table: Table) -> list[str]:
    """Columns whose first values are all 0, 1, -1, true, false or nothing."""
    found = []
    for name in table.columns:
        kind = table.schema.field(name).type
        numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if numbers or pa.types.is_boolean(kind) or is_text(kind):
            found.append(name)
    for batch in islice(table.batches(found), 1):
        return [name for name in found if _zero_one(batch.column(name).slice(0, _SAMPLE))]
    return []


def _zero_one(column: pa.Array) -> bool:
    values = {str(value).lower() for value in column.to_pylist() if value is not None}
    return bool(values) and values <= _ZERO_ONE and values != {""}


def sample(table: Table, name: str) -> list[str | None]:
    """The first values of a column of text."""
    for batch in islice(table.batches([name]), 1):
        column = batch.column(0).slice(0, _SAMPLE)
        texts: list[str | None] = column.cast(pa.string()).to_pylist()
        return texts
    return []


def no_such_column(table: Table, source: str, name: str, flag: str) -> DataError:
    """What to say of a column or prefix that was asked for and is not there."""
    near = did_you_mean(name, table.columns) if len(table.columns) <= 40 else ""
    what = "file or column" if flag == "--verified" else "column"
    return DataError(
        f"{source}: no {what} {name!r}, nor columns that begin so, for {flag}. "
        f"{near or f'Its columns are: {shown(table.columns)}.'}"
    )


def shown(names: Sequence[str] | Sequence[Path], most: int = 12) -> str:
    """Some names for a message."""
    each = [str(name) for name in names]
    rest = f", ... ({len(each)} in all)" if len(each) > most else ""
    return (", ".join(each[:most]) or "none") + rest
