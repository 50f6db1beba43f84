"""Strong augmentation: some of fourteen operations one after the other, and a hole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labelsieve.data.augment import Normalization, chunks, empty_views, normalized, shifted
from labelsieve.data.draws import Draws, Stream
from labelsieve.data.operations import MOVES, RECOLORS, Move, Recolor, identity, warp
from labelsieve.errors import ConfigError, DataError

# On a CPU, so many bytes of images are worked on together (more leave its cache, fewer cost calls),
# and images from 128 x 128 px on alone: at 224 px 1,040 microseconds an image and not 1,470.
_CPU_BYTES = 1 << 21
_ALONE_BYTES = 3 * 128 * 128


@dataclass(frozen=True)
class Strong:
    """How an image is changed. Defaults: SCAN on CIFAR."""

    size: int = 32  # side of the view, pixels; of larger images a random part is shown
    n_operations: int = 4  # drawn with replacement; 0 leaves the colors and places as they are
    flip_rate: float = 0.5  # share of views that are mirrored
    largest_hole: int = 16  # pixels; SCAN: 32 on STL-10, 75 on ImageNet; 1 makes no hole

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("n_operations", 0), ("largest_hole", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least {least} is needed.")
        if not 0 <= self.flip_rate <= 1:
            raise ConfigError(f"flip_rate is {self.flip_rate}; it lies in [0, 1].")


def strong_view(
    images: Tensor, settings: Strong, draws: Draws, normalization: Normalization
) -> Tensor:
    """Each image mirrored or not, cropped, changed by random operations, and with a hole.

    Source: SCAN (Van Gansbeke et al., ECCV 2020), the augmentation of its self-labeling, with the
    ranges of its code. Nothing is approximated: before normalization the pixels are those that
    Pillow gives image by image for the same draws. (One warp for all moves of an image would make
    0.8 warps an image and not 1.4, but resamples otherwise.)

    Args:
        images: (B, 3, H, W) uint8 of sides of at least `size`.
        settings: how much.
        draws: of these B images.
        normalization: of the result; the hole is 0 after it, the mean color.

    Returns:
        (B, 3, size, size) float32, channels last in memory.

    Raises:
        ConfigError: the images are smaller than the view.
        DataError: they are not uint8.
    """
    pixels = strong_pixels(images, settings, draws)
    down, right = holes(settings, draws)
    result = empty_views(len(images), settings.size, images.device)
    for rows in chunks(images, settings.size):
        part = normalized(pixels[rows].float(), normalization)
        shown = 1 - down[rows, None, :, None] * right[rows, None, None]
        result[rows] = part.mul_(shown)
    return result


def strong_pixels(images: Tensor, settings: Strong, draws: Draws) -> Tensor:
    """What `strong_view` gives before the hole and the normalization: (B, 3, size, size) uint8."""
    n, _, height, width = images.shape
    size = settings.size
    if images.dtype != torch.uint8:
        raise DataError(f"images are {images.dtype}; strong views are made of uint8 only.")
    if min(height, width) < size:
        raise ConfigError(
            f"images of {height} x {width} pixels are smaller than views of {size}. Lower size, or "
            "decode the images larger."
        )
    uniform = draws.uniform(Stream.SHIFT, 2)
    top = (uniform[:, 0] * (height - size + 1)).long()
    left = (uniform[:, 1] * (width - size + 1)).long()
    mirrored = draws.uniform(Stream.FLIP)[:, 0] < settings.flip_rate
    pixels = shifted(images, top, left, mirrored, size, 0)
    if settings.n_operations == 0 or n == 0:
        return pixels
    chosen = draws.integers(Stream.OPERATIONS, len(RECOLORS + MOVES), settings.n_operations)
    return operated(pixels, chosen, draws.uniform(Stream.MAGNITUDES, settings.n_operations))


def operated(images: Tensor, chosen: Tensor, uniform: Tensor) -> Tensor:
    """Apply to each image its operations, in their order.

    Args:
        images: (B, 3, H, W) uint8.
        chosen: (B, n) int64, an index into RECOLORS + MOVES.
        uniform: (B, n) where in the operation's range the amount lies, in [0, 1).
    """
    result = torch.empty_like(images)
    step, each = max(1, len(images)), max(1, images.shape[1:].numel())
    if images.device.type == "cpu":
        if each >= _ALONE_BYTES:
            for row, kinds in enumerate(chosen.tolist()):
                result[row] = _operated_alone(images[row, None], kinds, uniform[row])[0]
            return result
        step = max(1, _CPU_BYTES // each)
    for first in range(0, len(images), step):
        rows = slice(first, first + step)
        result[rows] = _operated(images[rows], chosen[rows], uniform[rows])
    return result


def _operated_alone(image: Tensor, kinds: list[int], uniform: Tensor) -> Tensor:
    """(1, 3, H, W) after its operations."""
    for kind, share in zip(kinds, uniform[:, None], strict=True):
        if kind < len(RECOLORS):
            image = RECOLORS[kind].apply(image, _amount(RECOLORS[kind], share))
        else:
            move = MOVES[kind - len(RECOLORS)]
            matrices = move.matrices(_amount(move, share.double()), *image.shape[2:])
            image = warp(image, matrices)
    return image


def _amount(operation: Recolor | Move, uniform: Tensor) -> Tensor:
    return operation.least + (operation.most - operation.least) * uniform


def _operated(images: Tensor, chosen: Tensor, uniform: Tensor) -> Tensor:
    """(n, 3, H, W) after their operations: in each slot those of one kind together."""
    kinds = torch.arange(len(RECOLORS + MOVES), device=images.device)
    # The only time that the host waits for a GPU.
    counts = (chosen[:, :, None] == kinds).sum(0).tolist()  # (n, 14)
    rows = torch.arange(len(images), device=images.device)
    images, other = images.clone(), torch.empty_like(images)
    for slot, sizes in enumerate(counts):
        # Side by side, those of one operation are a view: nothing is selected or put back.
        order = chosen[rows, slot].argsort(stable=True)
        rows = rows[order]
        torch.index_select(images, 0, order, out=other)
        images, other = other, images
        _operate(images, uniform[rows, slot], sizes)
    return other.index_copy_(0, rows, images)


def _operate(images: Tensor, uniform: Tensor, sizes: list[int]) -> None:
    """In place, one operation on each of (B, 3, H, W): `sizes` says on how many in turn."""
    first = 0
    for recolor, size in zip(RECOLORS, sizes, strict=False):
        rows = slice(first, first + size)
        if size and recolor.apply is not identity:
            images[rows] = recolor.apply(images[rows], _amount(recolor, uniform[rows]))
        first += size
    moved, matrices = slice(first, None), []
    for move, size in zip(MOVES, sizes[len(RECOLORS) :], strict=True):
        if size:
            amount = _amount(move, uniform[first : first + size].double())
            matrices.append(move.matrices(amount, *images.shape[2:]))
        first += size
    if matrices:
        images[moved] = warp(images[moved], torch.cat(matrices))


def holes(settings: Strong, draws: Draws) -> tuple[Tensor, Tensor]:
    """Which rows and which columns of each image its square hole lies in: (B, size) of 0 and 1.

    Source: Cutout (DeVries and Taylor, 2017) as SCAN's code has it: a length from 1 to largest_hole
    and a center, all uniform; half the length, rounded down, to each side, as far as the image
    goes.
    """
    size = settings.size
    uniform = draws.uniform(Stream.HOLE, 3)
    half = ((uniform[:, 0] * settings.largest_hole).floor() + 1).div(2).floor()  # (B,)
    center = (uniform[:, 1:] * size).floor()[:, :, None]  # (B, 2, 1)
    steps = torch.arange(size, device=uniform.device)
    within = (steps >= center - half[:, None, None]) & (steps < center + half[:, None, None])
    down, right = within.float().unbind(1)
    return down, right
