from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.errors import DataError, RunError
from labelsieve.records.clusters import N_CHOICES, Clusters, Part
from made_clusters import PARTS, made_clusters, random_clusters
from made_findings import made_findings


def same(a: Clusters, b: Clusters) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype, name
            np.testing.assert_array_equal(value, other, err_msg=name)
        else:
            assert value == other, name


shapes = st.tuples(st.integers(0, 12), st.integers(1, 8), st.integers(0, 10**6))


@given(shapes)
def test_choices_are_the_most_probable_clusters_and_ties_go_to_the_lower(shape):
    n, n_clusters, seed = shape
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, (n, n_clusters)) / 4  # many ties
    values[rng.random(n) < 0.3] = np.nan
    found = Clusters.of_probabilities([str(i) for i in range(n)], values)
    k = min(N_CHOICES, n_clusters)
    assert found.choices.shape == (n, k)
    for row in range(n):
        if np.isnan(values[row]).any():
            assert found.choices[row].tolist() == [-1] * k
            assert found.part[row] == Part.BROKEN
        else:
            order = sorted(range(n_clusters), key=lambda c: (-values[row, c], c))[:k]
            assert found.choices[row].tolist() == order
            assert found.probabilities[row].tolist() == values[row, order].tolist()
            assert found.part[row] == Part.TRAIN


def test_many_rows_are_sorted_block_by_block():
    values = np.random.default_rng(0).random((40_000, 7), np.float32)
    before = values.copy()
    found = Clusters.of_probabilities([str(i) for i in range(len(values))], values)
    np.testing.assert_array_equal(found.choices, np.argsort(-values, axis=1, kind="stable")[:, :5])
    np.testing.assert_array_equal(values, before)  # what was given is not changed


def test_the_names_of_clusters_are_their_numbers_until_they_get_others():
    assert made_clusters([0, 1, 2]).names == ("0", "1", "2")
    assert made_clusters([0, 1], names=("cat", "dog")).names == ("cat", "dog")


def test_counts_are_of_images_that_can_be_read():
    found = made_clusters([0, 2, 2, -1], 4)
    assert found.counts().tolist() == [1, 0, 2, 0]
    assert found.cluster.tolist() == [0, 2, 2, -1]
    assert [found.count(part) for part in Part] == [3, 0, 0, 1]
    assert repr(found) == "Clusters(4 images in 4 clusters, 2 of them used)"


@given(shapes)
def test_clusters_survive_a_parquet_file(tmp_path_factory, shape):
    n, n_clusters, seed = shape
    path = tmp_path_factory.mktemp("clusters") / "clusters.parquet"
    found = random_clusters(n, n_clusters, seed) if n else made_clusters([], n_clusters)
    found.write(path)
    same(found, Clusters.load(path))


def test_merged_clusters_survive_a_parquet_file(tmp_path: Path):
    found = random_clusters(30, 7, 1).named({0: "cat", 3: "cat", 5: "cat", 6: "dög\n"})
    assert (found.choices[found.cluster >= 0] < 0).any()  # choices that were freed by the merge
    found.save(tmp_path / "clusters.parquet")
    same(found, Clusters.load(tmp_path / "clusters.parquet"))


def test_clusters_have_the_contracted_columns():
    found = made_clusters([1, 0, -1], part=Part.VALID, duplicate_of=np.array([-1, 0, -1]))
    table = found.named({0: "cat"}).to_arrow()
    assert table.column_names == [
        "image", "cluster", "name", "probability", "second_choice", "second_probability", "part",
        "choices", "choice_probabilities", "duplicate_of",
    ]  # fmt: skip
    types = [str(table.schema.field(name).type) for name in ("cluster", "second_choice")]
    assert types == ["int32", "int32"]
    first, second, broken = table.to_pylist()
    assert (first["cluster"], first["name"], first["part"]) == (1, "1", "valid")
    assert first["probability"] == np.float32(0.9)
    assert (first["second_choice"], first["second_probability"]) == (0, np.float32(0.1))
    assert first["choices"] == [1, 0]
    assert (second["name"], second["duplicate_of"]) == ("cat", "0000.png")
    assert broken == {
        "image": "0002.png", "cluster": None, "name": None, "probability": None,
        "second_choice": None, "second_probability": None, "part": "broken", "choices": [],
        "choice_probabilities": [], "duplicate_of": None,
    }  # fmt: skip


def test_a_single_cluster_leaves_no_second_choice():
    rows = made_clusters([0, 0]).to_arrow().to_pylist()
    assert [row["second_choice"] for row in rows] == [None, None]


def test_the_csv_has_the_columns_of_the_parquet_file(tmp_path: Path):
    found = random_clusters(40, 6, 0).named({2: "=SUM(1)"})
    found.write(tmp_path / "clusters.csv")
    with (tmp_path / "clusters.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = found.to_arrow().to_pylist()
    assert list(rows[0]) == list(expected[0])
    for row, original in zip(rows, expected, strict=True):
        assert row["cluster"] == ("" if original["cluster"] is None else str(original["cluster"]))
        assert row["name"].removeprefix("'") == (original["name"] or "")
        assert row["part"] in PARTS
        choices = [int(c) for c in row["choices"].split("|")] if row["choices"] else []
        assert choices == original["choices"]
        values = [np.float32(p) for p in row["choice_probabilities"].split("|") if p]
        assert values == [np.float32(p) for p in original["choice_probabilities"]]
        assert row["duplicate_of"] == (original["duplicate_of"] or "")
    assert "'=SUM(1)" in {row["name"] for row in rows}


def test_clusters_to_pandas_has_the_same_columns():
    found = random_clusters(5, 3, 0)
    assert list(found.to_pandas().columns) == found.to_arrow().column_names


def test_clusters_are_written_by_the_name_of_the_file(tmp_path: Path):
    with pytest.raises(DataError, match=r"c.xlsx: clusters are written as .csv or .parquet"):
        made_clusters([0]).write(tmp_path / "c.xlsx")
    with pytest.raises(RunError, match="cannot be written"):
        made_clusters([0]).write(tmp_path / "missing" / "c.parquet")


def test_findings_are_not_clusters(tmp_path: Path):
    made_findings([], []).save(tmp_path / "f.parquet")
    with pytest.raises(DataError, match=r"f.parquet: a file of ours, but not of clusters"):
        Clusters.load(tmp_path / "f.parquet")


def test_a_name_replaces_a_number_and_nothing_else():
    found = random_clusters(20, 3, 0)
    named = found.named({1: "cat"})
    assert named.names == ("0", "cat", "2")
    same(replace(named, names=found.names), found)


def test_clusters_of_one_name_become_one():
    values = [[0.5, 0.2, 0.3], [0.1, 0.6, 0.3], [np.nan] * 3, [0.45, 0.1, 0.45]]
    found = Clusters.of_probabilities("abcd", values, prototypes=(0, 1, 3))
    merged = found.named({1: "cat", 2: "cat"})
    assert merged.names == ("0", "cat")
    assert merged.choices.tolist() == [[0, 1, -1], [1, 0, -1], [-1, -1, -1], [1, 0, -1]]
    np.testing.assert_allclose(
        merged.probabilities,
        [[0.5, 0.5, np.nan], [0.9, 0.1, np.nan], [np.nan] * 3, [0.55, 0.45, np.nan]],
        rtol=1e-6,
    )
    assert merged.part.tolist() == found.part.tolist()
    assert merged.prototypes == (0, 1)  # of cluster 1, which had one image, as 2 had none


def test_the_prototype_of_merged_clusters_is_that_of_the_largest():
    found = made_clusters([0, 1, 1, 2], prototypes=(0, 1, 3))
    assert found.named({0: "cat", 1: "cat"}).prototypes == (1, 3)
    assert found.named({0: "cat", 2: "cat"}).prototypes == (0, 1)  # equals: the lower


@given(st.integers(0, 10**6), st.integers(1, 5), st.data())
def test_a_merge_sums_probabilities_and_keeps_them_in_order(seed, n_clusters, data):
    values = np.random.default_rng(seed).dirichlet(np.ones(n_clusters), 6)
    found = Clusters.of_probabilities("abcdef", values)  # all clusters are among the choices
    names = data.draw(st.lists(st.sampled_from("xyz"), min_size=n_clusters, max_size=n_clusters))
    merged = found.named(dict(enumerate(names)))
    assert merged.names == tuple(dict.fromkeys(names))
    for row in range(6):
        sums = {name: 0.0 for name in merged.names}
        for c, name in enumerate(names):
            sums[name] += values[row, c]
        chosen = [merged.names[c] for c in merged.choices[row] if c >= 0]
        assert sorted(chosen) == sorted(merged.names)
        got = [p for p in merged.probabilities[row].tolist() if p == p]
        assert got == pytest.approx([sums[name] for name in chosen], abs=1e-6)
        assert got == sorted(got, reverse=True)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({3: "cat"}, r"cluster 3: there is no such cluster; they are 0 to 2"),
        ({-1: "cat"}, r"cluster -1: there is no such cluster"),
        ({0: " "}, r"cluster 0: its name is empty"),
        ({0: "2"}, r"cluster 0: '2' is the name of cluster 2. To make them one, give both"),
    ],
)
def test_names_that_cannot_be_given_are_refused(names, said):
    with pytest.raises(DataError, match=said):
        made_clusters([0, 1, 2]).named(names)


def test_two_clusters_may_change_names():
    assert made_clusters([0, 1]).named({0: "1", 1: "0"}).names == ("1", "0")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": ("a",)}, "1 images with columns of other lengths: .*'choices': 3"),
        ({"part": np.zeros(2, np.int8)}, "3 images with columns of other lengths: .*'part': 2"),
        ({"probabilities": np.zeros((3, 1), np.float32)}, r"choices of shape \(3, 2\)"),
        ({"names": ("a", "a")}, "1 different names and 2 prototypes for 2 clusters"),
        ({"prototypes": (1,)}, "2 different names and 1 prototypes for 2 clusters"),
        ({"choices": np.full((3, 2), 2)}, "choices run from 2 to 2 with 2 clusters"),
        ({"choices": np.full((3, 2), -1)}, "NaN else"),
        ({"part": np.full(3, 3, np.int8)}, "without a cluster are those of Part.BROKEN"),
    ],
)
def test_clusters_that_contradict_themselves_are_refused(columns, said):
    with pytest.raises(DataError, match=said):
        replace(made_clusters([0, 1, 1]), **columns)


@pytest.mark.parametrize("shape", [(3,), (3, 0)])
def test_probabilities_of_no_clusters_are_refused(shape):
    with pytest.raises(DataError, match="expected one column a cluster"):
        Clusters.of_probabilities("abc", np.zeros(shape))
