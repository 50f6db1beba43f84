"""A row an image, with a column a tag: 0 and 1, or -1, 0 and 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from labelsieve.data.tags.batches import Table
from labelsieve.data.tags.columns import is_text
from labelsieve.data.tags.gather import Listed, Raw, Rows
from labelsieve.data.tags.lists import note_repeated, rows_of
from labelsieve.errors import DataError

_WORDS = {"true": "1", "false": "0", "yes": "1", "no": "0"}
UNKNOWN = 2  # a blank cell


def read_multi_hot(
    raw: Raw, table: Table, image: str | None, columns: Sequence[str], prefix: str = ""
) -> None:
    """Take each 1 as asserted of its row's image; 0, -1 and blanks are not asserted.

    Args:
        raw: gets the pairs.
        table: rows.
        image: the column of ids; None where the rows are those of `raw.bytes_of`.
        columns: of the tags.
        prefix: what their names begin with, which is not part of the tags.
    """
    numbers = tag_numbers(raw, columns, prefix)
    counts = np.zeros(4, np.int64)  # of -1, 0, 1, blank
    seen, n_rows = len(raw.images), 0
    for rows, cells in multi_hot_cells(raw, table, image, columns):
        where, which = np.nonzero(cells == 1)
        raw.asserted.add(rows[where], numbers[which])
        counts += np.bincount(cells.ravel() + 1, minlength=4)
        n_rows += len(rows)
    raw.notes.append(f"{n_rows:,} rows, one an image, with {len(columns):,} columns of 0 and 1.")
    if image is not None:
        note_repeated(raw, n_rows, seen)
    if counts[0]:
        raw.notes.append(
            f"{counts[0]:,} cells are -1: read as not asserted, as 0 is. That people looked is "
            "not concluded from it; name verified columns with --verified."
        )
    if counts[3]:
        raw.notes.append(f"{counts[3]:,} cells are blank: read as not asserted.")


def read_listed_columns(
    listed: Listed,
    raw: Raw,
    table: Table,
    image: str | None,
    columns: Sequence[str],
    prefix: str = "",
) -> None:
    """Take columns of verified tags: 1 present, -1 absent; 0 by whether there is a -1 anywhere.

    With a -1 in any of the columns a 0 is unknown; without one it is absent. Blank is unknown.
    """
    listed.named = False
    numbers = tag_numbers(raw, columns, prefix)
    for rows, cells in multi_hot_cells(raw, table, image, columns):
        for value, pile in ((1, listed.present), (-1, listed.absent), (0, listed.zero)):
            where, which = np.nonzero(cells == value)
            pile.add(rows[where], numbers[which])
        listed.looked_at.append(rows[(cells != UNKNOWN).any(axis=1) & (rows >= 0)])


def tag_numbers(raw: Raw, columns: Sequence[str], prefix: str) -> Rows:
    """(C,) the numbers of the tags that columns are named after."""
    return raw.tag_columns(pa.array([name.removeprefix(prefix) for name in columns], pa.string()))


def multi_hot_cells(
    raw: Raw, table: Table, image: str | None, columns: Sequence[str]
) -> Iterator[tuple[Rows, NDArray[np.int8]]]:
    """Rows and (B, C) cells of -1, 0, 1 and 2 for blank, of each batch."""
    wanted = list(columns) if image is None else [image, *columns]
    kinds = {} if table.kind != "csv" else _csv_kinds(table, columns)
    first = 0
    for batch in table.batches(wanted, kinds):
        rows = rows_of(raw, batch, image, first)
        first += len(batch)
        each = [signs_of(batch.column(name), name, table) for name in columns]
        yield rows, np.stack(each, axis=1) if each else np.zeros((len(rows), 0), np.int8)


def _csv_kinds(table: Table, columns: Sequence[str]) -> dict[str, pa.DataType]:
    """Whole numbers where the first values are; parsing 6,000 columns of text costs far more."""
    for batch in islice(table.batches(columns), 1):
        whole = {"0", "1", "-1"}
        return {
            name: pa.int8()
            for name in columns
            if {v for v in batch.column(name).slice(0, 1000).unique().to_pylist() if v} <= whole
        }
    return {}


def signs_of(column: pa.Array, name: str, table: Table) -> NDArray[np.int8]:
    """(B,) -1, 0 or 1 of each cell of a tag's column, and UNKNOWN for a blank one.

    Raises:
        DataError: it holds something else.
    """
    where = str(table.files[0])
    try:
        if is_text(column.type):
            text = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))
            text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
            for word, value in _WORDS.items():
                text = pc.if_else(pc.equal(text, word), value, text)
            column = text.cast(pa.float32())
        values = column.cast(pa.float32()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise DataError(
            f"{where}: column {name!r} is read as a tag, and holds something else than 0, 1, -1 "
            f"and blanks: {error}. Name the columns of tags by what they begin with: --label PREFIX"
        ) from error
    known = ~np.isnan(values)
    if not np.isin(values[known], (-1, 0, 1)).all():
        wrong = values[known][~np.isin(values[known], (-1, 0, 1))][0]
        raise DataError(
            f"{where}: column {name!r} is read as a tag, and holds {wrong:g}; expected 0, 1, -1 or "
            "blank. Name the columns of tags by what they begin with: --label PREFIX"
        )
    cells = np.full(len(values), UNKNOWN, np.int8)
    cells[known] = values[known]
    return cells
