"""What small pieces of these images look like: a dictionary of whitened patches, and coding by it.

Source: A. Coates and A. Ng, "The importance of encoding versus training with sparse coding and
vector quantization", ICML 2011, on top of Coates, Lee and Ng, AISTATS 2011.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, normalize

from labelsieve.errors import ConfigError

# Images coded at once on a CPU: their responses stay in its cache (400 atoms: 5.2k images/s a core,
# and 4.6k with 32 at once).
_CPU_BATCH = 16
_GPU_BATCH = 1024
_K_MEANS_BATCH = 1000  # patches compared with all atoms at once; likewise
_ROUNDING = 1e-5  # of normalized patches, whose numbers are about 1


@dataclass(frozen=True)
class Patches:
    """How patches are cut, learned and pooled. C&N: as Coates and Ng have it for CIFAR-10."""

    size: int = 6  # side, pixels (C&N)
    stride: int = 2  # pixels; C&N use 1, which costs four times as much
    n_atoms: int = 600  # patches in the dictionary; C&N use up to 6,000
    threshold: float = 1.0  # responses count from here; the unit is that of a whitened patch
    contrast_floor: float = 10.0  # added to the variance of a patch, gray levels squared (C&N)
    whitening_floor: float = (
        0.1  # added to eigenvalues of the covariance of normalized patches (C&N)
    )
    n_cells: int = 2  # responses are averaged over n_cells x n_cells parts of the image (C&N)
    n_images: int = 4000  # that patches are taken from
    n_patches: int = 200_000  # that the dictionary is learned from
    n_rounds: int = 10  # of k-means

    def __post_init__(self) -> None:
        for name in ("size", "stride", "n_atoms", "n_cells", "n_images", "n_patches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"patches.{name} is {getattr(self, name)}; at least 1 is needed.")
        for name in ("threshold", "contrast_floor", "whitening_floor"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"patches.{name} is {getattr(self, name)}; it must be above 0.")


@dataclass(frozen=True)
class PatchCoder:
    """A learned dictionary; turns images into how strongly each atom answers in each part."""

    settings: Patches
    weights: (
        Tensor  # (L, K) columns are whitened atoms; L = size * size * 3, in order y, x, channel
    )
    bias: Tensor  # (K,)

    @property
    def n_codes(self) -> int:
        """Numbers an image is coded by: both signs of each atom, in each cell."""
        return 2 * len(self.bias) * self.settings.n_cells**2

    def encode(self, images: Tensor) -> Tensor:
        """How strongly each atom, and its negative, answers in each part of each image.

        Args:
            images: (B, 3, S, S) float, 0 to 255.

        Returns:
            (B, n_codes) float32, not negative; 0 for an image without contrast.
        """
        at_once = _CPU_BATCH if images.device.type == "cpu" else _GPU_BATCH
        return torch.cat([self._encode(batch) for batch in torch.split(images, at_once)])

    def _encode(self, images: Tensor) -> Tensor:
        threshold, cells = self.settings.threshold, self.settings.n_cells
        patches = normalized_patches(images, self.settings, self.weights.dtype)  # (B, Y, X, L)
        response = torch.addmm(self.bias, patches.flatten(0, 2), self.weights)  # (B * Y * X, K)
        response = response.view(*patches.shape[:3], -1).permute(
            0, 3, 1, 2
        )  # channels last in memory
        positive = adaptive_avg_pool2d(
            (response - threshold).relu_(), cells
        )  # (B, K, cells, cells)
        negative = adaptive_avg_pool2d(response.add_(threshold).clamp_(max=0), cells)
        # The square root evens out how much a few strong answers count (Hellinger's kernel).
        return torch.cat([positive.float(), -negative.float()], dim=1).sqrt_().flatten(1)


def normalized_patches(images: Tensor, settings: Patches, dtype: torch.dtype) -> Tensor:
    """All patches of some images, each less its mean and over its standard deviation.

    Args:
        images: (B, 3, S, S) float, 0 to 255.
        settings: size, stride and contrast_floor are used.
        dtype: of the result.

    Returns:
        (B, Y, X, size * size * 3) in order y, x, channel; 0 for a patch of one color gray.
    """
    size, stride = settings.size, settings.stride
    images = images - 128  # small numbers keep more digits in the squares, and in bfloat16
    mean = avg_pool2d(images.mean(1, keepdim=True), size, stride)  # (B, 1, Y, X)
    square = avg_pool2d(images.square().mean(1, keepdim=True), size, stride)
    scale = ((square - mean.square()).clamp_(min=0) + settings.contrast_floor).rsqrt_()
    rows = images.permute(0, 2, 3, 1).to(dtype).contiguous()  # (B, S, S, 3)
    windows = rows.unfold(1, size, stride).unfold(2, size, stride)  # (B, Y, X, 3, size, size)
    patches = windows.permute(0, 1, 2, 4, 5, 3).flatten(3)
    return patches.sub_(mean.squeeze(1).unsqueeze(3)).mul_(scale.squeeze(1).unsqueeze(3))


def learn_patches(
    images: Tensor, settings: Patches, dtype: torch.dtype, generator: torch.Generator
) -> PatchCoder:
    """Whiten the patches of some images and find n_atoms typical ones by k-means.

    Args:
        images: (n, 3, S, S) uint8.
        settings: with fewer patches than n_atoms there are as many atoms as patches.
        dtype: of the coder.
        generator: on the CPU.
    """
    patches = _sample(images, settings, generator)  # (P, L)
    mean = patches.mean(0)
    centered = patches - mean
    if (
        centered.abs().max() < _ROUNDING
    ):  # patches that are all equal: eigh may fail on what is left
        centered = torch.zeros_like(centered)
    values, vectors = torch.linalg.eigh(centered.T @ centered / len(patches))
    stretch = (values.clamp(min=0) + settings.whitening_floor).rsqrt()
    whitening = (vectors * stretch) @ vectors.T  # (L, L) symmetric: ZCA
    atoms = normalize(_k_means(centered @ whitening, settings, generator))  # (K, L)
    weights = whitening @ atoms.T  # (L, K)
    bias = -(mean @ weights)
    # A patch has mean 0, so nothing is lost; what rounding leaves of its mean is not amplified.
    weights = weights - weights.mean(0)
    return PatchCoder(settings, weights.to(dtype), bias.to(dtype))


def _sample(images: Tensor, settings: Patches, generator: torch.Generator) -> Tensor:
    """(P, L) patches at random places, equally many from each image."""
    per_image = -(-settings.n_patches // len(images))
    taken = []
    for batch in torch.split(images, 250):  # all patches of 4,000 images would take 340 MB
        patches = normalized_patches(batch.float(), settings, torch.float32).flatten(1, 2)
        places = torch.rand(patches.shape[:2], generator=generator).argsort(1)[:, :per_image]
        rows = torch.arange(len(batch))[:, None]
        taken.append(patches[rows.to(batch.device), places.to(batch.device)].flatten(0, 1))
    return torch.cat(taken)


def _k_means(patches: Tensor, settings: Patches, generator: torch.Generator) -> Tensor:
    """(K, L) means; K is n_atoms, or the number of patches where there are fewer."""
    n_atoms = min(settings.n_atoms, len(patches))
    order = torch.randperm(len(patches), generator=generator)
    atoms = patches[order[:n_atoms].to(patches.device)]
    for _ in range(settings.n_rounds):
        half = atoms.square().sum(1) / 2
        sums, counts = torch.zeros_like(atoms), torch.zeros_like(half)
        for batch in torch.split(patches, _K_MEANS_BATCH):
            nearest = torch.addmm(-half, batch, atoms.T).argmax(1)
            # A product with one-hot rows and not index_add_, whose order of sums is open on a GPU.
            chosen = torch.zeros(len(batch), n_atoms, device=batch.device)
            chosen.scatter_(1, nearest[:, None], 1)
            sums += chosen.T @ batch
            counts += chosen.sum(0)
        spare = torch.randint(len(patches), (n_atoms,), generator=generator).to(patches.device)
        means = sums / counts.clamp(min=1)[:, None]
        atoms = torch.where(counts[:, None] > 0, means, patches[spare])
    return atoms
