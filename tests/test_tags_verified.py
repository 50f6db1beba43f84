from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from labelsieve.data.tags.hygiene import one_spelling, read_synonyms
from labelsieve.data.tags.implied import (
    closure,
    read_implied,
    with_parents,
    with_verified_parents,
)
from labelsieve.data.tags.read import read_tags
from labelsieve.errors import ConfigError, DataError
from labelsieve.records.tag_set import compact
from made_tag_files import said, tags_of, verified_of, written


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return written(tmp_path, "t.csv", "image,labels", "0001,cat|sea", "0002,cat", "0003,dog|sea")


def test_a_file_of_answers_verifies_pairs_present_and_absent(tmp_path: Path, source: Path):
    answers = written(tmp_path, "v.csv", "image,label,present", "0001,cat,1", "0001,sea,0",
                      "0002,dog,1", "0003,sea,", "0009,cat,1")  # fmt: skip
    found = read_tags(source, verified=answers)
    assert verified_of(found) == {("0001", "cat"): 1, ("0001", "sea"): -1, ("0002", "dog"): 1}
    assert "1 answers are of images that the source does not have, such as '0009'" in said(found)
    assert "1 answers are blank" in said(found)
    assert "1 tags are never verified" not in said(found)


def test_annotators_who_disagree_are_counted_by_majority_and_ties_are_listed(
    tmp_path: Path, source: Path
):
    answers = written(
        tmp_path, "v.csv", "image,label,present", "0001,cat,1", "0001,cat,0", "0001,cat,1",
        "0003,dog,1", "0003,dog,0", "0002,cat,0", "0002,cat,0",
    )  # fmt: skip
    found = read_tags(source, verified=answers)
    assert verified_of(found) == {("0001", "cat"): 1, ("0002", "cat"): -1}
    assert (
        "Of 2 pairs annotators disagree; the majority counts, and 1 ties stay unverified: "
        "'0003' 'dog'." in said(found)
    )


def test_of_one_persons_answers_the_latest_counts(tmp_path: Path, source: Path):
    answers = written(
        tmp_path, "v.csv", "image,label,present,who,when",
        "0001,cat,0,ann,2024-05-02", "0001,cat,1,ann,2024-05-01", "0001,cat,1,bob,2024-05-01",
        "0001,cat,0,cid,2024-05-01",
    )  # fmt: skip
    found = read_tags(source, verified=answers)
    assert verified_of(found) == {("0001", "cat"): -1}
    assert "1 answers were replaced by a later one of the same person." in said(found)
    no_time = written(
        tmp_path, "w.csv", "image,label,present,who", "0001,cat,0,ann", "0001,cat,1,ann"
    )
    assert verified_of(read_tags(source, verified=no_time)) == {("0001", "cat"): 1}


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["1,cat,1", "2,cat,1"], r"leading zeros were lost: '1' is '0001'.*Keep ids as text"),
        (["x/0001.jpg,cat,1"], r"differ in folder and suffix: 'x/0001.jpg' is '0001'"),
        (["p/0001,cat,1"], "differ in the folder: 'p/0001' is '0001'"),
        (["p/1.jpg,cat,1"], r"or leading zeros were lost: 'p/1.jpg' is '0001'.*Keep ids as text"),
        (["0001,cat,7", "0002,cat,1"], r"column 'present' holds 7; expected 1 where the tag is"),
        (["0001,cat,-7"], r"column 'present' holds -7; expected 1"),
        (["other,cat,1"], "has such as 'other', the source such as '0001'. Is it of the same"),
    ],
)
def test_answers_about_other_ids_say_what_differs(tmp_path: Path, source: Path, ids, words: str):
    answers = written(tmp_path, "v.csv", "image,label,present", *ids)
    with pytest.raises(DataError, match=words):
        read_tags(source, verified=answers)


def test_tags_that_only_answers_name_are_kept_and_a_near_name_is_shown(
    tmp_path: Path, source: Path
):
    answers = written(tmp_path, "v.csv", "image,label,present", "0001,catt,1", "0001,cat,0")
    found = read_tags(source, verified=answers)
    assert "catt" in found.tag_names
    assert "1 tags are verified and asserted nowhere: catt" in said(found)
    assert "Did you mean 'cat'?" in said(found)


def test_verified_only_present_never_and_not_at_all_are_said(tmp_path: Path, source: Path):
    assert "Nothing is verified" in said(read_tags(source))
    answers = written(tmp_path, "v.csv", "image,label,present", "0001,cat,1")
    found = read_tags(source, verified=answers)
    assert "Only present is verified, never absent" in said(found)
    assert "2 tags are never verified: dog, sea." in said(found)


def test_an_empty_file_of_answers_says_what_can_still_be_done(tmp_path: Path, source: Path):
    found = read_tags(source, verified=written(tmp_path, "v.csv", "image,label,present"))
    assert "0 answers in v.csv." in said(found)
    assert "a tagger can be trained and pairs to verify be suggested" in said(found)
    assert found.verified.nnz == 0


def test_a_column_of_right_tags_verifies_what_was_asserted(tmp_path: Path):
    table = written(tmp_path, "t.csv", "image,labels,right", "a,cat|sea|x,cat|fox", "b,cat|sea,",
                    "c,cat,sea")  # fmt: skip
    found = read_tags(table, verified="right")
    assert verified_of(found) == {
        ("a", "cat"): 1, ("a", "fox"): 1, ("a", "sea"): -1, ("c", "sea"): 1, ("c", "cat"): -1,
    }  # fmt: skip
    assert "1 tags are on no list of right tags: x." in said(found)
    assert "1 rows have nothing in 'right': not verified." in said(found)


def test_an_empty_list_is_verified_to_have_nothing_and_a_null_is_not_verified(tmp_path: Path):
    table = pa.table(
        {
            "image": ["a", "b", "c"],
            "labels": [["cat"], ["cat"], ["cat"]],
            "right": [["cat"], [], None],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_tags(tmp_path / "t.parquet", verified="right")
    assert verified_of(found) == {("a", "cat"): 1, ("b", "cat"): -1}


def test_verified_columns_tell_absent_from_unknown_by_minus_one(tmp_path: Path):
    lines = ("image,w_cat,w_sea,s_cat,s_sea", "a,1,1,1,0", "b,1,0,0,0", "c,0,1,,")
    zero_one = written(tmp_path, "t.csv", *lines)
    assert verified_of(read_tags(zero_one, label="w_", verified="s_")) == {
        ("a", "cat"): 1, ("a", "sea"): -1, ("b", "cat"): -1,
    }  # fmt: skip
    signed = written(tmp_path, "u.csv", *lines, "d,1,1,-1,1")
    assert verified_of(read_tags(signed, label="w_", verified="s_")) == {
        ("a", "cat"): 1, ("d", "cat"): -1, ("d", "sea"): 1,
    }  # fmt: skip


def test_any_source_of_right_tags_verifies_the_images_that_both_have(tmp_path: Path, source: Path):
    right = written(tmp_path, "r.csv", "image,labels", "0001,Cat", "0003,sea", "0007,cat")
    found = read_tags(source, verified=right)
    assert verified_of(found) == {
        ("0001", "cat"): 1, ("0001", "sea"): -1, ("0003", "sea"): 1,
    }  # fmt: skip
    assert "1 images of r.csv are not in the source; left out." in said(found)


def test_what_is_neither_column_nor_file_is_refused(source: Path):
    with pytest.raises(DataError, match="no file or column 'labls', nor .* for --verified"):
        read_tags(source, verified="labls")


def test_truth_of_all_images_goes_along_and_must_be_of_all(tmp_path: Path, source: Path):
    truth = written(tmp_path, "w.csv", "image,labels", "0001,cat", "0002,", "0003,dog|fox")
    found = read_tags(source, truth=truth)
    assert tags_of(found, found.truth) == {"0001": {"cat"}, "0002": set(), "0003": {"dog", "fox"}}
    assert found.verified.nnz == 0
    short = written(tmp_path, "x.csv", "image,labels", "0001,cat", "0003,sea")
    with pytest.raises(DataError, match="1 of 3 images are not in it, such as '0002'"):
        read_tags(source, truth=short)


def test_spellings_are_brought_to_the_one_used_most(tmp_path: Path):
    table = written(
        tmp_path, "t.csv", "image,labels", "a,Cat| cat ", "b,cat|hot  dog", "c,cafe\u0301|CAT",
        "d,café|Hot Dog", "e,hot dog| ",
    )  # fmt: skip
    found = read_tags(table)
    assert found.tag_names == ("café", "cat", "hot dog")
    assert tags_of(found) == {
        "a": {"cat"}, "b": {"cat", "hot dog"}, "c": {"cat", "café"}, "d": {"café", "hot dog"},
        "e": {"hot dog"},
    }  # fmt: skip
    assert "3 spellings are read as another tag: 'Cat' as 'cat'" in said(found)
    assert "1 pairs were there more than once" in said(found)


def test_synonyms_are_followed_to_their_end_in_any_case(tmp_path: Path):
    table = written(tmp_path, "t.csv", "image,labels", "a,kitty", "b,Kitten|dog", "c,cat")
    synonyms = written(tmp_path, "s.csv", "from,to", "KITTY,kitten", "kitten,Cat", "ox,cow")
    found = read_tags(table, synonyms=synonyms)
    assert tags_of(found) == {"a": {"Cat"}, "b": {"Cat", "dog"}, "c": {"Cat"}}
    assert "1 synonyms occur nowhere, such as 'ox'." in said(found)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["old,new", "a,b"], "its first line is 'old,new'; expected 'from,to'"),
        (["from,to", "a,b", "B,A"], "synonyms go in a circle: a -> b -> a"),
        (["from,to", "a,b", "A,c"], "line 3: 'A' becomes 'c', and before it became 'b'"),
        (["from,to", "a"], "line 2: .*expected two tags"),
    ],
)
def test_synonyms_that_contradict_each_other_are_refused(tmp_path: Path, lines, words: str):
    with pytest.raises(DataError, match=words):
        read_synonyms(written(tmp_path, "s.csv", *lines))


@given(spellings=st.lists(st.text("aAbB é\u0301 ", max_size=4), unique=True, max_size=8))
def test_one_spelling_of_each_group_stays_and_groups_do_not_depend_on_order(spellings: list[str]):
    counts = np.ones(len(spellings), np.int64)
    names = one_spelling(spellings, counts, {}, {})
    again = one_spelling(names.tags, np.ones(len(names.tags), np.int64), {}, {})
    assert again.tags == names.tags  # nothing is left to bring together
    backward = one_spelling(spellings[::-1], counts, {}, {}).place[::-1]
    for i, j in combinations(range(len(spellings)), 2):
        together = names.place[i] == names.place[j]
        assert together == (backward[i] == backward[j])
    assert all((place < 0) == (not text.strip()) for text, place in zip(spellings, names.place))  # noqa: B905


def test_a_child_asserts_all_its_ancestors_as_surely(tmp_path: Path):
    table = written(
        tmp_path, "t.csv", "image,label,confidence", "a,puppy,.8", "b,dog,.6", "b,Animal,.9"
    )
    found = read_tags(table, implies=["puppy:dog", "Dog:animal"])
    assert tags_of(found) == {"a": {"puppy", "dog", "Animal"}, "b": {"dog", "Animal"}}
    values = dict(zip(found.tag_names, found.asserted.toarray()[0].tolist(), strict=True))
    assert values["Animal"] == np.float32(0.8)
    assert "2 assertions and 0 verified pairs follow from --implies." in said(found)


def test_parents_that_no_image_has_become_tags(tmp_path: Path):
    table = written(tmp_path, "t.csv", "image,labels", "a,dog", "b,sea")
    assert tags_of(read_tags(table, implies=["dog:animal"]))["a"] == {"dog", "animal"}


@pytest.mark.parametrize(
    ("implies", "words"),
    [
        (["dog"], "expected CHILD:PARENT"),
        (["dgo:animal"], "no tag 'dgo'. Did you mean 'dog'"),
        (["dog:animal", "animal:dog"], "goes in a circle: .*dog"),
        (["dog:dog"], "goes in a circle: dog : dog"),
    ],
)
def test_implications_that_make_no_sense_are_refused(tmp_path: Path, implies, words: str):
    table = written(tmp_path, "t.csv", "image,labels", "a,dog", "b,sea")
    with pytest.raises(ConfigError, match=words):
        read_tags(table, implies=implies)


def test_answers_reach_parents_upward_and_asserted_children_downward(tmp_path: Path):
    table = written(tmp_path, "t.csv", "image,labels", "a,dog|animal", "b,dog|animal", "c,animal",
                    "d,dog")  # fmt: skip
    answers = written(tmp_path, "v.csv", "image,label,present", "a,dog,1", "b,animal,0",
                      "c,animal,0", "d,dog,1", "d,animal,0")  # fmt: skip
    found = read_tags(table, verified=answers, implies=["dog:animal"])
    assert verified_of(found) == {
        ("a", "dog"): 1, ("a", "animal"): 1, ("b", "animal"): -1, ("b", "dog"): -1,
        ("c", "animal"): -1, ("d", "dog"): 1, ("d", "animal"): -1,
    }  # fmt: skip
    assert "1 pairs are verified present although a tag they imply is verified absent" in said(
        found
    )


@given(seed=st.integers(0, 10_000), n_tags=st.integers(2, 6), n_edges=st.integers(1, 6))
def test_what_follows_is_what_loops_over_all_pairs_find(seed: int, n_tags: int, n_edges: int):
    rng = np.random.default_rng(seed)
    tags = [str(c) for c in range(n_tags)]
    edges = {tuple(sorted(rng.choice(n_tags, 2, replace=False).tolist())) for _ in range(n_edges)}
    above = read_implied([f"{child}:{parent}" for child, parent in edges], tags)
    implied = closure(above, tags)
    asserted = (rng.random((5, n_tags)) * (rng.random((5, n_tags)) < 0.5)).astype(np.float32)
    signs = rng.integers(-1, 2, (5, n_tags))
    slow, known = asserted.copy(), signs.copy()
    for row in range(5):
        for child, parents in above.items():
            for parent in parents:
                slow[row, int(parent)] = max(slow[row, int(parent)], asserted[row, int(child)])
        for tag in range(n_tags):
            if signs[row, tag]:
                continue
            up = any(signs[row, int(c)] > 0 for c, ps in above.items() if str(tag) in ps)
            down = slow[row, tag] > 0 and any(
                signs[row, int(p)] < 0 for p in above.get(str(tag), ())
            )
            known[row, tag] = int(up) - int(down)
    made, _ = with_parents(compact(csr_array(asserted), np.float32), implied)
    assert (made.toarray() == slow).all()
    found, _ = with_verified_parents(compact(csr_array(signs), np.int8), made, implied)
    assert (found.toarray() == known).all()
