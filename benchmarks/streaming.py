"""How fast larger images stream to a training step, and how long the step waits for them.

    python benchmarks/streaming.py [--images 1200] [--size 224] [--batch-size 64] [--threads 2]
        [--step 0.5] [--repeats 3] [--orders 10000000]

Photos are made here: 512 x 512 px, smooth shapes with grain, JPEG of quality 85. A stand-in step
sleeps, as the host does while a GPU is at work. Each system gives the same shuffled uint8 batches:

- streamed: `labelsieve.data.batches.streamed`, decoded in threads;
- cached: decoded once before the first epoch, to a memory-mapped file, and read from it;
- DataLoader: torch's, with as many worker processes, and Pillow an image at a time.

First with no step at all (how fast), then with the step (how long it waits). A row is the median
of the epochs, each shuffled by its number; the epochs of the systems take turns. CPU seconds are
those of threads and workers together. With --orders, then the seconds to plan an epoch of so many
rows by each sampler.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from labelsieve.data import samplers
from labelsieve.data.batches import Batches, cached, streamed
from labelsieve.data.read import read


class Photos(Dataset):
    """The usual kind: one image at a time, opened, resized and cut by Pillow."""

    def __init__(self, paths, size):
        self.paths, self.size = paths, size

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        picture = Image.open(self.paths[row]).convert("RGB")
        scale = self.size / min(picture.size)
        width, height = (round(scale * side) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        picture = picture.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--size", type=int, default=224, help="of the batches, pixels")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2, help="of the decoder; worker processes")
    parser.add_argument("--step", type=float, default=0.5, help="seconds a batch")
    parser.add_argument("--repeats", type=int, default=3, help="epochs of each system")
    parser.add_argument("--orders", type=int, default=0, help="rows of an epoch to be planned")
    words = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder) / "photos", words.images)
        compare(read(Path(folder) / "photos"), Path(folder) / "pixels.npy", words)
    if words.orders:
        plan_epochs(words.orders)


def compare(images, path, words):
    sampler = samplers.shuffled(len(images), words.batch_size, seed=0)
    stream = streamed(images, words.size, threads=words.threads)
    begun = time.perf_counter(), cpu_seconds()
    cache = cached(images, words.size, path, threads=words.threads)
    wall, cpu = time.perf_counter() - begun[0], cpu_seconds() - begun[1]
    photos = Photos(images.places.files, words.size)

    def loader(epoch):
        rows = sampler.epoch(epoch)
        yield from DataLoader(photos, batch_sampler=rows, num_workers=words.threads)

    systems = {
        "DataLoader": loader,
        "streamed": lambda epoch: (b.images for b in Batches(stream, sampler).epoch(epoch)),
        "cached": lambda epoch: (b.images for b in Batches(cache, sampler).epoch(epoch)),
    }
    print(
        f"{len(images)} photos to {words.size} px, batches of {words.batch_size}, "
        f"{words.threads} threads or workers, {os.cpu_count()} processors\n\n"
        "| system | step, ms | images/s | CPU ms an image | step waits, % | first batch, ms |\n"
        "|---|---|---|---|---|---|"
    )
    for step in (0.0, words.step):
        found = {name: [] for name in systems}
        for epoch in range(words.repeats):
            for name, give in systems.items():
                found[name].append(timed(give(epoch), step))
        for name, rows in found.items():
            rate, each, waits, first = np.median(rows, axis=0)
            print(
                f"| {name} | {1000 * step:.0f} | {rate:,.0f} | {1000 * each:.2f} | "
                f"{100 * waits:.1f} | {1000 * first:,.0f} |",
                flush=True,
            )
    print(f"\nThe cache was made in {wall:.1f} s ({1000 * cpu / len(images):.2f} CPU ms an image).")


def timed(batches, step):
    """Images a second; CPU seconds an image; share of time waited after the first batch; for it."""
    begun, cpu = time.perf_counter(), cpu_seconds()
    waits, n = [], 0
    while True:
        asked = time.perf_counter()
        images = next(batches, None)
        if images is None:
            break
        waits.append(time.perf_counter() - asked)
        n += len(images)
        if step:
            time.sleep(step)
    seconds = time.perf_counter() - begun
    return n / seconds, (cpu_seconds() - cpu) / n, sum(waits[1:]) / (seconds - waits[0]), waits[0]


def cpu_seconds():
    """Of this process, its threads, and those of its worker processes that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def plan_epochs(n):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, n)
    neighbors = rng.integers(0, n, (n, 5), dtype=np.int32)
    sources = {"verified": np.arange(1000), "noisy": np.arange(n)}
    each = {
        "shuffled": samplers.shuffled(n, 256, seed=0),
        "balanced, 32 of 1000 classes, 8 images each": samplers.balanced(labels, 32, 8, seed=0),
        "anchor and neighbor": samplers.anchor_neighbor(neighbors, 256, seed=0),
        "mixed, 26 of 1000 and 230 of the rest": samplers.mixed_source(
            sources, {"verified": 26, "noisy": 230}, seed=0
        ),
    }
    print(f"\n| sampler of {n:,} rows | first batch, CPU s | whole epoch, CPU s |\n|---|---|---|")
    for name, sampler in each.items():
        begun = time.process_time()
        epoch = sampler.epoch(0)
        next(epoch)
        first = time.process_time() - begun
        for _ in epoch:
            pass
        print(f"| {name} | {first:.2f} | {time.process_time() - begun:.2f} |", flush=True)


def make_photos(folder: Path, n: int) -> None:
    """Pictures about as hard to decode as photographs: large shapes, and grain."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((512, 512), Image.Resampling.BICUBIC), np.float32)
        grained = smooth + rng.normal(0, 6, smooth.shape).astype(np.float32)
        out = io.BytesIO()
        Image.fromarray(grained.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
        (folder / f"{number:05d}.jpg").write_bytes(out.getvalue())


if __name__ == "__main__":
    main()
