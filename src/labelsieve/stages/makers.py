"""What made the rows of a run, kept in its folder, so that new images can get rows of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from labelsieve.data.augment import AS_STORED, Normalization
from labelsieve.data.decode import Pixels, decode_images, decoder_name
from labelsieve.errors import ConfigError, DataError, RunError
from labelsieve.features.backbones import Backbone, load_timm, pooled
from labelsieve.features.dictionary import DictionaryModel, unit_rows
from labelsieve.features.extract import extract, nothing_left, transformed
from labelsieve.features.joint import JointModel
from labelsieve.features.load import load_features
from labelsieve.features.saved import save_network
from labelsieve.features.weights import digest
from labelsieve.files import atomic
from labelsieve.records import Features, ImageSet
from labelsieve.run import Run
from labelsieve.stages.inputs import Inputs, Progress
from labelsieve.stages.trained import (
    JOINT,
    PRETEXT,
    Trained,
    as_backbone,
    load_trained,
    trained_features,
)

GLANCE = 32  # pixels: enough to see which images can be read
DICTIONARY = "dictionary.safetensors"  # in a run's folder: what made its rows


class Encoder(NamedTuple):
    """What turns views into rows."""

    rows_of: Callable[[Tensor], Tensor]  # (B, 3, size, size), normalized, to (B, D)
    size: int  # of the views, pixels
    image_size: int  # of the images that they are cut from
    normalization: Normalization
    name: str  # equal means equal rows


def keep_maker(run: Run, inputs: Inputs, trained: Trained | None) -> dict[str, Any]:
    """Keep in the run's folder what made its rows, and say for model.json what that is.

    Args:
        run: whose features are made.
        inputs: that they were made from.
        trained: the network that was given, if any; one that was trained here is kept already.
    """
    if inputs.features is not None:
        return {"maker": "file"}
    if inputs.backbone is not None:
        weights = None if inputs.weights is None else os.path.abspath(inputs.weights)
        return {"maker": "backbone", "backbone": inputs.backbone, "weights": weights}
    if trained is not None:
        keep_network(run.path / PRETEXT, trained)
    if (run.path / PRETEXT).is_dir():
        return {"maker": "network"}
    made = run.checkpoint / "rows.safetensors"
    if made.is_file():  # else an earlier attempt has kept it
        with atomic(run.path / DICTIONARY) as partial_file:
            shutil.copyfile(made, partial_file)
    return {"maker": "dictionary"}


def keep_maker_of(audit: Path, about: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Keep in a run's folder what made the rows of a finished audit, and say what that is.

    Args:
        audit: its folder.
        about: its run.json.
        run: that works with the audit's rows.

    Raises:
        RunError: the audit kept nothing that makes rows.
    """
    given = Inputs(**about["settings"]["inputs"])
    kept = audit / DICTIONARY
    own = audit / PRETEXT  # of a training that audited by itself
    if own.is_dir() or given.pretrain is not None or given.network is not None:
        if not own.is_dir():
            own = audit if given.network is None else Path(given.network)
        trained = load_trained(own)
        return keep_maker(run, replace(given, pretrain=None, network=None), trained)
    if given.features is None and given.backbone is None:
        if not kept.is_file():
            raise RunError(
                f"{audit}: {DICTIONARY} is missing, which makes the features of new images. Audit "
                "again with this version, or give the images in place of the audit."
            )
        with atomic(run.path / DICTIONARY) as partial_file:
            shutil.copyfile(kept, partial_file)
        return {"maker": "dictionary"}
    return keep_maker(run, given, None)


def keep_network(folder: Path, trained: Trained) -> None:
    """Write a network that was given into a folder, with what its rows need."""
    folder.mkdir(exist_ok=True)
    about = {
        "image_size": trained.image_size,
        "view_size": trained.view_size,
        "normalization": trained.normalization._asdict(),
        "rows": trained.rows,
    }
    parts = {"backbone": trained.backbone}
    if trained.head is not None:
        parts["head"] = trained.head
    if trained.joint is not None:
        with atomic(folder / JOINT) as partial_file:
            shutil.copyfile(trained.joint, partial_file)
    save_network(folder, nn.ModuleDict(parts), about)


def rows_of_new(
    folder: Path,
    maker: Mapping[str, Any],
    images: ImageSet,
    given: str | Features | None,
    *,
    device: str,
    run: Run,
    progress: Progress,
) -> Features:
    """Rows of other images, made as those of an earlier run.

    Args:
        folder: of the earlier run.
        maker: as `keep_maker` said.
        images: the new ones.
        given: their features, or a file of these, where the run's own came from a file.
        device: "cpu", "cuda", ...
        run: for what is on the way.
        progress: told stage, done and total.

    Raises:
        ConfigError: a file is needed and not given, or given and not needed.
    """
    kind, tell = maker["maker"], partial(progress, "features")
    if (kind == "file") != (given is not None):
        raise ConfigError(
            f"{folder}: made from features of your own; give those of the new images, made in the "
            "same way, with --features FILE."
            if given is None
            else f"--features {given}: {folder} makes the rows of new images itself. Leave it out."
        )
    if isinstance(given, Features):
        return given
    if kind == "file":
        usable = readable_pixels(
            images, GLANCE, run.checkpoint, progress
        ).usable  # broken ones need no row
        return load_features(Path(str(given)), images, usable)
    store = run.checkpoint / "rows.npy"
    if kind == "backbone":
        model = load_timm(maker["backbone"], maker["weights"])
        return extract(images, model, device=device, progress=tell, path=store)
    if kind == "network":
        trained = load_trained(folder / PRETEXT)
        pixels = (
            readable_pixels(images, trained.image_size, run.checkpoint, progress)
            if trained.joint
            else None
        )
        return trained_features(images, pixels, trained, device=device, run=run, progress=progress)
    model_of_rows = DictionaryModel.load(folder / DICTIONARY, device)
    pixels = readable_pixels(images, model_of_rows.settings.image_size, run.checkpoint, progress)
    made_by = (
        f"dictionary features {model_of_rows.settings.digest()} of {folder}, of "
        f"{images.fingerprint()} decoded by {decoder_name()}"
    )
    return transformed(
        images, pixels, made_by, lambda _: model_of_rows,
        lambda saved: DictionaryModel.load(saved, device), n_fitted=0, progress=tell, path=store,
    )  # fmt: skip


def check_width(features: Features, n_columns: int, folder: Path) -> None:
    """Refuse features of other columns than a model takes.

    Args:
        features: of new images.
        n_columns: of those that the model was trained on.
        folder: of the model.

    Raises:
        DataError: they have more or fewer.
    """
    if features.values.shape[1] != n_columns:
        raise DataError(
            f"{features.made_by}: features of {features.values.shape[1]} columns; {folder} was "
            f"made from {n_columns}. Give features that were made in the same way."
        )


def encoder_of(folder: Path, maker: Mapping[str, Any], device: str) -> Encoder:
    """What gives augmented views rows like those of a run.

    Raises:
        ConfigError: the rows came from a file: nothing is known of how.
    """
    kind = maker["maker"]
    if kind == "file":
        raise no_views_of_a_file()
    if kind == "dictionary":
        model = DictionaryModel.load(folder / DICTIONARY, device)
        size = model.settings.image_size
        name = f"dictionary {model.settings.digest()}"
        return Encoder(_transform(model), size, size, AS_STORED, name)
    if kind == "backbone":
        backbone = load_timm(maker["backbone"], maker["weights"])
        return _unit_encoder(backbone, backbone.size, device)
    trained = load_trained(folder / PRETEXT)
    if trained.joint is None:
        return _unit_encoder(as_backbone(trained), trained.image_size, device)
    joint = JointModel.load(trained.joint, trained.backbone, device)
    name = f"joint {joint.settings.digest()} {as_backbone(trained).name}"
    return Encoder(_transform(joint), trained.image_size, trained.image_size, AS_STORED, name)


def no_views_of_a_file() -> ConfigError:
    """What to say where views are to get rows like those of a file."""
    return ConfigError(
        "n_views is above 0 with --features: how the rows of views are made is not known. Set "
        "n_views=0, or let labelsieve make the features."
    )


def raw_encoder(network: Trained, size: int | None, device: str) -> Encoder:
    """What the network itself gives, of any length: what SCAN's heads stand on.

    Args:
        network: trained.
        size: side of what it sees, pixels; that of its training's views by default.
        device: "cpu", "cuda", ...
    """
    module = network.backbone.to(device).eval()
    return Encoder(
        lambda views: module(views).float(), size or network.view_size, network.image_size,
        network.normalization, f"{type(module).__name__} {digest(module)}",
    )  # fmt: skip


def _unit_encoder(backbone: Backbone, image_size: int, device: str) -> Encoder:
    """Rows as `extract` makes them."""
    module = backbone.module.to(device).eval()
    normalization = Normalization(backbone.mean, backbone.deviation)  # type: ignore[arg-type]
    return Encoder(
        lambda views: unit_rows(pooled(module(views)).float()),
        backbone.size, image_size, normalization, backbone.name,
    )  # fmt: skip


def _transform(model: DictionaryModel | JointModel) -> Callable[[Tensor], Tensor]:
    def rows_of(views: Tensor) -> Tensor:
        pixels = views.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        return torch.from_numpy(model.transform(np.ascontiguousarray(pixels)))

    return rows_of


def readable_pixels(images: ImageSet, size: int, folder: Path, progress: Progress) -> Pixels:
    """New images at a size, kept in a folder.

    Raises:
        DataError: none of them can be read.
    """
    path = folder / "pixels.npy"
    pixels = decode_images(images, size, path=path, progress=partial(progress, "decode"))
    if not pixels.usable.any():
        raise nothing_left(images, dict(enumerate(map(str, pixels.reasons))))
    return pixels
