"""A network for CPUs: its first layer is a dictionary of the user's own patches, and stays.

With the dictionary in place of learned filters, contrastive training in the same time gave 5 to 8
points more of neighbors with the same label on CIFAR-10; and it spares the backward pass through
the largest maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn, relu_
from torch.nn.functional import avg_pool2d, conv2d, gelu, max_pool2d, pad

from labelsieve.data.augment import AS_STORED
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.patches import PatchCoder, Patches, learn_patches
from labelsieve.features.resnets import BasicBlock, check_stages, mean_over_places

_ACTIVATIONS = {"relu": relu_, "gelu": gelu}
_POOLINGS: dict[str, Callable[[Tensor, int], Tensor]] = {"mean": avg_pool2d, "max": max_pool2d}


@dataclass(frozen=True)
class DictionaryShape:
    """Settings of a `DictionaryNet`. Defaults: each the best tried in 200 CPU-s on CIFAR-10."""

    # n_cells is not used: responses stay in place, at half the resolution
    patches: Patches = field(default_factory=lambda: Patches(n_atoms=64, threshold=0.5))
    widths: tuple[int, ...] = (128, 256)  # channels of each residual block
    strides: tuple[int, ...] = (1, 2)  # and what it divides the resolution by
    activation: Literal["relu", "gelu"] = "relu"
    pooling: Literal["mean", "max"] = "max"  # of the responses at 2x2 places

    def __post_init__(self) -> None:
        check_stages("strides", self.widths, self.strides)
        if self.patches.size % self.patches.stride:
            raise ConfigError(
                f"patches of {self.patches.size} pixels every {self.patches.stride} pixels; in a "
                "network the size must be a multiple of the stride."
            )


class DictionaryStem(nn.Module):
    """How strongly each atom of a dictionary, and its negative, answers around each place.

    The coding of `PatchCoder`, as a convolution, and pooled over 2x2 places. Its tensors are
    buffers: they are saved and moved with the network and have no gradient.
    """

    filters: Tensor  # (K, stride * stride * 3, k, k) on cells of stride x stride pixels
    bias: Tensor  # (K,)

    def __init__(self, patches: Patches, pooling: Literal["mean", "max"]) -> None:
        super().__init__()
        self.patches, self.pooling = patches, pooling
        self.n_cells_across = patches.size // patches.stride
        shape = (patches.n_atoms, 3 * patches.stride**2, self.n_cells_across, self.n_cells_across)
        # not zeros, with which a network that has learned no dictionary would seem to work
        self.register_buffer("filters", torch.full(shape, torch.nan))
        self.register_buffer("bias", torch.full((patches.n_atoms,), torch.nan))
        self.n_features = 2 * patches.n_atoms

    def fill(self, coder: PatchCoder) -> None:
        """Take over a dictionary; where it has fewer atoms, the rest never answers."""
        stride, across = self.patches.stride, self.n_cells_across
        weights = coder.weights.float()  # (L, n), rows in order y, x, channel
        cells = weights.view(across, stride, across, stride, 3, -1)
        filters = cells.permute(5, 1, 3, 4, 0, 2).reshape(-1, *self.filters.shape[1:])
        missing = len(self.filters) - len(filters)
        self.filters.copy_(pad(filters, (0, 0, 0, 0, 0, 0, 0, missing)))
        self.bias.copy_(pad(coder.bias.float(), (0, missing)))

    def responses(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What each atom answers to each patch, before the bias and the patch's contrast.

        Args:
            images: (B, 3, H, W) float, 0 to 255.

        Returns:
            (B, K, Y, X), and what to multiply it by, (B, 1, Y, X) float32.
        """
        # Of 3 channels, a convolution of size 6 and stride 2 wastes most of the vector unit: as 3x3
        # of 12 channels it takes two thirds of the time.
        cells = in_cells(images - 128, self.patches.stride)  # (B, 3 * stride**2, h, w)
        moments = torch.stack([cells.mean(1), cells.square().mean(1)], dim=1)  # (B, 2, h, w)
        moments = avg_pool2d(moments, self.n_cells_across, 1)  # (B, 2, Y, X)
        variance = (moments[:, 1:] - moments[:, :1].square()).clamp_(min=0)
        scale = (variance + self.patches.contrast_floor).rsqrt_()
        return conv2d(cells, self.filters), scale

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float, 0 to 255, to (B, 2 * K, h, w), not negative."""
        needed = self.patches.size + self.patches.stride
        if min(images.shape[2:]) < needed:
            raise DataError(
                f"images of {images.shape[2]} x {images.shape[3]} pixels for patches of "
                f"{self.patches.size}; at least {needed} x {needed} are needed."
            )
        threshold = self.patches.threshold
        response, scale = self.responses(images)
        low = (self.bias - threshold).to(response.dtype)[:, None, None]
        # response - threshold, where both signs have the threshold
        response = torch.addcmul(low, response, scale.to(response.dtype))
        pool = _POOLINGS[self.pooling]
        positive = pool(response.relu(), 2)
        negative = pool(response.add_(2 * threshold).neg_().relu_(), 2)
        return torch.cat([positive, negative], dim=1)


class DictionaryNet(nn.Module):
    """A frozen dictionary of patches, and residual blocks that learn on what it answers."""

    normalization = AS_STORED  # patches are normalized one by one
    leftovers: tuple[str, ...] = ()

    def __init__(self, settings: DictionaryShape | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or DictionaryShape()
        self.stem = DictionaryStem(settings.patches, settings.pooling)
        self.norm = nn.BatchNorm2d(self.stem.n_features)
        activation = _ACTIVATIONS[settings.activation]
        blocks = []
        n_in = self.stem.n_features
        for width, stride in zip(settings.widths, settings.strides, strict=True):
            blocks.append(BasicBlock(n_in, width, stride, activation))
            n_in = width
        self.blocks = nn.Sequential(*blocks)
        self.n_features = n_in

    def learn_stem(
        self, pixels: NDArray[np.uint8], seed: int = 0, rows: NDArray[np.int64] | None = None
    ) -> None:
        """Learn the dictionary from a random part of some images; the rest of the net is untouched.

        Args:
            pixels: (N, 3, S, S); `settings.patches.n_images` of them are read.
            seed: of what is random: the same seed and pixels give the same dictionary.
            rows: which images to learn from, such as those that could be decoded; all by default.

        Raises:
            DataError: no images, or of another shape or type.
        """
        rows = np.arange(len(pixels)) if rows is None else rows
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or not len(rows):
            raise DataError(
                f"pixels are {pixels.dtype} of shape {pixels.shape}; expected uint8 of shape "
                "(N, 3, S, S), and at least one image."
            )
        generator = torch.Generator().manual_seed(seed)
        order = rows[torch.randperm(len(rows), generator=generator).numpy()]
        few = pixels[np.sort(order[: self.settings.patches.n_images])]
        with torch.inference_mode():
            images = torch.from_numpy(np.array(few)).to(self.stem.bias.device)
            coder = learn_patches(images, self.settings.patches, torch.float32, generator)
        with torch.no_grad():
            self.stem.fill(coder)

    def all_maps(self, images: Tensor) -> list[Tensor]:
        """What each block gives, (B, D, h, w) of its own D, h and w."""
        maps = self.norm(self.stem(images))
        found = []
        for block in self.blocks:
            maps = block(maps)
            found.append(maps)
        return found

    def maps(self, images: Tensor) -> Tensor:
        """(B, n_features, h, w): the last map."""
        return self.all_maps(images)[-1]

    def last_maps(self, images: Tensor) -> list[Tensor]:
        """What the last two blocks give, the last one last: together they say more than either."""
        return self.all_maps(images)[-2:]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float, 0 to 255 (see `normalization`), to (B, n_features)."""
        return mean_over_places(self.maps(images))


def in_cells(images: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) to (B, 3 * side * side, H / side, W / side), channels last in memory.

    Channels come in order y, x, color; what is left over below and at the right is cut off.
    """
    rows = images.permute(0, 2, 3, 1)
    height, width = rows.shape[1] // side, rows.shape[2] // side
    rows = rows[:, : height * side, : width * side]
    cells = rows.reshape(len(rows), height, side, width, side, 3).transpose(2, 3)
    return cells.reshape(len(rows), height, width, -1).permute(0, 3, 1, 2)
