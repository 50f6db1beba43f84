"""Mixtures of images: mixup, and the same for contrastive learning."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labelsieve.errors import ConfigError


def mixing(
    generator: np.random.Generator, n: int, alpha: float = 1.0, at_least_half: bool = True
) -> tuple[float, Tensor]:
    """Draw how a batch is mixed: one factor for all, and each image's partner.

    Source: mixup (Zhang et al., ICLR 2018); that the image itself has the larger share is from
    MixMatch (Berthelot et al., NeurIPS 2019); i-Mix (Lee et al., ICLR 2021) draws the same.

    Args:
        generator: of the batch (`batch_generator`), so that all processes mix alike.
        n: images in the global batch.
        alpha: the factor is of Beta(alpha, alpha); 1 is uniform, small ones hardly mix.
        at_least_half: take the larger of the factor and what it leaves.

    Returns:
        The factor, and a permutation (n,) int64 on the CPU.

    Raises:
        ConfigError: alpha is not above 0.

    Example:
        >>> factor, permutation = mixing(np.random.default_rng(0), 4)
        >>> 0.5 <= factor <= 1, sorted(permutation.tolist())
        (True, [0, 1, 2, 3])
    """
    if not alpha > 0:
        raise ConfigError(
            f"alpha is {alpha}; it must be above 0. To mix nothing, do not call this."
        )
    factor = float(generator.beta(alpha, alpha))
    permutation = torch.from_numpy(generator.permutation(n))
    return max(factor, 1 - factor) if at_least_half else factor, permutation


def mixup(images: Tensor, permutation: Tensor, factor: float) -> Tensor:
    """Mix each image with its partner: factor * image + (1 - factor) * partner.

    Args:
        images: (B, ...) float: normalized images, or targets that are mixed like them.
        permutation: (B,) int64; copied to the images' device.
        factor: share of the image itself.
    """
    partners = images.index_select(0, permutation.to(images.device, non_blocking=True))
    return torch.lerp(images, partners, 1 - factor)  # in the memory format of the images
