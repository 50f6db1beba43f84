"""What a table says of its images: a column of names or integers becomes classes, tags or truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.errors import DataError, did_you_mean

_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Said:
    """Labels, tags and truth as `ImageSet` holds them."""

    class_names: tuple[str, ...] = ()
    labels: NDArray[np.int64] | None = None
    tags: csr_array | None = None
    truth: tuple[str | None, ...] | None = None


def label_column(
    source: str, columns: Sequence[str], label: str | None, truth: str | None
) -> str | None:
    """The column to take labels from: the one asked for, else `label`, else `labels`, else none.

    Raises:
        DataError: a column that was asked for is not there.
    """
    for flag, name in (("--label", label), ("--truth", truth)):
        if name is not None and name not in columns:
            near = did_you_mean(name, columns)
            if not near.startswith("There"):  # it names a few; here all help
                near += f" Its columns are: {', '.join(sorted(columns))}."
            raise DataError(f"{source}: no column {name!r} for {flag}. {near}")
    if label is not None:
        return label
    return next((name for name in ("label", "labels") if name in columns), None)


def described(source: str, table: pa.Table, label: str | None, truth: str | None) -> Said:
    """Labels or tags from one column, truth from another; the schema may carry class names.

    Raises:
        DataError: a column holds something else than names, integers or lists of these.
    """
    said = Said()
    if label is not None:
        column = _dense(table.column(label))
        if label == "labels" and _is_text(column.type):
            column = pc.split_pattern(column, "|")
        names = declared_names(table.schema, label)
        if _is_list(column.type):
            said = _tags(source, column, names, label)
        else:
            said = _classes(source, column, names, label)
    if truth is None:
        return said
    column = _dense(table.column(truth))
    names = declared_names(table.schema, truth)
    if names is None and label is not None:
        names = declared_names(table.schema, label)
    values = tuple(_as_text(source, column, names, truth).to_pylist())
    _check_truth(source, values, said.class_names, truth)
    return Said(said.class_names, said.labels, said.tags, values)


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of their numbers where all are integers, else of their characters.

    Example:
        >>> sort_names(["10", "9"]), sort_names(["10", "9", "x"])
        (('9', '10'), ('10', '9', 'x'))
    """
    each = set(names)
    if all(_INTEGER.fullmatch(name) for name in each):
        return tuple(sorted(each, key=lambda name: (int(name), name)))
    return tuple(sorted(each))


def _classes(source: str, column: pa.Array, names: list[str] | None, label: str) -> Said:
    class_names, labels = _coded(_as_text(source, column, names, label))
    return Said(class_names, labels) if class_names else Said()


def _tags(source: str, column: pa.Array, names: list[str] | None, label: str) -> Said:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    class_names, tags = _coded(_as_text(source, pc.list_flatten(column), names, label))
    rows = np.repeat(np.arange(len(column)), lengths)[tags >= 0]
    pairs = np.unique(np.stack([rows, tags[tags >= 0]], axis=1), axis=0)  # a tag given twice is one
    ones = np.ones(len(pairs), np.uint8)
    shape = (len(column), len(class_names))
    return Said(class_names, tags=csr_array((ones, (pairs[:, 0], pairs[:, 1])), shape=shape))


def _coded(texts: pa.Array) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Sorted class names, and each text's place among them; -1 for null."""
    coded = texts.dictionary_encode()
    found = coded.dictionary.to_pylist()
    class_names = sort_names(found)
    if "-1" in class_names and all(_INTEGER.fullmatch(name) for name in class_names):
        class_names = tuple(name for name in class_names if name != "-1")  # the usual "no label"
    place = {name: c for c, name in enumerate(class_names)}
    order = np.array([place.get(name, -1) for name in found] + [-1], np.int64)
    codes = coded.indices.fill_null(len(found)).to_numpy(zero_copy_only=False)
    return class_names, order[codes]


def _as_text(source: str, column: pa.Array, names: list[str] | None, name: str) -> pa.Array:
    """Any column of names or integers as strings; null for null, for "" and for -1 with names."""
    kind = column.type
    if pa.types.is_floating(kind):
        kind, column = pa.int64(), _whole(source, column, name)
    if pa.types.is_integer(kind):
        if names is None:
            column = pc.if_else(pc.equal(column, -1), pa.scalar(None, kind), column)
            return column.cast(pa.string())
        return _named(source, column.cast(pa.int64()), names, name)
    if pa.types.is_null(kind) or pa.types.is_boolean(kind) or _is_text(kind):
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    raise DataError(
        f"{source}: column {name!r} holds {kind}; expected class names or integers. "
        "Name another column."
    )


def _whole(source: str, column: pa.Array, name: str) -> pa.Array:
    """Floats as integers: what pandas makes of integers with gaps, NaN for a gap."""
    column = column.cast(pa.float64())
    column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    fractions = pc.filter(column, pc.not_equal(column, pc.round(column)))
    if len(fractions):
        raise DataError(
            f"{source}: column {name!r} holds fractions such as {fractions[0].as_py():g}; "
            "expected class names or integers. Name another column."
        )
    return column.cast(pa.int64())


def _named(source: str, column: pa.Array, names: list[str], name: str) -> pa.Array:
    codes = column.fill_null(-1).to_numpy(zero_copy_only=False)
    outside = codes[(codes < -1) | (codes >= len(names))]
    if len(outside):
        raise DataError(
            f"{source}: column {name!r} holds {outside[0]}, but its metadata name only the "
            f"{len(names)} classes 0 to {len(names) - 1}."
        )
    return pa.array(names, pa.string()).take(pa.array(codes, mask=codes < 0))


def _check_truth(
    source: str, values: Sequence[str | None], class_names: Sequence[str], name: str
) -> None:
    """A foreign image's truth is none of the classes; where all are, the columns do not match."""
    found = {value for value in values if value is not None}
    if found and class_names and not found & set(class_names):
        some = ", ".join(sort_names(found)[:5])
        classes = ", ".join(class_names[:5])
        raise DataError(
            f"{source}: none of the values of the truth column {name!r} (such as {some}) is one of "
            f"the classes (such as {classes}). Name a column with the same kind of names."
        )


def declared_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Class names that Hugging Face's schema metadata give an integer column."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        feature: Any = json.loads(text)["info"]["features"][column]
    except (ValueError, KeyError, TypeError):
        return None
    if isinstance(feature, list) and feature:
        feature = feature[0]
    while isinstance(feature, dict):
        if feature.get("_type") == "ClassLabel":
            names = feature.get("names")
            return [str(name) for name in names] if isinstance(names, list) else None
        feature = feature.get("feature")
    return None


def _dense(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # pyarrow < 19 for a column of no chunks
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
