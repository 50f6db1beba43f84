"""Where plausible labels end: the quantile of a batch, and its mean over the last batches."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from labelsieve.errors import ConfigError


class Cut(NamedTuple):
    """What a threshold makes of one batch."""

    keep: Tensor  # (B,) bool
    threshold: Tensor  # () float64, what scores had to exceed; NaN where nothing was asked of them


def top_r_threshold(scores: Tensor, rate: float | Tensor) -> Tensor:
    """The score that the worst rows of a batch do not exceed: Q of PRISM's TRM.

    Source: PRISM [Section 3.2]: of n scores, the one at position int(rate * n). Deviation: where
    that is no position, as for 5 % of 16, the authors' code ends with an IndexError; here Q lies
    below the lowest score, on the line through the two lowest, so that a mean over many batches
    still cuts about the rate.

    Args:
        scores: (B,) higher is cleaner; NaN for rows that take no part.
        rate: in [0, 1), the share to remove.

    Returns:
        () float64; NaN where the rate is 0 or there are too few scores.

    Example:
        >>> top_r_threshold(torch.tensor([0.4, 0.1, 0.3, 0.2]), 0.5).item()
        0.20000000298023224
    """
    if not len(scores):
        return scores.new_full((), torch.nan, dtype=torch.float64)
    if waits_for_nothing(scores):
        return torch.tensor(_quantile(scores, float(rate)), dtype=torch.float64)
    ordered = scores.double().sort().values  # NaN last
    wanted = rate * scores.isfinite().sum().double()
    n_removed = wanted.long()
    quantile = ordered.index_select(0, (n_removed - 1).clamp_(min=0))[0]
    gap = ordered[1] - quantile if len(ordered) > 1 else torch.nan
    quantile = torch.where(n_removed > 0, quantile, quantile - (1 - wanted) * gap)
    return torch.where(wanted > 0, quantile, torch.nan)


def _quantile(scores: Tensor, rate: float) -> float:
    """`top_r_threshold` where asking is free: in a third of its time."""
    scores, whole = scores.double(), math.isfinite(float(scores.sum()))
    wanted = rate * (len(scores) if whole else int(scores.isfinite().sum()))
    n_removed = int(wanted)
    if n_removed:
        return float(scores.kthvalue(n_removed).values)  # NaN last
    if not wanted or len(scores) < 2:
        return math.nan
    first, second = scores.sort().values[:2].tolist()
    return float(first - (1 - wanted) * (second - first))


def waits_for_nothing(values: Tensor) -> bool:
    """Whether asking costs no wait: then only the case at hand has to be worked out."""
    return values.device.type == "cpu"


class SmoothThreshold(nn.Module):
    """The mean of the last quantiles, which one unlucky batch moves little: PRISM's sTRM.

    Source: PRISM, eq. 4. As in the authors' code, the batch's own quantile is in the mean, and the
    mean is over what there is. Deviations: rows with the same scores share their fate, so that the
    order of a batch does not matter; while there is no quantile yet, everything is kept. Where
    published, a score of 1 stands for "not scored", and a batch without a quantile loses its first
    rows in the order of scores, as in the authors' code.

    Example:
        >>> smooth = SmoothThreshold(window=30)
        >>> smooth(torch.tensor([0.4, 0.1, 0.3, 0.2]), rate=0.5).keep.tolist()
        [True, False, True, False]
    """

    values: Tensor  # (T,) float64, the newest last; 0 where there is none yet
    n_values: Tensor  # () int64

    def __init__(self, window: int = 30, *, published: bool = False) -> None:
        """Begin empty.

        Args:
            window: T >= 1, batches; 1 is the quantile of each batch by itself (TRM).
            published: do as the authors' code does.

        Raises:
            ConfigError: a window below 1.
        """
        super().__init__()
        if window < 1:
            raise ConfigError(f"window is {window} batches; expected 1 or more.")
        self.published = published
        self.register_buffer("values", torch.zeros(window, dtype=torch.float64))
        self.register_buffer("n_values", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(
        self,
        scores: Tensor,
        rate: float | Tensor,
        eligible: Tensor | None = None,
        begin: bool | Tensor = True,
    ) -> Cut:
        """Take in one batch and say which rows of it to keep. Nothing waits for the device.

        Args:
            scores: (B,) higher is cleaner; NaN for rows of which nothing is known.
            rate: in [0, 1); 0 keeps all and empties the window.
            eligible: (B,) bool, rows that may be kept at all; the rest has no scores.
            begin: whether an empty window may take this batch's quantile; else all is kept.
        """
        if waits_for_nothing(scores) and not self.published:
            return self._at_once(scores, float(rate), eligible, begin)
        if eligible is None:
            eligible = torch.ones_like(scores, dtype=torch.bool)
        quantile = top_r_threshold(scores, rate)
        new = quantile.isfinite() & ((self.n_values > 0) | begin)
        if self.published:
            new &= quantile != 1
        self._push(quantile, new, rate)
        mean = self._mean()
        keep = eligible & ~(scores.double() <= mean)  # nothing speaks against NaN, nor does NaN
        none = ~keep.any() & eligible.any()
        if self.published:
            return self._published(scores, rate, eligible, begin, Cut(keep, mean), none, quantile)
        # Nobody passes: the scores have fallen since. The batch is judged by itself, and so will
        # be those to come; otherwise nothing might ever be kept again.
        self.n_values.copy_(torch.where(none & new, 1, self.n_values))
        own = ~(scores.double() <= quantile)
        own = torch.where((own & eligible).any(), own, ~(scores.double() < quantile))
        return Cut(torch.where(none, eligible & own, keep), torch.where(none, quantile, mean))

    def _at_once(
        self, scores: Tensor, rate: float, eligible: Tensor | None, begin: bool | Tensor
    ) -> Cut:
        """`forward` where asking is free: a third of its time, as only one case is worked out."""
        size, n_values, scores = len(self.values), int(self.n_values), scores.double()
        quantile = _quantile(scores, rate)
        new = math.isfinite(quantile) and (n_values > 0 or bool(begin))
        window = self.values.numpy()  # a view of the buffer: moving it takes 1 microsecond, not 8
        if new:
            window[:-1], window[-1] = window[1:], quantile
            n_values = min(n_values + 1, size)
        elif not rate > 0:
            n_values = 0
        threshold = sum(window[size - n_values :].tolist()) / n_values if n_values else math.nan

        def above(keep: Tensor) -> Tensor:
            return keep if eligible is None else keep & eligible

        keep = above(~(scores <= threshold))
        if not keep.any() and (eligible is None or eligible.any()):
            n_values, threshold = 1 if new else n_values, quantile
            keep = above(~(scores <= quantile))
            if not keep.any():
                keep = above(~(scores < quantile))
        self.n_values.fill_(n_values)
        return Cut(keep, torch.tensor(threshold, dtype=torch.float64))

    def _push(self, quantile: Tensor, new: Tensor, rate: float | Tensor) -> None:
        moved = torch.cat([self.values[1:], quantile.reshape(1)])
        self.values.copy_(torch.where(new, moved, self.values))
        n_values = (self.n_values + new.long()).clamp_(max=len(self.values))
        self.n_values.copy_(n_values * (torch.as_tensor(rate, device=new.device) > 0))

    def _mean(self) -> Tensor:
        """() float64, NaN of none."""
        age = torch.arange(len(self.values), 0, -1, device=self.values.device)
        return (self.values * (age <= self.n_values)).sum() / self.n_values

    def _published(
        self,
        scores: Tensor,
        rate: float | Tensor,
        eligible: Tensor,
        begin: bool | Tensor,
        cut: Cut,
        none: Tensor,
        quantile: Tensor,
    ) -> Cut:
        """The two fall-backs of the authors' code, which remove the first rows by order."""
        n_removed = (rate * eligible.sum().double()).long()
        place = scores.argsort(stable=True).argsort()  # NaN last
        rest = eligible & (place >= n_removed)
        cold = self.n_values == 0
        self.n_values.copy_(torch.where(none, self.n_values.clamp(max=1), self.n_values))
        keep = torch.where(none | cold, rest, cut.keep)
        threshold = torch.where(cold, 1.0, torch.where(none, quantile, cut.threshold))
        begin = torch.as_tensor(begin, device=scores.device)
        return Cut(torch.where(begin, keep, eligible), threshold.masked_fill(~begin, torch.nan))
