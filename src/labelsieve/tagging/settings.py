"""Settings of a cleaning of tags: of features, of what is trained, of what stays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import get_args

from labelsieve.errors import ConfigError
from labelsieve.features import recipes
from labelsieve.features.dictionary import Dictionary
from labelsieve.features.pretrain import Pretrain
from labelsieve.methods.veit.recipes import OBJECTIVES, tag_recipe
from labelsieve.methods.veit.thresholds import Keep
from labelsieve.methods.veit.training import VeitTraining
from labelsieve.methods.veit.verify import Mode
from labelsieve.records.tag_verdicts import REVIEW

OWN = "own"  # stands for the name of a recipe where settings are those of none


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
        low, high = self.review
        if not 0 <= low <= high <= 1:
            raise ConfigError(
                f"review is from {low:g} to {high:g}; expected two probabilities in [0, 1], the "
                "lower one first."
            )

    def for_precision(self, target: float | None) -> Tag:
        """The same, with a share of what stays that is to be right."""
        return replace(self, keep=replace(self.keep, target_precision=target))


@dataclass(frozen=True)
class Wanted:
    """What a run makes beside clean tags."""

    n_questions: int = 0  # pairs to be verified next
    mode: Mode = "learn"  # what they are to be good for
    compare: tuple[str, ...] = ()  # recipes that are trained beside, to be scored

    def __post_init__(self) -> None:
        if self.n_questions < 0:
            raise ConfigError(f"{self.n_questions} tags to verify; expected 0 or more.")
        if self.mode not in get_args(Mode):
            raise ConfigError(f"there is no mode {self.mode!r}; expected learn or fix.")
        for name in self.compare:
            tag_recipe(name)


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


def recipe_of(settings: Tag) -> str:
    """The name of the recipe that trains so; "own" where none does.

    Example:
        >>> recipe_of(tagging_recipe("paper"))
        'paper'
    """
    return next((name for name, make in OBJECTIVES.items() if make() == settings.train), OWN)
