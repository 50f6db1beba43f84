"""The fourteen operations of strong augmentation, on a batch of uint8 images at a time.

Each gives the bits that Pillow gives for each image: `ImageOps`, `ImageEnhance`, `Image.rotate` and
`Image.transform` with nearest-neighbor resampling and black where the image ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from labelsieve.data.colors import constant

_LUMA = (19595, 38470, 7471)  # of red, green and blue, in 65,536ths, as Pillow has it
_ONE = 1 << 16
# Pixels from which a channel at a time by bincount is faster than all at once by scatter_add:
# 12.5 against 4.3 microseconds an image at 32 px, 21 against 41 at 96.
_BINCOUNT_FROM = 4096


class Recolor(NamedTuple):
    """An operation on the values of pixels, and the range its amount is drawn from."""

    apply: Callable[[Tensor, Tensor], Tensor]  # (n, 3, H, W) uint8, (n,) float32 -> like the first
    least: float
    most: float  # not reached


class Move(NamedTuple):
    """An operation on the places of pixels, and the range its amount is drawn from."""

    matrices: Callable[[Tensor, int, int], Tensor]  # (n,) float64, H, W -> (n, 6), for `warp`
    least: float
    most: float  # not reached


def identity(images: Tensor, amount: Tensor) -> Tensor:
    """The images; `amount` is not used."""
    return images


def autocontrast(images: Tensor, amount: Tensor) -> Tensor:
    """Each channel stretched from 0 to 255; one of a single value stays. `amount` is not used."""
    flat = images.flatten(2)  # amin and amax are each ten times as fast as aminmax
    low, high = (each(2, keepdim=True).double() for each in (flat.amin, flat.amax))
    # (n, 3, 1), infinite for a single value. `255 / tensor` would round twice.
    scale = torch.full_like(low, 255) / (high - low)
    levels = torch.arange(256, device=images.device)
    stretched = (levels * scale + -low * scale).clamp(0, 255)  # (n, 3, 256)
    tables = torch.where(high > low, stretched, levels.double())
    return _looked_up(images, tables.to(torch.uint8))


def equalize(images: Tensor, amount: Tensor) -> Tensor:
    """Each channel's values spread about equally from 0 to 255. `amount` is not used."""
    counts = _histograms(images)
    levels = torch.arange(256, device=images.device)
    highest = images.flatten(2).amax(2, keepdim=True).long()
    n_pixels = images.shape[2] * images.shape[3]
    step = (n_pixels - counts.gather(2, highest)) // 255  # (n, 3, 1)
    below = counts.cumsum(2) - counts
    spread = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return _looked_up(images, torch.where(step > 0, spread, levels).to(torch.uint8))


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Values from the threshold on are inverted."""
    last = threshold.ceil().to(torch.int16)[:, None, None, None] - 1  # that stays; -1 to 255
    # A sign shifted down is -1, and so 255, or 0; 255 - x is x ^ 255. A comparison takes longer.
    inverted = (last - images).bitwise_right_shift_(15).to(torch.uint8)
    return inverted.bitwise_xor_(images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Only the highest bits are kept: as many as the whole part of `bits` says, 1 to 8."""
    mask = 256 - 2.0 ** (8 - bits.floor())
    return images & mask.to(torch.uint8)[:, None, None, None]


def color(images: Tensor, factor: Tensor) -> Tensor:
    """From gray at 0 to the image at 1."""
    return _blended(_luma(images)[:, None], images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """From a sheet of the mean gray at 0 to the image at 1."""
    luma = _luma(images).flatten(1)
    mean = (luma.sum(1, dtype=torch.int64).double() / luma.shape[1] + 0.5).floor()
    return _blended(mean[:, None, None, None], images, factor)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """From black at 0 to the image at 1."""
    return _cut_off(images.float().mul_(factor[:, None, None, None]))


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """From a smoothed image at 0 to the image at 1; the outermost pixels stay."""
    if min(images.shape[2:]) < 3:
        return images
    wide = images.to(torch.int16)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    sums += 4 * wide[:, :, 1:-1, 1:-1]  # the nine of weight 1, 5 in the middle
    inner = images[:, :, 1:-1, 1:-1]
    smooth = sums.float().mul_(1 / 13).add_(0.5).floor_()  # no sum is halfway: 13 is odd
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = _blended(smooth, inner, factor)
    return result


def rotation(degrees: Tensor, height: int, width: int) -> Tensor:
    """Counterclockwise about the center."""
    angle = -degrees.deg2rad()
    cosine, sine = angle.cos(), angle.sin()
    x, y = width / 2, height / 2
    return torch.stack(
        [cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y], 1
    )


def shear_x(amount: Tensor, height: int, width: int) -> Tensor:
    """Row y moves by amount * y to the left; the top row stays."""
    return _matrix(1, amount)


def shear_y(amount: Tensor, height: int, width: int) -> Tensor:
    """Column x moves up by amount * x; the leftmost column stays."""
    return _matrix(3, amount)


def translation_x(amount: Tensor, height: int, width: int) -> Tensor:
    """To the left, by a share of the width, in whole pixels."""
    return _matrix(2, (amount * width + 0.5).floor())


def translation_y(amount: Tensor, height: int, width: int) -> Tensor:
    """Up, by a share of the height, in whole pixels."""
    return _matrix(5, (amount * height + 0.5).floor())


# Source: SCAN (Van Gansbeke et al., ECCV 2020) with the ranges of its code. Moves stand last.
RECOLORS = (
    Recolor(identity, 0, 1),
    Recolor(autocontrast, 0, 1),
    Recolor(equalize, 0, 1),
    Recolor(solarize, 0, 256),
    Recolor(posterize, 4, 8),
    Recolor(color, 0.05, 0.95),
    Recolor(contrast, 0.05, 0.95),
    Recolor(brightness, 0.05, 0.95),
    Recolor(sharpness, 0.05, 0.95),
)
MOVES = (
    Move(rotation, -30, 30),
    Move(shear_x, -0.1, 0.1),
    Move(shear_y, -0.1, 0.1),
    Move(translation_x, -0.1, 0.1),
    Move(translation_y, -0.1, 0.1),
)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Each image seen through its affine map; the nearest pixel, black where the image ends.

    Args:
        images: (n, 3, H, W) uint8, sides below 32,768.
        matrices: (n, 6) float64 a0 to a5: the pixel (x, y) of the result shows the image at
            (a0 x + a1 y + a2, a3 x + a4 y + a5).
    """
    n, channels, height, width = images.shape
    padded = pad(images, (1, 1, 1, 1))
    # Pillow looks at the middle of a pixel and counts in 65,536ths; one more for the padding.
    across, down, start = matrices.view(n, 2, 3).unbind(2)  # (n, 2)
    fixed = torch.stack([across, down, start + (across + down) / 2 + 1])
    fixed = (fixed * _ONE + 0.5).floor().int()
    across, down, start = fixed[..., None, None].unbind(0)  # (n, 2, 1, 1)
    steps = torch.arange(max(height, width), dtype=torch.int32, device=images.device)
    places = (start + down * steps[:height, None]) + across * steps[:width]  # (n, 2, H, W)
    x, y = places.bitwise_right_shift_(16).unbind(1)
    x, y = x.clamp_(0, width + 1), y.clamp_(0, height + 1)
    index = y.mul_(width + 2).add_(x).flatten(1).long()[:, None].expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view_as(images)


def _matrix(column: int, entry: Tensor) -> Tensor:
    """(n, 6) the map that leaves all in place, but for this entry."""
    plain = constant((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), entry.device).to(entry.dtype)
    matrix = plain.expand(len(entry), -1).clone()
    matrix[:, column] = entry
    return matrix


def _blended(start: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """`start` at 0, `images` at 1; fractions are cut off, as Pillow does."""
    start = start.float()
    change = (images.float() - start).mul_(factor[:, None, None, None])
    return _cut_off(change.add_(start))


def _cut_off(values: Tensor) -> Tensor:
    """Floats from 0 to 255 without their fractions: by way of int16, in a third of the time."""
    return values.to(torch.int16).to(torch.uint8)


def _luma(images: Tensor) -> Tensor:
    """(n, H, W) int32 brightness, 0 to 255, as Pillow rounds it."""
    red, green, blue = (
        images[:, channel].int().mul_(weight) for channel, weight in enumerate(_LUMA)
    )
    return red.add_(green).add_(blue).add_(_ONE // 2).bitwise_right_shift_(16)


def _histograms(images: Tensor) -> Tensor:
    """(n, 3, 256) int64 how often each value occurs in each channel."""
    n, channels, height, width = images.shape
    flat = images.flatten(2)
    if flat.device.type == "cpu" and height * width >= _BINCOUNT_FROM:
        rows = [torch.bincount(row, minlength=256) for row in flat.flatten(0, 1)]
        return torch.stack(rows).view(n, channels, 256)
    counts = torch.zeros(n, channels, 256, dtype=torch.int64, device=flat.device)
    one = torch.ones(1, dtype=torch.int64, device=flat.device)
    return counts.scatter_add_(2, flat.long(), one.expand_as(flat))


def _looked_up(images: Tensor, tables: Tensor) -> Tensor:
    """Values replaced by those in (n, 3, 256) tables, one a channel."""
    return tables.gather(2, images.flatten(2).long()).view_as(images)
