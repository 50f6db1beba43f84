"""A small training with everything that a checkpoint must hold, to be killed at any moment."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from labelsieve.data.batches import Batches, resident
from labelsieve.data.samplers import shuffled
from labelsieve.features.bank import MemoryBank
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.optimizers import Average, Optimizer, make_optimizers
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime, bare
from labelsieve.loop.train import Training, train

EPOCHS, BATCHES = 3, 11
SETTINGS = Training(
    epochs=EPOCHS,
    batch_size=8,
    learning_rate=LearningRate(peak=0.1, warmup=0.2),
    optimizer=Optimizer("sgd", nesterov=True),
    accumulate=2,  # so that an epoch ends with half an update
    largest_gradient=1.0,
    precision="bfloat16",
    checkpoint_minutes=1e-9,  # after each update
)


def run(folder: Path) -> None:
    """Train, or go on, and leave the result in folder/result.pt; a line a start in starts.txt."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8 * BATCHES, 3, 8, 8), dtype=np.uint8)
    runtime = Runtime.start(precision="bfloat16")
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(288, 6),
    )  # fmt: skip
    net = runtime.prepare(net).train()
    optimizers = make_optimizers(SETTINGS.optimizer, [net])
    average = Average(net, 0.9)
    average.follow(optimizers[-1])
    bank, generator = MemoryBank(20, 6), np.random.default_rng(7)
    noise, threshold = torch.Generator().manual_seed(5), torch.zeros(6)
    state = {"net": net, "average": average, "bank": bank, "generator": generator,
             "noise": noise, "threshold": threshold}  # fmt: skip
    batches = Batches(resident(pixels), shuffled(len(pixels), SETTINGS.batch_size, seed=1))
    started = False

    def step(batch):
        nonlocal started
        if not started:
            with (folder / "starts.txt").open("a") as file:
                file.write(f"{batch.epoch} {batch.step}\n")
            started = True
        time.sleep(0.005)  # so that there are moments to be killed at
        images = batch.images.float() / 255
        images = images + 0.1 * torch.rand(images.shape, generator=noise)
        rows = normalize(net(images), dim=1)
        keys, _ = bank.read()
        loss = cross_entropy(rows @ torch.cat([rows.detach(), keys]).T, batch.rows % 8)
        bank.push(rows.detach())
        threshold.lerp_(rows.detach().mean(0), 0.1)
        return {"loss": loss + generator.uniform() * rows.sum(), "kept": threshold.mean()}

    def after_epoch(epoch, values):
        values["drawn"] = generator.uniform()
        threshold.mul_(0.5)

    history = train(
        step, batches, optimizers, SETTINGS, runtime=runtime, state=state,
        folder=folder / "checkpoint", log=EpochLog(folder / "log.jsonl", "toy"),
        after_epoch=after_epoch,
    )  # fmt: skip
    states = {"net": bare(net), "average": average, "bank": bank}
    result = {name: dict(thing.state_dict()) for name, thing in states.items()}
    result |= {"threshold": threshold, "history": history, "drawn": generator.uniform()}
    result |= {"noise": torch.rand(3, generator=noise), "dropped": torch.rand(3)}
    torch.save(result, folder / "result.partial")
    os.replace(folder / "result.partial", folder / "result.pt")


def run_until_save(folder: Path, n_saves: int) -> None:
    """Die while a checkpoint is being written, with some of its bytes on the disk."""
    save, n = torch.save, 0

    def half(value, file):
        nonlocal n
        n += 1
        save(value, file)
        if n > n_saves:
            file.flush()
            os.truncate(folder / "checkpoint" / ".partial-state.pt", 1000)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half
    run(folder)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
