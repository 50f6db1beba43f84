"""A copy of a set of tags with wrong and missing ones, written with its truth."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_array

from labelsieve.data.corrupt import Progress, image_bytes, whole_folder, write_table
from labelsieve.data.tag_noise import Scores, TagNoise, annotator, read_confusable
from labelsieve.data.tag_noise import from_model as model_errors
from labelsieve.data.tags.read import read_tags
from labelsieve.errors import ConfigError, DataError
from labelsieve.files import write_csv
from labelsieve.records.tag_set import TagSet, values_at

_TAG_SCHEMA = pa.schema(
    [("path", pa.string()), ("labels", pa.list_(pa.string())), ("truth", pa.list_(pa.string()))]
)


def corrupt_tags(
    tags: TagSet,
    out: Path,
    settings: TagNoise,
    *,
    confusable: Mapping[int, Sequence[int]] | None = None,
    scores: Scores | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> csr_array:
    """Write a copy of a set of tags with wrong and missing ones, and the truth beside them.

    The folder gets `images.parquet` (bytes, path, labels, truth, both lists), which
    `read_tags(out / "images.parquet", truth="truth")` reads, and `truth.csv` (image, labels,
    truth). The column `image` holds ids where no files of images are known.

    Args:
        tags: the set; what it asserts is taken for the truth. It is only read.
        out: a folder that does not exist, or is empty.
        settings: how much noise.
        confusable: of an annotator: tag -> tags that it is confused with.
        scores: of a weak model, whose errors are made in place of an annotator's.
        seed: equal seeds give equal sets.
        progress: told images written and images in all.

    Returns:
        (N, C) what is asserted in the copy.

    Raises:
        ConfigError: both a model and confusable tags are given.
        RunError: the folder is not empty, or cannot be written.
    """
    rng = np.random.default_rng(seed)
    if scores is not None and confusable:
        raise ConfigError("a model's errors need no confusable tags; leave out one of the two.")
    if scores is None:
        noisy = annotator(tags.asserted, settings, rng, confusable)
    else:
        noisy = model_errors(tags.asserted, scores, settings, rng)
    said = [
        [[tags.tag_names[c] for c in matrix.indices[start:end].tolist()]
         for start, end in itertools.pairwise(matrix.indptr.tolist())]
        for matrix in (noisy, tags.asserted)
    ]  # fmt: skip
    with whole_folder(out) as folder:
        table = pa.table({"path": tags.ids, "labels": said[0], "truth": said[1]}, _TAG_SCHEMA)
        if tags.images is None:
            pq.write_table(table.rename_columns(["image", "labels", "truth"]),
                           folder / "images.parquet")  # fmt: skip
        else:
            nothing = np.full(len(tags), -1, np.int64)
            data = image_bytes(tags.images, None, nothing)
            write_table(folder / "images.parquet", table, data, progress)
        named = table.rename_columns(["image", "labels", "truth"])
        write_csv(named, folder / "truth.csv")
    return noisy


def corrupt_tags_of(  # noqa: PLR0913 (one argument for each option)
    source: str | Path,
    out: Path,
    *,
    label: str | None = None,
    false_positives: str | None = None,
    missing: float | None = None,
    confusable: Path | None = None,
    from_model: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, str | int]:
    """Read tags, write a noisy copy as `corrupt_tags` does, and count what was done.

    Args:
        source: any form that `read_tags` knows; its tags are taken for the truth.
        out: a folder that does not exist, or is empty.
        label: the column of the tags, or what their columns begin with.
        false_positives: "LOW:HIGH", the shares of a tag's assertions that are wrong; 0.2:0.8 if
            only other noise is asked for.
        missing: share of right tags that is dropped; 0.1 by default.
        confusable: CSV file tag,confused_with.
        from_model: .npy file of (N, C) scores of a weak model, in the order of images and tags.
        seed: equal seeds give equal sets.
        progress: told images written and images in all.

    Raises:
        ConfigError: the noise is not described well.
        DataError: something cannot be read, or is of other images.
    """
    settings = TagNoise()
    if false_positives is not None:
        settings = replace(settings, **_shares(false_positives))
    if missing is not None:
        settings = replace(settings, missing=missing)
    tags = read_tags(source, label=label)
    noisy = corrupt_tags(
        tags,
        out,
        settings,
        confusable=None if confusable is None else read_confusable(confusable, tags.tag_names),
        scores=None if from_model is None else _scores(from_model),
        seed=seed,
        progress=progress,
    )
    right = int(np.count_nonzero(values_at(noisy, tags.asserted)))
    return {
        "images": str(out / "images.parquet"),
        "n_images": len(tags),
        "n_tags": tags.n_tags,
        "n_asserted": noisy.nnz,
        "n_wrong": noisy.nnz - right,
        "n_missing": tags.asserted.nnz - right,
    }


def _shares(text: str) -> dict[str, float]:
    low, colon, high = text.partition(":")
    try:
        return {"low": float(low), "high": float(high if colon else low)}
    except ValueError as error:
        raise ConfigError(
            f"--tag-false-positives {text!r}: expected LOW:HIGH, such as 0.2:0.8."
        ) from error


def _scores(path: Path) -> Scores:
    try:
        scores = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"--from-model {path}: cannot be read as .npy: {error}. Save an array of a row an "
            "image and a column a tag."
        ) from error
    found: Scores = scores
    return found
