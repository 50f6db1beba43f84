"""Random views of images: cropped, mirrored and recolored, each image with its own parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from labelsieve.errors import ConfigError

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True)
class Views:
    """What may differ between two views of an image. Strengths as in SimCLR for CIFAR-10."""

    in_all: int = 200_000  # views to fit to, of all images together; each image gets as many ...
    least: int = 4  # ... but no fewer than this
    most: int = 16  # ... and no more
    smallest_crop: float = 0.25  # share of the image's area; SimCLR: 0.08
    aspect: float = 4 / 3  # a crop's sides differ at most by this factor
    brightness: float = 0.4  # a factor in 1 -+ this; likewise the next two
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # turns of the color circle
    jitter_rate: float = 0.8  # share of views that are recolored
    gray_rate: float = 0.2  # share of views without color

    def __post_init__(self) -> None:
        if not 2 <= self.least <= self.most:
            raise ConfigError(
                f"views.least is {self.least} and views.most {self.most}; expected 2 <= least <= "
                "most."
            )
        if not 0 < self.smallest_crop <= 1:
            raise ConfigError(f"views.smallest_crop is {self.smallest_crop}; it lies in (0, 1].")
        if self.aspect < 1:
            raise ConfigError(f"views.aspect is {self.aspect}; at least 1 is needed.")

    def each(self, n_images: int) -> int:
        """How many views each of n_images gets: the fewer images, the more."""
        return min(self.most, max(self.least, self.in_all // max(n_images, 1)))


def random_view(images: Tensor, settings: Views, generator: torch.Generator) -> Tensor:
    """One random view of each image.

    Args:
        images: (B, 3, S, S) uint8 or float, 0 to 255.
        settings: how strong.
        generator: on the CPU, so that a GPU sees the same views.

    Returns:
        (B, 3, S, S) float32, 0 to 255.
    """
    down, right = _crops(len(images), images.shape[2], settings, generator)
    down, right = down.to(images.device), right.to(images.device)
    # A crop, resized and mirrored, is separable: two small products a channel (43k images/s).
    pixels = down[:, None] @ images.float() @ right[:, None].transpose(2, 3)  # (B, 3, S, S)
    matrix, contrast, brightness = (
        each.to(images.device) for each in _colors(len(images), settings, generator)
    )
    flat = pixels.flatten(2)  # (B, 3, S * S)
    luma = torch.tensor(_LUMA, device=images.device) @ flat.mean(2).T  # (B,)
    factor = brightness * contrast
    # brightness * (contrast * (color - mean) + mean), where the matrix leaves the mean in place
    offset = (brightness - factor) * luma
    recolored = torch.baddbmm(offset[:, None, None], factor[:, None, None] * matrix, flat)
    return recolored.view_as(pixels).clamp_(0, 255)


def _crops(n: int, size: int, settings: Views, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(n, S, S) twice: rows are output pixels, columns input pixels; down, and to the right."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    area = uniform(settings.smallest_crop, 1) * size**2
    spread = math.log(settings.aspect)
    aspect = uniform(-spread, spread).exp()
    height = (area / aspect).sqrt().clamp(max=size)
    width = (area * aspect).sqrt().clamp(max=size)
    top = uniform(0, 1) * (size - height)
    left = uniform(0, 1) * (size - width)
    mirrored = uniform(0, 1) < 0.5
    steps = torch.arange(size)
    centers = (steps + 0.5) / size  # of the output pixels, as shares of the crop

    def bilinear(start: Tensor, extent: Tensor) -> Tensor:
        place = (start[:, None] + extent[:, None] * centers - 0.5).clamp(0, size - 1)  # (n, S)
        return (1 - (place[:, :, None] - steps).abs()).clamp(min=0)

    right = bilinear(left, width)
    return bilinear(top, height), torch.where(mirrored[:, None, None], right.flip(1), right)


def _colors(n: int, settings: Views, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(n, 3, 3) saturation and hue in one matrix that keeps grays; (n,) contrast, brightness."""
    jittered = (torch.rand(n, generator=generator) < settings.jitter_rate).float()

    def around(center: float, spread: float) -> Tensor:
        return center + jittered * spread * (2 * torch.rand(n, generator=generator) - 1)

    brightness = around(1, settings.brightness)
    contrast = around(1, settings.contrast)
    saturation = around(1, settings.saturation)
    angle = around(0, settings.hue) * 2 * math.pi
    gray = torch.rand(n, generator=generator) < settings.gray_rate
    saturation = torch.where(gray, 0.0, saturation)[:, None, None]
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    # Rodrigues: the hue turns about the axis of grays, (1, 1, 1) / sqrt(3).
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    hue = cosine * torch.eye(3) + sine * cross + (1 - cosine) / 3
    luma = torch.tensor(_LUMA).expand(3, 3)
    return saturation * hue + (1 - saturation) * luma, contrast, brightness
