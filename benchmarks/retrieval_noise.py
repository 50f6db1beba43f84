"""What the filter is worth where labels are wrong: retrieval of characters that were never learned.

    python benchmarks/retrieval_noise.py --data DIR --cache FOLDER
        [--noise symmetric-0.2 symmetric-0.5 small-cluster-0.5] [--sides unfiltered prism ...]
        [--seeds 0 1 2] [--speed]

DIR holds omniglot/omniglot28.npz: 516 characters of three alphabets, 20 drawings of each, to learn
from; 113 characters of five other alphabets, each drawing a query to all others. Their labels are
right; those that are learned from get noise by the rules of PRISM's published lists.

  unfiltered       contrastive loss and a memory of all images
  prism            filtered, at the true rate of noise
  prism-auto       filtered, at the rate that it estimates
  two-stage        prism; then all labels scored again, and trained anew on those that are kept
  two-stage-auto   the same, with both rates estimated
  clean            two-stage's training on rightly labeled images alone: the best it could come to

A network of three convolutions, 600 updates of 16 classes x 4 images, the same for all; the second
stage takes as many again. Scores are those of the last update, in percent. Removal is that of the
second half of the updates, or of the second stage's choice: which share of the removed labels is
wrong, and which share of the wrong ones is removed. A run is a line; means over seeds and the
differences that count follow. What was made is kept in FOLDER.

--speed compares an update with the filter and without, in one process and by turns.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from labelsieve.data.augment import Normalization, Weak
from labelsieve.data.batches import Batches
from labelsieve.data.noise import independent, small_cluster
from labelsieve.data.samplers import grouped
from labelsieve.data.sources import resident
from labelsieve.features.conv_net import ConvShape, SmallConvNet
from labelsieve.features.shown import Views, image_views
from labelsieve.features.weights import drawn_from
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.prism.embedding import (
    Embed,
    Pairs,
    TrainedEmbedding,
    adam,
    new_embedder,
    train_embedding,
)
from labelsieve.methods.prism.filter import CleanFilter, Filter
from labelsieve.methods.prism.objectives import objective_of, optimizers_of
from labelsieve.methods.prism.offline import Offline
from labelsieve.methods.prism.steps import Tally, embedding_step
from labelsieve.methods.prism.two_stage import SecondStage, second_stage
from labelsieve.report.retrieval_metrics import score_retrieval

SIZE, DIM = 28, 64
PEAK = 3e-3  # of the learning rate; best of 1e-3, 2e-3, 3e-3 on seed 10 (unfiltered and prism)
INK = Normalization((0.0,) * 3, (1.0,) * 3)  # paper is 0 and ink is 1
NOISE = ("symmetric-0.2", "symmetric-0.5", "small-cluster-0.5")
SIDES = ("unfiltered", "prism", "prism-auto", "two-stage", "two-stage-auto")
EMBED = Embed(
    dim=DIM,
    updates=600,
    weak=Weak(size=SIZE, padding=2, flip_rate=0.0),  # a character mirrored is another one
    crops=None,
    test_every=0,
    training=adam(epochs=6, peak=PEAK),
)


class Task(NamedTuple):
    """Drawings to learn from, with noise, and others to retrieve."""

    name: str
    seed: int
    pixels: np.ndarray  # (N, 3, S, S) uint8
    labels: np.ndarray  # (N,) as learned from
    wrong: np.ndarray  # (N,) bool
    rate: float  # of the noise, as asked for
    test_pixels: np.ndarray  # (T, 3, S, S)
    test_labels: np.ndarray  # (T,)

    @property
    def n_classes(self) -> int:
        return int(self.labels.max()) + 1


def task(data: Path, name: str, seed: int) -> Task:
    """The drawings, with noise of that name and seed."""
    made = np.load(data / "omniglot" / "omniglot28.npz")
    ink, truth = made["X"], made["Y"].astype(np.int64)
    kind, _, rate = name.rpartition("-")
    rng = np.random.default_rng([seed, 0x6E])
    if kind == "symmetric":
        labels = independent(truth, int(truth.max()) + 1, float(rate), rng)
        wrong = labels != truth
    else:
        cluster = small_cluster(truth, ink.reshape(len(ink), -1), float(rate), rng)
        labels, wrong = cluster.labels, cluster.displaced
    return Task(
        name, seed, pixels_of(ink), labels, wrong, float(rate), pixels_of(made["Xt"]),
        made["Yt"].astype(np.int64),
    )  # fmt: skip


def pixels_of(ink: np.ndarray) -> np.ndarray:
    """(N, 1, S, S) from 0 to 1, to (N, 3, S, S) uint8."""
    return np.repeat((ink * 255).round().astype(np.uint8), 3, axis=1)


def new_network(seed: int) -> SmallConvNet:
    with drawn_from(seed):
        return SmallConvNet(ConvShape(size=SIZE))


def views_of(seed: int) -> Views:
    return image_views(EMBED.weak, None, INK, seed)


def scores_of(on: Task):
    """A test, for the log, on the characters that were never learned."""
    source, rows = resident(on.test_pixels), np.arange(len(on.test_labels))

    def test(embeds) -> dict[str, float]:
        found = score_retrieval(embeds(source, rows), on.test_labels)
        return {
            "precision_at_1": 100 * found.precision_at_1,
            "map_at_r": 100 * found.map_at_r,
            "r_precision": 100 * found.r_precision,
        }

    return test


class Run:
    """One side of one task, made once and kept in a folder."""

    def __init__(self, on: Task, side: str, cache: Path, embed: Embed = EMBED) -> None:
        self.on, self.side, self.embed = on, side, embed
        self.cache = cache
        self.source, self.rows = resident(on.pixels), np.arange(len(on.labels))

    def file(self, side: str, ending: str) -> Path:
        return self.cache / f"{self.on.name}-{self.on.seed}-{side}.{ending}"

    def result(self) -> dict[str, object]:
        file = self.file(self.side, "json")
        if not file.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            clock = time.process_time()
            made = self.second() if self.side.startswith("two-stage") else self.first()
            made["cpu_seconds"] = round(time.process_time() - clock, 1)
            name = {"noise": self.on.name, "seed": self.on.seed, "side": self.side}
            file.write_text(json.dumps({**name, **made}))
        return json.loads(file.read_text())

    def first(self) -> dict[str, object]:
        rates = {"prism": self.on.rate, "prism-auto": "auto"}
        filtered = Filter(noise_rate=rates[self.side]) if self.side in rates else None
        embed, rows = replace(self.embed, filter=filtered), self.rows
        if self.side == "clean":
            embed, rows = replace(embed, loss=SecondStage().loss), rows[~self.on.wrong]
        log: list[dict[str, float]] = []
        trained = self.train(embed, rows, log)
        torch.save(trained.embedder.state_dict(), self.file(self.side, "pt"))
        return {**log[-1], **removal(trained, self.on), "noise_rate": trained.noise_rate}

    def train(self, embed: Embed, rows: np.ndarray, log: list) -> TrainedEmbedding:
        return train_embedding(
            self.source, new_network(self.on.seed), self.on.labels, self.on.n_classes, embed,
            rows=rows, views=views_of(self.on.seed), seed=self.on.seed, test=self.kept(log),
        )  # fmt: skip

    def kept(self, log: list):
        test = scores_of(self.on)
        return lambda embeds: log.append(test(embeds)) or log[-1]

    def second(self) -> dict[str, object]:
        first_side = self.side.replace("two-stage", "prism")
        first = Run(self.on, first_side, self.cache, self.embed).result()
        embedder = new_embedder(new_network(self.on.seed), DIM, self.on.seed)
        embedder.load_state_dict(torch.load(self.file(first_side, "pt")))
        nothing = np.zeros(len(self.rows), np.int64)
        log: list[dict[str, float]] = []
        rate = "auto" if self.side.endswith("-auto") else self.on.rate
        found = second_stage(
            self.source, new_network(self.on.seed),
            TrainedEmbedding(embedder, None, first["noise_rate"], nothing, nothing, ()),
            self.on.labels, self.on.n_classes, self.embed,
            SecondStage(offline=Offline(noise_rate=rate)), rows=self.rows,
            views=views_of(self.on.seed + 1000), seed=self.on.seed, test=self.kept(log),
        )  # fmt: skip
        return {
            **log[-1],
            **shares(~found.scores.keep, np.ones(len(self.rows)), self.on.wrong),
            "noise_rate": found.scores.noise_rate,
        }


def removal(trained: TrainedEmbedding, on: Task) -> dict[str, float]:
    """Of the second half of the updates."""
    if not trained.times_judged.any():
        return {}
    return shares(trained.times_judged - trained.times_kept, trained.times_judged, on.wrong)


def shares(removed: np.ndarray, judged: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    return {
        "removal_precision": float(removed[wrong].sum() / max(1, removed.sum())),
        "removal_recall": float(removed[wrong].sum() / judged[wrong].sum()),
    }


def speed(on: Task, n_warm: int = 200, n_blocks: int = 10, n_each: int = 10) -> dict[str, float]:
    """CPU ms of an update, with the filter and without, by turns; both memories are full."""
    runtime, sides = Runtime.start(), {}
    for side, filtered in (("without", None), ("with", Filter(noise_rate=on.rate))):
        sides[side] = stepper(on, filtered, runtime)
        for _ in range(n_warm):
            sides[side]()
    spent: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(n_blocks):
        for side, step in sides.items():
            clock = time.process_time()
            for _ in range(n_each):
                step()
            spent[side].append((time.process_time() - clock) / n_each * 1e3)
    return {side: float(np.median(times)) for side, times in spent.items()}


def stepper(on: Task, filtered: Filter | None, runtime: Runtime):
    """One update at each call."""
    embedder = new_embedder(new_network(0), DIM, 0)
    sampler = grouped(on.labels, EMBED.classes_per_batch, EMBED.images_per_class, 0)
    batches = Batches(resident(on.pixels), sampler)
    size = len(on.labels) // 2  # full after 160 batches, also where every second image is removed
    sieve = None
    if filtered is not None:
        sieve = CleanFilter(on.n_classes, DIM, size, filtered)
    objective = objective_of(Pairs(memory_size=size), on.n_classes, DIM, size, sieve, 0, runtime)
    (optimizer,) = optimizers_of(objective, embedder, EMBED.training.optimizer, PEAK)
    step = embedding_step(
        embedder, views_of(0).weak, torch.from_numpy(on.labels), objective, sieve,
        Tally(len(on.labels), 0), runtime=runtime, n_batches=len(sampler),
    )  # fmt: skip
    for group in optimizer.param_groups:
        group["lr"] = PEAK

    def endless():
        for epoch in range(10**6):
            yield from batches.epoch(epoch)

    given = endless()

    def update() -> None:
        values = step(next(given))
        if "loss" in values:
            values["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()

    return update


def table(results: list[dict]) -> None:
    """Means over seeds of each noise and side."""
    columns = ("precision_at_1", "map_at_r", "removal_precision", "removal_recall", "noise_rate")
    print(f"\n{'noise':18} {'side':15} {'n':>2}" + "".join(f" {name:>17}" for name in columns))
    for noise in dict.fromkeys(result["noise"] for result in results):
        for side in dict.fromkeys(result["side"] for result in results):
            own = [r for r in results if (r["noise"], r["side"]) == (noise, side)]
            if not own:
                continue
            line = f"{noise:18} {side:15} {len(own):2}"
            for name in columns:
                values = [r[name] for r in own if r.get(name) is not None]
                line += f" {np.mean(values):10.3f} ±{np.std(values):5.2f}" if values else " " * 18
            print(line)


def differences(results: list[dict]) -> None:
    """Points of Precision@1 between sides, by seed."""
    found = {(r["noise"], r["seed"], r["side"]): r["precision_at_1"] for r in results}
    print()
    for side, other in (
        ("prism", "unfiltered"), ("prism-auto", "prism"), ("two-stage", "prism"),
        ("two-stage-auto", "two-stage"),
    ):  # fmt: skip
        for noise in dict.fromkeys(noise for noise, _, _ in found):
            seeds = [s for n, s, x in found if n == noise and x == side and (n, s, other) in found]
            gains = [found[noise, s, side] - found[noise, s, other] for s in seeds]
            if gains:
                each = " ".join(f"{gain:+.1f}" for gain in gains)
                print(f"{noise:18} {side} - {other}: {np.mean(gains):+.1f} ({each})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with omniglot/")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--noise", nargs="+", default=NOISE)
    parser.add_argument("--sides", nargs="+", default=SIDES, help="also: clean")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.speed:
        print(json.dumps(speed(task(options.data, "symmetric-0.5", 0))))
        return
    results = []
    for seed in options.seeds:
        for noise in options.noise:
            on = task(options.data, noise, seed)
            for side in options.sides:
                results.append(Run(on, side, options.cache).result())
                print(json.dumps(results[-1]), flush=True)
    table(results)
    differences(results)


if __name__ == "__main__":
    main()
