"""A network that was trained before, and the rows it makes: `--network PATH`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from labelsieve.data.augment import Normalization
from labelsieve.data.decode import Pixels, decode_images, decoder_name
from labelsieve.errors import ConfigError
from labelsieve.features.backbones import Backbone, network
from labelsieve.features.contrast import Encoder
from labelsieve.features.extract import extract, transformed
from labelsieve.features.heads import ClusterHeads
from labelsieve.features.joint import JointModel
from labelsieve.features.pretrain import Pretrain
from labelsieve.features.saved import load_network
from labelsieve.features.timm_nets import TimmNet
from labelsieve.features.weights import digest
from labelsieve.records import Features, ImageSet
from labelsieve.run import Run, read_run
from labelsieve.stages.inputs import Progress

PRETEXT = "pretext"  # in the folder of a clustering or training: what made its rows
JOINT = "joint.safetensors"  # beside a network's model.json, where its rows are joint ones
Rows = Literal["head", "network", "joint"]


class Trained(NamedTuple):
    """A network, what it expects, and how its rows are made.

    Its weights lie channels last in memory, as they do when they have just been trained: else the
    same images get rows that differ in their last bits.
    """

    backbone: nn.Module
    head: nn.Module | None
    image_size: int  # side of the images that its views were cut from, pixels
    view_size: int  # side of its input
    normalization: Normalization
    rows: Rows
    joint: Path | None  # the file of the map, where rows are joint ones


def load_trained(path: str | Path, pretraining: Pretrain | None = None) -> Trained:
    """The network that an earlier run trained, or one of ours with weights from a file.

    Args:
        path: a folder with model.json, such as that of `labelsieve features --pretrain`; or a file
            of weights, such as MoCo's of a ResNet-50.
        pretraining: what says of a file which network it is for, and how images are shown to it.

    Raises:
        ConfigError: there is no network, or the file has other weights than the settings' network.
    """
    path = Path(path)
    if path.is_dir():
        return _from_folder(path)
    if not path.exists():
        raise ConfigError(f"--network {path}: there is no such folder or file.")
    if pretraining is None:
        raise ConfigError(
            f"--network {path}: a file of weights does not say of which network. Give the folder "
            "with model.json that a training wrote, or a --recipe that names the network, as some "
            "of `labelsieve cluster` do."
        )
    module = network(pretraining.network, weights=path)
    module = in_training_format(module)
    normalization: Normalization = module.normalization  # type: ignore[assignment]
    size = pretraining.views.size
    return Trained(module, None, pretraining.image_size, size, normalization, "network", None)


def trained_features(
    images: ImageSet,
    pixels: Pixels | None,
    trained: Trained,
    *,
    device: str,
    run: Run,
    progress: Progress,
) -> Features:
    """The rows that a network makes of any images, new ones too.

    Args:
        images: any.
        pixels: of them at some small size, if they are decoded already; only joint rows need any.
        trained: the network.
        device: "cpu", "cuda", ...
        run: for what is on the way.
        progress: told stage, done and total.
    """
    tell, store = partial(progress, "features"), run.checkpoint / "rows.npy"
    if trained.joint is None:
        return extract(images, as_backbone(trained), device=device, progress=tell, path=store)
    if pixels is None or pixels.values.shape[-1] != trained.image_size:
        size = trained.image_size
        at = run.checkpoint / f"pixels-{size}.npy"
        pixels = decode_images(images, size, path=at, progress=partial(progress, "decode"))
    model = JointModel.load(trained.joint, trained.backbone, device)
    n = int(np.count_nonzero(pixels.usable))
    made_by = (
        f"joint features {model.settings.digest()} fitted before, of a network "
        f"{digest(trained.backbone)}, of {images.fingerprint()}, {n} decoded by {decoder_name()}"
    )
    return transformed(
        images, pixels, made_by, lambda _: model,
        lambda saved: JointModel.load(saved, trained.backbone, device),
        n_fitted=0, progress=tell, path=store,
    )  # fmt: skip


def as_backbone(trained: Trained) -> Backbone:
    """The network as what `extract` takes: with its head, or without."""
    module = trained.backbone
    if trained.rows == "head" and trained.head is not None:
        module = Encoder(trained.backbone, trained.head)
    mean, deviation = trained.normalization
    name = f"{type(trained.backbone).__name__} trained before {digest(module)}"
    return Backbone(module, trained.view_size, mean, deviation, name)


def of_backbone(network: TimmNet) -> Trained:
    """A network of timm's; images are a seventh larger than its views, 256 for 224."""
    size = network.settings.size
    module = in_training_format(network)
    return Trained(module, None, size + size // 7, size, network.normalization, "network", None)


def in_training_format(module: nn.Module) -> nn.Module:
    """The network with its weights laid out as `Runtime.prepare` does, in place."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _from_folder(path: Path) -> Trained:
    if (path / "run.json").is_file() and not (path / "model.json").is_file():
        raise ConfigError(
            f"--network {path}: made by `labelsieve {read_run(path)['job']}`, and no network was "
            f"trained in that run. {_OTHERS}{_own_features(path)}"
        )
    module, about = load_network(path)
    of_rows = isinstance(module, ClusterHeads) or "features" in about
    if of_rows and (path / PRETEXT).is_dir():
        return _from_folder(path / PRETEXT)  # clusters or classes of features that it made
    if of_rows or not isinstance(module, nn.ModuleDict) or "backbone" not in module:
        raise ConfigError(
            f"--network {path}: the model there has no backbone: no network was trained in that "
            f"run. {_OTHERS}"
        )
    try:
        rows: Rows = about.get("rows", "network")
        joint = path / JOINT if rows == "joint" else None
        if joint is not None and not joint.is_file():
            raise ConfigError(f"--network {path}: {JOINT}, which its rows need, is missing.")
        return Trained(
            backbone=in_training_format(module["backbone"]),
            head=dict(module.named_children()).get("head"),
            image_size=int(about["image_size"]),
            view_size=_view_size(about),
            normalization=_normalization(about["normalization"]),
            rows=rows,
            joint=joint,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"--network {path}: model.json does not say how images are shown to the network "
            f"({error!r}). Give a folder that this version of labelsieve wrote."
        ) from error


_OTHERS = (
    "Give a folder that `labelsieve features --pretrain` wrote, or `labelsieve cluster`, "
    "`train` or `retrieve` with a network."
)


def _own_features(run: Path) -> str:
    """What else can be done with a run that has features and no network."""
    features = run / "features.npy"
    return f" For its features, say --features {features}." if features.is_file() else ""


def _view_size(about: Mapping[str, Any]) -> int:
    return int(about["view_size"] if "view_size" in about else about["pretrain"]["views"]["size"])


def _normalization(about: Mapping[str, Any]) -> Normalization:
    return Normalization(tuple(about["mean"]), tuple(about["deviation"]))
