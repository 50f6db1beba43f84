"""The label files of Open Images, V1 to V7: of a machine and of people, and names of the codes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from labelsieve.data.tags.batches import Table, check_encoding, open_table, read_header, unreadable
from labelsieve.data.tags.columns import shown
from labelsieve.data.tags.gather import Raw
from labelsieve.data.tags.hygiene import fold
from labelsieve.data.tags.long import LongColumns, read_long
from labelsieve.errors import DataError
from labelsieve.records.tag_set import Form

_COLUMNS = ("ImageID", "Source", "LabelName", "Confidence")
_COLUMN = LongColumns("ImageID", "LabelName", "Confidence", "Source")
_DEPTH = 2  # folders below the one named: V2 has train/, validation/ and test/


def is_labels(table: Table) -> bool:
    """Whether a table has the columns of a labels file of Open Images."""
    return set(_COLUMNS) <= set(table.columns)


def labels_files(folder: Path) -> list[Path]:
    """The labels files in a folder and the folders below it."""
    found = []
    for path in _csv_files(folder):
        try:
            header, _ = read_header(path)
        except (
            DataError
        ):  # a table of something else; what is named is read, and refused, by itself
            continue
        if set(_COLUMNS) <= set(header):
            found.append(path)
    return found


def partners(path: Path) -> list[Path]:
    """A labels file and the one of the same split by people, or by the machine, beside it."""
    for one, other in (("machine", "human"), ("human", "machine")):
        if one in path.name and (beside := path.with_name(path.name.replace(one, other))).is_file():
            return sorted((path, beside))
    return [path]


def read_open_images(files: Sequence[Path], root: Path, least: float) -> Raw:
    """Assertions of the machine, answers of people: a human 0 is a verified absence.

    Args:
        files: labels files, of one or several splits.
        root: the folder to look for the names of the codes in, and the one above.
        least: confidence of an assertion.

    Raises:
        DataError: a file cannot be read.
    """
    paths = tuple(str(path.resolve()) for path in files)
    raw = Raw(Form("open-images", paths, _COLUMN.image, (_COLUMN.tag,)))
    for path in files:
        table = open_table(path)
        if table is None or not is_labels(table):
            raise DataError(f"{path}: no labels file of Open Images. Name another file.")
        raw.notes.append(f"{path.name}: labels of Open Images.")
        read_long(raw, table, _COLUMN, least, only_machine=True)
        raw.drop("with too few or too many values", len(table.skipped), "".join(table.skipped[:1]))
    names, where = _names(root)
    if where is None:
        raw.notes.append("No file with the names of the codes was found; tags are the codes.")
    else:
        raw.names = _told_apart(names)
        nameless = [code for code in raw.tags if code not in names]
        raw.notes.append(f"Names of {len(names):,} codes from {where.name}.")
        if nameless:
            raw.notes.append(f"{len(nameless):,} codes have no name: {shown(nameless, 3)}.")
    return raw


def _names(root: Path) -> tuple[dict[str, str], Path | None]:
    """Code -> name from dict.csv, class-descriptions.csv or oidv7-class-descriptions.csv."""
    for folder in (root, root.parent):
        for path in sorted(folder.glob("*.csv")):
            if path.name == "dict.csv" or "class-descriptions" in path.name:
                return _read_names(path), path
    return {}, None


def _read_names(path: Path) -> dict[str, str]:
    check_encoding(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) >= 2]
    except (OSError, UnicodeError, csv.Error) as error:
        raise unreadable(path, error) from error
    return {row[0].strip(): row[1].strip() for row in rows if row[0].strip() != "LabelName"}


def _told_apart(names: dict[str, str]) -> dict[str, str]:
    """Different codes of one name, such as Squash the sport and the plant, get the code behind."""
    count = Counter(fold(name) for name in names.values())
    return {
        code: name if count[fold(name)] == 1 else f"{name} ({code})" for code, name in names.items()
    }


def _csv_files(folder: Path) -> list[Path]:
    patterns = ["*.csv", *("/".join(["*"] * depth) + "/*.csv" for depth in range(1, _DEPTH + 1))]
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    return sorted(path for path in found if path.stat().st_size)
