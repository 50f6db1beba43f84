"""Published training lists of noisy retrieval sets: which label an image was given there.

The lists of PRISM (Liu et al. 2021; `datalist/*.csv` of its repository) name files of the authors'
machine. Here the labels are found for the images of a set by their names, and what cannot be found
for certain is said, never guessed. What to know of those lists:

- labels are numbers, those of CARS and CUB from 1 on in the order of the folders, those of CARS-98N
  in the order of the folders' numbers *as text* (folder 10 is label 3), those of small cluster
  noise a space of their own. A class is called by its folder where there is one that carries it,
  and by its number else;
- in two lists of CUB some images have the label 101, which is no class at all;
- CARS and CUB were renamed by merging folders: where the list has both 00773.jpg and 00773_2.jpg of
  a class, a file 00773.jpg may be either;
- 769 files of CARS-98N are in several classes. Their names are hashes of their content, so at most
  one of these labels is right: noise that is certain;
- .gif files are listed, and were never downloaded.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.records import ImageSet

_HASH = re.compile(r"[0-9a-f]{32}(?![0-9a-f])")  # what a name that is a hash of content begins with
_NUMBERED = re.compile(r"^\d+[._]")  # 001.Black_footed_Albatross
_SHARE = 0.1  # of a folder, from which on its most frequent label is meant to be its class

_AGREE = 0.1  # of the images found by name, from which on their folders are meant to agree, too


@dataclass(frozen=True)
class RetrievalList:
    """A published list: paths of images, each with the label it was given."""

    source: str
    paths: tuple[str, ...]  # (L,) as listed
    labels: NDArray[np.int64]  # (L,) codes of class_names
    class_names: tuple[str, ...]  # (C,) folders, or numbers of the list where no folder is meant
    numbers: NDArray[np.int64]  # (C,) the list's own numbers
    wrong: NDArray[np.bool_] | None = None  # (L,) not in the list of right labels, where given

    @property
    def nameless(self) -> tuple[str, ...]:
        """Classes that no folder stands for, where folders stand for most: 101 of CUB."""
        folders = {_folder(path) for path in self.paths}
        found = tuple(name for name in self.class_names if name not in folders)
        return found if 2 * len(found) < len(self.class_names) else ()

    @property
    def contradicting(self) -> tuple[str, ...]:
        """File names that say what is in the file, and that are listed under several classes."""
        classes: defaultdict[str, set[int]] = defaultdict(set)
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            name = path.rpartition("/")[2]
            if _HASH.match(name):
                classes[name].add(label)
        return tuple(sorted(name for name, found in classes.items() if len(found) > 1))


@dataclass(frozen=True)
class Listed:
    """Images with the labels of a list, and what of either was left over."""

    images: ImageSet  # labels and class names are those of the list; -1 where none is certain
    entry: NDArray[np.int64]  # (N,) place in the list, -1 where none is certain
    unlisted: tuple[str, ...]  # ids that the list does not have
    ambiguous: tuple[str, ...]  # ids that several entries with different labels may mean
    contradicting: tuple[str, ...]  # ids of files that are listed under several classes
    missing: tuple[str, ...]  # listed paths of which there is no image, but .gif
    skipped: tuple[str, ...]  # listed .gif files of which there is no image
    n_parts: int  # of paths that were compared, from the end: 1 is the name alone
    nameless: tuple[str, ...] = ()  # classes that are none, such as 101 of CUB

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should be known before these labels are used, in plain sentences."""
        said = (
            (self.unlisted, "images are not in the list and have no label"),
            (self.ambiguous, "images may be several entries of the list with different labels, "
                             "and have none"),
            (self.missing, "entries of the list have no image"),
            (self.skipped, "entries of the list are .gif files that were never downloaded"),
            (self.contradicting, "images are listed under several classes: all but one of their "
                                 "labels are certainly wrong"),
        )  # fmt: skip
        warnings = [f"{len(names):,} {what}: {_some(names)}." for names, what in said if names]
        labels = self.images.labels
        for name in self.nameless if labels is not None else ():
            n = np.count_nonzero(labels == self.images.class_names.index(name))
            warnings.append(f"{n:,} images have the label {name}, which no folder stands for.")
        return tuple(warnings)


def read_retrieval_list(path: Path, *, right: Path | None = None) -> RetrievalList:
    """Read a list of lines `path,label`, without a header.

    Args:
        path: such as CARS_0.5noised_train.csv.
        right: the list of those of its entries whose labels are right, such as
            CARS_0.5noised_cleaned_train.csv; what is not in it is wrong.

    Raises:
        DataError: a list cannot be read, is empty, or has a line of another form.
    """
    paths, numbers = _read(path)
    name_of = _class_names(paths, numbers)
    classes = sorted(name_of, key=lambda number: name_of[number])
    code = {number: c for c, number in enumerate(classes)}
    wrong = None
    if right is not None:
        kept = set(zip(*_read(right), strict=True))
        entries = zip(paths, numbers, strict=True)
        wrong = np.array([entry not in kept for entry in entries])
    return RetrievalList(
        source=str(path),
        paths=tuple(paths),
        labels=np.array([code[number] for number in numbers], np.int64),
        class_names=tuple(name_of[number] for number in classes),
        numbers=np.array(classes, np.int64),
        wrong=wrong,
    )


def label_by_list(
    images: ImageSet,
    listed: RetrievalList,
    *,
    names: Sequence[str] | None = None,
    n_parts: int | None = None,
) -> Listed:
    """Give images the labels of a published list, found by their names.

    As many parts of the paths are compared, from the end, as a tenth of the images agree in that
    are found by their name alone: the rest may be in no list. Of folders only letters and digits
    count, without a number in front: `001.Black_footed_Albatross` is `Black footed Albatross`. An
    image that may be several entries with different labels gets none.

    Args:
        images: what to label; labels that it has are replaced.
        listed: from `read_retrieval_list`.
        names: (N,) what the images are called in the list; by default their ids.
        n_parts: of the paths to compare, from the end; 1 is the name alone.

    Raises:
        DataError: no image is in the list.
    """
    called = list(images.ids if names is None else names)
    n_parts = _n_parts(called, listed.paths) if n_parts is None else n_parts
    entries: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, path in enumerate(listed.paths):
        entries[_key(path, n_parts)].append(row)
    keys = [_key(name, n_parts) for name in called]
    if not any(key in entries for key in keys):
        raise DataError(
            f"{images.source}: none of its {len(images)} images is in {listed.source}; its images "
            f"are called such as {_some(called)}, those of the list such as {_some(listed.paths)}."
        )
    there = set(keys)
    entry = np.full(len(images), -1, np.int64)
    ambiguous = []
    for row, key in enumerate(keys):
        twin = (*key[:-1], _renamed(key[-1]))
        meant = entries.get(key, []) + ([] if twin in there else entries.get(twin, []))
        if key not in entries:
            continue
        if len(set(listed.labels[meant].tolist())) > 1:
            ambiguous.append(images.ids[row])
        else:
            entry[row] = meant[0]
    hashes = {name.casefold() for name in listed.contradicting}
    lost = [path for path in listed.paths if _key(path, n_parts) not in there]
    return Listed(
        images=replace(
            images,
            labels=np.append(listed.labels, -1)[entry],  # -1, none, is the last
            class_names=listed.class_names,
            tags=None,
        ),
        entry=entry,
        unlisted=_ids(images, [key not in entries for key in keys]),
        ambiguous=tuple(ambiguous),
        contradicting=_ids(images, [key[-1] in hashes for key in keys]),
        missing=tuple(path for path in lost if not path.casefold().endswith(".gif")),
        skipped=tuple(path for path in lost if path.casefold().endswith(".gif")),
        n_parts=n_parts,
        nameless=listed.nameless,
    )


def _read(path: Path) -> tuple[list[str], list[int]]:
    """Paths and numbers of a list."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of images: {error}.") from error
    paths, numbers = [], []
    for n, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, comma, number = line.strip().rpartition(",")
        if not name or not comma or not number.isdecimal():
            raise DataError(
                f"{path}:{n}: {line[:80]!r}; expected a path, a comma and the number of a class, "
                "and no header."
            )
        paths.append(name)
        numbers.append(int(number))
    if not paths:
        raise DataError(f"{path}: lists no images. Expected lines of a path and a number.")
    return paths, numbers


def _folder(path: str) -> str:
    return path.rpartition("/")[0].rpartition("/")[2]


def _class_names(paths: Sequence[str], numbers: Sequence[int]) -> dict[int, str]:
    """The folder that carries each number, where each of the two is the other's most frequent.

    In SOP folders are kinds of products, and hold a thousand classes each: no class is called so.
    """
    pairs = Counter(zip(map(_folder, paths), numbers, strict=True))
    sizes = Counter(map(_folder, paths))
    number_of: dict[str, int] = {}
    folder_of: dict[int, str] = {}
    for (folder, number), n in pairs.most_common():
        if n >= _SHARE * sizes[folder]:
            number_of.setdefault(folder, number)
        folder_of.setdefault(number, folder)
    named = {n: f for n, f in folder_of.items() if f and number_of.get(f) == n}
    taken = set(named.values())
    return {
        number: named.get(number, str(number) if str(number) not in taken else f"label {number}")
        for number in set(numbers)
    }


def _key(path: str, n_parts: int) -> tuple[str, ...]:
    """The last parts of a path, as they are compared; fewer where there are fewer."""
    *folders, name = path.replace("\\", "/").split("/")[-n_parts:]
    plain = (re.sub(r"[\W_]+", " ", _NUMBERED.sub("", folder)).strip() for folder in folders)
    return (*(folder.casefold() for folder in plain), name.casefold())


def _n_parts(names: Sequence[str], paths: Sequence[str]) -> int:
    deepest = min(max(name.count("/") for name in each) for each in (names, paths)) + 1
    found = []
    for n_parts in range(1, deepest + 1):
        keys = {_key(path, n_parts) for path in paths}
        found.append(sum(_key(name, n_parts) in keys for name in names))
    return max(n for n, some in enumerate(found, start=1) if some >= _AGREE * found[0])


def _renamed(name: str) -> str:
    """What a file was called where another of its class had its name already."""
    stem, dot, kind = name.rpartition(".")
    return f"{stem}_2{dot}{kind}"


def _ids(images: ImageSet, which: Sequence[bool]) -> tuple[str, ...]:
    return tuple(name for name, yes in zip(images.ids, which, strict=True) if yes)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
