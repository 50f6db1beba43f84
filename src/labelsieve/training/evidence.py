"""What is known of the images before a classifier learns from them: an audit, and decisions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.decisions import (
    COPY,
    DECIDED,
    NAME,
    Decisions,
    later,
    no_decisions,
    read_decisions,
    write_decisions,
)
from labelsieve.errors import RunError
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.records import Findings, ImageSet, Verdict
from labelsieve.run import read_run
from labelsieve.stages.inputs import Inputs, stamps_of


class Known(NamedTuple):
    """What is known of the images before a classifier learns from them."""

    findings: Findings  # of the audit, with decisions in place of its verdicts
    beliefs: Beliefs  # the same, as training takes it: with right labels where a person gave them


def findings_of(audit: Path, images: ImageSet) -> Findings:
    """The findings of a finished run, seen to be of these images.

    Raises:
        RunError: it has not finished, made none, or the images have changed since.
    """
    about = read_run(audit)
    if not (audit / "findings.parquet").is_file():
        raise RunError(
            f"{audit}: made by `labelsieve {about['job']}`, which leaves no findings; expected a "
            "run of `labelsieve audit`."
        )
    findings = Findings.load(audit / "findings.parquet")
    if not are_of(findings, images):
        raise RunError(
            f"{audit}: its findings are of {len(findings)} images of {len(findings.class_names)} "
            f"classes, and {images.source} now has {len(images)} of {len(images.class_names)}, or "
            "other names or labels. Audit again, and train on that run."
        )
    return findings


def are_of(findings: Findings, images: ImageSet) -> bool:
    """Whether findings are of these images, with the labels that they have."""
    same = findings.image == images.ids and findings.class_names == images.class_names
    return same and np.array_equal(findings.label, np.asarray(images.labels))


def origin_of(audit: Path) -> Path:
    """The run that has the features: that of an audit, or of a training that audited by itself.

    A training on an audit's run has the audit's features, and no copy of them.

    Raises:
        RunError: it is not there any more.
    """
    while (before := _inputs_of(audit).audited) is not None:
        audit = Path(before)
    return audit


def decisions_of(inputs: Inputs, images: ImageSet) -> Decisions:
    """What people decided: in the file that is named, else in the folder of the audit.

    Where that is a training, what was decided before it still holds. A training that is repeated
    has what was decided when it was first begun, and nothing else.
    """
    found = no_decisions()
    for path in _decision_files(inputs):
        read = read_decisions(path, images.ids, np.asarray(images.labels), images.class_names)
        found = later(found, read)
    return found


def keep_decisions(inputs: Inputs, decisions: Decisions, images: ImageSet, run: Path) -> None:
    """Keep what people decided in the folder of a training, so that it can be repeated by that.

    There may be decisions of an audit's run, or in a file that is named; else nothing is written.
    """
    if _may_be_decided(inputs):
        write_decisions(decisions, run / COPY, images.ids, images.class_names)


def repeated(inputs: Inputs, run: Path) -> Inputs:
    """The inputs of a finished training, with what had been decided when it began."""
    copy = run / COPY
    return replace(inputs, decided=str(copy)) if copy.is_file() else inputs


def evidence_stamps(inputs: Inputs) -> dict[str, str]:
    """Size and time of change of the audit and the decisions: another stamp, another file."""
    audit = [] if inputs.audited is None else [Path(inputs.audited) / "findings.parquet"]
    return stamps_of(map(str, [*audit, *_decision_files(inputs)]))


def _decision_files(inputs: Inputs) -> list[Path]:
    """The earliest first."""
    if inputs.decided is not None:
        return [Path(inputs.decided)]
    earlier: list[Path] = []
    beside = None
    if inputs.audited is not None:
        audit = Path(inputs.audited)
        before = _inputs_of(audit)
        # of one that was repeated its own copy: the first may be gone
        earlier = [audit / COPY] if before.decided is not None else _decision_files(before)
        beside = audit / NAME
    if inputs.decisions is not None:
        return [*earlier, Path(inputs.decisions)]
    return [*earlier, beside] if beside is not None and beside.is_file() else earlier


def _may_be_decided(inputs: Inputs) -> bool:
    given = (inputs.audited, inputs.decisions, inputs.decided)
    return any(each is not None for each in given)


def _inputs_of(run: Path) -> Inputs:
    return Inputs(**read_run(run)["settings"]["inputs"])


def with_decisions(findings: Findings, decisions: Decisions) -> Known:
    """Findings with what people decided in place of what was found.

    An image whose right class is known is trained on as one of that class.
    """
    rows = decisions.rows[findings.verdict[decisions.rows] != Verdict.BROKEN]
    kept = np.isin(decisions.rows, rows)
    verdict, right = decisions.verdict[kept], decisions.label[kept]
    certain = np.zeros(len(findings), np.bool_)
    certain[rows] = True
    columns = {
        name: getattr(findings, name).copy()
        for name in ("verdict", "probabilities", "suggestion", "suggestion_probability",
                     "foreign_group")
    }  # fmt: skip
    columns["verdict"][rows] = verdict
    columns["probabilities"][rows] = np.eye(3, dtype=np.float32)[verdict]
    said = rows[right >= 0]
    columns["suggestion"][said] = right[right >= 0]
    columns["suggestion_probability"][said] = 1
    # the audit may have proposed the very label that a person calls wrong
    refuted = rows[(verdict == Verdict.MISLABELED) & (right < 0)]
    refuted = refuted[columns["suggestion"][refuted] == findings.label[refuted]]
    columns["suggestion"][refuted], columns["suggestion_probability"][refuted] = -1, np.nan
    columns["foreign_group"][rows[verdict != Verdict.FOREIGN]] = -1
    reasons = list(findings.reason)
    for row in rows.tolist():
        reasons[row] = DECIDED
    decided = replace(findings, **columns, reason=tuple(reasons))
    beliefs = Beliefs.of_findings(decided, certain)
    labels, kinds = beliefs.labels.copy(), beliefs.kinds.copy()
    labels[said] = right[right >= 0]
    kinds[said] = np.eye(3, dtype=np.float32)[Verdict.CLEAN]
    return Known(decided, replace(beliefs, labels=labels, kinds=kinds))


def at_chance(
    probabilities: NDArray[np.float32], beliefs: Beliefs, rows: NDArray[np.int64]
) -> str | None:
    """A warning, where a classifier hardly knows even the labels that are believed.

    Args:
        probabilities: (M, C) what it says of the images it learned from.
        beliefs: of all N images.
        rows: (M,) which of them those are.
    """
    clean = beliefs.verdict[rows] == Verdict.CLEAN
    if not clean.any():
        return None
    right = float((probabilities[clean].argmax(axis=1) == beliefs.labels[rows][clean]).mean())
    chance = 1 / probabilities.shape[1]
    if right >= chance + 0.2 * (1 - chance):
        return None
    return (
        f"The classifier gives only {100 * right:.0f} % of the clean images it learned from their "
        f"own label, where chance gives {100 * chance:.0f} %: it has learned next to nothing, and "
        "what is said of labels stays as the audit had it. Train it longer, or on better features."
    )
