"""All that is linear in the colors of an image, as one matrix and one offset for each image."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


class Recoloring:
    """Brightness, contrast, saturation and hue of each image, in one matrix product.

    Deviation: torchvision turns the hue in HSV, draws the order of the four and clamps to [0, 255]
    after each. Here the hue turns about the axis of grays, the order is that of the arguments, and
    nothing is clamped. On CIFAR-10, at SimCLR's strengths and clamped at the end, a view's pixels
    are 3.5 gray levels from torchvision's on average, nearly all of it by the hue, where recoloring
    moves them by 29 and two orders of torchvision's are 1.5 apart (benchmarks/augment.py --colors).
    """

    def __init__(
        self, brightness: Tensor, contrast: Tensor, saturation: Tensor, turn: Tensor
    ) -> None:
        """Prepare the matrices.

        Args:
            brightness: (B,) factor, 1 to leave as is; likewise the next two.
            contrast: about the image's mean luma.
            saturation: 0 gives gray.
            turn: (B,) of hue, in turns of the color circle.
        """
        device = brightness.device
        angle = (2 * math.pi * turn)[:, None, None]
        mean = constant((1 / 3,), device).expand(3, 3)
        luma = luma_weights(device).expand(3, 3)
        # Rodrigues, about (1, 1, 1) / sqrt(3)
        hue = angle.cos() * (torch.eye(3, device=device) - mean) + angle.sin() * _cross(device)
        # Grays stay grays under `colors`, so that contrast's offset may be added after it.
        colors = luma + saturation[:, None, None] * (hue + mean - luma)  # (B, 3, 3)
        self.matrix = (brightness * contrast)[:, None, None] * colors
        self.share_of_mean = brightness * (1 - contrast)

    def __call__(self, images: Tensor, rows: slice) -> Tensor:
        """Recolor (b, 3, S, S) float images from 0 to 255, which are these rows of the batch."""
        flat = images.flatten(2)  # (b, 3, S * S)
        luma = (flat.mean(2) * luma_weights(images.device)).sum(1)  # (b,) mean of each image
        offset = self.share_of_mean[rows] * luma
        return torch.baddbmm(offset[:, None, None], self.matrix[rows], flat).view_as(images)


def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A small tensor, copied to its device once: a copy makes a GPU's host wait."""
    return _constant(values, str(device))


def luma_weights(device: torch.device) -> Tensor:
    """(3,) of red, green and blue."""
    return constant(LUMA, device)


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: str) -> Tensor:
    with torch.inference_mode(False):  # whoever asks first, it is of use to all
        return torch.tensor(values, device=device)


def _cross(device: torch.device) -> Tensor:
    """(3, 3) cross product with (1, 1, 1) / sqrt(3)."""
    return constant(
        tuple(each / math.sqrt(3) for each in (0, -1, 1, 1, 0, -1, -1, 1, 0)), device
    ).view(3, 3)
