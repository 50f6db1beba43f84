"""Images under the names they were given: links in folders, or a table. Images are only read."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from labelsieve.data.places import Reader, reading_order
from labelsieve.data.sniff import HEAD_SIZE, IMAGE_SUFFIXES, image_format
from labelsieve.errors import DataError, RunError
from labelsieve.files import cannot_write, write_csv
from labelsieve.records import ImageSet

Progress = Callable[[int, int], None]  # images done, images in all

# Suffixes of a format, the usual one first.
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k"),
    "ICO": (".ico",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
}
_UNSAFE = re.compile(r'[<>:"|?*\\/\x00-\x1f\x7f\ud800-\udfff]')  # on Windows; / and \0 everywhere
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)  # by Windows
_MOST_BYTES = 200  # of one name; file systems allow 255, and a clash adds some


def export_links(
    images: ImageSet,
    labels: Sequence[str | None],
    out: Path,
    *,
    copy: bool = False,
    progress: Progress | None = None,
) -> None:
    """Make a folder for each label, with a link to each of its images: OUT/LABEL/ID.

    Images that lie in tables or tars have no file to link to and are written as files. Characters
    that some file system refuses become `_`; where two names become one, or differ only in case,
    the later gets a number. A suffix that is not one of the image's format gets the right one after
    it. The folder appears under its name when it is whole.

    Args:
        images: the set; it is only read.
        labels: (N,) the name of each image's folder; None leaves it out.
        out: a folder that does not exist, or is empty.
        copy: copy the files in place of linking to them.
        progress: told images done and images in all.

    Raises:
        DataError: an image's bytes cannot be read.
        RunError: the folder is not empty, or cannot be written, or links cannot be made here.
    """
    _check_outside(out, images.source)
    folders, taken, made = _Names(), _Names(), set[Path]()
    names = dict.fromkeys(label for label in labels if label is not None)
    folder_of = {name: folders.free((safe_name(name),))[0] for name in names}
    kept = [row for row, label in enumerate(labels) if label is not None]
    with _whole_folder(out) as folder:
        put = _putter(images, copy=copy, out=out)
        for done, row in enumerate(_order(images, kept), start=1):
            write, suffixes = put(row)
            where = (folder_of[labels[row]], *_safe_parts(images.ids[row]))  # type: ignore[index]
            path = folder.joinpath(*taken.free(_with_suffix(where, suffixes)))
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            write(path)
            if progress is not None:
                progress(done, len(kept))


def export_csv(
    image: Sequence[str],
    labels: Sequence[str | None],
    probabilities: NDArray[np.float32],
    out: Path,
) -> None:
    """Write a table of `image`, `label` and `probability`, one row an image that has a label.

    Args:
        image: (N,) ids.
        labels: (N,) None leaves an image out.
        probabilities: (N,) that the label is right, in [0, 1]; NaN where that is not known.
        out: a file that does not exist.

    Raises:
        RunError: the file exists, or cannot be written.
    """
    if os.path.lexists(out):
        raise RunError(f"{out}: there already, and not overwritten. Choose another --out.")
    rows = [row for row, label in enumerate(labels) if label is not None]
    shown = probabilities[rows].astype(np.float32)
    table = pa.table(
        {
            "image": pa.array([image[row] for row in rows], pa.string()),
            "label": pa.array([labels[row] for row in rows], pa.string()),
            "probability": pa.array(shown, mask=np.isnan(shown)),
        }
    )
    write_csv(table, out)


def safe_name(name: str) -> str:
    r"""A name that every file system takes, and that hides nothing.

    Example:
        >>> safe_name("cats: big/small?"), safe_name("con.txt"), safe_name(" .hidden. ")
        ('cats_ big_small_', '_con.txt', '_hidden')
    """
    text = _UNSAFE.sub("_", unicodedata.normalize("NFC", name)).strip().rstrip(". ")
    if text.startswith("."):  # hidden, or the folder above
        text = "_" + text.lstrip(".")
    if not text:
        return "_"
    if _RESERVED.fullmatch(text.partition(".")[0].rstrip()):
        text = "_" + text
    stem, suffix = _split(text)
    return (_shortened(stem, _MOST_BYTES - len(suffix.encode())) + suffix).rstrip(". ")


class _Names:
    """Paths that are given out once, also where case does not count or a folder is in the way."""

    def __init__(self) -> None:
        self._moved: dict[tuple[str, ...], tuple[str, ...]] = {}  # folders where a file is
        self._files: set[tuple[str, ...]] = set()
        self._folders: set[tuple[str, ...]] = set()
        self._next: dict[tuple[str, ...], int] = {}  # number to try for a path that is taken

    def free(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """The path itself, or one with a number before its suffix."""
        for depth in range(1, len(parts)):
            if _folded(parts[:depth]) in self._files:  # a file has a folder's name: "a" and "a/b"
                key = _folded(parts[:depth])
                if key not in self._moved:
                    self._moved[key] = self._numbered(parts[:depth])
                return self.free((*self._moved[key], *parts[depth:]))
        free = parts if self._is_free(parts) else self._numbered(parts)
        folded = _folded(free)
        self._files.add(folded)
        self._folders.update(folded[:depth] for depth in range(1, len(folded)))
        return free

    def _numbered(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        key = _folded(parts)
        stem, suffix = _split(parts[-1])
        number = self._next.get(key, 2)
        while not self._is_free(found := (*parts[:-1], f"{stem}-{number}{suffix}")):
            number += 1
        self._next[key] = number + 1
        return found

    def _is_free(self, parts: tuple[str, ...]) -> bool:
        folded = _folded(parts)
        return folded not in self._files and folded not in self._folders


def _folded(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", part.casefold()) for part in parts)


def _safe_parts(name: str) -> tuple[str, ...]:
    """An id as a path below a folder, whatever it is: absolute, with .. or with a drive."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return tuple(safe_name(part) for part in parts) or ("_",)


def _with_suffix(parts: tuple[str, ...], suffixes: Sequence[str]) -> tuple[str, ...]:
    if not suffixes or parts[-1].lower().endswith(tuple(suffixes)):
        return parts
    return (*parts[:-1], parts[-1] + suffixes[0])


def _suffixes_like(source: str) -> tuple[str, ...]:
    """The suffix of a file, if it is one of images: an id need not end with it."""
    suffix = os.path.splitext(source)[1].lower()
    return (suffix,) if suffix in IMAGE_SUFFIXES else ()


def _split(name: str) -> tuple[str, str]:
    """Stem and suffix; a long "suffix" is none."""
    stem, suffix = os.path.splitext(name)
    return (stem, suffix) if len(suffix.encode()) <= 16 else (name, "")


def _shortened(text: str, n_bytes: int) -> str:
    return text.encode()[:n_bytes].decode("utf-8", "ignore")


def _order(images: ImageSet, kept: Sequence[int]) -> list[int]:
    """The rows in the order that reads tables once; files in that of the set."""
    if images.places.kind == "file":
        return list(kept)
    rows = np.array(kept, np.int64)
    return [int(row) for row in rows[reading_order(images.places.take(rows))]]


_Put = Callable[[int], tuple[Callable[[Path], object], Sequence[str]]]


def _putter(images: ImageSet, *, copy: bool, out: Path) -> _Put:
    """For a row: what makes its file, and the suffixes of which it should have one."""
    places, ids = images.places, images.ids

    def file(row: int) -> tuple[Callable[[Path], object], Sequence[str]]:
        source = places.files[int(places.file[row])]
        if not os.path.exists(source):
            raise DataError(f"{ids[row]}: no such file any more: {source}. Put it back.")
        if copy:
            return partial(_copy, source, ids[row]), _suffixes_like(source)
        return partial(_link, source, out), _suffixes_like(source)

    def data(row: int) -> tuple[Callable[[Path], object], Sequence[str]]:
        found = _bytes(reader, row, ids[row])
        suffixes = _SUFFIXES.get(image_format(found[:HEAD_SIZE]) or "", ())
        return partial(Path.write_bytes, data=found), suffixes

    reader = Reader(places)
    return file if places.kind == "file" else data


def _bytes(reader: Reader, row: int, name: str) -> bytes:
    try:
        return reader.read(row)
    except DataError as error:
        raise DataError(f"{name}: cannot be read: {error}.") from error


def _link(source: str, out: Path, path: Path) -> None:
    try:
        path.symlink_to(source)
    except (NotImplementedError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise RunError(
            f"{out}: links cannot be made there: {why}. Use --copy to copy the images."
        ) from error


def _copy(source: str, name: str, path: Path) -> None:
    try:
        shutil.copyfile(source, path)
    except OSError as error:
        if error.filename == source:
            raise DataError(f"{name}: cannot be read: {error.strerror}: {source}.") from error
        raise


def _check_outside(out: Path, source: str) -> None:
    """Refuse a folder among the images: they would be read a second time with the next run."""
    if os.path.isdir(source) and Path(os.path.realpath(out)).is_relative_to(
        os.path.realpath(source)
    ):
        raise RunError(f"{out}: lies among the images, in {source}. Choose another --out.")


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill beside `out`, which takes its place on success and is removed on failure."""
    if os.path.lexists(out) and not out.is_dir():
        raise RunError(f"{out}: a file. Choose another --out: a folder that is not there yet.")
    if out.is_dir() and (present := sorted(entry.name for entry in out.iterdir())):
        raise RunError(
            f"{out}: not empty (it holds {', '.join(present[:3])}). "
            "Choose another --out, or empty it yourself."
        )
    whole = Path(os.path.abspath(out))
    folder = whole.with_name(f".partial-{whole.name}")
    try:
        if folder.exists():
            shutil.rmtree(folder)  # left by an export that was killed
        folder.mkdir(parents=True)
        yield folder
        if whole.is_dir():
            whole.rmdir()  # Windows renames onto nothing only
        folder.rename(whole)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise cannot_write(out, error) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
