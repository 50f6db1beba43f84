"""Batch norm over the global batch of several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Mean = Callable[[Tensor], Tensor]  # over processes, element by element, with gradient


def synchronized(
    module: nn.Module, device: torch.device, mean: Mean, n_processes: int
) -> nn.Module:
    """The module, its batch norms normalizing over all processes; its parameters stay the same.

    Only torch's own three: whoever wrote a subclass meant another normalization.

    Args:
        module: changed in place, unless it is itself a batch norm.
        device: where it is.
        mean: over processes, with gradient.
        n_processes: which hold equal shares of the batch.
    """
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        norm = cast(_BatchNorm, module)
        momentum = cast(float, norm.momentum)
        same = (norm.num_features, norm.eps, momentum, norm.affine, norm.track_running_stats)
        new: _BatchNorm
        if device.type == "cuda":
            new = nn.SyncBatchNorm(*same)
        else:
            new = _SynchronizedNorm(*same)
            new.mean, new.n_processes = mean, n_processes
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(new, name, getattr(norm, name))
        return new.train(norm.training)
    for name, child in module.named_children():
        setattr(module, name, synchronized(child, device, mean, n_processes))
    return module


class _SynchronizedNorm(_BatchNorm):
    """Batch norm over the rows of all processes, on CPU: torch's SyncBatchNorm needs a GPU.

    Shares are equal, so the mean of the processes' means is the mean of all. Deviations are taken
    from it in a second pass: the mean of squares less the square of the mean cancels in float32.
    """

    mean: Mean
    n_processes: int

    def _check_input_dim(self, input: Tensor) -> None:
        """Any (B, C, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        with torch.autocast(input.device.type, enabled=False):
            values = input.to(torch.promote_types(input.dtype, torch.float32))
            mean = self.mean(values.mean(axes))  # (C,)
            centered = values - mean.view(shape)
            variance = self.mean(centered.square().mean(axes))  # (C,)
            scale = (variance + self.eps).rsqrt()
            if self.affine:
                scale = scale * self.weight
            normalized = centered * scale.view(shape)
            if self.affine:
                normalized = normalized + self.bias.view(shape)
        self._follow(mean, variance, input.numel() // input.shape[1] * self.n_processes)
        return normalized.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """Update the running statistics, as torch does: with the unbiased variance."""
        if self.running_mean is None or self.running_var is None:
            return
        n_batches = cast(Tensor, self.num_batches_tracked)
        n_batches += 1
        # a momentum of None means the plain mean of all batches so far
        weight = self.momentum if self.momentum is not None else 1 / float(n_batches)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        unbiased = variance * (n / max(n - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), weight)
