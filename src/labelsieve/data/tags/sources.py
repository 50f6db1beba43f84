"""Which form a source of tags has, told by names, headers and first values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from labelsieve.data.folders import read_folder, what_is_there
from labelsieve.data.read import check_there, read
from labelsieve.data.tables import read_unlabeled
from labelsieve.data.tags import columns as guess
from labelsieve.data.tags.batches import Table, open_table
from labelsieve.data.tags.class_files import read_class_files, read_tag_lines
from labelsieve.data.tags.coco import read_coco
from labelsieve.data.tags.columns import TagColumn, is_list, tag_column
from labelsieve.data.tags.gather import Raw
from labelsieve.data.tags.lists import read_lists
from labelsieve.data.tags.long import LongColumns, read_long
from labelsieve.data.tags.multi_hot import read_multi_hot
from labelsieve.data.tags.open_images import (
    is_labels,
    labels_files,
    partners,
    read_open_images,
)
from labelsieve.data.tags.sidecar import read_sidecars
from labelsieve.errors import DataError
from labelsieve.records import ImageSet
from labelsieve.records.tag_set import Form, TagSet

_FORMS = (
    "a table (.csv, .tsv, .parquet) with a column `labels` of lists, or a column a tag of 0 and 1, "
    "or a row a pair (image, label); labels files of Open Images; COCO instances (.json); a folder "
    "of Pascal VOC, NUS-WIDE or MIRFLICKR lists; images with texts of tags beside them"
)


def read_raw(source: Path, label: str | None, least: float) -> tuple[Raw, Table | None]:
    """Read what a source asserts, in its own words.

    Args:
        source: file or folder.
        label: the column of tags, or what the columns of tags begin with, of a table.
        least: confidence of an assertion.

    Raises:
        DataError: it is none of the forms, or broken.

    Returns:
        what it says; the table, where it is one, of which more columns may be read.
    """
    if not any(mark in str(source) for mark in "{}"):
        check_there(source)
    if source.is_dir():
        raw = _read_folder(source, least)
        if raw is not None:
            return raw, None
    table = open_table(source)
    if table is not None:
        if label is None and is_labels(table):
            return read_open_images(partners(source), source.parent, least), None
        return _read_table(source, table, label, least), table
    if source.suffix.lower() == ".json":
        return read_coco(source, least), None
    if source.suffix.lower() == ".txt":
        return read_tag_lines(source), None
    if source.is_dir() or source.suffix.lower() == ".tar" or not source.exists():
        return _of_images(source, label), None
    raise DataError(f"{source}: a file of another kind. Expected {_FORMS}.")


def _read_folder(folder: Path, least: float) -> Raw | None:
    files = labels_files(folder)
    if files:
        return read_open_images(files, folder, least)
    raw = read_class_files(folder) if not _has_images(folder) else None
    if raw is not None:
        return raw
    if open_table(folder) is not None:
        return None
    images = read_folder(folder, os.fspath(folder))
    return None if images is None else read_sidecars(images)


def _has_images(folder: Path) -> bool:
    from labelsieve.data.sniff import IMAGE_SUFFIXES

    return any(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in os.listdir(folder))


def _of_images(source: Path, label: str | None) -> Raw:
    """Tags or labels that a folder of images or tars carry."""
    images = read(source, label=label)
    try:
        tags = TagSet.of_images(images)
    except DataError as error:
        there = f" ({what_is_there(source)})" if source.is_dir() else ""
        raise DataError(f"{source}: no tags{there}. Expected {_FORMS}.") from error
    raw = Raw(Form("image-set"), bytes_of=images)
    raw.images = {name: row for row, name in enumerate(tags.ids)}
    raw.tags = {name: number for number, name in enumerate(tags.tag_names)}
    rows, numbers = tags.asserted_pairs()
    raw.asserted.add(rows, numbers)
    raw.notes.append(f"{len(images):,} images with {tags.asserted.nnz:,} labels of their own.")
    return raw


def _read_table(source: Path, table: Table, label: str | None, least: float) -> Raw:
    name = guess.image_column(table, os.fspath(source))
    files = tuple(str(path.resolve()) for path in table.files)
    folder = table.files[0].parent
    if guess.holds_bytes(table.schema.field(name).type):
        images = _bytes_of(source, table)
        raw = Raw(Form("lists", files, name), bytes_of=images)
        raw.images = {each: row for row, each in enumerate(images.ids)}
        image = None
    else:
        raw, image = Raw(Form("lists", files, name), folder=folder), name
    long = None if image is None or label not in (None, *table.columns) else _long(table, label)
    column = None if long is not None else _list_column(table, label)
    if column is not None:
        raw.form = Form("lists", files, name, (column.name,), column.separator)
        read_lists(raw, table, image, column)
    elif long is not None:
        raw.form = Form("long", files, name, (long.tag,))
        read_long(raw, table, long, least)
    else:
        columns = _hot_columns(source, table, label, name)
        raw.form = Form("multi-hot", files, name, tuple(columns), separator=label or "")
        read_multi_hot(raw, table, image, columns, label or "")
    raw.drop("with too few or too many values", len(table.skipped), "".join(table.skipped[:1]))
    return raw


def _bytes_of(source: Path, table: Table) -> ImageSet:
    if table.kind == "csv":
        raise DataError(f"{source}: bytes in a CSV file.")
    return read_unlabeled(table.kind, table.files, os.fspath(source))


def _list_column(table: Table, label: str | None) -> TagColumn | None:
    """The column of lists: the one asked for, else `labels` or `tags`, or a `label` of lists."""
    if label is not None:
        return tag_column(table, label) if label in table.columns else None
    named = guess.column_named(table, guess.LISTS)
    if named is None:
        one = guess.column_named(table, guess.TAG)
        named = one if one is not None and is_list(table.schema.field(one).type) else None
    return None if named is None else tag_column(table, named)


def _long(table: Table, label: str | None) -> LongColumns | None:
    """The columns of a table of pairs, if it is one: a tag in `label`, or several of an image."""
    tag = label or guess.column_named(table, guess.TAG)
    if tag is None or is_list(table.schema.field(tag).type):
        return None
    if label is not None and label.casefold() in guess.LISTS:
        return None
    if label is None and guess.column_named(table, guess.LISTS) is not None:
        return None
    image = guess.image_column(table, "")
    confidence, source, present = (
        guess.column_named(table, names)
        for names in (guess.CONFIDENCE, guess.SOURCE, guess.PRESENT)
    )
    if label is not None and confidence is None and present is None and _lists_in(table, label):
        return None
    return LongColumns(image, tag, confidence, source, present)


def _lists_in(table: Table, name: str) -> bool:
    """Whether the texts of a column that was asked for hold several tags each."""
    kind = table.schema.field(name).type
    if not guess.is_text(kind):
        return not pa.types.is_integer(kind)
    images = guess.sample(table, guess.image_column(table, ""))
    return len(set(images)) == len(images)  # an image a row: lists; else pairs


def _hot_columns(source: Path, table: Table, label: str | None, image: str) -> Sequence[str]:
    if label is not None:
        columns = guess.prefixed(table, label)
        if not columns:
            raise guess.no_such_column(table, os.fspath(source), label, "--label")
        return columns
    others = {name.casefold() for name in guess.IMAGE}
    columns = [
        name
        for name in guess.multi_hot_columns(table)
        if name != image and name.casefold() not in others
    ]
    if len(columns) < 2:
        raise DataError(
            f"{source}: no tags are recognized. Its columns are: {guess.shown(table.columns)}. "
            f"Expected {_FORMS}. Name the column, or what the columns of tags begin with, with "
            "--label."
        )
    return columns
