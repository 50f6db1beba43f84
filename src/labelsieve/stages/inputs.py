"""What a command was given: which images, where, and what makes their features."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from labelsieve.errors import ConfigError

Progress = Callable[[str, int, int], None]  # stage, done, total

_PATHS = (
    "source", "valid", "features", "weights", "network", "audited", "decisions", "decided", "test",
    "test_features", "image_folder", "synonyms", "groups",
)  # fmt: skip
_PATHS_OR_COLUMNS = ("verified", "answers", "truth")


@dataclass(frozen=True)
class Inputs:
    """What is worked on, where and with what; everything else is settings."""

    source: str
    label: str | None = None  # column
    truth: str | None = None  # column
    valid: str | None = None  # images to choose by, not to learn from: of clustering
    audited: str | None = None  # folder of the audit whose findings a training takes
    decisions: str | None = None  # file of what people decided, of a training
    decided: str | None = None  # file of all that they had decided, of one that is repeated
    test: str | None = None  # images to score a trained classifier on
    test_label: str | None = None  # column
    features: str | None = None  # file of the user's own
    test_features: str | None = None  # and of the test images'
    backbone: str | None = None  # timm:NAME
    weights: str | None = None  # file
    network: str | None = None  # folder of a trained one, or file of weights
    pretrain: str | None = None  # recipe of features/recipes.py
    verified: str | None = None  # of tags: what people found, a column or a file
    answers: str | None = None  # the same, only to score by
    image_folder: str | None = None  # of tags: the folder of the images' files
    synonyms: str | None = None  # of tags: a file
    implies: tuple[str, ...] = ()  # of tags: such as "dog:animal"
    groups: str | None = None  # of tags: a file of what is scored together
    recipe: str = "robust"
    model: str = "features"  # what a training trains
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; expected 0 to {2**32 - 1}.")
        makers = {"--features": self.features, "--backbone": self.backbone,
                  "--network": self.network, "--pretrain": self.pretrain}  # fmt: skip
        given = [option for option, value in makers.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(f"{given[0]} and {given[1]} both name features; give one of them.")
        if self.weights is not None and self.backbone is None:
            raise ConfigError("--weights needs --backbone timm:NAME to load them into.")


def recorded(inputs: Inputs) -> dict[str, Any]:
    """Inputs as run.json keeps them: with absolute paths, to be read from anywhere."""
    paths = {name: getattr(inputs, name) for name in _PATHS}
    for name in _PATHS_OR_COLUMNS:
        given = getattr(inputs, name)
        paths[name] = given if given is not None and os.path.exists(given) else None
    return asdict(inputs) | {name: os.path.abspath(p) for name, p in paths.items() if p is not None}


def stamps(inputs: Inputs) -> dict[str, str]:
    """Size and time of change of the files given: another stamp, another file."""
    given = (
        inputs.features, inputs.weights, _weights_of(inputs.network), inputs.test_features,
        inputs.verified, inputs.answers, inputs.synonyms, inputs.groups,
    )  # fmt: skip
    return stamps_of(name for name in given if name)


def stamps_of(files: Iterable[str]) -> dict[str, str]:
    """Size and time of change of the files that are there."""
    found = {name: os.stat(name) for name in files if os.path.exists(name)}
    return {name: f"{about.st_size} {about.st_mtime_ns}" for name, about in found.items()}


def _weights_of(network: str | None) -> str | None:
    """The file that changes where a network is replaced."""
    if network is None or not os.path.isdir(network):
        return network
    return os.path.join(network, "model.safetensors")


def check_device(name: str) -> None:
    """Refuse a device that is not there, before hours of other work.

    Raises:
        ConfigError: it cannot be used here.
    """
    try:
        torch.empty(1, device=name)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        why = str(error).strip().split("\n")[0].rstrip(".")
        raise ConfigError(
            f"--device {name} cannot be used here: {why}. Try --device cpu."
        ) from error


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
