"""Images that are files in folders: the first-level folders are the classes, if there are any."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from labelsieve.data.labels import described
from labelsieve.data.sniff import HEAD_SIZE, IMAGE_SUFFIXES, looks_like_image
from labelsieve.errors import DataError
from labelsieve.records import ImageSet, Places

_SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})
_SYSTEM = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"}
)


def read_folder(folder: Path, source: str) -> ImageSet | None:
    """All images below a folder, sorted by path; None where there is not one.

    A file counts as an image by its suffix, in any case, without a suffix, or by its first
    bytes. Hidden files and those that systems leave behind do not count. Links are followed.

    Raises:
        DataError: images lie beside folders of images, the folders are splits, or one of them
            cannot be listed.
    """
    top = sorted(_listed(folder, source), key=lambda entry: os.fsencode(entry.name))
    loose = [e for e in top if not _is_folder(e) and _is_image(e)]
    names: list[str] = []
    paths: list[str] = []
    classes: list[str] = []
    root = os.path.abspath(folder)
    for entry in top:
        if _is_folder(entry):
            inner = sorted(_walk(entry.path, source, _visited(folder)), key=os.fsencode)
            paths += [os.path.abspath(path) for path in inner]
            names += [_readable(os.path.relpath(path, folder)) for path in inner]
            classes += [_readable(entry.name)] * len(inner)
    if classes:
        # A README without a suffix is no image where the classes are folders.
        loose = [e for e in loose if _suffix(e.name) in IMAGE_SUFFIXES or _begins_as_image(e.path)]
        _check_classes(source, sorted(set(classes)), loose)
    else:
        paths = [os.path.join(root, entry.name) for entry in loose]
        names = [_readable(entry.name) for entry in loose]
    if not paths:
        return None
    said = described(source, pa.table({"label": pa.array(classes)}), "label", None)
    return ImageSet(
        source=source,
        ids=tuple(names),
        places=whole_files(paths),
        class_names=said.class_names,
        labels=said.labels if classes else None,
    )


def whole_files(paths: list[str]) -> Places:
    """Places of images that are one file each; a path may occur more than once."""
    index = {path: i for i, path in enumerate(dict.fromkeys(paths))}
    zeros = np.zeros(len(paths), np.int64)
    file = np.array([index[path] for path in paths], np.int32)
    return Places("file", tuple(index), file, start=zeros, size=zeros)


def what_is_there(folder: Path) -> str:
    """The files below a folder that are no images, counted by suffix, for a message."""
    count: Counter[str] = Counter()
    for _, _, names in os.walk(folder):
        count.update(_suffix(name) or "without a suffix" for name in names)
    if not count:
        return "it is empty"
    listed = ", ".join(f"{n} {suffix}" for suffix, n in sorted(count.most_common(5)))
    return f"it holds {count.total()} files ({listed})"


def _check_classes(source: str, classes: list[str], loose: list[os.DirEntry[str]]) -> None:
    if loose:
        raise DataError(
            f"{source}: {len(loose)} images, such as {_readable(loose[0].name)!r}, lie beside "
            f"{len(classes)} folders with images, such as {classes[0]!r}. Expected either folders, "
            "which are the classes, or images without labels. Move the images or the folders."
        )
    if len(classes) > 1 and all(name.lower() in _SPLITS for name in classes):
        each = " or ".join(os.path.join(source, name) for name in classes)
        raise DataError(
            f"{source}: its folders {', '.join(classes)} look like splits, not like classes. "
            f"Name one of them: {each}."
        )


def _walk(folder: str, source: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Paths of the images below a folder; a link to a folder above ends there, not in a circle."""
    here = _visited(folder)
    if here <= above:
        return
    for entry in _listed(folder, source):
        if _is_folder(entry):
            yield from _walk(entry.path, source, above | here)
        elif _is_image(entry):
            yield entry.path


def _visited(folder: str | Path) -> frozenset[tuple[int, int]]:
    found = os.stat(folder)
    return frozenset({(found.st_dev, found.st_ino)})


def _listed(folder: str | Path, source: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if e.name[0] != "." and e.name.lower() not in _SYSTEM]
    except OSError as error:
        raise DataError(
            f"{source}: the folder {_readable(os.fspath(folder))} cannot be listed: "
            f"{error.strerror}. Make it readable, or move it away."
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    suffix = _suffix(entry.name)
    if suffix in IMAGE_SUFFIXES or not suffix:
        return entry.is_symlink() or entry.is_file()  # a link to nothing is reported as broken
    return entry.is_file() and _begins_as_image(entry.path)


def _begins_as_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return looks_like_image(file.read(HEAD_SIZE))
    except OSError:
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _readable(path: str) -> str:
    r"""A path as an id: with slashes, and with \xNN for bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace(os.sep, "/")
