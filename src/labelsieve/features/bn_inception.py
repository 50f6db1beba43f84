"""BN-Inception: what PRISM and most papers on metric learning train.

Source: S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015, fig. 5. Deviation: widths,
poolings and names are those of the public weights, which were trained with Caffe, so that the file
in use, `bn_inception-52deb4733.pth`, can be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn, relu_
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from labelsieve.data.augment import IMAGENET, Normalization
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.resnets import initialize, mean_over_places

# Blue, green and red from 0 to 255, less a mean: what Caffe trained on. As it stands here, of red,
# green and blue from 0 to 1; `BnInceptionShape.channels` turns the order around.
CAFFE = Normalization((128 / 255, 117 / 255, 104 / 255), (1 / 255, 1 / 255, 1 / 255))

_SMALLEST = 32  # pixels; below, the last map would be less than one place


class _Block(NamedTuple):
    """Branches side by side: 1x1, 1x1-3x3, 1x1-3x3-3x3 and pooling with 1x1; widths of each."""

    name: str
    single: int  # 0: none, and this block halves its maps
    short: tuple[int, int]
    double: tuple[int, int]  # of the first, and of both 3x3
    pooled: int  # 0: pooled by its maximum, and passed on as it is
    by_maximum: bool = False

    @property
    def halves(self) -> bool:
        return self.single == 0

    def width(self, n_in: int) -> int:
        """Channels that it gives."""
        return self.single + self.short[1] + self.double[1] + (self.pooled or n_in)


_BLOCKS = (
    _Block("3a", 64, (64, 64), (64, 96), 32),
    _Block("3b", 64, (64, 96), (64, 96), 64),
    _Block("3c", 0, (128, 160), (64, 96), 0),
    _Block("4a", 224, (64, 96), (96, 128), 128),
    _Block("4b", 192, (96, 128), (96, 128), 128),
    _Block("4c", 160, (128, 160), (128, 160), 128),
    _Block("4d", 96, (128, 192), (160, 192), 128),
    _Block("4e", 0, (128, 192), (192, 256), 0),
    _Block("5a", 352, (192, 320), (160, 224), 128),
    _Block("5b", 352, (192, 320), (192, 224), 128, by_maximum=True),
)


@dataclass(frozen=True)
class BnInceptionShape:
    """What a BN-Inception wants of its input. Defaults: as in PRISM's and others' code.

    They give red, green and blue, normalized as ResNets have it, to weights of Caffe's colors.
    """

    normalization: Normalization = IMAGENET
    channels: Literal["rgb", "bgr"] = "rgb"  # the order that the first layer sees

    def __post_init__(self) -> None:
        if self.channels not in ("rgb", "bgr"):
            raise ConfigError(f"channels are {self.channels!r}; expected one of rgb, bgr.")


class BnInception(nn.Module):
    """Blocks of branches, each convolution with a batch norm; 1,024 features."""

    leftovers = ("last_linear.", "fc.")  # classifiers of public files

    def __init__(self, settings: BnInceptionShape | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or BnInceptionShape()
        self.normalization = settings.normalization
        self._add("conv1_7x7_s2", 3, 64, 7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        n_in = 192
        for block in _BLOCKS:
            self._add_block(block, n_in)
            n_in = block.width(n_in)
        self.n_features = n_in
        initialize(self)
        for module in self.modules():
            # before a batch norm they do nothing; they are there because the file has them
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def all_maps(self, images: Tensor) -> list[Tensor]:
        """What each of three resolutions gives, (B, D, h, w) of its own D, h and w.

        Raises:
            DataError: the images are smaller than 32 pixels.
        """
        if min(images.shape[2:]) < _SMALLEST:
            raise DataError(
                f"images of {images.shape[2]} x {images.shape[3]} pixels for a BN-Inception; at "
                f"least {_SMALLEST} x {_SMALLEST} are needed. Decode them larger, or take another "
                "network."
            )
        if self.settings.channels == "bgr":
            images = images.flip(1)
        maps = _halved(self._unit("conv1_7x7_s2", images))
        maps = _halved(self._unit("conv2_3x3", self._unit("conv2_3x3_reduce", maps)))
        found = []
        for block in _BLOCKS:
            if block.halves:
                found.append(maps)
            maps = self._block(block, maps)
        return [*found, maps]

    def maps(self, images: Tensor) -> Tensor:
        """(B, n_features, h, w): the last map; 7x7 of 224 pixels."""
        return self.all_maps(images)[-1]

    def last_maps(self, images: Tensor) -> list[Tensor]:
        """What the last two resolutions give, the last one last."""
        return self.all_maps(images)[-2:]

    def forward(self, images: Tensor) -> Tensor:
        return mean_over_places(self.maps(images))

    def _add(self, name: str, n_in: int, n_out: int, size: int, stride: int = 1) -> None:
        """A convolution and its batch norm, under the public names: all of them side by side."""
        self.add_module(name, nn.Conv2d(n_in, n_out, size, stride, padding=size // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(n_out))

    def _add_block(self, block: _Block, n_in: int) -> None:
        name, stride = f"inception_{block.name}", 2 if block.halves else 1
        if block.single:
            self._add(f"{name}_1x1", n_in, block.single, 1)
        within, out = block.short
        self._add(f"{name}_3x3_reduce", n_in, within, 1)
        self._add(f"{name}_3x3", within, out, 3, stride)
        within, out = block.double
        self._add(f"{name}_double_3x3_reduce", n_in, within, 1)
        self._add(f"{name}_double_3x3_1", within, out, 3)
        self._add(f"{name}_double_3x3_2", out, out, 3, stride)
        if block.pooled:
            self._add(f"{name}_pool_proj", n_in, block.pooled, 1)

    def _unit(self, name: str, maps: Tensor) -> Tensor:
        return relu_(getattr(self, f"{name}_bn")(getattr(self, name)(maps)))

    def _block(self, block: _Block, maps: Tensor) -> Tensor:
        name = f"inception_{block.name}"
        branches = [self._unit(f"{name}_1x1", maps)] if block.single else []
        branches.append(self._unit(f"{name}_3x3", self._unit(f"{name}_3x3_reduce", maps)))
        double = self._unit(f"{name}_double_3x3_1", self._unit(f"{name}_double_3x3_reduce", maps))
        branches.append(self._unit(f"{name}_double_3x3_2", double))
        if block.halves:
            branches.append(_halved_as_convolved(maps))
        else:
            pool = max_pool2d if block.by_maximum else avg_pool2d
            branches.append(self._unit(f"{name}_pool_proj", pool(maps, 3, 1, 1)))
        return torch.cat(branches, dim=1)


def bn_inception() -> BnInception:
    """Of 224 pixels on ImageNet; colors as PRISM gives them. 10.27 million parameters."""
    return BnInception()


def bn_inception_caffe() -> BnInception:
    """The same with the colors that its public ImageNet weights were trained on."""
    return BnInception(BnInceptionShape(CAFFE, "bgr"))


def _halved(maps: Tensor) -> Tensor:
    """Each second place, the maximum around it, as Caffe has it: windows may end outside."""
    return max_pool2d(maps, 3, stride=2, ceil_mode=True)


def _halved_as_convolved(maps: Tensor) -> Tensor:
    """The same with as many places as a padded 3x3 convolution of stride 2 gives.

    Of even sides these are equal. Of odd ones, which 224 pixels do not lead to, Caffe's would be
    one place less, and could not be stacked with the convolutions.
    """
    below, beside = (side % 2 for side in maps.shape[2:])
    if below or beside:
        maps = pad(maps, (0, beside, 0, below))  # zeros are no maximum: maps are 0 or more
    return _halved(maps)
