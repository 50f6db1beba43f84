"""Settings of a cleaning of tags: of features, of what is trained, of what stays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from labelsieve.errors import ConfigError
from labelsieve.features import recipes
from labelsieve.features.dictionary import Dictionary
from labelsieve.features.pretrain import Pretrain
from labelsieve.methods.veit.recipes import tag_recipe
from labelsieve.methods.veit.thresholds import Keep
from labelsieve.methods.veit.training import VeitTraining
from labelsieve.tag_verdicts import REVIEW


@dataclass(frozen=True)
class Tag:
    """Settings of a cleaning of tags."""

    train: VeitTraining = field(default_factory=VeitTraining)
    keep: Keep = field(default_factory=Keep)  # which of the asserted tags stay
    review: tuple[float, float] = REVIEW  # probabilities that a person should look at
    # Tags that nobody asserted are added from this probability on; 0: none. What people verified
    # says nothing of those that were left out.
    add_from: float = 0.0
    learn_backbone: bool = False  # the network that is given learns along; else features stay
    dictionary: Dictionary = field(default_factory=Dictionary)  # of features, unless given
    pretrain: Pretrain | None = None  # of features, where --pretrain names a recipe

    def __post_init__(self) -> None:
        if not 0 <= self.add_from <= 1:
            raise ConfigError(f"add_from is {self.add_from}; expected 0 to 1.")

    def for_precision(self, target: float | None) -> Tag:
        """The same, with a share of what stays that is to be right."""
        return replace(self, keep=replace(self.keep, target_precision=target))


def tagging_recipe(name: str = "default", pretraining: str | None = None) -> Tag:
    """The settings of a recipe by its name.

    Args:
        name: of what is learned.
        pretraining: name of a recipe for features, if any.

    Raises:
        ConfigError: there is no such recipe.

    Example:
        >>> tagging_recipe("paper").train.training.optimizer.name
        'rmsprop'
    """
    return Tag(train=tag_recipe(name), pretrain=recipes.pretraining(pretraining))
