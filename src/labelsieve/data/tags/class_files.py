"""A text file a tag: Pascal VOC, NUS-WIDE and MIRFLICKR; and lines of an image and its tags."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from labelsieve.data.tags.batches import read_text
from labelsieve.data.tags.gather import Listed, Raw, Rows
from labelsieve.errors import DataError
from labelsieve.records.tag_set import Form

VOC = re.compile(r"(?P<tag>.+)_(?P<split>train|val|trainval|test)")
NUS = re.compile(r"Labels_(?P<tag>.+?)(_(?P<split>Train|Test))?")
_STRICT = "_r1"  # MIRFLICKR's lists of the images that a tag is relevant to
_NOT_LISTS = ("readme", "license", "licence")


def read_class_files(folder: Path) -> Raw | None:
    """A folder of text files that are lists of one of these kinds; None if they are not."""
    main = folder / "ImageSets" / "Main"
    if main.is_dir():
        raw = _read_voc(main, _texts(main))
        if raw is not None and (folder / "JPEGImages").is_dir():
            raw.folder = folder / "JPEGImages"
        return raw
    texts = _texts(folder)
    return _read_voc(folder, texts) or _read_nus_wide(folder, texts) or _read_lists(folder, texts)


def _texts(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*.txt") if not p.stem.casefold().startswith(_NOT_LISTS))


def _read_voc(folder: Path, texts: Sequence[Path]) -> Raw | None:
    """CLASS_SPLIT.txt with lines `image -1|0|1`: 0 is difficult, so unknown."""
    files = [(path, m) for path in texts if (m := VOC.fullmatch(path.stem))]
    files = [(path, m) for path, m in files if _ends_in_sign(path)]
    if not files:
        return None
    raw = Raw(Form("voc", tuple(str(path.resolve()) for path, _ in files)), folder=folder)
    difficult = set[tuple[int, int]]()
    for path, match in files:
        rows, columns, signs = _signed_lines(raw, path, match["tag"])
        raw.asserted.add(rows[signs == 1], columns[signs == 1])
        difficult |= set(zip(rows[signs == 0].tolist(), columns[signs == 0].tolist(), strict=True))
    splits = sorted({match["split"] for _, match in files})
    raw.notes.append(
        f"Pascal VOC: {len(files):,} files of {len(raw.tags):,} classes, of {', '.join(splits)}. "
        "1 is asserted; what is -1 or listed nowhere is not."
    )
    if difficult:
        raw.notes.append(f"{len(difficult):,} pairs are 0, difficult: unknown, not asserted.")
    return raw


def _ends_in_sign(path: Path) -> bool:
    line = next((line for line in read_text(path).splitlines() if line.strip()), "")
    parts = line.split()
    return len(parts) == 2 and parts[1] in ("-1", "0", "1")


def _signed_lines(raw: Raw, path: Path, tag: str) -> tuple[Rows, Rows, NDArray[np.int8]]:
    names, signs = [], []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or parts[1] not in ("-1", "0", "1"):
            raise DataError(
                f"{path}, line {number}: {line[:60]!r}; expected an image and -1, 0 or 1. Correct "
                "the line."
            )
        names.append(parts[0])
        signs.append(int(parts[1]))
    rows = raw.image_rows(pa.array(names, pa.string()))
    columns = np.full(len(rows), raw.tags.setdefault(tag, len(raw.tags)), np.int32)
    return rows, columns, np.array(signs, np.int8)


def _read_nus_wide(folder: Path, texts: Sequence[Path]) -> Raw | None:
    """Labels_CLASS.txt with 0 or 1 a line, in the order of an image list."""
    files = [(path, m) for path in texts if (m := NUS.fullmatch(path.stem))]
    if not files:
        return None
    raw = Raw(Form("nus-wide", tuple(str(path.resolve()) for path, _ in files)), folder=folder)
    lists: dict[str, Path] = {}
    for path, match in files:
        split = match["split"] or ""
        where = lists.setdefault(split, image_list(folder, split))
        names = _image_names(where)
        cells = read_text(path).split()
        if len(cells) != len(names) or not set(cells) <= {"0", "1"}:
            raise DataError(
                f"{path}: {len(cells):,} values for the {len(names):,} images of {where}; "
                "expected a 0 or 1 each. Name a folder with lists that belong together."
            )
        rows = raw.image_rows(pa.array(names, pa.string()))
        column = raw.tags.setdefault(match["tag"], len(raw.tags))
        chosen = rows[np.array(cells) == "1"]
        raw.asserted.add(chosen, np.full(len(chosen), column, np.int32))
    raw.notes.append(
        f"NUS-WIDE: {len(files):,} files of {len(raw.tags):,} concepts; images from "
        f"{', '.join(sorted(path.name for path in lists.values()))}."
    )
    return raw


def image_list(folder: Path, split: str) -> Path:
    """The file with the names of the images, in the order of the lines of Labels_*.txt.

    Raises:
        DataError: there is none.
    """
    name = f"{split}imagelist.txt".casefold()
    places = (
        folder,
        folder.parent,
        folder.parent / "ImageList",
        folder.parent.parent / "ImageList",
    )
    for place in places:
        for path in sorted(place.glob("*.txt")) if place.is_dir() else ():
            if path.name.casefold() == name:
                return path
    raise DataError(
        f"{folder}: Labels_*.txt without the list of their images, {split}Imagelist.txt, there, "
        "beside the folder, or in a folder ImageList beside it. Put it there."
    )


def _image_names(path: Path) -> list[str]:
    return [
        line.strip().replace("\\", "/") for line in read_text(path).splitlines() if line.strip()
    ]


def _read_lists(folder: Path, texts: Sequence[Path]) -> Raw | None:
    """TAG.txt with an image a line; TAG_r1.txt beside it lists those that people confirmed."""
    lists = {path: read_text(path).splitlines() for path in texts}
    if not lists or any(len(line.split()) > 1 for lines in lists.values() for line in lines):
        return None
    raw = Raw(Form("per-class", tuple(str(path.resolve()) for path in texts)), folder=folder)
    strict: defaultdict[str, list[str]] = defaultdict(list)
    wide = {path.stem for path in texts}
    for path, lines in lists.items():
        names = [line.strip() for line in lines if line.strip()]
        if path.stem.endswith(_STRICT) and path.stem.removesuffix(_STRICT) in wide:
            strict[path.stem.removesuffix(_STRICT)] = names
            continue
        rows = raw.image_rows(pa.array(names, pa.string()))
        column = raw.tags.setdefault(path.stem, len(raw.tags))
        raw.asserted.add(rows, np.full(len(rows), column, np.int32))
    raw.notes.append(
        f"{len(texts) - len(strict):,} files of {len(raw.tags):,} tags, each with the images that "
        "have it. Images that no file lists are unknown here."
    )
    if strict:
        _take_strict(raw, strict)
    return raw


def _take_strict(raw: Raw, strict: dict[str, list[str]]) -> None:
    """MIRFLICKR's second stage: of the images of TAG.txt those of TAG_r1.txt were confirmed."""
    listed = raw.listed = Listed()
    for tag, names in strict.items():
        rows = raw.image_rows(pa.array(names, pa.string()))
        listed.present.add(rows, np.full(len(rows), raw.tags[tag], np.int32))
    listed.looked_at.append(np.arange(len(raw.images), dtype=np.int32))
    raw.notes.append(
        f"{len(strict):,} tags have a list {_STRICT[1:]!r} of confirmed images: these are verified "
        "present, the tag's other images absent."
    )


def read_tag_lines(path: Path) -> Raw:
    """Lines of an image's name and its tags, with spaces between, as NUS-WIDE's All_Tags.txt.

    Raises:
        DataError: it cannot be read, or has no lines.
    """
    raw = Raw(Form("tag-lines", (str(path.resolve()),)), folder=path.parent)
    names, lengths, tags = [], [], []
    for line in read_text(path).splitlines():
        parts = line.split()
        if parts:
            names.append(parts[0])
            lengths.append(len(parts) - 1)
            tags += parts[1:]
    rows = np.repeat(raw.image_rows(pa.array(names, pa.string())), lengths)
    raw.asserted.add(rows, raw.tag_columns(pa.array(tags, pa.string())))
    raw.notes.append(f"{len(names):,} lines, each an image's name and its tags.")
    return raw
