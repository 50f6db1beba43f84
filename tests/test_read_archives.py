"""Data set folders of Hugging Face, and tars of WebDataset."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from labelsieve.data.places import Reader
from labelsieve.data.read import read
from labelsieve.data.tars import expand_braces
from labelsieve.errors import DataError
from made_sets import DATA, FEATURES, names, png

# Hugging Face data set folders


def hugging_face(folder: Path, tables: list[pa.Table]) -> Path:
    """What datasets.save_to_disk writes, of one or more shards."""
    folder.mkdir()
    files = [f"data-{i:05d}-of-{len(tables):05d}.arrow" for i in range(len(tables))]
    for name, table in zip(files, tables, strict=True):
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": f} for f in files]})
    )
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_data_set_folder_is_read_without_its_library(tmp_path):
    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    structs = [{"bytes": data, "path": None} for data in DATA]
    table = pa.table({"image": structs, "label": [0, 1, 0, 1, 1]}).replace_schema_metadata(metadata)
    images = read(hugging_face(tmp_path / "set", [table[:3], table[3:]]))
    assert names(images) == ["zebra", "ant", "zebra", "ant", "ant"]
    assert images.ids[4] == "row000004"
    reader = Reader(images.places)
    assert [reader.read(row) for row in (4, 3, 2, 1, 0)] == DATA[::-1]


def test_a_data_set_that_the_library_saved_can_be_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ant"])}
    )
    pictures = [Image.new("L", (3, 3), value) for value in (10, 20, 30)]
    made = datasets.Dataset.from_dict({"image": pictures, "label": [1, 0, 1]}, features=features)
    made.select([2, 1]).save_to_disk(tmp_path / "set")
    images = read(tmp_path / "set")
    assert names(images) == ["ant", "zebra"]
    assert Image.open(io.BytesIO(Reader(images.places).read(0))).getpixel((0, 0)) == 30
    datasets.DatasetDict(train=made, test=made).save_to_disk(tmp_path / "both")
    with pytest.raises(
        DataError, match="with the splits test, train. Name one of them: .*both/test or"
    ):
        read(tmp_path / "both")
    assert len(read(tmp_path / "both" / "train")) == 3


def test_a_damaged_data_set_folder_is_an_error(tmp_path):
    folder = hugging_face(tmp_path / "set", [pa.table({"image": DATA})])
    (folder / "data-00000-of-00001.arrow").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot be read as Arrow"):
        read(folder)
    (folder / "state.json").write_text("{}")
    with pytest.raises(DataError, match="does not list the files of a data set"):
        read(folder)


# WebDataset


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def test_samples_of_a_tar_have_keys_images_and_classes(tmp_path):
    path = tar(
        tmp_path / "x.tar",
        {
            "./a/0001.seg.png": png(8),
            "./a/0001.JPG": png(1),
            "./a/0001.cls": b"10\n",
            "a/0002.png": png(2),
            "a/0002.cls": b"9",
            "a/0003.cls": b"9",
            "b/0001.jpg": png(3),
        },
    )
    images = read(path)
    assert images.ids == ("a/0001", "a/0002", "b/0001")
    assert images.class_names == ("9", "10")
    assert images.labels.tolist() == [1, 0, -1]
    reader = Reader(images.places)
    assert [reader.read(row) for row in range(3)] == [png(1), png(2), png(3)]


def test_fields_of_json_are_columns(tmp_path):
    def fields(**values: object) -> bytes:
        return json.dumps(values).encode()

    path = tar(
        tmp_path / "x.tar",
        {
            "1.png": png(1),
            "1.json": fields(label="cat", real="dog", tags=["x", "y"], noise={"a": 1}),
            "2.json": fields(label="dog", real="dog", tags=["y"]),
            "2.png": png(2),
        },
    )
    images = read(path, truth="real")
    assert names(images) == ["cat", "dog"]
    assert images.truth == ("dog", "dog")
    assert read(path, label="tags").tags.toarray().tolist() == [[1, 1], [0, 1]]
    with pytest.raises(
        DataError, match=r"no column 'reel' .* Its columns are: label, noise, real, tags"
    ):
        read(path, truth="reel")


def test_tars_are_named_by_folder_or_by_braces(tmp_path):
    for i in (8, 9, 10):
        tar(tmp_path / f"s-{i:02d}.tar", {"0.png": png(i), "0.cls": b"%d" % i})
    for source in (tmp_path, tmp_path / "s-{08..10}.tar"):
        images = read(source)
        assert images.ids == ("s-08/0", "s-09/0", "s-10/0")
        assert Reader(images.places).read(2) == png(10)
    assert len(read(tmp_path / "s-{08,10}.tar")) == 2
    with pytest.raises(
        DataError, match=r"1 of 4 files are not there, such as .*s-11.tar. Name only"
    ):
        read(tmp_path / "s-{08..11}.tar")


def test_braces_of_several_kinds_multiply():
    expected = ["a1.tar", "a2.tar", "b1.tar", "b2.tar"]
    assert expand_braces("{a,b}{1..2}.tar") == expected


def test_a_tar_that_cannot_be_used_says_why(tmp_path):
    path = tar(tmp_path / "x.tar", {"1.png": png(), "1.cls": b"x"})
    whole = path.read_bytes()
    path.write_bytes(whole[:700])
    with pytest.raises(
        DataError, match=r"x.tar: cannot be read as a tar: .* Is it complete, and not comp"
    ):
        read(path)
    path.write_bytes(b"\x1f\x8b" + whole)
    with pytest.raises(DataError, match="cannot be read as a tar"):
        read(path)
    tar(path, {"1.txt": b"x"})
    with pytest.raises(DataError, match=r"no image in this tar. Expected members such as 0001.jpg"):
        read(path)
    tar(path, {"1.png": png(), "1.json": b"{no"})
    with pytest.raises(DataError, match=r"the .json or .cls of '1' cannot be read"):
        read(path)
    tar(
        path,
        {"1.png": png(), "1.json": b'{"label": 1}', "2.png": png(), "2.json": b'{"label": "x"}'},
    )
    with pytest.raises(DataError, match="the samples' label are not all of one type"):
        read(path)
