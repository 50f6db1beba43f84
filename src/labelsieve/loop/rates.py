"""The learning rate over a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from labelsieve.errors import ConfigError

Shape = Literal["constant", "cosine", "steps", "one-cycle"]


@dataclass(frozen=True)
class LearningRate:
    """The learning rate over a training; shares are of its whole length.

    Defaults: cosine to a thousandth, as SCAN trains SimCLR on CIFAR-10.
    """

    peak: float = 0.4
    shape: Shape = "cosine"
    warmup: float = 0.0  # share in which the rate rises, from `start` to the peak
    start: float = 0.04  # of the warm-up, as a share of the peak
    final: float = 0.001  # of cosine and one-cycle, as a share of the peak
    cuts: tuple[float, ...] = ()  # shares at which "steps" multiplies the rate
    cut_factor: float = 0.1  # by this
    by_epoch: bool = False  # change once an epoch, as the reference codes do, else at each update

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            shapes = ", ".join(get_args(Shape))
            raise ConfigError(f"shape is {self.shape!r}; expected one of {shapes}.")
        if not self.peak > 0:
            raise ConfigError(f"peak is {self.peak}; the learning rate must be above 0.")
        for name in ("start", "final", "cut_factor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 to 1.")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is {self.warmup}; expected 0 <= warmup < 1.")
        if list(self.cuts) != sorted(set(self.cuts)) or any(not 0 < cut < 1 for cut in self.cuts):
            raise ConfigError(f"cuts are {self.cuts}; expected rising shares between 0 and 1.")
        if bool(self.cuts) != (self.shape == "steps"):
            raise ConfigError(
                f"cuts are {self.cuts} and shape is {self.shape!r}; 'steps' needs cuts, such as "
                "0.5,0.75, and no other shape has any."
            )

    def at(self, progress: float) -> float:
        """The rate when this share of the training is done.

        Example:
            >>> rate = LearningRate(peak=1.0, shape="steps", cuts=(0.5,))
            >>> rate.at(0.25), rate.at(0.5)
            (1.0, 0.1)
        """
        if self.shape == "one-cycle":
            return self.peak * one_cycle(progress, self.warmup, self.start, self.final)
        if progress < self.warmup:
            return self.peak * (self.start + (1 - self.start) * progress / self.warmup)
        if self.shape == "cosine":
            after = (progress - self.warmup) / (1 - self.warmup)
            return self.peak * cosine(after, self.final)
        if self.shape == "steps":
            return self.peak * steps(progress, self.cuts, self.cut_factor)
        return self.peak


def cosine(progress: float, final: float = 0.0) -> float:
    """Half a cosine from 1 to `final`.

    Source: I. Loshchilov and F. Hutter, "SGDR", ICLR 2017, eq. 5, without restarts.
    """
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def steps(progress: float, cuts: Sequence[float], factor: float) -> float:
    """1, times `factor` at each cut that is reached."""
    return factor ** sum(progress >= cut for cut in cuts)


def one_cycle(progress: float, rise: float, start: float, final: float) -> float:
    """From `start` up to 1 during the share `rise`, then down to `final`.

    Source: L. Smith and N. Topin, "Super-convergence", 2018. Deviation: both ways half a cosine, as
    fastai and torch's OneCycleLR do, where the paper's are straight; momentum stays as it is.
    """
    if progress < rise:
        return start + (1 - start) * (1 - math.cos(math.pi * progress / rise)) / 2
    return cosine((progress - rise) / (1 - rise), final)
