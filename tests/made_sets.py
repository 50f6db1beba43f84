"""Small image sets on disk, made by hand, for the tests of what reads them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from labelsieve.errors import DataError
from labelsieve.records import ImageSet


def png(value: int = 0, size: int = 4) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(out, "PNG")
    return out.getvalue()


def put(path: Path, data: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data or png())
    return path


def names(images: ImageSet) -> list[str | None]:
    """The label of each image by name."""
    assert images.labels is not None
    return [images.class_names[c] if c >= 0 else None for c in images.labels]


def said(error: pytest.ExceptionInfo[DataError]) -> str:
    return str(error.value)


def table_of(path: Path, header: list[str], *rows: list[str]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(
            [header, *rows]
        )
    return path


def parquet(path: Path, metadata: dict[str, object] | None = None, /, **columns: object) -> Path:
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    if metadata is not None:
        about = json.dumps({"info": {"features": metadata}})
        table = table.replace_schema_metadata({"huggingface": about})
    pq.write_table(table, path, row_group_size=2)
    return path


DATA = [png(i) for i in range(5)]


FEATURES = {
    "label": {"_type": "ClassLabel", "names": ["zebra", "ant"]},
    "tags": {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": ["b", "a"]}},
}
