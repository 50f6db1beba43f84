"""Where the files of tagged images are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from labelsieve.data.folders import whole_files
from labelsieve.data.sniff import IMAGE_SUFFIXES
from labelsieve.errors import DataError
from labelsieve.records import ImageSet

_LOOKED_AT = 100  # ids of which one must be a file


def beside_table(source: str, ids: Sequence[str], folder: Path) -> tuple[ImageSet | None, str]:
    """Images whose ids are paths, relative to a folder or absolute; none where ids are no paths.

    Returns:
        the images; what to say of them.
    """
    root = os.path.abspath(folder)
    paths = [os.path.normpath(os.path.join(root, each)) for each in ids]
    if not any(os.path.lexists(path) for path in paths[:_LOOKED_AT]):
        paths = [os.path.normpath(os.path.join(root, each.replace("\\", "/"))) for each in ids]
    if not any(os.path.lexists(path) for path in paths[:_LOOKED_AT]):
        return None, (
            f"No files of images: the first would be {paths[0]}. Name their folder with --images, "
            "or give features."
        )
    return ImageSet(source, tuple(ids), whole_files(paths)), ""


def in_folder(source: str, ids: Sequence[str], folder: Path) -> tuple[ImageSet, str]:
    """Images of a folder, found by path, by name, by name without suffix, or as im<ID>.jpg.

    A name that is in two folders below is found by its path only. An image that is not found stays
    in the set, and is reported as broken when it is read.

    Returns:
        the images; what to say of them.

    Raises:
        DataError: the folder is not there, or has none of them.
    """
    if not folder.is_dir():
        raise DataError(f"--images {folder}: no such folder. Name the one with the images' files.")
    known, n_files = _index(folder)
    paths, missing = [], []
    for each in ids:
        found = _found(known, each)
        if found is None:
            missing.append(each)
        paths.append(found or os.path.join(os.path.abspath(folder), each))
    if len(missing) == len(ids):
        raise DataError(
            f"--images {folder}: none of the {len(ids):,} images is among its {n_files:,} files; "
            f"the first is {ids[0]!r}. Files are found by path, name, or name without suffix."
        )
    note = f"{len(ids) - len(missing):,} of {len(ids):,} images have a file in {folder}."
    if missing:
        note += f" {len(missing):,} have none, such as {missing[0]!r}."
    unnamed = n_files - len(set(paths) & set(known.values()))
    if unnamed > 0:
        note += f" {unnamed:,} images of the folder are named nowhere and left out."
    return ImageSet(source, tuple(ids), whole_files(paths)), note


def _found(known: dict[str, str | None], name: str) -> str | None:
    plain = name.replace("\\", "/")
    last = plain.rpartition("/")[2]
    for key in (plain, last, os.path.splitext(last)[0], f"im{last}"):
        if known.get(key) is not None:
            return known[key]
    return None


def _index(folder: Path) -> tuple[dict[str, str | None], int]:
    """Path of each image by relative path, name and name without suffix; None if not unique."""
    root = os.path.abspath(folder)
    known: dict[str, str | None] = {}
    n_files = 0
    for where, _, names in os.walk(root, followlinks=True):
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in IMAGE_SUFFIXES:
                continue
            n_files += 1
            path = os.path.join(where, name)
            known[os.path.relpath(path, root).replace(os.sep, "/")] = path
            for key in {name, stem}:
                if "/" not in key:
                    known[key] = None if known.get(key, path) != path else path
    return known, n_files
