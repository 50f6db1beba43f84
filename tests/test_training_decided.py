"""What people decided, in a training's folder: kept, counted apart, and what repeats the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from labelsieve.data.decisions import DECIDED
from labelsieve.records import Findings, Verdict
from made_training import ON_ROWS, about, done
from test_training import DECISIONS, decided, findings_of

COPY = "decided.jsonl"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_training_is_repeated_by_what_was_decided_when_it_began(audit_run: Path, tmp_path: Path):
    audit, first = tmp_path / "audit", tmp_path / "first"
    shutil.copytree(audit_run, audit)
    broken = {"image": "1/cut.png", "verdict": "clean"}
    decided(audit, *DECISIONS[:3], {**DECISIONS[0], "label": "1"}, broken)
    done("train", audit, "--out", first, *ON_ROWS)
    assert lines(first / COPY) == [  # in the order of the images, each once
        {"image": "0/was4-0.png", "verdict": "mislabeled", "label": "1"},
        {"image": "1/cut.png", "verdict": "clean", "label": "1"},
        {"image": "1/was0-1.png", "verdict": "mislabeled", "label": "0"},
        {"image": "4/030.png", "verdict": "clean", "label": "4"},
    ]
    decided(audit, *DECISIONS[3:], {"image": "0/030.png", "verdict": "foreign"})
    done("rerun", first, "--out", tmp_path / "again")
    names = ("findings.parquet", "audit.parquet", "model.safetensors", COPY)
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (first / name).read_bytes(), name
    # what repeats it is repeated by its own copy, when the first is gone
    shutil.rmtree(first)
    done("rerun", tmp_path / "again", "--out", tmp_path / "third")
    for name in names:
        kept = (tmp_path / "third" / name).read_bytes()
        assert kept == (tmp_path / "again" / name).read_bytes(), name
    # and anew it is another training
    done("train", audit, "--out", tmp_path / "anew", *ON_ROWS)
    assert findings_of(tmp_path / "anew").count(Verdict.FOREIGN) >= 2
    assert [line["image"] for line in lines(tmp_path / "anew" / COPY)] == ["0/020.png", "0/030.png"]


def test_a_training_on_a_repeated_one_has_its_decisions_and_later_ones(
    audit_run: Path, tmp_path: Path
):
    audit, first, again = (tmp_path / name for name in ("audit", "first", "again"))
    shutil.copytree(audit_run, audit)
    decided(audit, DECISIONS[3])
    done("train", audit, "--out", first, *ON_ROWS)
    done("rerun", first, "--out", again)
    shutil.rmtree(first)
    decided(audit, DECISIONS[0])
    decided(again, DECISIONS[1])
    done("train", again, "--out", tmp_path / "second", *ON_ROWS)
    found = [line["image"] for line in lines(tmp_path / "second" / COPY)]
    assert found == [DECISIONS[3]["image"], DECISIONS[1]["image"]]


def test_nothing_decided_stays_nothing_where_something_is_decided_later(
    audit_run: Path, tmp_path: Path
):
    audit = tmp_path / "audit"
    shutil.copytree(audit_run, audit)
    done("train", audit, "--out", tmp_path / "first", *ON_ROWS)
    assert (tmp_path / "first" / COPY).read_bytes() == b""
    decided(audit, *DECISIONS)
    done("rerun", tmp_path / "first", "--out", tmp_path / "again")
    first, again = (tmp_path / name / "findings.parquet" for name in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_decisions_are_counted_apart_from_what_training_changed(
    photos: Path, audit_run: Path, row_run: Path, tmp_path: Path
):
    assert not (row_run / COPY).exists()  # nothing could be decided of images alone
    audit, out = tmp_path / "audit", tmp_path / "run"
    shutil.copytree(audit_run, audit)
    decided(audit, *DECISIONS)
    result = done("train", audit, "--out", out, *ON_ROWS, "--json")
    before, after = Findings.load(out / "audit.parquet"), findings_of(out)
    by_people = np.array(after.reason) == DECIDED
    other = before.verdict != after.verdict
    assert by_people.sum() == len(DECISIONS)
    assert (by_people & other).any()
    expected = {
        "n_decided": len(DECISIONS),
        "n_by_people": int((by_people & other).sum()),
        "n_by_training": int((~by_people & other).sum()),
    }
    assert json.loads(result.stdout)["changes"] == about(out)["changes"] == expected
    told = done("train", audit, "--out", out, *ON_ROWS, "--resume").stdout
    assert f"verdicts that training changed: {expected['n_by_training']}\n" in told
    assert "4 decided by people, not counted as changed" in told
    assert "4 decided by people" in (out / "report.html").read_text()
