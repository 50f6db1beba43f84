"""From noisy tags to clean ones, as a user runs it: what is written, kept, asked and refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.sparse import csr_array

import labelsieve as ls
from labelsieve.config import overrides
from labelsieve.errors import ConfigError, DataError, RunError
from labelsieve.methods.veit.verify import random_draw
from labelsieve.records import Features
from labelsieve.records.tag_findings import Tagged, TagVerdict
from labelsieve.records.tag_set import Form, TagSet, values_at
from labelsieve.records.tagged_images import TaggedImages
from labelsieve.report.tag_metrics import score_tags
from labelsieve.run.outputs import OUTPUTS, REPLACED
from labelsieve.tagging import kept, rounds, written
from labelsieve.tagging import tag as tagging
from labelsieve.tagging.settings import Tag, Wanted, recipe_of, tagging_recipe
from made_tagging import (
    BROKEN,
    FAST,
    N_IMAGES,
    N_TEST,
    N_VERIFIED,
    QUICK,
    TAGS,
    answers_table,
    fill_in,
    given_tags,
    list_table,
    pictures,
    true_tags,
)
from made_training import about, done, refusal, rows_of_csv, run, set_

TRUTH = true_tags()
GIVEN = given_tags(TRUTH)
NAMES = [f"im{i:03d}.png" for i in range(N_IMAGES)]
LAST = range(N_IMAGES - N_TEST, N_IMAGES)
MADE = ("tags.parquet", "tags.csv", "labels.parquet", "labels.csv", "by_tag.csv", "cleaned.csv",
        "counted.parquet", "model.safetensors", "model.json", "page.json")  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a table of their tags, and what people found of the first and the last of them."""
    root = tmp_path_factory.mktemp("tagged")
    names = pictures(root / "photos", TRUTH)
    list_table(root / "photos" / "tagged.csv", names, GIVEN)
    answers_table(root / "checked.csv", names, TRUTH, GIVEN, range(N_VERIFIED))
    answers_table(root / "test.csv", names, TRUTH, GIVEN, LAST)
    return root


def words(desk: Path, out: Path, *more: object, verified: Path | None = None) -> tuple[object, ...]:
    given = desk / "checked.csv" if verified is None else verified
    return (
        "tag", desk / "photos" / "tagged.csv", "--verified", given, "--test", desk / "test.csv",
        "--out", out, *FAST, *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that suggests what to verify next."""
    out = tmp_path_factory.mktemp("runs") / "run"
    done(*words(desk, out, "--suggest-verify", 30))
    return out


def same_bytes(a: Path, b: Path, *more: str) -> None:
    for name in (*MADE, *more):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def copied(run: Path, to: Path) -> Path:
    """A run that may be gone on with, without a change of the one that others look at."""
    shutil.copytree(run, to)
    return to


def verified_of(path: Path) -> dict[tuple[str, str], int]:
    """Verified pairs of a given.parquet, by names."""
    tags = TagSet.load(path)
    rows, columns, present = tags.verified_pairs()
    pairs = zip(rows.tolist(), columns.tolist(), present.tolist(), strict=True)
    return {(tags.ids[row], tags.tag_names[column]): int(is_so) for row, column, is_so in pairs}


# What is written


def test_a_run_leaves_what_is_promised(finished: Path):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "run.json", "log.jsonl", "report.html", "given.parquet", "given.images.parquet",
        "features.npy", "features.json", "dictionary.safetensors", "to_verify.csv", *MADE,
    }  # fmt: skip
    assert names <= set(OUTPUTS)
    facts = about(finished)
    assert facts["status"] == "done"
    assert facts["cleaned"] == "cleaned.csv"
    assert list(facts["timings"]) == ["decode", "features", "train", "train biases", "report"]
    assert list(facts["scores"]) == ["noisy", "biases", "default: cleaner", "default"]
    assert facts["summary"]["n_verified"] == sum(GIVEN[:N_VERIFIED].sum(1))


def test_pairs_are_a_table_of_every_asserted_tag(finished: Path):
    rows = rows_of_csv(finished / "tags.csv")
    assert list(rows[0]) == ["image", "tag", "given", "verified", "probability", "verdict"]
    pairs = {(row["image"], row["tag"]) for row in rows}
    asserted = {(NAMES[r], TAGS[c]) for r, c in zip(*np.nonzero(GIVEN), strict=True)}
    assert pairs == asserted
    for row in rows:
        found = {"true": "kept", "false": "removed"}.get(row["verified"])
        if found is not None:  # what people said is never changed
            assert row["verdict"] == found
            assert int(NAMES.index(row["image"])) < N_VERIFIED


def test_labels_are_the_tags_that_stay(finished: Path):
    tagged = Tagged.load(finished / "tags.parquet")
    stays = {(tagged.ids[r], tagged.tag_names[c])
             for r, c in zip(*tagged.cleaned().nonzero(), strict=True)}  # fmt: skip
    rows = rows_of_csv(finished / "labels.csv")
    assert [row["image"] for row in rows] == NAMES
    assert list(rows[0]) == ["image", "given_labels", "clean_labels"]
    found = {(row["image"], tag) for row in rows for tag in row["clean_labels"].split("|") if tag}
    assert found == stays
    given = {row["image"]: row["given_labels"].split("|") for row in rows}
    assert given[NAMES[3]] == sorted(np.array(TAGS)[GIVEN[3]])


def test_cleaned_tags_have_the_form_of_the_table(finished: Path, desk: Path):
    before = rows_of_csv(desk / "photos" / "tagged.csv")
    after = rows_of_csv(finished / "cleaned.csv")
    clean = {row["image"]: row["clean_labels"] for row in rows_of_csv(finished / "labels.csv")}
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert (old["image"], old["author"]) == (new["image"], new["author"])
        assert sorted(new["labels"].split("|")) == sorted(clean[old["image"]].split("|"))
    assert any(old["labels"] != new["labels"] for old, new in zip(before, after, strict=True))


def test_what_stays_is_scored_by_the_rows_that_are_written(finished: Path):
    scored = {NAMES[row] for row in LAST}
    rows = [row for row in rows_of_csv(finished / "labels.csv") if row["image"] in scored]
    right = wrong = 0
    for row in rows:
        for tag in filter(None, row["clean_labels"].split("|")):
            shown = TRUTH[NAMES.index(row["image"]), TAGS.index(tag)]
            right, wrong = right + shown, wrong + (not shown)
    scores = about(finished)["scores"]["default: cleaner"]["kept"]
    assert (scores["n_kept"], scores["n_right"]) == (right + wrong, right)
    assert scores["n_present"] == (GIVEN & TRUTH)[list(LAST)].sum()


def test_the_cleaner_is_scored_by_the_probabilities_that_are_written(finished: Path):
    place = {name: c for c, name in enumerate(sorted(TAGS))}
    scored = {NAMES[row] for row in LAST}
    rows = [row for row in rows_of_csv(finished / "tags.csv") if row["image"] in scored]
    values = np.array([float(row["probability"]) for row in rows])
    tags = np.array([place[row["tag"]] for row in rows])
    shown = [TRUTH[NAMES.index(row["image"]), TAGS.index(row["tag"])] for row in rows]
    again = score_tags(values, tags, np.array(shown, bool), sorted(TAGS))
    scores = about(finished)["scores"]["default: cleaner"]
    assert again.map == pytest.approx(scores["map"])
    assert again.ap_all == pytest.approx(scores["ap_all"], abs=2e-3)  # the CSV has fewer digits


def test_nothing_is_learned_of_what_only_scores(finished: Path):
    looked = {row["image"] for row in rows_of_csv(finished / "tags.csv") if row["verified"]}
    assert looked == set(NAMES[:N_VERIFIED])
    asked = {row["image"] for row in rows_of_csv(finished / "to_verify.csv")}
    assert not asked & {NAMES[row] for row in LAST}


def test_a_broken_image_is_for_review_and_said(finished: Path, desk: Path, tmp_path: Path):
    checked = answers_table(tmp_path / "c.csv", NAMES, TRUTH, GIVEN, range(10, N_VERIFIED))
    result = done(*words(desk, tmp_path / "run", verified=checked))
    assert f"1 of 120 images cannot be read, such as {BROKEN}" in " ".join(result.output.split())
    rows = [row for row in rows_of_csv(tmp_path / "run" / "tags.csv") if row["image"] == BROKEN]
    assert {(row["verdict"], row["probability"]) for row in rows} == {("review", "")}
    clean = {row["image"]: row for row in rows_of_csv(tmp_path / "run" / "labels.csv")}[BROKEN]
    assert clean["given_labels"] == clean["clean_labels"]


def test_questions_are_of_pairs_that_nobody_answered(finished: Path):
    rows = rows_of_csv(finished / "to_verify.csv")
    assert len(rows) == 30
    assert list(rows[0]) == ["image", "tag", "probability", "why", "present"]
    assert {row["present"] for row in rows} == {""}
    asked = {(row["image"], row["tag"]) for row in rows}
    assert len(asked) == 30
    assert not asked & verified_of(finished / "given.parquet").keys()
    assert sum(row["why"] == "random" for row in rows) == 9


def test_by_tag_counts_what_the_tables_have(finished: Path):
    pairs = rows_of_csv(finished / "tags.csv")
    for row in rows_of_csv(finished / "by_tag.csv"):
        own = [pair for pair in pairs if pair["tag"] == row["tag"]]
        assert int(row["asserted"]) == len(own)
        assert int(row["verified"]) == sum(pair["verified"] != "" for pair in own)
        assert int(row["kept"]) == sum(pair["verdict"] == "kept" for pair in own)


def test_the_command_for_the_next_round_is_one_that_runs(finished: Path):
    from labelsieve.cli import main

    ((command, _),) = about(finished)["next"]
    parts = command.split()
    assert parts[:2] == ["labelsieve", "tag"]
    main.commands["tag"].make_context("tag", parts[2:])
    assert "to_verify.csv" in (finished / "report.html").read_text()


def test_next_words_are_the_old_ones_with_the_answers():
    words = ["tag", "my photos.csv", "--verified", "a.csv", "--out", "run", "--overwrite", "--seed",
             "3"]  # fmt: skip
    job = SimpleNamespace(run=SimpleNamespace(path=Path("run"), about={"argv": words}))
    command, _ = written.next_command(job)  # type: ignore[arg-type]
    assert command == (
        "labelsieve tag 'my photos.csv' --out run --seed 3 --verified run/to_verify.csv --resume"
    )


# The same again


@pytest.mark.parametrize("where", ["compared", "counted", "write_cleaned"])
def test_a_killed_run_ends_like_an_unbroken_one(
    where: str, finished: Path, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    again = words(desk, tmp_path / "run", "--suggest-verify", 30)

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tagging, where, cut)
    assert run(*again).exit_code == 130
    monkeypatch.undo()
    done(*again, "--resume")
    same_bytes(finished, tmp_path / "run", "to_verify.csv")


def test_a_run_killed_while_it_writes_is_written_whole(
    finished: Path, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    again = words(desk, tmp_path / "run", "--suggest-verify", 30)

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(written, "write_cleaned_page", cut)
    assert run(*again).exit_code == 130
    monkeypatch.undo()
    done(*again, "--resume")
    same_bytes(finished, tmp_path / "run", "to_verify.csv")


def test_a_finished_run_is_shown_again(finished: Path, desk: Path):
    before = (finished / "run.json").read_bytes()
    said = done(*words(desk, finished, "--suggest-verify", 30), "--resume")
    assert "Report:" in said.stderr
    assert (finished / "run.json").read_bytes() == before


def test_a_rerun_gives_the_same_bytes(finished: Path, tmp_path: Path):
    done("rerun", finished, "--out", tmp_path / "again")
    same_bytes(finished, tmp_path / "again", "to_verify.csv")


def test_a_report_is_written_again(finished: Path, tmp_path: Path):
    copy = copied(finished, tmp_path / "copy")
    before = (copy / "report.html").read_text()
    (copy / "report.html").unlink()
    done("report", copy)
    after = (copy / "report.html").read_text()
    assert len(after) == pytest.approx(len(before), rel=0.01)
    assert "30 questions are" in after


# Rounds


@pytest.fixture(scope="module")
def second(finished: Path, desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The next round, after all questions were answered."""
    out = copied(finished, tmp_path_factory.mktemp("rounds") / "run")
    fill_in(out / "to_verify.csv", NAMES, TRUTH)
    shutil.copy(out / "to_verify.csv", out.parent / "answers.csv")
    verified = out / "to_verify.csv"
    done(*words(desk, out, "--suggest-verify", 30, "--resume", verified=verified))
    return out


def test_a_round_keeps_features_and_earlier_answers(finished: Path, second: Path):
    assert not (second / REPLACED).exists()
    facts = about(second)
    assert [each["n_verified"] for each in facts["rounds"]] == [118, 148]
    assert {"decode", "features"}.isdisjoint(facts["timings"])
    for name in ("features.npy", "dictionary.safetensors"):
        assert (second / name).read_bytes() == (finished / name).read_bytes()
    before, now = (verified_of(each / "given.parquet") for each in (finished, second))
    answered = rows_of_csv(second.parent / "answers.csv")
    new = {(row["image"], row["tag"]): int(row["present"]) for row in answered}
    assert now == before | new
    again = {(row["image"], row["tag"]) for row in rows_of_csv(second / "to_verify.csv")}
    assert not again & now.keys()
    assert "With the rounds before, 148 pairs" in " ".join(facts["understood"])


def test_estimates_rest_on_what_was_drawn(finished: Path, second: Path):
    answered = rows_of_csv(second.parent / "answers.csv")
    drawn = {(row["image"], row["tag"]) for row in answered if row["why"] == "random"}
    first = verified_of(finished / "given.parquet")
    counted = pq.read_table(second / "counted.parquet").to_pylist()
    assert {(row["image"], row["tag"]) for row in counted} == first.keys() | drawn
    now = verified_of(second / "given.parquet")
    for row in rows_of_csv(second / "by_tag.csv"):
        rests_on = [pair for pair in first.keys() | drawn if pair[1] == row["tag"]]
        wrong = np.mean([not now[pair] for pair in rests_on])
        assert float(row["wrong_share"]) == pytest.approx(wrong)


@pytest.mark.parametrize("where", ["take_over", "compared", "counted", "write_cleaned"])
def test_a_second_round_that_is_killed_loses_nothing(
    where: str, finished: Path, second: Path, desk: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    out = copied(finished, tmp_path / "run")
    fill_in(out / "to_verify.csv", NAMES, TRUTH)
    verified = out / "to_verify.csv"
    again = words(desk, out, "--suggest-verify", 30, "--resume", verified=verified)

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tagging, where, cut)
    assert run(*again).exit_code == 130
    monkeypatch.undo()
    done(*again)
    same_bytes(second, out, "to_verify.csv")
    assert about(out)["rounds"] == about(second)["rounds"]


def test_a_second_round_killed_after_its_questions_were_written_ends_like_an_unbroken_one(
    finished: Path, second: Path, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from labelsieve.run import Run

    out = copied(finished, tmp_path / "run")
    fill_in(out / "to_verify.csv", NAMES, TRUTH)
    verified = out / "to_verify.csv"
    again = words(desk, out, "--suggest-verify", 30, "--resume", verified=verified)

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "finish", cut)
    assert run(*again).exit_code == 130
    monkeypatch.undo()
    done(*again)
    same_bytes(second, out, "to_verify.csv")
    assert verified_of(out / "given.parquet") == verified_of(second / "given.parquet")


def test_a_round_that_is_stopped_takes_answers_that_were_corrected(
    finished: Path, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = copied(finished, tmp_path / "run")
    fill_in(out / "to_verify.csv", NAMES, ~TRUTH)  # all wrong
    again = words(desk, out, "--resume", verified=out / "to_verify.csv")

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tagging, "compared", cut)
    assert run(*again).exit_code == 130
    fill_in(out / "to_verify.csv", NAMES, TRUTH)
    assert run(*again).exit_code == 130  # begun again, and stopped again
    monkeypatch.undo()
    done(*again)
    answered = rows_of_csv(out / "to_verify.csv")
    new = {(row["image"], row["tag"]): int(row["present"]) for row in answered}
    first = verified_of(finished / "given.parquet")
    assert verified_of(out / "given.parquet") == first | new
    for (name, tag), present in new.items():
        assert present == TRUTH[NAMES.index(name), TAGS.index(tag)]
    assert [each["n_verified"] for each in about(out)["rounds"]] == [118, 148]
    assert (out / "features.npy").read_bytes() == (finished / "features.npy").read_bytes()


def test_a_first_run_that_is_stopped_takes_more_answers(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, checked = tmp_path / "run", tmp_path / "c.csv"
    answers_table(checked, NAMES, TRUTH, GIVEN, range(20))

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tagging, "compared", cut)
    assert run(*words(desk, out, verified=checked)).exit_code == 130
    monkeypatch.undo()
    answers_table(checked, NAMES, TRUTH, GIVEN, range(30))
    done(*words(desk, out, "--resume", verified=checked))
    assert len(verified_of(out / "given.parquet")) == GIVEN[:30].sum()
    assert len(about(out)["rounds"]) == 1


def test_a_rerun_of_a_second_round_gives_the_same_bytes(second: Path, tmp_path: Path):
    done("rerun", second, "--out", tmp_path / "again")
    same_bytes(second, tmp_path / "again", "to_verify.csv")


def test_answers_stay_where_they_are_without_new_questions(
    finished: Path, desk: Path, tmp_path: Path
):
    out = copied(finished, tmp_path / "run")
    n = fill_in(out / "to_verify.csv", NAMES, TRUTH)
    once_more = words(desk, out, "--resume", verified=out / "to_verify.csv")
    done(*once_more)
    assert sum(row["present"] != "" for row in rows_of_csv(out / "to_verify.csv")) == n
    before = (out / "run.json").read_bytes()
    done(*once_more)  # nothing new
    assert (out / "run.json").read_bytes() == before


def test_a_round_with_a_tag_that_is_new_keeps_all_others(
    finished: Path, desk: Path, tmp_path: Path
):
    out = copied(finished, tmp_path / "run")
    new = tmp_path / "new.csv"
    new.write_text(f"image,label,present\n{NAMES[45]},a cat,1\n{NAMES[50]},red,1\n")
    done(*words(desk, out, "--resume", verified=new))
    found, before = (verified_of(each / "given.parquet") for each in (out, finished))
    assert found == before | {(NAMES[45], "a cat"): 1, (NAMES[50], "red"): 1}
    tagged = Tagged.load(out / "tags.parquet")
    assert tagged.tag_names == (*sorted(TAGS), "a cat")  # others keep their places
    last = tmp_path / "last.csv"
    last.write_text(f"image,label,present\n{NAMES[46]},blue,0\n")
    done(*words(desk, out, "--resume", verified=last))
    assert verified_of(out / "given.parquet") == found | {(NAMES[46], "blue"): 0}


def test_a_later_answer_replaces_an_earlier_one(finished: Path, desk: Path, tmp_path: Path):
    out = copied(finished, tmp_path / "run")
    pair, was = next(iter(verified_of(out / "given.parquet").items()))
    other = tmp_path / "other.csv"
    other.write_text(f"image,label,present\n{pair[0]},{pair[1]},{1 - was}\n")
    done(*words(desk, out, "--resume", verified=other))
    assert verified_of(out / "given.parquet")[pair] == 1 - was


def test_answers_that_were_not_drawn_do_not_count_as_drawn(
    finished: Path, desk: Path, tmp_path: Path
):
    """Another file than the questions: of what was drawn hardly anything is answered."""
    out = copied(finished, tmp_path / "run")
    drawn = {(row["image"], row["tag"]) for row in rows_of_csv(out / "to_verify.csv")
             if row["why"] == "random"}  # fmt: skip
    chosen = [
        (r, c) for r, c in zip(*np.nonzero(GIVEN[40:80]), strict=True) if not TRUTH[40 + r, c]
    ]
    lines = [
        f"{NAMES[40 + r]},{TAGS[c]},0" for r, c in chosen if (NAMES[40 + r], TAGS[c]) not in drawn
    ]
    path = tmp_path / "suspicious.csv"
    path.write_text("\n".join(["image,label,present", *lines]) + "\n")
    done(*words(desk, out, "--resume", verified=path))
    counted = pq.read_table(out / "counted.parquet").to_pylist()
    first = verified_of(finished / "given.parquet").keys()
    assert {(row["image"], row["tag"]) for row in counted} == first


def test_what_was_overwritten_is_not_gone_on_with(
    finished: Path, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = copied(finished, tmp_path / "run")
    few = answers_table(tmp_path / "few.csv", NAMES, TRUTH, GIVEN, range(30))
    fresh = words(desk, out, verified=few)

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tagging, "compared", cut)
    assert run(*fresh, "--overwrite").exit_code == 130
    monkeypatch.undo()
    done(*fresh, "--resume")
    assert len(verified_of(out / "given.parquet")) == GIVEN[:30].sum()


def test_other_settings_are_no_next_round(finished: Path, desk: Path, tmp_path: Path):
    out = copied(finished, tmp_path / "run")
    said = refusal(*words(desk, out, "--resume", "--set", "keep.threshold=0.6"))
    assert "begun with other settings" in said
    assert "keep.threshold" in said


def test_rounds_of_other_images_are_refused(finished: Path, desk: Path, tmp_path: Path):
    out = copied(finished, tmp_path / "run")
    fewer = list_table(desk / "photos" / "fewer.csv", NAMES[:100], GIVEN[:100])
    answers = tmp_path / "c.csv"
    shutil.copy(desk / "checked.csv", answers)
    said = refusal("tag", fewer, "--verified", answers, "--out", out, *FAST, "--resume")
    assert "it now has 100 images, and the rounds before were of 120" in said


# Afterwards


def test_new_images_get_tags(finished: Path, desk: Path, tmp_path: Path):
    new = tmp_path / "new"
    names = pictures(new, true_tags(seed=9, n=30), seed=5)
    done("predict", finished, new, "--out", tmp_path / "new.csv")
    rows = rows_of_csv(tmp_path / "new.csv")
    assert [row["image"] for row in rows] == names
    shown = true_tags(seed=9, n=30)
    right = [
        ("red" in row["labels"].split("|")) == shown[i, 0]
        for i, row in enumerate(rows) if row["image"] != BROKEN
    ]  # fmt: skip
    assert np.mean(right) > 0.8
    assert rows[5]["labels"] == rows[5]["choices"] == ""


def test_the_tagger_says_again_what_it_was_scored_by(finished: Path, desk: Path):
    """Predictions of the test images come to the scores in run.json."""
    model = ls.TagModel.load(finished)
    found = model.predict(desk / "photos")
    test = [row for row in LAST if NAMES[row] in found.image]
    place = {row: i for i, row in enumerate(found.rows.tolist())}
    of_image = {name: row for row, name in enumerate(found.image)}
    said = found.probabilities.toarray()
    values, tags, shown = [], [], []
    for row in test:
        for c in np.flatnonzero(GIVEN[row]):
            tag = found.tag_names.index(TAGS[c])
            values.append(said[place[of_image[NAMES[row]]], tag])
            tags.append(tag)
            shown.append(TRUTH[row, c])
    again = score_tags(np.array(values), np.array(tags), np.array(shown), found.tag_names)
    assert again.map == pytest.approx(model.scores["default"].map, abs=1e-6)
    assert again.ap_all == pytest.approx(model.scores["default"].ap_all, abs=1e-6)


def test_runs_are_compared_by_their_scores(finished: Path, second: Path):
    said = json.loads(done("evaluate", finished, second, "--json").stdout)
    assert list(said["runs"]) == [str(finished), str(second)]
    assert said["baseline"] == "noisy"
    assert "default" in said["gains"]


def test_other_recipes_are_trained_beside(desk: Path, tmp_path: Path):
    out = tmp_path / "run"
    done(*words(desk, out, "--compare", "mixed", "--compare", "noisy"))
    assert list(about(out)["scores"]) == ["noisy", "biases", "mixed", "default: cleaner", "default"]
    logged = {
        json.loads(line).get("phase") for line in (out / "log.jsonl").read_text().splitlines()
    }
    assert any(phase and phase.startswith("mixed: ") for phase in logged)


@pytest.mark.parametrize("recipe", ["paper", "noisy", "misra", "clean"])
def test_every_recipe_cleans_scores_and_predicts(recipe: str, desk: Path, tmp_path: Path):
    out = tmp_path / "run"
    done("tag", desk / "photos" / "tagged.csv", "--verified", desk / "checked.csv",
         "--test", desk / "test.csv", "--out", out, "--recipe", recipe, *QUICK)  # fmt: skip
    assert list(about(out)["scores"])[-1] == recipe
    # what a cleaner or tagger learned is no test of it, and is not shown as one
    learned = recipe in ("paper", "clean")
    assert any("that it learned from" in each for each in about(out)["summary"]["warnings"]) == (
        learned
    )
    assert (json.loads((out / "page.json").read_text())["reliability"] is None) == learned
    done("predict", out, desk / "photos", "--out", tmp_path / "new.parquet")
    assert len(pq.read_table(tmp_path / "new.parquet")) == N_IMAGES


def test_a_network_that_learns_along_is_kept_and_predicts(
    network_run: Path, desk: Path, tmp_path: Path
):
    out = tmp_path / "run"
    more = ("--network", network_run, *set_("learn_backbone=true"))
    done(*words(desk, out, *more))
    assert json.loads((out / "model.json").read_text())["kind"] == "tagger"
    found = ls.TagModel.load(out).predict(desk / "photos")
    assert len(found.rows) == N_IMAGES - 1
    scores = ls.TagModel.load(out).scores["default"]
    place = {found.image[row]: i for i, row in enumerate(found.rows.tolist())}
    pairs = [(row, c) for row in LAST for c in np.flatnonzero(GIVEN[row])]
    columns = np.array([found.tag_names.index(TAGS[c]) for _, c in pairs])
    values = np.array([found.probabilities.toarray()[place[NAMES[row]]] for row, _ in pairs])
    shown = np.array([TRUTH[pair] for pair in pairs])
    again = score_tags(values[np.arange(len(pairs)), columns], columns, shown, found.tag_names)
    assert again.map == pytest.approx(scores.map, abs=1e-4)


# What people verified, and what not


def test_without_anything_verified_all_tags_stay(desk: Path, tmp_path: Path):
    out = tmp_path / "run"
    result = done(
        "tag", desk / "photos" / "tagged.csv", "--out", out, "--suggest-verify", 10, *FAST
    )
    assert "No tag is verified" in " ".join(result.output.split())
    tagged = Tagged.load(out / "tags.parquet")
    assert tagged.count(TagVerdict.REMOVED) == 0
    assert (tagged.cleaned() != 0).sum() == GIVEN.sum()
    assert len(rows_of_csv(out / "to_verify.csv")) == 10
    assert about(out)["scores"] is None
    fill_in(out / "to_verify.csv", NAMES, TRUTH)  # a first round of answers
    done("tag", desk / "photos" / "tagged.csv", "--out", out, "--verified",
         out / "to_verify.csv", "--resume", *FAST)  # fmt: skip
    assert about(out)["summary"]["n_verified"] == 10


def test_only_right_tags_verified_is_said(desk: Path, tmp_path: Path):
    path = answers_table(tmp_path / "right.csv", NAMES, TRUTH, GIVEN & TRUTH, range(N_VERIFIED))
    result = done(*words(desk, tmp_path / "run", verified=path))
    assert "Only present is verified, never absent" in " ".join(result.output.split())


def test_a_tag_that_nobody_verified_keeps_its_assertions(desk: Path, tmp_path: Path):
    asked = GIVEN.copy()
    asked[:, TAGS.index("dark")] = False
    path = answers_table(tmp_path / "c.csv", NAMES, TRUTH, asked, range(N_VERIFIED))
    result = done(*words(desk, tmp_path / "run", verified=path))
    assert "were never verified" in " ".join(result.output.split())
    clean = rows_of_csv(tmp_path / "run" / "labels.csv")
    for row in clean:
        assert ("dark" in row["given_labels"].split("|")) == (
            "dark" in row["clean_labels"].split("|")
        )
    rows = {row["tag"]: row for row in rows_of_csv(tmp_path / "run" / "by_tag.csv")}
    assert rows["dark"]["basis"] == "never"


def test_a_wanted_precision_makes_thresholds_of_tags(finished: Path, desk: Path, tmp_path: Path):
    out = tmp_path / "run"
    done(*words(desk, out, "--target-precision", 0.95))
    assert about(out)["settings"]["tag"]["keep"]["target_precision"] == 0.95
    bars = Tagged.load(out / "tags.parquet").thresholds
    assert (bars > 0).all()
    assert not np.allclose(bars, Tagged.load(finished / "tags.parquet").thresholds)
    fewer, more = (Tagged.load(each / "tags.parquet").stays.sum() for each in (out, finished))
    assert fewer < more


def test_tags_are_added_where_asked_for(desk: Path, tmp_path: Path):
    out = tmp_path / "run"
    done(*words(desk, out, *set_("add_from=0.6")))
    added = [row for row in rows_of_csv(out / "tags.csv") if row["verdict"] == "added"]
    assert added
    assert all(row["given"] == "false" and float(row["probability"]) >= 0.6 for row in added)
    asserted = {(NAMES[r], TAGS[c]) for r, c in zip(*np.nonzero(GIVEN), strict=True)}
    assert not asserted & {(row["image"], row["tag"]) for row in added}
    assert BROKEN not in {row["image"] for row in added}


def test_truth_scores_and_decides_nothing(finished: Path, desk: Path, tmp_path: Path):
    table = desk / "photos" / "true.csv"
    rows = rows_of_csv(desk / "photos" / "tagged.csv")
    with table.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["image", "labels", "author", "true"])
        for row, own in zip(rows, TRUTH, strict=True):
            out.writerow([*row.values(), "|".join(np.array(TAGS)[own])])
    run_to = tmp_path / "run"
    done(
        "tag", table, "--verified", desk / "checked.csv", "--truth", "true", "--out", run_to, *FAST
    )
    scores = about(run_to)["scores"]
    assert list(scores) == ["noisy", "default"]
    given = scores["noisy"]["kept_full"]
    assert (given["n_kept"], given["n_right"]) == (GIVEN.sum(), (GIVEN & TRUTH).sum())
    assert scores["default"]["kept_full"]["precision"] > given["precision"]
    done("tag", table, "--verified", desk / "checked.csv", "--out", tmp_path / "without", *FAST)
    assert (run_to / "tags.csv").read_bytes() == (tmp_path / "without" / "tags.csv").read_bytes()


def test_unknown_tags_of_the_test_are_left_out(desk: Path, tmp_path: Path):
    path = tmp_path / "test.csv"
    path.write_text((desk / "test.csv").read_text() + f"{NAMES[90]},zebra,1\n")
    out = tmp_path / "run"
    done("tag", desk / "photos" / "tagged.csv", "--verified", desk / "checked.csv", "--test", path,
         "--out", out, *FAST)  # fmt: skip
    assert about(out)["scores"]["default"]["tag_names"] == sorted(TAGS)


def test_images_that_are_verified_and_score_only_score(desk: Path, tmp_path: Path):
    path = answers_table(tmp_path / "both.csv", NAMES, TRUTH, GIVEN, [*range(40), 100, 101])
    out = tmp_path / "run"
    result = done(*words(desk, out, verified=path))
    assert "2 images with verified tags are in --test" in " ".join(result.output.split())
    assert {pair[0] for pair in verified_of(out / "given.parquet")} == set(NAMES[:40])


# Other sources


def test_images_of_a_folder_that_the_table_does_not_name(desk: Path, tmp_path: Path):
    table = list_table(tmp_path / "t.csv", [f"im{i:03d}" for i in range(N_IMAGES)], GIVEN)
    checked = tmp_path / "c.csv"
    checked.write_text((desk / "checked.csv").read_text().replace(".png", ""))
    out = tmp_path / "run"
    said = refusal("tag", table, "--verified", checked, "--out", out, *FAST)
    assert "names no files of images" in said
    assert not out.exists()
    done("tag", table, "--verified", checked, "--images", desk / "photos", "--out", out, *FAST)
    assert about(out)["summary"]["n_images"] == N_IMAGES


def made_features(ids: tuple[str, ...], seed: int = 0) -> Features:
    """Rows in which tags can be seen."""
    rng = np.random.default_rng(seed)
    rows = TRUTH[[int(name[2:5]) for name in ids]] @ rng.normal(size=(len(TAGS), 16))
    values = (rows + 0.3 * rng.normal(size=rows.shape)).astype(np.float32)
    return Features(ids, values / np.linalg.norm(values, axis=1, keepdims=True), "made")


def test_features_of_the_users_own_need_no_images(desk: Path, tmp_path: Path):
    names = tuple(f"im{i:03d}" for i in range(N_IMAGES))
    table = list_table(tmp_path / "t.csv", names, GIVEN)
    checked = tmp_path / "c.csv"
    checked.write_text((desk / "checked.csv").read_text().replace(".png", ""))
    made_features(names).save(tmp_path / "own.npy")
    out = tmp_path / "run"
    done(
        "tag", table, "--verified", checked, "--features", tmp_path / "own.npy", "--out", out, *FAST
    )
    tagged = Tagged.load(out / "tags.parquet")
    assert not np.isnan(tagged.probability).any()
    rows = [row for row in rows_of_csv(out / "tags.csv") if not row["verified"]]
    shown = np.array([TRUTH[int(row["image"][2:5]), TAGS.index(row["tag"])] for row in rows])
    said = np.array([float(row["probability"]) for row in rows])
    assert said[shown].mean() > said[~shown].mean() + 0.1
    said_of_new = refusal("predict", out, desk / "photos", "--out", tmp_path / "new.csv")
    assert "made from features of your own" in said_of_new
    done("report", out)


def test_texts_beside_images_are_cleaned_as_texts(desk: Path, tmp_path: Path):
    folder = tmp_path / "photos"
    pictures(folder, TRUTH)
    for name, own in zip(NAMES, GIVEN, strict=True):
        (folder / name).with_suffix(".txt").write_text(", ".join(np.array(TAGS)[own]) + "\n")
    out = tmp_path / "run"
    done("tag", folder, "--verified", desk / "checked.csv", "--out", out, *FAST)
    assert about(out)["cleaned"] == "cleaned"
    clean = {row["image"]: row["clean_labels"] for row in rows_of_csv(out / "labels.csv")}
    for name in NAMES:
        text = (out / "cleaned" / name).with_suffix(".txt").read_text().strip()
        assert sorted(filter(None, text.split(", "))) == sorted(
            filter(None, clean[name].split("|"))
        )
    done("rerun", out, "--out", tmp_path / "again")


def test_a_source_of_any_suffix_has_cleaned_tags_that_a_run_owns(tmp_path: Path):
    for family, files, name in (
        ("lists", ("a/photos.CSV",), "cleaned.csv"),
        ("long", ("a/photos.pq",), "cleaned.parquet"),
        ("coco", ("a/instances.json",), "cleaned.json"),
        ("tag-lines", ("All_Tags.txt",), "cleaned.txt"),
        ("multi-hot", ("a.tsv",), "cleaned.tsv"),
        ("open-images", ("a.csv", "b.csv"), "cleaned"),
        ("voc", ("cat_train.txt",), "cleaned"),
        ("image-set", (), "cleaned.parquet"),
    ):
        form = Form(family, tuple(str(tmp_path / file) for file in files))
        ids, matrix = ("a",), csr_array(np.ones((1, 1), np.float32))
        tags = TagSet(ids, ("cat",), matrix, csr_array((1, 1), dtype=np.int8), form=form)
        assert written.cleaned_name(tags) == name
        assert name in OUTPUTS


def test_synonyms_implied_tags_and_groups_go_through(desk: Path, tmp_path: Path):
    (tmp_path / "synonyms.csv").write_text("from,to\ndisc,round\n")
    (tmp_path / "groups.csv").write_text("tag,group\nred,colors\nblue,colors\nround,shapes\n")
    out = tmp_path / "run"
    said = done(
        *words(desk, out, "--synonyms", tmp_path / "synonyms.csv", "--implies", "red:colored",
               "--groups", tmp_path / "groups.csv", "--json")
    )  # fmt: skip
    names = Tagged.load(out / "tags.parquet").tag_names
    assert {"round", "colored"} <= set(names)
    assert "disc" not in names
    groups = json.loads(said.stdout)["scores"]["default"]["by_group"]
    assert {group["name"] for group in groups} == {"colors", "shapes"}
    clean = {tag for row in rows_of_csv(out / "cleaned.csv") for tag in row["labels"].split("|")}
    assert clean - {""} <= set(names)  # spelled as they were brought together
    done("rerun", out, "--out", tmp_path / "again")
    same_bytes(out, tmp_path / "again")


# In Python


def test_python_gives_what_the_command_gives(finished: Path, desk: Path):
    tags = ls.read_tags(desk / "photos" / "tagged.csv", verified=desk / "checked.csv")
    answers = ls.read_tags(desk / "photos" / "tagged.csv", verified=desk / "test.csv").verified
    settings = overrides(tagging_recipe(), FAST[1::2])
    model = ls.tag(tags, settings, answers=answers)
    before = Tagged.load(finished / "tags.parquet")
    np.testing.assert_array_equal(model.tagged.probability, before.probability)
    np.testing.assert_array_equal(model.tagged.verdict, before.verdict)
    assert list(model.scores) == ["noisy", "biases", "own: cleaner", "own"]
    assert model.scores["own"].map == about(finished)["scores"]["default"]["map"]
    assert len(model.given) == N_IMAGES
    folder = model.folder
    del model
    assert not folder.exists()  # it goes with the model


def test_a_model_is_kept_and_has_a_report(finished: Path, tmp_path: Path):
    model = ls.TagModel.load(finished)
    assert "Tagged(120 images" in repr(model)
    model.save(tmp_path / "kept")
    again = ls.TagModel.load(tmp_path / "kept")
    assert len(again.tagged) == len(model.tagged)
    assert (tmp_path / "kept" / "cleaned.csv").is_file()
    done("report", tmp_path / "kept")


def test_features_in_memory_need_no_images_in_python(desk: Path):
    names = tuple(f"im{i:03d}" for i in range(N_IMAGES))
    asserted = csr_array(GIVEN.astype(np.float32))
    verified = np.where(GIVEN, np.where(TRUTH, 1, -1), 0).astype(np.int8)
    verified[N_VERIFIED:] = 0
    tags = TagSet(names, TAGS, asserted, csr_array(verified), source="made")
    settings = overrides(tagging_recipe("paper"), QUICK[1::2])
    model = ls.tag(tags, settings, features=made_features(names), seed=3)
    assert not np.isnan(model.tagged.probability).any()
    assert model.scores == {}
    with pytest.raises(ConfigError, match="features of your own"):
        model.predict(desk / "photos")
    with pytest.raises(DataError, match="names no files of images"):
        ls.tag(tags)
    with pytest.raises(DataError, match="answers of shape"):
        ls.tag(tags, features=made_features(names), answers=csr_array((2, 2), dtype=np.int8))


def test_settings_that_are_no_recipe_have_a_name():
    assert recipe_of(tagging_recipe("misra")) == "misra"
    assert recipe_of(overrides(tagging_recipe(), ("train.updates=3",))) == "own"
    assert recipe_of(Tag().for_precision(0.9)) == "default"


# What is refused, before the work


def test_mistakes_are_said_before_the_work(desk: Path, tmp_path: Path):
    out, table = tmp_path / "run", desk / "photos" / "tagged.csv"
    base = ("tag", table, "--verified", desk / "checked.csv", "--out", out)
    assert "there is no recipe 'papre'" in refusal(*base, "--recipe", "papre")
    assert "there is no recipe 'papre'" in refusal(
        *base, "--test", desk / "test.csv", "--compare", "papre"
    )
    assert run(*base, "--compare", "paper").exit_code == 2  # without --test
    assert run(*base, "--suggest-verify", -3).exit_code == 2
    assert run(*base, "--suggest-for", "fun").exit_code == 2
    assert "target_precision is 1.5" in refusal(*base, "--target-precision", 1.5)
    assert "review is from 0.8 to 0.2" in refusal(*base, *set_("review=0.8,0.2"))
    assert "there is no such file" in refusal(*base, "--features", tmp_path / "no.npy")
    assert "there is no such file" in refusal(*base, "--groups", tmp_path / "no.csv")
    assert "there is no network to learn along" in refusal(*base, *set_("learn_backbone=true"))
    assert "no such folder or file" in refusal(*base, "--network", tmp_path / "no")
    assert "cannot be used here" in refusal(*base, "--device", "cuda:9")
    assert "no such file" in refusal("tag", tmp_path / "no.csv", "--out", out)
    for option in ("--verified", "--test"):
        assert f"no file or column 'no.csv', nor columns that begin so, for {option}" in refusal(
            "tag", table, option, "no.csv", "--out", out
        )
    assert not out.exists()


def test_what_does_not_go_together_is_said_before_the_work(desk: Path, tmp_path: Path):
    out, table = tmp_path / "run", desk / "photos" / "tagged.csv"
    same = refusal("tag", table, "--verified", desk / "checked.csv", "--test",
                   desk / "checked.csv", "--out", out)  # fmt: skip
    assert "has all 40 images of which tags are verified" in same
    strange = tmp_path / "strange.csv"
    strange.write_text(f"image,label,present\n{NAMES[3]},zebra,1\n")
    said = refusal("tag", table, "--test", strange, "--out", out)
    assert "none of its 1 verified pairs is of a tag of" in said
    assert "'zebra'" in said
    sidecars = tmp_path / "sidecars"
    pictures(sidecars, TRUTH[:30])
    for name in NAMES[:30]:
        (sidecars / name).with_suffix(".txt").write_text("red, square\n")
    assert "lies among the images" in refusal("tag", sidecars, "--out", sidecars / "run")
    photos = table.parent
    within = ("--images", photos, "--out", photos / "run")
    assert "lies among the images" in refusal("tag", table, *within)
    few = list_table(desk / "photos" / "few.csv", NAMES[:12], GIVEN[:12])
    assert "11 of 12 images can be read; expected 20 or more" in refusal("tag", few, "--out", out)
    assert not out.exists()


def test_what_is_wanted_is_checked():
    with pytest.raises(ConfigError, match="-1 tags to verify"):
        Wanted(-1)
    with pytest.raises(ConfigError, match="there is no mode 'fun'"):
        Wanted(1, "fun")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="there is no recipe"):
        Wanted(compare=("nothing",))


def test_several_processes_are_refused(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "tags are cleaned in one" in refusal(*words(desk, tmp_path / "run"))


def test_a_run_of_another_kind_has_no_tags(audit_run: Path):
    with pytest.raises(RunError, match="expected a run of `tag`"):
        ls.TagModel.load(audit_run)


# Parts


def test_earlier_answers_are_merged_by_names():
    def tags(names: tuple[str, ...], asserted: list, verified: list) -> TagSet:
        return TagSet(("a", "b"), names, csr_array(np.array(asserted, np.float32)),
                      csr_array(np.array(verified, np.int8)))  # fmt: skip

    before = tags(("cat", "dog"), [[1, 1], [0, 1]], [[1, -1], [0, 0]])
    now = tags(("ant", "cat", "dog"), [[1, 1, 1], [0, 0, 1]], [[0, -1, 0], [1, 0, 1]])
    found = rounds.with_earlier_answers(now, before)
    assert found.tag_names == ("cat", "dog", "ant")
    assert found.asserted.toarray().tolist() == [[1, 1, 1], [0, 1, 0]]
    assert found.verified.toarray().tolist() == [[-1, -1, 0], [0, 1, 1]]
    assert before.verified.toarray().tolist() == [[1, -1], [0, 0]]  # as it was


def test_new_images_keep_their_likeliest_tags_and_all_that_they_have():
    rng = np.random.default_rng(0)
    said = rng.random((7, 12)).astype(np.float32) ** 2
    said[3] = 0  # nothing is likely
    said[4] = 0.9
    found = kept.likely_tags(torch.from_numpy(said))
    for row, own in enumerate(said):
        columns = found.indices[found.indptr[row] : found.indptr[row + 1]]
        assert (own[columns] == found.data[found.indptr[row] : found.indptr[row + 1]]).all()
        assert set(np.flatnonzero(own >= 0.5)) <= set(columns)
        assert len(columns) == max(5, (own >= 0.5).sum())
        assert np.sort(own[columns])[-5:].tolist() == np.sort(own)[-5:].tolist()
    names = tuple(f"t{c:02d}" for c in range(12))
    images = tuple(f"im{i}" for i in range(9))
    table = TaggedImages(images, names, np.array([0, 1, 2, 4, 5, 6, 8]), found)
    rows = table.to_arrow().to_pylist()
    assert [row["labels"] is None for row in rows] == [i in (3, 7) for i in range(9)]
    for row, own in zip(table.rows.tolist(), said, strict=True):
        order = np.argsort(-own, kind="stable")
        assert rows[row]["choices"] == [names[c] for c in order[:5]] or not own.any()
        assert rows[row]["choice_probabilities"] == own[order[:5]].tolist()
        assert rows[row]["labels"] == [names[c] for c in order if own[c] >= 0.5]
    assert table.counts().tolist() == (said >= 0.5).sum(0).tolist()


def test_a_draw_goes_by_places_that_do_not_move():
    rows, columns = np.array([0, 1, 2]), np.array([1, 1, 0])
    assert (random_draw(rows, columns, 0) == random_draw(rows, columns, 0)).all()
    assert (random_draw(rows, columns, 0) != random_draw(rows, columns + 1, 0)).all()


def test_values_of_pairs_are_scattered_to_the_images_that_were_read(finished: Path):
    tagged, given = (
        Tagged.load(finished / "tags.parquet"),
        TagSet.load(finished / "given.parquet"),
    )
    assert tagged.given.all()
    broken = given.ids.index(BROKEN)
    unread = tagged.rows == broken
    said = tagged.probability[unread & (tagged.verified == 0)]
    assert np.isnan(said).all()
    assert (values_at(given.verified, given.asserted)[unread] != 0).all()  # people looked at it
