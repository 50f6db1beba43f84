"""Three convolutions for drawings and thumbnails: they learn in a minute on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn, relu_

from labelsieve.data.augment import Normalization
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.convolutions import Convolution
from labelsieve.features.inception import HALF
from labelsieve.features.resnets import initialize


@dataclass(frozen=True)
class ConvShape:
    """How wide a `SmallConvNet` is. Defaults: 61 thousand parameters."""

    widths: tuple[int, ...] = (32, 64, 64)  # channels of each layer, which halves the resolution
    size: int = 32  # side of the images, pixels; what halving leaves over is cut off
    normalization: Normalization = HALF  # what it wants of its input

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(
                f"widths are {self.widths}; expected one of each layer, each at least 1."
            )
        if self.size < 2 ** len(self.widths):
            raise ConfigError(
                f"size is {self.size}; {len(self.widths)} layers that halve it need at least "
                f"{2 ** len(self.widths)}."
            )

    @property
    def n_places(self) -> int:
        """Of the last map, along a side."""
        return self.size >> len(self.widths)


class SmallConvNet(nn.Module):
    """Convolution, batch norm, ReLU and pooling, thrice; its features say where something is.

    Few-shot learning on Omniglot made this kind of network usual. All places of the last map are
    features: strokes differ by where they are, and their mean over places does not.
    """

    leftovers: tuple[str, ...] = ()

    def __init__(self, settings: ConvShape | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or ConvShape()
        self.normalization = settings.normalization
        layers = []
        n_in = 3
        for width in settings.widths:
            layers.append(_Layer(n_in, width))
            n_in = width
        self.layers = nn.Sequential(*layers)
        self.n_features = n_in * settings.n_places**2
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) to (B, n_features).

        Raises:
            DataError: the images are of another size.
        """
        size = self.settings.size
        if images.shape[2:] != (size, size):
            raise DataError(
                f"images of {images.shape[2]} x {images.shape[3]} pixels for a network of {size} x "
                f"{size}, whose features are places. Make it for that size, or show it {size}."
            )
        maps: Tensor = self.layers(images)
        return maps.flatten(1)


class _Layer(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = Convolution(n_in, n_out, 3)
        self.norm = nn.BatchNorm2d(n_out)
        self.pool = nn.MaxPool2d(2)

    def forward(self, maps: Tensor) -> Tensor:
        # pooled before the ReLU: the same, on a quarter of the places
        pooled: Tensor = relu_(self.pool(self.norm(self.conv(maps))))
        return pooled


def small_conv_net(size: int = 32) -> SmallConvNet:
    """For pictures of `size` pixels: 1,024 features of 32, 576 of 28."""
    return SmallConvNet(ConvShape(size=size))
