"""How well SimCLR's step on ResNet-18 uses a GPU, and how long the recipe cifar-simclr will take.

    python benchmarks/gpu_pretrain.py [--batch 512] [--precision bfloat16] [--eager] [--epochs 2]
    python benchmarks/gpu_pretrain.py --tiny

What runs is `pretrain` with the recipe: the set resident on the device, bfloat16, channels_last,
torch.compile. 50,000 random images of 32 pixels; speed does not depend on what they show. Of the
steps, the first ones compile and are not counted; in the next ones every wait of the host for the
device is noted; the rest is timed. Utilization: operations of the network's forward pass, counted,
three times for forward and backward, over those of a large matrix product per second. Prints a
table and a JSON line. With --tiny, a few small steps, on a CPU too: a test that all of this runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
import warnings
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from labelsieve.features.pretrain import build
from labelsieve.features.recipes import cifar_simclr
from labelsieve.loop.runtime import fastest_precision
from step_times import PARTS, Laps, TimedRuntime, run_steps

N_IMAGES, N_EPOCHS = 50_000, 500  # of CIFAR-10, and of the recipe
WARM_UP, WATCHED = 10, 20  # steps; fewer than are between two looks of `train` at the losses


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--precision", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="8 steps of 8 small images")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()
    if chosen.device == "cpu" and not chosen.tiny:
        sys.exit("There is no CUDA device here; --tiny runs the same on a CPU, at no speed.")
    figures = measured(chosen)
    show(figures)
    print(json.dumps(figures))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1))


def measured(chosen) -> dict[str, object]:
    recipe = cifar_simclr()
    batch, side, n_images = chosen.batch, recipe.views.size, N_IMAGES
    warm_up, watched = WARM_UP, WATCHED
    if chosen.tiny:
        batch, side, n_images, warm_up, watched = 8, 16, 32, 2, 2
    settings = replace(
        recipe, image_size=side, views=replace(recipe.views, size=side),
        training=replace(recipe.training, batch_size=batch),
    )  # fmt: skip
    device = torch.device(chosen.device)
    precision = chosen.precision or fastest_precision(chosen.device)
    runtime = TimedRuntime(chosen.device, precision, Laps(device), compiled=not chosen.eager)
    rng = np.random.default_rng(chosen.seed)
    pixels = rng.integers(0, 256, (n_images, 3, side, side), np.uint8)
    peak = matmul_rate(device, 256 if chosen.tiny else 8192)
    watch = Watch(device, warm_up, watched, chosen.epochs * (n_images // batch))
    steps = run_steps(settings, pixels, runtime, chosen.seed, watch, chosen.epochs)
    seconds, n_timed = watch.seconds, watch.n_timed
    steps = steps[-n_timed:]
    totals = {part: sum(step[part] for step in steps) for part in PARTS}
    flop = 2 * batch * 3 * forward_flop(settings)  # two views, forward and backward
    n_steps = N_EPOCHS * (N_IMAGES // batch)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "batch": batch,
        "view": side,
        "precision": precision,
        "compiled": device.type == "cuda" and not chosen.eager,
        "seed": chosen.seed,
        "timed_steps": n_timed,
        "images_per_second": batch * n_timed / seconds,
        "milliseconds_per_step": 1000 * seconds / n_timed,
        "matmul_tflops": peak / 1e12,
        "network_tflops": flop * n_timed / seconds / 1e12,
        "utilization": flop * n_timed / seconds / peak,
        "syncs_per_step": sum(watch.syncs.values()) / watched,
        "syncs": {f"{place}": n for place, n in watch.syncs.most_common(10)},
        "waiting_share": watch.waited / seconds,
        "issuing_share": watch.issuing / seconds,
        "shares": {part: total / sum(totals.values()) for part, total in totals.items()},
        "projected_minutes": n_steps * seconds / n_timed / 60,
        "peak_memory_mb": peak_memory(device) / 2**20,
    }


class Watch:
    """Is told of each step: compiles pass, then waits are counted, then time is taken."""

    def __init__(self, device: torch.device, warm_up: int, watched: int, n_steps: int) -> None:
        if n_steps <= warm_up + watched:
            raise SystemExit(f"{n_steps} steps are too few: {warm_up + watched} are not timed.")
        self._device, self._on_gpu = device, device.type == "cuda"
        self._watched_from, self._timed_from, self._n_steps = warm_up, warm_up + watched, n_steps
        self._stack = ExitStack()
        self._noted: list[warnings.WarningMessage] = []
        self.n_timed = n_steps - self._timed_from
        self.syncs: Counter[str] = Counter()
        self.seconds = self.waited = self.issuing = 0.0

    def __call__(self, done: int, batches) -> None:
        if done == self._watched_from:
            self._begin_watching()
        elif done == self._timed_from:
            self._end_watching()
            self._synchronize()
            self._waited, self._begun = batches.waited, time.perf_counter()
        elif done == self._n_steps:
            self.issuing = time.perf_counter() - self._begun
            self._synchronize()
            self.seconds = time.perf_counter() - self._begun
            self.waited = batches.waited - self._waited

    def _begin_watching(self) -> None:
        self._noted = self._stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        if self._on_gpu:
            torch.cuda.set_sync_debug_mode("warn")

    def _end_watching(self) -> None:
        if self._on_gpu:
            torch.cuda.set_sync_debug_mode("default")
        self._stack.close()
        waits = [each for each in self._noted if "synchronizing CUDA" in str(each.message)]
        self.syncs.update(f"{Path(each.filename).name}:{each.lineno}" for each in waits)

    def _synchronize(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self._device)


def matmul_rate(device: torch.device, n: int, repeats: int = 20) -> float:
    """Operations a second of the product of two (n, n) bfloat16 matrices; median of the repeats."""
    first, second = (torch.randn(n, n, device=device).to(torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(repeats + 3):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begun = time.perf_counter()
        first @ second
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * n**3 / statistics.median(seconds[3:])


def forward_flop(settings) -> int:
    """Multiplications and additions of network and head for one view; ResNet-18: 1.111 billion."""
    encoder, side = build(settings, None, 0).eval(), settings.views.size
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        encoder(torch.zeros(1, 3, side, side))
    return counter.get_total_flops()


def peak_memory(device: torch.device) -> float:
    """Bytes; of a CPU, of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux: kB


def show(figures) -> None:
    """As Markdown."""
    shares = ", ".join(f"{part} {share:.1%}" for part, share in figures["shares"].items())
    places = ", ".join(f"{place} ({n})" for place, n in figures["syncs"].items())
    for name, value in (
        ("", "measured"),
        ("---", "---"),
        ("device", figures["device"]),
        (
            "step",
            f"batch {figures['batch']}, {figures['view']} px, {figures['precision']}, "
            + ("compiled" if figures["compiled"] else "eager"),
        ),
        ("images/s, two views each", f"{figures['images_per_second']:,.0f}"),
        ("ms a step", f"{figures['milliseconds_per_step']:.2f}"),
        ("bf16 matrix product, TFLOP/s", f"{figures['matmul_tflops']:.1f}"),
        (
            "the network's, TFLOP/s and share",
            f"{figures['network_tflops']:.1f}, {figures['utilization']:.1%}",
        ),
        ("the host's waits for the device, a step", f"{figures['syncs_per_step']:.2f} {places}"),
        ("share of time waited for batches", f"{figures['waiting_share']:.2%}"),
        ("share in which the host issues work", f"{figures['issuing_share']:.1%}"),
        ("time of the device", shares),
        (f"{N_EPOCHS} epochs of CIFAR-10, minutes", f"{figures['projected_minutes']:.1f}"),
        ("peak memory, MB", f"{figures['peak_memory_mb']:,.0f}"),
    ):
        print(f"| {name} | {value} |" if name != "---" else "|---|---|")


if __name__ == "__main__":
    main()
