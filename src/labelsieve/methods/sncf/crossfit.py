"""What a label would be by the features: no image vouches for its own label.

All networks of an ensemble (folds x repeats) are trained at once, as batched matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelsieve.errors import ConfigError, NumericError

Progress = Callable[[int, int], None]  # (done, total)

SMALLEST_BATCH, LARGEST_BATCH = 16, 512  # images; between them a fold has STEPS_AN_EPOCH steps
STEPS_AN_EPOCH = 25
MOST_EPOCHS = 100  # for `least_steps`
N_LOOKS = 10  # at the held-out labels, after the first third
BLOCK = 8192  # rows predicted at once
FEW_IMAGES = 5000


@dataclass(frozen=True)
class CrossFit:
    """Networks with one hidden layer, trained with mixup; each predicts the fold it did not see."""

    n_folds: int = 5
    n_hidden: int = 256  # units
    n_epochs: int = 8
    least_steps: int = 300  # small sets get more epochs
    learning_rate: float = 2e-3  # of AdamW, at the top of its cosine
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        least = {"n_folds": 2, "n_hidden": 1, "n_epochs": 1, "least_steps": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least {value}.")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate is {self.learning_rate}; expected more than 0.")
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay is {self.weight_decay}; expected at least 0.")


def cross_fit(
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    n_classes: int,
    settings: CrossFit = CrossFit(),
    *,
    transitions: NDArray[np.float64] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Each image's class probabilities from networks that never saw its label.

    With `transitions` the networks predict true classes and are scored on the labels that these
    would turn into: the forward correction of Patrini et al. (CVPR 2017, theorem 2). Without, they
    predict the labels as they are given, mistakes and all.

    Of up to ten epochs, the one counts to which the held-out labels were likeliest.

    Args:
        inputs: (N, D), columns of about unit variance.
        labels: (N,) in [-1, C); rows without a label (-1) are predicted and never learned from.
        n_classes: C.
        settings: of the networks.
        transitions: (R, C, C) rows sum to 1: how a true class turns into labels. Each repeat has
            its own; without them there is one repeat.
        seed: of folds, starts, order and mixup.
        device: where torch computes.
        progress: called with (done, total) epochs.

    Returns:
        (R, N, C) rows sum to 1.

    Raises:
        NumericError: training left the finite numbers.
    """
    with _enough_threads(len(labels)):
        return _cross_fit(
            inputs, labels, np.eye(n_classes)[None] if transitions is None else transitions,
            settings, seed, device, progress,
        )  # fmt: skip


@contextmanager
def _enough_threads(n_images: int) -> Iterator[None]:
    """One thread for few images: several wait for one another longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if n_images < FEW_IMAGES else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cross_fit(
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    transitions: NDArray[np.float64],
    settings: CrossFit,
    seed: int,
    device: str,
    progress: Progress | None,
) -> NDArray[np.float32]:
    forward = torch.from_numpy(transitions).float().to(device)  # (R, C, C)
    generator = torch.Generator().manual_seed(seed)
    folds = np.stack([_folds(labels, settings.n_folds, generator) for _ in forward])  # (R, N)
    ensemble = _Ensemble(
        torch.from_numpy(np.ascontiguousarray(inputs)).to(device),
        torch.from_numpy(labels).to(device),
        torch.from_numpy(folds).to(device),
        forward,
        settings,
        generator,
    )
    best, lowest = ensemble.predict(), math.inf
    looks = set(np.linspace(ensemble.n_epochs // 3, ensemble.n_epochs - 1, N_LOOKS).astype(int))
    for epoch in range(ensemble.n_epochs):
        ensemble.learn(epoch)
        if epoch in looks:
            held_out = ensemble.predict()
            surprise = ensemble.surprise(held_out)
            if not math.isfinite(surprise):
                raise NumericError(
                    f"the cross-fitted networks diverged at epoch {epoch + 1}. Lower the learning "
                    f"rate from {settings.learning_rate}."
                )
            if surprise < lowest:
                best, lowest = held_out, surprise
        if progress is not None:
            progress(epoch + 1, ensemble.n_epochs)
    result: NDArray[np.float32] = best.cpu().numpy()
    return result


def _folds(
    labels: NDArray[np.int64], n_folds: int, generator: torch.Generator
) -> NDArray[np.int64]:
    """(N,) fold of each image, each class spread evenly; -1 without a label."""
    shuffled = torch.randperm(len(labels), generator=generator).numpy()
    labeled = shuffled[labels[shuffled] >= 0]
    by_class = labeled[np.argsort(labels[labeled], kind="stable")]
    folds = np.full(len(labels), -1)
    folds[by_class] = np.arange(len(by_class)) % n_folds
    return folds


class _Ensemble:
    """R x folds networks side by side; network m leaves out fold m % folds of repeat m // folds."""

    def __init__(
        self,
        inputs: Tensor,  # (N, D)
        labels: Tensor,  # (N,)
        folds: Tensor,  # (R, N)
        transitions: Tensor,  # (R, C, C)
        settings: CrossFit,
        generator: torch.Generator,
    ) -> None:
        self.inputs, self.labels, self.folds = inputs, labels, folds
        self.n_folds, self.generator = settings.n_folds, generator
        self.learning_rate = settings.learning_rate
        n_repeats, self.n_classes = transitions.shape[:2]
        self.transitions = transitions.repeat_interleave(self.n_folds, dim=0)  # (M, C, C)
        rows = [
            torch.nonzero((repeat >= 0) & (repeat != fold)).squeeze(1)
            for repeat in folds
            for fold in range(self.n_folds)
        ]
        self.n_rows = min(map(len, rows))  # folds differ by one row at most; the order is random
        self.rows = rows
        self.batch_size = min(
            max(self.n_rows // STEPS_AN_EPOCH, SMALLEST_BATCH), LARGEST_BATCH, self.n_rows
        )
        self.n_steps = self.n_rows // self.batch_size
        more = min(math.ceil(settings.least_steps / self.n_steps), MOST_EPOCHS)
        self.n_epochs = max(settings.n_epochs, more)
        self.parameters = self._start(inputs.shape[1], settings.n_hidden, n_repeats * self.n_folds)
        self.optimizer = torch.optim.AdamW(
            self.parameters, settings.learning_rate, betas=(0.9, 0.98),
            weight_decay=settings.weight_decay,
        )  # fmt: skip

    def _start(self, n_inputs: int, n_hidden: int, n_networks: int) -> list[Tensor]:
        """He's start for the hidden layer, zeros for the last: all classes alike at first."""
        hidden = torch.randn(n_networks, n_inputs, n_hidden, generator=self.generator)
        shapes = (n_networks, 1, n_hidden), (n_networks, n_hidden, self.n_classes)
        start = [hidden * math.sqrt(2 / n_inputs), *map(torch.zeros, shapes)]
        start.append(torch.zeros(n_networks, 1, self.n_classes))
        return [values.to(self.inputs.device).requires_grad_(True) for values in start]

    def _logits(self, inputs: Tensor) -> Tensor:
        """(M, B, D) to (M, B, C)."""
        hidden, hidden_bias, last, last_bias = self.parameters
        return torch.baddbmm(last_bias, torch.baddbmm(hidden_bias, inputs, hidden).relu_(), last)

    def _mixed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mixup with weights uniform in [1/2, 1]: (M, B, D) inputs, (M, B, C) label shares."""
        weights = 0.5 + 0.5 * torch.rand(*rows.shape, 1, generator=self.generator)
        weights = weights.to(rows.device)
        inputs = self.inputs[rows]
        shares = torch.nn.functional.one_hot(self.labels[rows], self.n_classes).to(inputs.dtype)
        return (
            inputs.roll(1, dims=1).lerp_(inputs, weights),
            shares.roll(1, dims=1).lerp_(shares, weights),
        )

    def learn(self, epoch: int) -> None:
        """One pass over the rows, in a new order for each network."""
        order = torch.stack(
            [
                rows[torch.randperm(len(rows), generator=self.generator)[: self.n_rows].to(rows)]
                for rows in self.rows
            ]
        )
        for step in range(self.n_steps):
            done = (epoch + step / self.n_steps) / self.n_epochs
            rate = min(1.0, 10 * done + 0.01) * (1 + math.cos(math.pi * done)) / 2
            self.optimizer.param_groups[0]["lr"] = self.learning_rate * rate
            inputs, shares = self._mixed(
                order[:, step * self.batch_size : (step + 1) * self.batch_size]
            )
            turned = torch.bmm(self._logits(inputs).softmax(dim=2), self.transitions)  # (M, B, C)
            loss = -(shares * turned.clamp_min(1e-12).log()).sum(dim=2).mean(dim=1).sum()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    @torch.no_grad()
    def predict(self) -> Tensor:
        """(R, N, C) held-out probabilities; the mean over networks for rows without a label."""
        n_repeats, n_images = self.folds.shape
        found = self.inputs.new_zeros(n_repeats, n_images, self.n_classes)
        for repeat in range(n_repeats):
            for fold in range(self.n_folds):
                unseen = torch.nonzero((self.folds[repeat] == fold) | (self.folds[repeat] < 0))
                for rows in torch.split(unseen.squeeze(1), BLOCK):
                    found[repeat, rows] += self._network(repeat * self.n_folds + fold, rows)
        return found / found.sum(dim=2, keepdim=True)

    def _network(self, network: int, rows: Tensor) -> Tensor:
        hidden, hidden_bias, last, last_bias = (values[network] for values in self.parameters)
        inner = torch.addmm(hidden_bias, self.inputs[rows], hidden).relu_()
        return torch.addmm(last_bias, inner, last).softmax(dim=1)

    def surprise(self, held_out: Tensor) -> float:
        """Mean nats by which the labels surprise networks that did not see them."""
        labeled = self.labels >= 0
        turned = torch.bmm(held_out[:, labeled], self.transitions[:: self.n_folds])
        at = self.labels[labeled].expand(len(turned), -1).unsqueeze(2)
        return -turned.gather(2, at).clamp_min(1e-30).log().mean().item()
