from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

import reference_tags as slow
from labelsieve.errors import DataError, RunError
from labelsieve.records.tag_findings import IMAGE_SCHEMA, PAIR_SCHEMA, Pairs, Tagged, TagVerdict
from labelsieve.records.tag_set import TagSet
from labelsieve.records.tag_verdicts import tag_verdicts

CONTRACTED = ["image", "tag", "given", "verified", "probability", "verdict"]
shapes = st.tuples(st.integers(0, 20), st.integers(1, 6), st.integers(0, 10**6))


def made_tags(n=30, n_tags=5, seed=0):
    """A set of tags, some verified, of which some are not asserted."""
    rng = np.random.default_rng(seed)
    asserted = np.where(rng.random((n, n_tags)) < 0.4, 1 - rng.random((n, n_tags)) * 0.9, 0)
    asserted[rng.random(n) < 0.2] = 0  # images without a tag
    verified = np.where(rng.random((n, n_tags)) < 0.3, rng.choice([-1, 1], (n, n_tags)), 0)
    return TagSet(
        ids=tuple(f"im/{row}.jpg" for row in range(n)),
        tag_names=tuple("abcdefgh"[:n_tags]),
        asserted=csr_array(asserted.astype(np.float32)),
        verified=csr_array(verified.astype(np.int8)),
    )


def made_tagged(n=30, n_tags=5, seed=0, **options):
    given_tags = made_tags(n, n_tags, seed)
    rng = np.random.default_rng(seed + 1)
    keep = rng.random(given_tags.asserted.nnz).astype(np.float32)
    thresholds = rng.choice([0.0, 0.1, 0.5, 0.9, np.inf], n_tags)
    return given_tags, keep, Tagged.of_probabilities(given_tags, keep, thresholds, **options)


def same(first, second):
    for name, value in vars(first).items():
        other = getattr(second, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other)
            assert value.dtype == other.dtype, name
        else:
            assert value == other, name


@given(shapes)
def test_each_pair_gets_the_verdict_of_the_rule(shape):
    given_tags, keep, found = made_tagged(*shape)
    asserted, verified = given_tags.asserted.toarray(), given_tags.verified.toarray()
    probability = np.full(asserted.shape, np.nan)
    probability[given_tags.asserted_pairs()] = keep
    expected = []
    for row, col in zip(*np.nonzero((asserted > 0) | (verified > 0)), strict=True):
        if asserted[row, col] == 0:
            expected.append((row, col, "added"))
            continue
        bar = float(found.thresholds[col])
        said = slow.verdict(
            np.float32(probability[row, col]), verified[row, col], bar,
            np.float32(0.2), np.float32(0.8),
        )  # fmt: skip
        expected.append((row, col, said))
    words = [TagVerdict(v).name.lower() for v in found.verdict]
    assert list(zip(found.rows.tolist(), found.columns.tolist(), words, strict=True)) == expected


@given(shapes)
def test_what_people_verified_is_never_changed(shape):
    given_tags, _, found = made_tagged(*shape)
    clean = found.cleaned().toarray() > 0
    verified = given_tags.verified.toarray()
    assert clean[verified > 0].all()
    assert not clean[verified < 0].any()


def test_the_default_keeps_from_one_half_and_reviews_the_middle():
    values = np.array([0.1, 0.2, 0.49, 0.5, 0.79, 0.8, np.nan], np.float32)
    columns, verified = np.zeros(7, int), np.zeros(7, np.int8)
    found = tag_verdicts(values, columns, verified, np.array([0.5]))
    names = [TagVerdict(v).name.lower() for v in found]
    assert names == ["removed", *["review"] * 4, "kept", "review"]


def test_the_review_band_is_stretched_to_hold_the_threshold():
    values = np.array([0.05, 0.15, 0.85, 0.97], np.float32)
    verified = np.zeros(4, np.int8)
    strict = tag_verdicts(values, np.zeros(4, int), verified, np.array([0.95]))
    assert [TagVerdict(v).name for v in strict] == ["REMOVED", "REMOVED", "REVIEW", "KEPT"]
    lax = tag_verdicts(values, np.zeros(4, int), verified, np.array([0.1]))
    assert [TagVerdict(v).name for v in lax] == ["REMOVED", "REVIEW", "KEPT", "KEPT"]


def test_a_threshold_of_zero_keeps_all_and_an_infinite_one_nothing():
    values, columns = np.array([0.0, 0.5, np.nan, 0.99], np.float32), np.zeros(4, int)
    verified = np.zeros(4, np.int8)
    assert (tag_verdicts(values, columns, verified, np.array([0.0])) == TagVerdict.KEPT).all()
    none = tag_verdicts(values, columns, verified, np.array([np.inf]))
    assert [TagVerdict(v).name for v in none] == ["REMOVED", "REVIEW", "REVIEW", "REVIEW"]
    people = tag_verdicts(values, columns, np.array([1, -1, 1, -1], np.int8), np.array([np.inf]))
    assert [TagVerdict(v).name for v in people] == ["KEPT", "REMOVED", "KEPT", "REMOVED"]


def test_a_pair_for_review_stays_from_its_threshold_on():
    tags = TagSet(
        ("x",), ("a", "b", "c", "d"), csr_array(np.ones((1, 4), np.float32)),
        csr_array((1, 4), dtype=np.int8),
    )  # fmt: skip
    keep = np.array([0.5, 0.49, np.nan, 0.7])
    found = Tagged.of_probabilities(tags, keep, np.array([0.5, 0.5, 0.5, np.inf]))
    assert (found.verdict == TagVerdict.REVIEW).all()
    assert found.stays.tolist() == [True, False, True, False]  # unread images keep their tags


def test_a_review_band_that_is_none_is_refused():
    with pytest.raises(DataError, match=r"a review band from 0.8 to 0.2; expected two probab"):
        tag_verdicts(np.zeros(1), np.zeros(1, int), np.zeros(1, np.int8), np.ones(1), (0.8, 0.2))


def test_pairs_that_nobody_asserted_are_added_unless_people_spoke_of_them():
    tags = TagSet(
        ("x", "y"), ("a", "b", "c"),
        csr_array(np.array([[1, 0, 0], [0, 0, 0.5]], np.float32)),
        csr_array(np.array([[0, -1, 0], [1, 0, 0]], np.int8)),
    )  # fmt: skip
    new = Pairs(
        np.array([1, 0, 0, 0, 1]), np.array([1, 2, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    )
    found = Tagged.of_probabilities(tags, np.array([0.9, 0.9]), added=new)
    rows = list(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    assert rows == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]
    np.testing.assert_allclose(found.probability, [0.9, 0.8, 1.0, 0.9, 0.9], rtol=1e-6)
    assert found.given.tolist() == [True, False, False, False, True]
    assert found.count(TagVerdict.ADDED) == 3
    np.testing.assert_allclose(found.cleaned().toarray(), [[1, 0, 0.8], [1, 0.9, 0.5]])
    twice = Pairs(*(np.repeat(part, 2) for part in new))
    with pytest.raises(DataError, match="pairs to be added are there more than once"):
        Tagged.of_probabilities(tags, np.array([0.9, 0.9]), added=twice)


@given(shapes, st.integers(1, 9))
def test_tables_are_the_same_in_whatever_pieces(shape, size):
    _, _, found = made_tagged(*shape)
    whole = found.to_arrow()
    assert whole.schema.names == CONTRACTED
    pieces = pa.Table.from_batches(found.pair_batches(size), PAIR_SCHEMA)
    assert pieces.to_pylist() == whole.to_pylist()
    images = pa.Table.from_batches(found.image_batches(size), IMAGE_SCHEMA)
    assert images.to_pylist() == found.images_to_arrow().to_pylist()


@given(shapes)
def test_the_table_of_images_says_what_the_pairs_say(shape):
    given_tags, _, found = made_tagged(*shape)
    table = found.images_to_arrow().to_pylist()
    assert [line["image"] for line in table] == list(given_tags.ids)
    names = np.array(given_tags.tag_names)
    asserted, clean = given_tags.asserted.toarray() > 0, found.cleaned().toarray() > 0
    for row, line in enumerate(table):
        assert line["given_labels"] == names[asserted[row]].tolist()
        assert line["clean_labels"] == names[clean[row]].tolist()
    pairs = {
        (line["image"], line["tag"]): (line["given"], line["verified"])
        for line in found.to_arrow().to_pylist()
    }
    verified = given_tags.verified.toarray()
    for (image, tag), (is_given, said) in pairs.items():
        at = given_tags.ids.index(image), given_tags.tag_names.index(tag)
        assert is_given == asserted[at]
        assert said == {0: None, 1: True, -1: False}[verified[at]]


@given(shapes)
def test_saving_and_loading_gives_the_same_back(tmp_path_factory, shape):
    path = tmp_path_factory.mktemp("tags") / "tags.parquet"
    _, _, found = made_tagged(*shape, warnings=("few verified",))
    found.write(path)
    same(Tagged.load(path), found)


def test_an_image_whose_pairs_lie_in_two_pieces_is_one_image(tmp_path, monkeypatch):
    monkeypatch.setattr("labelsieve.records.tag_findings.BATCH", 3)
    _, _, found = made_tagged(40, 6, 3)

    def in_threes(self, size=3):
        return pairs(self, 3)

    pairs = Tagged.pair_batches
    monkeypatch.setattr(Tagged, "pair_batches", in_threes)
    found.save(tmp_path / "tags.parquet")
    file = pq.ParquetFile(tmp_path / "tags.parquet")
    assert file.num_row_groups == -(-len(found) // 3)
    file.close()
    same(Tagged.load(tmp_path / "tags.parquet"), found)


def test_the_file_has_the_contracted_columns_first(tmp_path):
    _, _, found = made_tagged()
    found.save(tmp_path / "tags.parquet")
    schema = pq.read_schema(tmp_path / "tags.parquet")
    assert schema.names == [*CONTRACTED, "confidence"]
    assert [str(schema.field(name).type) for name in CONTRACTED] == [
        "string", "string", "bool", "bool", "float", "string",
    ]  # fmt: skip


def test_csv_holds_what_the_tables_hold(tmp_path):
    _, _, found = made_tagged()
    found.write(tmp_path / "tags.csv")
    with (tmp_path / "tags.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    words = {True: "true", False: "false", None: ""}
    for line, row in zip(lines, found.to_arrow().to_pylist(), strict=True):
        assert (line["image"], line["tag"], line["verdict"]) == (
            row["image"], row["tag"], row["verdict"],
        )  # fmt: skip
        assert (line["given"], line["verified"]) == (words[row["given"]], words[row["verified"]])
        assert float(line["probability"]) == pytest.approx(row["probability"], rel=1e-6)
    found.write_images(tmp_path / "images.csv")
    with (tmp_path / "images.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, found.images_to_arrow().to_pylist(), strict=True):
        assert line["clean_labels"] == "|".join(row["clean_labels"])
    found.write_images(tmp_path / "images.parquet")
    assert pq.read_table(tmp_path / "images.parquet").equals(found.images_to_arrow())


def test_names_that_a_spreadsheet_would_run_are_guarded(tmp_path):
    tags = TagSet(
        ("=1+1",), ("+x",), csr_array(np.ones((1, 1), np.float32)), csr_array((1, 1), dtype=np.int8)
    )
    found = Tagged.of_probabilities(tags, np.ones(1))
    found.write(tmp_path / "tags.csv")
    found.write_images(tmp_path / "images.csv")
    assert '"\'=1+1","\'+x"' in (tmp_path / "tags.csv").read_text()
    assert '"\'=1+1","\'+x"' in (tmp_path / "images.csv").read_text()


def test_no_image_and_no_pair_are_tables_without_rows(tmp_path):
    nothing = TagSet((), ("a",), csr_array((0, 1), dtype=np.float32), csr_array((0, 1), dtype=int))
    found = Tagged.of_probabilities(nothing, np.empty(0))
    found.save(tmp_path / "tags.parquet")
    same(Tagged.load(tmp_path / "tags.parquet"), found)
    found.write(tmp_path / "tags.csv")
    assert (tmp_path / "tags.csv").read_text().strip() == ",".join(f'"{n}"' for n in CONTRACTED)
    bare = TagSet(("x",), ("a",), csr_array((1, 1), dtype=np.float32), csr_array((1, 1), dtype=int))
    found = Tagged.of_probabilities(bare, np.empty(0))
    assert found.images_to_arrow().to_pylist() == [
        {"image": "x", "given_labels": [], "clean_labels": []}
    ]
    assert found.cleaned().shape == (1, 1)


def test_counts_are_by_tag_and_verdict():
    _, _, found = made_tagged()
    counts = found.counts()
    assert counts.shape == (5, 4)
    for verdict in TagVerdict:
        assert counts[:, verdict].sum() == found.count(verdict)
        for tag in range(5):
            mine = (found.columns == tag) & (found.verdict == verdict)
            assert counts[tag, verdict] == mine.sum()
    assert f"{found.count(TagVerdict.ADDED):,} added" in repr(found)


def test_columns_that_do_not_go_together_are_refused():
    given_tags, keep, found = made_tagged()
    with pytest.raises(DataError, match="probabilities for .* asserted tags of images; expected"):
        Tagged.of_probabilities(given_tags, keep[:-1])
    with pytest.raises(DataError, match="pairs with columns of other lengths"):
        replace(found, given=found.given[:-1])
    with pytest.raises(DataError, match="4 thresholds for 5 tags; expected one for each tag"):
        replace(found, thresholds=found.thresholds[:-1])
    with pytest.raises(DataError, match=r"probabilities of tags from .* to 2; expected them in"):
        replace(found, probability=np.where(np.arange(len(found)) == 0, 2, found.probability))
    with pytest.raises(DataError, match="verdicts of tags run from 0 to 9"):
        replace(found, verdict=np.where(np.arange(len(found)) == 0, 9, 0).astype(np.int8))
    with pytest.raises(DataError, match="a pair is added where the source does not assert it"):
        replace(found, given=~found.given)
    with pytest.raises(DataError, match="pairs are not sorted by image, then tag"):
        replace(found, rows=found.rows[::-1].copy())
    with pytest.raises(DataError, match="pairs of tags from 0 to 4, of 4 tags"):
        replace(found, tag_names=("a", "b", "c", "d"), thresholds=found.thresholds[:4])


def test_other_files_are_refused_by_name(tmp_path):
    _, _, found = made_tagged()
    with pytest.raises(DataError, match="tags are written as .csv or .parquet. Name such a file"):
        found.write(tmp_path / "tags.json")
    with pytest.raises(DataError, match="tags are written as .csv or .parquet"):
        found.write_images(tmp_path / "tags.xlsx")
    with pytest.raises(RunError, match="Make the folder"):
        found.write(tmp_path / "no" / "tags.csv")
    made_tags().save(tmp_path / "set.parquet")
    with pytest.raises(DataError, match="a file of ours, but not of what was found of tags"):
        Tagged.load(tmp_path / "set.parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        Tagged.load(tmp_path / "none.parquet")
