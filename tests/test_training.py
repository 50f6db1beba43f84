"""From noisy labels to a classifier, as a user runs it: what is written, kept and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import labelsieve as ls
from labelsieve.auditing import audit as pipeline
from labelsieve.cli.console import progress
from labelsieve.config import from_dict, to_dict
from labelsieve.errors import ConfigError
from labelsieve.loop.logs import EpochLog
from labelsieve.methods.sncf.training_recipes import MODELS, OBJECTIVES
from labelsieve.records import Findings, Verdict
from labelsieve.records.predictions import Predictions
from labelsieve.run.outputs import OUTPUTS
from labelsieve.stages import representation
from labelsieve.stages.inputs import Inputs
from labelsieve.training import job as training_job
from labelsieve.training import train as training
from labelsieve.training.settings import train_recipe
from labelsieve.training.train import run_train
from made_digits import digit_files, table
from made_training import (
    MOVED,
    N_IMAGES,
    N_TEST,
    ON_IMAGES,
    ON_ROWS,
    WITH_AUDIT,
    about,
    done,
    refusal,
    rows_of_csv,
    run,
    same_bytes,
    set_,
    true_digit,
)

DECISIONS = [
    {"image": "0/was4-0.png", "verdict": "mislabeled", "label": "4"},
    {"image": "1/was0-1.png", "label": "0"},
    {"image": "4/030.png", "verdict": "clean"},
    {"image": "0/020.png", "verdict": "foreign"},
]


def findings_of(run: Path) -> Findings:
    return Findings.load(run / "findings.parquet")


def rows_by_name(findings: Findings) -> dict[str, int]:
    return {name: row for row, name in enumerate(findings.image)}


def decided(folder: Path, *lines: dict) -> Path:
    path = folder / "decisions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# What is written


def test_a_training_leaves_what_is_promised(row_run: Path):
    names = {path.name for path in row_run.iterdir()}
    assert names == {
        "run.json", "log.jsonl", "findings.parquet", "findings.csv", "audit.parquet",
        "predictions.parquet", "predictions.csv", "features.npy", "features.json", "report.html",
        "model.safetensors", "model.json", "dictionary.safetensors",
    }  # fmt: skip
    assert names <= set(OUTPUTS)
    facts = about(row_run)
    assert facts["status"] == "done"
    assert list(facts["timings"]) == [
        "decode", "features", "neighbors", "detect", "duplicates", "train", "refine", "test",
        "report",
    ]  # fmt: skip
    assert facts["settings"]["train"]["classify"]["training"]["epochs"] == 8
    assert facts["summary"]["n_images"] == N_IMAGES
    assert (facts["recipe"], facts["model"], facts["network"]) == ("robust", "features", None)


def test_test_images_are_scored_and_broken_ones_told(row_run: Path):
    scores = about(row_run)["scores"]
    assert (scores["n_scored"], scores["n_broken"], scores["n_unknown"]) == (N_TEST - 1, 1, 0)
    assert scores["accuracy"] > 0.9
    assert scores["last_epoch"]["accuracy"] == scores["accuracy"]
    said = {row["image"]: row for row in rows_of_csv(row_run / "predictions.csv")}
    assert len(said) == N_TEST
    assert said["0/torn.png"]["label"] == ""
    right = [row["label"] == name[0] for name, row in said.items() if row["label"]]
    assert np.mean(right) == scores["accuracy"]


def test_findings_are_refined_and_keep_what_the_audit_knew(row_run: Path):
    before, after = Findings.load(row_run / "audit.parquet"), findings_of(row_run)
    rows = rows_by_name(after)
    assert after.verdict[rows["1/cut.png"]] == Verdict.BROKEN
    assert after.image[after.duplicate_of[rows["0/copy.png"]]] == "0/010.png" or (
        after.image[after.duplicate_of[rows["0/010.png"]]] == "0/copy.png"
    )
    whole = after.verdict != Verdict.BROKEN
    assert (after.probabilities[whole] != before.probabilities[whole]).any()
    assert "The trained classifier gives" in after.reason[rows["4/030.png"]]
    assert after.reason[rows["1/cut.png"]] == before.reason[rows["1/cut.png"]]


def test_planted_mistakes_come_first_and_are_not_learned(row_run: Path, photos: Path):
    after = findings_of(row_run)
    wrong = [row for row, name in enumerate(after.image) if "was" in name]
    assert len(wrong) == 3 * MOVED
    ranked = np.argsort(-np.nan_to_num(after.probabilities[:, Verdict.MISLABELED]))
    assert len(set(wrong) & set(ranked[:10].tolist())) >= 8
    said = ls.predict(row_run, photos)
    assert said.image == after.image
    right = [after.class_names[said.label[row]] == true_digit(said.image[row]) for row in wrong]
    assert sum(right) >= 7


def test_json_goes_to_stdout_and_words_to_stderr(photos: Path, checked: Path, row_run: Path):
    result = done(
        "train",
        photos,
        "--test",
        checked,
        "--out",
        row_run,
        "--resume",
        "--json",
        *WITH_AUDIT,
        *ON_ROWS,
    )
    facts = json.loads(result.stdout)
    assert facts["scores"]["n_scored"] == N_TEST - 1
    assert facts["summary"]["verdicts"]["broken"]["n_images"] == 1
    for name in ("model.safetensors", "findings.csv", "report.html"):
        assert str(row_run / name) in result.stderr


def test_without_test_images_there_are_no_scores(audit_run: Path, tmp_path: Path):
    result = done("train", audit_run, "--out", tmp_path / "run", *ON_ROWS)
    assert "agrees with" in result.stdout
    assert about(tmp_path / "run")["scores"] is None
    assert not (tmp_path / "run" / "predictions.csv").exists()
    said = refusal("evaluate", tmp_path / "run")
    assert "trained without --test, so there are no scores of it" in said


def test_recipes_and_models_are_listed_and_shown():
    listed = done("recipes").stdout
    for name in (*OBJECTIVES, *MODELS):
        assert f"  {name}\n" in listed
    assert '"n_hidden": 512' in done("recipes", "features").stdout


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("recipe", OBJECTIVES)
def test_settings_of_every_recipe_come_back_from_json(recipe: str, model: str):
    settings = replace(train_recipe(recipe, model), refine=None)
    kept = json.loads(json.dumps(to_dict(settings)))
    assert from_dict(train_recipe(recipe, model), kept, "run.json") == settings


# From an audit, and from a training


def test_an_audit_s_run_gives_what_its_images_give(
    photos: Path, checked: Path, audit_run: Path, row_run: Path, tmp_path: Path
):
    done("train", audit_run, "--test", checked, "--out", tmp_path / "run", *ON_ROWS)
    # of the model.json, what made the rows; of the predictions, no word of copies
    same_bytes(row_run, tmp_path / "run", "dictionary.safetensors")
    assert not (tmp_path / "run" / "features.npy").exists()
    assert "decode" not in about(tmp_path / "run")["timings"]


def test_a_training_s_run_is_trained_on_with_its_findings(
    audit_run: Path, row_run: Path, checked: Path, tmp_path: Path
):
    done("train", row_run, "--test", checked, "--out", tmp_path / "second", *ON_ROWS)
    same = (tmp_path / "second" / "audit.parquet", row_run / "findings.parquet")
    assert same[0].read_bytes() == same[1].read_bytes()
    assert about(tmp_path / "second")["scores"]["accuracy"] > 0.9
    # one that has no features of its own leads to those of its audit
    done("train", tmp_path / "second", "--test", checked, "--out", tmp_path / "third", *ON_ROWS)
    assert (tmp_path / "third" / "dictionary.safetensors").is_file()
    found = ls.predict(tmp_path / "third", checked)
    assert found.counts().sum() == N_TEST - 1


def test_an_audit_that_is_gone_is_told(audit_run: Path, tmp_path: Path):
    shutil.copytree(audit_run, tmp_path / "audit")
    done("train", tmp_path / "audit", "--out", tmp_path / "first", *ON_ROWS)
    shutil.rmtree(tmp_path / "audit")
    said = refusal("train", tmp_path / "first", "--out", tmp_path / "second", *ON_ROWS)
    assert f"{tmp_path / 'audit'}: not a run's folder" in said
    assert not (tmp_path / "second").exists()


def test_a_demo_is_trained_on(tmp_path: Path, audit_run: Path):
    shutil.copytree(audit_run, tmp_path / "demo")
    facts = about(tmp_path / "demo")
    (tmp_path / "demo" / "run.json").write_text(json.dumps({**facts, "job": "demo"}))
    done("train", tmp_path / "demo", "--out", tmp_path / "run", *ON_ROWS)


def test_runs_that_found_nothing_about_labels_are_refused(
    photos: Path, audit_run: Path, tmp_path: Path
):
    out = ("--out", tmp_path / "run")
    shutil.copytree(audit_run, tmp_path / "audit")
    facts = about(tmp_path / "audit")
    for change, message in (
        ({"job": "cluster"}, "made by `labelsieve cluster`, which leaves no findings"),
        ({"job": "features"}, "made by `labelsieve features`, which leaves no findings"),
        ({"status": "running"}, "this run has not finished. Start `labelsieve audit` again"),
    ):
        (tmp_path / "audit" / "run.json").write_text(json.dumps({**facts, **change}))
        assert message in refusal("train", tmp_path / "audit", *out)
        assert not (tmp_path / "run").exists()


def test_an_audit_of_images_that_changed_is_refused(photos: Path, tmp_path: Path):
    shutil.copytree(photos, tmp_path / "photos")
    words = set_("dictionary.n_components=32", "dictionary.patches.n_atoms=32")
    done("audit", tmp_path / "photos", "--out", tmp_path / "audit", *words)
    (tmp_path / "photos" / "0" / "020.png").rename(tmp_path / "photos" / "1" / "020.png")
    said = refusal("train", tmp_path / "audit", "--out", tmp_path / "run", *ON_ROWS)
    assert f"its findings are of {N_IMAGES} images of 3 classes, and" in said
    assert "Audit again, and train on that run." in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--label", "class"), ("--truth", "truth"), ("--features", "f.npy"),
     ("--backbone", "timm:resnet18"), ("--pretrain", "cpu")],
)  # fmt: skip
def test_what_an_audit_has_decided_is_not_asked_again(
    option: str, value: str, audit_run: Path, tmp_path: Path
):
    said = refusal("train", audit_run, "--out", tmp_path / "run", option, value)
    assert f"{option} {value}: the audit in {audit_run} has decided that already" in said
    assert "give the images in place of the run" in said


# What people decided


def test_decisions_beside_an_audit_are_learned_and_stay(
    audit_run: Path, checked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(audit_run, tmp_path / "audit")
    decided(tmp_path / "audit", *DECISIONS)
    seen = []
    train = training_job.train_classifier

    def watch(source, network, beliefs, *rest, **more):
        seen.append(beliefs)
        return train(source, network, beliefs, *rest, **more)

    monkeypatch.setattr(training_job, "train_classifier", watch)
    done("train", tmp_path / "audit", "--out", tmp_path / "run", *ON_ROWS)
    before, after = findings_of(tmp_path / "audit"), findings_of(tmp_path / "run")
    rows = rows_by_name(after)
    for line, verdict, label in (
        (DECISIONS[0], Verdict.MISLABELED, "4"), (DECISIONS[1], Verdict.MISLABELED, "0"),
        (DECISIONS[2], Verdict.CLEAN, "4"), (DECISIONS[3], Verdict.FOREIGN, None),
    ):  # fmt: skip
        row = rows[line["image"]]
        assert after.verdict[row] == verdict
        assert after.probabilities[row].tolist() == np.eye(3)[verdict].tolist()
        assert after.reason[row] == "Decided by a person."
        assert after.label[row] == before.label[row]  # as given
        if label is not None:
            assert after.class_names[after.suggestion[row]] == label
            assert after.suggestion_probability[row] == 1
    # what is learned of them: the right labels, as clean ones; of the broken image nothing
    (beliefs,) = seen
    whole = np.flatnonzero(before.verdict != Verdict.BROKEN)
    place = {name: i for i, name in enumerate(before.image[row] for row in whole)}
    assert len(beliefs) == len(whole)
    chosen = [place[line["image"]] for line in DECISIONS]
    assert beliefs.certain[chosen].all()
    assert beliefs.certain.sum() == 4
    assert beliefs.labels[chosen[:3]].tolist() == [2, 0, 2]  # classes 0, 1, 4
    assert beliefs.verdict[chosen].tolist() == [Verdict.CLEAN] * 3 + [Verdict.FOREIGN]


def test_decisions_hold_where_a_training_is_trained_on(audit_run: Path, tmp_path: Path):
    shutil.copytree(audit_run, tmp_path / "audit")
    decided(tmp_path / "audit", *DECISIONS[:2])
    done("train", tmp_path / "audit", "--out", tmp_path / "first", *ON_ROWS)
    decided(tmp_path / "first", DECISIONS[3], {**DECISIONS[1], "label": "4"})
    done("train", tmp_path / "first", "--out", tmp_path / "second", *ON_ROWS)
    after = findings_of(tmp_path / "second")
    rows = rows_by_name(after)
    assert after.verdict[rows[DECISIONS[3]["image"]]] == Verdict.FOREIGN
    names = [after.class_names[after.suggestion[rows[line["image"]]]] for line in DECISIONS[:2]]
    assert names == ["4", "4"]  # as decided first; as decided later
    assert [after.reason[rows[line["image"]]] for line in DECISIONS[:2]] == [
        "Decided by a person."
    ] * 2


def test_decisions_in_a_file_go_with_images_too(
    photos: Path, row_run: Path, checked: Path, tmp_path: Path
):
    path = decided(tmp_path, *DECISIONS)
    words = ("--decisions", path, *WITH_AUDIT, *ON_ROWS)
    done("train", photos, "--test", checked, "--out", tmp_path / "run", *words)
    after = findings_of(tmp_path / "run")
    row = rows_by_name(after)[DECISIONS[3]["image"]]
    assert after.verdict[row] == Verdict.FOREIGN
    kept = Findings.load(tmp_path / "run" / "audit.parquet")
    assert kept.verdict[row] != Verdict.FOREIGN  # the audit's own word
    exported = done(
        "export", tmp_path / "run", "--to", "csv", "--out", tmp_path / "t.csv", "--json"
    )
    assert json.loads(exported.stdout)["n_foreign"] == after.count(Verdict.FOREIGN)
    labels = {row["image"]: row["label"] for row in rows_of_csv(tmp_path / "t.csv")}
    assert labels["0/was4-0.png"] == "4"
    assert DECISIONS[3]["image"] not in labels


def test_mistakes_in_decisions_are_said_before_any_work(photos: Path, tmp_path: Path):
    (tmp_path / "d.jsonl").write_text('{"image": "0/020.png", "verdict": "forein"}\n')
    words = ("--decisions", tmp_path / "d.jsonl", "--out", tmp_path / "run")
    said = refusal("train", photos, *words)
    assert "d.jsonl, line 1: the verdict is 'forein'; expected one of clean, mislabeled" in said
    assert "decode ..." not in said
    (tmp_path / "d.jsonl").write_text("{not json\n")
    said = refusal("train", photos, *words)
    assert "d.jsonl, line 1: not a JSON object" in said
    assert 'expected such as {"image": "cat/1.jpg", "verdict": "foreign"}' in said
    said = refusal("train", photos, "--decisions", tmp_path / "no.jsonl", "--out", tmp_path / "run")
    assert "no.jsonl: cannot be read as decisions" in said
    assert not (tmp_path / "run").exists()


# Again


def test_a_run_is_repeated_by_its_run_json(row_run: Path, tmp_path: Path):
    done("rerun", row_run, "--out", tmp_path / "again")
    same_bytes(row_run, tmp_path / "again", "features.npy", "dictionary.safetensors")
    assert about(row_run)["scores"] == about(tmp_path / "again")["scores"]


def test_a_network_is_trained_again_by_its_run_json(network_run: Path, tmp_path: Path):
    done("rerun", network_run, "--out", tmp_path / "again")
    same_bytes(network_run, tmp_path / "again")


def test_another_seed_is_another_classifier(audit_run: Path, checked: Path, tmp_path: Path):
    runs = []
    for seed in (0, 1):
        words = ("--test", checked, "--seed", seed, *ON_ROWS)
        done("train", audit_run, "--out", tmp_path / f"run{seed}", *words)
        runs.append(tmp_path / f"run{seed}")
    weights = [(one / "model.safetensors").read_bytes() for one in runs]
    assert weights[0] != weights[1]
    compared = json.loads(done("evaluate", *runs, "--json").stdout)
    assert compared["over_runs"]["accuracy"]["n_runs"] == 2
    assert 0 < compared["agreement"] <= 1
    assert "two runs say the same of" in done("evaluate", *runs).stdout
    assert "named twice" in refusal("evaluate", runs[0], runs[0])
    other = run("evaluate", runs[0], audit_run)
    assert other.exit_code == 2
    assert "Missing option '--truth'" in other.stderr


def test_findings_are_scored_against_a_table(row_run: Path, tmp_path: Path):
    rows = [(name, "broken" if "cut" in name else true_digit(name))
            for name in findings_of(row_run).image]  # fmt: skip
    truth = tmp_path / "truth.csv"
    truth.write_text("image,truth\n" + "".join(f"{name},{true}\n" for name, true in rows))
    found = json.loads(done("evaluate", row_run, "--truth", truth, "--json").stdout)
    scores = {one["name"]: one for one in found["detections"]}
    assert scores["mislabeled"]["n_true"] == 3 * MOVED
    assert scores["mislabeled"]["auroc"] > 0.95


def test_a_column_of_true_labels_scores_the_findings_and_decides_nothing(
    row_run: Path, photos: Path, tmp_path: Path
):
    path = tmp_path / "set.csv"
    lines = [f"{photos / name},{name},{name.split('/')[0]},{true_digit(name)}"
             for name in findings_of(row_run).image]  # fmt: skip
    path.write_text("\n".join(["image,id,label,truth", *lines]) + "\n")
    out = tmp_path / "run"
    done("train", path, "--truth", "truth", "--out", out, *WITH_AUDIT, *ON_ROWS)
    scores = about(out)["label_scores"]
    assert set(scores) == {"audit", "train"}
    found = {one["name"]: one for one in scores["train"]["detections"]}
    assert found["mislabeled"]["n_true"] >= 3 * MOVED
    assert about(row_run)["label_scores"] is None


def test_the_report_is_written_again(row_run: Path, tmp_path: Path):
    shutil.copytree(row_run, tmp_path / "run")
    first = (tmp_path / "run" / "report.html").read_text()
    (tmp_path / "run" / "report.html").unlink()
    done("report", tmp_path / "run")
    again = (tmp_path / "run" / "report.html").read_text()
    assert len(again) > 20_000
    assert abs(len(again) - len(first)) < 2_000  # the time it took is not in the first


def test_resuming_a_finished_run_only_shows_it(photos: Path, checked: Path, row_run: Path):
    before = (row_run / "run.json").read_bytes()
    words = ("train", photos, "--test", checked, "--out", row_run)
    done(*words, "--resume", *WITH_AUDIT, *ON_ROWS)
    assert (row_run / "run.json").read_bytes() == before
    said = refusal(*words, "--resume", *WITH_AUDIT, *ON_ROWS, "--seed", 3)
    assert "inputs.seed was 0 and is 3" in said
    assert "holds a run already" in refusal(*words, *WITH_AUDIT, *ON_ROWS)


def test_overwriting_leaves_nothing_of_the_run_before(
    row_run: Path, audit_run: Path, tmp_path: Path
):
    shutil.copytree(row_run, tmp_path / "run")
    (tmp_path / "run" / "decisions.jsonl").write_text("")  # the user's own
    done("train", audit_run, "--out", tmp_path / "run", "--overwrite", *ON_ROWS)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert not {"predictions.csv", "features.npy"} & names
    assert "decisions.jsonl" in names
    # and a mistake puts back what was there
    shutil.copytree(row_run, tmp_path / "kept")
    broken = tmp_path / "test" / "0" / "torn.png"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no picture")
    words = ("--test", tmp_path / "test", "--out", tmp_path / "kept", "--overwrite")
    said = refusal("train", audit_run, *words, *ON_ROWS)
    assert "none of 1 images can be decoded" in said
    same_bytes(row_run, tmp_path / "kept")


@pytest.fixture(scope="module")
def stop():
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    return stop


ROW_PLACES = [
    (representation, "dictionary_features"), (pipeline, "neighbors_of"), (pipeline, "detect"),
    (training, "with_decisions"), (training_job, "rows_of_new"), (training_job, "train_classifier"),
    (training, "keep_classifier"), (training, "refined_findings"), (training_job, "classify"),
    (training, "summary"), (training, "write_classifier_page"),
]  # fmt: skip


def stopped_in_an_epoch(patch: pytest.MonkeyPatch, phase: str, epoch: int) -> None:
    write = EpochLog.write

    def stop_there(log: EpochLog, number: int, values: object) -> None:
        if (log.phase, number) == (phase, epoch):
            raise KeyboardInterrupt
        write(log, number, values)

    patch.setattr(EpochLog, "write", stop_there)


def test_a_run_stopped_anywhere_ends_with_the_same_bytes(
    photos: Path, checked: Path, row_run: Path, tmp_path: Path, stop, monkeypatch
):
    words = ("train", photos, "--test", checked, "--out", tmp_path / "run", *WITH_AUDIT, *ON_ROWS)
    for i, place in enumerate(ROW_PLACES):
        with monkeypatch.context() as patch:
            patch.setattr(*place, stop)
            result = run(*words, *(["--resume"] if i else []))
            assert result.exit_code == 130, (place, result.output)
            assert "Stopped. --resume goes on from what is finished." in result.stderr
        assert not (tmp_path / "run" / "report.html").exists()
        if place[1] == "train_classifier":
            for phase, epoch in (("train", 0), ("train", 3)):
                with monkeypatch.context() as patch:
                    stopped_in_an_epoch(patch, phase, epoch)
                    assert run(*words, "--resume").exit_code == 130
    done(*words, "--resume")
    same_bytes(row_run, tmp_path / "run", "features.npy", "dictionary.safetensors")
    assert about(tmp_path / "run")["scores"] == about(row_run)["scores"]


def test_a_network_stopped_in_training_ends_with_the_same_bytes(
    audit_run: Path, checked: Path, network_run: Path, tmp_path: Path, stop, monkeypatch
):
    words = ("train", audit_run, "--test", checked, "--out", tmp_path / "run", *ON_IMAGES)
    for i, place in enumerate([(training_job, "network"), (training, "keep_classifier")]):
        with monkeypatch.context() as patch:
            patch.setattr(*place, stop)
            assert run(*words, *(["--resume"] if i else [])).exit_code == 130
        if i == 0:
            with monkeypatch.context() as patch:
                stopped_in_an_epoch(patch, "train", 1)
                assert run(*words, "--resume").exit_code == 130
    done(*words, "--resume")
    same_bytes(network_run, tmp_path / "run")


@pytest.mark.slow
def test_a_run_killed_by_the_system_resumes_to_the_same_bytes(
    photos: Path, checked: Path, row_run: Path, tmp_path: Path
):
    out = tmp_path / "run"
    words = ["train", str(photos), "--test", str(checked), "--out", str(out), *WITH_AUDIT, *ON_ROWS]
    process = subprocess.Popen(
        [sys.executable, "-m", "labelsieve", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    log = out / "log.jsonl"
    while time.monotonic() < deadline:
        if log.exists() and '"phase": "train"' in log.read_text():
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert '"phase": "train"' in log.read_text()
    done(*words, "--resume")
    same_bytes(row_run, out)


def test_a_changed_audit_is_not_gone_on_with(
    audit_run: Path, tmp_path: Path, stop, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(audit_run, tmp_path / "audit")
    words = ("train", tmp_path / "audit", "--out", tmp_path / "run", *ON_ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(training, "keep_classifier", stop)
        assert run(*words).exit_code == 130
    decided(tmp_path / "audit", DECISIONS[0])
    said = refusal(*words, "--resume")
    assert "the audit or its decisions have changed since this run was begun" in said
    (tmp_path / "audit" / "decisions.jsonl").unlink()
    done(*words, "--resume")


def test_changed_test_images_are_not_gone_on_with(
    audit_run: Path, tmp_path: Path, stop, monkeypatch: pytest.MonkeyPatch
):
    digit_files(tmp_path / "test", {0: 3, 1: 3, 4: 3}, first=60)
    words = ("train", audit_run, "--test", tmp_path / "test", "--out", tmp_path / "run", *ON_ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(training, "keep_classifier", stop)
        assert run(*words).exit_code == 130
    (tmp_path / "test" / "0" / "060.png").rename(tmp_path / "test" / "1" / "x.png")
    said = refusal(*words, "--resume")
    assert "the test images have changed since this run was begun" in said


# Unusual sets


def test_images_without_a_label_get_one(photos: Path, tmp_path: Path):
    names = sorted(str(path) for path in photos.glob("*/0*.png"))
    lines = [f"{name},{'' if i % 5 == 0 else Path(name).parent.name}\n"
             for i, name in enumerate(names)]  # fmt: skip
    images = tmp_path / "images.csv"
    images.write_text("image,label\n" + "".join(lines))
    (tmp_path / "d.csv").write_text(f"image,label\n{names[0]},1\n")
    words = ("--decisions", tmp_path / "d.csv", *WITH_AUDIT, *ON_ROWS)
    done("train", images, "--out", tmp_path / "run", *words)
    after = findings_of(tmp_path / "run")
    unlabeled = np.flatnonzero(after.label < 0)
    assert len(unlabeled) == -(-len(names) // 5)
    assert set(after.verdict[unlabeled].tolist()) <= {Verdict.CLEAN, Verdict.FOREIGN}
    digits = [Path(name).parent.name for name in after.image]
    right = [after.class_names[after.suggestion[row]] == digits[row] for row in unlabeled[1:]]
    assert np.mean(right) > 0.8
    assert after.class_names[after.suggestion[unlabeled[0]]] == "1"  # as decided
    done("export", tmp_path / "run", "--to", "csv", "--out", tmp_path / "t.csv")
    labels = {row["image"]: row["label"] for row in rows_of_csv(tmp_path / "t.csv")}
    assert labels[names[0]] == "1"
    done("report", tmp_path / "run")


def test_two_classes_are_enough_and_an_empty_one_does_no_harm(
    photos: Path, checked: Path, tmp_path: Path
):
    for name in ("0", "1"):
        shutil.copytree(photos / name, tmp_path / "set" / name)
        shutil.copytree(checked / name, tmp_path / "test" / name)
    (tmp_path / "set" / "7").mkdir()
    (tmp_path / "set" / "7" / "torn.png").write_bytes(b"no picture")
    words = ("train", tmp_path / "set", "--test", tmp_path / "test", *WITH_AUDIT, *ON_ROWS)
    done(*words, "--out", tmp_path / "run")
    scores = about(tmp_path / "run")["scores"]
    assert scores["accuracy"] > 0.9
    assert scores["top5"] is None
    shutil.rmtree(tmp_path / "set" / "7")
    done(*words, "--out", tmp_path / "two")
    shutil.rmtree(tmp_path / "set" / "1")
    said = refusal("train", tmp_path / "set", "--out", tmp_path / "one")
    assert "one class only ('0'" in said


def test_test_images_of_fewer_classes_and_without_labels(
    audit_run: Path, checked: Path, tmp_path: Path
):
    names = sorted(str(path) for path in checked.glob("[04]/*.png"))
    lines = [f"{name},{Path(name).parent.name if i % 4 else ''}\n" for i, name in enumerate(names)]
    (tmp_path / "test.csv").write_text("image,digit\n" + "".join(lines))
    words = ("--test", tmp_path / "test.csv", "--test-label", "digit", *ON_ROWS)
    done("train", audit_run, "--out", tmp_path / "run", *words)
    scores = about(tmp_path / "run")["scores"]
    n_unlabeled = -(-len(names) // 4)
    assert scores["n_unknown"] + scores["n_scored"] + scores["n_broken"] == len(names)
    assert n_unlabeled - 1 <= scores["n_unknown"] <= n_unlabeled  # the broken one may be of them
    assert scores["accuracy"] > 0.9
    assert [one["accuracy"] is None for one in scores["classes"]] == [False, True, False]
    done("report", tmp_path / "run")


@pytest.mark.parametrize("flavor", [ON_ROWS, ON_IMAGES], ids=["rows", "images"])
def test_test_images_among_the_training_images_are_warned_of(
    flavor, photos: Path, checked: Path, tmp_path: Path
):
    shutil.copytree(checked, tmp_path / "test")
    shutil.copy(photos / "4" / "030.png", tmp_path / "test" / "4" / "seen.png")
    shutil.copy(photos / "0" / "030.png", tmp_path / "test" / "0" / "seen.png")
    words = ("train", photos, "--test", tmp_path / "test", "--out", tmp_path / "run", *WITH_AUDIT)
    words = (*words, *flavor)
    result = done(*words)
    warning = (
        "2 of 47 test images have the pixels of a training image, such as '0/seen.png' those of "
        "'0/030.png'"
    )
    assert warning in " ".join(findings_of(tmp_path / "run").warnings)
    assert warning in " ".join(result.stdout.split())


# Refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "feature"), "--model: there is no 'feature'. Did you mean 'features' or"),
        (("--recipe", "robus"), "there is no recipe 'robus'. Did you mean 'robust'?"),
        (("--pretrain", "cup"), "--pretrain: there is no recipe 'cup'"),
        (("--set", "classify.projektion=none"), "Did you mean 'projection'?"),
        (("--set", "n_hiden=3"), "Did you mean 'n_hidden'?"),
        (("--set", "network"), "--set takes name=value, got 'network'"),
        (("--set", "n_hidden=many"), "n_hidden takes a whole number, got 'many'"),
        (("--test", "nowhere"), "nowhere: no such file or folder"),
        (("--test-features", "f.npy"), "--test-features f.npy: of which images? Add --test"),
        (("--features", "f.npy"), "--features f.npy: there is no such file"),
        (("--backbone", "resnet18"), "expected timm:NAME"),
        (("--network", "nowhere"), "--network nowhere: there is no such folder or file"),
        (("--device", "foo"), "--device foo cannot be used here"),
        (("--seed", "-1"), "seed is -1; expected 0 to 4294967295"),
        (("--model", "finetune"), "there is no network to begin with. Add --network PATH"),
        (("--set", "rows=images"), "no network is named. Set network=NAME"),
        (
            ("--model", "cpu", "--set", "network=smal-preact"),
            "there is no network 'smal-preact'. Did you mean 'small-preact'",
        ),
        (("--model", "cpu", "--set", "image_size=16"), "Raise image_size"),
    ],
)
def test_what_cannot_work_is_said_at_once(words, message: str, photos: Path, tmp_path: Path):
    said = refusal("train", photos, "--out", tmp_path / "run", *words)
    assert message in said
    assert "decode ..." not in said
    assert not (tmp_path / "run").exists()


def test_a_run_among_images_or_in_its_audit_is_refused(
    photos: Path, checked: Path, audit_run: Path
):
    assert "lies among the images" in refusal("train", photos, "--out", photos / "run")
    words = ("--test", checked, "--out", checked / "run")
    assert "lies among the images" in refusal("train", photos, *words)
    said = refusal("train", audit_run, "--out", audit_run, "--overwrite")
    assert "is the audit that is trained on" in said
    said = refusal("train", audit_run, "--out", photos / "run")
    assert "lies among the images" in said


def test_sets_without_labels_are_refused(photos: Path, tmp_path: Path):
    ids = [str(path) for path in sorted(photos.glob("*/03*.png"))]
    images = table(tmp_path / "images.csv", ids)
    said = refusal("train", images, "--out", tmp_path / "run")
    assert "images without labels" in said
    said = refusal("train", photos, "--test", images, "--out", tmp_path / "run")
    assert "test images need one label each, and these have none" in said
    assert "Name the column that holds it with --test-label" in said


def test_test_images_of_other_classes_are_refused(photos: Path, checked: Path, tmp_path: Path):
    shutil.copytree(checked, tmp_path / "test")
    (tmp_path / "test" / "4").rename(tmp_path / "test" / "four")
    said = refusal("train", photos, "--test", tmp_path / "test", "--out", tmp_path / "run")
    assert "1 of its 3 classes are none of the training set's, such as 'four' (15 images" in said
    assert "expected names among '0', '1', '4'" in said
    assert "decode ..." not in said


def test_a_test_set_of_broken_images_is_told_before_the_training(audit_run: Path, tmp_path: Path):
    for name in ("0", "1"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "torn.png").write_bytes(b"no picture")
    for words in (ON_ROWS, ON_IMAGES):
        out = ("--test", tmp_path / "test", "--out", tmp_path / "run", *words)
        said = refusal("train", audit_run, *out)
        assert "none of 2 images can be decoded, such as '0/torn.png'" in said
        assert "train ..." not in said
        assert not (tmp_path / "run").exists()


def test_several_processes_do_not_share_a_classifier_on_features(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("labelsieve.training.checks.n_launched", lambda: 2)
    said = refusal("train", photos, "--out", tmp_path / "run")
    assert "2 processes were begun, and what is trained on features is trained in one" in said


def test_predictions_of_the_run_and_of_the_command_are_the_same(
    row_run: Path, network_run: Path, checked: Path, tmp_path: Path
):
    for made in (row_run, network_run):
        out = tmp_path / f"{made.name}.csv"
        result = done("predict", made, checked, "--out", out, "--json")
        assert out.read_bytes() == (made / "predictions.csv").read_bytes()
        assert json.loads(result.stdout)["names"] == ["0", "1", "4"]
        theirs = Predictions.load(made / "predictions.parquet")
        np.testing.assert_array_equal(ls.predict(made, checked).probabilities, theirs.probabilities)


def test_inputs_that_name_features_twice_are_refused():
    with pytest.raises(ConfigError, match="both name features"):
        Inputs("photos", features="f.npy", network="run")


def test_progress_is_told_of_every_stage(audit_run: Path, checked: Path, tmp_path: Path):
    told: dict[str, tuple[int, int]] = {}

    def tell(stage: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        told[stage] = (done, total)

    facts = about(audit_run)["settings"]["inputs"]
    settings = replace(train_recipe(), n_hidden=0, least_updates=0)
    inputs = Inputs(facts["source"], audited=str(audit_run), test=str(checked))
    run_train(inputs, settings, tmp_path / "run", progress=tell)
    assert {"decode", "features", "train", "report"} <= set(told)
    assert all(done == total for done, total in told.values())
    with progress() as shown:
        shown("train", 1, 2)
