"""Settings of a retrieval training: of features before it, of what is trained, of its suspects."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from labelsieve.errors import ConfigError
from labelsieve.features import recipes
from labelsieve.features.dictionary import Dictionary
from labelsieve.features.pretrain import Pretrain
from labelsieve.methods.prism.detect import PrismDetection
from labelsieve.methods.prism.offline import Offline
from labelsieve.methods.prism.recipes import MODELS, OBJECTIVES, Learned, Retriever, fitted
from labelsieve.neighbors.duplicates import Duplicates


@dataclass(frozen=True)
class Retrieve(Retriever):
    """Settings of a retrieval training."""

    dictionary: Dictionary = field(default_factory=Dictionary)  # of features, unless given
    pretrain: Pretrain | None = None  # of features, where --pretrain names a recipe
    # Of wrong labels, by the trained embedding.
    suspects: PrismDetection = field(default_factory=lambda: PrismDetection(offline=Offline()))
    duplicates: Duplicates = field(default_factory=Duplicates)

    def with_noise_rate(self, rate: float | Literal["auto"]) -> Retrieve:
        """The same for a share of wrong labels that is known, or is to be estimated.

        Raises:
            ConfigError: the share is not in [0, 1), or nothing is filtered.
        """
        if self.embed.filter is None:
            raise ConfigError(
                f"--noise-rate {rate}: this recipe filters nothing. Leave it out, or take another "
                "recipe."
            )
        changed = replace(
            self,
            embed=replace(self.embed, filter=replace(self.embed.filter, noise_rate=rate)),
            suspects=replace(
                self.suspects, offline=replace(self.suspects.offline, noise_rate=rate)
            ),
        )
        if self.second is None:
            return changed
        offline = replace(self.second.offline, noise_rate=rate)
        return replace(changed, second=replace(self.second, offline=offline))


def retrieve_recipe(
    name: str = "prism", model: str = "features", pretraining: str | None = None
) -> Retrieve:
    """The settings of a recipe by its name, for a model by its name.

    Args:
        name: what is learned of the labels.
        model: what learns it, and for how long.
        pretraining: name of a recipe for features, if any.

    Raises:
        ConfigError: there is no such recipe or model.
    """
    return Retrieve(**vars(fitted(name, model)), pretrain=recipes.pretraining(pretraining))


def recipe_of(settings: Retriever) -> str:
    """The name of the recipe that learns in this way, whatever else was changed.

    Where none does, of the first one with the same kind of loss.

    Example:
        >>> recipe_of(retrieve_recipe("two-stage", "small"))
        'two-stage'
    """

    def way(learned: Learned) -> tuple[object, ...]:
        against = getattr(learned.loss, "memory_weight", 0) > 0
        return type(learned.loss), against, learned.filtered, learned.second is None

    own = Learned(settings.embed.loss, settings.embed.filter is not None, settings.second)
    alike = [name for name, make in OBJECTIVES.items() if type(make().loss) is type(own.loss)]
    return next((name for name in alike if way(OBJECTIVES[name]()) == way(own)), alike[0])


def model_of(settings: Retriever) -> str:
    """The name of the first model that begins with the same; "finetune" where none does.

    Example:
        >>> model_of(retrieve_recipe("two-stage", "small"))
        'small'
    """

    def kind(model: Retriever) -> tuple[object, ...]:
        return model.rows, model.network, model.start

    return next(
        (name for name, make in MODELS.items() if kind(make()) == kind(settings)), "finetune"
    )
