"""What a cleaning of tags leaves in its folder, and reads from there again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from labelsieve.data.tags.write import write_tags
from labelsieve.files import write_csv, write_json
from labelsieve.loop.logs import history
from labelsieve.methods.veit.relations import Relation
from labelsieve.methods.veit.verify import Suggestions, Why
from labelsieve.records.tag_findings import Tagged, TagVerdict
from labelsieve.records.tag_set import TagSet
from labelsieve.report.metrics import Bin, Calibration
from labelsieve.report.tag_galleries import Question
from labelsieve.report.tag_metrics import TagScores
from labelsieve.report.tag_page import QUESTIONS_FILE, ROWS_FILE, write_tag_page
from labelsieve.report.tag_reliability import Reliability
from labelsieve.report.tag_rows import TagRow, rows_to_arrow
from labelsieve.tagging.job import Job
from labelsieve.tagging.rounds import GIVEN, advice

PAIRS, LABELS, CLEANED = "tags", "labels", "cleaned"  # stems of a run's files
PAGE = "page.json"  # what the page shows beside them
_FOLDERS = ("voc", "nus-wide", "per-class", "sidecar")  # forms of several files each
_GIVEN_ANEW = ("--verified", "--resume", "--overwrite")  # words of the command for the next round


class Cleaned(NamedTuple):
    """What a cleaning leaves."""

    tags: TagSet
    tagged: Tagged
    scores: dict[str, TagScores]  # by method, the last one that of the run
    rows: Sequence[TagRow]  # one a tag
    reliability: Reliability | None
    relations: Sequence[Relation]
    asked: Sequence[Question]  # what to verify next, as the page shows it


def write_cleaned(
    job: Job, found: Cleaned, questions: Suggestions | None, *, cleaned_file: bool
) -> None:
    """Write what was found, and the report; the run is done then.

    Args:
        job: of the cleaning.
        found: its result.
        questions: what to verify next, if it was asked for.
        cleaned_file: whether cleaned tags are written in the form of the source.
    """
    run, tags, tagged = job.run, found.tags, found.tagged
    for suffix in (".parquet", ".csv"):
        tagged.write(run.path / f"{PAIRS}{suffix}")
        tagged.write_images(run.path / f"{LABELS}{suffix}")
    write_csv(rows_to_arrow(found.rows), run.path / ROWS_FILE)
    name, notes = None, list[str]()
    if cleaned_file:
        name = cleaned_name(tags)
        notes += write_tags(tags, tagged.cleaned(), run.path / name)
    write_json(run.path / PAGE, _page_facts(found))
    run.note(cleaned=name, notes=notes, **_run_facts(job, found, questions))
    with run.stage("report"):
        write_cleaned_page(run.path, found, run.about, partial(job.progress, "report"))
    if questions is not None:  # late: until then answers of this round may still be in that file
        questions.write(run.path / QUESTIONS_FILE, tags.ids, tags.tag_names)
    run.finish()


def summary(found: Cleaned) -> dict[str, Any]:
    """What `--json` prints of a cleaning."""
    tagged, tags = found.tagged, found.tags
    counts = tagged.counts().sum(axis=0)
    return {
        "n_images": len(tags),
        "n_tags": tags.n_tags,
        "n_asserted": int(tags.asserted.nnz),
        "n_verified": int(tags.verified.nnz),
        "n_never_verified": int(tags.never_verified.sum()),
        **{verdict.name.lower(): int(counts[verdict]) for verdict in TagVerdict},
        "warnings": list(tagged.warnings),
    }


def cleaned_name(tags: TagSet) -> str:
    """The file or folder of cleaned tags in the form of the source."""
    form = tags.form
    if form.family == "image-set":
        return f"{CLEANED}.parquet"
    if len(form.files) != 1 or form.family in _FOLDERS:
        return CLEANED
    suffix = Path(form.files[0]).suffix.lower()
    return CLEANED + {".pq": ".parquet"}.get(suffix, suffix)


def next_command(job: Job) -> tuple[str, str]:
    """How to go on when questions are answered: a command, and what it does."""
    answers = job.run.path / QUESTIONS_FILE
    words = list(job.run.about["argv"])
    if words[:1] != ["tag"]:  # from Python, or a run that was repeated
        words = ["tag", job.inputs.source, "--out", str(job.run.path)]
    kept, skip = list[str](), False
    for word in words:
        option, equals, _ = word.partition("=")
        if not skip and option not in _GIVEN_ANEW:
            kept.append(word)
        skip = not skip and option == "--verified" and not equals
    command = shlex.join(["labelsieve", *kept, "--verified", str(answers), "--resume"])
    return command, "goes on with the answers that were filled in"


def write_cleaned_page(
    folder: Path, found: Cleaned, about: Mapping[str, Any], progress: Any = None
) -> Path:
    """Write the report page of a run.

    Args:
        folder: of the run.
        found: its result.
        about: its run.json.
        progress: told pictures done, and in all.
    """
    path = folder / "report.html"
    write_tag_page(
        found.tagged, found.tags, path, about=about, scores=found.scores,
        tag_rows=found.rows, reliability=found.reliability, relations=found.relations,
        to_verify=found.asked, history=history(folder / "log.jsonl"), progress=progress,
    )  # fmt: skip
    return path


def read_cleaned(run: Path, about: Mapping[str, Any]) -> Cleaned:
    """What a finished run left.

    Args:
        run: its folder.
        about: its run.json.
    """
    facts = json.loads((run / PAGE).read_text(encoding="utf-8"))
    return Cleaned(
        replace(TagSet.load(run / GIVEN), understood=tuple(about["understood"])),
        Tagged.load(run / f"{PAIRS}.parquet"),
        read_scores(about),
        [TagRow(**{**row, "interval": tuple(row["interval"])}) for row in facts["rows"]],
        None if facts["reliability"] is None else _reliability_of(facts["reliability"]),
        [Relation(*each) for each in facts["relations"]],
        [Question(*each) for each in facts["questions"]],
    )


def read_scores(about: Mapping[str, Any]) -> dict[str, TagScores]:
    """The scores in a run.json, by method."""
    return {name: TagScores.from_dict(each) for name, each in (about["scores"] or {}).items()}


def shown_questions(questions: Suggestions | None) -> list[Question]:
    """What to verify next, the most useful first, as the page shows it."""
    if questions is None:
        return []
    columns = (questions.rows, questions.columns, questions.probability, questions.why)
    return [
        Question(int(row), int(tag), float(probability), Why(why).name.lower())
        for row, tag, probability, why in zip(*columns, strict=True)
    ]


def _run_facts(job: Job, found: Cleaned, questions: Suggestions | None) -> dict[str, Any]:
    """What run.json says of the result."""
    best = next(reversed(found.scores.values()), None)
    this_round = {
        "n_verified": int(found.tags.verified.nnz),
        "score": None if best is None else best.map,
        "drawn_to": 0.0 if questions is None else questions.drawn_to,
    }
    rounds = [*job.run.about["settings"]["rounds"], this_round]
    return {
        "understood": list(found.tags.understood),
        "next": [] if questions is None else [next_command(job)],
        "recipe": job.inputs.recipe,
        "seed": job.inputs.seed,
        "device": job.inputs.device,
        "summary": summary(found),
        "scores": {name: each.to_dict() for name, each in found.scores.items()} or None,
        "rounds": rounds,
        "advice": advice(rounds),
    }


def _page_facts(found: Cleaned) -> dict[str, Any]:
    """What the page shows beside the tables of a run."""
    return {
        "rows": [asdict(row) for row in found.rows],
        "reliability": None if found.reliability is None else asdict(found.reliability),
        "relations": [list(each) for each in found.relations],
        "questions": [list(each) for each in found.asked],
    }


def _reliability_of(given: Mapping[str, Any]) -> Reliability:
    def one(each: Mapping[str, Any]) -> Calibration:
        bins = tuple(Bin(**part) for part in each["bins"])
        return Calibration(each["name"], each["expected_error"], bins)

    return Reliability(one(given["overall"]), tuple(map(one, given["tags"])))
