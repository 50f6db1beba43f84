"""Where the time of a step of pretraining goes; `simclr_step.py` and `gpu_pretrain.py` measure so.

What is timed is `pretrain` itself: its runtime, batches and network are given a clock, and nothing
else of them is changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from labelsieve.data.batches import Batch, Batches, resident
from labelsieve.features import pretrain as pretraining
from labelsieve.loop.runtime import Precision, Runtime

# In the order in which they come. The network is the backbone and its head; of the backward pass,
# what comes before the gradient of the head's rows is the loss'.
PARTS = (
    "batches", "augmentation", "network forward", "loss", "network backward", "optimizer", "loop",
)  # fmt: skip


class Laps:
    """Books the time since the last mark: CPU seconds of the process, on CUDA those of the GPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._steps: list[list[tuple[str, float | torch.cuda.Event]]] = []

    def begin(self) -> None:
        """From here on it is the next step; what was before the first one does not count."""
        self._steps.append([("", self._now())])

    def mark(self, part: str) -> None:
        """What was since the last mark was this."""
        if self._steps:
            self._steps[-1].append((part, self._now()))

    def steps(self) -> list[dict[str, float]]:
        """Seconds of each part, for each step that has come to its end."""
        if self._on_gpu:
            torch.cuda.synchronize()
        found = []
        for marks in self._steps:
            if "optimizer" not in (part for part, _ in marks):
                continue  # what follows the last step of an epoch
            seconds = dict.fromkeys(PARTS, 0.0)
            for (_, begun), (part, ended) in pairwise(marks):
                seconds[part] += self._between(begun, ended)
            found.append(seconds)
        return found

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, begun, ended) -> float:
        return begun.elapsed_time(ended) / 1000 if self._on_gpu else ended - begun


class TimedRuntime(Runtime):
    """A runtime that says when each part of a step is over."""

    def __init__(
        self, device: str, precision: Precision, laps: Laps, *, compiled: bool = True
    ) -> None:
        super().__init__(torch.device(device), precision)
        self.laps, self._compiled = laps, compiled

    def prepare(self, module, *, compiled: bool = False):
        prepared = super().prepare(module, compiled=compiled and self._compiled)
        return TimedNetwork(prepared, self.laps)

    def backward(self, loss) -> None:
        self.laps.mark("loss")
        super().backward(loss)
        self.laps.mark("network backward")

    def clip_and_step(self, optimizers, largest_norm: float = 0.0) -> None:
        self.laps.mark("loop")
        super().clip_and_step(optimizers, largest_norm)
        self.laps.mark("optimizer")


class TimedNetwork(torch.nn.Module):
    """A prepared network between two marks; and one where its backward pass begins."""

    def __init__(self, prepared: torch.nn.Module, laps: Laps) -> None:
        super().__init__()
        self._orig_mod = prepared  # the name by which `bare` takes wrappers off
        self._laps = laps

    def forward(self, *images):
        self._laps.mark("augmentation")
        rows = self._orig_mod(*images)
        self._laps.mark("network forward")
        if rows.requires_grad:
            rows.register_hook(lambda _: self._laps.mark("loss"))
        return rows


class TimedBatches(Batches):
    """Batches that say how long they took; `all_made` has those of a run, to be asked later."""

    def __init__(self, laps: Laps, all_made: list[Batches], *args, **named) -> None:
        super().__init__(*args, **named)
        self._laps = laps
        all_made.append(self)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        self._laps.mark("loop")
        for batch in super().epoch(epoch, first):
            self._laps.mark("batches")
            yield batch
            self._laps.mark("loop")


def run_steps(
    settings: pretraining.Pretrain,
    pixels: NDArray[np.uint8],
    runtime: TimedRuntime,
    seed: int,
    after_step: Callable[[int, Batches], None],
    epochs: int = 1,
) -> list[dict[str, float]]:
    """Pretrain on pixels, and give the seconds of each part for all steps but the first.

    `after_step` is told how many are done, and the batches; what it does itself is not booked.
    """
    made: list[Batches] = []

    def progress(done: int, _: int) -> None:
        runtime.laps.mark("loop")
        after_step(done, made[0])
        runtime.laps.begin()

    training = replace(settings.training, epochs=epochs, precision=runtime.precision)
    with patch.object(pretraining, "Batches", partial(TimedBatches, runtime.laps, made)):
        pretraining.pretrain(
            resident(pixels), np.arange(len(pixels)),
            replace(settings, training=training, monitor_every=0),
            pixels=pixels, seed=seed, runtime=runtime, progress=progress,
        )  # fmt: skip
    return runtime.laps.steps()
