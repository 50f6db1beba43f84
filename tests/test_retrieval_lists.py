"""Published lists: labels found by name, and what cannot be found for certain is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from labelsieve.data.read import read
from labelsieve.data.retrieval_lists import label_by_list, read_retrieval_list
from labelsieve.errors import DataError
from labelsieve.records import ImageSet, Places
from made_sets import names

HASH = "4198c93c40cb88b7fa48e3e389ec5b1c--hummer.jpg"


def images_of(*ids: str) -> ImageSet:
    n = len(ids)
    nowhere = Places("file", ("x",), np.zeros(n, np.int32), *np.zeros((2, n), np.int64))
    return ImageSet("photos", ids, nowhere)


def list_of(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    return list_of(
        tmp_path / "CARS_0.5noised_train.csv",
        "/data/cars196/images/Audi A5 2012/00001.jpg,1",
        "/data/cars196/images/Audi A5 2012/00002.jpg,1",
        "/data/cars196/images/Audi A5 2012/00003.jpg,3",
        "/data/cars196/images/BMW M3 2012/00001.jpg,2",
        "/data/cars196/images/BMW M3 2012/00001_2.jpg,1",
        "/data/cars196/images/BMW M3 2012/00004.jpg,2",
        "/data/cars196/images/Ram C/V 2011/00005.jpg,3",
        "/data/cars196/images/Ram C/V 2011/00006.jpg,3",
    )


def test_labels_are_found_by_folder_and_name(cars: Path):
    listed = read_retrieval_list(cars)
    assert listed.class_names == ("Audi A5 2012", "BMW M3 2012", "V 2011")
    assert listed.numbers.tolist() == [1, 2, 3]
    images = images_of(
        "train/001.Audi_A5_2012/00001.jpg", "train/001.Audi_A5_2012/00003.JPG",
        "train/002.BMW_M3_2012/00004.jpg", "train/009.Fiat/00001.jpg",
    )  # fmt: skip
    found = label_by_list(images, listed)
    assert found.n_parts == 2
    assert names(found.images) == ["Audi A5 2012", "V 2011", "BMW M3 2012", None]
    assert found.entry.tolist() == [0, 2, 5, -1]
    assert found.unlisted == ("train/009.Fiat/00001.jpg",)
    assert len(found.missing) == 5
    assert found.warnings == (
        "1 images are not in the list and have no label: 'train/009.Fiat/00001.jpg'.",
        "5 entries of the list have no image: '/data/cars196/images/Audi A5 2012/00002.jpg', "
        "'/data/cars196/images/BMW M3 2012/00001.jpg', "
        "'/data/cars196/images/BMW M3 2012/00001_2.jpg', ....",
    )


def test_a_name_that_several_entries_have_is_ambiguous_unless_they_agree(cars: Path):
    found = label_by_list(images_of("00001.jpg", "00002.jpg"), read_retrieval_list(cars))
    assert found.n_parts == 1
    assert found.ambiguous == ("00001.jpg",)
    assert names(found.images) == [None, "Audi A5 2012"]
    found = label_by_list(
        images_of("00005.jpg"), read_retrieval_list(list_of(cars, "a/00005.jpg,3", "b/00005.jpg,3"))
    )
    assert found.images.labels.tolist() == [0]


def test_a_file_that_a_merge_may_have_renamed_is_ambiguous(cars: Path):
    listed = read_retrieval_list(cars)
    found = label_by_list(images_of("BMW M3 2012/00001.jpg"), listed)
    assert found.ambiguous == ("BMW M3 2012/00001.jpg",)
    both = images_of("BMW M3 2012/00001.jpg", "BMW M3 2012/00001_2.jpg")
    found = label_by_list(both, listed)  # renamed here as there
    assert names(found.images) == ["BMW M3 2012", "Audi A5 2012"]
    assert found.ambiguous == ()


def test_images_may_be_called_otherwise_in_the_list(cars: Path):
    images = images_of("one", "two")
    called = ["BMW M3 2012/00004.jpg", "Audi A5 2012/00002.jpg"]
    found = label_by_list(images, read_retrieval_list(cars), names=called)
    assert names(found.images) == ["BMW M3 2012", "Audi A5 2012"]
    assert found.images.ids == ("one", "two")


def test_numbers_that_were_sorted_as_text_are_called_by_their_folders(tmp_path: Path):
    lines = [f"/img_v3/{f}/{f}{i}.jpg,{k}" for k, f in enumerate((0, 1, 10, 2), 1) for i in (1, 2)]
    listed = read_retrieval_list(list_of(tmp_path / "CARSN_train.csv", *lines))
    assert listed.class_names == ("0", "1", "10", "2")
    assert listed.numbers.tolist() == [1, 2, 3, 4]
    found = label_by_list(images_of("10/101.jpg", "2/22.jpg"), listed)
    assert names(found.images) == ["10", "2"]  # not 3 and 4


def test_a_label_that_is_no_class_is_named_and_told(tmp_path: Path):
    lines = [f"/CUB/{f}/{f}_{i}.jpg,{k}" for k, f in enumerate("abc", 1) for i in range(4)]
    lines[5] = lines[5].replace(",2", ",101")
    listed = read_retrieval_list(list_of(tmp_path / "CUB_0.5noised_train.csv", *lines))
    assert listed.class_names == ("101", "a", "b", "c")
    assert listed.numbers.tolist() == [101, 1, 2, 3]
    assert listed.nameless == ("101",)
    found = label_by_list(images_of("b/b_0.jpg", "b/b_1.jpg"), listed)
    assert names(found.images) == ["b", "101"]
    assert "1 images have the label 101, which no folder stands for." in found.warnings


def test_where_folders_hold_many_classes_numbers_are_names(tmp_path: Path):
    lines = [f"/SOP/bicycle_final/{k}_{i}.JPG,{k}" for k in range(1, 30) for i in range(3)]
    listed = read_retrieval_list(list_of(tmp_path / "SOP_train.csv", *lines))
    assert set(listed.class_names) == {str(k) for k in range(1, 30)}
    assert listed.nameless == ()
    found = label_by_list(images_of("bicycle_final/12_0.JPG"), listed)
    assert names(found.images) == ["12"]
    assert found.warnings[0].startswith("86 entries of the list have no image")


def test_files_listed_under_several_classes_are_a_certain_signal(tmp_path: Path):
    path = list_of(
        tmp_path / "CARSN_train.csv", f"/v3/0/{HASH},1", f"/v3/1/{HASH},2", "/v3/1/00001.jpg,2",
        "/v3/0/00001.jpg,1", "/v3/0/a.gif,1",
    )  # fmt: skip
    listed = read_retrieval_list(path)
    assert listed.contradicting == (HASH,)  # a number in place of a hash may be another file
    found = label_by_list(images_of(f"0/{HASH}", f"1/{HASH}", "1/00001.jpg"), listed)
    assert found.contradicting == (f"0/{HASH}", f"1/{HASH}")
    assert names(found.images) == ["0", "1", "1"]
    assert found.skipped == ("/v3/0/a.gif",)
    assert found.missing == ("/v3/0/00001.jpg",)
    assert any("2 images are listed under several classes" in said for said in found.warnings)


def test_small_cluster_lists_are_called_by_their_hosts_and_know_what_is_wrong(tmp_path: Path):
    noisy = ["d/a/1.jpg,0", "d/a/2.jpg,1", "d/b/3.jpg,1", "d/b/4.jpg,1", "d/c/5.jpg,0",
             "d/c/6.jpg,0", "d/c/7.jpg,0"]  # fmt: skip
    right = list_of(tmp_path / "cleaned.csv", *noisy[2:])
    listed = read_retrieval_list(list_of(tmp_path / "noised.csv", *noisy), right=right)
    assert listed.class_names == ("b", "c")
    assert listed.numbers.tolist() == [1, 0]
    assert listed.wrong.tolist() == [True, True, False, False, False, False, False]
    assert read_retrieval_list(tmp_path / "noised.csv").wrong is None


def test_lists_of_another_form_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"a.csv:2: 'b.jpg,cat'; expected a path, a comma and the"):
        read_retrieval_list(list_of(tmp_path / "a.csv", "a.jpg,1", "b.jpg,cat"))
    with pytest.raises(DataError, match="e.csv: lists no images"):
        read_retrieval_list(list_of(tmp_path / "e.csv", ""))
    with pytest.raises(DataError, match="no.csv: cannot be read as a list of images"):
        read_retrieval_list(tmp_path / "no.csv")
    listed = read_retrieval_list(list_of(tmp_path / "l.csv", "x/a.jpg,1"))
    with pytest.raises(DataError, match=r"none of its 1 images is in .*'z.jpg'.*'x/a.jpg'"):
        label_by_list(images_of("z.jpg"), listed)


def test_real_lists_say_what_was_found_out_by_hand(shared_data: Path, tmp_path: Path):
    """The list of one part of Cars196, written again from labels that were matched elsewhere."""
    path = shared_data / "cars" / "cars.parquet"
    if not path.exists():
        pytest.skip("no Cars set")
    rows = [row for row in pq.read_table(path, columns=[
        "path", "split", "label_name", "prism_path", "prism_0_5noised",
        "prism_0_25smallclusternoised", "prism_0_25smallclusternoised_host", "label",
    ]).to_pylist() if row["split"] == "train"]  # fmt: skip
    name_of = {row["label"]: row["label_name"] for row in rows}
    images = read(str(path), label="label_name")
    for column, classes in (
        ("prism_0_5noised", name_of),
        ("prism_0_25smallclusternoised", {
            row["prism_0_25smallclusternoised"]: name_of[row["prism_0_25smallclusternoised_host"]]
            for row in rows
        }),
    ):  # fmt: skip
        lines = [f"/data/cars196/images/{row['prism_path']},{row[column]}" for row in rows]
        found = label_by_list(images, read_retrieval_list(list_of(tmp_path / "l.csv", *lines)))
        assert found.n_parts == 2
        assert len(found.unlisted) == 4092  # the test part
        assert found.missing == found.ambiguous == ()
        expected = {row["path"]: classes[row[column]] for row in rows}
        labels = dict(zip(found.images.ids, names(found.images), strict=True))
        assert {name: labels[name] for name in expected} == expected
