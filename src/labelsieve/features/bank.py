"""The memory bank: the last rows that were pushed, in buffers that are saved with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labelsieve.errors import ConfigError, DataError


class Replaced(NamedTuple):
    """What pushed rows took the place of."""

    features: Tensor  # (B, P); what is in rows of label -1 means nothing
    labels: Tensor  # (B,) int64, -1 where no labeled row had to go


class MemoryBank(nn.Module):
    """A ring of the newest rows, with or without labels: a queue of keys, or of class examples.

    What is on the processes of a run is the same as long as all of them push the whole batch
    (`runtime.gather_detached`), which is also what makes it the same as on one process.
    Nothing waits for the device, but `read` while the bank is filling.

    Example:
        >>> bank = MemoryBank(size=3, dim=1)
        >>> bank.push(torch.tensor([[1.0], [2.0]]))
        >>> bank.push(torch.tensor([[3.0], [4.0]]))
        >>> bank.read()[0].flatten().tolist()
        [4.0, 2.0, 3.0]
    """

    features: Tensor  # (M, P)
    labels: Tensor  # (M,) int64, -1 where none was given
    next_slot: Tensor  # () int64, where the next row goes
    n_rows: Tensor  # () int64, how many slots hold a row
    n_skipped: Tensor  # () int64, how many rows were not finite and left out, ever

    def __init__(self, size: int, dim: int, dtype: torch.dtype = torch.float32) -> None:
        """Begin empty.

        Args:
            size: M, rows kept.
            dim: P.
            dtype: of storage; a half-precision bank of 65,536 x 128 takes 16 instead of 32 MiB.

        Raises:
            ConfigError: a size or dim below 1, or a dtype without fractions.
        """
        super().__init__()
        if size < 1 or dim < 1:
            raise ConfigError(f"A bank of {size} rows of {dim} holds nothing; expected 1 or more.")
        if not dtype.is_floating_point:
            raise ConfigError(f"A bank of {dtype} cannot hold features; expected a floating one.")
        self.register_buffer("features", torch.zeros(size, dim, dtype=dtype))
        self.register_buffer("labels", torch.full((size,), -1))
        for name in ("next_slot", "n_rows", "n_skipped"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self._full = False  # known to be full: spares the wait for n_rows

    def __len__(self) -> int:
        """How many rows it holds."""
        size = len(self.features)
        if not self._full:
            n_rows = int(self.n_rows)
            self._full = n_rows == size
            return n_rows
        return size

    def read(self) -> tuple[Tensor, Tensor]:
        """The rows held and their labels, by slot (not by age), in the dtype of storage.

        They are copies, so that a push between a loss and its backward does no harm.

        Returns:
            features: (n, P) and labels: (n,) int64, n <= M; -1 where none was given.
        """
        n = len(self)
        return self.features[:n].clone(), self.labels[:n].clone()

    def push(self, rows: Tensor, labels: Tensor | None = None) -> None:
        """Put rows in the place of the oldest; rows that are not finite are skipped and counted.

        Args:
            rows: (B, P), of the whole batch; detached. Where B > M the last M stay.
            labels: (B,) int64.

        Raises:
            DataError: rows of another width, or labels of another number.
        """
        self.exchange(rows, labels)

    @torch.no_grad()
    def exchange(
        self, rows: Tensor, labels: Tensor | None = None, *, keep: Tensor | None = None
    ) -> Replaced:
        """Push some rows, and tell which had to go: for sums that follow the bank.

        Args:
            rows: as of `push`, and so are labels.
            labels: (B,) int64.
            keep: (B,) bool, the rows to push; all where it is not given.

        Returns:
            the labeled rows that had to go, also those of this very batch, in the dtype of storage.

        Raises:
            DataError: as `push`.
        """
        if rows.ndim != 2 or rows.shape[1] != self.features.shape[1]:
            raise DataError(
                f"Rows pushed are {tuple(rows.shape)}; expected (B, {self.features.shape[1]})."
            )
        if labels is None:
            labels = self.labels.new_full((len(rows),), -1)
        if labels.shape != rows.shape[:1]:
            raise DataError(f"Labels are {tuple(labels.shape)}; expected ({len(rows)},).")
        rows, labels = rows.to(self.features), labels.to(self.labels)
        if keep is None and _all_finite(rows) and (place := self.room(len(rows))):
            old = Replaced(self.features[place].clone(), self.labels[place].clone())
            self.put(rows, labels, place)
            return old
        if keep is None:
            keep = torch.ones_like(labels, dtype=torch.bool)
        size, replaced = len(self.features), []
        for start in range(0, len(rows), size):  # once, but for batches longer than the bank
            piece = slice(start, start + size)
            replaced.append(self._push(rows[piece], labels[piece], keep[piece]))
        if len(replaced) == 1:
            return replaced[0]
        none = Replaced(self.features[:0], self.labels[:0])
        return Replaced(*map(torch.cat, zip(none, *replaced, strict=True)))

    def room(self, n_rows: int) -> slice | None:
        """Where the next rows go; None if back to the first slot, or if asking is a wait."""
        if self.next_slot.device.type != "cpu":
            return None
        end = int(self.next_slot) + n_rows
        return slice(end - n_rows, end) if end <= self.features.shape[0] else None

    def put(self, rows: Tensor, labels: Tensor, place: slice) -> None:
        """Push rows that are known to be finite to where `room` says: a tenth of `push`'s time."""
        self.features[place].copy_(rows)
        self.labels[place].copy_(labels)
        size = self.features.shape[0]
        self.next_slot.fill_(place.stop % size)
        self.n_rows.fill_(min(int(self.n_rows) + place.stop - place.start, size))

    def _push(self, rows: Tensor, labels: Tensor, keep: Tensor) -> Replaced:
        """Write B <= M rows, without asking the device how many of them are finite."""
        # after the cast, as float16 ends at 65,504; all(dim=1) takes ten times as long as amax
        finite = rows.abs().amax(dim=1) < torch.inf
        good, n_rows = finite & keep.to(finite.device), len(rows)
        self.n_skipped.add_((keep.to(finite.device) & ~finite).sum())
        order = torch.argsort((~good).byte(), stable=True)  # good ones first, in their order
        write, n, rows, labels = good[order], good.sum(), rows[order], labels[order]
        slots = (self.next_slot + torch.arange(n_rows, device=rows.device)) % len(self.features)
        old = Replaced(self.features.index_select(0, slots), self.labels.index_select(0, slots))
        self.features.index_copy_(0, slots, torch.where(write[:, None], rows, old.features))
        self.labels.index_copy_(0, slots, torch.where(write, labels, old.labels))
        self.next_slot.copy_((self.next_slot + n) % len(self.features))
        self.n_rows.copy_((self.n_rows + n).clamp(max=len(self.features)))
        return old._replace(labels=old.labels.masked_fill(~write, -1))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], *args: Any) -> None:
        self._full = False  # the state may be of a bank that is still filling
        super()._load_from_state_dict(state_dict, *args)


def _all_finite(rows: Tensor) -> bool:
    """Whether it is free to ask, and the sum says so: a fourth of the time of looking at each."""
    return rows.device.type == "cpu" and math.isfinite(float(rows.sum()))
