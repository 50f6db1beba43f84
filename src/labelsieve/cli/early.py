"""Slips of the fingers in paths and names, seen before torch is imported, which takes seconds.

Only that files, folders and names are there: what is in them is looked at by what reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from labelsieve.errors import ConfigError, DataError, did_you_mean

# Names of settings, as the modules have them that make these; a test holds this true.
_AUDITS = ("robust", "paper", "paper-webvision", "paper-cnwl", "prism")
RECIPES = {
    "audit": _AUDITS,
    "features": _AUDITS,
    "train": ("robust", "paper", "plain", "mixup", "gce", "elr", "dividemix", "clean",
              "clean-mixup"),
    "cluster": ("heads", "temi", "cpu", "scan-cpu", "scan-cifar10", "scan-cifar20", "scan-stl10",
                "scan-imagenet50", "scan-imagenet100", "scan-imagenet200", "scan-imagenet1000"),
    "retrieve": ("prism", "two-stage", "unfiltered", "soft-triple", "soft-triple-unfiltered",
                 "batch"),
    "tag": ("default", "paper", "paper-pretrained", "noisy", "clean", "clean-long", "mixed",
            "misra", "biases"),
}  # fmt: skip
MODELS = {
    "train": ("features", "cpu", "cifar", "cnwl", "webvision", "finetune"),
    "retrieve": ("features", "small", "cars", "cub", "cars-98n", "sop", "food-101n", "finetune"),
}
PRETRAINING = ("cpu", "cifar-simclr", "cifar-imix", "imagenet-moco")

_IMAGES = ("images", "test", "valid", "foreign_from")
_ON_A_RUN = ("report", "rerun", "predict", "evaluate", "export")


def refuse_slips(command: str, given: Mapping[str, Any]) -> None:
    """Refuse what is not there, with the words of what would find out later.

    Args:
        command: its name.
        given: its parameters by name.

    Raises:
        DataError: no such images, or no such file.
        ConfigError: no such recipe, model or network.
        RunError: no such run, or one that has not finished.
    """
    for option, known in (
        ("recipe", RECIPES.get(command)),
        ("model", MODELS.get(command)),
        ("pretrain", PRETRAINING),
    ):
        if known is not None and given.get(option) is not None:
            _known(option, given[option], known)
    if command in _ON_A_RUN and given.get("kind") != "onnx":  # a model alone can be exported
        from labelsieve.run import read_run

        for run in given.get("runs") or (given["run"],):
            read_run(run)
    source = given.get("images", given.get("table"))
    paths = [given[name] for name in (*_IMAGES, "table") if given.get(name) is not None]
    if paths:
        from labelsieve.data.read import check_there

        for path in paths:
            check_there(path)
    # a run says itself what it has no use for, whether it is there or not
    of_images = source is not None and "run" not in given
    if of_images and not (Path(source) / "run.json").is_file():
        _files(given)


def _known(option: str, name: str, known: Iterable[str]) -> None:
    where = "" if option == "recipe" else f"--{option}: "
    kind = "" if option == "model" else "recipe "
    if name not in known:
        raise ConfigError(f"{where}there is no {kind}{name!r}. {did_you_mean(name, known)}")


def _files(given: Mapping[str, Any]) -> None:
    """Of what makes features of images."""
    makers = ("features", "backbone", "network", "pretrain")
    if sum(given.get(name) is not None for name in makers) > 1:
        return  # that they contradict each other is worse
    kinds: dict[str, type[ConfigError | DataError]] = {"features": DataError}
    if given.get("backbone") is not None:
        kinds["weights"] = ConfigError
    if given.get("test") is not None:
        kinds["test_features"] = DataError
    for name, kind in kinds.items():
        path = given.get(name)
        if path is not None and not Path(path).is_file():
            raise kind(f"--{name.replace('_', '-')} {path}: there is no such file.")
    network = given.get("network")
    if network is not None and not Path(network).exists():
        raise ConfigError(f"--network {network}: there is no such folder or file.")
