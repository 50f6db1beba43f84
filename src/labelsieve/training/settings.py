"""Settings of a training: of the audit before it, of what is trained, of what comes after."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from labelsieve.auditing.audit import Audit, recipe
from labelsieve.data.augment import CIFAR10, CIFAR100, IMAGENET, MINI_IMAGENET, Normalization
from labelsieve.methods.sncf.refine import Refine
from labelsieve.methods.sncf.training_recipes import Model, fitted

_NORMALIZATIONS = {
    "cifar10": CIFAR10, "cifar100": CIFAR100, "imagenet": IMAGENET, "mini-imagenet": MINI_IMAGENET
}  # fmt: skip


@dataclass(frozen=True)
class Train(Model):
    """Settings of a training."""

    audit: Audit = field(default_factory=Audit)  # where no run of one is given
    # How what is said of each label is refined by what the classifier learned; none: as audited.
    refine: Refine | None = field(default_factory=Refine)

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
        """The same with as many epochs as the least and most updates come to with so many images.

        Args:
            n_images: that are learned in an epoch.

        Example:
            >>> train_recipe("plain", "features").for_images(1000).classify.training.epochs
            400
        """
        training = self.classify.training
        n_batches = max(1, n_images // training.batch_size)
        epochs = training.epochs
        if self.most_updates:
            epochs = min(epochs, -(-self.most_updates // n_batches))
        epochs = max(epochs, -(-self.least_updates // n_batches))
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
        >>> train_recipe("mixup").classify.objective.alpha
        1.0
    """
    return Train(**vars(fitted(name, model)), audit=recipe("robust", pretraining))
