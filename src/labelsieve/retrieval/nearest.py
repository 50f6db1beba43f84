"""The nearest test images of each test image, as a table of a run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labelsieve.data.held_out import Gallery
from labelsieve.files import atomic, write_csv_batches
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Features, Neighbors

_N_RETRIEVED = 10  # nearest test images of each test image
_N_WRITTEN = 1 << 14  # test images that are written at once


def nearest_of_test(held_out: Gallery, features: Features) -> tuple[NDArray[np.int64], Neighbors]:
    """Which test images can be read, and the nearest others of each, as places among these."""
    place = {name: row for row, name in enumerate(held_out.images.ids)}
    rows = np.array([place[name] for name in features.ids], np.int64)
    n = min(_N_RETRIEVED, len(rows) - 1)
    return rows, nearest_neighbors(np.asarray(features.values), n)


def write_retrieved(held_out: Gallery, features: Features, folder: Path) -> None:
    """Write the nearest test images of each test image: retrieved.csv and retrieved.parquet."""
    rows, nearest = nearest_of_test(held_out, features)
    parts = partial(_retrieved_parts, held_out, rows, nearest)
    schema = next(parts()).schema
    write_csv_batches(parts(), schema, folder / "retrieved.csv")
    with (
        atomic(folder / "retrieved.parquet") as partial_file,
        pq.ParquetWriter(partial_file, schema) as writer,
    ):
        for part in parts():
            writer.write_batch(part)


def _retrieved_parts(
    held_out: Gallery, rows: NDArray[np.int64], nearest: Neighbors
) -> Iterator[pa.RecordBatch]:
    """The table of the nearest, some images at a time: whole, it is ten names for every image."""
    names = pa.array(held_out.images.ids, pa.string())
    words = pa.array(held_out.images.class_names, pa.string())
    labels, n = held_out.labels, nearest.indices.shape[1]
    for first in range(0, len(rows), _N_WRITTEN):
        some = slice(first, first + _N_WRITTEN)
        own, near = np.repeat(rows[some], n), rows[nearest.indices[some]].ravel()
        known = (labels[own] >= 0) & (labels[near] >= 0)
        yield pa.RecordBatch.from_pydict(
            {
                "image": names.take(pa.array(own)),
                "label": _picked(words, labels[own]),
                "rank": np.tile(np.arange(1, n + 1, dtype=np.int32), len(own) // n),
                "retrieved": names.take(pa.array(near)),
                "retrieved_label": _picked(words, labels[near]),
                "similarity": nearest.similarities[some].ravel(),
                "right": pa.array(labels[near] == labels[own], mask=~known),
            }
        )


def _picked(words: pa.Array, codes: NDArray[np.int64]) -> pa.Array:
    return words.take(pa.array(codes, mask=codes < 0))
