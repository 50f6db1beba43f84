from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labelsieve.errors import DataError, RunError
from labelsieve.files import atomic, write_json
from labelsieve.run import Run, read_run

SETTINGS = {"seed": 0, "xi": 0.02}


def test_a_run_leaves_its_settings_and_timings(tmp_path: Path):
    with Run.open(tmp_path / "run", "audit", SETTINGS) as run:
        with run.stage("read"):
            pass
        run.finish(metrics={"clean": 3})
    about = read_run(tmp_path / "run")
    assert about["settings"] == SETTINGS
    assert about["metrics"] == {"clean": 3}
    assert about["timings"]["read"]["seconds"] >= 0
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[0])["stage"] == "read"
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_resumed_run_adds_up_what_its_stages_took_and_says_how_often_it_was_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    took = iter([10.0, 15.0, 20.0, 20.5])
    monkeypatch.setattr("labelsieve.run.folder.time.perf_counter", lambda: next(took))
    with Run.open(tmp_path, "audit", SETTINGS) as run, run.stage("fit"):
        pass
    assert "n_resumed" not in run.about
    with Run.open(tmp_path, "audit", SETTINGS, resume=True) as run:
        with run.stage("fit"):  # loads what there is
            pass
        run.finish()
    assert read_run(tmp_path)["timings"]["fit"]["seconds"] == 5.5
    assert read_run(tmp_path)["n_resumed"] == 1
    Run.open(tmp_path, "audit", SETTINGS, resume=True).close()
    assert read_run(tmp_path)["n_resumed"] == 1  # there was nothing to do
    log = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["seconds"] for line in log] == [5.0, 0.5]


def test_a_folder_of_other_things_is_refused_even_with_overwrite(tmp_path: Path):
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"not empty \(it holds photo.jpg\)"):
            Run.open(tmp_path, "audit", SETTINGS, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_run_is_not_replaced_without_being_asked(tmp_path: Path):
    Run.open(tmp_path, "audit", SETTINGS).close()
    with pytest.raises(RunError, match="holds a run already. Add --resume .* --overwrite"):
        Run.open(tmp_path, "audit", SETTINGS)


def test_overwrite_removes_outputs_and_nothing_else(tmp_path: Path):
    Run.open(tmp_path, "audit", SETTINGS).close()
    (tmp_path / "findings.csv").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    Run.open(tmp_path, "audit", SETTINGS, overwrite=True).close()
    assert not (tmp_path / "findings.csv").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwrite_loses_the_old_run_only_when_the_new_one_is_done(tmp_path: Path):
    with Run.open(tmp_path, "audit", SETTINGS) as run:
        (tmp_path / "findings.csv").write_text("old")
        run.finish()

    def fail() -> None:
        with Run.open(tmp_path, "audit", SETTINGS, overwrite=True):
            assert not (tmp_path / "findings.csv").exists()
            raise DataError("7 rows for 8 images.")

    with pytest.raises(DataError):
        fail()
    assert (tmp_path / "findings.csv").read_text() == "old"
    assert read_run(tmp_path)["status"] == "done"
    with Run.open(tmp_path, "audit", SETTINGS, overwrite=True) as run:
        run.finish()
    assert {path.name for path in tmp_path.iterdir()} == {"run.json"}


def test_what_a_run_killed_at_once_left_does_not_block_the_folder(tmp_path: Path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / ".partial-run.json").write_text("{")
    Run.open(tmp_path, "audit", SETTINGS).close()


def test_resume_with_other_settings_names_what_changed(tmp_path: Path):
    Run.open(tmp_path, "audit", SETTINGS).close()
    with pytest.raises(RunError, match=r"other settings.*: xi changed \(xi was 0.02 and is 0.05\)"):
        Run.open(tmp_path, "audit", SETTINGS | {"xi": 0.05}, resume=True)


def test_resume_of_another_job_is_refused(tmp_path: Path):
    Run.open(tmp_path, "audit", SETTINGS).close()
    with pytest.raises(RunError, match="cannot be resumed by .* train"):
        Run.open(tmp_path, "train", SETTINGS, resume=True)


def test_resume_of_nothing_starts_afresh(tmp_path: Path):
    with Run.open(tmp_path / "run", "audit", SETTINGS, resume=True) as run:
        assert not run.done


def test_a_mistake_that_shows_late_leaves_the_network_that_took_hours(tmp_path: Path):
    def fail() -> None:
        with Run.open(tmp_path / "run", "cluster", {}) as run:
            (run.path / "pretext").mkdir()
            (run.path / "pretext" / "model.json").write_text("{}")
            raise DataError("7 rows for 8 images.")

    with pytest.raises(DataError):
        fail()
    assert (tmp_path / "run" / "pretext" / "model.json").exists()
    assert (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("there_before", [False, True])
def test_a_run_that_meets_a_mistake_in_its_input_leaves_nothing(tmp_path: Path, there_before):
    out = tmp_path / "run"
    if there_before:
        out.mkdir()

    def fail() -> None:
        with Run.open(out, "audit", SETTINGS) as run:
            (run.checkpoint / "pixels.npy").write_text("")
            raise DataError("7 rows for 8 images.")

    with pytest.raises(DataError):
        fail()
    assert not out.exists()


def test_a_run_that_meets_a_full_disk_keeps_what_it_has(tmp_path: Path):
    def fail() -> None:
        with Run.open(tmp_path, "audit", SETTINGS) as run:
            (run.checkpoint / "pixels.npy").write_text("")
            raise RunError("disk full")

    with pytest.raises(RunError):
        fail()
    assert (tmp_path / "checkpoint" / "pixels.npy").exists()


def test_a_cached_value_is_made_once(tmp_path: Path):
    made = []

    def make() -> str:
        made.append(1)
        return "value"

    with Run.open(tmp_path, "audit", SETTINGS) as run:
        path = run.checkpoint / "value.txt"
        for _ in range(2):
            value = run.cached(
                path, make, lambda v, p: write_json(p, v), lambda p: json.loads(p.read_text())
            )
    assert (value, made) == ("value", [1])


def test_a_second_process_is_told_that_the_folder_is_in_use(tmp_path: Path):
    with (
        Run.open(tmp_path, "audit", SETTINGS),
        pytest.raises(RunError, match="another labelsieve is writing to it"),
    ):
        Run.open(tmp_path, "audit", SETTINGS, resume=True)


def test_a_killed_run_gives_its_lock_back(tmp_path: Path):
    program = (
        "import sys, time; from pathlib import Path; from labelsieve.run import Run\n"
        f"run = Run.open(Path({str(tmp_path)!r}), 'audit', {SETTINGS!r})\n"
        "print('open', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    time.sleep(0.05)
    with Run.open(tmp_path, "audit", SETTINGS, resume=True) as run:
        assert run.about["status"] == "running"


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic(path) as partial:
            partial.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path):
    def write() -> None:
        with atomic(tmp_path / "a.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunError, match=r"a.txt: cannot be written: No space left.*--resume"):
        write()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        Run.open(tmp_path / "file" / "run", "audit", SETTINGS)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_told(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot be written"):
        Run.open(tmp_path / "run", "audit", SETTINGS)


def test_read_run_of_an_unfinished_run_says_how_to_go_on(tmp_path: Path):
    Run.open(tmp_path, "audit", SETTINGS).close()
    with pytest.raises(RunError, match="has not finished. Start `labelsieve audit` again"):
        read_run(tmp_path)


def test_read_run_of_a_folder_that_is_no_run(tmp_path: Path):
    with pytest.raises(RunError, match="not a run's folder"):
        read_run(tmp_path)


def test_a_foreign_run_json_is_left_alone(tmp_path: Path):
    write_json(tmp_path / "run.json", {"program": "other"})
    with pytest.raises(RunError, match="written by another program"):
        Run.open(tmp_path, "audit", SETTINGS, overwrite=True)
    assert json.loads((tmp_path / "run.json").read_text()) == {"program": "other"}
