"""The clean filter: which rows of a batch have plausible labels, judged by those kept before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from labelsieve.errors import ConfigError, DataError, did_you_mean
from labelsieve.features.bank import MemoryBank, Replaced
from labelsieve.methods.prism.centers import (
    Score,
    class_sums,
    clean_log_probability,
    known,
    log_likelihoods,
    margins_where,
)
from labelsieve.methods.prism.thresholds import Cut, SmoothThreshold, waits_for_nothing
from labelsieve.methods.prism.usable import Prepared, prepared
from labelsieve.methods.prism.vmf import concentration

CHECK_EVERY = 2048  # rows between two estimates of the noise rate, which wait for the device
MARGINS = 4096  # rows that an estimate looks at, the newest
LEAST_MARGINS = 512  # rows before the first
SHARPNESS = 0.1  # cosines by which a row must suit its class better to be kept with odds of e : 1


@dataclass(frozen=True)
class Filter:
    """How a batch is filtered. Defaults: PRISM (CVPR 2021), but that the rate is estimated."""

    noise_rate: float | Literal["auto"] = "auto"  # share to remove, in [0, 1); 0 removes nothing
    window: int = 30  # batches that the threshold is a mean of (authors' configuration)
    score: Score = "average"  # "average" of the paper, "cosine", or "vmf" of 2108.01431
    temperature: float = 0.0  # divides margins, cosines; 0: 0.1, and 1 where published
    memory_size: int = 0  # rows; 0: as many as there are training images
    least_scored: float = 0.5  # share of a batch with a center before anything is removed
    published: bool = False  # probabilities and fall-backs of the authors' code, faults included

    def __post_init__(self) -> None:
        if self.noise_rate != "auto" and not (
            isinstance(self.noise_rate, int | float) and 0 <= self.noise_rate < 1
        ):
            raise ConfigError(
                f"noise_rate is {self.noise_rate!r}; expected 'auto' or a share from 0 to below 1. "
                "At 1 nothing would ever be kept."
            )
        if self.window < 1:
            raise ConfigError(f"window is {self.window} batches; expected 1 or more.")
        if self.score not in get_args(Score):
            raise ConfigError(
                f"score is {self.score!r}. {did_you_mean(str(self.score), get_args(Score))}"
            )
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature is {self.temperature}; expected 0 or more.")
        if self.memory_size < 0:
            raise ConfigError(f"memory_size is {self.memory_size} rows; expected 0 or more.")
        if not 0 < self.least_scored <= 1:
            raise ConfigError(f"least_scored is {self.least_scored}; expected above 0, at most 1.")
        if self.published and (self.score != "average" or self.noise_rate == "auto"):
            raise ConfigError(
                f"published with score {self.score!r} and noise_rate {self.noise_rate!r}; the "
                "authors' code knows only score 'average' and a given rate. Set both."
            )


class Filtered(NamedTuple):
    """What the filter saw in its last batch."""

    scores: Tensor  # (B,) in [0, 1], 1/2 as near to another class; NaN where not scored
    threshold: Tensor  # () float64, what scores had to exceed; NaN where nothing was asked of them
    scored: Tensor  # (B,) bool
    keep: Tensor  # (B,) bool


class CleanFilter(nn.Module):
    """Says which rows of a batch to learn from, and remembers the rows it was given.

    Source: PRISM, Algorithm 1. Deviations: the score of a row is its chance against the best other
    class, and not against all classes, whose number changes while the memory fills;
    docs/retrieval.md has the others. All of its state is in buffers, so that it is saved and moved
    with a model; nothing is drawn, so that processes that are fed the same rows agree.

    Rows that are not finite or have no label are never kept and never remembered. Rows of a class
    that was never in the memory are kept, as nothing speaks against them. A class whose rows have
    left the memory keeps its last center: without it, a small memory lets through what it cannot
    score (of 30 % noise 83 % is found with, 16 % without, at 60 rows for 50 classes).

    Example:
        >>> clean = CleanFilter(classes=2, dim=2, memory_size=8, settings=Filter(noise_rate=0.4))
        >>> rows, labels = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1])
        >>> clean.update(rows, labels, clean(rows, labels))  # nothing is known yet: all are kept
        >>> clean(rows, torch.tensor([0, 1, 0, 0])).tolist()
        [True, True, True, False]
    """

    values: Tensor  # (C,) int64 label values, ascending
    sums: Tensor  # (C + 1, D) of each class's memory rows; the last is for rows of no class
    counts: Tensor  # (C,) int64 rows in the memory
    weights: Tensor  # (C,) what the sums are of: counts, or those before a class's last rows left
    rate: Tensor  # () float64 noise rate in use
    n_offered: Tensor  # () int64, rows that `update` was given
    n_unknown: Tensor  # () int64, labels that are no class of the filter

    def __init__(
        self,
        classes: int | Sequence[int],
        dim: int,
        memory_size: int,
        settings: Filter | None = None,
    ) -> None:
        """Begin with an empty memory.

        Args:
            classes: how many, for labels 0 to C - 1; or which label values there are.
            dim: D, width of the rows.
            memory_size: M, rows remembered, if the settings say none; the number of training
                images is the paper's choice.
            settings: of the filter.

        Raises:
            ConfigError: no classes, a negative class, or a size or dim below 1.
        """
        super().__init__()
        self.settings = settings = settings or Filter()
        values = (
            list(range(classes)) if isinstance(classes, int) else sorted(set(map(int, classes)))
        )
        if not len(values) or values[0] < 0:
            raise ConfigError(
                f"classes are {classes!r}; expected how many, or label values of 0 or more."
            )
        rate = 0.0 if settings.noise_rate == "auto" else float(settings.noise_rate)
        self.bank = MemoryBank(settings.memory_size or memory_size, dim)
        self.smooth = SmoothThreshold(settings.window, published=settings.published)
        self.margins = MemoryBank(MARGINS, 2) if settings.noise_rate == "auto" else None
        self.register_buffer("values", torch.tensor(values))
        self.register_buffer("sums", torch.zeros(len(values) + 1, dim))
        self.register_buffer("counts", torch.zeros(len(values), dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(len(values)))
        self.register_buffer("rate", torch.tensor(rate, dtype=torch.float64))
        for name in ("n_offered", "n_unknown"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self._in_order = values == list(range(len(values)))  # then labels are classes
        self._n_offered: int | None = 0  # the same number, known without asking the device
        self._last_prepared: tuple[tuple[Any, ...], tuple[Tensor, Tensor], Prepared] | None = None
        self.last: Filtered | None = None

    @property
    def noise_rate(self) -> float:
        """The share that is being removed; 0 until an "auto" rate was first estimated."""
        return float(self.rate)

    @property
    def present(self) -> Tensor:
        """(C,) bool: classes that have a center."""
        return self.weights > 0

    @property
    def centers(self) -> Tensor:
        """(C, D) mean row of each class, not renormalized; of one that left the memory its last."""
        return self.sums[:-1] / self.weights[:, None].clamp(min=1)

    def memory(self) -> tuple[Tensor, Tensor]:
        """The rows remembered, (n, D), and their labels, (n,), as the user gave them; copies."""
        rows, classes = self.bank.read()
        return rows, self.values[classes]

    @torch.no_grad()
    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Say which rows to keep, and move the threshold on; the memory is `update`'s.

        Args:
            features: (B, D) of any floating dtype and norm; of the whole batch, where several
                processes share it.
            labels: (B,) int64; below 0 for none.

        Returns:
            (B,) bool. More is in `last`.

        Raises:
            DataError: other shapes; a label that is no class (on an accelerator, which is not to be
                waited for, only now and then).
        """
        rows, classes, usable, whole, _ = self._prepared(features, labels)
        device = rows.device.type
        full: AbstractContextManager[object] = (
            nullcontext()
        )  # entering the other costs 10 microseconds
        if torch.is_autocast_enabled(device):  # ranks are lost in half precision
            full = torch.autocast(device, enabled=False)
        with full:
            scores = self._scores(rows, classes, usable, whole)
        begin: Tensor | bool = True
        if whole and not self.settings.published and math.isfinite(float(scores.sum())):
            scored = usable
        else:
            scored = known(classes, self.present) & usable
            begin = scored.sum() >= self.settings.least_scored * usable.sum()
        if self.settings.published:
            begin = self.bank.n_rows > 0
        cut: Cut = self.smooth(scores, self.rate, None if whole else usable, begin)
        self.last = Filtered(scores, cut.threshold, scored, cut.keep)
        return cut.keep

    def _scores(self, rows: Tensor, classes: Tensor, usable: Tensor, whole: bool) -> Tensor:
        """(B,) float64 in [0, 1], of a scale that does not change while the memory fills."""
        settings, present = self.settings, self.present
        if settings.published:
            log_p = clean_log_probability(
                rows, classes, self.centers, present, score="average",
                temperature=settings.temperature, published=True,
            )  # fmt: skip
            return log_p.exp().masked_fill(~usable, torch.nan)
        likelihoods = log_likelihoods(
            rows, self.sums[:-1], present, score=settings.score, temperature=1.0,
            counts=self.counts, weights=self.weights,
        )  # fmt: skip
        # in float64, as a sigmoid in float32 is 1 from 17 on, and equal scores share their fate
        mine = likelihoods if self.margins is None else likelihoods.clone()
        margin = margins_where(mine, classes, None if whole else usable).double()
        if self.margins is not None:
            others = classes.roll(len(classes) // 2)  # labels that have nothing to do with the rows
            unlike = usable & (others >= 0) & (others != classes)
            chance = margins_where(likelihoods, others, unlike)
            self.margins.push(torch.stack([margin.to(chance), chance], dim=1))
        if settings.score == "vmf":  # from nats to cosines, for all scores to be alike
            lengths = self.sums[:-1].norm(dim=1) / self.weights.clamp(min=1)
            kappa = concentration(lengths, rows.shape[1], self.counts)
            margin /= kappa.masked_fill(~present, torch.nan).nanmedian()
        # Bounded, because the threshold is a mean: one batch with a very implausible row at its
        # quantile would let noise through in the next 30.
        scores: Tensor = (margin / (settings.temperature or SHARPNESS)).sigmoid()
        return scores

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, keep: Tensor | None = None) -> None:
        """Remember the rows that were kept, in the place of the oldest.

        Args:
            features: as of `forward`, and so are labels.
            labels: (B,).
            keep: (B,) bool; all where it is not given.

        Raises:
            DataError: as `forward`.
        """
        rows, classes, usable, whole, _ = self._prepared(features, labels)
        if keep is not None:
            if keep.shape != usable.shape:
                raise DataError(f"keep is {tuple(keep.shape)}; expected ({len(rows)},).")
            usable = keep.to(usable) if whole else usable & keep.to(usable)
        if waits_for_nothing(rows):  # half the rows, half the work
            chosen = usable.nonzero().view(-1)
            rows, classes = rows.index_select(0, chosen), classes.index_select(0, chosen)
            self._remember(rows, classes)
        else:
            old = self.bank.exchange(rows, classes, keep=usable)
            self._move(rows, classes.masked_fill(~usable, -1), old)
        if self._n_offered is None:
            self._n_offered = int(self.n_offered)
        before, self._n_offered = self._n_offered, self._n_offered + len(labels)
        self.n_offered.fill_(self._n_offered)
        if before // CHECK_EVERY < self._n_offered // CHECK_EVERY:
            self._check()
        size = len(self.bank.labels)
        if before // size < self._n_offered // size:
            self._rebuild()

    def _remember(self, rows: Tensor, classes: Tensor) -> None:
        """Push rows that can all be used, without a copy of those that have to go."""
        place = self.bank.room(len(rows))
        if place is None:
            self._move(rows, classes, self.bank.exchange(rows, classes))
            return
        self._move(rows, classes, Replaced(self.bank.features[place], self.bank.labels[place]))
        self.bank.put(rows, classes, place)

    def _move(self, rows: Tensor, classes: Tensor, old: Replaced) -> None:
        """Add new rows to their classes' sums and take the old ones out; -1 is for no class."""
        if waits_for_nothing(rows) and self._move_plainly(rows, classes, old):
            return
        n_classes = len(self.counts)
        came, left = (labels.masked_fill(labels < 0, n_classes) for labels in (classes, old.labels))
        ones = torch.ones_like(came)
        counts = nn.functional.pad(self.counts, (0, 1))  # (C + 1,)
        counts.index_add_(0, left, ones, alpha=-1)
        empty = counts <= 0
        # A class whose last rows leave keeps its sum, until new rows come.
        leaving = left.masked_fill(empty[left], n_classes)
        self.sums.index_add_(0, leaving, old.features.to(self.sums), alpha=-1)
        self.sums.index_fill_(0, came.masked_fill(~empty[came], n_classes), 0)
        self.sums.index_add_(0, came, rows)
        self.counts.copy_(counts.index_add_(0, came, ones)[:-1])
        self.weights.copy_(torch.where(self.counts > 0, self.counts, self.weights))

    def _move_plainly(self, rows: Tensor, classes: Tensor, old: Replaced) -> bool:
        """`_move` in a third of the time, if all rows have classes and no class loses its last."""
        came, left = classes, old.labels
        if not len(left) or int(left.amin()) < 0:
            return False
        counts = self.counts.index_add(0, left, torch.ones_like(left), alpha=-1)
        if int(counts.amin()) < 1:
            return False
        self.sums.index_add_(0, left, old.features, alpha=-1).index_add_(0, came, rows)
        self.counts.copy_(counts.index_add_(0, came, torch.ones_like(came)))
        self.weights.copy_(self.counts)
        return True

    def _rebuild(self) -> None:
        """Sum the memory anew, before additions and subtractions leave a trace in the sums."""
        sums, counts = class_sums(self.bank.features, self.bank.labels, len(self.counts))
        self.sums[:-1] = torch.where(counts[:, None] > 0, sums, self.sums[:-1])
        self.sums[-1] = 0

    def _check(self) -> None:
        """What has to wait for the device, now and then."""
        self._refuse_unknown()
        if self.margins is not None and len(self.margins) >= LEAST_MARGINS:
            from labelsieve.methods.prism.noise_rate import online_noise_rate

            self.rate.fill_(online_noise_rate(*self.margins.read()[0].T))

    def _prepared(self, features: Tensor, labels: Tensor) -> Prepared:
        """Rows and labels as they are worked with; those of the last call are not made again."""
        width = self.sums.shape[1]
        if features.ndim != 2 or features.shape[1] != width:
            raise DataError(f"Rows to filter are {tuple(features.shape)}; expected (B, {width}).")
        if labels.shape != features.shape[:1]:
            raise DataError(f"Labels are {tuple(labels.shape)}; expected ({len(features)},).")
        if features.is_inference() or labels.is_inference():  # they do not count their changes
            return self._prepare(features.detach(), labels)
        key = (
            features.data_ptr(), features._version, features.shape, features.stride(),
            features.dtype, labels.data_ptr(), labels._version, labels.stride(), labels.dtype,
        )  # fmt: skip
        last = self._last_prepared
        if last is None or last[0] != key:
            seen = (features.detach(), labels.detach())  # held, lest other rows get their place
            self._last_prepared = last = (key, seen, self._prepare(*seen))
        return last[2]

    def _prepare(self, features: Tensor, labels: Tensor) -> Prepared:
        found = prepared(
            features.to(self.sums), labels.to(self.values), self.values,
            ordered=self._in_order, unit=not self.settings.published,
        )  # fmt: skip
        if found.n_unknown is not None:
            self.n_unknown.add_(found.n_unknown)
            if waits_for_nothing(found.rows):
                self._refuse_unknown()
        return found

    def _refuse_unknown(self) -> None:
        n_unknown = int(self.n_unknown)
        if n_unknown:
            self.n_unknown.zero_()
            self._last_prepared = None
            raise DataError(
                f"{n_unknown} labels are none of the filter's {len(self.values)} classes, "
                f"{int(self.values[0])} to {int(self.values[-1])}. "
                "Name the label values that there are when you make the filter."
            )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], *args: Any) -> None:
        self._n_offered = None
        super()._load_from_state_dict(state_dict, *args)
