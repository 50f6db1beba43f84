from __future__ import annotations

import csv
import io
import json

import numpy as np
import pyarrow.csv
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from labelsieve.errors import RunError
from labelsieve.records import NoiseRate, Verdict
from labelsieve.report.metrics import score
from labelsieve.report.table import (
    Confusion,
    duplicate_groups,
    foreign_groups,
    percent,
    summary,
    top_confusions,
    worst_classes,
)
from labelsieve.report.terminal import terminal_scores, terminal_summary
from made_findings import made_findings, random_findings

CLEAN, MISLABELED, FOREIGN, BROKEN = Verdict


def printed(renderable, width=100):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()


def read_back(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_csv_has_the_columns_of_the_parquet_file(tmp_path):
    findings = random_findings(40, 3, seed=0, neighbors=np.arange(200).reshape(40, 5) % 40)
    findings.write(tmp_path / "findings.csv")
    rows = read_back(tmp_path / "findings.csv")
    expected = findings.to_arrow().to_pylist()
    assert list(rows[0]) == list(expected[0])
    for row, original in zip(rows, expected, strict=True):
        assert row["image"] == original["image"]
        assert row["verdict"] == original["verdict"]
        assert row["suggestion"] == (original["suggestion"] or "")
        assert row["neighbors"].split("|") == original["neighbors"]
        if original["clean_probability"] is None:
            assert row["clean_probability"] == ""
        else:
            assert np.float32(row["clean_probability"]) == np.float32(original["clean_probability"])
    assert {p.name for p in tmp_path.iterdir()} == {"findings.csv"}


def test_an_image_without_neighbors_has_an_empty_list(tmp_path):
    findings = made_findings([CLEAN, CLEAN], [0, 0], neighbors=np.array([[-1, -1], [0, -1]]))
    findings.write(tmp_path / "f.csv")
    assert [row["neighbors"] for row in read_back(tmp_path / "f.csv")] == ["", "0000.png"]


def test_a_name_with_a_bar_in_it_can_be_told_from_two_names(tmp_path):
    findings = made_findings(
        [CLEAN] * 2, [0, 0], image=["a|b.png", "c\\d.png"], neighbors=np.array([[1, 0], [0, -1]])
    )
    findings.write(tmp_path / "f.csv")
    assert [row["neighbors"] for row in read_back(tmp_path / "f.csv")] == [
        "c\\\\d.png|a\\|b.png",
        "a\\|b.png",
    ]


@pytest.mark.parametrize("name", ["=1+1.png", "+x", "-x.png", "@sum", "\tx", "'=x", "-1e"])
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(tmp_path, name):
    made_findings([CLEAN], [0], image=[name]).write(tmp_path / "f.csv")
    assert read_back(tmp_path / "f.csv")[0]["image"] == "'" + name


@pytest.mark.parametrize(
    "name", ["-1", "+2.5", "a=b", "0", "x,y", 'say "x"', "two\nlines", "雪.png"]
)
def test_numbers_and_other_text_stay_as_they_are(tmp_path, name):
    made_findings([CLEAN], [0], class_names=[name]).write(tmp_path / "f.csv")
    assert read_back(tmp_path / "f.csv")[0]["label"] == name


text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(st.lists(text, min_size=1, max_size=5, unique=True))
def test_any_name_survives_the_csv_but_for_one_apostrophe(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("csv") / "f.csv"
    made_findings([CLEAN] * len(names), [0] * len(names), image=names).write(path)
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    strings = pyarrow.csv.ConvertOptions(
        column_types={"image": pyarrow.string()}, include_columns=["image"]
    )
    table = pyarrow.csv.read_csv(path, parse_options=options, convert_options=strings)
    for written, name in zip(table["image"].to_pylist(), names, strict=True):
        assert written in (name, "'" + name)
        assert written.removeprefix("'") == name


def test_a_csv_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path):
    with pytest.raises(RunError, match="cannot be written"):
        made_findings([CLEAN], [0]).write(tmp_path / "missing" / "f.csv")


def test_the_summary_counts_every_image_once_and_is_json():
    figures = json.loads(json.dumps(summary(random_findings(500, 7, seed=1)), allow_nan=False))
    assert sum(v["n_images"] for v in figures["verdicts"].values()) == figures["n_images"] == 500
    assert sum(v["share"] for v in figures["verdicts"].values()) == pytest.approx(1)
    assert len(figures["noise_rates"]) == 7


def test_the_summary_of_no_images_is_defined():
    figures = summary(made_findings([], []))
    assert figures["verdicts"]["clean"] == {"n_images": 0, "share": 0}
    assert "0 images" in printed(terminal_summary(made_findings([], [])))


def test_confusions_count_only_images_called_mislabeled_with_a_suggestion():
    findings = made_findings(
        [MISLABELED, MISLABELED, MISLABELED, CLEAN, MISLABELED, MISLABELED],
        [0, 0, 1, 0, 0, -1],
        suggestion=[1, 1, 2, 1, -1, 1],
    )
    assert top_confusions(findings) == [Confusion(0, 1, 2), Confusion(1, 2, 1)]


def test_groups_are_sorted_by_size_and_start_with_the_image_to_keep():
    findings = made_findings(
        [FOREIGN] * 6,
        [0] * 6,
        foreign_group=np.array([3, 1, 1, -1, 1, 3], np.int32),
        duplicate_of=np.array([-1, -1, 0, 1, 1, -1]),
    )
    assert [g.tolist() for g in foreign_groups(findings)] == [[1, 2, 4], [0, 5]]
    assert [g.tolist() for g in duplicate_groups(findings)] == [[1, 3, 4], [0, 2]]
    assert summary(findings)["n_duplicates"] == 3
    assert summary(findings)["n_duplicate_groups"] == 2


def test_percent_tells_none_from_very_few():
    assert percent(0) == "0.0 %"
    assert percent(0.0001) == "< 0.1 %"
    assert percent(0.9999) == "> 99.9 %"
    assert percent(1.0) == "100.0 %"
    assert percent(0.1234) == "12.3 %"
    assert percent(0.129, 0) == "13 %"
    assert percent(0.0) == "0.0 %"
    assert percent(None) == percent(float("nan")) == "–"


def test_a_thousand_classes_stay_short_in_the_terminal():
    text = printed(terminal_summary(random_findings(5000, 1000, seed=2)))
    assert "985 more in run.json" in text
    assert len(text.splitlines()) < 50
    assert max(map(len, text.splitlines())) <= 100


def test_the_class_with_the_most_noise_comes_first_in_the_terminal():
    findings = random_findings(300, 30, seed=3)
    worst = max(findings.noise_rates, key=lambda rate: rate.mislabeled + rate.foreign)
    lines = printed(terminal_summary(findings)).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("class ")) + 1
    assert lines[first].startswith(f"{worst.class_name} ")


def test_names_with_brackets_are_not_taken_for_markup():
    findings = made_findings([MISLABELED, BROKEN], [0, 0], class_names=["[bold]x[/bold]", "y"],
                             suggestion=[1, -1], reason=("", "[/] no image"),
                             warnings=("few images in [red]x",))  # fmt: skip
    text = printed(terminal_summary(findings))
    assert "[bold]x[/bold]" in text
    assert "[/] no image" in text
    assert "warning  few images in [red]x" in text


def test_scores_are_shown_with_dashes_where_they_are_not_defined():
    findings = made_findings([CLEAN, MISLABELED], [0, 0], suggestion=[-1, 1])
    text = printed(terminal_scores(score(findings, ["cat", "dog"])), width=120)
    foreign = next(line for line in text.splitlines() if line.startswith("foreign"))
    assert foreign.split() == ["foreign", "0", "0", "–", "–", "–", "–", "–"]
    assert "suggestions: right for 100.0 % of the truly mislabeled" in text


LONG = ("golden_retriever_of_the_north", "犬" * 20, "cat")


def noisy_findings(n_images=12_345):
    rates = tuple(NoiseRate(name, n_images, 0.12 + i / 100, (0.05, 0.255), 0.07, (0.031, 0.125))
                  for i, name in enumerate(LONG))  # fmt: skip
    return made_findings([MISLABELED] * 2, [0, 1], class_names=LONG, suggestion=[1, 2],
                         noise_rates=rates)  # fmt: skip


@pytest.mark.parametrize("width", [30, 45, 60, 80, 100, 120, 200])
def test_no_number_is_cut_at_any_width(width):
    text = printed(terminal_summary(noisy_findings()), width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    words = " ".join(text.split())
    for figure in ("12.0 % (5.0–25.5)", "13.0 %", "14.0 %"):
        assert figure in words
    assert words.count("12,345") == 3
    assert words.count("7.0 % (3.1–12.5)") == 3
    assert all(name[:3] in text for name in LONG)
    assert ("█" in text) == (width >= 100)
    assert "sorted by both together" in words
    if width >= 45:
        row = next(line for line in text.splitlines() if line.startswith("cat "))
        assert "12,345" in row


def test_bars_need_no_more_room_than_they_take():
    findings = random_findings(300, 5, seed=4)
    assert "█" in printed(terminal_summary(findings), 90)


def test_a_rate_that_is_not_known_is_said_so_and_comes_last():
    rates = (NoiseRate("cat", 2, 0.5, (0.0, 1.0), 0.5, (0.0, 1.0)),
             NoiseRate("dog", 90, 0.1, (0.05, 0.2), 0.0, (0.0, 0.02)))  # fmt: skip
    findings = made_findings([CLEAN], [0], noise_rates=rates)
    assert [rate.class_name for rate in worst_classes(findings)] == ["dog", "cat"]
    for width in (40, 60, 120):
        text = printed(terminal_summary(findings), width)
        assert text.count("not known") == 2
        assert "100.0" not in text.partition("Noise rate")[2]


def test_remarks_know_one_from_several():
    def remarks(n, **columns):
        return printed(terminal_summary(made_findings([CLEAN] * n, [0] * n, **columns)))

    copies = np.full(5, -1)
    copies[1] = 0
    assert "duplicates: 1 image repeats another\n" in remarks(5, duplicate_of=copies)
    copies[2] = 0
    assert "duplicates: 2 images repeat another\n" in remarks(5, duplicate_of=copies)
    copies[4] = 3
    assert "duplicates: 3 images repeat one of 2 others\n" in remarks(5, duplicate_of=copies)


def test_a_broken_file_is_named_with_its_reason():
    reason = "Truncated: this PNG ends after 364 bytes, before its picture does."
    findings = made_findings([BROKEN], [0], image=["bomb.png"], reason=(reason,))
    assert f"broken: bomb.png: {reason}\n" in printed(terminal_summary(findings))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ([0, 1, 1], None),
        ([0, 1, -1], "1 image has no label; `clean` says of it only that it fits one of the"),
        ([0, -1, -1], "2 images have no label; `clean` says of them only that they fit one of"),
    ],
)
def test_images_without_a_label_are_counted(label, expected):
    text = printed(terminal_summary(made_findings([CLEAN] * 3, label)))
    assert (expected or "") in text
    assert ("no label" in text) == (expected is not None)
