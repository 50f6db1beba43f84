"""Cleaned tags in the form that the tags came in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_array

from labelsieve.data.corrupt import whole_folder
from labelsieve.data.tags.batches import read_text
from labelsieve.data.tags.class_files import NUS, VOC, image_list
from labelsieve.data.tags.coco import load_coco
from labelsieve.data.tags.write_tables import rewrite_table
from labelsieve.errors import DataError
from labelsieve.files import atomic, write_csv
from labelsieve.records.tag_set import TagSet


def write_tags(tag_set: TagSet, cleaned: csr_array, path: str | Path) -> tuple[str, ...]:
    """Write cleaned tags in the form of the source, whose files are read again for all else.

    A source of one file makes one file, of several files a folder with files of the same names.
    Image bytes are not copied: their column holds the ids. What is not about tags stays as it is.

    Args:
        tag_set: as it was read.
        cleaned: (N, C) the pairs to keep or add, each with its probability.
        path: a file or a folder that does not exist yet; a file is replaced.

    Returns:
        sentences on what the form cannot hold.

    Raises:
        DataError: the source's files are there no more, or `cleaned` is of another set.
        RunError: nothing can be written there.
    """
    path = Path(path)
    if cleaned.shape != tag_set.asserted.shape:
        raise DataError(
            f"cleaned tags of {cleaned.shape[0]} images and {cleaned.shape[1]} tags; expected "
            f"{len(tag_set)} and {tag_set.n_tags} of {tag_set.source}. Use those of this set."
        )
    kept = csr_array(cleaned)
    kept.eliminate_zeros()
    kept.sort_indices()
    family = tag_set.form.family
    if family in ("lists", "multi-hot", "long", "open-images"):
        return _write_table(tag_set, kept, path)
    if family == "coco":
        return _write_coco(tag_set, kept, path)
    if family == "image-set":
        return _write_list_table(tag_set, kept, path)
    if family == "tag-lines":
        return _write_tag_lines(tag_set, kept, path)
    writers = {"voc": _voc, "nus-wide": _nus_wide, "per-class": _lists, "sidecar": _sidecars}
    with whole_folder(path) as folder:
        return writers[family](tag_set, kept, folder)


def _write_table(tag_set: TagSet, kept: csr_array, path: Path) -> tuple[str, ...]:
    files = [Path(file) for file in tag_set.form.files]
    if len(files) == 1:
        with atomic(path) as partial:
            return rewrite_table(tag_set, kept, files, [partial])
    with whole_folder(path) as folder:
        return rewrite_table(tag_set, kept, files, [folder / name for name in _names(files)])


def _names(files: list[Path]) -> list[str]:
    """Names of files in one folder; those of train/ and test/ that are equal are told apart."""
    plain = [file.name for file in files]
    if len(set(plain)) == len(plain):
        return plain
    return [f"{file.parent.name}-{file.name}" for file in files]


def _write_list_table(tag_set: TagSet, kept: csr_array, path: Path) -> tuple[str, ...]:
    names = pa.array(tag_set.tag_names, pa.string()).take(pa.array(kept.indices))
    lists = pa.ListArray.from_arrays(kept.indptr.astype(np.int32), names)
    table = pa.table({"image": pa.array(tag_set.ids, pa.string()), "labels": lists})
    if path.suffix.lower() == ".csv":
        write_csv(table, path)
    else:
        with atomic(path) as partial:
            pq.write_table(table, partial)
    return ()


def _write_coco(tag_set: TagSet, kept: csr_array, path: Path) -> tuple[str, ...]:
    """Annotations of pairs that go are left out; none is made up for pairs that come."""
    about = load_coco(Path(tag_set.form.files[0]), whole=True)
    row = {name: r for r, name in enumerate(tag_set.ids)}
    row_of = {each["id"]: row[str(each["file_name"])] for each in about["images"]}
    column = {name: c for c, name in enumerate(tag_set.tag_names)}
    renamed = dict(tag_set.form.renamed)
    names = {each["id"]: str(each["name"]) for each in about["categories"]}
    column_of = {number: column[renamed.get(name, name)] for number, name in names.items()}
    pairs = set(zip(*(part.tolist() for part in kept.nonzero()), strict=True))
    stays, written = [], set()
    for each in about["annotations"]:
        pair = (row_of.get(each["image_id"]), column_of.get(each["category_id"]))
        if pair in pairs:
            stays.append(each)
            written.add(pair)
    about["annotations"] = stays
    with atomic(path) as partial:
        partial.write_text(json.dumps(about), encoding="utf-8")
    missing = len(pairs) - len(written)
    if not missing:
        return ()
    return (f"{missing:,} pairs have no box, so no annotation was written for them.",)


def _write_tag_lines(tag_set: TagSet, kept: csr_array, path: Path) -> tuple[str, ...]:
    spaced = (
        (name, [tag.replace(" ", "_") for tag in tags]) for name, tags in _rows(tag_set, kept)
    )
    lines = (f"{name} {' '.join(tags)}".rstrip() for name, tags in spaced)
    with atomic(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return ()


def _voc(tag_set: TagSet, kept: csr_array, folder: Path) -> tuple[str, ...]:
    """A 1 that goes becomes -1; another line becomes 1 if its pair comes."""
    holds = _membership(tag_set, kept)
    written = 0
    for file in map(Path, tag_set.form.files):
        match = VOC.fullmatch(file.stem)
        tag = match["tag"] if match is not None else file.stem
        lines = []
        for line in read_text(file).splitlines():
            name, sign = line.split() if line.strip() else ("", "")
            if name:
                right = holds(name, tag)
                written += right
                lines.append(f"{name} {'1' if right else '-1' if sign == '1' else sign:>2}\n")
        (folder / file.name).write_text("".join(lines), encoding="utf-8")
    return ()


def _nus_wide(tag_set: TagSet, kept: csr_array, folder: Path) -> tuple[str, ...]:
    holds = _membership(tag_set, kept)
    for file in map(Path, tag_set.form.files):
        match = NUS.fullmatch(file.stem)
        if match is None:
            raise DataError(f"{file}: no longer a file of NUS-WIDE. Put the source back.")
        names = read_text(image_list(file.parent, match["split"] or "")).splitlines()
        plain = [name.strip().replace("\\", "/") for name in names if name.strip()]
        lines = [f"{int(holds(name, match['tag']))}\n" for name in plain]
        (folder / file.name).write_text("".join(lines), encoding="utf-8")
    return ()


def _lists(tag_set: TagSet, kept: csr_array, folder: Path) -> tuple[str, ...]:
    """A file a tag; lists of confirmed images are left out, as they are not assertions."""
    by_tag = csr_array(kept.T)
    for c, tag in enumerate(tag_set.tag_names):
        rows = by_tag.indices[by_tag.indptr[c] : by_tag.indptr[c + 1]]
        lines = [f"{tag_set.ids[row]}\n" for row in sorted(rows.tolist())]
        (folder / f"{tag.replace(os.sep, '_')}.txt").write_text("".join(lines), encoding="utf-8")
    return ()


def _sidecars(tag_set: TagSet, kept: csr_array, folder: Path) -> tuple[str, ...]:
    separator = {"": " ", "\n": "\n"}.get(tag_set.form.separator, f"{tag_set.form.separator} ")
    for name, tags in _rows(tag_set, kept):
        path = (folder / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(separator.join(tags) + "\n", encoding="utf-8")
    return ()


def _rows(tag_set: TagSet, kept: csr_array) -> Iterator[tuple[str, list[str]]]:
    for row, name in enumerate(tag_set.ids):
        columns = kept.indices[kept.indptr[row] : kept.indptr[row + 1]].tolist()
        yield name, [tag_set.tag_names[c] for c in columns]


def _membership(tag_set: TagSet, kept: csr_array) -> Callable[[str, str], bool]:
    row = {name: r for r, name in enumerate(tag_set.ids)}
    column = {name: c for c, name in enumerate(tag_set.tag_names)}
    renamed = dict(tag_set.form.renamed)
    pairs = set(zip(*(part.tolist() for part in kept.nonzero()), strict=True))
    return lambda name, tag: (row[name], column[renamed.get(tag, tag)]) in pairs
