"""Settings of a training, and its recipes: what is learned, by which model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from torch import nn

from labelsieve.data.augment import CIFAR10, CIFAR100, IMAGENET, Normalization
from labelsieve.errors import ConfigError, did_you_mean
from labelsieve.methods.sncf.classify import Classify
from labelsieve.methods.sncf.plain_training import Plain
from labelsieve.methods.sncf.training_recipes import MODELS, OBJECTIVES
from labelsieve.pipeline import Audit, recipe

Rows = Literal["features", "images"]
_NORMALIZATIONS = {"cifar10": CIFAR10, "cifar100": CIFAR100, "imagenet": IMAGENET}


@dataclass(frozen=True)
class Train:
    """Settings of a training: of the audit before it, and of the classifier."""

    audit: Audit = field(default_factory=Audit)  # where no run of one is given
    # features: a classifier on features that stay as they are, in seconds. images: a network.
    rows: Rows = "features"
    network: str = "small-preact"  # of rows images; see docs/training.md
    # scratch: new weights. pretrained: those of --network or --pretrain, and its sizes of images.
    start: Literal["scratch", "pretrained"] = "scratch"
    image_size: int = 32  # side of the images that views are cut from, pixels
    # What is taken off colors and what they are divided by; "network": as the network expects.
    normalization: Literal["network", "cifar10", "cifar100", "imagenet"] = "network"
    # Updates of the weights after which the epoch at work is the last, where training.epochs would
    # take longer: large sets get fewer epochs. 0: training.epochs, whatever the number of images.
    most_updates: int = 0
    # Whether what is said of each label is refined by what the classifier learned.
    refine: bool = True
    classify: Classify = field(default_factory=Classify)

    def __post_init__(self) -> None:
        choices = {
            "rows": get_args(Rows),
            "start": ("scratch", "pretrained"),
            "normalization": ("network", *_NORMALIZATIONS),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}."
                )
        for name, least in (("image_size", 1), ("most_updates", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} or more.")

    def normalized(self, network: nn.Module) -> Normalization:
        """How pixels are normalized for a network."""
        if self.normalization != "network":
            return _NORMALIZATIONS[self.normalization]
        found: Normalization = network.normalization  # type: ignore[assignment]
        return found

    def fitted_to(self, image_size: int, view_size: int) -> Train:
        """The same with the sizes that a network was trained with before."""
        weak = replace(self.classify.weak, size=view_size)
        strong = replace(self.classify.strong, size=view_size)
        return replace(
            self, image_size=image_size, classify=replace(self.classify, weak=weak, strong=strong)
        )

    def for_images(self, n_images: int) -> Train:
        """The same with as many epochs as `most_updates` leaves for so many images."""
        training = self.classify.training
        if not self.most_updates:
            return self
        n_batches = max(1, n_images // training.batch_size)
        epochs = max(1, min(training.epochs, -(-self.most_updates // n_batches)))
        changed = replace(training, epochs=epochs)
        return replace(self, classify=replace(self.classify, training=changed))


def train_recipe(
    name: str = "robust", model: str = "features", pretraining: str | None = None
) -> Train:
    """The settings of a recipe by its name, for a model by its name.

    Args:
        name: what is learned of the labels.
        model: what learns it, and for how long.
        pretraining: name of a recipe for features, if any.

    Raises:
        ConfigError: there is no such recipe or model.

    Example:
        >>> train_recipe("mixup").rows
        'features'
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"there is no recipe {name!r}. {did_you_mean(name, OBJECTIVES)}")
    if model not in MODELS:
        raise ConfigError(f"--model: there is no {model!r}. {did_you_mean(model, MODELS)}")
    objective, made = OBJECTIVES[name](), MODELS[model]()
    classify = replace(made.classify, objective=objective)
    if isinstance(objective, Plain):
        classify = replace(classify, projection="none")  # nothing is contrasted
    return Train(
        audit=recipe("robust", pretraining),
        rows=made.rows,
        network=made.network or Train.network,
        start=made.start,
        image_size=made.image_size,
        normalization=made.normalization,
        most_updates=made.most_updates,
        classify=classify,
    )
