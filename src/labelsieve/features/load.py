"""Features that the user brings: read, checked by ids, put in the order of the image set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.records import Features, ImageSet

_FORMS = (
    'an .npy matrix (with {"ids": [...]} in a .json of the same name, if at all), an .npz with '
    "`features` and, if at all, `ids`, or a .parquet with `image` and a column of lists"
)
_BLOCK = 8192  # rows checked at once, so that a memory-mapped matrix never lies in memory whole
_UNIT = 1e-4  # rows this near to length 1 are taken as they are


class _Given(NamedTuple):
    values: NDArray[Any]  # (n, D); may be memory-mapped
    ids: Sequence[str] | None  # of its rows
    made_by: str  # as the file says; empty where it does not


def load_features(
    path: Path, images: ImageSet, usable: NDArray[np.bool_] | None = None
) -> Features:
    """Features of a set of images from a file of the user's own, or from `Features.save`.

    With ids, rows are matched by them and rows of other images are left out. Without, there must be
    as many rows as images, and they are taken to be in the set's order; `made_by` then says so. An
    .npy of float32 unit rows in the right order stays on disk, memory-mapped.

    Args:
        path: .npy, .npz or .parquet; see docs/formats.md.
        images: whose features they are.
        usable: (N,) the images that need a row, such as `Pixels.usable`; all by default.

    Returns:
        the usable images' unit-norm rows, in the set's order.

    Raises:
        DataError: the file cannot be read; has another shape or length; lacks images; holds rows
            that are not finite or have no direction.
    """
    given = _read(path)
    values = given.values
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: an array of {values.dtype} of shape {values.shape}; expected a matrix of "
            "numbers with one row an image."
        )
    wanted = np.arange(len(images)) if usable is None else np.flatnonzero(usable)
    ids = tuple(images.ids[row] for row in wanted)
    order = wanted if given.ids is None else _match(path, given, ids, images.source)
    if given.ids is None and len(values) != len(images):
        raise DataError(
            f"{path}: {len(values)} rows of features without ids for {len(images)} images of "
            f"{images.source}; expected one row an image, in the set's order. Give the ids of the "
            f"rows too: {_FORMS}; or make them with `labelsieve features {images.source}`."
        )
    by = "matched by id" if given.ids is not None else "taken in the set's order, as it has no ids"
    made_by = f"{path.name} ({_stamp(path)}; rows {by}) for {images.fingerprint()}"
    if given.made_by:
        made_by = f"{given.made_by}, from {made_by}"
    return Features(ids, _unit_rows(path, values, order, ids), made_by)


def _read(path: Path) -> _Given:
    readers = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: features cannot be read from {path.suffix!r}. Give {_FORMS}.")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Give {_FORMS}.")
    try:
        return readers[path.suffix.lower()](path)
    except DataError:
        raise
    except (OSError, ValueError, EOFError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as features: {error}. Give {_FORMS}.") from error


def _read_npy(path: Path) -> _Given:
    values = np.load(path, mmap_mode="r")
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return _Given(values, None, "")
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
        ids, made_by = about.get("ids"), about.get("made_by", "")
    except (ValueError, AttributeError) as error:
        raise DataError(
            f"{beside}: cannot be read as the ids of {path.name}: {error}. "
            'Write {"ids": [...]}, one id a row, or remove the file.'
        ) from error
    return _Given(values, ids, made_by)


def _read_npz(path: Path) -> _Given:
    with np.load(path) as arrays:
        if "features" not in arrays:
            raise DataError(
                f"{path}: no array `features`; there are: {', '.join(sorted(arrays)) or 'none'}."
            )
        ids = [str(name) for name in arrays["ids"].ravel()] if "ids" in arrays else None
        return _Given(arrays["features"], ids, "")


def _read_parquet(path: Path) -> _Given:
    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    lists = [f.name for f in schema if hasattr(f.type, "value_type") and not _is_text(f.type)]
    column = "features" if "features" in lists else lists[0] if len(lists) == 1 else None
    if column is None:
        raise DataError(
            f"{path}: {len(lists)} columns of lists ({', '.join(lists) or 'none'} of "
            f"{', '.join(schema.names)}). Name the one that holds the features `features`."
        )
    names = ["image", column] if "image" in schema.names else [column]
    table = file.read(columns=names)
    rows = table.column(column).combine_chunks()
    lengths = pc.unique(pc.list_value_length(rows)).to_pylist()
    if rows.null_count or len(lengths) > 1:
        raise DataError(
            f"{path}: lists of {len(lengths)} lengths, {rows.null_count} of them missing, in "
            f"column `{column}`; expected the same number of values in each row."
        )
    width = int(lengths[0]) if len(lengths) else 0
    values = rows.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), width)
    ids = table.column("image").to_pylist() if "image" in names else None
    return _Given(values, ids, "")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind))


def _match(path: Path, given: _Given, ids: tuple[str, ...], source: str) -> NDArray[np.int64]:
    """The file's row of each image."""
    assert given.ids is not None  # noqa: S101 -- the caller saw to it
    if len(given.ids) != len(given.values):
        raise DataError(
            f"{path}: {len(given.ids)} ids for {len(given.values)} rows of features; expected one "
            "a row."
        )
    row_of = {name: row for row, name in enumerate(given.ids)}
    if len(row_of) < len(given.ids):
        twice = next(name for row, name in enumerate(given.ids) if row_of[name] != row)
        raise DataError(
            f"{path}: {len(given.ids) - len(row_of)} ids occur more than once, such as {twice!r}; "
            "expected each image once."
        )
    missing = [name for name in ids if name not in row_of]
    if missing:
        some = ", ".join(repr(name) for name in missing[:3])
        found = f" Its ids look like {given.ids[0]!r}." if given.ids else ""
        raise DataError(
            f"{path}: no features of {len(missing)} of {len(ids)} images of {source}: {some}"
            f"{', ...' if len(missing) > 3 else ''}.{found} Give ids as the image set has them, or "
            f"make the features with `labelsieve features {source}`."
        )
    return np.array([row_of[name] for name in ids], np.int64)


def _unit_rows(
    path: Path, values: NDArray[Any], order: NDArray[np.int64], ids: tuple[str, ...]
) -> NDArray[np.float32]:
    """The rows in order, checked, of length 1; the array itself where nothing has to be done."""
    lengths = np.empty(len(order))
    for first in range(0, len(order), _BLOCK):
        block = values[order[first : first + _BLOCK]].astype(np.float64)
        lengths[first : first + _BLOCK] = np.sqrt((block**2).sum(1))
    for bad, what in ((~np.isfinite(lengths), "NaN or infinite"), (lengths == 0, "zero")):
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"{path}: {int(bad.sum())} of {len(order)} rows of features are {what}, first row "
                f"{order[row]} ({ids[row]!r}); expected finite numbers, not all zero. Make these "
                "rows again, or leave the images out."
            )
    in_order = len(order) == len(values) and bool((order == np.arange(len(order))).all())
    if in_order and values.dtype == np.float32 and (np.abs(lengths - 1) < _UNIT).all():
        return values
    unit = np.empty((len(order), values.shape[1]), np.float32)
    for first in range(0, len(order), _BLOCK):
        part = slice(first, first + _BLOCK)
        unit[part] = values[order[part]].astype(np.float64) / lengths[part, None]
    return unit


def _stamp(path: Path) -> str:
    """A hash of the file's size and time of change, and of its ids'."""
    digest = hashlib.blake2b(digest_size=6)
    for each in (path, path.with_suffix(".json")):
        if each.is_file():
            found = each.stat()
            digest.update(f"{found.st_size} {found.st_mtime_ns}\0".encode())
    return digest.hexdigest()
