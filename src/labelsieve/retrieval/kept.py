"""A trained embedder in a run's folder, and the rows it makes of any images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from labelsieve.data.sources import of_rows
from labelsieve.errors import ConfigError
from labelsieve.features.heads import ProjectionHead
from labelsieve.features.inference import middle_of
from labelsieve.features.rows import Rows
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.weights import digest
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.prism.embedder import Embedder
from labelsieve.methods.prism.embedding import embed
from labelsieve.records import Features, ImageSet
from labelsieve.run import Run
from labelsieve.stages.inputs import Progress, silent
from labelsieve.stages.makers import check_width, rows_of_new
from labelsieve.stages.new_images import Shown, check_no_features, new_images, readable_source
from labelsieve.stages.trained import in_training_format

NETWORK, ROWS = "embedder", "row-embedder"  # kinds of models, in model.json


def keep_embedder(folder: Path, embedder: Embedder, about: Mapping[str, Any]) -> None:
    """Write a trained embedder as the model of a run.

    Args:
        folder: of the run.
        embedder: of images, or of rows of features.
        about: `about_network` or `about_rows`.
    """
    parts = {"backbone": embedder.backbone, "head": embedder.head}
    save_network(folder, nn.ModuleDict(parts).cpu(), about)


def about_network(shown: Shown) -> dict[str, Any]:
    """What model.json says of an embedder of images: `--network` takes it, too."""
    return {"kind": NETWORK, **shown.to_dict(), "rows": "head"}


def about_rows(maker: Mapping[str, Any]) -> dict[str, Any]:
    """What model.json says of an embedder of features, and of what makes those of new images."""
    return {"kind": ROWS, "features": dict(maker)}


def embed_images(
    folder: str | Path,
    images: ImageSet | str | Path,
    *,
    features: str | Features | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Features:
    """One row for each image that can be read, by a run of `labelsieve retrieve`."""
    with new_images(images, device) as (images, run):
        return embedded(
            Path(folder), images, features=features, device=device, run=run,
            progress=progress or silent,
        )  # fmt: skip


def embedded(
    folder: Path,
    images: ImageSet,
    *,
    features: str | Features | None,
    device: str,
    run: Run,
    progress: Progress,
) -> Features:
    """The rows that the embedder of a run makes of images.

    Args:
        folder: of the run; its model is enough, and what makes its features.
        images: any.
        features: of theirs, or a file, where the embedder was trained on a file of features.
        device: "cpu", "cuda", ...
        run: for what is on the way.
        progress: told stage, done and total.

    Raises:
        ConfigError: there is no such model, or features are missing or not needed.
        DataError: no image can be read.
    """
    module, about = load_network(folder)
    if about.get("kind") not in (NETWORK, ROWS):
        raise ConfigError(f"{folder}: the model there embeds nothing. Give a run of `retrieve`.")
    assert isinstance(module, nn.ModuleDict)  # noqa: S101 -- what `keep_embedder` wrote
    head = module["head"]
    assert isinstance(head, ProjectionHead)  # noqa: S101
    embedder = Embedder(in_training_format(module["backbone"]), head)
    tell, runtime = partial(progress, "embed"), Runtime.alone(device)
    name = f"embedding {digest(embedder)} of {images.fingerprint()}"
    if about["kind"] == ROWS:
        found = rows_of_new(
            folder, about["features"], images, features, device=device, run=run, progress=progress
        )
        assert isinstance(embedder.backbone, Rows)  # noqa: S101
        check_width(found, embedder.backbone.settings.n_in, folder)
        source, rows = of_rows(found.values), np.arange(len(found))
        values = embed(embedder, source, rows, lambda given: given, runtime, tell)
        return Features(found.ids, values, name)
    check_no_features(features)
    shown = Shown.of(about)
    pixels, source = readable_source(images, shown.image_size, run.checkpoint, progress)
    rows = np.flatnonzero(pixels.usable)
    clean = middle_of(shown.view_size, shown.normalization)
    values = embed(embedder, source, rows, clean, runtime, tell)
    return Features(tuple(images.ids[row] for row in rows), values, name)
