"""A text file of tags beside each image: NAME.txt beside NAME.jpg."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from labelsieve.data.tags.batches import read_text
from labelsieve.data.tags.gather import Raw
from labelsieve.records import ImageSet
from labelsieve.records.tag_set import Form


def read_sidecars(images: ImageSet) -> Raw | None:
    """Tags from the texts beside images of a folder; None where not one image has a text.

    Tags are lines; where commas or `|` stand between them, these; else words.
    """
    files = [Path(images.places.files[number]) for number in images.places.file.tolist()]
    texts = {row: text for row, path in enumerate(files) if (text := _text(path)) is not None}
    if not texts:
        return None
    separator = separator_of_texts(texts)
    raw = Raw(Form("sidecar", separator=separator), bytes_of=images)
    raw.images = {name: row for row, name in enumerate(images.ids)}
    rows: list[int] = []
    tags: list[str] = []
    for row, text in texts.items():
        found = tags_of(text, separator)
        rows += [row] * len(found)
        tags += found
    raw.asserted.add(np.array(rows, np.int32), raw.tag_columns(pa.array(tags, pa.string())))
    between = {"": "spaces", "\n": "a line each"}.get(separator, repr(separator))
    raw.notes.append(
        f"{len(texts):,} of {len(images):,} images have a text of tags beside them ({between})."
    )
    return raw


def separator_of_texts(texts: Mapping[int, str]) -> str:
    """What stands between the tags of texts: comma, |, line ends or spaces ("")."""
    inside = "".join(texts.values())
    for separator in (",", "|"):
        if separator in inside:
            return separator
    return "\n" if any("\n" in text.strip() for text in texts.values()) else ""


def tags_of(text: str, separator: str) -> list[str]:
    """The tags of one text."""
    parts = text.replace("\n", separator).split(separator) if separator else text.split()
    return [part.strip() for part in parts if part.strip()]


def _text(path: Path) -> str | None:
    beside = path.with_suffix(".txt")
    return read_text(beside) if os.path.isfile(beside) else None
