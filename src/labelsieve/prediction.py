"""New images into the clusters or classes of a finished run: `labelsieve predict`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from labelsieve.classified import Predictions
from labelsieve.classifying import classify
from labelsieve.cluster_answers import clusters_of_set, network_probabilities
from labelsieve.clusters import Clusters, Part
from labelsieve.data.augment import Normalization
from labelsieve.data.read import read
from labelsieve.errors import ConfigError, RunError
from labelsieve.exports import read_names
from labelsieve.features.heads import ClusterHeads
from labelsieve.features.saved import load_network
from labelsieve.inputs import Progress, check_device, silent
from labelsieve.makers import GLANCE, check_width, readable_pixels, rows_of_new
from labelsieve.methods.scan.heads import row_probabilities
from labelsieve.records import Features, ImageSet
from labelsieve.retrieval.kept import embedded
from labelsieve.run import Run, read_run
from labelsieve.stages import SMALL, image_source
from labelsieve.tagged_images import TaggedImages
from labelsieve.tagging.kept import tag_images
from labelsieve.trained import in_training_format

SUFFIXES = (".csv", ".parquet")
_NAMED = {  # runs whose predictions nobody needs to name
    "train": "the classes of {folder} have names",
    "tag": "tags have names",
    "retrieve": "embeddings have no names",
}


def run_predict(
    folder: Path,
    source: str,
    out: Path,
    *,
    names: Path | None = None,
    features: str | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Clusters | Predictions | Features | TaggedImages:
    """Write a table of new images and the clusters or classes they fall into, or their embeddings.

    Args:
        folder: of a finished `labelsieve cluster`, `labelsieve train` or `labelsieve retrieve`.
        source: the new images.
        out: .csv or .parquet, with the columns of clusters.csv or predictions.csv; .npy of
            embeddings.
        names: a table of `cluster` and `name`; two clusters of one name become one, those that it
            does not name keep their numbers.
        features: file of the new images' features, where the run's own came from a file.
        device: "cpu", "cuda", ...
        overwrite: replace `out`.
        progress: called with (stage, done, total).

    Raises:
        ConfigError: `out` has another suffix, or features are missing or not needed.
        RunError: there is no such run, or `out` exists.
        DataError: no image can be read, or the table of names is not what was expected.
    """
    job = read_run(folder)["job"]
    _check_out(out, job, overwrite=overwrite)
    if job in _NAMED and names is not None:
        raise ConfigError(f"--names {names}: {_NAMED[job].format(folder=folder)}. Leave it out.")
    given = None if names is None else read_names(names, len(_made(folder).names))
    found = predict(folder, source, features=features, device=device, progress=progress)
    if isinstance(found, Features):
        found.save(out)
        return found
    if isinstance(found, Clusters) and given is not None:
        found = found.named(given)
    found.write(out)
    return found


def _check_out(out: Path, job: str, *, overwrite: bool) -> None:
    if job == "retrieve" and out.suffix.lower() != ".npy":
        raise ConfigError(
            f"--out {out}: embeddings are written as .npy, their ids beside them as .json."
        )
    if job != "retrieve" and out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {out}: predictions are written as .csv or .parquet.")
    if out.exists() and not overwrite:
        raise RunError(f"{out}: exists already. Add --overwrite to replace it, or choose another.")
    if not out.parent.is_dir():
        raise RunError(f"{out}: there is no folder {out.parent}. Make it, or choose another place.")


def predict(
    folder: str | Path,
    images: ImageSet | str | Path,
    *,
    features: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Clusters | Predictions | Features | TaggedImages:
    """Put images into the clusters that a run made, say which of its classes they show, or embed.

    Args:
        folder: of a finished `labelsieve cluster`, `train`, `retrieve` or `tag`.
        images: from `read`, or what `read` takes.
        features: file of the images' features, where the run's own came from a file.
        device: "cpu", "cuda", ...
        progress: called with (stage, done, total).

    Returns:
        clusters with the run's numbers, to which `named` gives names; predictions; or embeddings.

    Raises:
        RunError: there is no such run.
        ConfigError: features are missing or not needed.
        DataError: no image can be read.

    Example:
        >>> import labelsieve as ls
        >>> clusters = ls.predict("run/", "new-photos/")  # doctest: +SKIP
    """
    ways: dict[str, Callable[..., Clusters | Predictions | Features | TaggedImages]] = {
        "train": predict_classes, "retrieve": embed_images, "tag": tags_of_images
    }  # fmt: skip
    by = ways.get(read_run(Path(folder))["job"], predict_clusters)
    return by(folder, images, features=features, device=device, progress=progress)


def predict_classes(
    folder: str | Path,
    images: ImageSet | str | Path,
    *,
    features: str | Features | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Predictions:
    """As `predict`, by a run of `labelsieve train`; `features` may be in memory."""
    check_device(device)
    if not isinstance(images, ImageSet):
        images = read(images)
    with scratch() as run:
        said = classify(
            Path(folder), images, features=features, device=device, run=run,
            progress=progress or silent,
        )  # fmt: skip
    return Predictions.of_probabilities(images.ids, said.rows, said.probabilities, said.class_names)


def predict_clusters(
    folder: str | Path,
    images: ImageSet | str | Path,
    *,
    features: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Clusters:
    """As `predict`, by a run of `labelsieve cluster`."""
    folder, progress = Path(folder), progress or silent
    made = _made(folder)
    check_device(device)
    module, about = load_network(folder)
    if not isinstance(images, ImageSet):
        images = read(images)
    with scratch() as run:
        if about["kind"] == "network":
            rows, said = _by_network(module, about, images, features, device, run, progress)
        else:
            rows, said = _by_features(
                folder, module, about, images, features, device, run, progress
            )
    found = Clusters.of_probabilities(
        [images.ids[row] for row in rows], said, Part.NEW, names=made.names
    )
    return clusters_of_set(images, rows, found, Part.NEW)


def embed_images(
    folder: str | Path,
    images: ImageSet | str | Path,
    *,
    features: str | Features | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Features:
    """One row for each image that can be read, by a run of `labelsieve retrieve`."""
    check_device(device)
    if not isinstance(images, ImageSet):
        images = read(images)
    with scratch() as run:
        return embedded(
            Path(folder), images, features=features, device=device, run=run,
            progress=progress or silent,
        )  # fmt: skip


def tags_of_images(
    folder: str | Path,
    images: ImageSet | str | Path,
    *,
    features: str | Features | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TaggedImages:
    """Which tags each image has, by a run of `labelsieve tag`."""
    check_device(device)
    if not isinstance(images, ImageSet):
        images = read(images)
    with scratch() as run:
        said = tag_images(
            Path(folder), images, features=features, device=device, run=run,
            progress=progress or silent,
        )  # fmt: skip
    return TaggedImages(images.ids, said.tag_names, said.rows, said.probabilities)


@contextmanager
def scratch() -> Iterator[Run]:
    """A folder like a run's, for what is on the way."""
    with (
        tempfile.TemporaryDirectory(prefix="labelsieve-") as folder,
        Run.open(Path(folder), "predict", {}) as run,
    ):
        yield run


def _made(folder: Path) -> Clusters:
    """The clusters of a run."""
    job = read_run(folder)["job"]
    if job != "cluster":
        raise RunError(
            f"{folder}: made by `labelsieve {job}`, which leaves no model that predicts; expected "
            "a run of `labelsieve cluster`, `labelsieve train` or `labelsieve retrieve`."
        )
    return Clusters.load(folder / "clusters.parquet")


def _by_features(
    folder: Path,
    module: nn.Module,
    about: Mapping[str, Any],
    images: ImageSet,
    features: str | None,
    device: str,
    run: Run,
    progress: Progress,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which rows can be read, and the probabilities of each, by heads on features."""
    assert isinstance(module, ClusterHeads)  # noqa: S101 -- what the kind says
    found = rows_of_new(
        folder, about["features"], images, features, device=device, run=run, progress=progress
    )
    check_width(found, module.settings.n_features, folder)
    place = {name: row for row, name in enumerate(images.ids)}
    rows = np.array([place[name] for name in found.ids], np.int64)
    return rows, row_probabilities(module, found.values)


def _by_network(
    module: nn.Module,
    about: Mapping[str, Any],
    images: ImageSet,
    features: str | None,
    device: str,
    run: Run,
    progress: Progress,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which rows can be read, and the probabilities of each, by a network and heads on it."""
    if features is not None:
        raise ConfigError(
            f"--features {features}: this run's network looks at images itself. Leave it out."
        )
    assert isinstance(module, nn.ModuleDict)  # noqa: S101 -- what the kind says
    backbone, heads = in_training_format(module["backbone"]), module["heads"]
    assert isinstance(heads, ClusterHeads)  # noqa: S101 -- what the kind says
    size, view_size = int(about["image_size"]), int(about["view_size"])
    # large ones are decoded again as the network takes them: 200 GB a million at 256 pixels
    pixels = readable_pixels(images, size if size <= SMALL else GLANCE, run.checkpoint, progress)
    rows = np.flatnonzero(pixels.usable)
    source = image_source(images, pixels, size, run.checkpoint, progress)
    mean, deviation = (tuple(about["normalization"][name]) for name in ("mean", "deviation"))
    said = network_probabilities(
        backbone, heads, source, rows, Normalization(mean, deviation), view_size,
        device=device, progress=partial(progress, "predict"),
    )  # fmt: skip
    return rows, said
