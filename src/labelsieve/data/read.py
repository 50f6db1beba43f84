"""What the user names becomes an ImageSet: a folder, a table, a data set folder or tars."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path

from labelsieve.data.folders import read_folder, what_is_there
from labelsieve.data.sniff import IMAGE_SUFFIXES
from labelsieve.data.tables import read_arrow, read_csv, read_parquet
from labelsieve.data.tars import expand_braces, has_braces, read_tars
from labelsieve.errors import DataError
from labelsieve.records import ImageSet

_FORMS = "a folder of images, a .csv, .tsv, .parquet or .tar file, or a folder of .parquet or .tar"


def read(source: str | Path, *, label: str | None = None, truth: str | None = None) -> ImageSet:
    """Find out what images there are and what is said of them, without decoding or copying any.

    The forms of a source, column by column, are in docs/formats.md. A file that turns out
    broken is part of the set: decoding it gives the reason.

    Args:
        source: a folder of images, with first-level folders as classes or flat; a CSV, TSV or
            Parquet file; a folder of Parquet shards; a data set folder of Hugging Face `datasets`;
            a tar, a folder of tars or a pattern such as shard-{000..009}.tar.
        label: the column of a table to take labels from; without it `label`, else `labels`.
        truth: the column of true labels, used for scoring only.

    Example:
        >>> import labelsieve as ls  # doctest: +SKIP
        >>> images = ls.read("photos/")  # doctest: +SKIP

    Raises:
        DataError: there is nothing to read, or it is not what was expected.
    """
    name = os.fspath(source)
    path = Path(name)
    if _are_shards(name):
        return read_tars(_shards(name), name, label, truth)
    check_there(source)
    if path.is_dir():
        return _read_directory(path, name, label, truth)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return read_csv(path, name, label, truth)
    if suffix in (".parquet", ".pq"):
        return read_parquet([path], name, label, truth)
    if suffix == ".tar":
        return read_tars([path], name, label, truth)
    found = "one image" if suffix in IMAGE_SUFFIXES else f"a file of another kind ({path.name})"
    raise DataError(f"{name}: {found}. Expected {_FORMS}.")


def check_there(source: str | Path) -> None:
    """Refuse what is neither a file nor a folder; what is in it is not looked at.

    Raises:
        DataError: there is nothing of the name.
    """
    name = os.fspath(source)
    if not _are_shards(name) and not Path(name).exists():
        raise DataError(f"{name}: no such file or folder. {_near(Path(name))}".rstrip())


def _are_shards(name: str) -> bool:
    """Whether a name is that of several tars, such as data-{000..009}.tar."""
    return not os.path.lexists(name) and has_braces(name)


def _read_directory(folder: Path, name: str, label: str | None, truth: str | None) -> ImageSet:
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        each = " or ".join(os.path.join(name, split) for split in sorted(splits))
        raise DataError(
            f"{name}: a Hugging Face data set with the splits {', '.join(sorted(splits))}. "
            f"Name one of them: {each}."
        )
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return read_arrow(arrow_files(folder), name, label, truth)
    images = read_folder(folder, name)
    if images is not None:
        for flag, column in (("--label", label), ("--truth", truth)):
            if column is not None:
                raise DataError(
                    f"{name}: a folder of images has no column {column!r} for {flag}. "
                    "Name a table with that column."
                )
        return images
    for suffix, reader in ((".parquet", read_parquet), (".tar", read_tars)):
        shards = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() == suffix and path.name[0] != "."
        )
        if shards:
            return reader(shards, name, label, truth)
    raise DataError(f"{name}: no images: {what_is_there(folder)}. Expected {_FORMS}.")


def arrow_files(folder: Path) -> list[Path]:
    """The files of a data set that `datasets` saved; read without that library."""
    state = folder / "state.json"
    try:
        about = json.loads(state.read_text(encoding="utf-8"))
        files = [folder / entry["filename"] for entry in about["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{state}: does not list the files of a data set: {error!r}.") from error
    if about.get("_indices_data_files"):
        raise DataError(
            f"{folder}: a Hugging Face data set saved as a selection of rows, by an old version. "
            "Load it with `datasets`, call flatten_indices(), and save it again."
        )
    return files


def _shards(pattern: str) -> list[Path]:
    paths = [Path(name) for name in expand_braces(pattern)]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise DataError(
            f"{pattern}: {len(missing)} of {len(paths)} files are not there, such as {missing[0]}. "
            "Name only those that are."
        )
    return paths


def _near(path: Path) -> str:
    """Names in the nearest folder that is there and that resemble what was asked for."""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    try:
        names = sorted(os.listdir(missing.parent))
    except OSError:
        return ""
    near = difflib.get_close_matches(missing.name, names, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(repr(str(missing.parent / name)) for name in near)}?"
    return f"The folder {str(missing.parent)!r} has no {missing.name!r}."
