"""What people decided, as it is read, and as it takes the place of what was found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.data.decisions import (
    DECIDED,
    Decisions,
    later,
    no_decisions,
    read_decisions,
    write_decisions,
)
from labelsieve.errors import DataError
from labelsieve.records import Findings, Verdict
from labelsieve.training.evidence import with_decisions

IDS = ("a.png", "b.png", "c.png", "d.png")
CLASSES = ("cat", "dog")
LABELS = np.array([0, 1, 0, -1])  # the last has none


def read(path: Path, *lines: object) -> Decisions:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text), encoding="utf-8")
    return read_decisions(path, IDS, LABELS, CLASSES)


def listed(found: Decisions) -> list[tuple[int, Verdict, int]]:
    columns = (column.tolist() for column in found)
    return [(row, Verdict(kind), label) for row, kind, label in zip(*columns, strict=True)]


def test_every_kind_of_decision_is_read(tmp_path: Path):
    found = read(
        tmp_path / "d.jsonl",
        {"image": "c.png", "verdict": "mislabeled", "label": "dog"},
        "",
        {"image": "a.png", "verdict": "clean", "note": "looked twice"},
        {"image": "b.png", "verdict": "foreign"},
    )
    assert listed(found) == [
        (0, Verdict.CLEAN, 0), (1, Verdict.FOREIGN, -1), (2, Verdict.MISLABELED, 1)
    ]  # fmt: skip
    assert (found.rows.dtype, found.verdict.dtype, found.label.dtype) == (
        np.int64, np.int8, np.int64
    )  # fmt: skip


def test_a_mislabeled_image_need_not_have_a_right_class(tmp_path: Path):
    found = read(tmp_path / "d.jsonl", {"image": "a.png", "verdict": "mislabeled"})
    assert listed(found) == [(0, Verdict.MISLABELED, -1)]


def test_without_a_verdict_the_label_decides(tmp_path: Path):
    found = read(
        tmp_path / "d.jsonl", {"image": "a.png", "label": "cat"}, {"image": "b.png", "label": "cat"}
    )
    assert listed(found) == [(0, Verdict.CLEAN, 0), (1, Verdict.MISLABELED, 0)]


@pytest.mark.parametrize("verdict", [None, "clean", "mislabeled"])
def test_an_image_without_a_label_gets_one(verdict: str | None, tmp_path: Path):
    found = read(tmp_path / "d.jsonl", {"image": "d.png", "verdict": verdict, "label": "dog"})
    assert listed(found) == [(3, Verdict.CLEAN, 1)]


def test_a_later_decision_replaces_an_earlier_one(tmp_path: Path):
    found = read(
        tmp_path / "d.jsonl", {"image": "a.png", "verdict": "foreign"},
        {"image": "a.png", "verdict": "clean"},
    )  # fmt: skip
    assert listed(found) == [(0, Verdict.CLEAN, 0)]


def test_tables_are_read_with_or_without_a_mark_of_their_encoding(tmp_path: Path):
    path = tmp_path / "d.csv"
    path.write_bytes(b"\xef\xbb\xbfimage,verdict,label\na.png,,dog\nb.png,foreign,\n")
    found = read_decisions(path, IDS, LABELS, CLASSES)
    assert listed(found) == [(0, Verdict.MISLABELED, 1), (1, Verdict.FOREIGN, -1)]


def test_names_may_hold_what_other_programs_take_for_the_end_of_a_line(tmp_path: Path):
    ids = ("a\u2028b.png", "c\nd.png")
    (tmp_path / "d.jsonl").write_text(
        json.dumps({"image": ids[0], "verdict": "foreign"}, ensure_ascii=False) + "\r\n", "utf-8"
    )
    found = read_decisions(tmp_path / "d.jsonl", ids, LABELS[:2], CLASSES)
    assert listed(found) == [(0, Verdict.FOREIGN, -1)]
    (tmp_path / "d.csv").write_text('image,verdict\n"c\nd.png",clean\nnone.png,clean\n', "utf-8")
    with pytest.raises(DataError, match=r"d\.csv, line 4: there is no image 'none\.png'"):
        read_decisions(tmp_path / "d.csv", ids, LABELS[:2], CLASSES)


def test_an_empty_file_decides_nothing(tmp_path: Path):
    assert listed(read(tmp_path / "d.jsonl")) == listed(no_decisions()) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 1: not a JSON object .*expected such as"),
        ("[1]", "line 1: not a JSON object"),
        ({"verdict": "clean"}, "no image is named; expected fields image and verdict"),
        ({"image": "e.png", "verdict": "clean"}, "no image 'e.png' in the set, whose images are"),
        ({"image": "a.png"}, "neither a verdict nor a label; expected one of them"),
        ({"image": "a.png", "verdict": "good"}, "'good'; expected one of clean, mislabeled, fore"),
        ({"image": "a.png", "label": "dgo"}, "there is no class 'dgo'. Did you mean 'dog'"),
        ({"image": "a.png", "verdict": "clean", "label": "dog"}, "contradict each other. Leave"),
        ({"image": "a.png", "verdict": "mislabeled", "label": "cat"}, "contradict each other"),
        ({"image": "a.png", "verdict": "foreign", "label": "cat"}, "contradict each other"),
        ({"image": "d.png", "verdict": "clean"}, "clean, of an image without a label; expected"),
        ({"image": "d.png", "verdict": "mislabeled"}, "Add it as the label, or say foreign"),
    ],
)
def test_mistakes_are_told_with_their_place(line: object, message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path / "d.jsonl", line)
    assert str(error.value).startswith(f"{tmp_path / 'd.jsonl'}, line 1: ")


def test_files_that_are_none_are_told(tmp_path: Path):
    with pytest.raises(DataError, match=r"no\.jsonl: cannot be read as decisions: .*No such file"):
        read_decisions(tmp_path / "no.jsonl", IDS, LABELS, CLASSES)
    (tmp_path / "d.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as decisions"):
        read_decisions(tmp_path / "d.jsonl", IDS, LABELS, CLASSES)
    (tmp_path / "d.csv").write_text("picture,verdict\na.png,clean\n")
    with pytest.raises(DataError, match=r"d\.csv: no column 'image'"):
        read_decisions(tmp_path / "d.csv", IDS, LABELS, CLASSES)
    (tmp_path / "d.csv").write_text("image,verdict\na.png,clean,what\nb.png\n")
    with pytest.raises(DataError, match=r"d\.csv, line 3: neither a verdict nor a label"):
        read_decisions(tmp_path / "d.csv", IDS, LABELS, CLASSES)


def of(*decisions: tuple[int, int, int]) -> Decisions:
    rows, verdict, label = np.array(decisions, np.int64).reshape(-1, 3).T
    return Decisions(rows, verdict.astype(np.int8), label)


def test_of_two_files_the_later_one_counts():
    first, second = of((0, 0, 0), (2, 2, -1)), of((1, 1, 0), (2, 0, 0))
    both = later(first, second)
    assert listed(both) == [
        (0, Verdict.CLEAN, 0), (1, Verdict.MISLABELED, 0), (2, Verdict.CLEAN, 0)
    ]  # fmt: skip
    assert [column.dtype for column in both] == [column.dtype for column in first]
    assert listed(later(no_decisions(), second)) == listed(second)
    assert listed(later(first, no_decisions())) == listed(first)


lines = st.fixed_dictionaries(
    {"image": st.sampled_from(IDS)},
    optional={
        "verdict": st.sampled_from(["clean", "mislabeled", "foreign"]),
        "label": st.sampled_from(CLASSES),
    },
)


@given(st.lists(lines, max_size=6))
def test_decisions_that_are_written_are_read_as_they_were(tmp_path_factory, given: list[dict]):
    folder = tmp_path_factory.mktemp("decisions")
    kept = []
    for line in given:  # those that are no mistakes
        try:
            read(folder / "one.jsonl", line)
        except DataError:
            continue
        kept.append(line)
    found = read(folder / "given.jsonl", *kept)
    write_decisions(found, folder / "copy.jsonl", IDS, CLASSES)
    again = read_decisions(folder / "copy.jsonl", IDS, LABELS, CLASSES)
    assert listed(again) == listed(found)
    assert len((folder / "copy.jsonl").read_text().splitlines()) == len(found.rows)


def test_decisions_on_images_of_any_name_are_written(tmp_path: Path):
    ids = ("a\u2028b.png", "c\nd.png", "\udcff.png")
    write_decisions(of((0, 2, -1), (1, 0, 1), (2, 1, 0)), tmp_path / "d.jsonl", ids, CLASSES)
    found = read_decisions(tmp_path / "d.jsonl", ids, np.array([0, 1, 1]), CLASSES)
    assert listed(found) == [
        (0, Verdict.FOREIGN, -1), (1, Verdict.CLEAN, 1), (2, Verdict.MISLABELED, 0)
    ]  # fmt: skip


@pytest.fixture
def findings() -> Findings:
    """Clean, foreign in a group, broken, without a label."""
    probabilities = np.array(
        [[0.9, 0.1, 0], [0.1, 0.2, 0.7], [np.nan] * 3, [0.8, 0, 0.2]], np.float32
    )
    return Findings(
        image=IDS, class_names=CLASSES, label=LABELS, verdict=np.array([0, 2, 3, 0], np.int8),
        probabilities=probabilities, suggestion=np.array([0, 0, -1, 0]),
        suggestion_probability=np.array([0.9, 0.2, np.nan, 0.8], np.float32),
        foreign_group=np.array([-1, 5, -1, -1], np.int32), duplicate_of=np.full(4, -1),
        neighbors=np.full((4, 1), -1), reason=("why", "so", "torn", "who knows"),
    )  # fmt: skip


def test_decisions_take_the_place_of_what_was_found(findings: Findings):
    known = with_decisions(findings, of((0, Verdict.MISLABELED, 1), (1, Verdict.CLEAN, 1)))
    found, beliefs = known
    assert found.verdict.tolist() == [1, 0, 3, 0]
    assert found.probabilities[:2].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert found.suggestion.tolist() == [1, 1, -1, 0]
    assert found.foreign_group[1] == -1  # it is in no group of foreign images any more
    assert found.reason == (DECIDED, DECIDED, "torn", "who knows")
    assert found.label.tolist() == LABELS.tolist()
    assert beliefs.certain.tolist() == [True, True, False, False]
    assert beliefs.labels.tolist() == [1, 1, 0, -1]  # what is learned
    assert beliefs.verdict[:2].tolist() == [Verdict.CLEAN, Verdict.CLEAN]
    assert findings.verdict.tolist() == [0, 2, 3, 0]  # what was given stays as it is


def test_a_mislabeled_image_of_no_known_class_is_guessed(findings: Findings):
    found, beliefs = with_decisions(findings, of((0, Verdict.MISLABELED, -1)))
    # the audit proposed the label itself, which was refuted
    assert (found.verdict[0], found.suggestion[0]) == (Verdict.MISLABELED, -1)
    assert np.isnan(found.suggestion_probability[0])
    assert (beliefs.labels[0], beliefs.verdict[0]) == (0, Verdict.MISLABELED)
    assert beliefs.kinds[0].tolist() == [0, 1, 0]
    found, _ = with_decisions(findings, of((1, Verdict.MISLABELED, -1)))
    assert found.suggestion[1] == findings.suggestion[1] == 0  # another class than the label


def test_broken_images_stay_broken_and_foreign_ones_keep_their_group(findings: Findings):
    found, beliefs = with_decisions(findings, of((1, Verdict.FOREIGN, -1), (2, Verdict.CLEAN, 0)))
    assert found.verdict.tolist() == [0, 2, 3, 0]
    assert found.foreign_group.tolist() == [-1, 5, -1, -1]
    assert beliefs.certain.tolist() == [False, True, False, False]
    assert found.reason[2] == "torn"


def test_an_image_without_a_label_is_learned_as_what_it_was_said_to_be(findings: Findings):
    found, beliefs = with_decisions(findings, of((3, Verdict.CLEAN, 1)))
    assert (found.verdict[3], found.suggestion[3], found.label[3]) == (Verdict.CLEAN, 1, -1)
    assert (beliefs.labels[3], beliefs.verdict[3]) == (1, Verdict.CLEAN)


def test_without_decisions_findings_stay(findings: Findings):
    found, beliefs = with_decisions(findings, no_decisions())
    assert found.reason == findings.reason
    np.testing.assert_array_equal(found.probabilities, findings.probabilities)
    assert not beliefs.certain.any()
