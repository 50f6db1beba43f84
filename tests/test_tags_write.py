from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_array

from labelsieve.data.tags.read import read_tags
from labelsieve.data.tags.write import write_tags
from labelsieve.errors import DataError, RunError
from labelsieve.records.tag_set import TagSet
from made_tag_files import also, tags_of, verified_of, without, written
from test_tags_files import HEADER, coco
from test_tags_tables import declared

Make = Callable[[Path], Path]  # a source whose image a has cat and sea, b dog, c nothing


def lists_csv(folder: Path) -> Path:
    return written(folder, "t.csv", "image,note,labels", "a,x,cat|sea", 'b,"1,5",dog', "c,,")


def spaced_csv(folder: Path) -> Path:
    return written(folder, "t.csv", "image,labels", "a,cat sea", "b,dog", "c,")


def json_csv(folder: Path) -> Path:
    return written(
        folder, "t.csv", "image,labels", 'a,"[""cat"",""sea""]"', 'b,"[""dog""]"', "c,[]"
    )


def lists_parquet(folder: Path) -> Path:
    kind = pa.dictionary(pa.int8(), pa.string())
    tags = pa.array([["cat", "sea"], ["dog"], []], pa.large_list(pa.string()))
    table = pa.table({"image": pa.array(["a", "b", "c"]).cast(kind), "labels": tags})
    pq.write_table(table, folder / "t.parquet")
    return folder / "t.parquet"


def class_labels(folder: Path) -> Path:
    tags = pa.array([[0, 2], [1], []], pa.list_(pa.int64()))
    table = pa.table({"image": ["a", "b", "c"], "labels": tags})
    table = table.replace_schema_metadata(declared(["cat", "dog", "sea"]))
    pq.write_table(table, folder / "t.parquet")
    return folder / "t.parquet"


def with_bytes(folder: Path) -> Path:
    table = pa.table(
        {"image": [b"1", b"2", b"3"], "id": ["a", "b", "c"], "tags": [["cat", "sea"], ["dog"], []]}
    )
    pq.write_table(table, folder / "t.parquet")
    return folder / "t.parquet"


def shards(folder: Path) -> Path:
    for number, rows in enumerate(([("a", ["cat", "sea"])], [("b", ["dog"]), ("c", [])])):
        names, tags = zip(*rows, strict=True)
        table = pa.table({"image": names, "labels": pa.array(tags, pa.list_(pa.string()))})
        (folder / "d").mkdir(exist_ok=True)
        pq.write_table(table, folder / "d" / f"{number}.parquet")
    return folder / "d"


def multi_hot(folder: Path) -> Path:
    return written(folder, "t.csv", "image,cat,dog,sea", "a,1,0,1", "b,0,1,", "c,0,0,0")


def signed(folder: Path) -> Path:
    return written(folder, "t.csv", "image,cat,dog,sea", "a,1,-1,1", "b,-1,1,-1", "c,-1,-1,-1")


def true_false(folder: Path) -> Path:
    table = pa.table({"image": ["a", "b", "c"], "cat": [True, False, None],
                      "dog": [False, True, False], "sea": [True, False, False]})  # fmt: skip
    pq.write_table(table, folder / "t.parquet")
    return folder / "t.parquet"


def long(folder: Path) -> Path:
    return written(folder, "t.csv", "image,label,confidence,source", "a,cat,0.9,m", "b,dog,0.8,m",
                   "a,sea,0.7,m", "c,,,m")  # fmt: skip


def nus_wide(folder: Path) -> Path:
    written(folder, "s/Imagelist.txt", "a", "b", "c")
    written(folder, "s/Labels_cat.txt", "1", "0", "0")
    written(folder, "s/Labels_dog.txt", "0", "1", "0")
    written(folder, "s/Labels_sea.txt", "1", "0", "0")
    return folder / "s"


def voc(folder: Path) -> Path:
    written(folder, "s/cat_train.txt", "a  1", "b -1", "c -1")
    written(folder, "s/dog_train.txt", "a -1", "b  1", "c  0")
    written(folder, "s/sea_train.txt", "a  1", "b -1", "c -1")
    return folder / "s"


def tag_lines(folder: Path) -> Path:
    return written(folder, "t.txt", "a cat sea", "b dog", "c")


ALL: tuple[Make, ...] = (lists_csv, spaced_csv, json_csv, lists_parquet, class_labels, with_bytes,
                         shards, multi_hot, signed, true_false, long, nus_wide, voc,
                         tag_lines)  # fmt: skip


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_what_is_written_reads_as_what_was_cleaned(tmp_path: Path, make: Make):
    source = make(tmp_path)
    found = read_tags(source)
    assert tags_of(found) == {"a": {"cat", "sea"}, "b": {"dog"}, "c": set()}
    cleaned = also(found, without(found, ("a", "sea")), ("b", "cat"), ("b", "sea"))
    out = tmp_path / "out" if source.is_dir() else tmp_path / f"out{source.suffix}"
    assert write_tags(found, cleaned, out) == ()
    if make is nus_wide:
        written(out, "Imagelist.txt", "a", "b", "c")
    again = read_tags(out)
    assert tags_of(again) == {"a": {"cat"}, "b": {"cat", "dog", "sea"}, "c": set()}
    assert again.form.family == found.form.family
    assert again.ids == found.ids


def rows_of(path: Path) -> list[list[str]]:
    """Values of CSV, be they quoted or not, and of other texts the lines."""
    text = path.read_text().replace('"", ""', '"",""')  # JSON with a space or without
    return list(csv.reader(text.splitlines())) if path.suffix == ".csv" else [text.splitlines()]


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_nothing_cleaned_writes_the_source_again(tmp_path: Path, make: Make):
    source = make(tmp_path)
    found = read_tags(source)
    out = tmp_path / "out" if source.is_dir() else tmp_path / f"out{source.suffix}"
    assert write_tags(found, found.asserted, out) == ()
    for file in found.form.files:
        copy = out / Path(file).name if source.is_dir() else out
        if copy.suffix == ".parquet":
            was, now = pq.read_table(file), pq.read_table(copy)
            same = [name for name in was.column_names if was[name].type != pa.binary()]
            assert now.select(same).equals(was.select(same), check_metadata=True)
        else:
            assert rows_of(copy) == rows_of(Path(file))


def test_what_is_not_about_tags_stays_and_spellings_are_those_kept(tmp_path: Path):
    source = written(
        tmp_path, "t.csv", "image,label,by", "a,Cat,x", "b,cat,y", "c,cat,z", "c,sea,z"
    )
    found = read_tags(source)
    write_tags(found, without(found, ("b", "cat")), tmp_path / "o.csv")
    assert (tmp_path / "o.csv").read_text() == "image,label,by\na,cat,x\nc,cat,z\nc,sea,z\n"


def test_open_images_keep_their_codes_and_what_people_said(tmp_path: Path):
    written(tmp_path, "d/annotations-machine.csv", HEADER, "01,machine,/m/a,0.9",
            "01,machine,/m/b,0.6", "02,machine,/m/a,0.8")  # fmt: skip
    human = written(tmp_path, "d/annotations-human.csv", HEADER, "01,verification,/m/a,0")
    written(tmp_path, "d/class-descriptions.csv", "/m/a,Tree", "/m/b,Bird")
    found = read_tags(tmp_path / "d")
    cleaned = also(found, without(found, ("01", "Tree")), ("02", "Bird"))
    write_tags(found, cleaned, tmp_path / "o")
    assert (tmp_path / "o" / human.name).read_text() == human.read_text()
    assert (tmp_path / "o" / "annotations-machine.csv").read_text().splitlines() == [
        HEADER, "01,machine,/m/b,0.6", "02,machine,/m/a,0.8", "02,machine,/m/b,0.75",
    ]  # fmt: skip
    written(tmp_path, "o/class-descriptions.csv", "/m/a,Tree", "/m/b,Bird")
    again = read_tags(tmp_path / "o")
    assert tags_of(again) == {"01": {"Bird"}, "02": {"Tree", "Bird"}}
    assert verified_of(again) == verified_of(found)


def test_coco_loses_annotations_of_tags_that_go_and_gets_none_for_those_that_come(tmp_path: Path):
    source = written(tmp_path, "i.json", json.dumps(coco()))
    found = read_tags(source)
    cleaned = also(found, without(found, ("a.jpg", "hair drier")), ("c.jpg", "cat"))
    notes = write_tags(found, cleaned, tmp_path / "o.json")
    assert notes == ("1 pairs have no box, so no annotation was written for them.",)
    made = json.loads((tmp_path / "o.json").read_text())
    assert [each["id"] for each in made["annotations"]] == [3]
    assert made["images"] == coco()["images"]
    write_tags(found, found.asserted, tmp_path / "p.json")
    kept = json.loads((tmp_path / "p.json").read_text())["annotations"]
    assert kept[0]["segmentation"] == [[1, 2]]


def test_lists_of_images_and_texts_beside_images_are_written_to_a_folder(tmp_path: Path):
    written(tmp_path, "s/sky.txt", "1", "2")
    written(tmp_path, "s/dog.txt", "2", "3")
    found = read_tags(tmp_path / "s")
    write_tags(found, without(found, ("2", "sky")), tmp_path / "o")
    assert (tmp_path / "o" / "sky.txt").read_text() == "1\n"
    assert (tmp_path / "o" / "dog.txt").read_text() == "2\n3\n"
    written(tmp_path, "b/x.jpg", "x")
    written(tmp_path, "b/x.txt", "hot dog, sky")
    beside = read_tags(tmp_path / "b")
    write_tags(beside, without(beside, ("x.jpg", "sky")), tmp_path / "q")
    assert (tmp_path / "q" / "x.txt").read_text() == "hot dog\n"


def test_labels_of_folders_are_written_as_lists(tmp_path: Path):
    written(tmp_path, "s/cat/a.jpg", "x")
    written(tmp_path, "s/dog/b.jpg", "x")
    found = read_tags(tmp_path / "s")
    write_tags(found, also(found, found.asserted, ("cat/a.jpg", "dog")), tmp_path / "o.csv")
    assert tags_of(read_tags(tmp_path / "o.csv")) == {
        "cat/a.jpg": {"cat", "dog"},
        "dog/b.jpg": {"dog"},
    }


def test_tags_that_the_form_has_no_place_for_are_counted(tmp_path: Path):
    found = read_tags(multi_hot(tmp_path), implies=["dog:animal"])
    notes = write_tags(found, found.asserted, tmp_path / "o.csv")
    assert notes == ("1 pairs are of tags that t.csv has no place for.",)


def test_cleaned_tags_of_another_set_a_full_folder_and_a_lost_source_are_refused(tmp_path: Path):
    source = lists_csv(tmp_path)
    found: TagSet = read_tags(source)
    with pytest.raises(DataError, match="cleaned tags of 1 images and 1 tags; expected 3 and 3"):
        write_tags(found, csr_array(np.ones((1, 1))), tmp_path / "o.csv")
    many = read_tags(shards(tmp_path))
    with pytest.raises(RunError, match="is not empty"):
        write_tags(many, many.asserted, tmp_path)
    source.unlink()
    with pytest.raises(DataError, match="is there no more, or no table. Put the source back"):
        write_tags(found, found.asserted, tmp_path / "o.csv")
