"""Images to test on: their classes by name, and copies of what was learned from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csr_array

import labelsieve as ls
from labelsieve.data.copies import copies_in
from labelsieve.data.decode import decode_images
from labelsieve.data.held_out import read_held_out
from labelsieve.errors import DataError
from made_sets import png, put, table_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(("cat", "ant", "bee")):
        put(tmp_path / "test" / name / "1.png", png(i))
    return tmp_path / "test"


def test_classes_are_found_by_name_whatever_their_order(folder: Path):
    found = read_held_out(folder, None, ("cat", "bee", "zebra", "ant"))
    names = [name.split("/")[0] for name in found.images.ids]
    assert names == ["ant", "bee", "cat"]
    assert found.labels.tolist() == [3, 1, 0]
    assert found.labels.dtype == np.int64


def test_a_set_that_was_read_before_is_taken(folder: Path):
    images = ls.read(folder)
    found = read_held_out(images, None, ("cat", "bee", "ant"))
    assert found.images is images
    assert found.labels.tolist() == [2, 1, 0]


def test_images_without_a_label_stay_without(folder: Path, tmp_path: Path):
    rows = [[str(folder / "ant" / "1.png"), "ant"], [str(folder / "cat" / "1.png"), ""]]
    path = table_of(tmp_path / "t.csv", ["image", "what"], *rows)
    assert read_held_out(path, "what", ("ant", "cat")).labels.tolist() == [0, -1]


def test_classes_that_training_does_not_know_are_told(folder: Path):
    message = (
        r"--test .*test: 2 of its 3 classes are none of the training set's, such as 'ant' \(2 "
        r"images in all\); expected names among 'cat', 'dog'\. Name the column"
    )
    with pytest.raises(DataError, match=message):
        read_held_out(folder, None, ("cat", "dog"))
    many = tuple(f"class {i}" for i in range(9))
    with pytest.raises(DataError, match=r"among 'class 0', .*'class 4', \.\.\.\. Name"):
        read_held_out(folder, None, many)


def test_a_class_without_images_does_no_harm(folder: Path, tmp_path: Path):
    images = ls.read(folder).take(np.array([0, 2]))
    assert "bee" in images.class_names
    assert read_held_out(images, None, ("ant", "cat")).labels.tolist() == [0, 1]


def test_sets_without_labels_or_with_several_are_refused(folder: Path, tmp_path: Path):
    name = str(folder / "ant" / "1.png")
    plain = table_of(tmp_path / "plain.csv", ["image"], [name])
    with pytest.raises(DataError, match="one label each, and these have none. Name the column"):
        read_held_out(plain, None, ("ant",))
    empty = table_of(tmp_path / "empty.csv", ["image", "label"], [name, ""])
    with pytest.raises(DataError, match="and these have none"):
        read_held_out(empty, None, ("ant",))
    images = ls.read(folder)
    tagged = ls.ImageSet(
        source="tags", ids=images.ids, places=images.places, class_names=images.class_names,
        labels=None, tags=csr_array(np.eye(3, dtype=np.uint8)),
    )  # fmt: skip
    with pytest.raises(DataError, match="and these have several"):
        read_held_out(tagged, None, images.class_names)


def picture(seed: int, size: int = 40) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    )


def pair(first: Path, second: Path, size: int = 16) -> list[tuple[str, str]]:
    one, other = ls.read(first), ls.read(second)
    rows, others = copies_in(one, decode_images(one, size), other, decode_images(other, size))
    return [(one.ids[a], other.ids[b]) for a, b in zip(rows, others, strict=True)]


def test_pictures_of_another_set_are_found_whatever_their_file(tmp_path: Path):
    for i in range(4):
        put(tmp_path / "train" / f"{i}.png").unlink()
        picture(i).save(tmp_path / "train" / f"{i}.png")
    shutil.copy(tmp_path / "train" / "2.png", tmp_path / "train" / "3.png")  # twice there
    (tmp_path / "test").mkdir()
    picture(9).save(tmp_path / "test" / "new.png")
    picture(2).save(tmp_path / "test" / "again.bmp")  # the same pixels, another format
    (tmp_path / "test" / "torn.png").write_bytes(b"no picture")
    (tmp_path / "train" / "torn.png").write_bytes(b"no picture")
    assert pair(tmp_path / "test", tmp_path / "train") == [("again.bmp", "2.png")]
    assert pair(tmp_path / "train", tmp_path / "test") == [
        ("2.png", "again.bmp"), ("3.png", "again.bmp")
    ]  # fmt: skip


def test_photographs_that_differ_only_in_detail_are_no_copies(tmp_path: Path):
    rng = np.random.default_rng(0)
    flat = rng.integers(60, 190, (64, 64), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    board = np.where(np.indices(flat.shape).sum(axis=0) % 2, 30, -30)
    for place, gray in (("test/a", flat), ("train/b", flat + board), ("copies/c", flat)):
        (tmp_path / place).parent.mkdir()
        Image.fromarray(gray.astype(np.uint8)).save(tmp_path / f"{place}.jpg", quality=95)
    hashes = [decode_images(ls.read(tmp_path / name), 32).hashes[0] for name in ("test", "train")]
    assert hashes[0] == hashes[1]  # alike at an eighth of their size
    assert pair(tmp_path / "test", tmp_path / "train", 32) == []
    assert pair(tmp_path / "test", tmp_path / "copies", 32) == [("a.jpg", "c.jpg")]


def test_an_image_that_is_gone_is_no_copy(tmp_path: Path):
    for name in ("test", "train"):
        (tmp_path / name).mkdir()
        picture(1).save(tmp_path / name / "a.png")
    one, other = (ls.read(tmp_path / name) for name in ("test", "train"))
    pixels = decode_images(one, 16), decode_images(other, 16)
    (tmp_path / "train" / "a.png").unlink()
    rows, _ = copies_in(one, pixels[0], other, pixels[1])
    assert len(rows) == 0
