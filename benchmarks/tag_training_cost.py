"""How long a step of cleaner and tagger takes, beside one of the tagger alone; and how much memory.

    python benchmarks/tag_training_cost.py [--images 1000000] [--tags 6012] [--dim 256]
        [--batch 1024] [--steps 8] [--turns 6] [--json FILE]

Features of a million images are written to a file, made up, and memory-mapped; each image has nine
of 6,012 tags, some frequent and most rare, and one in a hundred is verified. An epoch has 977
steps of 1,024 images; both sides make steps of it in turns, in one run on one thread, by the same
loop, from the same file. Times are CPU milliseconds a step: the medians of the turns, and of their
ratios.

  tagger    one linear layer, sparse cross-entropy with the tags as asserted, RMSprop
  joint     the same with cleaned tags, and the cleaner that makes them: the recipe "paper"
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.data.batches import of_rows
from labelsieve.data.samplers import shuffled
from labelsieve.features.rows import Rows
from labelsieve.features.shown import row_views
from labelsieve.features.tag_heads import LabelCleaner
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.veit.objectives.joint import Joint, joint_step
from labelsieve.methods.veit.objectives.plain import both_kinds, tagger_step
from labelsieve.methods.veit.recipes import tag_recipe
from labelsieve.methods.veit.training import prepared_work
from labelsieve.methods.veit.work import Work

PER_IMAGE = 8.8
_WRITTEN_AT_ONCE = 65_536  # rows


def features(path: Path, n: int, dim: int) -> NDArray[np.float32]:
    """Made up rows, memory-mapped."""
    rng = np.random.default_rng(0)
    block = rng.normal(size=(_WRITTEN_AT_ONCE, dim)).astype(np.float32) / np.sqrt(dim)
    made = np.lib.format.open_memmap(path, "w+", np.float32, (n, dim))
    for first in range(0, n, len(block)):
        part = made[first : first + len(block)]
        part[:] = np.roll(block[: len(part)], first, axis=1)
    made.flush()
    return np.load(path, mmap_mode="r")


def tags(n: int, n_tags: int) -> SimpleNamespace:
    """Nine tags an image, of which the k-th most frequent is asserted about as 1 / k."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(PER_IMAGE, n)
    columns = (n_tags ** rng.random(counts.sum())).astype(np.int32) - 1
    rows = np.repeat(np.arange(n, dtype=np.int32), counts)
    pairs = np.unique(rows.astype(np.int64) * n_tags + columns)
    rows, columns = (pairs // n_tags).astype(np.int32), (pairs % n_tags).astype(np.int32)
    asserted = csr_array((np.ones(len(pairs), np.float32), (rows, columns)), shape=(n, n_tags))
    looked = rows < n // 100
    said = np.where(rng.random(looked.sum()) < 0.7, 1, -1).astype(np.int8)
    verified = csr_array((said, (rows[looked], columns[looked])), shape=(n, n_tags))
    return SimpleNamespace(asserted=asserted, verified=verified)


def work_of(rows: NDArray[np.float32], both: SimpleNamespace, batch: int) -> Work:
    settings = tag_recipe("paper")
    work = prepared_work(
        of_rows(rows), both, settings, np.arange(len(rows)), None,
        Rows(rows.shape[1]).fit(rows), row_views(0), Runtime.start(),
    )  # fmt: skip
    work.training = replace(settings.training, batch_size=batch)
    work.net.train()
    return work


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--tags", type=int, default=6012)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=8, help="a turn")
    parser.add_argument("--turns", type=int, default=6, help="the first of which does not count")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = features(Path(folder) / "features.npy", options.images, options.dim)
        figures = measured(rows, tags(options.images, options.tags), options)
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures))


def measured(
    rows: NDArray[np.float32], both: SimpleNamespace, options: argparse.Namespace
) -> dict[str, float | str]:
    alone, joint = (work_of(rows, both, options.batch) for _ in range(2))
    shape = Joint().shape(joint.n_tags, rows.shape[1], adaptive=False)
    cleaner = LabelCleaner(shape)
    sides = {
        "tagger": (
            alone, tagger_step(alone, alone.asserted), shuffled(len(rows), options.batch, 0),
            alone.optimizers(alone.training), {"net": alone.net},
        ),
        "joint": (
            joint, joint_step(joint, cleaner, Joint()), both_kinds(joint),
            joint.optimizers(joint.training, {cleaner: 15.0}),
            {"net": joint.net, "cleaner": cleaner},
        ),
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(options.turns):
        for name, (work, step, sampler, optimizers, state) in sides.items():
            begun = time.process_time()
            work.train(name, step, sampler, optimizers, state, n_updates=options.steps)
            if turn:
                times[name].append(1000 * (time.process_time() - begun) / options.steps)
    ratios = [b / a for a, b in zip(times["tagger"], times["joint"], strict=True)]
    steps = options.steps * (options.turns - 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "images": options.images, "tags": options.tags, "dim": options.dim,
        "tags an image": both.asserted.nnz / options.images, "batch": options.batch,
        "cleaner": f"{shape.n_label} and {shape.n_hidden} wide",
        "steps a side": steps, "share of an epoch": steps * options.batch / options.images,
        "tagger, ms a step": float(np.median(times["tagger"])),
        "joint, ms a step": float(np.median(times["joint"])),
        "joint / tagger": float(np.median(ratios)),
        "peak memory, GB": peak,
    }  # fmt: skip


if __name__ == "__main__":
    main()
