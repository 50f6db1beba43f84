"""The one training loop.

A method supplies `step(batch) -> {"loss": ..., ...}`; everything else that training needs is here:

- the learning rate of each update, gradients accumulated over batches and clipped;
- batches without a loss, because there is nothing to learn from them, change nothing;
- checkpoints: a training killed at any moment goes on, and on CPU ends with the same bits as one
  that was not;
- a line an epoch in the log: means of all that `step` returned, images/s, the share of time waited
  for batches;
- `after_epoch`, for evaluation and stopping;
- an error at the first loss that is no number, before it can reach a checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args

import torch
from torch import Tensor, nn

from labelsieve.config import to_dict
from labelsieve.errors import ConfigError, NumericError
from labelsieve.loop.checkpoints import Checkpoint, Kept
from labelsieve.loop.logs import TIMINGS, EpochLog
from labelsieve.loop.memory import freed_memory_kept
from labelsieve.loop.optimizers import Optimizer
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Precision, Runtime

Batch = TypeVar("Batch")
BatchOf = TypeVar("BatchOf", covariant=True)

_BLOCK = 50  # updates on an accelerator between two looks at the losses, each of which waits for it


@dataclass(frozen=True)
class Training:
    """Settings of a training phase. Defaults: SCAN's SimCLR on CIFAR-10."""

    epochs: int = 500
    batch_size: int = 512  # images of all processes together, before views are made of them
    learning_rate: LearningRate = field(default_factory=LearningRate)
    optimizer: Optimizer = field(default_factory=Optimizer)
    accumulate: int = 1  # batches an update
    largest_gradient: float = 0.0  # norm of all gradients together, above it shrunk; 0: no limit
    precision: Precision = "float32"  # fastest: bfloat16 where the hardware multiplies it
    checkpoint_minutes: float = 10.0  # between checkpoints within an epoch
    tensorboard: bool = False  # whoever makes the log writes TensorBoard's files too

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least 1 is needed.")
        if self.largest_gradient < 0:
            raise ConfigError(f"largest_gradient is {self.largest_gradient}; expected 0 or more.")
        if self.precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise ConfigError(f"precision is {self.precision!r}; expected one of {known}.")
        if not self.checkpoint_minutes > 0:
            raise ConfigError(f"checkpoint_minutes is {self.checkpoint_minutes}; expected above 0.")


class Batches(Protocol[BatchOf]):
    """What gives the batches of any epoch; `data.batches.Batches` does."""

    waited: float  # seconds that their taker has waited for them so far

    @property
    def batch_size(self) -> int: ...
    def __len__(self) -> int: ...
    def epoch(self, epoch: int, first: int = 0) -> Iterator[BatchOf]: ...


Step = Callable[[Batch], Mapping[str, Tensor]]
AfterEpoch = Callable[[int, dict[str, float]], bool | None]
Progress = Callable[[int, int], None]  # batches done, in all


@freed_memory_kept()
def train(  # noqa: PLR0913  # everything a phase has, in one place
    step: Step[Batch],
    batches: Batches[Batch],
    optimizers: Sequence[torch.optim.Optimizer],
    settings: Training,
    *,
    runtime: Runtime,
    state: Mapping[str, Kept],
    folder: Path | None = None,
    log: EpochLog | None = None,
    after_epoch: AfterEpoch | None = None,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Train for so many epochs, or go on where the checkpoint in `folder` ends.

    A batch may have no loss, as where no image of it is confident. An update then takes the mean
    over those of its batches that have one; if none has, weights, averages and the optimizers'
    state stay as they are, and the learning rate goes on as if they had changed.

    Args:
        step: gives the loss of a batch, and other scalars for the log: a tensor each, of the same
            names on all processes. Without "loss" there is no backward; so that all processes leave
            it out of the same batches, it must be decided on rows that are gathered.
        batches: the same in the same order whenever an epoch is asked for.
        optimizers: of `make_optimizers`.
        settings: `optimizer` and `batch_size` are for those who make the two above.
        runtime: which prepared the networks.
        state: all that `step` and `after_epoch` change: networks as they were prepared, averages,
            banks, centers, tensors, generators. What is missing here starts anew on resume.
        folder: of the checkpoint; None keeps none.
        log: gets a line an epoch.
        after_epoch: told the epoch and its values, on all processes; may add values, change
            `state`, and stop the training by True.
        progress: told batches done and batches in all.

    Returns:
        The values of all epochs from the first, whichever process trained them: the means of what
        `step` returned, each over the batches that had it, so no "loss" where none had one;
        "learning_rate" of the last update, and the `logs.TIMINGS`.

    Raises:
        NumericError: a loss is not finite.
        ConfigError: there is no batch, or the runtime has another precision than the settings.
        RunError: the checkpoint is of other settings, or cannot be read or written.
    """
    n = _checked(settings, runtime, len(batches))
    place, losses = _Place(batches), _Losses(settings, runtime)
    kept: dict[str, Kept] = {f"state.{name}": thing for name, thing in state.items()}
    kept |= {f"optimizer {i}": optimizer for i, optimizer in enumerate(optimizers)}
    checkpoint = Checkpoint(
        folder, {**kept, "place": place}, _decisive(settings, batches, runtime), runtime
    )
    checkpoint.load()
    if log is not None and runtime.is_main:
        log.restart(place.epoch)
    update = _Update(optimizers, state, settings, runtime)
    while not place.is_over(settings.epochs):
        place.begin()
        for i, batch in enumerate(batches.epoch(place.epoch, place.batch), place.batch):
            turn, n_shared, is_last = _turn(i, n, settings.accumulate)
            if turn == 0:
                _set_rates(optimizers, _rate(settings, place.epoch, i, n))
            with update.sharing(last=is_last):
                values = step(batch)
                update.add(values.get("loss"), n_shared)
            place.add(values)
            losses.add(i, values)
            if not is_last:
                continue
            update.take(n_shared)
            place.batch = i + 1
            if progress is not None and runtime.is_main:
                progress(place.epoch * n + place.batch, settings.epochs * n)
            if losses.looked(place.epoch) and checkpoint.due(settings.checkpoint_minutes):
                place.pause()
                checkpoint.save()
                place.begin()
        losses.look(place.epoch)
        place.pause()
        summary = place.summary(_rate(settings, place.epoch, _last_update(settings, n), n), runtime)
        stop = after_epoch is not None and bool(after_epoch(place.epoch, summary))
        if log is not None and runtime.is_main:
            log.write(place.epoch, summary)
        place.end_epoch(summary, stopped=runtime.any(stop))
        due = checkpoint.due(settings.checkpoint_minutes, epoch_ended=True)
        if due or place.is_over(settings.epochs):
            checkpoint.save()
    return place.history


def _checked(settings: Training, runtime: Runtime, n: int) -> int:
    if n == 0:
        raise ConfigError(
            f"there is no batch to train on: fewer images than batch_size={settings.batch_size}. "
            "Take a smaller batch_size."
        )
    if settings.precision not in ("fastest", runtime.precision):
        raise ConfigError(
            f"precision is {settings.precision} in the settings and {runtime.precision} in the "
            "runtime; start the runtime with that of the settings."
        )
    return n


def _decisive(settings: Training, batches: Batches[Any], runtime: Runtime) -> dict[str, Any]:
    """What decides the result: a checkpoint of anything else is not gone on from."""
    facts = {**to_dict(settings), "n_batches": len(batches), "images_a_batch": batches.batch_size}
    del facts["checkpoint_minutes"], facts["tensorboard"]
    return facts | {"precision": runtime.precision}


def _turn(i: int, n: int, accumulate: int) -> tuple[int, int, bool]:
    """Of batch i of n: its number within its update, how many batches share that, if it's the last.

    The last update of an epoch has the batches that are left.
    """
    turn = i % accumulate
    n_shared = min(accumulate, n - i + turn)
    return turn, n_shared, turn == n_shared - 1


def _last_update(settings: Training, n: int) -> int:
    """The first batch of an epoch's last update."""
    return (n - 1) // settings.accumulate * settings.accumulate


def _rate(settings: Training, epoch: int, i: int, n: int) -> float:
    rate = settings.learning_rate
    return rate.at((epoch if rate.by_epoch else epoch + i / n) / settings.epochs)


def _set_rates(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)


class _Update:
    """The gradients of the batches that share an update, some of which may have no loss."""

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        state: Mapping[str, Kept],
        settings: Training,
        runtime: Runtime,
    ) -> None:
        self._optimizers, self._settings, self._runtime = optimizers, settings, runtime
        self._networks = [thing for thing in state.values() if isinstance(thing, nn.Module)]
        self._n_losses = 0

    def sharing(self, last: bool) -> AbstractContextManager[None]:
        """Around a batch: only the last of an update averages gradients over processes."""
        return self._runtime.accumulating(self._networks, last)

    def add(self, loss: Tensor | None, n_shared: int) -> None:
        """Backward of a batch, if it has a loss."""
        if loss is not None:
            self._runtime.backward(loss / n_shared)
            self._n_losses += 1

    def take(self, n_shared: int) -> None:
        """Change the weights, if any batch had a loss."""
        if self._n_losses == 0:
            return
        if self._n_losses < n_shared:
            self._correct(n_shared / self._n_losses)
        self._runtime.clip_and_step(self._optimizers, self._settings.largest_gradient)
        self._n_losses = 0

    def _correct(self, factor: float) -> None:
        """Divide by the batches that had a loss only, and average over processes.

        That is left to the last batch of an update, which may be one without a loss; where it was
        not, gradients are equal, and so is their mean.
        """
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        for weight in (weight for group in groups for weight in group["params"]):
            if weight.grad is not None:
                weight.grad = factor * self._runtime.mean(weight.grad)


class _Place:
    """How far a training has come, and what the epoch it is in has given so far."""

    def __init__(self, batches: Batches[Any]) -> None:
        self._batches = batches
        self.history: list[dict[str, float]] = []
        self.epoch, self.stopped = 0, False
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.batch = 0  # next, of this epoch
        self.seconds = self.waited = 0.0
        self.sums: dict[str, Tensor] = {}  # of what step returned, where it returned it
        self.counts: dict[str, int] = {}

    def is_over(self, epochs: int) -> bool:
        return self.stopped or self.epoch >= epochs

    def begin(self) -> None:
        """Let the clock run."""
        self._begun, self._waited = time.perf_counter(), self._batches.waited

    def pause(self) -> None:
        """Stop it: evaluation and saving are not training."""
        self.seconds += time.perf_counter() - self._begun
        self.waited += self._batches.waited - self._waited

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Sums in double precision: what the log says must not depend on where it was resumed."""
        for name, value in values.items():
            dtype = torch.float32 if value.device.type == "mps" else torch.float64
            number = value.detach().to(dtype, copy=True)  # a step may change a buffer it returned
            self.sums[name] = self.sums[name] + number if name in self.sums else number
            self.counts[name] = self.counts.get(name, 0) + 1

    def summary(self, rate: float, runtime: Runtime) -> dict[str, float]:
        """What the log says of the epoch: means over its batches and over processes."""
        means = [total.to(runtime.device) / self.counts[name] for name, total in self.sums.items()]
        values = {}
        if means:
            values = dict(zip(self.sums, runtime.mean(torch.stack(means)).tolist(), strict=True))
        n_images = len(self._batches) * self._batches.batch_size
        seconds = max(self.seconds, 1e-9)
        timings = (round(n_images / seconds, 1), round(self.waited / seconds, 4))
        return {**values, "learning_rate": rate, **dict(zip(TIMINGS, timings, strict=True))}

    def end_epoch(self, summary: Mapping[str, float], *, stopped: bool) -> None:
        self.history.append({name: float(value) for name, value in summary.items()})
        self.epoch, self.stopped = self.epoch + 1, stopped
        self._begin_epoch()

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


class _Losses:
    """Looks whether losses are finite: at each update on CPU, now and then where it must wait."""

    def __init__(self, settings: Training, runtime: Runtime) -> None:
        self._settings, self._runtime = settings, runtime
        self._block = 1 if runtime.device.type == "cpu" else _BLOCK
        self._seen: list[tuple[int, Mapping[str, Tensor]]] = []
        self._n_updates = 0  # since the last look

    def add(self, i: int, values: Mapping[str, Tensor]) -> None:
        if "loss" in values:
            self._seen.append((i, {name: value.detach() for name, value in values.items()}))

    def looked(self, epoch: int) -> bool:
        """Note an update; whether it was one to look at, and all losses up to it are finite."""
        self._n_updates += 1
        if self._n_updates < self._block:
            return False
        self.look(epoch)
        return True

    def look(self, epoch: int) -> None:
        """Raise NumericError, on all processes, if a loss of any of them is not finite."""
        seen, self._seen, self._n_updates = self._seen, [], 0
        finite = [] if not seen else torch.stack([v["loss"] for _, v in seen]).isfinite().tolist()
        if not self._runtime.any(not all(finite)):
            return
        if all(finite):
            raise NumericError(f"the loss is not finite on another process, in epoch {epoch}.")
        i, values = seen[finite.index(False)]
        raise NumericError(self._message(epoch, i, values))

    def _message(self, epoch: int, i: int, values: Mapping[str, Tensor]) -> str:
        bad = ", ".join(n for n, v in values.items() if n != "loss" and not v.isfinite().all())
        also = f" ({bad} as well)" if bad else ""
        peak = self._settings.learning_rate.peak
        float32 = ""
        if self._settings.precision != "float32":
            float32 = f"precision=float32 in place of {self._settings.precision}; "
        return (
            f"epoch {epoch}, batch {i}: the loss is {values['loss'].item()}{also}; expected a "
            f"finite number. Try a lower learning rate (learning_rate.peak is {peak}); {float32}"
            "or look at the images of that batch."
        )
