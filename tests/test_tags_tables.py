from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from labelsieve.data.tags import batches
from labelsieve.data.tags.gather import Pairs, matrix_of
from labelsieve.data.tags.read import read_tags
from labelsieve.errors import ConfigError, DataError
from made_tag_files import said, tags_of, verified_of, written

TWO = {"a.jpg": {"cat", "sea"}, "b.jpg": {"dog"}, "c.jpg": set()}


@pytest.mark.parametrize("separator", ["|", ";", ",", " ", ", "])
def test_lists_as_text_are_split_at_what_stands_between(tmp_path: Path, separator: str):
    table = written(
        tmp_path, "t.csv", "image,labels", f'a.jpg,"cat{separator}sea"', "b.jpg,dog", "c.jpg,"
    )
    found = read_tags(table)
    assert tags_of(found) == TWO
    assert "1 rows have no tags; their images are kept." in said(found)
    assert found.form.family == "lists"


def test_json_and_python_lists_in_csv_are_lists(tmp_path: Path):
    table = written(
        tmp_path, "t.csv", "image,tags", 'a.jpg,"[""cat"", ""sea""]"', "b.jpg,['dog']", "c.jpg,[]"
    )
    assert tags_of(read_tags(table)) == TWO


def test_a_list_column_of_parquet_holds_names_or_numbers(tmp_path: Path):
    table = pa.table(
        {"image": ["a.jpg", "b.jpg", "c.jpg"], "labels": [["cat", "sea"], ["dog"], []]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert tags_of(read_tags(tmp_path / "t.parquet")) == TWO
    numbers = pa.table(
        {"image": ["a", "b"], "labels": pa.array([[10, 9], [2]], pa.list_(pa.int64()))}
    )
    pq.write_table(numbers, tmp_path / "n.parquet")
    found = read_tags(tmp_path / "n.parquet")
    assert found.tag_names == ("2", "9", "10")
    assert tags_of(found) == {"a": {"9", "10"}, "b": {"2"}}


def declared(names: list[str]) -> dict[bytes, bytes]:
    feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "Sequence"}
    return {b"huggingface": json.dumps({"info": {"features": {"labels": feature}}}).encode()}


def test_numbers_of_hugging_face_class_labels_become_names(tmp_path: Path):
    kind = pa.list_(pa.int64())
    table = pa.table({"image": ["a", "b"], "labels": pa.array([[0, 2], [1]], kind)})
    table = table.replace_schema_metadata(declared(["cat", "dog", "sea"]))
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_tags(tmp_path / "t.parquet")
    assert tags_of(found) == {"a": {"cat", "sea"}, "b": {"dog"}}
    table = table.replace_schema_metadata(declared(["cat", "dog"]))
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="numbers outside its 2 declared classes"):
        read_tags(tmp_path / "t.parquet")


def test_columns_of_zeros_and_ones_are_tags(tmp_path: Path):
    table = written(
        tmp_path,
        "t.csv",
        "image,split,cat,dog,sea",
        "a.jpg,x,1,0,1",
        "b.jpg,x,0,1,0",
        "c.jpg,y,0,,0",
    )
    found = read_tags(table)
    assert tags_of(found) == TWO
    assert "1 cells are blank: read as not asserted." in said(found)


def test_minus_one_in_tag_columns_is_not_asserted_and_said(tmp_path: Path):
    table = written(
        tmp_path, "t.csv", "image,cat,dog,sea", "a.jpg,1,-1,1", "b.jpg,-1,1,0", "c.jpg,0,0,0"
    )
    found = read_tags(table)
    assert tags_of(found) == TWO
    assert found.verified.nnz == 0
    assert "2 cells are -1: read as not asserted, as 0 is" in said(found)


def test_a_prefix_names_tag_columns_and_is_not_part_of_the_tags(tmp_path: Path):
    table = pa.table(
        {"image": ["a", "b"], "wide_cat": [True, False], "wide_sea": [True, True], "x": [0, 1]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_tags(tmp_path / "t.parquet", label="wide_")
    assert tags_of(found) == {"a": {"cat", "sea"}, "b": {"sea"}}


def test_another_number_in_a_tag_column_is_refused(tmp_path: Path):
    table = written(tmp_path, "t.csv", "image,t_cat,t_dog", "a,1,0", "b,3,1")
    with pytest.raises(DataError, match=r"column 't_cat' .* holds 3; expected 0, 1, -1 or blank"):
        read_tags(table, label="t_")


def test_long_tables_have_confidences_and_drop_what_is_unsure(tmp_path: Path):
    table = written(
        tmp_path, "t.csv", "image,label,confidence", "b,dog,0.9", "a,cat,0.5", "a,sea,0.4",
        "a,cat,0.7", "a,fox,", ",dog,1", "c,,1",
    )  # fmt: skip
    found = read_tags(table)
    assert found.ids == ("b", "a", "c")
    assert tags_of(found) == {"a": {"cat", "fox"}, "b": {"dog"}, "c": set()}
    cat = found.asserted.toarray()[1, found.tag_names.index("cat")]
    assert cat == np.float32(0.7)
    for words in (
        "1 rows with a confidence below 0.5 were dropped.",
        "1 rows without an image's name were dropped.",
        "1 rows without a tag were dropped.",
        "1 pairs were there more than once",
    ):
        assert words in said(found)
    assert tags_of(read_tags(table, least_confidence=0.4))["a"] == {"cat", "fox", "sea"}


def test_rows_of_people_in_a_long_table_are_verified_not_asserted(tmp_path: Path):
    table = written(
        tmp_path, "t.csv", "image,label,confidence,source", "a,cat,0.9,model", "a,cat,0,human",
        "b,cat,0.8,model", "b,sea,1,verification",
    )  # fmt: skip
    found = read_tags(table)
    assert tags_of(found) == {"a": {"cat"}, "b": {"cat"}}
    assert verified_of(found) == {("a", "cat"): -1, ("b", "sea"): 1}
    assert "1 tags are verified and asserted nowhere: sea" in said(found)


def test_confidences_out_of_range_are_refused(tmp_path: Path):
    table = written(tmp_path, "t.csv", "image,label,confidence", "a,cat,90")
    with pytest.raises(DataError, match="runs from 90 to 90; expected confidences from 0 to 1"):
        read_tags(table)
    with pytest.raises(ConfigError, match="least_confidence is 2"):
        read_tags(table, least_confidence=2)


def test_ids_stay_text_with_their_leading_zeros(tmp_path: Path):
    table = written(tmp_path, "t.csv", "image,label", "000012,cat", "0000ab,sea")
    assert read_tags(table).ids == ("000012", "0000ab")


def test_images_named_in_several_rows_are_merged_and_counted(tmp_path: Path):
    table = written(tmp_path, "t.csv", "image,labels", "a,cat|sea", "b,dog", "a,cat|fox")
    found = read_tags(table)
    assert tags_of(found) == {"a": {"cat", "sea", "fox"}, "b": {"dog"}}
    assert "1 rows are of images that had a row before; merged with it." in said(found)


def test_rows_of_another_length_are_dropped_and_counted(tmp_path: Path):
    table = written(tmp_path, "t.csv", "image,labels", "a,cat", "b,dog,sea", "c,fox")
    found = read_tags(table)
    assert found.ids == ("a", "c")
    assert "1 rows with too few or too many values were dropped" in said(found)


def test_semicolons_between_columns_and_a_mark_at_the_start_are_understood(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfimage;labels\na;cat,sea\nb;dog\n")
    assert tags_of(read_tags(path)) == {"a": {"cat", "sea"}, "b": {"dog"}}


def test_a_wrong_encoding_is_found_with_its_line(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_bytes("image,labels\na,cat\nb,café\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"t\.csv, line 3: not UTF-8; as Windows-1252 .*café"):
        read_tags(path)
    path.write_bytes("image,labels\na,cat\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"t\.csv: is UTF-16; expected UTF-8"):
        read_tags(path)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["image,labels"], "no rows, so no images"),
        (["image,labels", "a,", "b,"], "2 images and not one tag"),
        (["image,label,confidence", "a,cat,.1"], "1 rows with a confidence below 0.5 were dropped"),
        (["name,labels", "a,cat"], "no column 'image' with the images' names"),
        (["image,text", "a,hello"], "no tags are recognized. Its columns are: image, text"),
        (["image,labels,labels", "a,x,y"], "the column 'labels' is there twice"),
        ([], "is empty"),
    ],
)
def test_tables_without_what_is_needed_say_what_is_missing(tmp_path: Path, lines, words: str):
    with pytest.raises(DataError, match=words):
        read_tags(written(tmp_path, "t.csv", *lines))


def test_other_files_and_missing_ones_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="a file of another kind. Expected a table"):
        read_tags(written(tmp_path, "t.docx", "x"))
    with pytest.raises(DataError, match="no such file or folder"):
        read_tags(tmp_path / "none.csv")
    table = written(tmp_path, "t.csv", "image,labels", "a,cat")
    with pytest.raises(DataError, match="no column 'labls'.*Did you mean 'labels'"):
        read_tags(table, label="labls")


def test_images_beside_the_table_go_along_and_none_is_said(tmp_path: Path):
    table = written(tmp_path, "t.csv", "image,labels", "a.jpg,cat", "b.jpg,dog")
    found = read_tags(table)
    assert found.images is None
    assert "No files of images" in said(found)
    written(tmp_path, "a.jpg", "x")
    images = read_tags(table).images
    assert images is not None
    assert images.places.files[0] == str(tmp_path / "a.jpg")


def test_a_folder_of_images_is_searched_by_path_name_and_stem(tmp_path: Path):
    table = written(tmp_path, "t.csv", "image,labels", "a,cat", "x/b.jpg,dog", "7,sea", "none,fox")
    for name in ("f/a.jpg", "f/x/b.jpg", "f/im7.jpg", "f/more.jpg"):
        written(tmp_path, name, "x")
    found = read_tags(table, images=tmp_path / "f")
    assert found.images is not None
    files = [Path(found.images.places.files[i]).name for i in found.images.places.file[:3]]
    assert files == ["a.jpg", "b.jpg", "im7.jpg"]
    assert "3 of 4 images have a file" in said(found)
    assert "1 have none, such as 'none'" in said(found)
    assert "1 images of the folder are named nowhere" in said(found)
    written(tmp_path, "g/z.jpg", "x")
    with pytest.raises(DataError, match="none of the 4 images is among its 1 files"):
        read_tags(table, images=tmp_path / "g")


def test_images_as_bytes_in_parquet_go_along_by_row(tmp_path: Path):
    table = pa.table({"image": [b"x", b"y"], "path": ["a", "b"], "labels": ["cat sea", "sea"]})
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_tags(tmp_path / "t.parquet")
    assert tags_of(found) == {"a": {"cat", "sea"}, "b": {"sea"}}
    assert found.images is not None
    assert found.images.places.kind == "parquet"


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 6),
    n_tags=st.integers(1, 5),
    size=st.integers(0, 40),
)
def test_pairs_in_any_order_make_the_matrix_of_their_maxima(seed, n, n_tags, size):
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(0, n, size), rng.integers(0, n_tags, size)
    values = rng.uniform(0.1, 1, size).astype(np.float32)
    slow: dict[tuple[int, int], float] = {}
    for pair, value in zip(zip(rows.tolist(), columns.tolist(), strict=True), values, strict=True):
        slow[pair] = max(slow.get(pair, 0), value)
    pairs = Pairs(rows.astype(np.int32), columns.astype(np.int32), values)
    made, n_again = matrix_of(pairs, (n, n_tags), np.maximum)
    dense = np.zeros((n, n_tags), np.float32)
    for pair, value in slow.items():
        dense[pair] = value
    assert (made.toarray() == dense).all()
    assert n_again == size - len(slow)
    assert isinstance(made, csr_array)
    assert made.has_canonical_format


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("form", ["lists", "multi-hot", "long"])
def test_where_a_batch_ends_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, suffix: str
):
    rng = np.random.default_rng(0)
    rows, columns = np.nonzero(rng.random((40, 4)) < 0.4)
    ids = [f"{row:04d}" for row in range(40)]
    names = ["cat", "dog", "hot dog", "sea"]
    tags = [[names[c] for c in columns[rows == row]] for row in range(40)]
    table = {
        "lists": {"image": ids, "labels": ["|".join(each) for each in tags]},
        "multi-hot": {"image": ids}
        | {name: [int(name in each) for each in tags] for name in names},
        "long": {"image": [ids[r] for r in rows], "label": [names[c] for c in columns]},
    }[form]
    path = tmp_path / f"t{suffix}"
    if suffix == ".csv":
        pa_csv.write_csv(pa.table(table), path)
    else:
        pq.write_table(pa.table(table), path)
    whole = read_tags(path)
    assert whole.form.family == form
    monkeypatch.setattr(batches, "_BLOCK", 100)
    monkeypatch.setattr(batches, "_BATCH", 3)
    parts = read_tags(path)
    assert parts.fingerprint() == whole.fingerprint()
    assert parts.understood == whole.understood
    assert len(list(batches.open_table(path).batches(["image"]))) > 5
