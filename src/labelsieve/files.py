"""Files written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from labelsieve.errors import RunError

# A spreadsheet runs text that starts so as a formula, unless it is a plain number. An apostrophe at
# the start is guarded too, so that dropping one leading apostrophe always gives the text back.
_FORMULA = r"^[=+\-@\t\r']"
_NUMBER = r"^[+-]?[0-9]+(\.[0-9]+)?$"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes `path`, on failure it is removed.

    Raises:
        RunError: the file cannot be written (full disk, no permission), saying what to do.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Write readable JSON, atomically."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def cannot_write(path: Path, error: OSError) -> RunError:
    """What to say when a file or folder cannot be written, and what to do about it."""
    if error.errno == errno.ENOSPC:
        advice = "Free some space; what a run has finished stays, and --resume goes on from it."
    elif error.errno in (errno.EEXIST, errno.ENOTDIR):
        advice = "There is a file where a folder is needed; choose another place."
    elif error.errno == errno.ENOENT:
        advice = f"Make the folder {str(path.parent)!r} first, or choose another place."
    else:
        advice = "Choose a place where you may write."
    return RunError(f"{path}: cannot be written: {error.strerror or error}. {advice}")


def write_csv(table: pa.Table, path: Path) -> None:
    r"""Write a table of texts, numbers and lists of either as CSV, atomically.

    Null is an empty field. The items of a list are joined by `|`, with `\` before a `|` or `\` of
    their own. Text that a spreadsheet would run as a formula (it starts with = + - @ tab or return
    and is no number) or that starts with an apostrophe gets an apostrophe in front.

    Raises:
        RunError: the file cannot be written.
    """
    with atomic(path) as partial:
        csv.write_csv(_table_for_csv(table), partial)


def write_csv_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> None:
    """`write_csv` of a table that is never there as a whole.

    Raises:
        RunError: the file cannot be written.
    """
    kinds = _table_for_csv(schema.empty_table()).schema
    with atomic(path) as partial, csv.CSVWriter(partial, kinds) as writer:
        for batch in batches:
            writer.write_table(_table_for_csv(pa.Table.from_batches([batch])))


def _table_for_csv(table: pa.Table) -> pa.Table:
    return pa.table({name: _for_csv(table.column(name)) for name in table.column_names})


def _for_csv(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_list(column.type):
        lists = column.combine_chunks()
        texts = lists.flatten().cast(pa.string())
        texts = pc.replace_substring_regex(texts, r"([|\\])", r"\\\1")
        rejoined = pa.ListArray.from_arrays(_offsets(lists), texts)
        column = pc.binary_join(rejoined, "|")
    if not pa.types.is_string(column.type):
        return column
    formula = pc.match_substring_regex(column, _FORMULA)
    number = pc.match_substring_regex(column, _NUMBER)
    guarded = pc.binary_join_element_wise("'", column, "")
    return pc.if_else(pc.and_not(formula, number), guarded, column)


def _offsets(lists: pa.ListArray) -> pa.Array:
    return pc.subtract(lists.offsets, lists.offsets[0])
