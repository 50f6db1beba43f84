"""Residual networks: for small pictures, for photographs, and the pre-activation kind.

All take (B, 3, H, W) and give (B, n_features); `maps` gives the last map before its mean is taken.
Parameters of `ResNet` are named as torchvision, MoCo and timm name them, so that public weights of
ResNet-50 can be read.

Source: K. He, X. Zhang, S. Ren and J. Sun, CVPR 2016 and ECCV 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn, relu_

from labelsieve.data.augment import CIFAR10, IMAGENET, Normalization
from labelsieve.errors import ConfigError
from labelsieve.features.convolutions import Convolution

Stem = Literal["small", "middle", "large"]
Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ResNetShape:
    """How wide and deep a ResNet is. Defaults: ResNet-18 for pictures of 32 pixels (SCAN)."""

    widths: tuple[int, ...] = (64, 128, 256, 512)  # channels of each stage
    depths: tuple[int, ...] = (2, 2, 2, 2)  # blocks of each stage; from the second on they halve
    bottleneck: bool = False  # 1x1, 3x3, 1x1 to four times the width, and not 3x3 twice
    # small: 3x3, for 32 pixels; middle: with 2x2 max-pooling, for 96 (SCAN's STL-10 network);
    # large: 7x7 with stride 2 and 3x3 max-pooling, for 224 (ImageNet)
    stem: Stem = "small"
    normalization: Normalization = CIFAR10  # what it wants of its input

    def __post_init__(self) -> None:
        check_stages("depths", self.widths, self.depths)


@dataclass(frozen=True)
class PreActShape:
    """How wide and deep a pre-activation ResNet is. Defaults: what DivideMix and SNCF train."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    # False: what the noisy-label papers train. Where shapes match, their blocks add the activated
    # input and not the input; the stem has a batch norm and a ReLU, and none stands at the end.
    identity: bool = False
    stem_width: int = 0  # channels of the first convolution; 0: as many as of the first stage
    stem_stride: int = 1  # of the first convolution
    normalization: Normalization = CIFAR10

    def __post_init__(self) -> None:
        check_stages("depths", self.widths, self.depths)
        for name, least in (("stem_width", 0), ("stem_stride", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} or more.")


class ResNet(nn.Module):
    """Stages of residual blocks, and the mean over what is left of the picture."""

    # names in public files that are no part of the backbone: classifiers, and what MoCo trains with
    leftovers = ("fc.", "encoder_k.", "queue")

    def __init__(self, settings: ResNetShape | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or ResNetShape()
        self.normalization = settings.normalization
        width = settings.widths[0]
        if settings.stem == "large":
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = Convolution(3, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = _pool(settings.stem)
        block = Bottleneck if settings.bottleneck else BasicBlock
        n_in = width
        self.stages: list[str] = []
        for place, (width, depth) in enumerate(zip(settings.widths, settings.depths, strict=True)):
            blocks = []
            for step in range(depth):
                blocks.append(block(n_in, width, stride=2 if place and not step else 1))
                n_in = width * block.expansion
            self.stages.append(f"layer{place + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.n_features = n_in
        initialize(self)

    def all_maps(self, images: Tensor) -> list[Tensor]:
        """What each stage gives, (B, D, h, w) of its own D, h and w."""
        maps = self.maxpool(relu_(self.bn1(self.conv1(images))))
        found = []
        for name in self.stages:
            maps = getattr(self, name)(maps)
            found.append(maps)
        return found

    def maps(self, images: Tensor) -> Tensor:
        """(B, n_features, h, w): the last map."""
        return self.all_maps(images)[-1]

    def last_maps(self, images: Tensor) -> list[Tensor]:
        """What the last two stages give, the last one last."""
        return self.all_maps(images)[-2:]

    def forward(self, images: Tensor) -> Tensor:
        return mean_over_places(self.maps(images))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input goes."""

    expansion = 1  # channels given, over `width`

    def __init__(
        self, n_in: int, width: int, stride: int = 1, activation: Activation | None = None
    ) -> None:
        super().__init__()
        self.activation = activation or relu_
        self.conv1 = Convolution(n_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = Convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(n_in, width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.activation(self.bn1(self.conv1(maps)))
        inner = self.bn2(self.conv2(inner))
        inner += maps if self.downsample is None else self.downsample(maps)
        return self.activation(inner)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1; it has the stride, as in torchvision."""

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        n_out = width * self.expansion
        self.conv1 = Convolution(n_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = Convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = Convolution(width, n_out, 1)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.downsample = _projection(n_in, n_out, stride)

    def forward(self, maps: Tensor) -> Tensor:
        inner = relu_(self.bn1(self.conv1(maps)))
        inner = relu_(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        inner += maps if self.downsample is None else self.downsample(maps)
        return relu_(inner)


class PreActResNet(nn.Module):
    """Stages of pre-activation blocks: batch norm and ReLU come before each convolution."""

    leftovers = ("linear.", "fc.")

    def __init__(self, settings: PreActShape | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or PreActShape()
        self.normalization = settings.normalization
        n_stem = n_in = settings.stem_width or settings.widths[0]
        self.conv1 = Convolution(3, n_stem, 3, settings.stem_stride)
        stages = []
        for place, (width, depth) in enumerate(zip(settings.widths, settings.depths, strict=True)):
            blocks = []
            for step in range(depth):
                stride = 2 if place and not step else 1
                blocks.append(PreActBlock(n_in, width, stride, settings.identity))
                n_in = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        # before the stages in the papers' network, after them in He et al.'s
        self.norm = nn.BatchNorm2d(n_in if settings.identity else n_stem)
        self.n_features = n_in
        initialize(self)

    def all_maps(self, images: Tensor) -> list[Tensor]:
        """What each stage gives, (B, D, h, w) of its own D, h and w."""
        maps = self.conv1(images)
        if not self.settings.identity:
            maps = relu_(self.norm(maps))
        found = []
        for stage in self.stages:
            maps = stage(maps)
            found.append(maps)
        if self.settings.identity:
            found[-1] = relu_(self.norm(maps))
        return found

    def maps(self, images: Tensor) -> Tensor:
        """(B, n_features, h, w): the last map."""
        return self.all_maps(images)[-1]

    def last_maps(self, images: Tensor) -> list[Tensor]:
        """What the last two stages give, the last one last."""
        return self.all_maps(images)[-2:]

    def forward(self, images: Tensor) -> Tensor:
        return mean_over_places(self.maps(images))


class PreActBlock(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, twice."""

    def __init__(self, n_in: int, width: int, stride: int, identity: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = Convolution(n_in, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = Convolution(width, width, 3)
        self.shortcut: nn.Module | None = None
        if stride != 1 or n_in != width:
            self.shortcut = Convolution(n_in, width, 1, stride)
        self.identity = identity

    def forward(self, maps: Tensor) -> Tensor:
        active = relu_(self.bn1(maps))
        inner = self.conv2(relu_(self.bn2(self.conv1(active))))
        if self.shortcut is not None:
            around = self.shortcut(active)
        else:
            around = maps if self.identity else active
        return inner + around  # type: ignore[no-any-return]


def cifar_resnet18() -> ResNet:
    """ResNet-18 for 32 pixels: SCAN 1.2. 11.17 million parameters, 1.111 GFLOP a picture."""
    return ResNet()


def narrow_resnet18() -> ResNet:
    """The same with 24, 48, 96 and 192 channels: a seventh of the parameters and of the work."""
    return ResNet(ResNetShape(widths=(24, 48, 96, 192)))


def stl_resnet18() -> ResNet:
    """ResNet-18 for 96 pixels; any size is taken, where SCAN's needs a last map of 7x7 or more."""
    return ResNet(ResNetShape(stem="middle", normalization=IMAGENET))


def preact_resnet18(identity: bool = False) -> PreActResNet:
    """The network of DivideMix, SNCF and the papers they compare with: 11.17 million parameters.

    Args:
        identity: He et al.'s instead, by name "preact-resnet18-identity": nearly as many
            parameters, and not to be compared with the papers' numbers. See `PreActShape`.
    """
    return PreActResNet(PreActShape(identity=identity))


def small_preact() -> PreActResNet:
    """He et al.'s blocks in a network that learns in minutes on a CPU: 0.30 million parameters.

    Half the resolution from the first convolution on, three blocks, 128 features. With SNCF's
    projection head and a classifier of four classes it has 0.70 million.
    """
    return PreActResNet(
        PreActShape(
            widths=(32, 64, 128), depths=(1, 1, 1), identity=True, stem_width=16, stem_stride=2
        )
    )


def resnet50() -> ResNet:
    """ResNet-50 as in torchvision, without its classifier: 23.5 million parameters."""
    return ResNet(ResNetShape((64, 128, 256, 512), (3, 4, 6, 3), True, "large", IMAGENET))


def mean_over_places(maps: Tensor) -> Tensor:
    """(B, D, h, w) to (B, D)."""
    # Not mean((2, 3)), whose gradient comes with channels first: mixing that with maps that have
    # them last took 13 times as long (26 ms of a step on 512 maps of 512 x 4 x 4).
    return maps.permute(0, 2, 3, 1).mean((1, 2))


def check_stages(name: str, widths: tuple[int, ...], others: tuple[int, ...]) -> None:
    """Refuse widths and `name` (depths or strides) of a network's stages that do not fit.

    Raises:
        ConfigError: saying what came.
    """
    if not widths or len(widths) != len(others) or min(*widths, *others) < 1:
        raise ConfigError(
            f"widths {widths} and {name} {others} of a network's stages; expected as many of the "
            "one as of the other, each at least 1."
        )


def initialize(network: nn.Module) -> None:
    """He et al. 2015, by what goes out. Batch norms start at gain 1, also the last of a block."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _pool(stem: Stem) -> nn.Module:
    """What follows the first convolution."""
    if stem == "small":
        return nn.Identity()
    if stem == "middle":
        return nn.MaxPool2d(2, stride=2, padding=1)  # 96 -> 49, as in SCAN
    return nn.MaxPool2d(3, stride=2, padding=1)


def _projection(n_in: int, n_out: int, stride: int) -> nn.Sequential | None:
    """What makes a block's input fit its output, where it does not."""
    if stride == 1 and n_in == n_out:
        return None
    return nn.Sequential(Convolution(n_in, n_out, 1, stride), nn.BatchNorm2d(n_out))
