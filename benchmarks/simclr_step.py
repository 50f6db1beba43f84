"""A SimCLR step by this package and as published codes have it: images a CPU second, data included.

    python benchmarks/simclr_step.py [--threads N] [--batch 128] [--rounds 3] [--data FOLDER]

Both sides train the same ResNet-18 from the same weights with batches of the same size, each in a
process of its own, and take turns, step by step. Ours is `pretrain` with the recipe cifar-simclr:
batched views, bfloat16 where the processor multiplies it, channels_last, the training loop with all
it keeps. The usual side has torchvision's transforms on Pillow images, one after the other, a
DataLoader, float32, and channels first. It is written here, and needs torchvision (pip install
torchvision, or the build of your torch); without it only ours is measured. Its DataLoader has no
worker processes: they spread CPU seconds over cores and save none.

Then, for networks that fit a CPU: which share of a step is in the network's own forward and
backward pass. CPU seconds of the process, medians over the rounds; the first step of each side does
not count. Images are random bytes, or with --data those of FOLDER/train.parquet. Prints tables and
a JSON line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from augment import declare_operators
from labelsieve.data.augment import CIFAR10, Contrastive
from labelsieve.features.pretrain import build
from labelsieve.features.recipes import cifar_simclr, cpu
from labelsieve.loop.runtime import fastest_precision
from step_times import PARTS, Laps, TimedRuntime, run_steps

VIEW = 24  # pixels, of the small networks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128, help="images, of ResNet-18")
    parser.add_argument("--small-batch", type=int, default=256, help="images, of small networks")
    parser.add_argument("--rounds", type=int, default=3, help="steps of each side that count")
    parser.add_argument("--small-rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="folder of a train.parquet")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    figures = {
        "resnet18": compare(chosen),
        "shares": {name: shares(name, settings, chosen) for name, settings in small(chosen)},
        "precision": fastest_precision("cpu"),
        "threads": chosen.threads,
        "seed": chosen.seed,
        "torch": torch.__version__,
    }
    show(figures)
    print(json.dumps(figures))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1))


def small(chosen):
    """Networks for CPUs: ResNet-18 with 24 channels, and what recipe cpu trains."""
    recipe = cpu()
    narrow = replace(
        cifar_simclr(), network="narrow-resnet18", views=Contrastive(size=VIEW),
        training=replace(cifar_simclr().training, batch_size=chosen.small_batch),
    )  # fmt: skip
    yield "narrow-resnet18", narrow
    recipe = replace(
        recipe, training=replace(recipe.training, batch_size=chosen.small_batch), most_updates=0,
    )  # fmt: skip
    yield recipe.network, recipe


def compare(chosen) -> dict[str, object]:
    """Images a CPU second of ResNet-18 on both sides."""
    n_images = chosen.batch * (chosen.rounds + 1)
    pixels = pictures(n_images, chosen.seed, chosen.data)
    recipe = cifar_simclr()
    settings = replace(recipe, training=replace(recipe.training, batch_size=chosen.batch))
    runtime = TimedRuntime("cpu", fastest_precision("cpu"), Laps(torch.device("cpu")))
    theirs = []
    with usual_process(settings, pixels, chosen) as usual:

        def after_step(*_) -> None:
            if usual is not None:
                usual.send("step")
                theirs.append(usual.recv())

        steps = run_steps(settings, pixels, runtime, chosen.seed, after_step)
    seconds = [sum(step.values()) for step in steps]
    figures = {"batch": chosen.batch, "view": 32, "ours": chosen.batch / statistics.median(seconds)}
    figures["network_share"] = network_share(steps)
    figures["parts"] = parts(steps)
    if theirs:
        theirs = theirs[1:]  # their first step does not count either
        figures["usual"] = chosen.batch / statistics.median(theirs)
        figures["ratio"] = figures["ours"] / figures["usual"]
        figures["ratios"] = [b / a for a, b in zip(seconds, theirs, strict=True)]
    return figures


def shares(name: str, settings, chosen) -> dict[str, object]:
    """What a step of a small network spends where."""
    batch = settings.training.batch_size
    pixels = pictures(batch * (chosen.small_rounds + 1), chosen.seed, chosen.data)
    runtime = TimedRuntime("cpu", fastest_precision("cpu"), Laps(torch.device("cpu")))
    steps = run_steps(settings, pixels, runtime, chosen.seed, lambda *_: None)
    seconds = statistics.median(sum(step.values()) for step in steps)
    return {
        "batch": batch,
        "view": settings.views.size,
        "ours": batch / seconds,
        "network_share": network_share(steps),
        "parts": parts(steps),
    }


def network_share(steps: list[dict[str, float]]) -> float:
    """Median over steps."""
    names = ("network forward", "network backward")
    return statistics.median(sum(step[n] for n in names) / sum(step.values()) for step in steps)


def parts(steps: list[dict[str, float]]) -> dict[str, float]:
    """Median milliseconds of each part."""
    return {name: 1000 * statistics.median(step[name] for step in steps) for name in PARTS}


def pictures(n: int, seed: int, folder: Path | None) -> np.ndarray:
    """(n, 3, 32, 32) uint8."""
    if folder is None:
        return np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32), np.uint8)
    from labelsieve.data.decode import decode_images
    from labelsieve.data.read import read

    images = read(folder / "train.parquet")
    return decode_images(images.take(np.arange(n) % len(images)), 32, threads=1).values


@contextmanager
def usual_process(settings, pixels: np.ndarray, chosen):
    """A process that takes a usual step when told to, and tells its CPU seconds.

    Its own: what one side asks of the allocator would serve the other as well.
    """
    if find_spec("torchvision") is None:
        yield None
        return
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(there, settings, pixels, chosen.seed, chosen.threads)
    )
    process.start()
    there.close()  # so that a process that died is an EOFError here, and not a wait without end
    try:
        yield here
        here.send("end")
    finally:
        here.close()
        process.join()


def serve(connection, settings, pixels: np.ndarray, seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    step = usual_side(settings, pixels, seed)
    while connection.recv() == "step":
        begun = time.process_time()
        step()
        connection.send(time.process_time() - begun)


def usual_side(settings, pixels: np.ndarray, seed: int):
    """A step of a plain SimCLR, as a function."""
    library = declare_operators()
    import torchvision
    from torchvision import transforms as tv

    torch.manual_seed(seed)  # transforms and the order of images come from the global generator
    network, ours = torchvision.models.resnet18(), build(settings, None, seed)
    network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = network.fc = torch.nn.Identity()
    network.load_state_dict(ours.network.state_dict())
    head = torch.nn.Sequential(
        torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 128)
    )
    head.load_state_dict(ours.head.state_dict())
    model = torch.nn.Sequential(network, head)
    check_same(model, ours)
    transform = tv.Compose([
        tv.RandomResizedCrop(32, (0.2, 1.0)), tv.RandomHorizontalFlip(),
        tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8), tv.RandomGrayscale(0.2),
        tv.ToTensor(), tv.Normalize(*CIFAR10),
    ])  # fmt: skip
    loader = torch.utils.data.DataLoader(
        Pairs(pixels, transform), settings.training.batch_size, shuffle=True, drop_last=True
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.4, 0.9, weight_decay=1e-4)
    batches = iter(loader)

    def step() -> None:
        first, second = next(batches)
        rows = torch.nn.functional.normalize(model(torch.cat([first, second])), dim=1)
        similarities = rows @ rows.T / settings.temperature
        similarities.fill_diagonal_(-torch.inf)
        positives = torch.arange(len(rows)).roll(len(first))
        loss = torch.nn.functional.cross_entropy(similarities, positives)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    step.library = library  # the declarations hold as long as it lives
    return step


def check_same(model: torch.nn.Module, ours: torch.nn.Module) -> None:
    """Both sides compute the same."""
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(model.eval()(images), dim=1)
        difference = (theirs - ours.eval()(images)).abs().max()
    model.train()
    assert difference < 1e-4, f"the networks differ by {difference}"


class Pairs(torch.utils.data.Dataset):
    """Two views of each image."""

    def __init__(self, pixels: np.ndarray, transform) -> None:
        self.pixels, self.transform = pixels.transpose(0, 2, 3, 1), transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int):
        image = Image.fromarray(self.pixels[row])
        return self.transform(image), self.transform(image)


def show(figures) -> None:
    """Both as Markdown."""
    found = figures["resnet18"]
    if "usual" in found:
        of_each = f"{min(found['ratios']):.2f} to {max(found['ratios']):.2f}"
        print("| ResNet-18, batch | ours, images/CPU s | usual | ratio | of single rounds |")
        print("|---|---|---|---|---|")
        print(
            f"| {found['batch']} | {found['ours']:.2f} | {found['usual']:.2f} "
            f"| {found['ratio']:.2f} | {of_each} |\n"
        )
    else:
        print(
            "The usual side is not measured: torchvision is not installed. "
            "pip install torchvision, in the build that fits your torch.\n"
        )
    print(f"| network | batch | view | images/CPU s | network | {' | '.join(PARTS)} |")
    print("|---" * (5 + len(PARTS)) + "|")
    for name, each in {"cifar-resnet18": found, **figures["shares"]}.items():
        total = sum(each["parts"].values())
        of_parts = " | ".join(f"{each['parts'][part] / total:.1%}" for part in PARTS)
        print(
            f"| {name} | {each['batch']} | {each['view']} | {each['ours']:.1f} "
            f"| {each['network_share']:.1%} | {of_parts} |"
        )


if __name__ == "__main__":
    main()
