"""New images into the clusters of a finished run: `labelsieve predict`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from labelsieve.clusters import Clusters, Part
from labelsieve.data.augment import Normalization
from labelsieve.data.decode import Pixels, decode_images
from labelsieve.data.read import read
from labelsieve.errors import ConfigError, DataError, RunError
from labelsieve.features.heads import ClusterHeads, cluster_probabilities
from labelsieve.features.saved import load_network
from labelsieve.inputs import Progress, check_device, silent
from labelsieve.makers import rows_of_new
from labelsieve.methods.scan.clusterer import clean_logits
from labelsieve.methods.scan.heads import row_probabilities
from labelsieve.records import ImageSet
from labelsieve.run import Run, read_run
from labelsieve.runtime import Runtime
from labelsieve.stages import image_source

SUFFIXES = (".csv", ".parquet")


def run_predict(
    folder: Path,
    source: str,
    out: Path,
    *,
    features: str | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Clusters:
    """Write a table of new images and the clusters they fall into.

    Args:
        folder: of a finished `labelsieve cluster`.
        source: the new images.
        out: .csv or .parquet, with the columns of clusters.csv.
        features: file of the new images' features, where the run's own came from a file.
        device: "cpu", "cuda", ...
        overwrite: replace `out`.
        progress: called with (stage, done, total).

    Raises:
        ConfigError: `out` has another suffix, or features are missing or not needed.
        RunError: there is no such run, or `out` exists.
        DataError: no image can be read.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {out}: predictions are written as .csv or .parquet.")
    if out.exists() and not overwrite:
        raise RunError(f"{out}: exists already. Add --overwrite to replace it, or choose another.")
    check_device(device)
    clusters = predict(folder, source, features=features, device=device, progress=progress)
    clusters.write(out)
    return clusters


def predict(
    folder: str | Path,
    images: ImageSet | str | Path,
    *,
    features: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Clusters:
    """Put images into the clusters that a run made; names given to them there are not known here.

    Args:
        folder: of a finished `labelsieve cluster`.
        images: from `read`, or what `read` takes.
        features: file of the images' features, where the run's own came from a file.
        device: "cpu", "cuda", ...
        progress: called with (stage, done, total).

    Raises:
        RunError: there is no such run.
        ConfigError: features are missing or not needed.
        DataError: no image can be read.

    Example:
        >>> import labelsieve as ls
        >>> clusters = ls.predict("run/", "new-photos/")  # doctest: +SKIP
    """
    folder, progress = Path(folder), progress or silent
    job = read_run(folder)["job"]
    if job != "cluster":
        raise RunError(
            f"{folder}: made by `labelsieve {job}`, which leaves no model that predicts; expected "
            "a run of `labelsieve cluster`."
        )
    if not isinstance(images, ImageSet):
        images = read(images)
    module, about = load_network(folder)
    made = Clusters.load(folder / "clusters.parquet")
    with (
        tempfile.TemporaryDirectory(prefix="labelsieve-") as scratch,
        Run.open(Path(scratch), "predict", {}) as run,
    ):
        if about["kind"] == "features":
            assert isinstance(module, ClusterHeads)  # noqa: S101 -- what the kind says
            found = rows_of_new(
                folder, about["features"], images, features, device=device, run=run,
                progress=progress,
            )  # fmt: skip
            place = {name: row for row, name in enumerate(images.ids)}
            rows = np.array([place[name] for name in found.ids], np.int64)
            said = row_probabilities(module, found.values)
        else:
            rows, said = _by_network(module, about, images, features, device, run, progress)
    probabilities = np.full((len(images), len(made.names)), np.nan, np.float32)
    probabilities[rows] = said
    return Clusters.of_probabilities(images.ids, probabilities, Part.NEW, names=made.names)


def _by_network(
    module: nn.Module,
    about: Mapping[str, Any],
    images: ImageSet,
    features: str | None,
    device: str,
    run: Run,
    progress: Progress,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which rows can be read, and the probabilities of each."""
    if features is not None:
        raise ConfigError(
            f"--features {features}: this run's network looks at images itself. Leave it out."
        )
    assert isinstance(module, nn.ModuleDict)  # noqa: S101 -- what the kind says
    pixels = _decoded(images, int(about["image_size"]), run, progress)
    rows = np.flatnonzero(pixels.usable)
    source = image_source(images, pixels, int(about["image_size"]), run.checkpoint, progress)
    mean, deviation = (tuple(about["normalization"][name]) for name in ("mean", "deviation"))
    heads = module["heads"]
    assert isinstance(heads, ClusterHeads)  # noqa: S101 -- what the kind says
    logits = clean_logits(
        module["backbone"], heads, source, rows, Normalization(mean, deviation),
        int(about["view_size"]), runtime=Runtime.start(device),
    )  # fmt: skip
    return rows, cluster_probabilities(logits).numpy()


def _decoded(images: ImageSet, size: int, run: Run, progress: Progress) -> Pixels:
    path = run.checkpoint / "pixels.npy"
    pixels = decode_images(images, size, path=path, progress=partial(progress, "decode"))
    if not pixels.usable.any():
        raise DataError(f"{images.source}: none of {len(images)} images can be read.")
    return pixels
