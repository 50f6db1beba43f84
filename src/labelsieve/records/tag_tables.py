"""Tables of pairs of an image and a tag, written and read in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.files import atomic, write_csv_batches

PAIR_SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "tag": pa.string(),
        "given": pa.bool_(),
        "verified": pa.bool_(),
        "probability": pa.float32(),
        "verdict": pa.string(),
    }
)
IMAGE_SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "given_labels": pa.list_(pa.string()),
        "clean_labels": pa.list_(pa.string()),
    }
)


def write_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> None:
    """Write a table that is never there as a whole as .csv or .parquet, by the name of the file.

    Raises:
        DataError: another suffix.
        RunError: the file cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise DataError(f"{path}: tags are written as .csv or .parquet. Name such a file.")
    (write_parquet_batches if kind == ".parquet" else write_csv_batches)(batches, schema, path)


def write_parquet_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> None:
    """Write a Parquet file, one group of rows a batch, atomically.

    Raises:
        RunError: the file cannot be written.
    """
    with atomic(path) as partial, pq.ParquetWriter(partial, schema) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def image_runs(
    column: pa.ChunkedArray, n_images: int, bare: Sequence[tuple[int, str]]
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """The image of each pair, and the names of all images.

    Args:
        column: (R,) names, as dictionaries, sorted by image: each is one run of pairs.
        n_images: N.
        bare: (row, name) of the images that have no pair.

    Returns:
        (R,) rows; (N,) names.
    """
    ids = [""] * n_images
    for row, name in bare:
        ids[row] = name
    empty = {row for row, _ in bare}
    places = np.array([row for row in range(n_images) if row not in empty], np.int32)
    known, last, rows = -1, None, [np.empty(0, np.int32)]
    for chunk in column.chunks:
        numbers = chunk.indices.to_numpy()
        starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))[: len(numbers)]
        names = chunk.dictionary.take(pa.array(numbers[starts])).to_pylist()
        if names and names[0] == last:  # an image's pairs go on from the chunk before
            known -= 1
        for i, name in enumerate(names):
            ids[places[known + 1 + i]] = name
        lengths = np.diff(starts, append=len(numbers))
        rows.append(np.repeat(places[known + 1 : known + 1 + len(names)], lengths))
        known += len(names)
        last = names[-1] if names else last
    return np.concatenate(rows), tuple(ids)


def places_of(column: pa.ChunkedArray, names: Sequence[str]) -> NDArray[np.int32]:
    """(R,) the number of each name among names; the column holds dictionaries."""
    known = pa.array(names, pa.string())
    found = [np.empty(0, np.int32)]
    for chunk in column.chunks:
        of_dictionary = pc.index_in(chunk.dictionary, value_set=known).to_numpy()
        found.append(of_dictionary[chunk.indices.to_numpy()])
    return np.concatenate(found)
