"""Random numbers that belong to an image and not to a batch.

A number is a hash of what it is for: (seed, epoch, view), the image's row, and its use. Whatever
batch, process or device an image comes in with, and after whatever interruption, its draws are the
same.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

# Odd constants with mixed bits: the golden ratio, and those of the finalizer of splitmix64.
_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number, as are the next two
_FIRST = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_SECOND = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
_STEP = 0x2545F4914F6CDD1D


class Stream(IntEnum):
    """What a number is for. A number once given stays: others would change what is drawn."""

    CROP = 0
    FLIP = 1
    COLOR = 2
    BLUR = 3
    SHIFT = 4
    OPERATIONS = 5
    MAGNITUDES = 6
    HOLE = 7
    CACHED_VIEW = 8
    NOISE = 9


class Draws:
    """Random numbers of the images of a batch, each a function of (seed, epoch, row, view) alone.

    Example:
        >>> batch = Draws(0, 3, torch.tensor([5, 7, 9])).uniform(Stream.CROP, 2)
        >>> alone = Draws(0, 3, torch.tensor([7])).uniform(Stream.CROP, 2)
        >>> torch.equal(batch[1:2], alone)
        True
    """

    def __init__(self, seed: int, epoch: int, rows: Tensor, view: int = 0) -> None:
        """Name the batch; nothing is drawn yet.

        Args:
            seed: of the run.
            epoch: another one gives other draws, as does each of the others.
            rows: (B,) int64 which images they are, on the device where the draws are wanted.
            view: which of an image's views. Each view of an epoch needs its own number, also those
                of different kinds: a weak and a strong view of one number are mirrored alike.
        """
        self.seed, self.epoch, self.rows, self.view = seed, epoch, rows, view

    def uniform(self, stream: int, n: int = 1) -> Tensor:
        """(B, n) float32 in [0, 1), multiples of 2^-24; column j does not depend on n.

        Args:
            stream: what they are for (a `Stream`); numbers of two streams are independent.
            n: how many for each image.
        """
        return _shifted(self._bits(stream, n), 40).float().mul_(2**-24)

    def integers(self, stream: int, high: int, n: int = 1) -> Tensor:
        """(B, n) int64, each of 0, ..., high - 1 equally often to within high / 2^32.

        Args:
            stream: what they are for (a `Stream`); `uniform` of the same stream is not independent.
            high: at most 2^31.
            n: how many for each image.
        """
        return _shifted(self._bits(stream, n), 32).mul_(high) >> 32

    def _bits(self, stream: int, n: int) -> Tensor:
        """(B, n) int64 of which all 64 bits are random."""
        name = f"{self.seed} {self.epoch} {self.view} {int(stream)}".encode()
        digest = hashlib.blake2b(name, digest_size=8).digest()
        key = int.from_bytes(digest, "little", signed=True)
        images = _mixed(self.rows * _GOLDEN + key)  # (B,); products wrap around at 2^64
        columns = torch.arange(n, device=self.rows.device) * _STEP
        return _mixed(images[:, None] + columns)


def batch_generator(seed: int, epoch: int, step: int) -> np.random.Generator:
    """Draws that a whole batch shares, such as a mixing factor: equal on all processes."""
    return np.random.default_rng([0x62, *(number % 2**64 for number in (seed, epoch, step))])


def _mixed(bits: Tensor) -> Tensor:
    """Every bit of the result depends on every bit of the argument (splitmix64's finalizer)."""
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """To the right, zeros coming in; int64 would repeat the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
