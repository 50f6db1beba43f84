"""The filter for people who train with pytorch-metric-learning (PML), open-metric-learning (OML).

What is particular to these libraries, and which of their traps are guarded here, is told in
docs/metric-learning-libraries.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.prism.filter import CleanFilter
from labelsieve.methods.prism.index_tuples import (
    Indices,
    all_pairs,
    fingerprints,
    numbered,
    renumbered,
    shifted,
    with_mates,
)
from labelsieve.methods.prism.wrapped import (
    check_loss,
    check_oml_miner,
    has_oml_miner,
    is_old_memory,
)

_FAR = 1e6  # a negative at which any triplet loss is 0; its square fits into float32


class FilteredLoss(nn.Module):
    """A loss that sees only the rows whose labels the filter finds plausible; the filter learns on.

    In evaluation mode nothing is filtered and the filter stays as it is: the classes held out are
    not its classes.

    Example:
        >>> def variance(embeddings, labels):
        ...     return embeddings.var(dim=0).sum()
        >>> loss = FilteredLoss(variance, CleanFilter(classes=2, dim=8, memory_size=100))
        >>> loss(torch.eye(4, 8), torch.tensor([0, 0, 1, 1]))
        tensor(1.)
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        filter: CleanFilter,
        memory_weight: float = 0.0,
        *,
        miner: Callable[..., Indices] | None = None,
    ) -> None:
        """Wrap a loss.

        Args:
            loss: of PML (also CrossBatchMemory), of OML, or any function of (embeddings, labels).
            filter: of the labels' classes; nothing else may use the same one.
            memory_weight: of the loss between the rows kept and the filter's memory, which is added
                to the loss among the rows kept; PRISM takes 1 with a contrastive loss. 0: none.
                For losses of PML that take `ref_emb` and normalize, as nearly all do.
            miner: of PML; looks among the rows kept.

        Raises:
            ConfigError: no filter, or a loss that cannot be given the rows kept.
        """
        super().__init__()
        _check_filter(filter)
        check_loss(loss, memory_weight)
        if isinstance(loss, nn.Module) and any(isinstance(m, CleanMiner) for m in loss.modules()):
            raise ConfigError(
                "FilteredLoss around a loss with a CleanMiner would filter twice. "
                "Give the loss CleanMiner's inner miner, or none."
            )
        self.loss, self.filter, self.miner = loss, filter, miner
        self.memory_weight = memory_weight

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Indices | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of the rows kept; 0, with a gradient of zeros, where none is.

        Args:
            embeddings: (B, D), with gradient, of any norm.
            labels: (B,) values of the filter's classes; below 0 for none.
            indices_tuple: of a miner of PML on the whole batch; what names a rejected row goes.
            ref_emb: (R, D) rows to compare with instead of the batch; they are filtered as well.
            ref_labels: (R,).

        Returns:
            scalar.
        """
        references = _references(embeddings, ref_emb, ref_labels)
        if not self.training:
            return self._call(embeddings, labels, indices_tuple, references)
        labels = _labels(labels, embeddings)
        keep, ref_keep = self._judge(embeddings, labels, references)
        memory = self.filter.memory() if self.memory_weight else None  # not yet with this batch
        self.filter.update(embeddings.detach(), labels, keep)
        if has_oml_miner(self.loss):
            keep = with_mates(labels, keep)
        if indices_tuple is not None:
            indices_tuple = renumbered(indices_tuple, keep, keep if ref_keep is None else ref_keep)
        if references is not None and ref_keep is not None:
            references = references[0][ref_keep], references[1][ref_keep]
        rows, labels = embeddings[keep], labels[keep]
        # PML 2 takes the only row of a batch for its own positive; of none it makes an error
        least = 2 if is_old_memory(self.loss) else 1
        if len(rows) < least or (references is not None and not len(references[0])):
            return _nothing(embeddings)
        total = self._call(rows, labels, indices_tuple, references)
        if memory is not None and len(memory[0]):
            known = memory[0].to(rows), memory[1].to(labels)
            total = total + self.memory_weight * self._call(rows, labels, None, known)
        return total

    @property
    def last_logs(self) -> dict[str, Any]:
        """What the last batch gave, as OML's loggers read it; waits for the device."""
        return {**getattr(self.loss, "last_logs", {}), **_logs(self.filter)}

    def _judge(
        self, rows: Tensor, labels: Tensor, references: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Which rows to keep, and which references; together, as one batch has one threshold."""
        if references is None:
            return self.filter(rows.detach(), labels), None
        both = torch.cat([rows, references[0]]).detach(), torch.cat([labels, references[1]])
        keep, ref_keep = self.filter(*both).split([len(rows), len(references[0])])
        return keep, ref_keep

    def _call(
        self,
        rows: Tensor,
        labels: Tensor,
        indices: Indices | None,
        references: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        named = {} if references is None else dict(zip(_REFERENCES, references, strict=True))
        if indices is None and self.miner is not None:
            indices = self.miner(rows, labels, **named)
        if indices is None:
            return self.loss(rows, labels, **named)
        if is_old_memory(self.loss):
            # it reads positives and negatives as rows of its queue; of the batch they are only
            # at the first call
            queue = cast(Any, self.loss)
            indices = shifted(indices, queue.queue_idx, queue.memory_size)
        return self.loss(rows, labels, indices, **named)

    def get_extra_state(self) -> Tensor:
        """Where a CrossBatchMemory of PML 2 is in its queue, which it does not save itself."""
        queue = cast(Any, self.loss)
        place = [queue.queue_idx, queue.has_been_filled] if is_old_memory(queue) else []
        return torch.tensor(place, dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from what `get_extra_state` gave."""
        if is_old_memory(self.loss) and len(state):
            queue = cast(Any, self.loss)
            queue.queue_idx, queue.has_been_filled = int(state[0]), bool(state[1])


class CleanMiner(nn.Module):
    """A miner for PML that names only rows with plausible labels; the filter learns on.

    For losses of pairs and triplets, alone or inside CrossBatchMemory. Losses with proxies make
    weights of rows from pairs, and weigh all rows where there are no pairs: give them
    `FilteredLoss` instead. In evaluation mode nothing is left out.

    Example:
        >>> mine = CleanMiner(CleanFilter(classes=2, dim=4, memory_size=100))
        >>> [part.tolist() for part in mine(torch.eye(3, 4), torch.tensor([0, 0, 1]))]
        [[0, 1], [1, 0], [0, 1, 2, 2], [2, 2, 0, 1]]
    """

    rejected: Tensor  # (n,) int64, fingerprints of rows that a memory may hold and should not

    def __init__(
        self, filter: CleanFilter, inner_miner: Callable[..., Indices] | None = None
    ) -> None:
        """Wrap a miner.

        Args:
            filter: of the labels' classes; nothing else may use the same one.
            inner_miner: looks among the rows kept. None: all pairs of them.

        Raises:
            ConfigError: no filter.
        """
        super().__init__()
        _check_filter(filter)
        self.filter, self.inner_miner = filter, inner_miner
        self.register_buffer("rejected", torch.zeros(0, dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Indices:
        """Pairs or triplets, by their rows in the whole batch.

        Args:
            embeddings: (B, D).
            labels: (B,) values of the filter's classes; below 0 for none.
            ref_emb: (R, D) rows to compare with, such as all of a CrossBatchMemory. Those that were
                rejected when they were in a batch, or are in this one, are left out.
            ref_labels: (R,).

        Returns:
            3 or 4 plain tensors, as of the inner miner; positives and negatives are rows of
            `ref_emb` where that is given.
        """
        references = _references(embeddings, ref_emb, ref_labels)
        labels = _labels(labels, embeddings)
        keep = torch.ones_like(labels, dtype=torch.bool)
        if self.training:
            keep = self.filter(embeddings.detach(), labels)
            self.filter.update(embeddings.detach(), labels, keep)
        rows = keep.nonzero().flatten()
        if references is None:
            return numbered(self._mine(embeddings[keep], labels[keep]), rows, rows)
        ref_keep = self._not_rejected(embeddings[~keep], labels[~keep], *references)
        known = references[0][ref_keep], references[1][ref_keep]
        found = self._mine(embeddings[keep], labels[keep], *known)
        return numbered(found, rows, ref_keep.nonzero().flatten())

    def _mine(self, rows: Tensor, labels: Tensor, *references: Tensor) -> Indices:
        if self.inner_miner is None or not len(rows) or (references and not len(references[0])):
            return all_pairs(labels, references[1] if references else None)
        return self.inner_miner(rows, labels, *references)

    def _not_rejected(
        self, rows: Tensor, labels: Tensor, ref_rows: Tensor, ref_labels: Tensor
    ) -> Tensor:
        """(R,) bool, after (n, D) newly rejected rows were noted.

        A memory takes whole batches in and does not tell where to. Rejected rows are known by their
        bits: to score references anew would ask the filter about rows that are in its own memory.
        """
        new = fingerprints(rows.to(ref_rows.dtype), labels)
        # the newest R are all that a memory of R rows can hold
        self.rejected = torch.cat([self.rejected.to(new.device), new])[-len(ref_labels) :]
        return ~torch.isin(fingerprints(ref_rows, ref_labels), self.rejected)

    def get_extra_state(self) -> Tensor:
        """The fingerprints; not as a buffer, whose size would have to be the same when loaded."""
        return self.rejected

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from what `get_extra_state` gave."""
        self.rejected = state.to(self.rejected.device)


class CleanTripletsMiner(nn.Module):
    """A miner for OML's TripletLossWithMiner that takes only rows with plausible labels.

    In evaluation mode nothing is left out.
    """

    def __init__(self, miner: Any, filter: CleanFilter) -> None:
        """Wrap a miner.

        Args:
            miner: of OML: AllTripletsMiner, HardTripletsMiner, NHardTripletsMiner, or anything with
                their `sample(features, labels)` that takes batches of varying size.
            filter: of the labels' classes; nothing else may use the same one.

        Raises:
            ConfigError: no filter, or a miner that needs batches of a fixed shape.
        """
        super().__init__()
        _check_filter(filter)
        check_oml_miner(miner)
        self.miner, self.filter = miner, filter

    def sample(
        self, features: Tensor, labels: Tensor | Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Triplets of the rows kept, without labels that only one of them has.

        Where there are none, one comes back whose loss is 0 and whose gradient is zeros: OML takes
        the mean over triplets, and the mean over none is not a number.

        Args:
            features: (B, D), with gradient.
            labels: (B,) values of the filter's classes; below 0 for none.

        Returns:
            anchors, positives and negatives: (n, D) each.
        """
        labels = _labels(labels, features)
        if self.training:
            keep = self.filter(features.detach(), labels)
            self.filter.update(features.detach(), labels, keep)
            keep = with_mates(labels, keep)
            if not keep.any():
                start = torch.zeros(1, features.shape[1], device=features.device)
                start = start + _nothing(features)
                return start, start + 1, start + _FAR  # apart: at distance 0 is no gradient
            features, labels = features[keep], labels[keep]
        # a list, which all of OML's miners take; miners with a memory give a fourth part, for logs
        anchors, positives, negatives, *_ = self.miner.sample(features, labels.tolist())
        return anchors, positives, negatives

    @property
    def last_logs(self) -> dict[str, Any]:
        """What the last batch gave, which OML's losses log; waits for the device."""
        return {**getattr(self.miner, "last_logs", {}), **_logs(self.filter)}


_REFERENCES = ("ref_emb", "ref_labels")  # as PML's losses and miners call them


def _check_filter(filter: object) -> None:
    if not isinstance(filter, CleanFilter):
        raise ConfigError(
            f"filter is a {type(filter).__name__}; expected a CleanFilter. "
            "Have the two arguments changed places?"
        )


def _labels(labels: Tensor | Sequence[int], rows: Tensor) -> Tensor:
    """The labels, where the rows are."""
    found = torch.as_tensor(labels, device=rows.device)
    if rows.ndim != 2 or found.shape != rows.shape[:1]:
        raise DataError(
            f"Labels are {tuple(found.shape)} for embeddings of {tuple(rows.shape)}; "
            "expected (B,) for (B, D)."
        )
    return found


def _references(
    rows: Tensor, ref_rows: Tensor | None, ref_labels: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Rows other than those of the batch. PML tells itself by `is`, which a part of rows is not."""
    if ref_rows is None or ref_rows is rows:
        return None
    if ref_labels is None:
        raise DataError("ref_emb has no ref_labels; expected one label for each of its rows.")
    return ref_rows, _labels(ref_labels, ref_rows)


def _logs(filter: CleanFilter) -> dict[str, float]:
    last = filter.last
    if last is None:
        return {}
    kept = float(last.keep.float().mean()) if len(last.keep) else 1.0
    return {
        "kept": kept, "threshold": float(last.threshold), "noise_rate": float(filter.noise_rate)
    }  # fmt: skip


def _nothing(rows: Tensor) -> Tensor:
    """0 with a gradient of zeros, also where rows are not finite, as 0 * rows.sum() is not."""
    return rows[:0].sum()
