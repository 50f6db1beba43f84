"""Features of photographs for `benchmarks/tags.py`, beside those of the product; no weights needed.

How strongly typical patches answer in each quarter, colors in a grid of 4 x 4, and directions of
edges in one of 8 x 8; brought to 512 principal directions. Nothing looks at tags, so they are made
of all images at once.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from labelsieve.features.dictionary import code_dtype
from labelsieve.features.patches import Patches, learn_patches

ATOMS = Patches(n_atoms=512, threshold=0.5, n_patches=60_000)
AT_ONCE = 512  # images


def described(
    pixels: NDArray[np.uint8], n_dimensions: int = 512, seed: int = 0
) -> NDArray[np.float32]:
    """One row of features an image.

    Args:
        pixels: (N, 3, 64, 64).
        n_dimensions: principal directions kept.
        seed: of the patches.

    Returns:
        (N, n_dimensions) of unit spread, the widest first.
    """
    generator = torch.Generator().manual_seed(seed)
    coder = learn_patches(
        torch.from_numpy(pixels[: ATOMS.n_images]), ATOMS, code_dtype("cpu"), generator
    )
    n_positive = coder.n_codes // 2  # the other half answers to the negatives of the patches
    parts: list[list[NDArray[np.float32]]] = [[], [], []]
    for first in range(0, len(pixels), AT_ONCE):
        some = pixels[first : first + AT_ONCE]
        with torch.inference_mode():
            codes = coder.encode(torch.from_numpy(some).float())[:, :n_positive]
        for part, found in zip(parts, (codes.numpy(), colors(some), edges(some)), strict=True):
            part.append(found)
    blocks = [np.concatenate(part) for part in parts]
    # each block counts as much as the others, however wide it is
    scaled = [
        (block - block.mean(0)) / (block.std(0) + 1e-4) / np.sqrt(block.shape[1])
        for block in blocks
    ]
    return principal(np.concatenate(scaled, axis=1), n_dimensions)


def principal(
    rows: NDArray[np.float32], n_dimensions: int, power: float = 0.7
) -> NDArray[np.float32]:
    """Rows along their widest directions, each divided by its deviation to a power.

    Args:
        rows: (N, L).
        n_dimensions: directions kept, at most L.
        power: 0: as they are; 1: all are equally wide.
    """
    centered = rows - rows.mean(axis=0)
    variances, directions = np.linalg.eigh(centered.T @ centered / len(rows))
    widest = np.argsort(-variances, kind="stable")[:n_dimensions]
    turned = centered @ directions[:, widest]
    turned /= (turned.std(axis=0) + 1e-6) ** power
    return np.asarray(turned / turned.std(), np.float32)


def colors(pixels: NDArray[np.uint8], n_cells: int = 4) -> NDArray[np.float32]:
    """Hue, weighted by saturation, in 8 bins, value in 4, mean and deviation of R, G, B; by cell.

    Args:
        pixels: (N, 3, S, S).
        n_cells: in each direction; S is a multiple of it.

    Returns:
        (N, 18 n_cells^2).
    """
    rgb = pixels.astype(np.float32) / 255
    value, least = rgb.max(axis=1), rgb.min(axis=1)
    chroma = value - least + 1e-6
    red, green, blue = rgb[:, 0], rgb[:, 1], rgb[:, 2]
    sixths = np.where(
        value == red,
        ((green - blue) / chroma) % 6,
        np.where(value == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )
    hue_bin = (sixths / 6 * 8).astype(int).clip(0, 7)
    value_bin = (value * 4).astype(int).clip(0, 3)
    saturation = chroma / (value + 1e-6)
    maps = [np.where(hue_bin == k, saturation, 0) for k in range(8)]
    maps += [value_bin == k for k in range(4)]
    means = [_by_cell(each, n_cells) for each in (*maps, red, green, blue)]
    squares = [_by_cell(each**2, n_cells) for each in (red, green, blue)]
    spreads = [
        np.sqrt(np.maximum(square - mean**2, 0))
        for square, mean in zip(squares, means[-3:], strict=True)
    ]
    return np.stack([*means, *spreads], axis=2).reshape(len(pixels), -1).astype(np.float32)


def edges(pixels: NDArray[np.uint8], cell: int = 8, n_bins: int = 9) -> NDArray[np.float32]:
    """How much of the contrast runs in which direction, by cell; unit length where there is any.

    Args:
        pixels: (N, 3, S, S).
        cell: its side in pixels; S is a multiple of it.
        n_bins: directions in half a turn.

    Returns:
        (N, n_bins (S / cell)^2).
    """
    gray = pixels.astype(np.float32).mean(axis=1)
    across, down = np.zeros_like(gray), np.zeros_like(gray)
    across[:, :, 1:-1] = gray[:, :, 2:] - gray[:, :, :-2]
    down[:, 1:-1] = gray[:, 2:] - gray[:, :-2]
    strength = np.hypot(across, down)
    angle = (np.arctan2(down, across) % np.pi / np.pi * n_bins).astype(int) % n_bins
    n_cells = gray.shape[1] // cell
    sums = [
        cell * cell * _by_cell(np.where(angle == k, strength, 0), n_cells) for k in range(n_bins)
    ]
    counts = np.stack(sums, axis=2)  # (N, cells, n_bins)
    # the floor, in gray levels squared, leaves cells without contrast small
    lengths = np.sqrt((counts**2).sum(axis=2, keepdims=True) + 1e3)
    return (counts / lengths).reshape(len(pixels), -1).astype(np.float32)


def _by_cell(values: NDArray, n_cells: int) -> NDArray:
    """(N, S, S) to means (N, n_cells^2)."""
    n, size, _ = values.shape
    step = size // n_cells
    return values.reshape(n, n_cells, step, n_cells, step).mean(axis=(2, 4)).reshape(n, -1)
