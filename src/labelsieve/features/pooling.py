"""Features of the last map by its maximum over places, in place of the mean."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from labelsieve.data.augment import IMAGENET, Normalization
from labelsieve.errors import ConfigError

Pooling = Literal["mean", "max"]


class MaxPooled(nn.Module):
    """A network whose features are the maximum of each of its last maps.

    Papers on metric learning pool so: a feature says whether something is anywhere in the picture.
    """

    def __init__(self, module: nn.Module) -> None:
        """Take a network; its weights are shared.

        Args:
            module: with `maps`, as networks of this package have it.

        Raises:
            ConfigError: it has no maps.
        """
        super().__init__()
        if not has_maps(module):
            raise ConfigError(
                f"{type(module).__name__} has no maps to take the maximum of. Give a network of "
                "labelsieve's, such as resnet50, or set pooling=mean."
            )
        self.module = module
        self.n_features = int(module.n_features)  # type: ignore[arg-type]
        self.normalization: Normalization = getattr(module, "normalization", IMAGENET)

    def maps(self, images: Tensor) -> Tensor:
        """(B, n_features, h, w): the last map."""
        found: Tensor = self.module.maps(images)  # type: ignore[operator]
        return found

    def forward(self, images: Tensor) -> Tensor:
        return max_over_places(self.maps(images))


def pooled_by(module: nn.Module, pooling: Pooling) -> nn.Module:
    """A network with its features pooled as wanted.

    Args:
        module: a network; given back as it is where it pools so already.
        pooling: mean is how networks of this package pool by themselves.

    Raises:
        ConfigError: the maximum is wanted of a network without maps, or there is no such pooling.
    """
    if pooling not in get_args(Pooling):
        raise ConfigError(
            f"pooling is {pooling!r}; expected one of {', '.join(get_args(Pooling))}."
        )
    if isinstance(module, MaxPooled):
        return module if pooling == "max" else module.module
    return MaxPooled(module) if pooling == "max" else module


def has_maps(module: nn.Module) -> bool:
    """Whether a network gives its last map, of which features are pooled."""
    return callable(getattr(module, "maps", None))


def max_over_places(maps: Tensor) -> Tensor:
    """(B, D, h, w) to (B, D)."""
    # Places last in memory, as in mean_over_places, for the gradient's sake.
    return maps.permute(0, 2, 3, 1).amax((1, 2))
