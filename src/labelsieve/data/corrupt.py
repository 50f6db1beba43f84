"""A noisy copy of a set, written with its truth; the set itself is only read."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labelsieve.data import noise
from labelsieve.data.places import Reader
from labelsieve.errors import ConfigError, DataError, RunError, did_you_mean
from labelsieve.files import atomic, cannot_write
from labelsieve.records import ImageSet

Progress = Callable[[int, int], None]  # images done, images in all
Rows = NDArray[np.floating[Any]]

_GROUP_BYTES = 32 << 20  # of image bytes in a row group; bounds the memory of writer and reader
_GROUP_ROWS = 10_000


def corrupt(  # noqa: PLR0913 (one argument for each kind of noise)
    images: ImageSet,
    out: Path,
    *,
    symmetric: float = 0.0,
    independent: float = 0.0,
    asymmetric: float = 0.0,
    pairs: Mapping[str, str] | None = None,
    matrix: NDArray[np.float64] | None = None,
    foreign: float = 0.0,
    foreign_source: ImageSet | None = None,
    small_cluster: float = 0.0,
    features: Rows | Callable[[], Rows] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write a noisy copy of a labeled set, with the truth beside each label.

    The folder gets `images.parquet` (bytes, path, label, truth), which `read(out, truth="truth")`
    reads, and `truth.csv` (image, label, truth). No image gets two kinds of noise. A foreign
    image's truth is its class in its own set, or "foreign" where it has none; images of a class
    that is also one of ours are not used. Truth that `images` has already is kept.

    Args:
        images: the set; single labels. It is only read.
        out: a folder that does not exist, or is empty.
        symmetric: share of all labeled images that get one of the other classes.
        independent: probability that an image gets one of the other classes, each by itself.
        asymmetric: share of the images of each class in `pairs` that get its partner.
        pairs: class name -> class name.
        matrix: (C, C) in place of the rates above; see `noise.transition`.
        foreign: share of all labeled images that are replaced by images of `foreign_source`.
        foreign_source: another set, labeled or not.
        small_cluster: share of all labeled images whose whole classes are scattered over the other
            classes, whose names are all that remain; see `noise.small_cluster`. No other noise
            goes with it.
        features: (N, D) for `small_cluster`: which images of a class are alike; or what makes
            them, once it is known that nothing else is wrong.
        seed: equal seeds give equal sets.
        progress: told images written and images in all.

    Raises:
        ConfigError: the noise asked for cannot be made of these images.
        DataError: the set has no labels, or features are not of its images.
        RunError: the folder is not empty, or cannot be written.
    """
    if images.labels is None:
        raise DataError(
            f"{images.source}: no labels to corrupt. Name a set with one label an image."
        )
    _check_free(out)
    rng = np.random.default_rng(seed)
    if small_cluster:
        if matrix is not None or any((symmetric, independent, asymmetric, foreign)):
            raise ConfigError(
                "small cluster noise changes which classes there are; no other noise goes with "
                "it. Corrupt the copy again for both."
            )
        shown, strange = np.full(len(images), -1, np.int64), dict[int, str]()
        noisy = _scattered(images.labels, features, small_cluster, rng)
    else:
        shown, strange = _foreign_images(images, foreign, foreign_source, rng)
        codes = _codes(pairs or {}, images.class_names, asymmetric)
        rates = _Rates(symmetric, independent, asymmetric, codes, matrix)
        noisy = _flipped(images, rates, shown < 0, rng)
    truth = [
        strange[row] if (row := int(shown[i])) >= 0 else _true_class(images, i)
        for i in range(len(images))
    ]
    names = [images.class_names[c] if c >= 0 else None for c in noisy.tolist()]
    return _write_set(out, images, foreign_source, shown, (names, truth), progress)


class _Rates(NamedTuple):
    symmetric: float
    independent: float
    asymmetric: float
    codes: Mapping[int, int]  # of asymmetric noise
    matrix: NDArray[np.float64] | None


def _flipped(
    images: ImageSet, rates: _Rates, stay: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.int64]:
    """(N,) labels, those of images that `stay` among them changed by one kind of noise each."""
    labels, n_classes = images.labels, len(images.class_names)
    if labels is None:
        raise DataError(f"{images.source}: no labels.")
    if rates.matrix is not None:
        if rates.symmetric or rates.independent or rates.asymmetric:
            raise ConfigError(
                "a transition matrix takes the place of symmetric and asymmetric rates."
            )
        if len(rates.matrix) != n_classes:
            raise ConfigError(
                f"the transition matrix has {len(rates.matrix)} rows; expected one for each of the "
                f"{n_classes} classes."
            )
        return np.where(stay, noise.transition(labels, rates.matrix, rng), labels)
    noisy = noise.asymmetric(labels, rates.codes, rates.asymmetric, rng, stay)
    for kind, rate in (
        (noise.symmetric, rates.symmetric),
        (noise.independent, rates.independent),
    ):
        if rate:
            flipped = kind(labels, n_classes, rate, rng, stay & (noisy == labels))
            noisy = np.where(flipped != labels, flipped, noisy)
    return noisy


def _scattered(
    labels: NDArray[np.int64],
    features: Rows | Callable[[], Rows] | None,
    rate: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """(N,) labels after small cluster noise, as the classes that the hosts were before."""
    if features is None:
        raise ConfigError(
            f"small cluster noise of {rate:g} needs features, to say which images of a class are "
            "alike. Give one row an image."
        )
    noise.check_rate(rate, "small cluster")
    rows = features() if callable(features) else features
    scattered = noise.small_cluster(labels, rows, rate, rng)
    return np.append(scattered.hosts, -1)[scattered.labels]  # -1, none, is the last


def write_parquet(
    path: Path,
    ids: Sequence[str],
    data: Iterator[bytes | None],
    labels: Sequence[str | None],
    truth: Sequence[str | None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write images and what is said of them as one Parquet file, with bounded memory.

    Columns: `image` (bytes, null where there are none), `path` (the id), `label`, and `truth` if
    given. The file appears under its name when it is whole.

    Args:
        path: the file to write.
        ids: (N,) unique.
        data: N encoded images, in the order of `ids`.
        labels: (N,) class names; None for no label.
        truth: (N,) class names; None where it is not known.
        progress: told images written and images in all.

    Raises:
        RunError: the file cannot be written.
    """
    columns = {"path": ids, "label": labels} | ({} if truth is None else {"truth": truth})
    schema = pa.schema([(name, pa.string()) for name in columns])
    write_table(path, pa.table(columns, schema), data, progress)


def write_table(
    path: Path, said: pa.Table, data: Iterator[bytes | None], progress: Progress | None = None
) -> None:
    """Write images, as a column `image` of bytes, before a table of what is said of them.

    Args:
        path: the file to write; it appears under its name when it is whole.
        said: (N,) rows.
        data: N encoded images, in the order of the rows.
        progress: told images written and images in all.

    Raises:
        RunError: the file cannot be written.
    """
    schema = said.schema.insert(0, pa.field("image", pa.binary()))
    # encoded images do not get smaller
    compression = {name: "none" if name == "image" else "zstd" for name in schema.names}
    for name in schema.names:  # of lists, Parquet has the values in a column below
        if pa.types.is_list(schema.field(name).type):
            compression[f"{name}.list.element"] = compression.pop(name)
    with (
        atomic(path) as partial,
        pq.ParquetWriter(partial, schema, compression=compression) as file,
    ):
        first, size, group = 0, 0, list[bytes | None]()
        for done, one in enumerate(data, start=1):
            group.append(one)
            size += len(one or b"")
            if size >= _GROUP_BYTES or len(group) >= _GROUP_ROWS or done == len(said):
                part = said.slice(first, done - first)
                file.write_table(part.add_column(0, "image", pa.array(group, pa.binary())))
                first, size, group = done, 0, []
                if progress is not None:
                    progress(done, len(said))


def _foreign_images(
    images: ImageSet, rate: float, others: ImageSet | None, rng: np.random.Generator
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Which image shows which row of the other set, and what is true of those rows."""
    if images.labels is None:
        raise DataError(f"{images.source}: no labels.")
    if others is None:
        if rate:
            raise ConfigError(
                f"foreign noise of {rate:g} needs another set to take images from (--foreign-from)."
            )
        return np.full(len(images), -1, np.int64), {}
    ours = set(images.class_names)
    unnamed = "foreign" if "foreign" not in ours else "foreign image"
    named = [unnamed] * len(others)
    if others.labels is not None:
        named = [others.class_names[c] if c >= 0 else unnamed for c in others.labels.tolist()]
    candidates = np.array([row for row, name in enumerate(named) if name not in ours], np.int64)
    shown = noise.foreign(images.labels, candidates, rate, rng)
    return shown, {row: named[row] for row in shown[shown >= 0].tolist()}


def _codes(pairs: Mapping[str, str], names: Sequence[str], rate: float) -> dict[int, int]:
    if rate and not pairs:
        raise ConfigError(
            f"asymmetric noise of {rate:g} needs pairs of classes, such as --pair cat:dog."
        )
    for name in [*pairs, *pairs.values()]:
        if name not in names:
            raise ConfigError(f"pairs: no class {name!r}. {did_you_mean(name, names)}")
    same = sorted(given for given, target in pairs.items() if given == target)
    if same:
        raise ConfigError(f"pairs: {same[0]!r} is paired with itself. Name another class.")
    return {names.index(given): names.index(target) for given, target in pairs.items()}


def _true_class(images: ImageSet, row: int) -> str | None:
    if images.truth is not None:
        return images.truth[row]
    if images.labels is None or images.labels[row] < 0:
        return None
    return images.class_names[int(images.labels[row])]


def _write_set(
    out: Path,
    images: ImageSet,
    others: ImageSet | None,
    shown: NDArray[np.int64],
    said: tuple[Sequence[str | None], Sequence[str | None]],
    progress: Progress | None,
) -> Path:
    labels, truth = said
    with whole_folder(out) as partial:
        data = image_bytes(images, others, shown)
        write_parquet(partial / "images.parquet", images.ids, data, labels, truth, progress)
        with open(partial / "truth.csv", "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["image", "label", "truth"])
            rows.writerows(zip(images.ids, labels, truth, strict=True))
    return out


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: is not empty. Name a folder that does not exist yet.")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder under another name, which gets its own when it is whole.

    Raises:
        RunError: there is something of the name already, or it cannot be written.
    """
    _check_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        partial.chmod(0o755)
        yield partial
        if out.exists():
            out.rmdir()  # it is empty
        partial.rename(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def image_bytes(
    images: ImageSet, others: ImageSet | None, shown: NDArray[np.int64]
) -> Iterator[bytes | None]:
    """The encoded images in order, None where there are no bytes to be had."""
    own = Reader(images.places)
    strange = None if others is None else Reader(others.places)
    for row, other in enumerate(shown.tolist()):
        try:
            yield own.read(row) if other < 0 or strange is None else strange.read(other)
        except DataError:
            yield None
