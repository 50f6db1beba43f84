"""A row a pair: an image, a tag, perhaps a confidence and who says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from labelsieve.data.tags.batches import Table
from labelsieve.data.tags.columns import is_text
from labelsieve.data.tags.gather import Raw, Rows
from labelsieve.data.tags.lists import blank_to_null
from labelsieve.errors import DataError

# Sources whose rows are answers of people, not assertions; of Open Images, all but the machine.
HUMAN = ("human", "verification", "crowdsource-verification", "verified")
MACHINE = ("machine",)


class LongColumns(NamedTuple):
    """Which columns of a long table hold what."""

    image: str
    tag: str
    confidence: str | None = None
    source: str | None = None
    present: str | None = None

    def wanted(self) -> list[str]:
        """Those that the table has."""
        return [name for name in self if name is not None]


class PairBatch(NamedTuple):
    """The pairs of a batch."""

    rows: Rows  # (B,) -1 where no image is named
    columns: Rows  # (B,) -1 where no tag is named
    confidence: NDArray[np.float32]  # (B,) 1 where none is given
    human: NDArray[np.bool_]  # (B,) a person's answer: present from a confidence of 0.5 on


def read_long(
    raw: Raw, table: Table, columns: LongColumns, least: float, *, only_machine: bool = False
) -> None:
    """Take rows as assertions, and those that people answered as verified.

    Args:
        raw: gets the pairs.
        table: rows.
        columns: where it has what.
        least: confidence of an assertion; what has less is dropped.
        only_machine: every source but "machine" is people, as in Open Images.
    """
    n_rows = n_human = 0
    for batch in table.batches(columns.wanted(), _number_kinds(table, columns)):
        pairs = _pairs(raw, batch, columns, str(table.files[0]), only_machine)
        unsure = ~pairs.human & (pairs.confidence < least)
        raw.drop(f"with a confidence below {least:g}", int(np.count_nonzero(unsure)))
        raw.drop("without a tag", int(np.count_nonzero((pairs.columns < 0) & (pairs.rows >= 0))))
        said = ~pairs.human & ~unsure
        raw.asserted.add(pairs.rows[said], pairs.columns[said], pairs.confidence[said])
        people = pairs.human
        present = pairs.confidence[people] >= 0.5
        raw.votes.add(pairs.rows[people], pairs.columns[people], present)
        n_rows += len(pairs.rows)
        n_human += int(np.count_nonzero(people))
    about = f", {n_human:,} of them answers of people" if n_human else ""
    raw.notes.append(
        f"{n_rows:,} rows, one an image and tag ({columns.image!r}, {columns.tag!r}){about}."
    )


def _pairs(
    raw: Raw, batch: pa.RecordBatch, columns: LongColumns, where: str, only_machine: bool
) -> PairBatch:
    images = blank_to_null(batch.column(columns.image))
    raw.drop("without an image's name", images.null_count)
    rows = raw.image_rows(images)
    tags = raw.tag_columns(blank_to_null(batch.column(columns.tag)))
    confidence = np.ones(len(batch), np.float32)
    if columns.confidence is not None:
        confidence = numbers(batch.column(columns.confidence), columns.confidence, where, 1.0)
        if len(confidence) and not 0 <= confidence.min() <= confidence.max() <= 1:
            raise DataError(
                f"{where}: column {columns.confidence!r} runs from {confidence.min():g} to "
                f"{confidence.max():g}; expected confidences from 0 to 1. Divide them, or rename "
                "the column."
            )
    human = np.zeros(len(batch), np.bool_)
    if columns.source is not None:
        said_by = pc.utf8_lower(blank_to_null(batch.column(columns.source)))
        human = _among(said_by, MACHINE if only_machine else HUMAN) ^ only_machine
    if columns.present is not None:
        # a table of answers: what was asked about is what the source asserts
        confidence = numbers(batch.column(columns.present), columns.present, where, 1.0)
        human = np.ones(len(batch), np.bool_)
    return PairBatch(rows, tags, confidence, human)


def _among(column: pa.Array, words: Sequence[str]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.is_in(column, pa.array(words)).to_numpy(zero_copy_only=False)
    return found


def _number_kinds(table: Table, columns: LongColumns) -> dict[str, pa.DataType]:
    """Confidences of CSV are parsed as numbers at once."""
    if table.kind != "csv" or columns.confidence is None:
        return {}
    return {columns.confidence: pa.float32()}


def numbers(column: pa.Array, name: str, where: str, blank: float) -> NDArray[np.float32]:
    """(B,) a column of numbers, be they texts; true and false are 1 and 0.

    Raises:
        DataError: a value is no number.
    """
    try:
        if is_text(column.type):
            text = pc.utf8_lower(blank_to_null(column))
            for word, value in (("true", "1"), ("yes", "1"), ("false", "0"), ("no", "0")):
                text = pc.if_else(pc.equal(text, word), value, text)
            column = text
        found: NDArray[np.float32] = (
            column.cast(pa.float32()).fill_null(blank).to_numpy(zero_copy_only=False)
        )
    except pa.ArrowException as error:
        raise DataError(
            f"{where}: column {name!r} holds something else than numbers: {error}. Correct it, or "
            "rename the column."
        ) from error
    return found
