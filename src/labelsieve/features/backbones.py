"""Networks that make features: our own by name, timm's with weights that are here, or any module.

Nothing is downloaded, and no network of timm's gets random weights because its own were not found.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.data.augment import IMAGENET, Normalization
from labelsieve.errors import ConfigError, did_you_mean, import_extra
from labelsieve.features.bn_inception import bn_inception, bn_inception_caffe
from labelsieve.features.conv_net import SmallConvNet, small_conv_net
from labelsieve.features.inception import inception_resnet_v2, inception_resnet_v2_tf
from labelsieve.features.resnets import (
    cifar_resnet18,
    mean_over_places,
    narrow_resnet18,
    preact_resnet18,
    resnet50,
    small_preact,
    stl_resnet18,
)
from labelsieve.features.small_nets import DictionaryNet, DictionaryShape
from labelsieve.features.weights import digest, drawn_from, first_line, load_strict, read_state

IMAGENET_MEAN, IMAGENET_DEVIATION = IMAGENET
_PREFIX = "timm:"
_BY_NAME: dict[str, Callable[[], nn.Module]] = {
    "bn-inception": bn_inception,
    "bn-inception-caffe": bn_inception_caffe,
    "cifar-resnet18": cifar_resnet18,
    "dictionary-net": DictionaryNet,
    "inception-resnet-v2": inception_resnet_v2,
    "inception-resnet-v2-tf": inception_resnet_v2_tf,
    "narrow-resnet18": narrow_resnet18,
    "preact-resnet18": preact_resnet18,
    "preact-resnet18-identity": partial(preact_resnet18, identity=True),
    "resnet50": resnet50,
    "small-conv-net": small_conv_net,
    # 2.3 times as fast as dictionary-net, and as good in the same time where labels teach it
    "small-dictionary-net": partial(DictionaryNet, DictionaryShape(widths=(64, 128))),
    "small-preact": small_preact,
    "stl-resnet18": stl_resnet18,
}


@dataclass(frozen=True)
class Backbone:
    """A network and what it expects."""

    module: nn.Module  # (B, 3, size, size) -> (B, D) or (B, D, H, W)
    size: int  # side of its input, pixels
    mean: tuple[float, ...]  # of R, G, B in [0, 1], taken out of the input
    deviation: tuple[float, ...]  # what the rest is divided by
    name: str  # with a hash of its weights: equal means equal features

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"{self.name}: size is {self.size} pixels; at least 1 is needed.")
        if len(self.mean) != 3 or len(self.deviation) != 3 or min(self.deviation) <= 0:
            raise ConfigError(
                f"{self.name}: mean {self.mean} and deviation {self.deviation}; expected three "
                "numbers each, the deviations above 0."
            )


def wrap(model: Backbone | nn.Module, size: int | None = None) -> Backbone:
    """Any module as a `Backbone`, with its own normalization, or ImageNet's where it says none.

    Args:
        model: a Backbone keeps what it expects; of a module the attribute `normalization` is read.
        size: side of the input, pixels; needed for a bare module.

    Raises:
        ConfigError: a bare module without a size.
    """
    if isinstance(model, Backbone):
        if size is None or size == model.size:
            return model
        return Backbone(model.module, size, model.mean, model.deviation, model.name)
    name = f"{type(model).__name__} {digest(model)}"
    if size is None:
        raise ConfigError(
            f"{name}: the size of its input is not known. Say it: extract(images, model, size=224)."
        )
    mean, deviation = getattr(model, "normalization", IMAGENET)
    return Backbone(model, size, mean, deviation, name)


def network(
    name: str,
    *,
    weights: str | Path | None = None,
    pixels: NDArray[np.uint8] | None = None,
    rows: NDArray[np.int64] | None = None,
    size: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """One of this package's own networks, to be trained or with weights from a file.

    Args:
        name: such as "cifar-resnet18"; a wrong one gets the near ones named. For others settings
            make the class itself, such as `ResNet(ResNetShape(...))`.
        weights: a file of its parameters; for resnet50 also torchvision's, timm's or MoCo's, for
            inception-resnet-v2-tf also timm's, for bn-inception those of Caffe's
            (bn_inception-52deb4733.pth).
        pixels: (N, 3, S, S), that a dictionary-net learns its first layer from; needed unless there
            are weights, and not used by others.
        rows: which of them, such as those that could be decoded; all by default.
        size: side of the images that it will be shown, pixels, where its features depend on it:
            small-conv-net, which is for 32 unless told.
        seed: of the first weights and of the dictionary.

    Returns:
        from (B, 3, H, W) to (B, module.n_features); its input is normalized as
        `module.normalization` says.

    Raises:
        ConfigError: no such network; or no pixels; or weights of another one.
    """
    check_name(name)
    with drawn_from(seed):
        module = _BY_NAME[name]()
        if isinstance(module, SmallConvNet) and size is not None:
            module = small_conv_net(size)
    if weights is not None:
        path = Path(weights)
        leftovers = getattr(module, "leftovers", ())
        load_strict(module, read_state(path), source=path, name=name, leftovers=leftovers)
    elif isinstance(module, DictionaryNet):
        if pixels is None:
            raise ConfigError(
                f"{name} learns its first layer from your images, and there are none. Give them: "
                f"network({name!r}, pixels=...)."
            )
        module.learn_stem(pixels, seed, rows)
    return module


def check_name(name: str) -> None:
    """Refuse the name of a network that this package does not have.

    Raises:
        ConfigError: the near names.
    """
    if name not in _BY_NAME:
        timm = " With timm: before a name, timm's are meant: see load_timm."
        raise ConfigError(f"there is no network {name!r}. {did_you_mean(name, _BY_NAME)}{timm}")


class Pooled(nn.Module):
    """Any network as one that gives (B, n_features) and, where it has maps, gives them too."""

    def __init__(self, module: nn.Module, size: int) -> None:
        """Find out by one forward pass of zeros how many features there are.

        Args:
            module: (B, 3, size, size) to (B, D) or (B, D, h, w).
            size: pixels; other sizes may be given later where the module takes them.

        Raises:
            ConfigError: its output is of another shape.
        """
        super().__init__()
        self.module = module
        self.normalization: Normalization = getattr(module, "normalization", IMAGENET)
        self.n_features = n_features(module, size)

    def maps(self, images: Tensor) -> Tensor:
        """(B, D, h, w): the last map; of 1x1 where the network gives features at once."""
        forward: Callable[[Tensor], Tensor] = getattr(self.module, "maps", self.module)
        found = forward(images)
        return found if found.ndim == 4 else found[:, :, None, None]

    def forward(self, images: Tensor) -> Tensor:
        return pooled(self.module(images))


def n_features(module: nn.Module, size: int) -> int:
    """How many features a network gives: as it says, or by one forward pass of two black images.

    Args:
        module: left as it was.
        size: of the images, pixels.

    Raises:
        ConfigError: it gives something else than (B, D) or (B, D, h, w).
    """
    if isinstance(said := getattr(module, "n_features", None), int):
        return said
    like = next((each for each in module.parameters()), torch.zeros(()))
    training = {each: each.training for each in module.modules()}
    module.eval()  # batch norms should not learn from black images
    try:
        with torch.no_grad():
            output = module(torch.zeros(2, 3, size, size, device=like.device, dtype=like.dtype))
    finally:
        for each, was in training.items():
            each.training = was
    if not isinstance(output, Tensor) or output.ndim not in (2, 4) or len(output) != 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"{type(module).__name__} gives {found} for 2 images; expected a tensor (B, D) or "
            "(B, D, h, w). Wrap it in a module that picks or pools its output."
        )
    return int(output.shape[1])


def pooled(output: Tensor) -> Tensor:
    """(B, D) features; of maps (B, D, h, w) the mean."""
    return output if output.ndim == 2 else mean_over_places(output)


def load_timm(name: str, weights: str | Path | None = None) -> Backbone:
    """A pretrained timm model without its classifier, from weights that are on this machine.

    Its input is the whole central square of an image at the model's own size (timm's evaluation
    crops a little more); mean and standard deviation are the model's own.

    Args:
        name: "timm:" and a name that `timm.list_models()` has.
        weights: a .safetensors, .pth, .pt or .bin file of this model's parameters. Without it, only
            weights that an earlier download left in the Hugging Face cache are used, and only where
            HF_HUB_OFFLINE=1 says that nothing may be downloaded.

    Raises:
        ConfigError: no such model, or no weights, or weights of another model.
        MissingExtraError: timm is not installed.
    """
    model_name = name.removeprefix(_PREFIX)
    if not name.startswith(_PREFIX) or not model_name:
        raise ConfigError(
            f"there is no backbone {name!r}; expected timm:NAME, such as timm:resnet50."
        )
    timm = import_extra("timm", "timm", f"--backbone {name}")
    if not timm.is_model(model_name):
        known = timm.list_models()
        raise ConfigError(f"timm has no model {model_name!r}. {_near(model_name, known)}")
    module = _from_cache(timm, name) if weights is None else _from_file(timm, name, Path(weights))
    expects = timm.data.resolve_model_data_config(module)
    return Backbone(
        module=module.eval(),
        size=int(expects["input_size"][-1]),
        mean=tuple(map(float, expects["mean"])),
        deviation=tuple(map(float, expects["std"])),
        name=f"{name} {digest(module)}",
    )


def _near(name: str, known: list[str]) -> str:
    """Near names, but not all thousand of them where none is near."""
    text = did_you_mean(name, known)
    return text if text.startswith("Did") else "List them with timm.list_models()."


def _from_cache(timm: ModuleType, name: str) -> nn.Module:
    """The model with weights from the Hugging Face cache; never from the network."""
    model_name = name.removeprefix(_PREFIX)
    what_to_do = (
        "Get them from https://huggingface.co/timm and give the file with --weights FILE; or, "
        "where they are in the Hugging Face cache already, set HF_HUB_OFFLINE=1."
    )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() not in ("1", "ON", "YES", "TRUE"):
        raise ConfigError(
            f"--backbone {name} needs pretrained weights, and nothing is downloaded without being "
            f"asked for. {what_to_do}"
        )
    about = timm.get_pretrained_cfg(model_name)
    if about is None or not about.hf_hub_id:  # timm would turn to an address outside the cache
        raise ConfigError(f"timm knows no weights of {model_name!r} in the hub. {what_to_do}")
    try:
        # With its classifier, which is then taken off: without it, timm would not insist on finding
        # every other parameter.
        module: Any = timm.create_model(model_name, pretrained=True)
        module.reset_classifier(0)
    except Exception as error:  # the hub's, the network's and timm's own kinds
        raise ConfigError(
            f"--backbone {name}: its weights are not in the Hugging Face cache: "
            f"{first_line(error)}. {what_to_do}"
        ) from error
    network: nn.Module = module
    return network


def _from_file(timm: ModuleType, name: str, weights: Path) -> nn.Module:
    """The model with exactly the parameters of a file, its classifier left out."""
    state = read_state(weights)
    module: nn.Module = timm.create_model(
        name.removeprefix(_PREFIX), pretrained=False, num_classes=0
    )
    load_strict(module, state, source=weights, name=name, leftovers=_classifier_names(module))
    return module


def _classifier_names(module: nn.Module) -> tuple[str, ...]:
    """How keys of the classifier begin; a file may have it, we do not need it."""
    about = getattr(module, "pretrained_cfg", None) or {}
    names = about.get("classifier") or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    return tuple(f"{each}." for each in names)
