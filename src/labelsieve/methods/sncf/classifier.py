"""A network that says which class an image shows, and where it lies among others."""

from __future__ import annotations

import copy
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from labelsieve.errors import ConfigError
from labelsieve.features.heads import Classifier, ProjectionHead, width_of
from labelsieve.loop.optimizers import Average
from labelsieve.loop.runtime import Runtime


class Answers(NamedTuple):
    """What is said of a batch."""

    logits: Tensor  # (B, C) float32
    projections: Tensor | None  # (B, P) float32, unit-norm; None where nobody asked


class Trunk(nn.Module):
    """A backbone and a classifier on it: inputs to features (B, D) and logits (B, C).

    The classifier multiplies in float32 whatever the backbone does: bfloat16 rounds logits of 10 by
    0.03, which ties what is to be told apart by its loss, and it is a thousandth of the work.
    """

    backbone: nn.Module
    classifier: Classifier

    def __init__(self, backbone: nn.Module, classifier: Classifier) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.classifier(features.to(self.classifier.weight.dtype))
        return features, logits


class NoisyClassifier(nn.Module):
    """Copies of a backbone, a classifier on it, and a projection head beside that, if any.

    Source: SNCF, stage B: classifier and head stand on the same features and learn together.
    """

    trunk: Trunk
    projection: ProjectionHead | None

    def __init__(
        self, backbone: nn.Module, classifier: Classifier, projection: ProjectionHead | None = None
    ) -> None:
        """Copy the parts; what was given stays as it is.

        Raises:
            ConfigError: the parts do not fit each other.
        """
        super().__init__()
        width = width_of(backbone)
        wanted = {"classifier": classifier.settings.n_features}
        if projection is not None:
            wanted["projection head"] = projection.settings.n_in
        for name, n_in in wanted.items():
            if n_in != width:
                raise ConfigError(
                    f"the {name} takes {n_in} features and {type(backbone).__name__} gives {width}."
                    " Give one that was made for this network, or none."
                )
        self.trunk = Trunk(copy.deepcopy(backbone), copy.deepcopy(classifier))
        self.projection = copy.deepcopy(projection)

    def forward(self, images: Tensor, *, project: bool = False) -> Answers:
        """Inputs (B, 3, S, S), or rows (B, D), to what is said of them.

        Raises:
            ConfigError: projections are asked for and there is no head.
        """
        return _answers(self.trunk, self.projection, images, project)


class Prepared:
    """A `NoisyClassifier` that is ready to train; call it as one.

    Trunk and head are prepared apart: torch's DistributedDataParallel wants a gradient of each of a
    module's weights, and the head gets none while nothing is contrasted, nor weight decay.

    Attributes:
        bare: the classifier itself, of the same weights: to average, inspect and save.
        trunk: prepared.
        projection: prepared; None where there is no head.
    """

    def __init__(self, classifier: NoisyClassifier, runtime: Runtime) -> None:
        """Move the classifier to the runtime's device, in place, and see to its other processes."""
        self.bare = classifier
        self.trunk = runtime.prepare(classifier.trunk, compiled=True)
        self.projection: nn.Module | None = None
        if classifier.projection is not None:
            self.projection = runtime.prepare(classifier.projection, compiled=True)

    def __call__(self, images: Tensor, *, project: bool = False) -> Answers:
        return _answers(self.trunk, self.projection, images, project)

    def parts(self) -> dict[str, nn.Module]:
        """What is trained, as `make_optimizers` and the loop's `state` want it."""
        parts = {"trunk": self.trunk}
        return parts if self.projection is None else {**parts, "projection": self.projection}

    def train(self, mode: bool = True) -> None:
        """Training mode, or evaluation mode."""
        self.bare.train(mode)


def averaged(average: Average) -> NoisyClassifier:
    """The classifier whose weights are averages of another's."""
    found = average.module
    assert isinstance(found, NoisyClassifier)  # noqa: S101 -- what is averaged here
    return found


def _answers(
    trunk: nn.Module, projection: nn.Module | None, images: Tensor, project: bool
) -> Answers:
    features, logits = trunk(images)
    if not project:
        return Answers(logits, None)
    if projection is None:
        raise ConfigError("projections of a classifier without a projection head are asked for.")
    return Answers(logits, cast(Tensor, projection(features)))
