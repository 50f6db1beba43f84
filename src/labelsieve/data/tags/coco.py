"""COCO's instances: a category is a tag of an image that has an annotation of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from labelsieve.data.tags.batches import load_json
from labelsieve.data.tags.gather import Raw
from labelsieve.errors import DataError
from labelsieve.records.tag_set import Form

_PARTS = ("images", "annotations", "categories")


def read_coco(path: Path, least: float) -> Raw:
    """Images, categories and annotations; of detections the score is the confidence.

    Args:
        path: instances_*.json.
        least: score of a detection.

    Raises:
        DataError: no such JSON.
    """
    about = load_coco(path)
    raw = Raw(Form("coco", (str(path.resolve()),), "file_name", ("name",)), folder=path.parent)
    row_of = {each["id"]: row for row, each in enumerate(about["images"])}
    raw.images = {str(each["file_name"]): row_of[each["id"]] for each in about["images"]}
    if len(raw.images) < len(about["images"]):
        raise DataError(
            f"{path}: {len(about['images']) - len(raw.images)} images have the name of another; "
            "expected a file_name each. Rename them."
        )
    names = {each["id"]: str(each["name"]) for each in about["categories"]}
    for name in names.values():
        raw.tags.setdefault(name, len(raw.tags))
    columns = {number: raw.tags[name] for number, name in names.items()}
    _take(raw, about["annotations"], row_of, columns, least)
    raw.notes.append(
        f"COCO: {len(about['images']):,} images, {len(about['annotations']):,} annotations, "
        f"{len(names):,} categories; several annotations of a category are one tag."
    )
    return raw


def _take(
    raw: Raw,
    annotations: list[dict[str, Any]],
    row_of: Mapping[Any, int],
    columns: Mapping[Any, int],
    least: float,
) -> None:
    rows = np.array([row_of.get(each["image_id"], -1) for each in annotations], np.int32)
    numbers = np.array([columns.get(each["category_id"], -1) for each in annotations], np.int32)
    sure = np.array([each.get("score", 1.0) for each in annotations], np.float32)
    raw.drop("of an image that the file does not list", int(np.count_nonzero(rows < 0)))
    raw.drop("of a category that the file does not list", int(np.count_nonzero(numbers < 0)))
    raw.drop(f"with a score below {least:g}", int(np.count_nonzero(sure < least)))
    keep = sure >= least
    raw.asserted.add(rows[keep], numbers[keep], sure[keep])


def load_coco(path: Path, *, whole: bool = False) -> dict[str, list[dict[str, Any]]]:
    """The parsed file; outlines are dropped while it is parsed, unless it is to be written again.

    Raises:
        DataError: it cannot be read, or has not the three lists of COCO.
    """
    about = load_json(path, without="" if whole else "segmentation")
    if not isinstance(about, dict) or not all(isinstance(about.get(p), list) for p in _PARTS):
        raise DataError(
            f"{path}: JSON without the lists 'images', 'annotations' and 'categories' of COCO. "
            "Name a file of COCO instances, or write a table."
        )
    wanted = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"),
              "categories": ("id", "name")}  # fmt: skip
    for part, keys in wanted.items():
        for each in about[part]:
            if not all(key in each for key in keys):
                raise DataError(
                    f"{path}: one of its {part} lacks {' or '.join(map(repr, keys))}: "
                    f"{str(each)[:80]}. Make the file again."
                )
    return about
