"""Networks that make features: a timm model with weights that are here already, or any module.

Nothing is downloaded, and no network gets random weights because its own were not found.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from labelsieve.errors import ConfigError, did_you_mean, import_extra

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
_PREFIX = "timm:"
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_ema",
    "model",
)  # keys that files put weights under
_N_SHOWN = 5  # names in a message


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
    """Any module as a `Backbone`, with ImageNet's mean and deviation.

    Args:
        model: a Backbone keeps what it expects.
        size: side of the input, pixels; needed for a bare module.

    Raises:
        ConfigError: a bare module without a size.
    """
    if isinstance(model, Backbone):
        if size is None or size == model.size:
            return model
        return Backbone(model.module, size, model.mean, model.deviation, model.name)
    name = f"{type(model).__name__} {_digest(model)}"
    if size is None:
        raise ConfigError(
            f"{name}: the size of its input is not known. Say it: extract(images, model, size=224)."
        )
    return Backbone(model, size, IMAGENET_MEAN, IMAGENET_DEVIATION, name)


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
        name=f"{name} {_digest(module)}",
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
            f"{_first_line(error)}. {what_to_do}"
        ) from error
    network: nn.Module = module
    return network


def _from_file(timm: ModuleType, name: str, weights: Path) -> nn.Module:
    """The model with exactly the parameters of a file, its classifier left out."""
    state = _read_state(weights)
    module: nn.Module = timm.create_model(
        name.removeprefix(_PREFIX), pretrained=False, num_classes=0
    )
    expected = module.state_dict()
    classifier = _classifier_names(module)
    missing = [key for key in expected if key not in state]
    other_shape = [
        f"{key} {tuple(state[key].shape)} in place of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    unknown = [key for key in state if key not in expected and not key.startswith(classifier)]
    if missing or other_shape or unknown:
        parts = {"missing": missing, "of another shape": other_shape, "unknown": unknown}
        found = "; ".join(
            f"{len(keys)} {what} ({_some(keys)})" for what, keys in parts.items() if keys
        )
        raise ConfigError(
            f"{weights}: not the weights of {name}: of its {len(expected)} parameters, {found}. "
            "Give the weights of this model as timm names them."
        )
    module.load_state_dict({key: state[key] for key in expected})
    return module


def _classifier_names(module: nn.Module) -> tuple[str, ...]:
    """How keys of the classifier begin; a file may have it, we do not need it."""
    about = getattr(module, "pretrained_cfg", None) or {}
    names = about.get("classifier") or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    return tuple(f"{each}." for each in names)


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, by name. Never runs code from the file."""
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"--weights {path}: there is no such file.") from error
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise ConfigError(
            f"--weights {path}: cannot be read as weights: {_first_line(error)}. "
            "Give a .safetensors file, or a .pth, .pt or .bin file of tensors alone."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(
            f"--weights {path}: holds a {type(state).__name__} of other things than tensors; "
            "expected a model's state_dict."
        )
    # DistributedDataParallel puts "module." before every name
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:_N_SHOWN]) + (", ..." if len(keys) > _N_SHOWN else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")


def _digest(module: nn.Module) -> str:
    """A hash of all parameters and buffers, with their names."""
    digest = hashlib.blake2b(digest_size=6)
    for key, value in module.state_dict().items():
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\0".encode())
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
