"""The commands as a user runs them: what they print, what they refuse, what they leave behind."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sklearn.datasets import load_digits

from labelsieve.auditing import audit as pipeline
from labelsieve.cli import main
from labelsieve.records import Findings, Verdict
from labelsieve.stages import representation

N_DIGITS = 60  # a class
FAST = ("--set", "dictionary.n_components=128", "--set", "dictionary.patches.n_atoms=64")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def refusal(*words: object) -> str:
    """What a command that exits with 1 says, on one line."""
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def digest(folder: Path) -> str:
    """A hash of all names, times and bytes below a folder."""
    found = hashlib.blake2b()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path} {path.stat().st_mtime_ns}".encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits 0, 1 and 4 in class folders; ten of them in a wrong one, one copied, one broken."""
    root = tmp_path_factory.mktemp("photos")
    digits = load_digits()
    for name in (0, 1, 4):
        (root / str(name)).mkdir()
    for name, other in ((0, 1), (1, 4), (4, 0)):
        for i, row in enumerate(np.flatnonzero(digits.target == name)[:N_DIGITS]):
            gray = (255 - digits.images[row] * 15).astype(np.uint8)
            picture = Image.fromarray(gray).resize((32, 32), Image.Resampling.BICUBIC)
            folder = other if i < 3 else name
            picture.save(root / str(folder) / f"digit{name}-{i:02d}.png")
    (root / "0" / "copy.png").write_bytes((root / "0" / "digit0-10.png").read_bytes())
    (root / "1" / "cut.png").write_bytes((root / "1" / "digit1-10.png").read_bytes()[:90])
    return root


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit of the photos."""
    out = tmp_path_factory.mktemp("runs") / "run"
    before = digest(photos)
    result = run("audit", photos, "--out", out, *FAST)
    assert result.exit_code == 0, result.output
    assert digest(photos) == before
    return out


def test_an_audit_finds_what_was_planted(finished: Path):
    findings = Findings.load(finished / "findings.parquet")
    row = {name: i for i, name in enumerate(findings.image)}
    assert findings.verdict[row["1/cut.png"]] == Verdict.BROKEN
    assert findings.image[findings.duplicate_of[row["0/digit0-10.png"]]] == "0/copy.png"
    planted = {i for name, i in row.items() if "digit" in name and name[0] != name[7]}
    ranked = np.argsort(-np.nan_to_num(findings.probabilities[:, Verdict.MISLABELED]))
    found = set(np.flatnonzero(findings.verdict == Verdict.MISLABELED).tolist())
    right = [
        findings.class_names[findings.suggestion[i]] == findings.image[i][7]
        for i in planted & found
    ]
    assert len(planted) == 9
    assert len(planted & set(ranked[:10].tolist())) >= 8
    assert len(planted & found) >= 5
    assert len(found - planted) <= 1
    assert all(right)


def test_a_run_holds_what_the_contract_says(finished: Path):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "run.json", "log.jsonl", "findings.parquet", "findings.csv", "features.npy",
        "features.json", "report.html", "dictionary.safetensors",
    }  # fmt: skip
    about = json.loads((finished / "run.json").read_text())
    assert about["status"] == "done"
    assert set(about["timings"]) == {
        "decode", "features", "neighbors", "detect", "duplicates", "report",
    }  # fmt: skip
    assert about["settings"]["audit"]["dictionary"]["n_components"] == 128
    assert about["summary"]["n_images"] == 3 * N_DIGITS + 2
    with (finished / "findings.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * N_DIGITS + 2
    assert (finished / "report.html").stat().st_size > 20_000


def same_bytes(a: Path, b: Path) -> None:
    for name in ("findings.parquet", "findings.csv", "features.npy", "features.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.parametrize(
    "stage",
    [
        (representation, "dictionary_features"),
        (pipeline, "neighbors_of"),
        (pipeline, "detect"),
        (pipeline, "write_page"),
    ],
    ids=lambda stage: stage[1],
)
def test_an_interrupted_run_resumes_to_the_same_bytes(
    stage: tuple[object, str],
    photos: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*stage, stop)
        stopped = run("audit", photos, "--out", tmp_path / "run", *FAST)
        assert stopped.exit_code == 130
        assert "Stopped. --resume goes on from what is finished." in stopped.stderr
    assert not (tmp_path / "run" / "report.html").exists()
    assert "holds a run already" in refusal("audit", photos, "--out", tmp_path / "run", *FAST)
    again = run("audit", photos, "--out", tmp_path / "run", "--resume", *FAST)
    assert again.exit_code == 0, again.output
    same_bytes(tmp_path / "run", finished)


def test_a_run_killed_by_the_system_resumes_to_the_same_bytes(
    photos: Path, finished: Path, tmp_path: Path
):
    out = tmp_path / "run"
    words = [sys.executable, "-m", "labelsieve", "audit", str(photos), "--out", str(out), *FAST]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / "features.npy").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "findings.parquet").exists()
    assert run("audit", photos, "--out", out, "--resume", *FAST).exit_code == 0
    same_bytes(out, finished)


def test_resuming_a_finished_run_only_shows_it(photos: Path, finished: Path):
    before = digest(finished)
    result = run("audit", photos, "--out", finished, "--resume", "--json", *FAST)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_images"] == 3 * N_DIGITS + 2
    assert digest(finished) == before


def test_a_run_with_other_settings_is_not_resumed(photos: Path, finished: Path):
    said = refusal("audit", photos, "--out", finished, "--resume", "--seed", 1, *FAST)
    assert "begun with other settings" in said
    assert "inputs.seed was 0 and is 1" in said


def test_json_goes_to_stdout_and_words_to_stderr(photos: Path, tmp_path: Path):
    result = run("audit", photos, "--out", tmp_path / "run", "--json", *FAST)
    assert json.loads(result.stdout)["verdicts"]["broken"]["n_images"] == 1
    assert "report.html" in result.stderr


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(photos: Path, tmp_path: Path):
    result = run("audit", photos, "--out", tmp_path / "run", "--dry-run", "--json")
    plan = json.loads(result.stdout)
    assert plan["n_images"] == 3 * N_DIGITS + 2
    assert plan["n_classes"] == 3
    assert plan["seconds"] > 0
    assert plan["memory_mb"] > 0
    assert not (tmp_path / "run").exists()
    words = run("audit", photos, "--out", tmp_path / "run", "--dry-run").stdout
    assert "time in all, about" in words


def test_own_features_take_the_place_of_the_dictionary(
    photos: Path, finished: Path, tmp_path: Path
):
    out = tmp_path / "run"
    features = finished / "features.npy"
    assert run("audit", photos, "--out", out, "--features", features).exit_code == 0
    theirs = Findings.load(finished / "findings.parquet")
    np.testing.assert_array_equal(Findings.load(out / "findings.parquet").verdict, theirs.verdict)


def test_features_of_another_length_are_refused(photos: Path, tmp_path: Path):
    np.save(tmp_path / "f.npy", np.ones((7, 4), np.float32))
    said = refusal("audit", photos, "--out", tmp_path / "run", "--features", tmp_path / "f.npy")
    assert "f.npy: 7 rows of features without ids for 182 images" in said


def test_features_that_are_not_finite_are_refused(photos: Path, finished: Path, tmp_path: Path):
    values = np.load(finished / "features.npy")
    values[3, 0] = np.nan
    np.save(tmp_path / "f.npy", values)
    (tmp_path / "f.json").write_bytes((finished / "features.json").read_bytes())
    said = refusal("audit", photos, "--out", tmp_path / "run", "--features", tmp_path / "f.npy")
    assert "expected finite numbers" in said
    assert "0/digit0-05.png" in said


def test_the_paper_s_recipe_runs(photos: Path, tmp_path: Path):
    out = tmp_path / "run"
    result = run("audit", photos, "--out", out, "--recipe", "paper", *FAST)
    assert result.exit_code == 0, result.output
    probabilities = Findings.load(out / "findings.parquet").probabilities
    assert set(np.unique(probabilities[~np.isnan(probabilities)])) <= {0.0, 1.0}


def test_tiny_classes_are_audited(photos: Path, tmp_path: Path):
    for name, n in (("0", 20), ("1", 20), ("4", 2), ("9", 1)):
        (tmp_path / "set" / name).mkdir(parents=True)
        source = "0" if name == "9" else name
        for path in sorted((photos / source).glob("digit*.png"))[:n]:
            (tmp_path / "set" / name / path.name).write_bytes(path.read_bytes())
    result = run("audit", tmp_path / "set", "--out", tmp_path / "run", *FAST)
    assert result.exit_code == 0, result.output
    assert len(Findings.load(tmp_path / "run" / "findings.parquet")) == 43


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no images"),
        (lambda folder: picture(folder / "a.png"), "without labels; an audit needs one an image"),
        (lambda folder: picture(folder / "cat" / "a.png"), "one class only ('cat', 1 images)"),
        (
            lambda folder: [
                (folder / c).mkdir() or (folder / c / "a.png").write_text("x") for c in "ab"
            ],
            "2 of 2 images cannot be read, and fewer than two classes are left",
        ),
    ],
)
def test_sets_that_cannot_be_audited_are_refused(tmp_path: Path, make, message):
    folder = tmp_path / "photos"
    folder.mkdir()
    make(folder)
    assert message in refusal("audit", folder, "--out", tmp_path / "run")


def picture(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)


def test_a_missing_label_column_names_near_ones(photos: Path, tmp_path: Path):
    table = tmp_path / "table.csv"
    table.write_text(f"image,labels_1\n{photos}/0/copy.png,cat\n")
    said = refusal("audit", table, "--out", tmp_path / "run", "--label", "label_1")
    assert "Did you mean 'labels_1'?" in said


def test_a_folder_that_is_not_there_is_told(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    said = refusal("audit", tmp_path / "photo", "--out", tmp_path / "run")
    assert "no such file or folder" in said
    assert "photos" in said


def test_a_misspelled_command_setting_or_recipe_names_near_ones(photos: Path, tmp_path: Path):
    result = run("adit", photos)
    assert result.exit_code == 2
    assert "Did you mean 'audit'?" in result.stderr
    out = ("--out", tmp_path / "run")
    assert "Did you mean 'n_neighbors'?" in refusal("audit", photos, *out, "--set", "n_neighbor=9")
    assert "Did you mean 'robust'?" in refusal("audit", photos, *out, "--recipe", "robus")


def test_features_and_backbone_together_are_refused(photos: Path, tmp_path: Path):
    out = ("--out", tmp_path / "run")
    both = ("--features", "f.npy", "--backbone", "timm:resnet18")
    assert "both name features; give one" in refusal("audit", photos, *out, *both)
    assert "--weights needs --backbone" in refusal("audit", photos, *out, "--weights", "w.pth")


def test_what_cannot_work_is_said_before_anything_is_decoded(photos: Path, tmp_path: Path):
    out = ("--out", tmp_path / "run")
    for words, message in (
        (("--device", "foo"), "--device foo cannot be used here"),
        (("--device", "cuda:99"), "--device cuda:99 cannot be used here"),
        (("--seed", 2**40), "expected 0 to 4294967295"),
        (("--features", "nowhere.npy"), "--features nowhere.npy: there is no such file"),
        (("--backbone", "resnet18"), "expected timm:NAME"),
    ):
        said = refusal("audit", photos, *out, *words)
        assert message in said
        assert "decode" not in said
        assert not (tmp_path / "run").exists()


def test_a_run_among_the_images_is_refused(photos: Path):
    assert "lies among the images" in refusal("audit", photos, "--out", photos / "run")


def test_resume_and_overwrite_together_are_refused(photos: Path, tmp_path: Path):
    result = run("audit", photos, "--out", tmp_path / "run", "--resume", "--overwrite")
    assert result.exit_code == 2
    assert "contradict each other" in result.stderr


def test_equal_pixels_with_different_labels_are_warned_of(photos: Path, tmp_path: Path):
    shutil.copytree(photos, tmp_path / "set")
    shutil.copy(tmp_path / "set" / "0" / "copy.png", tmp_path / "set" / "4" / "copy.png")
    result = run("audit", tmp_path / "set", "--out", tmp_path / "run", *FAST)
    assert result.exit_code == 0, result.output
    warnings = " ".join(Findings.load(tmp_path / "run" / "findings.parquet").warnings)
    assert "Pairs of images with equal pixels and different labels: 1, such as" in warnings


def test_damaged_runs_are_told(finished: Path, tmp_path: Path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "findings.parquet").write_bytes(b"garbage")
    assert "findings.parquet: cannot be read as Parquet" in refusal("report", tmp_path / "run")
    shutil.copy(finished / "findings.parquet", tmp_path / "run")
    (tmp_path / "run" / "features.npy").write_bytes(b"garbage")
    assert "features.npy: cannot be read as features" in refusal("report", tmp_path / "run")


def test_evaluate_scores_a_run(finished: Path, tmp_path: Path):
    findings = Findings.load(finished / "findings.parquet")
    truth = tmp_path / "truth.csv"
    rows = [(name, "broken" if "cut" in name else name[7]) for name in findings.image]
    rows = [(name, "0" if "copy" in name else true) for name, true in rows]
    truth.write_text("image,truth\n" + "".join(f"{name},{true}\n" for name, true in rows))
    result = run("evaluate", finished, "--truth", truth, "--json")
    assert result.exit_code == 0, result.output
    found = {each["name"]: each for each in json.loads(result.stdout)["detections"]}
    assert found["mislabeled"]["n_true"] == 9
    assert found["mislabeled"]["auroc"] > 0.97
    assert found["broken"]["precision"] == 1


def test_evaluate_names_what_a_table_lacks(finished: Path, tmp_path: Path):
    table = tmp_path / "t.csv"
    table.write_text("image,true\nx,1\n")
    said = refusal("evaluate", finished, "--truth", table)
    assert "t.csv: no column 'truth'. Did you mean 'true'?" in said
    table.write_text("image,truth\nx,1\n")
    assert "none of the 182 images is in it" in refusal("evaluate", finished, "--truth", table)


def test_corrupt_then_audit_then_scores(photos: Path, tmp_path: Path):
    (tmp_path / "other").mkdir()
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "other" / f"{i}.png")
    made = run(
        "corrupt", photos, "--out", tmp_path / "noisy", "--symmetric", 0.1,
        "--foreign", 0.05, "--foreign-from", tmp_path / "other", "--json",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    counts = json.loads(made.stdout)
    assert counts["n_images"] == 182
    assert counts["n_foreign"] == 9
    assert counts["n_mislabeled"] == 18
    table = tmp_path / "noisy" / "images.parquet"
    result = run("audit", table, "--truth", "truth", "--out", tmp_path / "run", "--json", *FAST)
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)["scores"]
    assert {each["name"] for each in scores["detections"]} >= {"mislabeled", "foreign"}


def test_corrupt_refuses_pairs_it_cannot_make(photos: Path, tmp_path: Path):
    base = ("corrupt", photos, "--out", tmp_path / "noisy", "--asymmetric", 0.2)
    assert "--pair takes FROM:TO, such as cat:dog; got '0'" in refusal(*base, "--pair", "0")
    assert "no class '7'" in refusal(*base, "--pair", "0:7")


def test_features_are_written_with_their_ids(photos: Path, finished: Path, tmp_path: Path):
    out = tmp_path / "f.npy"
    result = run("features", photos, "--out", out, *FAST)
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == (finished / "features.npy").read_bytes()
    assert "exists already" in refusal("features", photos, "--out", out)
    assert "features are written as .npy" in refusal(
        "features", photos, "--out", tmp_path / "f.csv"
    )


def test_the_report_is_written_again(finished: Path):
    page = finished / "report.html"
    page.unlink()
    result = run("report", finished)
    assert result.exit_code == 0, result.output
    assert page.exists()


def test_a_run_is_repeated_from_its_run_json_alone(finished: Path, tmp_path: Path):
    result = run("rerun", finished, "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    same_bytes(tmp_path / "again", finished)


def test_recipes_are_listed_and_shown():
    listed = run("recipes").stdout
    assert "robust" in listed
    assert "paper-cnwl" in listed
    shown = run("recipes", "paper").stdout
    assert '"min_samples": 75' in shown
    assert "Did you mean 'paper'" in refusal("recipes", "papper")


def test_a_run_whose_labels_or_features_changed_is_not_resumed(
    photos: Path, finished: Path, tmp_path: Path
):
    table = tmp_path / "t.csv"
    names = sorted(photos.glob("[01]/digit*.png"))
    table.write_text("image,label\n" + "".join(f"{name},{name.parent.name}\n" for name in names))
    out = ("--out", tmp_path / "run", *FAST)
    assert run("audit", table, *out).exit_code == 0
    table.write_text(table.read_text().replace(",0\n", ",1\n", 1))
    said = refusal("audit", table, *out, "--resume")
    assert "have changed since this run was begun" in said
    for name in ("features.npy", "features.json"):
        shutil.copy(finished / name, tmp_path)
    own = ("--out", tmp_path / "own", "--features", tmp_path / "features.npy")
    assert run("audit", photos, *own).exit_code == 0
    np.save(tmp_path / "features.npy", -np.load(tmp_path / "features.npy"))
    said = refusal("audit", photos, *own, "--resume")
    assert "the features or weights have changed since" in said


def test_a_run_is_repeated_from_another_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(photos.parent)
    assert run("audit", photos.name, "--out", tmp_path / "run", *FAST).exit_code == 0
    monkeypatch.chdir(tmp_path)
    assert run("rerun", "run", "--out", "again").exit_code == 0
    same_bytes(tmp_path / "run", tmp_path / "again")


def test_a_class_called_na_is_scored(tmp_path: Path):
    from labelsieve.data.truth import read_truth

    table = tmp_path / "t.csv"
    table.write_text("image,truth\na,NA\nb,null\nc,\n")
    assert read_truth(table, ["a", "b", "c"]) == ("NA", "null", None)
