from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.errors import DataError, RunError
from labelsieve.records.choices import N_CHOICES, in_common
from labelsieve.records.predictions import Predictions
from made_clusters import made_clusters
from made_findings import made_findings
from made_predictions import made_names, made_predictions


def same(a: Predictions, b: Predictions) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype, name
            np.testing.assert_array_equal(value, other, err_msg=name)
        else:
            assert value == other, name


shapes = st.tuples(st.integers(0, 12), st.integers(1, 8), st.integers(0, 10**6))


@given(shapes)
def test_choices_are_the_most_probable_classes_and_images_that_are_not_said_of_are_broken(shape):
    n, n_classes, seed = shape
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(n) < 0.7)
    rng.shuffle(rows)
    values = rng.integers(0, 4, (len(rows), n_classes)) / 4  # many ties
    found = Predictions.of_probabilities(
        [str(i) for i in range(n)], rows, values, made_names(n_classes)
    )
    k = min(N_CHOICES, n_classes)
    assert found.choices.shape == found.probabilities.shape == (n, k)
    for row in range(n):
        if row not in rows:
            assert found.choices[row].tolist() == [-1] * k
            assert found.label[row] == -1
            assert np.isnan(found.probability[row])
        else:
            said = values[rows.tolist().index(row)]
            order = sorted(range(n_classes), key=lambda c: (-said[c], c))[:k]
            assert found.choices[row].tolist() == order
            assert found.label[row] == order[0]
            assert found.probability[row] == said[order[0]]
            assert found.probabilities[row].tolist() == said[order].tolist()
    assert found.counts().tolist() == [int((found.label == c).sum()) for c in range(n_classes)]
    assert found.n_broken == n - len(rows)


@given(shapes)
def test_predictions_survive_a_parquet_file(tmp_path_factory, shape):
    n, n_classes, seed = shape
    made = made_predictions(n + 1, n_classes, seed, n_broken=1, warnings=("few images",))
    path = tmp_path_factory.mktemp("run") / "predictions.parquet"
    made.save(path)
    same(Predictions.load(path), made)


def test_the_columns_are_those_of_the_contract():
    found = Predictions.of_probabilities(("a", "b"), [0], [[0.2, 0.7, 0.1]], ("cat", "dog", "owl"))
    assert found.to_arrow().to_pylist() == [
        {
            "image": "a", "label": "dog", "probability": pytest.approx(0.7),
            "second_choice": "cat", "second_probability": pytest.approx(0.2),
            "choices": ["dog", "cat", "owl"],
            "choice_probabilities": pytest.approx([0.7, 0.2, 0.1]),
        },
        {
            "image": "b", "label": None, "probability": None, "second_choice": None,
            "second_probability": None, "choices": [], "choice_probabilities": [],
        },
    ]  # fmt: skip
    kinds = {field.name: str(field.type) for field in found.to_arrow().schema}
    assert kinds == {
        "image": "string", "label": "string", "probability": "float",
        "second_choice": "string", "second_probability": "float",
        "choices": "list<item: string>", "choice_probabilities": "list<item: float>",
    }  # fmt: skip


def test_predictions_are_written_by_the_name_of_the_file(tmp_path: Path):
    made = made_predictions(3, 2, n_broken=1)
    made.write(tmp_path / "new.csv")
    with (tmp_path / "new.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == list(made.image)
    assert rows[0]["choices"].split("|")[0] == rows[0]["label"]
    assert rows[2]["label"] == rows[2]["choices"] == rows[2]["probability"] == ""
    made.write(tmp_path / "new.PARQUET")
    same(Predictions.load(tmp_path / "new.PARQUET"), made)
    with pytest.raises(DataError, match=r"predictions are written as \.csv or \.parquet"):
        made.write(tmp_path / "new.json")
    with pytest.raises(RunError, match="Make the folder"):
        made.write(tmp_path / "nowhere" / "new.csv")


def test_predictions_become_a_data_frame():
    frame = made_predictions(3, 2, n_broken=1).to_pandas()
    assert frame.label.isna().tolist() == [False, False, True]
    assert list(frame.columns)[:3] == ["image", "label", "probability"]


def test_a_file_of_something_else_is_refused(tmp_path: Path):
    made_clusters([0, 1]).save(tmp_path / "clusters.parquet")
    made_findings([0], [0]).save(tmp_path / "findings.parquet")
    for name in ("clusters", "findings"):
        with pytest.raises(DataError, match="a file of ours, but not of predictions"):
            Predictions.load(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        Predictions.load(tmp_path / "missing.parquet")


def test_a_row_of_nan_is_a_broken_image():
    found = Predictions.of_probabilities(("a",), [0], [[np.nan, np.nan]], ("cat", "dog"))
    assert found.label.tolist() == [-1]
    assert repr(found) == "Predictions(1 images, 1 of them broken, 2 classes)"


@pytest.mark.parametrize(
    ("rows", "values", "names", "said"),
    [
        ([0], [[0.5, 0.5]], ("a",), r"shape \(1, 2\) for 1 images and 1 classes"),
        ([0, 1], [[0.5, 0.5]], ("a", "b"), r"shape \(1, 2\) for 2 images"),
        ([], np.empty((0, 0)), (), "one column a class"),
        ([2], [[0.5, 0.5]], ("a", "b"), "rows run from 2 to 2 for 2 images"),
        ([-1], [[0.5, 0.5]], ("a", "b"), "rows run from -1 to -1"),
        ([1, 1], [[0.5, 0.5]] * 2, ("a", "b"), "more than once; give each its one"),
        ([0], [[0.5, 0.5]], ("a", "a"), r"more than once: \['a'\]"),
    ],
)
def test_what_does_not_go_together_is_refused(rows, values, names, said):
    with pytest.raises(DataError, match=said):
        Predictions.of_probabilities(("x", "y"), rows, values, names)


@pytest.mark.parametrize(
    ("choices", "probabilities", "said"),
    [
        ([[0]], [[0.9], [0.1]], "columns of other lengths"),
        ([[0], [1]], [[0.9, 0.1], [0.5, 0.5]], "one probability for each choice"),
        ([[0], [2]], [[0.9], [0.5]], "choices run from 0 to 2 with 2 classes"),
        ([[0], [-1]], [[0.9], [0.5]], "a probability where there is a choice, and NaN else"),
        ([[0, 1], [0, -1]], [[0.9, 0.1], [0.5, np.nan]], "all its choices, or none"),
    ],
)
def test_a_record_that_is_not_one_is_refused(choices, probabilities, said):
    columns = np.array(choices, np.int64), np.array(probabilities, np.float32)
    with pytest.raises(DataError, match=said):
        Predictions(("x", "y"), ("cat", "dog"), *columns)


@given(st.integers(0, 10**6))
def test_what_two_runs_say_is_matched_by_id(seed):
    rng = np.random.default_rng(seed)
    ids = [tuple(rng.permutation(list("abcdefgh"))[: rng.integers(2, 9)]) for _ in range(2)]
    said = [rng.integers(-1, 3, len(names)) for names in ids]
    a, b = (
        dict(zip(names, values.tolist(), strict=True))
        for names, values in zip(ids, said, strict=True)
    )
    both = [name for name in ids[0] if name in b and a[name] >= 0 and b[name] >= 0]
    if not both:
        with pytest.raises(DataError, match="no image in common"):
            in_common(ids[0], said[0], ids[1], said[1])
        return
    first, second = in_common(ids[0], said[0], ids[1], said[1])
    assert first.tolist() == [a[name] for name in both]
    assert second.tolist() == [b[name] for name in both]
