"""Networks of our own on disk: model.safetensors, and model.json that says how to build them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_origin, get_type_hints

from safetensors.torch import save
from torch import nn

from labelsieve.config import to_dict
from labelsieve.data.augment import Normalization
from labelsieve.errors import ConfigError, did_you_mean
from labelsieve.features.bn_inception import BnInception, BnInceptionShape
from labelsieve.features.conv_net import ConvShape, SmallConvNet
from labelsieve.features.heads import Classes, Classifier, ClusterHeads, Projection, ProjectionHead
from labelsieve.features.inception import InceptionResNet, InceptionShape
from labelsieve.features.pooling import MaxPooled
from labelsieve.features.resnets import PreActResNet, PreActShape, ResNet, ResNetShape
from labelsieve.features.rows import Rows, RowShape
from labelsieve.features.small_nets import DictionaryNet, DictionaryShape
from labelsieve.features.tag_heads import (
    CleanerShape,
    GateCleaner,
    GateShape,
    LabelCleaner,
    Tagger,
)
from labelsieve.features.timm_nets import TimmNet, TimmShape
from labelsieve.features.twins import Twins
from labelsieve.features.weights import digest, drawn_from, load_strict, read_state
from labelsieve.files import atomic, write_json

_WEIGHTS, _ABOUT = "model.safetensors", "model.json"
_PARTS = "parts"  # an nn.ModuleDict of architectures
_TWINS = "twins"  # two architectures side by side
_MAX_POOLED = "max-pooled"  # an architecture whose last maps are pooled by their maximum
_OURS = ("architecture", "settings", "digest")  # keys of model.json that are not the caller's


class _Architecture(NamedTuple):
    kind: type[nn.Module]
    settings: type
    build: Callable[[Any], nn.Module]


_ARCHITECTURES = {
    "resnet": _Architecture(ResNet, ResNetShape, ResNet),
    "preact-resnet": _Architecture(PreActResNet, PreActShape, PreActResNet),
    "bn-inception": _Architecture(BnInception, BnInceptionShape, BnInception),
    "small-conv-net": _Architecture(SmallConvNet, ConvShape, SmallConvNet),
    "inception-resnet": _Architecture(InceptionResNet, InceptionShape, InceptionResNet),
    "dictionary-net": _Architecture(DictionaryNet, DictionaryShape, DictionaryNet),
    "timm": _Architecture(TimmNet, TimmShape, TimmNet),
    "rows": _Architecture(
        Rows, RowShape, lambda shape: Rows(shape.n_in, shape.n_hidden, shape.turned)
    ),
    "projection-head": _Architecture(ProjectionHead, Projection, ProjectionHead),
    "classifier": _Architecture(
        Classifier, Classes, lambda classes: Classifier(classes.n_features, classes.n_classes)
    ),
    "cluster-heads": _Architecture(
        ClusterHeads,
        Classes,
        lambda classes: ClusterHeads(classes.n_features, classes.n_classes, classes.n_heads),
    ),
    "tagger": _Architecture(
        Tagger, Classes, lambda classes: Tagger(classes.n_features, classes.n_classes)
    ),
    "label-cleaner": _Architecture(LabelCleaner, CleanerShape, LabelCleaner),
    "gate-cleaner": _Architecture(GateCleaner, GateShape, GateCleaner),
}


def save_network(folder: Path, module: nn.Module, about: Mapping[str, Any]) -> None:
    """Write a network of ours into a folder, so that `load_network` builds it again.

    model.json is written last and holds a hash of the weights: where writing was cut off between
    the two, `load_network` says so.

    Args:
        folder: it is there; an earlier model in it is replaced.
        module: one of this package's networks or heads, without wrappers; or several of them in an
            `nn.ModuleDict`, such as {"backbone": ..., "head": ...}.
        about: what else to keep, ready for JSON: preprocessing, class names, ...

    Raises:
        ConfigError: the module is none of ours, or `about` uses one of our keys.
        RunError: the files cannot be written.
    """
    taken = [key for key in about if key in _OURS]
    if taken:
        raise ConfigError(f"{', '.join(taken)}: model.json says this itself. Use another key.")
    description = _describe(module)
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    with atomic(folder / _WEIGHTS) as partial:
        # by hand: what safetensors raises does not say whether the disk was full
        partial.write_bytes(save(state))
    write_json(folder / _ABOUT, {**description, "digest": digest(module), **about})


def load_network(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network that `save_network` wrote, on the CPU and in evaluation mode.

    Returns:
        the module, and what was kept about it.

    Raises:
        ConfigError: there is none, or it is of an architecture or settings that this version does
            not know, or its two files do not belong together.
    """
    folder = Path(folder)
    path = folder / _ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        described = {key: about.pop(key) for key in _OURS}
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: there is no such file. Give a folder with a trained model: {_ABOUT} and "
            f"{_WEIGHTS}."
        ) from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{path}: cannot be read as what is known of a model: {error!r}. Give a folder that "
            "labelsieve wrote a model to."
        ) from error
    with drawn_from(0):  # weights that are thrown away should not move PyTorch's generator
        module = _build(described, str(path))
    state = read_state(folder / _WEIGHTS, option="")
    load_strict(
        module, state, source=folder / _WEIGHTS, name=f"what {_ABOUT} describes", prefixes=("",)
    )
    found = digest(module)
    if found != described["digest"]:
        raise ConfigError(
            f"{folder / _WEIGHTS}: has the hash {found}, and {path} is about weights with "
            f"{described['digest']}: saving was cut off, or one of them was replaced. "
            "Save the model again, or resume the run that made it."
        )
    return module.eval(), about


def _describe(module: nn.Module) -> dict[str, Any]:
    """Which architecture with which settings: what `_build` needs."""
    if type(module) is Twins:
        both = {"first": _describe(module.first), "second": _describe(module.second)}
        return {"architecture": _TWINS, "settings": both}
    if type(module) is MaxPooled:
        return {"architecture": _MAX_POOLED, "settings": _describe(module.module)}
    if type(module) is nn.ModuleDict:
        parts = {name: _describe(part) for name, part in module.items()}
        return {"architecture": _PARTS, "settings": parts}
    for name, architecture in _ARCHITECTURES.items():
        if type(module) is architecture.kind:
            return {"architecture": name, "settings": to_dict(module.settings)}
    raise ConfigError(
        f"a {type(module).__name__} cannot be saved as a model of labelsieve's, which has "
        f"{', '.join(each.kind.__name__ for each in _ARCHITECTURES.values())}. Save its "
        "state_dict() with torch.save instead."
    )


def _build(description: Mapping[str, Any], where: str) -> nn.Module:
    """A module with weights that are yet to be loaded."""
    name, settings = description["architecture"], description["settings"]
    if name == _PARTS:
        parts = {part: _build(each, where) for part, each in settings.items()}
        return nn.ModuleDict(parts)
    if name == _TWINS:
        return Twins(_build(settings["first"], where), _build(settings["second"], where))
    if name == _MAX_POOLED:
        return MaxPooled(_build(settings, where))
    if name not in _ARCHITECTURES:
        raise ConfigError(
            f"{where}: no architecture {name!r} is known here. {did_you_mean(name, _ARCHITECTURES)}"
            " It may have been saved by a newer version of labelsieve."
        )
    architecture = _ARCHITECTURES[name]
    return architecture.build(_settings(architecture.settings, settings, where))


def _settings(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    """Settings out of what JSON made of them: lists are tuples again."""
    types = get_type_hints(kind)
    for name in values:
        if name not in types:
            raise ConfigError(
                f"{where}: {kind.__name__} has no setting {name!r}. {did_you_mean(name, types)} It "
                "may have been saved by a newer version of labelsieve."
            )
    made: dict[str, Any] = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(types[name]):
            made[name] = _settings(types[name], value, where)
        elif types[name] is Normalization:
            made[name] = Normalization(*map(tuple, value))
        else:
            made[name] = tuple(value) if get_origin(types[name]) is tuple else value
    return kind(**made)
