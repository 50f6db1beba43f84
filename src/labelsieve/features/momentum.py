"""What MoCo needs beside its loss: a slow encoder for the keys, and batch norm that gives no hints.

With batch norm over the whole batch, a query and its key share statistics that their negatives in
the queue don't have, and a network learns to recognize those instead of the image. MoCo shuffles
images between GPUs, each of which normalizes by its own share; that ties the result to the number
of GPUs, and does nothing on one. Here, groups of a fixed number of consecutive images of the
*global* batch are normalized by themselves (`GroupedBatchNorm`), and keys are encoded in another
order than queries (`exchange`, `restore`): the same result on one process and on many, no
statistics sent between them during the forward pass, and no hint, since a query's group and its
key's group hold different images. Batch norm synchronized over all processes would also not depend
on their number, but shares one set of images between queries and keys, and waits at every layer.

One step, where `batch_generator` is that of `data.draws`::

    order = torch.from_numpy(batch_generator(seed, epoch, step).permutation(B))
    slow.follow(encoder)
    queries = runtime.gather(normalize(encoder(first_views(batch.images, batch.rows)), dim=1))
    average_statistics(encoder, runtime.mean)
    images, rows = (exchange(each, order, runtime) for each in (batch.images, batch.rows))
    keys = restore(normalize(slow(second_views(images, rows)), dim=1), order, runtime)
    loss = info_nce_queue(queries, keys, bank.read()[0])
    bank.push(keys)

It is cheapest to exchange the uint8 images and their rows, and to augment where they arrive.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from labelsieve.errors import ConfigError, DataError


class Processes(Protocol):
    """What of `runtime.Runtime` is needed to exchange rows between processes."""

    @property
    def rank(self) -> int: ...
    @property
    def n_processes(self) -> int: ...
    def gather_detached(self, rows: Tensor) -> Tensor: ...


class MomentumEncoder(nn.Module):
    """A copy of an encoder that follows it slowly and gets no gradient.

    Source: K. He et al., "Momentum contrast for unsupervised visual representation learning",
    CVPR 2020, eq. 2. In training mode its batch norm uses the statistics of its own batches.

    Example:
        >>> encoder = nn.Linear(2, 2)
        >>> slow = MomentumEncoder(encoder, momentum=0.9)
        >>> before = slow.encoder.weight.clone()
        >>> _ = nn.init.zeros_(encoder.weight)
        >>> slow.follow(encoder)
        >>> bool(torch.allclose(slow.encoder.weight, 0.9 * before))
        True
    """

    def __init__(self, encoder: nn.Module, momentum: float = 0.999) -> None:
        """Begin as an exact copy.

        Args:
            encoder: before it is wrapped for several processes or compiled.
            momentum: in [0, 1); MoCo uses 0.999 (0.99 suits runs of few steps).
        """
        super().__init__()
        _check_momentum(momentum)
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum = momentum

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images)  # type: ignore[no-any-return]

    def follow(self, source: nn.Module) -> None:
        """One step toward the source, as `update_momentum`; before the keys of a step are made."""
        update_momentum(self.encoder, source, self.momentum)


@torch.no_grad()
def update_momentum(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """Set target to momentum * target + (1 - momentum) * source; buffers are copied as they are.

    Args:
        target: with the parameters and buffers of source, in the same order.
        source: may be wrapped for several processes or compiled: names are not compared.
        momentum: in [0, 1).

    Raises:
        ConfigError: a momentum outside [0, 1).
        DataError: parameters or buffers of other numbers or shapes.
    """
    _check_momentum(momentum)
    slow: list[Tensor] = list(target.parameters())
    fast: list[Tensor] = list(source.parameters())
    copies, buffers = list(target.buffers()), list(source.buffers())
    pairs = (slow, fast), (copies, buffers)
    if any([a.shape for a in ours] != [b.shape for b in theirs] for ours, theirs in pairs):
        raise DataError(
            f"The encoder to follow has {len(fast)} parameters and {len(buffers)} buffers, the slow"
            f" one {len(slow)} and {len(copies)}, or shapes differ; expected the same network."
        )
    if slow:
        torch._foreach_lerp_(slow, fast, 1 - momentum)
    for ours, theirs in zip(copies, buffers, strict=True):
        ours.copy_(theirs)


class GroupedBatchNorm(nn.Module):
    """Batch norm over groups of consecutive images, each normalized by its own statistics.

    Running statistics are the means over groups of the group's mean and unbiased variance, so that
    evaluation is that of ordinary batch norm with batches of one group. State dicts fit those of
    `torch.nn.BatchNorm1d` and `BatchNorm2d`. It isn't one of these classes, so that nothing
    synchronizes it over processes; `average_statistics` brings its running statistics together.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, n_features: int, group_size: int, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        """Weights 1, biases 0, running mean 0 and variance 1.

        Args:
            n_features: channels.
            group_size: images normalized together; batches are multiples of it. MoCo uses 32.
            eps: added to variances.
            momentum: weight of a new batch in the running statistics.

        Raises:
            ConfigError: a group size below 2.
        """
        super().__init__()
        if group_size < 2:
            raise ConfigError(f"group_size is {group_size}; expected 2 or more images, such as 32.")
        self.group_size, self.eps, self.momentum = group_size, eps, momentum
        self.weight = nn.Parameter(torch.ones(n_features))
        self.bias = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("running_mean", torch.zeros(n_features))
        self.register_buffer("running_var", torch.ones(n_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C) or (B, C, H, W) -> the same shape.

        Raises:
            ConfigError: in training, a batch that is no multiple of the group size.
        """
        if not self.training:
            return functional.batch_norm(
                images, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        if len(images) == 0 or len(images) % self.group_size:
            raise ConfigError(
                f"A process got {len(images)} images, to be normalized in groups of "
                f"{self.group_size}; expected a multiple of it. Change the batch size or "
                "group_size."
            )
        # Slices of the batch keep the native kernels for channels_last and half precision.
        groups = torch.split(images, self.group_size)
        means = self.running_mean.new_zeros(len(groups), *self.running_mean.shape)
        variances = torch.zeros_like(means)
        normalized = [
            # With momentum 1, "running" statistics become those of the group.
            functional.batch_norm(group, mean, var, self.weight, self.bias, True, 1.0, self.eps)
            for group, mean, var in zip(groups, means, variances, strict=True)
        ]
        self.running_mean.lerp_(means.mean(0), self.momentum)
        self.running_var.lerp_(variances.mean(0), self.momentum)
        self.num_batches_tracked.add_(1)
        return torch.cat(normalized)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, group_size={self.group_size}"


def group_batch_norms(module: nn.Module, group_size: int) -> nn.Module:
    """Replace every batch norm in a network by a grouped one with the same parameters and buffers.

    Args:
        module: changed in place, but where it is itself a batch norm.
        group_size: images normalized together, see `GroupedBatchNorm`.

    Returns:
        the module, or what replaces it.

    Raises:
        ConfigError: a batch norm without parameters or running statistics, which has no grouped
            form here.
    """
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        if not module.affine or module.running_mean is None or module.momentum is None:
            raise ConfigError(
                f"{module} has no weights or no running average; expected both, to be grouped."
            )
        grouped = GroupedBatchNorm(module.num_features, group_size, module.eps, module.momentum)
        grouped.to(module.weight)
        grouped.load_state_dict(module.state_dict())
        return grouped.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, group_batch_norms(child, group_size))
    return module


@torch.no_grad()
def average_statistics(module: nn.Module, mean: Callable[[Tensor], Tensor]) -> None:
    """Make the running statistics of grouped batch norms those of the whole batch.

    A running statistic is linear in those of the groups, so the mean over processes of what each
    kept of its own groups is what one process would keep of all. One exchange for all layers; call
    it once a step, so that processes (and their checkpoints) never differ.

    Args:
        module: the network, wrapped or not.
        mean: of a tensor over processes, such as `runtime.mean`.
    """
    statistics = [
        statistic
        for layer in module.modules()
        if isinstance(layer, GroupedBatchNorm)
        for statistic in (layer.running_mean, layer.running_var)
    ]
    if not statistics:
        return
    averaged = mean(torch.cat(statistics))
    pieces = torch.split(averaged, [len(statistic) for statistic in statistics])
    for statistic, piece in zip(statistics, pieces, strict=True):
        statistic.copy_(piece)


def exchange(rows: Tensor, order: Tensor, processes: Processes) -> Tensor:
    """This process' share of the global batch in another order.

    Args:
        rows: (b, ...) this process' share of the batch in its own order; no gradient passes.
        order: (B,) int64 permutation of the global batch; the same on all processes.
        processes: the runtime.

    Returns:
        (b, ...): of the global batch, rows order[rank b : (rank + 1) b].
    """
    if len(order) != len(rows) * processes.n_processes:
        raise DataError(
            f"order is of {len(order)} images; the batch has {len(rows)} on each of "
            f"{processes.n_processes} processes. Expected a permutation of the global batch."
        )
    share = order[processes.rank * len(rows) : (processes.rank + 1) * len(rows)]
    return processes.gather_detached(rows)[share.to(rows.device, non_blocking=True)]


def restore(rows: Tensor, order: Tensor, processes: Processes) -> Tensor:
    """The global batch in its own order again, on every process.

    Args:
        rows: (b, ...) made of what `exchange` gave; no gradient passes.
        order: as given to `exchange`.
        processes: the runtime.

    Returns:
        (B, ...): row i is of image i of the global batch.
    """
    everything = processes.gather_detached(rows)
    restored = torch.empty_like(everything)
    restored[order.to(rows.device, non_blocking=True)] = everything
    return restored


def _check_momentum(momentum: float) -> None:
    if not 0 <= momentum < 1:
        raise ConfigError(f"momentum is {momentum}; expected a number in [0, 1), such as 0.999.")
