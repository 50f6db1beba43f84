from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from labelsieve.errors import DataError
from labelsieve.records import (
    Features,
    Findings,
    ImageSet,
    Neighbors,
    NoiseRate,
    Places,
    Verdict,
)


def places(n: int) -> Places:
    return Places(
        kind="file",
        files=tuple(f"/photos/{i}.png" for i in range(n)),
        file=np.arange(n, dtype=np.int32),
        start=np.zeros(n, np.int64),
        size=np.zeros(n, np.int64),
    )


def image_set(**changes: object) -> ImageSet:
    columns: dict[str, object] = {
        "source": "photos",
        "ids": ("a.png", "b.png", "c.png"),
        "places": places(3),
        "class_names": ("cat", "dog"),
        "labels": np.array([0, 1, -1]),
        "truth": ("cat", None, "horse"),
    }
    return ImageSet(**(columns | changes))  # type: ignore[arg-type]


def findings(**changes: object) -> Findings:
    columns: dict[str, object] = {
        "image": ("a.png", "b.png", "c.png", "d.png"),
        "class_names": ("cat", "dog"),
        "label": np.array([0, 1, 0, -1]),
        "verdict": np.array([Verdict.CLEAN, Verdict.MISLABELED, Verdict.FOREIGN, Verdict.BROKEN]),
        "probabilities": np.array(
            [[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [np.nan] * 3], np.float32
        ),
        "suggestion": np.array([0, 0, 1, -1]),
        "suggestion_probability": np.array([0.9, 0.7, 0.2, np.nan], np.float32),
        "foreign_group": np.array([-1, -1, 3, -1], np.int32),
        "duplicate_of": np.array([-1, 0, -1, -1]),
        "neighbors": np.array([[1, 2], [0, 2], [0, 1], [-1, -1]]),
        "reason": ("r1", "r2", "r3", "r4"),
        "noise_rates": (NoiseRate("cat", 2, 0.1, (0.0, 0.2), 0.3, (0.1, 0.5)),),
        "warnings": ("mind this",),
    }
    return Findings(**(columns | changes))  # type: ignore[arg-type]


def same(a: object, b: object) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other)
        elif isinstance(value, Places):
            same(value, other)
        elif isinstance(value, csr_array):
            np.testing.assert_array_equal(value.toarray(), other.toarray())
        else:
            assert value == other, name


def test_an_image_set_survives_a_file(tmp_path: Path):
    image_set().save(tmp_path / "images.parquet")
    same(image_set(), ImageSet.load(tmp_path / "images.parquet"))


def test_an_image_set_with_tags_survives_a_file(tmp_path: Path):
    tags = csr_array(np.array([[1, 0], [0, 0], [1, 1]], np.uint8))
    tagged = image_set(labels=None, tags=tags, truth=None)
    tagged.save(tmp_path / "images.parquet")
    same(tagged, ImageSet.load(tmp_path / "images.parquet"))


def test_take_keeps_the_columns_together():
    part = image_set().take(np.array([2, 0]))
    assert part.ids == ("c.png", "a.png")
    assert part.truth == ("horse", "cat")
    assert part.labels is not None
    assert part.labels.tolist() == [-1, 0]
    assert part.places.file.tolist() == [2, 0]


def test_ids_that_occur_twice_are_refused():
    with pytest.raises(DataError, match=r"photos: 1 ids occur more than once, such as 'a.png'"):
        image_set(ids=("a.png", "b.png", "a.png"))


def test_labels_out_of_range_are_refused():
    with pytest.raises(DataError, match="labels run from 0 to 2 with 2 class names"):
        image_set(labels=np.array([0, 1, 2]))


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(DataError, match="3 ids, but .*'labels': 2"):
        image_set(labels=np.array([0, 1]))


def test_a_changed_file_changes_the_fingerprint(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"one")
    one = Places("file", (str(tmp_path / "a.png"),), np.zeros(1, np.int32),
                 np.zeros(1, np.int64), np.zeros(1, np.int64))  # fmt: skip
    images = ImageSet("photos", ("a.png",), one)
    before = images.fingerprint()
    assert images.fingerprint() == before
    (tmp_path / "a.png").write_bytes(b"another")
    assert images.fingerprint() != before


def test_features_survive_a_file_and_stay_on_disk(tmp_path: Path):
    values = np.eye(3, dtype=np.float32)
    Features(("a", "b", "c"), values, "test").save(tmp_path / "features.npy")
    loaded = Features.load(tmp_path / "features.npy")
    assert isinstance(loaded.values, np.memmap)
    assert (loaded.ids, loaded.made_by) == (("a", "b", "c"), "test")
    np.testing.assert_array_equal(loaded.values, values)


def test_features_of_another_number_of_images_are_refused():
    with pytest.raises(DataError, match=r"shape \(2, 3\) for 1 images; expected one row an image"):
        Features(("a",), np.zeros((2, 3), np.float32), "test")


def test_neighbors_survive_a_file(tmp_path: Path):
    neighbors = Neighbors(np.array([[1], [0]]), np.array([[0.5], [0.5]], np.float32))
    neighbors.save(tmp_path / "neighbors.npz")
    same(neighbors, Neighbors.load(tmp_path / "neighbors.npz"))


def test_findings_survive_a_file(tmp_path: Path):
    findings().save(tmp_path / "findings.parquet")
    same(findings(), Findings.load(tmp_path / "findings.parquet"))


def test_findings_have_the_contracted_columns():
    table = findings().to_arrow()
    assert table.column_names == [
        "image", "label", "verdict", "clean_probability", "mislabeled_probability",
        "foreign_probability", "suggestion", "suggestion_probability", "foreign_group",
        "duplicate_of", "neighbors", "reason",
    ]  # fmt: skip
    row = table.to_pylist()[1]
    assert row["label"] == "dog"
    assert row["verdict"] == "mislabeled"
    assert row["suggestion"] == "cat"
    assert row["duplicate_of"] == "a.png"
    assert row["neighbors"] == ["a.png", "c.png"]
    broken = table.to_pylist()[3]
    assert broken["verdict"] == "broken"
    assert broken["clean_probability"] is None
    assert broken["label"] is None
    assert broken["neighbors"] == []


def test_findings_to_pandas_has_the_same_columns():
    frame = findings().to_pandas()
    assert list(frame.columns) == findings().to_arrow().column_names
    assert frame["verdict"].tolist() == ["clean", "mislabeled", "foreign", "broken"]


def test_probabilities_that_do_not_sum_to_one_are_refused():
    with pytest.raises(DataError, match="sum to 1"):
        findings(probabilities=np.full((4, 3), 0.5, np.float32))


def test_findings_of_other_lengths_are_refused():
    with pytest.raises(DataError, match="4 images with columns of other lengths"):
        findings(reason=("r1",))


def test_a_file_of_another_program_is_refused(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="not a file of ours"):
        Findings.load(tmp_path / "x.parquet")


def test_findings_are_written_by_the_name_of_the_file(tmp_path: Path):
    findings().write(str(tmp_path / "f.csv"))
    findings().write(tmp_path / "f.parquet")
    assert (tmp_path / "f.csv").read_text().startswith('"image","label","verdict"')
    same(findings(), Findings.load(tmp_path / "f.parquet"))
    with pytest.raises(DataError, match=r"f.xlsx: findings are written as .csv or .parquet"):
        findings().write(tmp_path / "f.xlsx")
