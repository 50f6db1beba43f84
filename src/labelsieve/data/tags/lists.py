"""A row an image, with a column of its tags: a list, or a text with something between them."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from labelsieve.data.tags.batches import Table
from labelsieve.data.tags.columns import TagColumn, is_list, is_text
from labelsieve.data.tags.gather import Listed, Raw, Rows
from labelsieve.errors import DataError


class RowLists(NamedTuple):
    """The lists of a batch."""

    rows: Rows  # (B,) the image of each
    known: NDArray[np.bool_]  # (B,) False where there is no list, as for images nobody verified
    lengths: NDArray[np.int64]  # (B,)
    tags: pa.Array  # texts, list after list


def read_lists(raw: Raw, table: Table, image: str | None, column: TagColumn) -> None:
    """Take each row's tags as asserted of its image.

    Args:
        raw: gets the pairs.
        table: rows.
        image: the column of ids; None where the rows are those of `raw.bytes_of`.
        column: of the tags.
    """
    seen = len(raw.images)
    n_rows = n_empty = 0
    for batch in row_lists(raw, table, image, column):
        raw.asserted.add(np.repeat(batch.rows, batch.lengths), raw.tag_columns(batch.tags))
        n_rows += len(batch.rows)
        n_empty += int(np.count_nonzero((batch.lengths == 0) & (batch.rows >= 0)))
    what = "a list column" if not column.separator else f"texts with {_between(column.separator)}"
    raw.notes.append(f"{n_rows:,} rows, one an image, with tags in {column.name!r}, {what}.")
    if image is not None:
        note_repeated(raw, n_rows, seen)
    if n_empty:
        raw.notes.append(f"{n_empty:,} rows have no tags; their images are kept.")


def note_repeated(raw: Raw, n_rows: int, seen: int) -> None:
    """Say how many rows were of an image that had one before."""
    n_again = n_rows - raw.dropped["without an image's name"] - (len(raw.images) - seen)
    if n_again > 0:
        raw.notes.append(f"{n_again:,} rows are of images that had a row before; merged with it.")


def read_listed(
    listed: Listed, raw: Raw, table: Table, image: str | None, column: TagColumn, blank: str
) -> None:
    """Take a column of the tags that are right: of verified images, or of all as truth.

    Args:
        listed: gets the pairs.
        raw: of the same table.
        table: rows.
        image: the column of ids; None where the rows are those of `raw.bytes_of`.
        column: of the right tags.
        blank: what it means, in words, that a row has nothing there.
    """
    n_blank = 0
    for batch in row_lists(raw, table, image, column):
        n_blank += int(np.count_nonzero(~batch.known))
        listed.looked_at.append(batch.rows[batch.known & (batch.rows >= 0)])
        listed.present.add(np.repeat(batch.rows, batch.lengths), raw.tag_columns(batch.tags))
    if n_blank:
        raw.notes.append(f"{n_blank:,} rows have nothing in {column.name!r}: {blank}.")


def row_lists(raw: Raw, table: Table, image: str | None, column: TagColumn) -> Iterator[RowLists]:
    """The lists of each batch, with the images that they are of."""
    wanted = [column.name] if image is None else [image, column.name]
    first = 0
    for batch in table.batches(wanted):
        lists = batch.column(column.name)
        lengths, tags = split(lists, column, str(table.files[0]))
        known = lists.is_valid().to_numpy(zero_copy_only=False)
        rows = rows_of(raw, batch, image, first)
        first += len(batch)
        yield RowLists(rows, known, lengths, tags)


def rows_of(raw: Raw, batch: pa.RecordBatch, image: str | None, first: int) -> Rows:
    """(B,) the image of each row, -1 where it names none."""
    if image is None:
        return np.arange(first, first + len(batch), dtype=np.int32)
    names = blank_to_null(batch.column(image))
    raw.drop("without an image's name", names.null_count)
    return raw.image_rows(names)


def blank_to_null(column: pa.Array) -> pa.Array:
    """Texts without spaces around them; null for blank ones. Numbers become texts."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def split(lists: pa.Array, column: TagColumn, where: str) -> tuple[NDArray[np.int64], pa.Array]:
    """How many tags each row has, and all tags as texts.

    Raises:
        DataError: the column holds no lists, or lists of something else than names and integers.
    """
    if column.separator:
        lists = _split_texts(blank_to_null(lists), column.separator, where)
    elif not is_list(lists.type):
        ones = lists.is_valid().to_numpy(zero_copy_only=False).astype(np.int64)
        return ones, _texts(lists.drop_null(), column, where)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return lengths.astype(np.int64), _texts(pc.list_flatten(lists), column, where)


def _split_texts(texts: pa.Array, separator: str, where: str) -> pa.Array:
    if separator == " ":
        return pc.utf8_split_whitespace(texts)
    if separator == "json":
        each = [None if text is None else _parsed(text, where) for text in texts.to_pylist()]
        return pa.array(each, pa.list_(pa.string()))
    if separator == "|" and pc.any(pc.match_substring(texts, "\\")).as_py():
        each = [None if text is None else _unescaped(text) for text in texts.to_pylist()]
        return pa.array(each, pa.list_(pa.string()))
    return pc.split_pattern(texts, separator)


def _parsed(text: str, where: str) -> list[str]:
    """A list as JSON writes it, or as Python shows it, which pandas puts into CSV."""
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise DataError(
                f"{where}: {text[:60]!r} is no list, where others of the column are. Write it as "
                'JSON, such as ["cat", "dog"].'
            ) from error
    each = found if isinstance(found, list) else [found]
    return [str(tag) for tag in each]


def _unescaped(text: str) -> list[str]:
    r"""Tags joined by |, with \ before a | or \ of their own: as `files.write_csv` writes lists.

    Example:
        >>> _unescaped(r"a\|b|c")
        ['a|b', 'c']
    """
    tags, now, after = [], "", False
    for character in text:
        if after or character not in "|\\":
            now, after = now + character, False
        elif character == "\\":
            after = True
        else:
            tags.append(now)
            now = ""
    return [*tags, now]


def _texts(tags: pa.Array, column: TagColumn, where: str) -> pa.Array:
    kind = tags.type
    if pa.types.is_floating(kind):
        tags = pc.if_else(pc.is_nan(tags), pa.scalar(None, kind), tags)
        if not pc.all(pc.equal(tags, pc.round(tags))).as_py():
            raise _not_tags(where, column.name, kind)
        tags, kind = tags.cast(pa.int64()), pa.int64()
    if pa.types.is_integer(kind):
        if not column.names:
            return tags.cast(pa.string())
        outside = pc.any(pc.or_(pc.less(tags, 0), pc.greater_equal(tags, len(column.names))))
        if outside.as_py():
            raise DataError(
                f"{where}: column {column.name!r} holds numbers outside its {len(column.names)} "
                "declared classes. Declare them all, or write names."
            )
        return pa.array(column.names, pa.string()).take(tags)
    if pa.types.is_null(kind) or is_text(kind):
        return tags.dictionary_decode() if pa.types.is_dictionary(kind) else tags
    raise _not_tags(where, column.name, kind)


def _not_tags(where: str, name: str, kind: pa.DataType) -> DataError:
    return DataError(
        f"{where}: column {name!r} holds {kind}; expected lists of names or integers. Name "
        "another column with --label."
    )


def _between(separator: str) -> str:
    return {"json": "a JSON list each", " ": "spaces between"}.get(
        separator, f"{separator!r} between"
    )
