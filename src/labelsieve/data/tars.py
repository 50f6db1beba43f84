"""WebDataset tars: indexed once with the standard library, then read by position."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from labelsieve.data.labels import described, label_column
from labelsieve.data.sniff import IMAGE_SUFFIXES
from labelsieve.errors import DataError
from labelsieve.records import ImageSet, Places

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def read_tars(tars: list[Path], source: str, label: str | None, truth: str | None) -> ImageSet:
    """The samples of some tars, in order.

    A sample is the members that share a name up to its first dot; its image is the member with an
    image suffix. Its `.json` and its `.cls` are the columns that `label` and `truth` may name;
    without `label`, the class is `.cls`, else `label` in `.json`.

    Raises:
        DataError: a tar cannot be read, or there is no image in any.
    """
    columns: set[str] = set()
    keep = frozenset({"cls", "label", "labels", label, truth} - {None})
    samples = [s for i, tar in enumerate(tars) for s in _samples(tar, i, keep, columns)]
    if not samples:
        raise DataError(
            f"{source}: no image in {_tars(len(tars))}. Expected members such as 0001.jpg and "
            "0001.cls or 0001.json."
        )
    if label is None and "cls" in columns:
        label = "cls"
    label = label_column(source, sorted(columns), label, truth)
    wanted = {name for name in (label, truth) if name is not None}
    try:
        table = pa.table({name: [s.fields.get(name) for s in samples] for name in wanted})
    except pa.ArrowException as error:
        raise DataError(
            f"{source}: the samples' {' and '.join(sorted(wanted))} are not all of one type: "
            f"{error}. Write all as text, or all as integers."
        ) from error
    said = described(source, table, label, truth)
    return ImageSet(
        source=source,
        ids=_ids([s.key for s in samples], [tars[s.tar] for s in samples]),
        places=Places(
            kind="tar",
            files=tuple(os.path.abspath(tar) for tar in tars),
            file=np.array([s.tar for s in samples], np.int32),
            start=np.array([s.start for s in samples], np.int64),
            size=np.array([s.size for s in samples], np.int64),
        ),
        class_names=said.class_names,
        labels=said.labels,
        tags=said.tags,
        truth=said.truth,
    )


def expand_braces(pattern: str) -> list[str]:
    """All names that a pattern stands for.

    Example:
        >>> expand_braces("s-{08..10}.tar"), expand_braces("{a,b}.tar")
        (['s-08.tar', 's-09.tar', 's-10.tar'], ['a.tar', 'b.tar'])
    """
    parts = _BRACES.split(pattern)
    choices = [_alternatives(part) if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(choice) for choice in product(*choices)]


def has_braces(pattern: str) -> bool:
    """Whether a path stands for several."""
    return _BRACES.search(pattern) is not None


def _alternatives(inside: str) -> list[str]:
    found = _RANGE.fullmatch(inside)
    if found is None:
        return inside.split(",")
    first, last = found.groups()
    return [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]


class _Sample:
    """One image of a tar and what lies beside it."""

    __slots__ = ("fields", "key", "size", "start", "suffix", "tar")

    def __init__(self, key: str, tar: int) -> None:
        self.key, self.tar = key, tar
        self.suffix, self.start, self.size = "", 0, 0
        self.fields: dict[str, Any] = {}


def _samples(
    tar: Path, index: int, keep: frozenset[str | None], columns: set[str]
) -> Iterator[_Sample]:
    """The samples of one tar that have an image, with some of their fields; notes all columns."""
    found: dict[str, _Sample] = {}
    try:
        with tarfile.open(tar, "r:") as archive, open(tar, "rb") as file:
            for member in archive:
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                stem, _, suffix = name.partition(".")
                if not member.isreg() or member.issparse() or not stem:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                sample = found.setdefault(key, _Sample(key, index))
                fields = _add(sample, suffix.lower(), member, file)
                columns.update(fields)
                kept = {name: value for name, value in fields.items() if name in keep}
                sample.fields = kept | sample.fields if suffix == "json" else sample.fields | kept
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every header of a large tar
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{tar}: cannot be read as a tar: {error}. Is it complete, and not compressed?"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{tar}: the .json or .cls of {key!r} cannot be read: {error}.") from error
    yield from (sample for sample in found.values() if sample.suffix)


def _add(sample: _Sample, suffix: str, member: tarfile.TarInfo, file: Any) -> dict[str, Any]:
    """Note where the image is, or return what a .cls or a .json says."""
    if "." + suffix.rpartition(".")[2] in IMAGE_SUFFIXES:
        # "jpg" is the image, "mask.png" only where there is no plain one; of two "jpg" the later
        # replaces the earlier, as in any tar
        if not sample.suffix or "." in sample.suffix or suffix == sample.suffix:
            sample.suffix, sample.start, sample.size = suffix, member.offset_data, member.size
        return {}
    if suffix not in ("cls", "json"):
        return {}
    file.seek(member.offset_data)
    text = file.read(member.size).decode("utf-8")
    if suffix == "cls":
        return {"cls": text.strip()}
    fields = json.loads(text)
    return fields if isinstance(fields, dict) else {}


def _ids(keys: list[str], tars: list[Path]) -> tuple[str, ...]:
    """The keys, with the tar's name before them where two tars use the same key."""
    if len(set(keys)) == len(keys):
        return tuple(keys)
    return tuple(f"{tar.stem}/{key}" for key, tar in zip(keys, tars, strict=True))


def _tars(n: int) -> str:
    return "this tar" if n == 1 else f"these {n} tars"
