"""How weights follow gradients: SGD, Adam, AdamW, RMSprop, Muon, and an average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labelsieve.errors import ConfigError
from labelsieve.loop.runtime import Precision, bare, fastest_precision

Name = Literal["sgd", "adam", "adamw", "rmsprop", "muon"]


@dataclass(frozen=True)
class Optimizer:
    """Settings of an optimizer. Defaults: those of SCAN's SimCLR on CIFAR-10, but `decay_all`."""

    name: Name = "sgd"
    momentum: float = 0.9  # in [0, 1); Adam's first beta
    second_momentum: float = 0.999  # in [0, 1); of squared gradients, Adam's second beta
    # Added to the root of the mean of squared gradients; adam, adamw and rmsprop. With rmsprop 1.0
    # is common: where gradients are smaller, updates are nearly those of sgd.
    epsilon: float = 1e-8
    nesterov: bool = False  # look ahead along the momentum; sgd and muon
    weight_decay: float = 1e-4  # in adam, rmsprop and sgd part of the gradient, else apart from it
    # Also biases and the weights of norms, as the reference codes do. They set scales that decay
    # has no reason to shrink.
    decay_all: bool = False
    # Muon: each matrix keeps the length of an orthogonal one with as many rows, and an update is
    # the learning rate's share of it. For networks whose every layer is normalized.
    relative: bool = False
    n_iterations: int = (
        5  # of Muon's orthogonalization; 3 cost half and serve as well on small nets
    )
    rest_factor: float = 1.0  # Muon: the learning rate of biases and norms, over that of matrices

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            known = ", ".join(get_args(Name))
            raise ConfigError(f"name is {self.name!r}; expected one of {known}.")
        for name in ("momentum", "second_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 <= {name} < 1.")
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay is {self.weight_decay}; expected 0 or more.")
        if not self.epsilon > 0:
            raise ConfigError(f"epsilon is {self.epsilon}; expected a number above 0.")
        if self.n_iterations < 1 or not self.rest_factor > 0:
            raise ConfigError(
                f"n_iterations is {self.n_iterations} and rest_factor {self.rest_factor}; expected "
                "at least 1, and above 0."
            )
        if self.nesterov and (self.name not in ("sgd", "muon") or self.momentum == 0):
            raise ConfigError(
                f"nesterov is on with {self.name}, momentum {self.momentum}; it needs sgd or muon "
                "with momentum above 0."
            )


def make_optimizers(
    settings: Optimizer, modules: Iterable[nn.Module]
) -> list[torch.optim.Optimizer]:
    """Optimizers of all weights of the modules that want a gradient, each weight once.

    The learning rate is 0 until `train` sets it, to that of the schedule times `lr_factor` of the
    group, if it has one.

    Args:
        settings: of all weights.
        modules: as `Runtime.prepare` gave them.

    Returns:
        One optimizer; for Muon two, of matrices and of everything else.

    Raises:
        ConfigError: no weight wants a gradient.
    """
    weights, scales = _split(modules)
    if not weights and not scales:
        raise ConfigError("there is nothing to train: no weight of the networks wants a gradient.")
    free = settings.weight_decay if settings.decay_all else 0.0
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((weights, settings.weight_decay), (scales, free))
        if params
    ]
    fused = True if all(weight.is_cuda for weight in [*weights, *scales]) else None
    betas = (settings.momentum, settings.second_momentum)
    if settings.name == "sgd":
        momentum, nesterov = settings.momentum, settings.nesterov
        return [torch.optim.SGD(groups, 0.0, momentum, nesterov=nesterov, fused=fused)]
    if settings.name == "adam":
        return [torch.optim.Adam(groups, 0.0, betas, settings.epsilon, fused=fused)]
    if settings.name == "adamw":
        return [torch.optim.AdamW(groups, 0.0, betas, settings.epsilon, fused=fused)]
    if settings.name == "rmsprop":
        share, momentum = settings.second_momentum, settings.momentum
        return [torch.optim.RMSprop(groups, 0.0, share, settings.epsilon, momentum=momentum)]
    found: list[torch.optim.Optimizer] = []
    if weights:
        found.append(Muon(weights, settings))
    if scales:
        rest = [{"params": scales, "weight_decay": free, "lr_factor": settings.rest_factor}]
        found.append(torch.optim.AdamW(rest, 0.0, betas, settings.epsilon, fused=fused))
    return found


def _split(modules: Iterable[nn.Module]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights that multiply (matrices, kernels), and those that scale or shift (norms, biases)."""
    weights: dict[int, Tensor] = {}
    scales: dict[int, Tensor] = {}
    for module in modules:
        for part in module.modules():
            is_norm = isinstance(part, _BatchNorm | nn.LayerNorm | nn.GroupNorm)
            for parameter in part.parameters(recurse=False):
                if parameter.requires_grad:
                    few = is_norm or parameter.ndim < 2
                    (scales if few else weights)[id(parameter)] = parameter
    return list(weights.values()), list(scales.values())


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal before each step.

    Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; as
    steepest descent under the spectral norm, J. Bernstein and L. Newhouse, "Old optimizer, new
    norm: an anthology", 2024. Steps are scaled to the size of AdamW's and weights decay apart from
    the gradient, after J. Liu et al., "Muon is scalable for LLM training", 2025, so that one
    learning rate suits both. Kernels (out, in, h, w) count as matrices (out, in * h * w).

    With `relative`, matrices keep their length instead: behind each stands a norm that undoes any
    change of it, so that the length would only decide how far an update turns the matrix.
    """

    def __init__(self, weights: Iterable[Tensor], settings: Optimizer) -> None:
        """Take weights of two or more dimensions; the learning rate is 0 until it is set."""
        super().__init__(weights, {"lr": 0.0, "weight_decay": settings.weight_decay})
        self.settings = settings

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        settings = self.settings
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                ahead = state["momentum_buffer"].mul_(settings.momentum).add_(weight.grad)
                if settings.nesterov:
                    ahead = weight.grad.add(ahead, alpha=settings.momentum)
                matrix = orthogonal(_as_matrix(ahead), settings.n_iterations)
                n_rows, n_columns = matrix.shape
                if settings.relative:
                    # an orthogonal (n, m) has the length min(n, m)^1/2
                    weight.mul_(n_rows**0.5 / weight.norm().clamp(min=1e-7))
                    size = (n_rows / min(n_rows, n_columns)) ** 0.5
                else:
                    # and entries of size max(n, m)^-1/2; AdamW's steps have 0.2
                    size = 0.2 * max(n_rows, n_columns) ** 0.5
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(_as_weight(matrix, weight), alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor, n_iterations: int = 5, precision: Precision = "fastest") -> Tensor:
    """About U V' of the singular value decomposition U S V': all directions, equally long.

    Source: Jordan et al. 2024, a Newton-Schulz iteration X <- (a + b X X' + c (X X')^2) X that
    brings singular values of 0.002 to 1 between 0.68 and 1.21 in five steps. Here the polynomials
    are multiplied on the small side, (n, n), and X comes in once, at the end: half the cost. In
    bfloat16, whose errors are smaller than that range, where the hardware multiplies it.

    Args:
        matrix: (n, m); zeros stay zeros.
        n_iterations: of the iteration.
        precision: of the products; those of float64 stay in it.

    Returns:
        (n, m), in the matrix' dtype.
    """
    if precision == "fastest":
        precision = fastest_precision(str(matrix.device))
    rows: Tensor = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    wide = rows.shape[0] <= rows.shape[1]
    rows = rows if wide else rows.T
    rows = rows / rows.norm().clamp(min=1e-7)  # spectral norm <= Frobenius norm = 1
    if precision != "float32" and rows.dtype == torch.float32:
        rows = rows.to(getattr(torch, precision))
    square = rows @ rows.T  # (n, n), n <= m
    polynomial = product = _polynomial(square)
    for _ in range(n_iterations - 1):
        square = polynomial @ square @ polynomial  # all of them commute
        polynomial = _polynomial(square)
        product = polynomial @ product
    rows = product @ rows
    return (rows if wide else rows.T).to(matrix.dtype)


def _polynomial(square: Tensor) -> Tensor:
    found = torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315)
    found.diagonal().add_(3.4445)
    return found


def _as_matrix(weight: Tensor) -> Tensor:
    """(out, rest) of a weight; of kernels with channels last without a copy.

    The order of columns does not matter: it is undone by `_as_weight`.
    """
    return (weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight).flatten(1)


def _as_weight(matrix: Tensor, weight: Tensor) -> Tensor:
    """The matrix in the shape of the weight."""
    if weight.ndim != 4:
        return matrix.reshape(weight.shape)
    n_out, n_in, height, width = weight.shape
    return matrix.reshape(n_out, height, width, n_in).permute(0, 3, 1, 2)


class Average(nn.Module):
    """A copy of a network whose weights and buffers are running averages of the network's.

    For evaluation: it is in eval mode, gets no gradient, and its batch norm uses the averaged
    statistics. Kept in a checkpoint like any network.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> average = Average(network, momentum=0.9)
        >>> before = network.weight.detach().clone()
        >>> _ = nn.init.zeros_(network.weight)
        >>> average.update()
        >>> bool(torch.allclose(average.module.weight, 0.9 * before))
        True
    """

    def __init__(self, network: nn.Module, momentum: float = 0.999) -> None:
        """Begin as an exact copy.

        Args:
            network: as `Runtime.prepare` gave it.
            momentum: share of the average that an update keeps, in [0, 1).

        Raises:
            ConfigError: a momentum outside of it.
        """
        super().__init__()
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum is {momentum}; expected 0 <= momentum < 1.")
        self._source = (bare(network),)  # in a tuple: not a part of this module
        self.module = copy.deepcopy(bare(network)).requires_grad_(False)
        self.momentum = momentum
        self.eval()

    def forward(self, *inputs: Any) -> Any:
        return self.module(*inputs)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Update after each step of an optimizer, the last one if there are several."""
        optimizer.register_step_post_hook(lambda *_: self.update())

    @torch.no_grad()
    def update(self) -> None:
        """Move toward the network as it is now; counts and other whole numbers are copied."""
        (source,) = self._source
        ours = [*self.module.parameters(), *self.module.buffers()]
        theirs = [*source.parameters(), *source.buffers()]
        for average, value in zip(ours, theirs, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - self.momentum)
            else:
                average.copy_(value)
