"""What people decided of images: read from decisions.jsonl, or a table, and matched by id."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import DataError, did_you_mean
from labelsieve.files import atomic
from labelsieve.records import Verdict

NAME = "decisions.jsonl"  # in a run's folder, where people write it
COPY = "decided.jsonl"  # in that of a training: all that was decided when it began
DECIDED = "Decided by a person."  # the reason in findings
_VERDICTS = {"clean": Verdict.CLEAN, "mislabeled": Verdict.MISLABELED, "foreign": Verdict.FOREIGN}


class Decisions(NamedTuple):
    """Images that a person looked at, each once."""

    rows: NDArray[np.int64]  # (K,) of the image set, rising
    verdict: NDArray[np.int8]  # (K,) a Verdict, never BROKEN
    label: NDArray[np.int64]  # (K,) the right class; -1 of foreign images, or where nobody said


def no_decisions() -> Decisions:
    """Of a set that nobody looked at."""
    return Decisions(np.empty(0, np.int64), np.empty(0, np.int8), np.empty(0, np.int64))


def read_decisions(
    path: Path, ids: Sequence[str], labels: NDArray[np.int64], class_names: Sequence[str]
) -> Decisions:
    """What was decided of some images; a later decision on an image replaces an earlier one.

    Each line of a .jsonl, or row of a .csv, has `image` and `verdict`, and may have `label`, the
    right class. Without a verdict the label decides: clean where it is the given one, else
    mislabeled. An image without a label has none to be wrong: with a right class it is clean.

    Args:
        path: .jsonl or .csv, UTF-8.
        ids: of the images.
        labels: (N,) as given, -1 none.
        class_names: of the labels.

    Raises:
        DataError: a line that cannot be read, or has a verdict, class or image that there is not.
    """
    place = {name: row for row, name in enumerate(ids)}
    classes = {name: c for c, name in enumerate(class_names)}
    found: dict[int, tuple[int, int]] = {}
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        name = _text(line, "image")
        if name is None:
            raise DataError(f"{where}: no image is named; expected fields image and verdict.")
        if name not in place:
            raise DataError(
                f"{where}: there is no image {name!r} in the set, whose images are such as "
                f"{ids[0]!r}. Take the line out, or give the set it belongs to."
            )
        row = place[name]
        found[row] = _decision(line, int(labels[row]), classes, where)
    rows = np.array(sorted(found), np.int64)
    values = np.array([found[row] for row in rows.tolist()], np.int64).reshape(-1, 2)
    return Decisions(rows, values[:, 0].astype(np.int8), values[:, 1])


def _decision(
    line: Mapping[str, Any], given: int, classes: Mapping[str, int], where: str
) -> tuple[int, int]:
    """Verdict and right class."""
    said, label = _text(line, "verdict"), _text(line, "label")
    if label is not None and label not in classes:
        raise DataError(f"{where}: there is no class {label!r}. {did_you_mean(label, classes)}")
    right = -1 if label is None else classes[label]
    if said is None:
        if right < 0:
            raise DataError(f"{where}: neither a verdict nor a label; expected one of them.")
        return int(Verdict.CLEAN if given in (right, -1) else Verdict.MISLABELED), right
    if said not in _VERDICTS:
        raise DataError(
            f"{where}: the verdict is {said!r}; expected one of {', '.join(_VERDICTS)}."
        )
    verdict = _VERDICTS[said]
    if given < 0 and verdict != Verdict.FOREIGN and right < 0:
        raise DataError(
            f"{where}: {said}, of an image without a label; expected the class that it shows. Add "
            "it as the label, or say foreign."
        )
    contradicts = {
        Verdict.CLEAN: given >= 0 and right not in (-1, given),
        Verdict.MISLABELED: given >= 0 and right == given,
        Verdict.FOREIGN: right >= 0,
    }
    if contradicts[verdict]:
        raise DataError(
            f"{where}: {said}, with the right class {label!r}, contradict each other. Leave out "
            "one of them."
        )
    if verdict == Verdict.CLEAN or (verdict == Verdict.MISLABELED and given < 0):
        return int(Verdict.CLEAN), max(given, right)
    return int(verdict), right


def write_decisions(
    decisions: Decisions, path: Path, ids: Sequence[str], class_names: Sequence[str]
) -> None:
    """Write decisions so that `read_decisions` gives the same back, whole or not at all.

    Args:
        decisions: of some images.
        path: .jsonl.
        ids: of all images.
        class_names: of the labels.

    Raises:
        RunError: the file cannot be written.
    """
    words = {verdict: name for name, verdict in _VERDICTS.items()}
    with atomic(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row, verdict, label in zip(*(each.tolist() for each in decisions), strict=True):
            line = {"image": ids[row], "verdict": words[Verdict(verdict)]}
            if label >= 0:
                line["label"] = class_names[label]
            file.write(json.dumps(line) + "\n")


def later(first: Decisions, second: Decisions) -> Decisions:
    """Both, the second's where both are of an image."""
    kept = ~np.isin(first.rows, second.rows)
    rows = np.concatenate([first.rows[kept], second.rows])
    order = rows.argsort()
    columns = ("verdict", "label")
    both = (np.concatenate([getattr(first, name)[kept], getattr(second, name)]) for name in columns)
    return Decisions(rows[order], *(column[order] for column in both))


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number and fields of each line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as decisions: {error}.") from error
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if "image" not in (reader.fieldnames or ()):
            near = did_you_mean("image", reader.fieldnames or ())
            raise DataError(f"{path}: no column 'image'. {near}")
        for fields in reader:
            yield reader.line_num, fields
        return
    # not `splitlines`, which also ends lines at what may be in the name of a file, such as U+2028
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: not a JSON object ({error}); expected such as "
                '{"image": "cat/1.jpg", "verdict": "foreign"}.'
            ) from error
        yield number, fields


def _text(line: Mapping[str, Any], name: str) -> str | None:
    value = line.get(name)
    return None if value is None or value == "" else str(value)
