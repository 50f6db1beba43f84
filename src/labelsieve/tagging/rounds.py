"""Rounds of verifying: a finished run is gone on with when people have answered more.

The next round keeps features, answers and what estimates rest on; the training is done anew. While
it runs, what the round before left waits aside (`run.REPLACED`), so that a round that is killed
goes on without any loss.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.errors import DataError
from labelsieve.files import atomic
from labelsieve.methods.veit.verify import Round, drawn, stopping_advice
from labelsieve.records.tag_set import TagSet, compact, values_at
from labelsieve.report.tag_page import QUESTIONS_FILE
from labelsieve.run import flat
from labelsieve.run.outputs import REPLACED
from labelsieve.stages.makers import DICTIONARY
from labelsieve.stages.trained import PRETEXT
from labelsieve.tagging.job import FEATURES, Job

GIVEN = "given.parquet"  # the tags as given, with all that was verified
COUNTED = "counted.parquet"  # verified pairs that estimate how much is wrong
# what a round takes from the one before
_KEPT = (FEATURES, "features.json", DICTIONARY, PRETEXT, COUNTED, QUESTIONS_FILE)
ANSWERED = 0.5  # share of a tag's drawn questions, below which its answers are no random sample
_BLOCK = 1 << 20  # pairs

Rounds = tuple[Mapping[str, Any], ...]


class Before(NamedTuple):
    """What is in the folder of a run that is gone on with."""

    tags: TagSet | None = None  # with all that was verified
    rounds: Rounds = ()  # that are finished
    settings: Mapping[str, Any] | None = None  # of the last round, finished or not

    def is_another_round(self, settings: Mapping[str, Any]) -> bool:
        """Whether only what was verified, or what is asked for, is other than in the last round.

        A round that was stopped, and whose answers were changed since, is begun again.
        """
        if self.settings is None:
            return False
        then, now = flat(self.settings), flat(json.loads(json.dumps(settings)))
        names = (then.keys() | now.keys()) - {"rounds"}
        changed = {name for name in names if then.get(name) != now.get(name)}
        news = {"tags", "inputs.verified"}
        return bool(changed) and all(name in news or name.startswith("wanted.") for name in changed)


def rounds_before(out: Path) -> Before:
    """What is known of the rounds before, of a folder that is gone on with.

    A round that was killed gets back what it had not yet taken from the one before.
    """
    if not (out / "run.json").is_file():
        return Before()
    about = json.loads((out / "run.json").read_text(encoding="utf-8"))
    if about.get("job") != "tag":
        return Before()
    settings = about["settings"]
    rounds = tuple(settings["rounds"])
    if about["status"] == "done":
        return Before(_given(out), tuple(about["rounds"]), settings)
    if rounds:
        take_over(out)
        begun = (out / GIVEN).is_file()
        return Before(_given(out if begun else out / REPLACED), rounds, settings)
    return Before(settings=settings)


def take_over(out: Path, answers: bytes | None = None) -> None:
    """Take from the round before what does not depend on what is verified, and its questions.

    Args:
        out: folder of the run.
        answers: the questions as they were before the round was begun, with what was filled in.
    """
    aside = out / REPLACED
    if answers is not None:
        with atomic(out / QUESTIONS_FILE) as partial:
            partial.write_bytes(answers)
    for name in _KEPT:
        olds = [aside / name] if (aside / name).is_file() else sorted((aside / name).glob("**/*"))
        for old in olds:
            new = out / old.relative_to(aside)
            if old.is_file() and not new.exists():
                new.parent.mkdir(parents=True, exist_ok=True)
                with atomic(new) as partial:
                    shutil.copyfile(old, partial)


def with_earlier_answers(tags: TagSet, before: TagSet) -> TagSet:
    """Tags with what people verified in the rounds before, where the new round says nothing.

    Tags keep their places, on which what is drawn depends; those that are new come last.

    Args:
        tags: of the new round.
        before: of the rounds before.

    Raises:
        DataError: the rounds before are of other images.
    """
    if before.ids != tags.ids:
        raise DataError(
            f"{tags.source}: it now has {len(tags)} images, and the rounds before were of "
            f"{len(before)}, or of others. Begin anew with --overwrite, or choose another --out."
        )
    known = set(before.tag_names)
    names = (*before.tag_names, *(name for name in tags.tag_names if name not in known))
    column = {name: c for c, name in enumerate(names)}
    place = np.array([column[name] for name in tags.tag_names], np.int32)

    def moved(matrix: csr_array) -> csr_array:
        parts = (matrix.data, place[matrix.indices], matrix.indptr)
        return compact(csr_array(parts, shape=(len(tags), len(names))), matrix.dtype.type)

    verified = moved(tags.verified)
    earlier = before.verified
    earlier = csr_array(
        (earlier.data, earlier.indices, earlier.indptr), shape=verified.shape, copy=True
    )
    earlier.data[values_at(verified, earlier) != 0] = 0
    merged = csr_array(verified + earlier)
    merged.eliminate_zeros()
    looked = np.count_nonzero(np.diff(merged.indptr))
    note = f"With the rounds before, {merged.nnz:,} pairs of {looked:,} images are verified."
    return replace(
        tags,
        understood=(*tags.understood, note),
        tag_names=names,
        asserted=moved(tags.asserted),
        verified=merged,
        truth=None if tags.truth is None else moved(tags.truth),
    )


def counted(job: Job, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(P,) verified assertions that estimate how many are wrong, and keep them for later rounds.

    What people looked at before anything was suggested, and of what was suggested what was drawn at
    random: uncertain and suspicious pairs are wrong more often than others. Drawn pairs of a tag
    count once most of them are answered.

    Args:
        job: of the cleaning.
        asked: (P,) asserted pairs that may be suggested.
    """
    tags, kept = job.tags, job.run.path / COUNTED
    verified: NDArray[np.bool_] = tags.verified_of_asserted() != 0
    found = verified
    if job.inputs.audited is not None:  # a run that is repeated counts what that one counted
        found = verified & _read_counted(Path(job.inputs.audited) / COUNTED, tags)
    elif kept.is_file():
        drawn_to = max(
            (each["drawn_to"] for each in job.run.about["settings"]["rounds"]), default=0
        )
        found = verified & (_read_counted(kept, tags) | _drawn(job, verified, asked, drawn_to))
    _write_counted(kept, tags, found)
    return found


def _drawn(
    job: Job, verified: NDArray[np.bool_], asked: NDArray[np.bool_], drawn_to: float
) -> NDArray[np.bool_]:
    """(P,) the pairs that were drawn at random, of tags most of which are answered."""
    rows, columns = job.tags.asserted_pairs()
    found = np.zeros(len(rows), np.bool_)
    for start in range(0, len(rows), _BLOCK):
        piece = slice(start, start + _BLOCK)
        found[piece] = drawn(rows[piece], columns[piece], job.inputs.seed, drawn_to)
    found &= asked | verified
    n_drawn, n_answered = (
        np.bincount(columns[each], minlength=job.tags.n_tags) for each in (found, found & verified)
    )
    found &= (n_answered >= ANSWERED * n_drawn)[columns]
    return found


def _write_counted(path: Path, tags: TagSet, found: NDArray[np.bool_]) -> None:
    rows, columns = tags.asserted_pairs()
    names = pa.array(tags.tag_names, pa.string())
    ids = [tags.ids[row] for row in rows[found].tolist()]
    table = pa.table(
        {"image": pa.array(ids, pa.string()), "tag": names.take(pa.array(columns[found]))}
    )
    with atomic(path) as partial:
        pq.write_table(table, partial)


def _read_counted(path: Path, tags: TagSet) -> NDArray[np.bool_]:
    """(P,) the asserted pairs that a file names."""
    table = pq.read_table(path)
    rows, columns = (
        pc.index_in(table.column(name), value_set=pa.array(names, pa.string())).to_numpy()
        for name, names in (("image", tags.ids), ("tag", tags.tag_names))
    )
    ones = np.ones(len(rows), np.int8)
    named = compact(csr_array((ones, (rows, columns)), shape=tags.asserted.shape), np.int8)
    there: NDArray[np.bool_] = values_at(named, tags.asserted) != 0
    return there


def advice(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether more answers are worth their time, after several rounds that were scored."""
    known = [
        Round(each["n_verified"], each["score"]) for each in rounds if each["score"] is not None
    ]
    return [stopping_advice(known).text] if len(known) > 1 else []


def _given(folder: Path) -> TagSet | None:
    return TagSet.load(folder / GIVEN) if (folder / GIVEN).is_file() else None
