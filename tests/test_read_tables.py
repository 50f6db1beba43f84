"""CSV and Parquet tables of images."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.data import places as places_module
from labelsieve.data.labels import described, sort_names
from labelsieve.data.places import Reader, reading_order
from labelsieve.data.read import read
from labelsieve.errors import DataError
from labelsieve.records import ImageSet
from made_sets import DATA, FEATURES, names, parquet, png, put, said, table_of

# CSV


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "T.CSV"])
def test_csv_names_images_relative_to_itself(tmp_path, name):
    put(tmp_path / "in" / "a, b.png", png(1))
    far = put(tmp_path / "far" / "c.png", png(2))
    path = table_of(
        tmp_path / "in" / name,
        ["image", "label", "real"],
        ["a, b.png", "cat", "dog"],
        [str(far), "dog", ""],
        ["../far/missing.png", "", "unicorn"],
    )
    images = read(path, truth="real")
    assert images.ids == ("a, b.png", str(far), "../far/missing.png")
    assert names(images) == ["cat", "dog", None]
    assert images.truth == ("dog", None, "unicorn")
    reader = Reader(images.places)
    assert [reader.read(0), reader.read(1)] == [png(1), png(2)]
    with pytest.raises(DataError, match=f"no such file: {tmp_path}/far/missing.png"):
        reader.read(2)


def test_csv_integers_are_sorted_as_numbers_and_minus_one_is_no_label(tmp_path):
    rows = [
        [str(put(tmp_path / f"{i}.png")), label] for i, label in enumerate(["10", "9", "-1", "9"])
    ]
    images = read(table_of(tmp_path / "t.csv", ["image", "label"], *rows))
    assert images.class_names == ("9", "10")
    assert images.labels.tolist() == [1, 0, -1, 0]


def test_csv_labels_with_bars_are_tags(tmp_path):
    rows = [["a.png", "sea|sun"], ["b.png", ""], ["c.png", "sun | sun"]]
    put(tmp_path / "a.png")
    images = read(table_of(tmp_path / "t.csv", ["image", "labels"], *rows))
    assert images.labels is None
    assert images.class_names == ("sea", "sun")
    assert images.tags.toarray().tolist() == [[1, 1], [0, 0], [0, 1]]
    images.save(tmp_path / "m.parquet")
    assert (ImageSet.load(tmp_path / "m.parquet").tags != images.tags).nnz == 0


def test_csv_without_labels(tmp_path):
    put(tmp_path / "a.png")
    images = read(table_of(tmp_path / "t.csv", ["image"], ["a.png"]))
    assert images.labels is None


def test_csv_from_a_spreadsheet_on_windows(tmp_path):
    put(tmp_path / "cat" / "a.png", png(3))
    (tmp_path / "t.csv").write_bytes("\ufeffimage,label\r\ncat\\a.png,cat\r\n\r\n".encode())
    images = read(tmp_path / "t.csv")
    assert images.ids == ("cat\\a.png",)
    assert Reader(images.places).read(0) == png(3)


def test_a_missing_column_names_near_ones_and_all(tmp_path):
    put(tmp_path / "a.png")
    path = table_of(tmp_path / "t.csv", ["image", "given", "real"], ["a.png", "x", "x"])
    with pytest.raises(DataError) as error:
        read(path, label="givn")
    assert said(error) == (
        f"{path}: no column 'givn' for --label. Did you mean 'given'? "
        "Its columns are: given, image, real."
    )
    with pytest.raises(
        DataError, match=r"no column 'x' for --truth. There are: given, image, real.$"
    ):
        read(path, truth="x")


def test_csv_without_an_image_column_is_an_error(tmp_path):
    path = table_of(tmp_path / "t.csv", ["file", "label"], ["a.png", "x"])
    with pytest.raises(DataError) as error:
        read(path)
    assert said(error) == (
        f"{path}: no column 'image' with the images' paths. Its columns are: file, label. "
        "Rename the column that holds them."
    )
    (tmp_path / "s.csv").write_text("image;label\na.png;cat\n")
    with pytest.raises(DataError, match="It seems to be separated by ';'; save it with ','."):
        read(tmp_path / "s.csv")
    (tmp_path / "e.csv").touch()
    with pytest.raises(DataError, match="Its columns are: none"):
        read(tmp_path / "e.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"image,label\na.png,x\nb.png\n", "line 3: 1 values, where the header names 2 columns"),
        (b"image,label\na.png,x,y\n", "line 2: 3 values"),
        (b'image,label\n"a.png,x\n', "cannot be read: unexpected end of data"),
        (b"image,label\na.png,caf\xe9\n", "not UTF-8: .* Save it as UTF-8"),
        (b"image,label\n,x\n", "row 1 names no image. Remove the row"),
        (b"image,label\n", "no rows, so no images"),
        (b"image,label,label\na.png,x,x\n", "the column 'label' is there twice"),
        (b"image\nb.png\n", "none of its first 1 images can be found; the first would be .*b.png"),
    ],
)
def test_a_csv_that_cannot_be_used_says_where_and_why(tmp_path, text, expected):
    put(tmp_path / "a.png")
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(DataError, match=expected):
        read(tmp_path / "t.csv")


def test_paths_that_all_lead_nowhere_are_an_error(tmp_path):
    rows = [[f"wrong/{i}.png"] for i in range(200)]
    with pytest.raises(DataError) as error:
        read(table_of(tmp_path / "t.csv", ["image"], *rows))
    assert said(error) == (
        f"{tmp_path}/t.csv: none of its first 100 images can be found; the first would be "
        f"{tmp_path}/wrong/0.png. Paths are relative to the folder of the table, or absolute."
    )


def test_an_image_in_two_rows_needs_an_id(tmp_path):
    put(tmp_path / "a.png")
    rows = [["a.png", "x", "0"], ["b.png", "x", "1"], ["a.png", "y", "2"]]
    path = table_of(tmp_path / "t.csv", ["image", "label", "number"], *rows)
    with pytest.raises(DataError) as error:
        read(path)
    assert said(error) == (
        f"{path}: the image 'a.png' is named in more than one row, such as 1 and 3. "
        "Give each image one row, or each row its own name in a column 'id'."
    )
    images = read(table_of(path, ["image", "label", "id"], *rows))
    assert images.ids == ("0", "1", "2")
    assert len(images.places.files) == 2


def test_truth_of_another_kind_than_the_labels_is_an_error(tmp_path):
    put(tmp_path / "a.png")
    path = table_of(tmp_path / "t.csv", ["image", "label", "real"], ["a.png", "cat", "3"])
    with pytest.raises(
        DataError, match=r"none of the values .* \(such as 3\) is one of the classes"
    ):
        read(path, truth="real")


# Parquet


def test_parquet_with_bytes_takes_ids_from_a_unique_column_or_the_row(tmp_path):
    path = parquet(tmp_path / "t.parquet", image=DATA, path=list("edcba"), label=[3, 1, 3, 20, 1])
    images = read(path)
    assert images.ids == ("e", "d", "c", "b", "a")
    assert images.class_names == ("1", "3", "20")
    assert [Reader(images.places).read(row) for row in range(5)] == DATA
    same = parquet(tmp_path / "t.parquet", image=DATA, path=list("aabcd"), id=[9, 8, 7, 6, 5])
    assert read(same).ids == ("9", "8", "7", "6", "5")
    none = parquet(tmp_path / "t.parquet", image=DATA, path=["a", "b", "c", "d", None])
    assert read(none).ids == tuple(f"row00000{i}" for i in range(5))


def test_parquet_with_paths(tmp_path):
    put(tmp_path / "a.png", png(9))
    path = parquet(tmp_path / "t.parquet", image=["a.png", "b.png"], label=["x", None])
    images = read(path)
    assert images.ids == ("a.png", "b.png")
    assert Reader(images.places).read(0) == png(9)
    assert names(images) == ["x", None]


def test_parquet_with_structs_of_hugging_face(tmp_path):
    put(tmp_path / "c.png", png(77))
    structs = [
        {"bytes": DATA[0], "path": "a.png"},
        {"bytes": None, "path": "c.png"},
        {"bytes": None, "path": "gone.png"},
    ]
    images = read(parquet(tmp_path / "t.parquet", img=structs))
    assert images.ids == ("a.png", "c.png", "gone.png")
    reader = Reader(images.places)
    assert [reader.read(0), reader.read(1)] == [DATA[0], png(77)]
    with pytest.raises(DataError, match="no such file"):
        reader.read(2)
    same = [{"bytes": data, "path": "image.png"} for data in DATA]
    assert read(parquet(tmp_path / "t.parquet", image=same)).ids[4] == "row000004"


def test_a_row_without_bytes_is_broken(tmp_path):
    images = read(parquet(tmp_path / "t.parquet", image=[DATA[0], None]))
    with pytest.raises(DataError, match="no bytes in the table"):
        Reader(images.places).read(1)


def test_class_names_of_hugging_face_metadata_are_used_for_labels_tags_and_truth(tmp_path):
    path = parquet(
        tmp_path / "t.parquet",
        FEATURES,
        image=DATA[:3],
        label=[0, 1, -1],
        real=[1, 1, 0],
        tags=[[0, 1], [], [1]],
    )
    images = read(path, truth="real")
    assert images.class_names == ("ant", "zebra")
    assert images.labels.tolist() == [1, 0, -1]
    assert images.truth == ("ant", "ant", "zebra")
    tagged = read(path, label="tags")
    assert tagged.class_names == ("a", "b")
    assert tagged.tags.toarray().tolist() == [[1, 1], [0, 0], [1, 0]]
    bad = parquet(tmp_path / "b.parquet", FEATURES, image=DATA[:2], label=[0, 2])
    with pytest.raises(DataError, match="column 'label' holds 2, but its metadata name only the 2"):
        read(bad)


def test_integers_that_pandas_made_floats_are_integers(tmp_path):
    path = parquet(tmp_path / "t.parquet", image=DATA[:3], label=[3.0, float("nan"), 12.0])
    images = read(path)
    assert images.class_names == ("3", "12")
    assert images.labels.tolist() == [0, -1, 1]
    path = parquet(tmp_path / "t.parquet", image=DATA[:2], label=[0.5, 1.0])
    with pytest.raises(
        DataError, match=r"column 'label' holds fractions such as 0.5; expected class"
    ):
        read(path)


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint64", "int32", "float16", "float32"])
def test_integers_of_any_width_are_labels(tmp_path, kind):
    label = np.array([3, 1, 20], kind)
    path = parquet(tmp_path / "t.parquet", image=DATA[:3], label=label, truth=label)
    images = read(path, truth="truth")
    assert images.class_names == ("1", "3", "20")
    assert images.labels.tolist() == [1, 0, 2]
    assert images.truth == ("3", "1", "20")


def test_label_columns_of_other_types(tmp_path):
    categories = pa.array(["x", "y", "x"]).dictionary_encode()
    path = parquet(
        tmp_path / "t.parquet", image=DATA[:3], label=categories, yes=[True, False, None]
    )
    assert names(read(path)) == ["x", "y", "x"]
    assert names(read(path, label="yes")) == ["true", "false", None]
    nothing = parquet(tmp_path / "t.parquet", image=DATA[:2], label=pa.array([None, None]))
    assert read(nothing).labels is None
    odd = parquet(tmp_path / "t.parquet", image=DATA[:1], label=[{"a": 1}])
    with pytest.raises(
        DataError, match="column 'label' holds struct<a: int64>; expected class names"
    ):
        read(odd)


def test_parquet_without_a_usable_image_column_is_an_error(tmp_path):
    with pytest.raises(
        DataError, match=r"no column 'image' with paths or bytes. Its columns are: a, b"
    ):
        read(parquet(tmp_path / "t.parquet", a=[1], b=[2]))
    with pytest.raises(
        DataError, match="column 'image' holds int64; expected paths, bytes, or structs"
    ):
        read(parquet(tmp_path / "t.parquet", image=[1]))
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(
        DataError, match=r"t.parquet: cannot be read as Parquet: .* Is it complete\?"
    ):
        read(tmp_path / "t.parquet")


def test_a_folder_of_parquet_shards_is_one_set(tmp_path):
    parquet(tmp_path / "b.parquet", image=DATA[2:], label=["y", "x", "x"])
    parquet(tmp_path / "a.parquet", image=DATA[:2], label=["x", "y"])
    images = read(tmp_path)
    assert len(images) == 5
    assert names(images) == ["x", "y", "y", "x", "x"]
    reader = Reader(images.places)
    assert [reader.read(row) for row in (4, 0, 2, 1, 3)] == [DATA[i] for i in (4, 0, 2, 1, 3)]
    parquet(tmp_path / "c.parquet", image=DATA[:1])
    with pytest.raises(
        DataError, match=r"c.parquet: no column 'label', which the other files have"
    ):
        read(tmp_path)


@given(order=st.permutations(range(60)), group=st.integers(1, 60), block=st.integers(1, 100))
def test_rows_of_a_parquet_file_are_found_in_any_order(order, group, block, tmp_path_factory):
    path = tmp_path_factory.mktemp("p") / "t.parquet"
    data = [b"%03d" % i for i in range(60)]
    pq.write_table(pa.table({"image": data}), path, row_group_size=group)
    reader = Reader(read(path).places)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places_module, "BLOCK_BYTES", block)
        assert [reader.read(row) for row in order] == [data[row] for row in order]


def test_reading_in_order_decodes_a_large_row_group_once(tmp_path, monkeypatch):
    data = [bytes([i]) * 1000 for i in range(200)]
    pq.write_table(pa.table({"image": data}), tmp_path / "t.parquet", compression="none")
    monkeypatch.setattr(places_module, "BLOCK_BYTES", 10_000)
    images = read(tmp_path / "t.parquet")
    shuffled = images.take(np.random.default_rng(0).permutation(200))
    reader = Reader(shuffled.places)
    restarts = []
    column = places_module._ParquetColumn
    restart = column._restart
    monkeypatch.setattr(column, "_restart", lambda self, g: (restarts.append(g), restart(self, g)))
    got = {shuffled.ids[row]: reader.read(row) for row in reading_order(shuffled.places)}
    assert [got[name] for name in images.ids] == data
    assert len(restarts) == 1
    held = reader._tables[0]._blocks
    assert sum(len(block) for block in held.values()) < 100


def test_memory_does_not_grow_with_the_row_group(tmp_path, monkeypatch):
    data = [bytes([i]) * 100_000 for i in range(240)]
    # the size of a page is looked at every write_batch_size values
    options = {"compression": "none", "use_dictionary": False, "write_batch_size": 10}
    pq.write_table(pa.table({"image": data}), tmp_path / "t.parquet", **options)
    monkeypatch.setattr(places_module, "BLOCK_BYTES", 1_000_000)
    reader = Reader(read(tmp_path / "t.parquet").places)
    before = pa.total_allocated_bytes()
    for row in range(240):
        reader.read(row)
        assert pa.total_allocated_bytes() - before < 12_000_000  # of 24 MB


# names


@given(st.sets(st.integers(-50, 1000)))
def test_integer_names_are_sorted_as_integers(values):
    assert sort_names(map(str, values)) == tuple(map(str, sorted(values)))


@given(st.lists(st.sampled_from(["a", "b", "7", "11", None]), min_size=1))
def test_labels_point_at_their_names(labels):
    found = described("t", pa.table({"label": pa.array(labels, pa.string())}), "label", None)
    if found.labels is None:
        assert set(labels) == {None}
        return
    assert [found.class_names[c] if c >= 0 else None for c in found.labels] == labels
    assert found.class_names == sort_names(name for name in labels if name is not None)


def test_a_set_of_a_hundred_thousand_rows_is_read_quickly_and_saved(tmp_path):
    n = 100_000
    put(tmp_path / "0.png")
    table = pa.table(
        {"image": [f"{i}.png" for i in range(n)], "label": [i % 100 for i in range(n)]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    images = read(tmp_path / "t.parquet")
    assert len(images) == n
    assert images.labels[:101].tolist() == [*range(100), 0]
    assert images.places.files[-1] == str(tmp_path / f"{n - 1}.png")
