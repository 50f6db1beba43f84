from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from labelsieve.errors import DataError
from labelsieve.records.tag_set import Form, TagSet, compact, empty, values_at
from test_records import image_set


def tag_set(**changes: object) -> TagSet:
    parts: dict[str, object] = {
        "ids": ("a", "b", "c"),
        "tag_names": ("cat", "dog"),
        "asserted": csr_array(np.array([[0.5, 0], [1, 1], [0, 0]])),
        "verified": csr_array(np.array([[-1, 0], [1, 0], [0, 0]])),
        "source": "photos.csv",
        "form": Form("long", ("/x/photos.csv",), "image", ("label",), renamed=(("Dog", "dog"),)),
        "understood": ("3 rows.",),
        "truth": csr_array(np.array([[0, 0], [1, 1], [0, 1]])),
    }
    return TagSet(**(parts | changes))  # type: ignore[arg-type]


def random_matrix(seed: int, shape: tuple[int, int], density: float) -> csr_array:
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1, 1], size=shape) * (rng.random(shape) < density)
    return compact(csr_array(signs), np.int8)


def test_matrices_are_brought_into_small_types_with_rising_columns():
    unsorted = csr_array(
        (np.ones(3), np.array([1, 0, 1], np.int64), np.array([0, 2, 3, 3], np.int64)), shape=(3, 2)
    )
    made = tag_set(asserted=unsorted)
    assert made.asserted.dtype == np.float32
    assert made.asserted.indices.dtype == made.asserted.indptr.dtype == np.int32
    assert made.asserted.indices.tolist() == [0, 1, 1]
    assert made.verified.dtype == np.int8


def test_pairs_come_in_the_order_of_the_data():
    rows, columns = tag_set().asserted_pairs()
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (1, 0), (1, 1)]
    rows, columns, present = tag_set().verified_pairs()
    assert rows.tolist() == [0, 1]
    assert present.tolist() == [False, True]
    assert tag_set().verified_of_asserted().tolist() == [-1, 1, 0]


def test_who_was_looked_at_and_which_tags_never():
    assert tag_set().is_verified_row.tolist() == [True, True, False]
    assert tag_set().never_verified.tolist() == [False, True]


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 6),
    n_tags=st.integers(1, 5),
    densities=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_values_at_pairs_are_those_of_the_dense_matrix(seed, n, n_tags, densities):
    matrix = random_matrix(seed, (n, n_tags), densities[0])
    pairs = random_matrix(seed + 1, (n, n_tags), densities[1])
    rows = np.repeat(np.arange(n), np.diff(pairs.indptr))
    assert values_at(matrix, pairs).tolist() == matrix.toarray()[rows, pairs.indices].tolist()


def test_take_keeps_all_tags_and_follows_the_order_of_rows():
    some = tag_set().take(np.array([2, 0]))
    assert some.ids == ("c", "a")
    assert some.tag_names == ("cat", "dog")
    assert some.asserted.toarray().tolist() == [[0, 0], [0.5, 0]]
    assert some.verified.toarray().tolist() == [[0, 0], [-1, 0]]
    assert some.truth is not None
    assert some.truth.toarray().tolist() == [[0, 1], [0, 0]]


def test_what_is_saved_is_what_is_loaded(tmp_path: Path):
    images = image_set(ids=("a", "b", "c"), labels=None, truth=None, class_names=())
    made = tag_set(images=images)
    made.save(tmp_path / "tags.parquet")
    found = TagSet.load(tmp_path / "tags.parquet")
    assert found.fingerprint() == made.fingerprint()
    assert found.form == made.form
    assert (found.source, found.understood) == (made.source, made.understood)
    assert found.images is not None
    assert found.images.fingerprint() == images.fingerprint()
    assert found.asserted.indices.dtype == np.int32


def test_a_set_without_images_pairs_or_rows_is_saved_too(tmp_path: Path):
    nothing = csr_array((0, 2), dtype=np.float32)
    made = tag_set(ids=(), asserted=nothing, verified=empty(0, 2), truth=None)
    made.save(tmp_path / "tags.parquet")
    assert len(TagSet.load(tmp_path / "tags.parquet")) == 0
    assert TagSet.load(tmp_path / "tags.parquet").truth is None


@pytest.mark.parametrize("part", ["ids", "tag_names", "asserted", "verified", "truth"])
def test_the_fingerprint_changes_with_all_that_is_said(part: str):
    other = {
        "ids": ("a", "b", "d"),
        "tag_names": ("cat", "fox"),
        "asserted": csr_array(np.array([[0.6, 0], [1, 1], [0, 0]])),
        "verified": csr_array(np.array([[1, 0], [1, 0], [0, 0]])),
        "truth": None,
    }[part]
    assert tag_set(**{part: other}).fingerprint() != tag_set().fingerprint()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": ("a", "b")}, "2 images and 2 tags, but matrices of"),
        ({"ids": ("a", "b", "a")}, "among the images, 'a' is there 2 times"),
        ({"tag_names": ("dog", "dog")}, "among the tags, 'dog' is there 2 times"),
        ({"asserted": csr_array(np.full((3, 2), 1.5))}, "confidences from 1.5 to 1.5"),
        ({"asserted": csr_array(np.full((3, 2), np.nan))}, "expected more than 0, at most 1"),
        ({"verified": csr_array(np.full((3, 2), 2))}, r"other than \+1, present, and -1, absent"),
        ({"images": image_set()}, "have other ids than the tags"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, object], words: str):
    with pytest.raises(DataError, match=words):
        tag_set(**changes)


def test_a_pair_stored_twice_is_refused():
    twice = csr_array((np.ones(2), np.zeros(2, int), np.array([0, 2, 2, 2])), shape=(3, 2))
    with pytest.raises(DataError, match="asserted tags hold a pair more than once"):
        tag_set(asserted=twice)


def test_another_table_of_ours_is_no_tag_set(tmp_path: Path):
    image_set().save(tmp_path / "images.parquet")
    with pytest.raises(DataError, match="a table of ours, but not of tags"):
        TagSet.load(tmp_path / "images.parquet")


def test_tags_and_labels_of_images_become_a_tag_set():
    tagged = image_set(tags=csr_array(np.array([[1, 1], [0, 1], [0, 0]], np.uint8)), labels=None)
    assert TagSet.of_images(tagged).asserted.toarray().tolist() == [[1, 1], [0, 1], [0, 0]]
    assert TagSet.of_images(image_set()).asserted.toarray().tolist() == [[1, 0], [0, 1], [0, 0]]
    with pytest.raises(DataError, match="images without tags or labels"):
        TagSet.of_images(image_set(labels=None))
