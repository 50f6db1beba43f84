"""Inception-ResNet-v2: what mini-WebVision is trained with in SNCF and the papers it compares with.

Source: C. Szegedy, S. Ioffe, V. Vanhoucke and A. Alemi, AAAI 2017. Deviation: stem, widths and
numbers of blocks are those of the published TensorFlow weights (and so of every implementation in
use), which differ from the figures of the paper. Parameters are named as timm names them, so that
its files can be read; those were trained on colors from -1 to 1 (`HALF`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn, relu_

from labelsieve.data.augment import IMAGENET, Normalization
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.resnets import initialize, mean_over_places

HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # colors from -1 to 1

_SMALLEST = 75  # pixels; below, nothing is left of the picture


@dataclass(frozen=True)
class InceptionShape:
    """How deep an Inception-ResNet is. Defaults: the published one, 54.3 million parameters."""

    repeats: tuple[int, int, int] = (10, 20, 9)  # residual blocks of each resolution
    normalization: Normalization = IMAGENET  # what it wants of its input

    def __post_init__(self) -> None:
        if len(self.repeats) != 3 or min(self.repeats) < 0:
            raise ConfigError(
                f"repeats are {self.repeats}; expected three numbers of blocks, each 0 or more."
            )


class InceptionResNet(nn.Module):
    """Branches of convolutions side by side, added to their input in small parts."""

    leftovers = ("classif.",)

    def __init__(self, settings: InceptionShape | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or InceptionShape()
        self.normalization = settings.normalization
        first, second, third = settings.repeats
        self.conv2d_1a = Unit(3, 32, 3, stride=2, padded=False)
        self.conv2d_2a = Unit(32, 32, 3, padded=False)
        self.conv2d_2b = Unit(32, 64, 3)
        self.conv2d_3b = Unit(64, 80, 1, padded=False)
        self.conv2d_4a = Unit(80, 192, 3, padded=False)
        self.pool = nn.MaxPool2d(3, stride=2)
        self.mixed_5b = _mixed_5b()
        self.repeat = nn.Sequential(*(_block35() for _ in range(first)))
        self.mixed_6a = _mixed_6a()
        self.repeat_1 = nn.Sequential(*(_block17() for _ in range(second)))
        self.mixed_7a = _mixed_7a()
        self.repeat_2 = nn.Sequential(*(_block8(0.2) for _ in range(third)))
        self.block8 = _block8(1.0, activated=False)
        self.n_features = 1536
        self.conv2d_7b = Unit(2080, self.n_features, 1)
        initialize(self)

    def all_maps(self, images: Tensor) -> list[Tensor]:
        """What each of three resolutions gives, (B, D, h, w) of its own D, h and w.

        Raises:
            DataError: the images are smaller than 75 pixels.
        """
        if min(images.shape[2:]) < _SMALLEST:
            raise DataError(
                f"images of {images.shape[2]} x {images.shape[3]} pixels for an Inception-ResNet; "
                f"at least {_SMALLEST} x {_SMALLEST} are needed. Decode them larger, or take "
                "another network."
            )
        maps: Tensor = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(images)))
        maps = self.conv2d_4a(self.conv2d_3b(self.pool(maps)))
        first = self.repeat(self.mixed_5b(self.pool(maps)))
        second = self.repeat_1(self.mixed_6a(first))
        third = self.block8(self.repeat_2(self.mixed_7a(second)))
        return [first, second, self.conv2d_7b(third)]

    def maps(self, images: Tensor) -> Tensor:
        """(B, n_features, h, w): the last map; 8x8 of 299 pixels, 5x5 of 227, 1x1 of 84."""
        return self.all_maps(images)[-1]

    def last_maps(self, images: Tensor) -> list[Tensor]:
        """What the last two resolutions give, the last one last."""
        return self.all_maps(images)[-2:]

    def forward(self, images: Tensor) -> Tensor:
        return mean_over_places(self.maps(images))


class Unit(nn.Module):
    """A convolution, a batch norm and a ReLU."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: int | tuple[int, int],  # height and width
        stride: int = 1,
        padded: bool = True,  # so that maps keep their size, over the stride
    ) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        padding = (height // 2, width // 2) if padded else 0
        self.conv = nn.Conv2d(n_in, n_out, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(n_out, eps=1e-3)

    def forward(self, maps: Tensor) -> Tensor:
        return relu_(self.bn(self.conv(maps)))


class Branches(nn.Module):
    """Several ways of maps, side by side; what they give is stacked."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.names = [f"branch{i}" for i in range(len(branches))]
        for name, branch in zip(self.names, branches, strict=True):
            self.add_module(name, branch)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([getattr(self, name)(maps) for name in self.names], dim=1)


class Residual(Branches):
    """Branches whose stack, projected to as many channels as came, is added to the input."""

    def __init__(
        self,
        n_maps: int,
        n_stacked: int,
        *branches: nn.Module,
        scale: float,  # of what is added; without it, the authors' wide networks died in training
        activated: bool = True,  # a ReLU at the end
    ) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(n_stacked, n_maps, 1)
        nn.init.zeros_(self.conv2d.bias)  # type: ignore[arg-type]
        self.scale, self.activated = scale, activated

    def forward(self, maps: Tensor) -> Tensor:
        found = torch.add(maps, self.conv2d(super().forward(maps)), alpha=self.scale)
        return relu_(found) if self.activated else found


def inception_resnet_v2() -> InceptionResNet:
    """Of 299 pixels on ImageNet, 227 on mini-WebVision; any size from 75 on is taken."""
    return InceptionResNet()


def inception_resnet_v2_tf() -> InceptionResNet:
    """The same with colors from -1 to 1, as the public ImageNet weights want them."""
    return InceptionResNet(InceptionShape(normalization=HALF))


def _mixed_5b() -> Branches:
    """35x35 of 299 pixels: 192 channels to 320."""
    return Branches(
        Unit(192, 96, 1),
        nn.Sequential(Unit(192, 48, 1), Unit(48, 64, 5)),
        nn.Sequential(Unit(192, 64, 1), Unit(64, 96, 3), Unit(96, 96, 3)),
        nn.Sequential(nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), Unit(192, 64, 1)),
    )


def _block35() -> Residual:
    """Inception-ResNet-A, fig. 16 of the paper."""
    return Residual(
        320, 128,
        Unit(320, 32, 1),
        nn.Sequential(Unit(320, 32, 1), Unit(32, 32, 3)),
        nn.Sequential(Unit(320, 32, 1), Unit(32, 48, 3), Unit(48, 64, 3)),
        scale=0.17,
    )  # fmt: skip


def _mixed_6a() -> Branches:
    """35x35 to 17x17: 320 channels to 1,088."""
    return Branches(
        Unit(320, 384, 3, stride=2, padded=False),
        nn.Sequential(
            Unit(320, 256, 1), Unit(256, 256, 3), Unit(256, 384, 3, stride=2, padded=False)
        ),
        nn.MaxPool2d(3, stride=2),
    )


def _block17() -> Residual:
    """Inception-ResNet-B, fig. 17."""
    return Residual(
        1088, 384,
        Unit(1088, 192, 1),
        nn.Sequential(Unit(1088, 128, 1), Unit(128, 160, (1, 7)), Unit(160, 192, (7, 1))),
        scale=0.1,
    )  # fmt: skip


def _mixed_7a() -> Branches:
    """17x17 to 8x8: 1,088 channels to 2,080."""
    return Branches(
        nn.Sequential(Unit(1088, 256, 1), Unit(256, 384, 3, stride=2, padded=False)),
        nn.Sequential(Unit(1088, 256, 1), Unit(256, 288, 3, stride=2, padded=False)),
        nn.Sequential(
            Unit(1088, 256, 1), Unit(256, 288, 3), Unit(288, 320, 3, stride=2, padded=False)
        ),
        nn.MaxPool2d(3, stride=2),
    )


def _block8(scale: float, activated: bool = True) -> Residual:
    """Inception-ResNet-C, fig. 19."""
    return Residual(
        2080, 448,
        Unit(2080, 192, 1),
        nn.Sequential(Unit(2080, 192, 1), Unit(192, 224, (1, 3)), Unit(224, 256, (3, 1))),
        scale=scale,
        activated=activated,
    )  # fmt: skip
