"""A network of timm's as one that can be trained here, saved and loaded again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from labelsieve.data.augment import IMAGENET, Normalization
from labelsieve.errors import ConfigError, import_extra
from labelsieve.features.backbones import Backbone, n_features, pooled


@dataclass(frozen=True)
class TimmShape:
    """Which of timm's models, and what it expects."""

    name: str = "resnet50"  # as `timm.list_models()` has it
    size: int = 224  # side of its input, pixels
    mean: tuple[float, float, float] = IMAGENET.mean
    deviation: tuple[float, float, float] = IMAGENET.deviation


class TimmNet(nn.Module):
    """(B, 3, size, size) to (B, n_features): a timm model without its classifier, pooled."""

    def __init__(self, settings: TimmShape | None = None, module: nn.Module | None = None) -> None:
        """Take a model, or make a new one of the name.

        Raises:
            ConfigError: this version of timm has no such model.
            MissingExtraError: timm is not installed.
        """
        super().__init__()
        self.settings = settings = settings or TimmShape()
        self.normalization = Normalization(settings.mean, settings.deviation)
        self.module = module or _created(settings.name)
        self.n_features = n_features(self.module, settings.size)

    def forward(self, images: Tensor) -> Tensor:
        return pooled(self.module(images))


def trainable(backbone: Backbone, name: str) -> TimmNet:
    """What `load_timm` gave, as a network to train.

    Args:
        backbone: of timm.
        name: "timm:" and the model's name, as it was loaded.
    """
    red, green, blue = backbone.mean
    mean = (red, green, blue)
    red, green, blue = backbone.deviation
    shape = TimmShape(name.removeprefix("timm:"), backbone.size, mean, (red, green, blue))
    return TimmNet(shape, backbone.module)


def _created(name: str) -> nn.Module:
    timm = import_extra("timm", "timm", f"the network timm:{name}")
    if not timm.is_model(name):
        raise ConfigError(
            f"timm has no model {name!r} in this version. Install the one that it was saved with."
        )
    module: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    return module
