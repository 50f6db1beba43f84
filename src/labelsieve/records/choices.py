"""The most probable classes of an image, in order: what clusters and predictions have in common.

Axis letters: N images, C classes or clusters, K the choices kept for an image, at most five.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from labelsieve.errors import DataError, import_extra
from labelsieve.files import write_csv

N_CHOICES = 5  # most probable classes kept for an image: what top-5 accuracy needs
_BLOCK = 1 << 14  # rows sorted at a time: 1.28 million x 1,000 probabilities are not copied at once


class Written(Protocol):
    """A record with contracted columns."""

    def to_arrow(self) -> pa.Table: ...
    def save(self, path: Path) -> None: ...


def most_probable(
    values: NDArray[np.float32], n_choices: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(N, n_choices) columns by falling value, ties to the lower, and values; -1 and NaN of NaN."""
    choices = np.empty((len(values), n_choices), np.int64)
    kept = np.empty((len(values), n_choices), np.float32)
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK].copy()
        rows = np.arange(len(block))
        unknown = np.isnan(block).any(axis=1)
        for k in range(n_choices):  # a few passes, which break ties by number; a sort of all is 10x
            best = block.argmax(axis=1)
            choices[start + rows, k] = np.where(unknown, -1, best)
            kept[start + rows, k] = np.where(unknown, np.nan, block[rows, best])
            block[rows, best] = -np.inf
    return choices, kept


def first_choice(choices: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) the most probable of (N, K), -1 where there is none."""
    return choices[:, 0] if choices.shape[1] else np.full(len(choices), -1, np.int64)


def first_probability(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) the probability of the first of (N, K) choices, NaN where there is none."""
    if probabilities.shape[1]:
        return probabilities[:, 0]
    return np.full(len(probabilities), np.nan, np.float32)


def count_choices(choices: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """(C,) images whose most probable class it is; those without one are in none."""
    first = first_choice(choices)
    return np.bincount(first[first >= 0], minlength=n_classes).astype(np.int64)


def check_choices(
    choices: NDArray[np.int64], probabilities: NDArray[np.float32], n_classes: int, classes: str
) -> None:
    """Complain of choices that are none of the classes, or do not go with their probabilities.

    Args:
        choices: (N, K) most probable first; -1 none.
        probabilities: (N, K) of the choices; NaN where there is none.
        n_classes: C.
        classes: what they are called, such as "clusters".

    Raises:
        DataError: as it says.
    """
    if choices.ndim != 2 or choices.shape != probabilities.shape:
        raise DataError(
            f"choices of shape {choices.shape} with probabilities of shape "
            f"{probabilities.shape}; expected one probability for each choice."
        )
    if choices.size and not -1 <= choices.min() <= choices.max() < n_classes:
        raise DataError(
            f"choices run from {choices.min()} to {choices.max()} with {n_classes} {classes}."
        )
    if ((choices < 0) != np.isnan(probabilities)).any():
        raise DataError("a choice has a probability where there is a choice, and NaN else.")


def choice_column(
    choices: NDArray[np.int64], probabilities: NDArray[np.float32], k: int
) -> tuple[pa.Array, pa.Array]:
    """The k-th choice and its probability; null where there is none."""
    if k >= choices.shape[1]:
        return pa.nulls(len(choices), pa.int32()), pa.nulls(len(choices), pa.float32())
    none = choices[:, k] < 0
    return (
        pa.array(choices[:, k].astype(np.int32), mask=none),
        pa.array(probabilities[:, k].astype(np.float32), mask=none),
    )


def choice_lists(
    choices: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    names: pa.Array | None = None,
) -> tuple[pa.ListArray, pa.ListArray]:
    """All choices of each image and their probabilities, as lists without what is missing.

    Args:
        choices: (N, K), -1 none.
        probabilities: (N, K).
        names: (C,) what to write in place of the numbers.
    """
    chosen = choices >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(chosen.sum(axis=1))]), pa.int32())
    numbers = pa.array(choices[chosen], pa.int32())
    found = (
        numbers if names is None else names.take(numbers),
        pa.array(probabilities[chosen], pa.float32()),
    )
    return tuple(pa.ListArray.from_arrays(offsets, items) for items in found)


def rows_of_lists(
    column: pa.ChunkedArray, width: int, missing: NDArray[Any], names: pa.Array | None = None
) -> NDArray[Any]:
    """Lists of at most `width` as rows, filled up with what stands for a missing item.

    Args:
        column: what `choice_lists` made.
        width: K.
        missing: of no dimension; its type is that of the rows.
        names: (C,) where the lists hold these in place of their numbers.
    """
    lists = column.combine_chunks()
    items = lists.flatten()
    if names is not None:
        items = pc.index_in(items, value_set=names)
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    rows = np.full((len(lists), width), missing, missing.dtype)
    rows[np.arange(width) < lengths[:, None]] = items.to_numpy(zero_copy_only=False)
    return rows


def to_pandas(record: Written) -> Any:
    """A pandas DataFrame of a record's columns."""
    import_extra("pandas", "pandas", f"{type(record).__name__}.to_pandas()")
    return record.to_arrow().to_pandas()


def write(record: Written, path: str | Path) -> None:
    """Write a record's columns as .csv or .parquet, by the name of the file.

    Raises:
        DataError: another suffix.
        RunError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        write_csv(record.to_arrow(), path)
    elif path.suffix.lower() == ".parquet":
        record.save(path)
    else:
        what = type(record).__name__.lower()
        raise DataError(f"{path}: {what} are written as .csv or .parquet. Name such a file.")


def in_common(
    first: tuple[str, ...],
    of_first: NDArray[np.int64],
    second: tuple[str, ...],
    of_second: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What two runs say of the images that both could read, matched by id, in the first's order.

    Args:
        first: (N,) ids.
        of_first: (N,) class or cluster of each, -1 none.
        second: (M,) ids.
        of_second: (M,) of these.

    Raises:
        DataError: there is no such image.
    """
    if first != second:
        rows = {name: row for row, name in enumerate(second)}
        place = np.array([rows.get(name, -1) for name in first], np.int64)
        known = np.append(of_second, -1)  # the place -1 is that of no image
        of_second = known[place]
    both = (of_first >= 0) & (of_second >= 0)
    if not both.any():
        raise DataError(
            "two of the runs have no image in common that both could read. "
            "Compare runs on the same images."
        )
    return of_first[both], of_second[both]
