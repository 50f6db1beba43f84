from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from labelsieve.data.tags.read import read_tags
from labelsieve.data.tags.write import write_tags
from labelsieve.errors import DataError
from made_tag_files import said, tags_of, verified_of, without, written
from test_tags_tables import declared

HEADER = "ImageID,Source,LabelName,Confidence"


def test_open_images_v1_has_machine_and_people_in_one_file(tmp_path: Path):
    written(tmp_path, "labels.csv", HEADER, "000026e7ee790996,machine,/m/07j7r,0.9",
            "000026e7ee790996,human,/m/07j7r,0.0", "000062a39995e348,machine,/m/07j7r,0.4",
            "000062a39995e348,machine,/m/015p6,0.6")  # fmt: skip
    written(tmp_path, "dict.csv", '"/m/07j7r","Tree, ""big"""', '"/m/015p6","Bird"')
    found = read_tags(tmp_path)
    assert tags_of(found) == {"000026e7ee790996": {'Tree, "big"'}, "000062a39995e348": {"Bird"}}
    assert verified_of(found) == {("000026e7ee790996", 'Tree, "big"'): -1}
    assert "4 rows, one an image and tag ('ImageID', 'LabelName'), 1 of them answers" in said(found)
    assert "1 rows with a confidence below 0.5 were dropped." in said(found)


@pytest.mark.parametrize(
    ("machine", "human", "names"),
    [
        ("annotations-machine.csv", "annotations-human.csv", "class-descriptions.csv"),
        ("train-annotations-machine-imagelabels.csv", "train-annotations-human-imagelabels.csv",
         "class-descriptions.csv"),
        ("oidv7-val-annotations-machine-imagelabels.csv",
         "oidv7-val-annotations-human-imagelabels.csv", "oidv7-class-descriptions.csv"),
    ],
)  # fmt: skip
def test_later_open_images_have_two_files_and_either_finds_the_other(
    tmp_path: Path, machine: str, human: str, names: str
):
    first = written(
        tmp_path, f"d/{machine}", HEADER, "00a1,machine,/m/a,0.7", "00a2,machine,/m/b,.5"
    )
    second = written(tmp_path, f"d/{human}", HEADER, "00a1,verification,/m/a,0",
                     "00a2,crowdsource-verification,/m/b,1",
                     "00a3,verification,/m/a,1")  # fmt: skip
    header = ["LabelName,DisplayName"] if names.startswith("oid") else []
    written(tmp_path, names, *header, "/m/a,Squash", "/m/b,Squash")
    for source in (tmp_path / "d", first, second, tmp_path):
        found = read_tags(source)
        assert found.tag_names == ("Squash (/m/a)", "Squash (/m/b)")
        assert tags_of(found) == {
            "00a1": {"Squash (/m/a)"},
            "00a2": {"Squash (/m/b)"},
            "00a3": set(),
        }
        assert verified_of(found) == {
            ("00a1", "Squash (/m/a)"): -1, ("00a2", "Squash (/m/b)"): 1,
            ("00a3", "Squash (/m/a)"): 1,
        }  # fmt: skip


def test_only_answers_of_people_count_as_asserted_too(tmp_path: Path):
    path = written(tmp_path, "annotations-human.csv", HEADER, "01,verification,/m/a,0",
                   "02,verification,/m/a,1")  # fmt: skip
    found = read_tags(path)
    assert tags_of(found) == {"01": {"/m/a"}, "02": {"/m/a"}}
    assert verified_of(found) == {("01", "/m/a"): -1, ("02", "/m/a"): 1}
    assert "what was asked counts as asserted" in said(found)
    assert "No file with the names of the codes was found" in said(found)


def coco(**changes: object) -> dict[str, object]:
    return {
        "images": [{"id": 5, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"},
                   {"id": 3, "file_name": "c.jpg"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 90, "name": "hair drier"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 90, "segmentation": [[1, 2]], "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 90},
            {"id": 3, "image_id": 2, "category_id": 1},
            {"id": 4, "image_id": 9, "category_id": 1},
            {"id": 5, "image_id": 2, "category_id": 7},
        ],
    } | changes  # fmt: skip


def test_coco_annotations_are_tags_of_their_images(tmp_path: Path):
    path = written(tmp_path, "instances.json", json.dumps(coco()))
    found = read_tags(path)
    assert tags_of(found) == {"a.jpg": {"hair drier"}, "b.jpg": {"cat"}, "c.jpg": set()}
    assert "1 rows of an image that the file does not list were dropped." in said(found)
    assert "1 rows of a category that the file does not list were dropped." in said(found)
    assert "1 images have no tag" in said(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1: no JSON"),
        ("[]", "without the lists 'images', 'annotations' and 'categories'"),
        (json.dumps(coco(categories=[{"id": 1}])), "one of its categories lacks 'id' or 'name'"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, text: str, words: str):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_tags(path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    main = "VOC2007/ImageSets/Main"
    written(tmp_path, f"{main}/train.txt", "000005", "000007")
    written(tmp_path, f"{main}/cat_train.txt", "000005 -1", "000007  1")
    written(tmp_path, f"{main}/cat_val.txt", "000009  0")
    written(tmp_path, f"{main}/dining_table_train.txt", "000005  1", "000007  1")
    written(tmp_path, f"{main}/dining_table_val.txt", "000009  1")
    written(tmp_path, "VOC2007/JPEGImages/000005.jpg", "x")
    return tmp_path / "VOC2007"


def test_voc_lists_assert_ones_and_leave_difficult_unknown(voc: Path):
    found = read_tags(voc, images=voc / "JPEGImages")
    assert tags_of(found) == {
        "000005": {"dining_table"}, "000007": {"cat", "dining_table"}, "000009": {"dining_table"},
    }  # fmt: skip
    assert found.verified.nnz == 0
    assert "1 pairs are 0, difficult: unknown, not asserted." in said(found)
    assert "of train, val" in said(found)
    assert tags_of(read_tags(voc / "ImageSets" / "Main")) == tags_of(found)


def test_a_voc_line_of_another_form_is_refused_with_its_number(voc: Path):
    written(voc, "ImageSets/Main/cat_train.txt", "000005 -1", "000007 2")
    with pytest.raises(DataError, match=r"cat_train.txt, line 2: '000007 2'"):
        read_tags(voc)


def test_nus_wide_labels_follow_the_order_of_the_image_list(tmp_path: Path):
    written(
        tmp_path, "ImageList/Imagelist.txt", "actor\\0001.jpg", "zoo\\0002.jpg", "zoo\\0003.jpg"
    )
    written(tmp_path, "AllLabels/Labels_sky.txt", "1", "0", "1")
    written(tmp_path, "AllLabels/Labels_water.txt", "0", "0", "1")
    found = read_tags(tmp_path / "AllLabels")
    assert tags_of(found) == {
        "actor/0001.jpg": {"sky"}, "zoo/0002.jpg": set(), "zoo/0003.jpg": {"sky", "water"},
    }  # fmt: skip
    written(tmp_path, "AllLabels/Labels_water.txt", "0", "0")
    with pytest.raises(DataError, match="2 values for the 3 images"):
        read_tags(tmp_path / "AllLabels")
    (tmp_path / "ImageList" / "Imagelist.txt").unlink()
    with pytest.raises(DataError, match="without the list of their images"):
        read_tags(tmp_path / "AllLabels")


def test_lines_of_an_image_and_its_tags_are_read(tmp_path: Path):
    path = written(tmp_path, "All_Tags.txt", "2124494179   sky water", "77", "", "88 sky")
    assert tags_of(read_tags(path)) == {"2124494179": {"sky", "water"}, "77": set(), "88": {"sky"}}


def test_mirflickr_lists_of_confirmed_images_are_verified(tmp_path: Path):
    written(tmp_path, "sky.txt", "1", "2")
    written(tmp_path, "dog.txt", "2", "3")
    written(tmp_path, "dog_r1.txt", "3")
    written(tmp_path, "README.txt", "MIRFLICKR-25000 was made")
    found = read_tags(tmp_path)
    assert tags_of(found) == {"1": {"sky"}, "2": {"sky", "dog"}, "3": {"dog"}}
    assert verified_of(found) == {("2", "dog"): -1, ("3", "dog"): 1}
    assert "1 tags are never verified: sky." in said(found)


@pytest.mark.parametrize("text", ["sky, hot dog", "sky\nhot dog"])
def test_texts_beside_images_are_their_tags(tmp_path: Path, text: str):
    for name in ("a.jpg", "b.jpg"):
        written(tmp_path, name, "x")
    written(tmp_path, "a.txt", text)
    found = read_tags(tmp_path)
    assert tags_of(found) == {"a.jpg": {"sky", "hot dog"}, "b.jpg": set()}
    assert "1 of 2 images have a text of tags beside them" in said(found)
    assert found.images is not None


def test_folders_of_images_give_one_tag_each_and_flat_ones_none(tmp_path: Path):
    for name in ("cat/a.jpg", "dog/b.jpg"):
        written(tmp_path, name, "x")
    assert tags_of(read_tags(tmp_path)) == {"cat/a.jpg": {"cat"}, "dog/b.jpg": {"dog"}}
    with pytest.raises(DataError, match="no tags .*Expected a table"):
        read_tags(tmp_path / "cat")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images: it is empty"):
        read_tags(tmp_path / "empty")


def test_the_real_pair_of_mirflickr_is_read_as_the_paper_means_it(shared_data: Path):
    table = shared_data / "mirflickr" / "mirflickr64.parquet"
    by_column = read_tags(table, label="wide_", verified="strict_", truth="strict_")
    by_list = read_tags(table, label="labels_wide", verified="labels_strict")
    assert by_column.images is not None
    assert (by_column.asserted != by_list.asserted).nnz == 0
    assert (by_column.verified != by_list.verified).nnz == 0
    assert int(by_column.never_verified.sum()) == 10
    rejected = (by_column.verified.data < 0).mean()
    assert 0.25 < rejected < 0.35  # 30.6 % in all 25,000


def test_a_saved_data_set_is_read_from_its_arrow_files_and_written_as_parquet(tmp_path: Path):
    folder = tmp_path / "saved"
    written(folder, "state.json", json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
    written(folder, "dataset_info.json", "{}")
    kind = pa.list_(pa.int64())
    table = pa.table({"image": ["a", "b"], "labels": pa.array([[0, 1], [1]], kind)})
    table = table.replace_schema_metadata(declared(["cat", "sea"]))
    with pa.ipc.new_stream(folder / "data-0.arrow", table.schema) as stream:
        stream.write_table(table)
    found = read_tags(folder)
    assert tags_of(found) == {"a": {"cat", "sea"}, "b": {"sea"}}
    write_tags(found, without(found, ("a", "sea")), tmp_path / "o.parquet")
    assert tags_of(read_tags(tmp_path / "o.parquet")) == {"a": {"cat"}, "b": {"sea"}}


def test_tags_in_the_json_of_tars_are_read(tmp_path: Path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, data in (
            ("1.jpg", b"x"), ("1.json", b'{"labels": ["cat", "sea"]}'),
            ("2.jpg", b"y"), ("2.json", b'{"labels": ["sea"]}'),
        ):  # fmt: skip
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    found = read_tags(tmp_path / "t.tar", label="labels")
    assert sorted(map(sorted, tags_of(found).values())) == [["cat", "sea"], ["sea"]]
    assert found.images is not None
    assert found.images.places.kind == "tar"
