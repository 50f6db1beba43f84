"""Parquet files of ours: a table, and what its metadata say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labelsieve.errors import DataError


def read_table(path: Path, dictionary: Sequence[str] = ()) -> tuple[pa.Table, dict[str, Any]]:
    """A Parquet file of ours, and what its metadata say.

    Args:
        path: of the file.
        dictionary: columns of texts that repeat, read as dictionaries: a tenth of the memory.

    Raises:
        DataError: it cannot be read, or is not ours.
    """
    try:
        table = pq.read_table(path, read_dictionary=list(dictionary) or None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}.") from error
    metadata = table.schema.metadata or {}
    if b"labelsieve" not in metadata:
        raise DataError(f"{path}: not a file of ours: its metadata have no 'labelsieve' entry.")
    about: dict[str, Any] = json.loads(metadata[b"labelsieve"])
    return table, about
