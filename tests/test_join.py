"""Two sets as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labelsieve.data.decode import decode_images
from labelsieve.data.join import joined
from labelsieve.data.read import read
from labelsieve.errors import DataError


def folder(path: Path, classes: dict[str, list[int]]) -> Path:
    """One picture of one color for each number, in a folder a class."""
    for name, colors in classes.items():
        (path / name).mkdir(parents=True)
        for i, color in enumerate(colors):
            Image.new("RGB", (8, 8), (color, 0, 0)).save(path / name / f"{i}.png")
    return path


def test_images_of_both_keep_their_pixels_labels_and_order(tmp_path: Path):
    first = read(folder(tmp_path / "a", {"cat": [10, 20], "dog": [30]}))
    second = read(folder(tmp_path / "b", {"bird": [40], "dog": [50, 60]}))
    both, is_second = joined(first, second)
    assert both.ids == ("cat/0.png", "cat/1.png", "dog/0.png",
                        "bird/0.png", "valid/dog/0.png", "dog/1.png")  # fmt: skip
    assert is_second.tolist() == [False] * 3 + [True] * 3
    assert both.class_names == ("bird", "cat", "dog")
    assert both.labels is not None
    assert both.labels.tolist() == [1, 1, 2, 0, 2, 2]
    pixels = decode_images(both, 8).values
    assert pixels[:, 0, 0, 0].tolist() == [10, 20, 30, 40, 50, 60]


def test_a_set_without_labels_or_truth_gives_none(tmp_path: Path):
    first = read(folder(tmp_path / "a", {"cat": [10], "dog": [30]}))
    second = replace(read(folder(tmp_path / "b", {"x": [40]})), labels=None, class_names=())
    both, _ = joined(first, replace(second, truth=("dog",)))
    assert both.labels is not None
    assert both.labels.tolist() == [0, 1, -1]
    assert both.truth == (None, None, "dog")
    neither = [replace(each, labels=None, class_names=()) for each in (first, second)]
    assert joined(*neither)[0].labels is None
    assert joined(*neither)[0].truth is None


def test_the_same_file_in_both_is_opened_once(tmp_path: Path):
    images = read(folder(tmp_path / "a", {"cat": [10], "dog": [30]}))
    both, _ = joined(images, images)
    assert len(both.places.files) == 2
    assert both.places.file.tolist() == [0, 1, 0, 1]


def test_sets_of_different_kinds_are_refused(tmp_path: Path):
    images = read(folder(tmp_path / "a", {"cat": [10], "dog": [30]}))
    other = replace(images, places=replace(images.places, kind="parquet", column="image"))
    with pytest.raises(DataError, match=r"holds file images and .*parquet images \(column 'image'"):
        joined(images, other)
    assert np.array_equal(joined(images, images)[0].places.start, np.zeros(4))
