"""Pairs of images and tags as they come in, by numbers; texts are kept once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.records import ImageSet
from labelsieve.records.tag_set import Form, compact

Rows = NDArray[np.int32]


class Pairs(NamedTuple):
    """Images and tags by number, with a value each."""

    rows: Rows  # (P,)
    columns: Rows  # (P,)
    values: NDArray[Any]  # (P,)


class Pile:
    """Pairs in the order they come; 12 bytes each with float32 values."""

    def __init__(self, kind: type[np.generic]) -> None:
        self._kind = kind
        self._parts: list[Pairs] = []

    def add(self, rows: Rows, columns: Rows, values: NDArray[Any] | float = 1) -> None:
        """Take pairs whose image and tag are known (>= 0)."""
        known = (rows >= 0) & (columns >= 0)
        filled = np.broadcast_to(np.asarray(values, self._kind), rows.shape)
        self._parts.append(Pairs(rows[known], columns[known], filled[known]))

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self._parts)

    def counts(self, n_columns: int) -> NDArray[np.int64]:
        """(C,) how many pairs have each tag."""
        found = np.zeros(n_columns, np.int64)
        for part in self._parts:
            found += np.bincount(part.columns, minlength=n_columns)
        return found

    def repeat(self, other: Pile) -> None:
        """Take the pairs of another pile, each with the value 1."""
        for part in list(other._parts):
            self.add(part.rows, part.columns)

    def pairs(self) -> Pairs:
        """All of them in one piece; the pile is empty afterwards, to save its memory."""
        rows = [np.zeros(0, np.int32), *(part.rows for part in self._parts)]
        columns = [np.zeros(0, np.int32), *(part.columns for part in self._parts)]
        values = [np.zeros(0, self._kind), *(part.values for part in self._parts)]
        self._parts = []
        return Pairs(_joined(rows), _joined(columns), _joined(values))


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Arrays in one, with the parts freed before the next are joined."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


class Votes:
    """What people answered, one answer a pair, and who and when where that is told."""

    def __init__(self) -> None:
        self.answers = Pile(np.int8)  # +1 present, -1 absent
        self.people: dict[str, int] = {}
        self._who: list[Rows] = []
        self._when: list[NDArray[np.str_]] = []

    def add(
        self,
        rows: Rows,
        columns: Rows,
        present: NDArray[np.bool_],
        who: Rows | None = None,
        when: NDArray[np.str_] | None = None,
    ) -> None:
        """Take answers to pairs whose image and tag are known (>= 0); -1 is nobody known."""
        known = (rows >= 0) & (columns >= 0)
        self.answers.add(rows, columns, np.where(present, 1, -1))
        self._who.append(np.full(len(rows), -1, np.int32)[known] if who is None else who[known])
        self._when.append(np.full(len(rows), "")[known] if when is None else when[known])

    def who(self) -> Rows:
        """(A,) beside the answers."""
        return np.concatenate([np.zeros(0, np.int32), *self._who])

    def when(self) -> NDArray[np.str_]:
        """(A,) beside the answers, "" where it is not told."""
        return np.concatenate([np.zeros(0, "U1"), *self._when])


@dataclass
class Listed:
    """What a list of right tags says: those named are present, others only where looked at."""

    present: Pile = field(default_factory=lambda: Pile(np.int8))
    absent: Pile = field(default_factory=lambda: Pile(np.int8))  # -1 in a column of -1, 0 and 1
    zero: Pile = field(default_factory=lambda: Pile(np.int8))  # 0 in a column of 0 and 1
    looked_at: list[Rows] = field(default_factory=list)  # images with a list, be it empty
    named: bool = True  # lists: what an image's list does not name is absent there


@dataclass
class Raw:
    """What a source says, in its own words."""

    form: Form
    images: dict[str, int] = field(default_factory=dict)  # id -> row, in order of appearance
    tags: dict[str, int] = field(default_factory=dict)  # as written -> number
    asserted: Pile = field(default_factory=lambda: Pile(np.float32))
    votes: Votes = field(default_factory=Votes)
    listed: Listed | None = None
    notes: list[str] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> rows
    examples: dict[str, str] = field(default_factory=dict)  # reason -> what one of them was
    names: dict[str, str] = field(default_factory=dict)  # as written -> name, where codes are used
    bytes_of: ImageSet | None = None  # where the source holds the images themselves
    folder: Path | None = None  # that ids are paths in

    def drop(self, reason: str, n: int, example: object = "") -> None:
        """Count rows that are not used."""
        if n:
            self.dropped[reason] += n
            self.examples.setdefault(reason, str(example))

    def image_rows(self, column: pa.Array, *, known_only: bool = False) -> Rows:
        """(B,) rows of ids, -1 for none; new ids get the next rows."""
        return codes(self.images, column, known_only=known_only)

    def tag_columns(self, column: pa.Array) -> Rows:
        """(B,) numbers of tags, -1 for none; new tags get the next numbers."""
        return codes(self.tags, column)


def codes(known: dict[str, int], column: pa.Array, *, known_only: bool = False) -> Rows:
    """Numbers of texts; each different text of a batch is looked up once.

    Example:
        >>> codes(known := {"a": 0}, pa.array(["b", "a", None, "b"])), known
        (array([ 1,  0, -1,  1], dtype=int32), {'a': 0, 'b': 1})
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    coded = column.cast(pa.string()).dictionary_encode()
    texts: Sequence[str] = coded.dictionary.to_pylist()
    if known_only:
        found = [known.get(text, -1) for text in texts]
    else:
        found = [known.setdefault(text, len(known)) for text in texts]
    numbers = np.array([*found, -1], np.int32)
    rows: Rows = numbers[coded.indices.fill_null(len(found)).to_numpy(zero_copy_only=False)]
    return rows


def matrix_of(pairs: Pairs, shape: tuple[int, int], merge: np.ufunc) -> tuple[csr_array, int]:
    """Pairs as CSR; of a pair that is there more than once, the values are merged.

    What is sorted by image already, as most tables are, is not sorted again.

    Args:
        pairs: their images and tags are within `shape`.
        shape: (N, C).
        merge: np.maximum for confidences, np.add for votes.

    Returns:
        the matrix; how many pairs were there once more.
    """
    rows, columns, values = pairs
    if len(rows) and (rows[1:] < rows[:-1]).any():
        order = np.argsort(rows, kind="stable")
        rows, columns, values = rows[order], columns[order], values[order]
    pointers = np.zeros(shape[0] + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=shape[0]), out=pointers[1:])
    if len(rows) < 2**31:
        pointers = pointers.astype(np.int32)
    matrix = csr_array((values, columns, pointers), shape=shape)
    matrix.sort_indices()
    again = np.zeros(len(rows), np.bool_)
    again[1:] = (matrix.indices[1:] == matrix.indices[:-1]) & (rows[1:] == rows[:-1])
    n_again = int(np.count_nonzero(again))
    if n_again:
        first = np.flatnonzero(~again)
        merged = merge.reduceat(matrix.data, first)
        np.cumsum(np.bincount(rows[first], minlength=shape[0]), out=pointers[1:])
        matrix = csr_array((merged, matrix.indices[first], pointers), shape=shape)
    return compact(matrix, values.dtype.type), n_again
