"""New images into the clusters of a run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from labelsieve.clustering.answers import clusters_of_set, network_probabilities
from labelsieve.errors import RunError
from labelsieve.features.heads import ClusterHeads
from labelsieve.features.saved import load_network
from labelsieve.methods.scan.heads import row_probabilities
from labelsieve.records import ImageSet
from labelsieve.records.clusters import Clusters, Part
from labelsieve.run import Run, read_run
from labelsieve.stages.inputs import Progress, silent
from labelsieve.stages.makers import check_width, rows_of_new
from labelsieve.stages.new_images import Shown, check_no_features, new_images, readable_source
from labelsieve.stages.trained import in_training_format


def predict_clusters(
    folder: str | Path,
    images: ImageSet | str | Path,
    *,
    features: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Clusters:
    """As `labelsieve.predict`, by a run of `labelsieve cluster`."""
    folder, progress = Path(folder), progress or silent
    made = clusters_of(folder)
    module, about = load_network(folder)
    with new_images(images, device) as (images, run):
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


def clusters_of(folder: Path) -> Clusters:
    """The clusters of a run.

    Raises:
        RunError: it made none.
    """
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
    check_no_features(features)
    assert isinstance(module, nn.ModuleDict)  # noqa: S101 -- what the kind says
    backbone, heads = in_training_format(module["backbone"]), module["heads"]
    assert isinstance(heads, ClusterHeads)  # noqa: S101 -- what the kind says
    shown = Shown.of(about)
    pixels, source = readable_source(images, shown.image_size, run.checkpoint, progress)
    rows = np.flatnonzero(pixels.usable)
    said = network_probabilities(
        backbone, heads, source, rows, shown.normalization, shown.view_size,
        device=device, progress=partial(progress, "predict"),
    )  # fmt: skip
    return rows, said
