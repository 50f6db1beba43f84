"""Where to cut an image, and how to resize what was cut: each image of a batch its own window."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

_TRIES = 10  # of a random window to fit into the image, as in torchvision
# On a CPU, results of at least this side are resized one image at a time, in uint8. Microseconds an
# image on one core (matrix products / bilinear grid_sample / one at a time): 32 px 8 / 8 / 24;
# 96 px 152 / 73 / 63; 224 from 256 px 3,200 / 1,100 / 260. grid_sample does not average where it
# shrinks, so that it is not used at all.
LARGE = 64


class Windows(NamedTuple):
    """One rectangle of whole pixels an image, and whether it is mirrored."""

    top: Tensor  # (B,) float32, as are the next three
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor  # (B,) bool


def random_windows(
    uniform: Tensor, height: int, width: int, smallest: float, aspect: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of a random crop of each image.

    Source: the crop of Szegedy et al. (CVPR 2015) as torchvision's RandomResizedCrop has it: area
    uniform, logarithm of the aspect ratio uniform, tried ten times until it fits; what never fits
    becomes the central window of the image's height or width and the nearest aspect ratio allowed.
    All tries are made at once, so that the distribution is the same.

    Args:
        uniform: (B, n_numbers()) in [0, 1).
        height: of the images.
        width: likewise.
        smallest: share of the image's area, to 1.
        aspect: width / height lies in [1 / aspect, aspect].
    """
    area = (smallest + (1 - smallest) * uniform[:, :_TRIES]) * (height * width)
    spread = math.log(aspect)
    ratio = ((2 * uniform[:, _TRIES : 2 * _TRIES] - 1) * spread).exp()
    wide, high = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()  # (B, tries)
    fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
    first = fits.int().argmax(1, keepdim=True)  # the first of those that fit
    some = fits.any(1)
    nearest = min(max(width / height, 1 / aspect), aspect)
    wide = torch.where(some, wide.gather(1, first)[:, 0], min(width, round(height * nearest)))
    high = torch.where(some, high.gather(1, first)[:, 0], min(height, round(width / nearest)))
    top, left = (height - high + 1) * uniform[:, -2], (width - wide + 1) * uniform[:, -1]
    top = torch.where(some, top.floor(), ((height - high) / 2).floor())
    left = torch.where(some, left.floor(), ((width - wide) / 2).floor())
    return top, left, high, wide


def n_numbers() -> int:
    """Random numbers that `random_windows` takes for each image."""
    return 2 * _TRIES + 2


def cut(images: Tensor, windows: Windows, size: int) -> Tensor:
    """What each window shows, resized: bilinear, averaging where it shrinks, as Pillow does it.

    Args:
        images: (B, 3, H, W) uint8, or float from 0 to 255.
        windows: where.
        size: side of the result.

    Returns:
        (B, 3, size, size) float32. On a CPU, of uint8 images to 64 px or more, whole numbers.
    """
    if size >= LARGE and images.device.type == "cpu" and images.dtype == torch.uint8:
        return _cut_one_by_one(images, windows, size)
    n, channels, height, width = images.shape
    down = _taps(windows.top, windows.height, size, height)  # (B, size, H)
    right = _taps(windows.left, windows.width, size, width)  # (B, size, W)
    right = torch.where(windows.mirrored[:, None, None], right.flip(1), right)
    across = torch.bmm(
        images.float().reshape(n, channels * height, width), right.transpose(1, 2)
    )  # (B, 3 * H, size)
    each = down[:, None].expand(-1, channels, -1, -1).reshape(n * channels, size, height)
    result = torch.bmm(each, across.view(n * channels, height, size))
    return result.view(n, channels, size, size)


def central_windows(n: int, height: int, width: int, device: torch.device) -> Windows:
    """The largest square in the middle of each of n images."""
    side = min(height, width)
    edges = ((height - side) // 2, (width - side) // 2, side, side)
    top, left, high, wide = (torch.full((n,), float(edge), device=device) for edge in edges)
    return Windows(top, left, high, wide, torch.zeros(n, dtype=torch.bool, device=device))


def _taps(first: Tensor, extent: Tensor, size: int, source: int) -> Tensor:
    """(B, size, source) weights of the source's pixels in those of the result; rows sum to 1."""
    scale = extent / size  # (B,) source pixels a pixel of the result
    steps = torch.arange(max(size, source), device=first.device, dtype=torch.float32)
    place = first[:, None] + (steps[:size] + 0.5) * scale[:, None] - 0.5  # (B, size)
    last = first + extent - 1
    if source <= size:  # no window is larger than the result: nothing to average
        place = torch.minimum(torch.maximum(place, first[:, None]), last[:, None])
        return (place[:, :, None] - steps[:source]).abs_().neg_().add_(1).clamp_(min=0)
    reach = scale.clamp(min=1)[:, None, None]
    weights = (place[:, :, None] - steps[:source]).abs_().div_(reach).neg_().add_(1).clamp_(min=0)
    inside = (steps[:source] >= first[:, None]) & (steps[:source] <= last[:, None])  # (B, source)
    weights.mul_(inside[:, None])
    return weights.div_(weights.sum(2, keepdim=True))


def _cut_one_by_one(images: Tensor, windows: Windows, size: int) -> Tensor:
    """The same by torch's uint8 kernel, which computes only what a window needs."""
    result = torch.empty(len(images), 3, size, size)
    edges = torch.stack(windows[:4], 1).int().tolist()
    mirrored = windows.mirrored.tolist()
    for row, (top, left, height, width) in enumerate(edges):
        window = images[row : row + 1, :, top : top + height, left : left + width]
        view = interpolate(window, (size, size), mode="bilinear", antialias=True)[0]
        result[row] = view.flip(2) if mirrored[row] else view
    return result
