"""Folders of images, hand-made and small enough to check in the head."""

from __future__ import annotations

import os
import random
import string
import sys

import numpy as np
import pytest

from labelsieve.data.places import Reader
from labelsieve.data.read import read
from labelsieve.errors import DataError
from labelsieve.records import ImageSet
from made_sets import names, png, put, said

POSIX = pytest.mark.skipif(os.name != "posix", reason="paths of POSIX systems")


def test_first_level_folders_are_classes_and_deeper_folders_are_not(tmp_path):
    for name in ("dog/2.png", "cat/b.png", "cat/more/a.png", "cat/.hidden.png", ".git/x.png"):
        put(tmp_path / name, png(len(name)))
    images = read(tmp_path)
    assert images.ids == ("cat/b.png", "cat/more/a.png", "dog/2.png")
    assert images.class_names == ("cat", "dog")
    assert names(images) == ["cat", "cat", "dog"]
    assert Reader(images.places).read(1) == png(len("cat/more/a.png"))
    assert images.truth is None
    assert images.tags is None


def test_ids_do_not_depend_on_the_order_of_the_file_system(tmp_path):
    order = list(string.ascii_letters)
    random.Random(0).shuffle(order)
    for name in order:
        put(tmp_path / "c" / name)
    assert read(tmp_path).ids == tuple(f"c/{name}" for name in sorted(order))


def test_a_flat_folder_has_no_labels(tmp_path):
    put(tmp_path / "b.JPG")
    put(tmp_path / "a.png")
    images = read(str(tmp_path))
    assert images.ids == ("a.png", "b.JPG")
    assert images.labels is None
    assert images.class_names == ()


def test_numbered_folders_are_sorted_by_number(tmp_path):
    for name in ("10", "9", "1"):
        put(tmp_path / name / "x.png")
    assert read(tmp_path).class_names == ("1", "9", "10")


def test_one_class_can_be_read(tmp_path):
    put(tmp_path / "cat" / "x.png")
    assert read(tmp_path).class_names == ("cat",)


def test_a_folder_without_images_is_no_class(tmp_path):
    put(tmp_path / "cat" / "x.png")
    (tmp_path / "empty").mkdir()
    put(tmp_path / "notes" / "x.txt", b"words")
    assert read(tmp_path).class_names == ("cat",)


def test_what_counts_as_an_image(tmp_path):
    taken = {
        "a.JPeG": b"not really",  # by suffix: decoding will say that it is broken
        "b": b"<html>an error page",  # no suffix: crawlers save so
        "c.jpg_large": png(),  # by its first bytes
        "d.png": b"\0",
        "e.heic": b"x",
    }
    left = {
        "README.md": b"words",
        "labels.csv": b"a,b",
        "Thumbs.db": png(),
        "desktop.ini": b"x",
        ".DS_Store": png(),
        "x.txt": b"words",
        "x.npy": b"\x93NUMPY",
    }
    for name, data in {**taken, **left}.items():
        put(tmp_path / "c" / name, data)
    assert read(tmp_path).ids == tuple(f"c/{name}" for name in taken)


def test_an_empty_file_is_part_of_the_set(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x.png").touch()
    assert read(tmp_path).ids == ("c/x.png",)


def test_images_beside_class_folders_are_an_error(tmp_path):
    put(tmp_path / "cat" / "x.png")
    put(tmp_path / "stray.png")
    put(tmp_path / "README", b"words")  # no image: it does not begin as one
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert said(error) == (
        f"{tmp_path}: 1 images, such as 'stray.png', lie beside 1 folders with images, such as "
        "'cat'. Expected either folders, which are the classes, or images without labels. "
        "Move the images or the folders."
    )
    (tmp_path / "stray.png").unlink()
    assert read(tmp_path).class_names == ("cat",)


def test_folders_named_like_splits_are_an_error(tmp_path):
    put(tmp_path / "train" / "cat" / "x.png")
    put(tmp_path / "test" / "cat" / "x.png")
    with pytest.raises(DataError, match="look like splits, not like classes") as error:
        read(tmp_path)
    assert f"Name one of them: {tmp_path}/test or {tmp_path}/train." in said(error)
    assert read(tmp_path / "train").class_names == ("cat",)


@POSIX
def test_links_are_followed_once_and_dead_ones_kept(tmp_path):
    put(tmp_path / "elsewhere" / "x.png")
    root = tmp_path / "set"
    put(root / "cat" / "y.png")
    (root / "cat" / "link.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    (root / "cat" / "dead.png").symlink_to(tmp_path / "nowhere.png")
    (root / "cat" / "circle").symlink_to(root / "cat")
    (root / "cat" / "up").symlink_to(root)
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    images = read(root)
    assert images.ids == ("cat/dead.png", "cat/link.png", "cat/y.png", "dog/x.png")
    reader = Reader(images.places)
    assert reader.read(1) == reader.read(3) == png()
    with pytest.raises(DataError, match=r"a link to .*nowhere.png, where there is no file"):
        reader.read(0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of bytes")
def test_names_that_are_not_utf_8_get_ids_that_are(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/\xff.png", "wb") as file:
        file.write(png(7))
    images = read(tmp_path)
    assert images.ids == ("caf\\xe9/\\xff.png",)
    assert images.class_names == ("caf\\xe9",)
    assert Reader(images.places).read(0) == png(7)
    images.save(tmp_path / "set.parquet")
    again = ImageSet.load(tmp_path / "set.parquet")
    assert Reader(again.places).read(0) == png(7)
    assert again.fingerprint() == images.fingerprint()


def denied(path: object, *_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    put(tmp_path / "cat" / "x.png")
    put(tmp_path / "dog" / "x.png")
    scandir = os.scandir
    closed = str(tmp_path / "dog")
    monkeypatch.setattr(
        os, "scandir", lambda path: denied(path) if str(path) == closed else scandir(path)
    )
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert said(error) == (
        f"{tmp_path}: the folder {closed} cannot be listed: Permission denied. "
        "Make it readable, or move it away."
    )


def test_a_file_that_cannot_be_opened_is_broken_and_not_an_error(tmp_path, monkeypatch):
    put(tmp_path / "cat" / "x.png")
    images = read(tmp_path)
    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(DataError, match="^permission denied$"):
        Reader(images.places).read(0)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert said(error) == (
        f"{tmp_path}: no images: it is empty. Expected a folder of images, a .csv, .tsv, .parquet "
        "or .tar file, or a folder of .parquet or .tar."
    )
    put(tmp_path / "x" / "a.txt", b"words")
    put(tmp_path / "b.txt", b"words")
    put(tmp_path / "c.md", b"words")
    with pytest.raises(DataError, match=r"no images: it holds 3 files \(1 .md, 2 .txt\)"):
        read(tmp_path)


def test_a_folder_has_no_columns(tmp_path):
    put(tmp_path / "cat" / "x.png")
    with pytest.raises(DataError, match="a folder of images has no column 'real' for --truth"):
        read(tmp_path, truth="real")


def test_a_path_that_is_not_there_names_near_ones(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError) as error:
        read(tmp_path / "photo")
    assert said(error) == (
        f"{tmp_path}/photo: no such file or folder. Did you mean '{tmp_path}/photos'?"
    )
    with pytest.raises(DataError, match="Did you mean"):
        read(tmp_path / "potos" / "train" / "cat")
    with pytest.raises(DataError, match="has no 'zzzzzz'"):
        read(tmp_path / "zzzzzz")


def test_a_file_of_another_kind_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"one image. Expected a folder of images, a .csv"):
        read(put(tmp_path / "x.jpg"))
    with pytest.raises(DataError, match=r"a file of another kind \(x.zip\)"):
        read(put(tmp_path / "x.zip"))


def test_real_sets_are_read(shared_data):
    images = read(shared_data / "cifar10" / "train.parquet", label="cifar10n_worse", truth="label")
    assert len(images) == 50_000
    assert images.class_names == tuple("0123456789")
    assert images.ids[0] == "train/airplane/0000.jpg"
    given_names = np.array(images.class_names)[images.labels]
    wrong = (given_names != np.array(images.truth)).mean()
    assert wrong == pytest.approx(0.4021, abs=0.0001)  # the set's README
