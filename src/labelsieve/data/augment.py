"""Views of images, a batch at a time on its device, each image with its own random parameters.

An image's parameters come from `Draws`, which belong to the image: the batch it is in, its place
there, and the number of processes change nothing.

    contrastive_view    SimCLR's recipe: crop, mirror, recolor, gray, blur
    weak_view           a shift of some pixels, mirror
    strong_view         strong.py: four of fourteen operations, and a hole
    clean_view          the middle of the image, as it is; what is used to predict
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from labelsieve.data.blur import blur_some
from labelsieve.data.colors import Recoloring, constant
from labelsieve.data.crops import LARGE, Windows, central_windows, cut, n_numbers, random_windows
from labelsieve.data.draws import Draws, Stream
from labelsieve.errors import ConfigError

# Pixels at once on a CPU: what is made on the way stays in its cache (32 images of 32 px: 47k views
# a second and core; 256 of them: 26k).
_CPU_PIXELS = 32 * 32 * 32


class Normalization(NamedTuple):
    """What a network expects of red, green and blue in [0, 1]: less the mean, over the deviation.

    Example:
        >>> Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).mean
        (0.5, 0.5, 0.5)
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


CIFAR10 = Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = Normalization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MINI_IMAGENET = Normalization((0.4728, 0.4487, 0.4031), (0.2744, 0.2663, 0.2806))  # at 32 pixels
AS_STORED = Normalization((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))  # 0 to 255


@dataclass(frozen=True)
class Contrastive:
    """How much two views of an image may differ. Defaults: SimCLR on CIFAR-10, as SCAN has it."""

    size: int = 32  # side of the view, pixels
    smallest_crop: float = 0.2  # share of the image's area; SimCLR on ImageNet: 0.08
    aspect: float = 4 / 3  # width / height of a crop lies between 1 / this and this
    flip_rate: float = 0.5  # share of views that are mirrored
    jitter_rate: float = 0.8  # share of views that are recolored
    brightness: float = 0.4  # a factor in 1 -+ this; likewise the next two
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # turns of the color circle, at most 1/2
    gray_rate: float = 0.2  # share of views without color
    blur_rate: float = 0.0  # share of views that are blurred; 0.5 on ImageNet
    least_blur: float = 0.1  # standard deviation, pixels
    most_blur: float = 2.0

    def __post_init__(self) -> None:
        _check_size(self.size)
        if not 0 < self.smallest_crop <= 1:
            raise ConfigError(f"smallest_crop is {self.smallest_crop}; it lies in (0, 1].")
        if not self.aspect >= 1:
            raise ConfigError(f"aspect is {self.aspect}; at least 1 is needed.")
        for name, most in (
            ("flip_rate", 1.0), ("jitter_rate", 1.0), ("gray_rate", 1.0), ("blur_rate", 1.0),
            ("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5),
        ):  # fmt: skip
            _check_range(name, getattr(self, name), most)
        if not 0 < self.least_blur <= self.most_blur:
            raise ConfigError(
                f"least_blur is {self.least_blur} and most_blur {self.most_blur}; expected "
                "0 < least_blur <= most_blur."
            )


@dataclass(frozen=True)
class Weak:
    """What hardly changes an image. Defaults: SNCF and most others on CIFAR."""

    size: int = 32  # side of the view, pixels
    padding: int = 4  # black pixels around the image, in which the view's place is drawn
    flip_rate: float = 0.5  # share of views that are mirrored

    def __post_init__(self) -> None:
        _check_size(self.size)
        if self.padding < 0:
            raise ConfigError(f"padding is {self.padding}; at least 0 is needed.")
        _check_range("flip_rate", self.flip_rate, 1.0)


def contrastive_view(
    images: Tensor, settings: Contrastive, draws: Draws, normalization: Normalization
) -> Tensor:
    """A random crop of each image, resized, mirrored, recolored and blurred.

    Source: SimCLR (Chen et al., ICML 2020), appendix A. Deviations: see `Recoloring` and `blur.py`.

    Args:
        images: (B, 3, H, W) uint8, or float from 0 to 255; of any sides.
        settings: how strong.
        draws: of these B images.
        normalization: of the result.

    Returns:
        (B, 3, size, size) float32, channels last in memory.
    """
    n, _, height, width = images.shape
    windows = Windows(
        *random_windows(
            draws.uniform(Stream.CROP, n_numbers()),
            height, width, settings.smallest_crop, settings.aspect,
        ),
        draws.uniform(Stream.FLIP)[:, 0] < settings.flip_rate,
    )  # fmt: skip
    recolor = _recoloring(settings, draws)
    deviation = _blur(settings, draws)
    result = empty_views(n, settings.size, images.device)
    for rows in chunks(images, settings.size):
        window = Windows(*(each[rows] for each in windows))
        view = recolor(cut(images[rows], window, settings.size), rows)
        if deviation is not None:
            view = blur_some(view, deviation[rows])
        result[rows] = normalized(view.clamp_(0, 255), normalization)
    return result


def weak_view(images: Tensor, settings: Weak, draws: Draws, normalization: Normalization) -> Tensor:
    """Each image, or its mirror image, moved by whole pixels; what comes in at the rim is black.

    Args:
        images: (B, 3, H, W) uint8, or float from 0 to 255. Of sides above `size`, a random part is
            shown; to have it resized, do so before.
        settings: how far.
        draws: of these B images.
        normalization: of the result; black is black before it.

    Returns:
        (B, 3, size, size) float32, channels last in memory.

    Raises:
        ConfigError: the padded images are smaller than the view.
    """
    n, _, height, width = images.shape
    rooms = [side + 2 * settings.padding - settings.size for side in (height, width)]
    if min(rooms) < 0:
        raise ConfigError(
            f"images of {height} x {width} pixels with a padding of {settings.padding} are smaller "
            f"than views of {settings.size}. Lower size, or decode the images larger."
        )
    uniform = draws.uniform(Stream.SHIFT, 2)
    top, left = ((uniform[:, axis] * (rooms[axis] + 1)).long() for axis in (0, 1))
    mirrored = draws.uniform(Stream.FLIP)[:, 0] < settings.flip_rate
    result = empty_views(n, settings.size, images.device)
    for rows in chunks(images, settings.size):
        part = shifted(
            images[rows], top[rows], left[rows], mirrored[rows], settings.size, settings.padding
        )
        result[rows] = normalized(part.to(torch.float32), normalization)
    return result


def clean_view(images: Tensor, size: int, normalization: Normalization) -> Tensor:
    """The central square of each image, resized; nothing is random.

    Args:
        images: (B, 3, H, W) uint8, or float from 0 to 255; of any sides.
        size: of the view, pixels.
        normalization: of the result.

    Returns:
        (B, 3, size, size) float32, channels last in memory.
    """
    n, _, height, width = images.shape
    windows = central_windows(n, height, width, images.device)
    result = empty_views(n, size, images.device)
    for rows in chunks(images, size):
        if (height, width) == (size, size):
            part = images[rows].to(torch.float32, copy=True)
        else:
            part = cut(images[rows], Windows(*(each[rows] for each in windows)), size)
        result[rows] = normalized(part, normalization)
    return result


def shifted(
    images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, size: int, padding: int
) -> Tensor:
    """Windows of images with a black rim, moved as they are; mirrored where asked.

    Args:
        images: (B, 3, H, W) of any type.
        top: (B,) int64 first row of the window, counted in the padded image.
        left: (B,) likewise.
        mirrored: (B,) bool.
        size: side of the windows.
        padding: width of the rim, pixels.

    Returns:
        (B, 3, size, size) of the images' type.
    """
    if padding:
        images = pad(images, (padding,) * 4)
    n, channels, height, width = images.shape
    on_cpu = images.device.type == "cpu"
    if height == width == size and on_cpu:
        some = mirrored.nonzero()[:, 0]
        return images.index_copy(0, some, images.index_select(0, some).flip(3))
    if size >= LARGE and on_cpu:
        result = images.new_empty(n, channels, size, size)
        for row, (y, x, turned) in enumerate(
            zip(top.tolist(), left.tolist(), mirrored.tolist(), strict=True)
        ):
            window = images[row, :, y : y + size, x : x + size]
            result[row] = window.flip(2) if turned else window
        return result
    steps = torch.arange(size, device=images.device)
    y = top[:, None] + steps  # (B, size)
    x = left[:, None] + torch.where(mirrored[:, None], steps.flip(0), steps)
    index = (y * width)[:, :, None] + x[:, None]  # (B, size, size)
    index = index.flatten(1)[:, None].expand(-1, channels, -1)
    return images.flatten(2).gather(2, index).view(n, channels, size, size)


def chunks(images: Tensor, size: int) -> list[slice]:
    """Rows to be worked on together: all on a GPU, what fits into the cache on a CPU."""
    n = len(images)
    area = max(size * size, images.shape[2] * images.shape[3])
    step = max(1, _CPU_PIXELS // area) if images.device.type == "cpu" else max(1, n)
    return [slice(first, min(n, first + step)) for first in range(0, n, step)]


def normalized(pixels: Tensor, normalization: Normalization) -> Tensor:
    """(B, 3, S, S) float pixels from 0 to 255 as a network expects them; changed in place."""
    mean, deviation = (
        constant(tuple(255 * each for each in values), pixels.device)[:, None, None]
        for values in normalization
    )
    # At 224 px a CPU takes as long to get fresh memory as to compute what goes into it.
    return pixels.sub_(mean).div_(deviation)


def _recoloring(settings: Contrastive, draws: Draws) -> Recoloring:
    uniform = draws.uniform(Stream.COLOR, 6)
    on = (uniform[:, 0] < settings.jitter_rate).float()
    strengths = constant(
        (settings.brightness, settings.contrast, settings.saturation, settings.hue), uniform.device
    )
    change = on[:, None] * strengths * (2 * uniform[:, 1:5] - 1)  # (B, 4)
    brightness, contrast, saturation = (1 + change[:, :3]).unbind(1)
    gray = uniform[:, 5] < settings.gray_rate
    return Recoloring(brightness, contrast, saturation.masked_fill(gray, 0), change[:, 3])


def _blur(settings: Contrastive, draws: Draws) -> Tensor | None:
    """(B,) standard deviations, 0 of images to be left as they are; None if that is all of them."""
    if settings.blur_rate == 0:
        return None
    uniform = draws.uniform(Stream.BLUR, 2)
    deviation = settings.least_blur + (settings.most_blur - settings.least_blur) * uniform[:, 1]
    return deviation.masked_fill(uniform[:, 0] >= settings.blur_rate, 0)


def empty_views(n: int, size: int, device: torch.device) -> Tensor:
    """(n, 3, size, size) float32, channels last in memory, to be filled."""
    return torch.empty(n, 3, size, size, device=device, memory_format=torch.channels_last)


def _check_size(size: int) -> None:
    if size < 1:
        raise ConfigError(f"size is {size}; at least 1 pixel is needed.")


def _check_range(name: str, value: float, most: float) -> None:
    if not 0 <= value <= most:
        raise ConfigError(f"{name} is {value}; it lies in [0, {most:g}].")
