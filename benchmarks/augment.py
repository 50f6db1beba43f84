"""Views a CPU second makes, by this package in batches and by the usual pipeline image by image.

    python benchmarks/augment.py [--seed N] [--batch 256] [--repeats 5] [--data TABLE] [--json FILE]
    python benchmarks/augment.py --colors --data TABLE

The usual pipeline is torchvision on Pillow images: transform by transform, image by image, as
published codes of SimCLR and SCAN have it. Both sides start from decoded pixels and end with a
normalized float32 batch. One thread; CPU seconds of the process, the median of the repeats. Where
torchvision is not installed only this package is measured. Images are made here, or with --data
those of a Parquet table of small images, resized. Prints a Markdown table. With --colors: how far
our color jitter is from torchvision's, in gray levels; this needs torchvision.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch read it

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from labelsieve.data.augment import (
    CIFAR10,
    IMAGENET,
    Contrastive,
    Normalization,
    Weak,
    contrastive_view,
    weak_view,
)
from labelsieve.data.colors import Recoloring
from labelsieve.data.draws import Draws
from labelsieve.data.strong import Strong, strong_view

# source side, side of the view, images a batch as a share of --batch, largest hole, SimCLR's blur
CASES = ((32, 32, 1.0, 16, 0.0), (96, 96, 0.5, 32, 0.0), (256, 224, 0.125, 75, 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=256, help="images at 32 px; fewer when larger")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=Path, help="Parquet table of images")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--colors", action="store_true", help="compare pixels, not times")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(chosen.seed)
    torch.manual_seed(chosen.seed)  # torchvision draws from the global generators
    if chosen.colors:
        compare_colors(pictures(300, 32, chosen.seed, chosen.data), chosen.seed)
        return
    usual = usual_pipelines(CIFAR10, IMAGENET)
    print(
        "| recipe | pixels | batch | images/s | usual images/s | ratio |\n|---|---|---|---|---|---|"
    )
    rows = []
    for source, size, share, hole, blur in CASES:
        n = max(1, round(chosen.batch * share))
        pixels = pictures(n, source, chosen.seed, chosen.data)
        makers = ours(pixels, size, hole, blur, chosen.seed)
        theirs = usual(pixels, size, hole, blur) if usual else {}
        for recipe, make in makers.items():
            mine = n / timed(make, chosen.repeats)
            other = n / timed(theirs[recipe], chosen.repeats) if usual else float("nan")
            rows.append([recipe, source, size, n, round(mine), other, mine / other])
            place = f"{source}" if source == size else f"{size} from {source}"
            there = f"{other:,.0f} | {mine / other:.1f}" if usual else "not measured | "
            print(f"| {recipe} | {place} | {n} | {mine:,.0f} | {there} |", flush=True)
    if chosen.json:
        names = ("recipe", "source", "size", "batch", "images_per_second", "usual", "ratio")
        about = {"torch": torch.__version__, "seed": chosen.seed, "repeats": chosen.repeats}
        figures = [dict(zip(names, row, strict=True)) for row in rows]
        chosen.json.write_text(json.dumps({**about, "figures": figures}, indent=1))


def timed(make: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds, after one call that does not count."""
    make()
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        make()
        seconds.append(time.process_time() - begun)
    return statistics.median(seconds)


def pictures(n: int, side: int, seed: int, table: Path | None) -> torch.Tensor:
    """(n, 3, side, side) uint8: from the table, or smooth shapes with grain."""
    if table is not None:
        from labelsieve.data.decode import decode_images
        from labelsieve.data.read import read

        images = read(table)
        return torch.from_numpy(decode_images(images.take(np.arange(n)), side, threads=1).values)
    rng = np.random.default_rng(seed)
    made = np.empty((n, 3, side, side), np.uint8)
    for row in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), float)
        made[row] = (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).transpose(2, 0, 1)
    return torch.from_numpy(made)


def ours(pixels, size, hole, blur, seed) -> dict[str, Callable[[], torch.Tensor]]:
    """Each recipe on the whole batch; every call is another epoch."""
    normalization = CIFAR10 if size < 64 else IMAGENET
    rows = torch.arange(len(pixels))
    epochs = iter(range(10**9))
    recipes = {
        "SimCLR": (contrastive_view, Contrastive(size=size, blur_rate=blur)),
        "strong (SCAN)": (strong_view, Strong(size=size, largest_hole=hole)),
        "weak": (weak_view, Weak(size=size, padding=4 if len(pixels[0, 0]) == size else 0)),
    }
    return {
        name: lambda view=view, settings=settings: view(
            pixels, settings, Draws(seed, next(epochs), rows), normalization
        )
        for name, (view, settings) in recipes.items()
    }


def usual_pipelines(small: Normalization, large: Normalization):
    """The same recipes as a function of pixels, size, hole and blur; None without torchvision."""
    library = declare_operators()
    try:
        from torchvision import transforms as tv
    except ImportError:
        return None

    def make(pixels, size, hole, blur):
        images = [Image.fromarray(each) for each in pixels.permute(0, 2, 3, 1).numpy()]
        end = [tv.ToTensor(), tv.Normalize(*(small if size < 64 else large))]
        jitter = tv.ColorJitter(0.4, 0.4, 0.4, 0.1)
        simclr = [
            tv.RandomResizedCrop(size, (0.2, 1.0)), tv.RandomHorizontalFlip(),
            tv.RandomApply([jitter], 0.8), tv.RandomGrayscale(0.2),
        ]  # fmt: skip
        if blur:
            simclr.append(tv.RandomApply([PillowBlur()], blur))
        padding = 4 if images[0].width == size else 0
        recipes = {
            "SimCLR": [*simclr, *end],
            "strong (SCAN)": [
                tv.RandomHorizontalFlip(), tv.RandomCrop(size), FourOfFourteen(), *end, Cutout(hole)
            ],
            "weak": [tv.RandomCrop(size, padding), tv.RandomHorizontalFlip(), *end],
        }  # fmt: skip
        whole = {name: tv.Compose(steps) for name, steps in recipes.items()}
        return {
            name: lambda each=each: torch.stack([each(image) for image in images])
            for name, each in whole.items()
        }

    make.library = library  # the declarations hold as long as it lives
    return make


def compare_colors(pixels: torch.Tensor, seed: int) -> None:
    """Mean absolute differences between views of the same strengths, over images and pixels."""
    library = declare_operators()
    from torchvision.transforms import functional as tv

    rng = np.random.default_rng(seed)
    changes = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    sums = np.zeros((2, 3))
    for image in pixels:
        for row, weight in enumerate((1.0, 0.0)):  # all four; the hue alone
            amounts = [*(1 + weight * rng.uniform(-0.4, 0.4, 3)), rng.uniform(-0.1, 0.1)]
            recolor = Recoloring(*(torch.tensor([each]).float() for each in amounts))
            mine = recolor(image[None].float(), slice(0, 1)).clamp(0, 255)[0].numpy()
            theirs = []
            for order in (rng.permutation(4), rng.permutation(4)):
                shown = Image.fromarray(image.permute(1, 2, 0).numpy())
                for change in order:
                    shown = changes[change](shown, amounts[change])
                theirs.append(np.asarray(shown, float).transpose(2, 0, 1))
            against = (mine, theirs[1], image.numpy())
            sums[row] += [np.abs(theirs[0] - each).mean() for each in against]
    del library
    print("| | ours to theirs | two orders of theirs | theirs to the image |\n|---|---|---|---|")
    for name, row in zip(("all four", "hue alone"), sums / len(pixels), strict=True):
        print(f"| {name} | {row[0]:.2f} | {row[1]:.2f} | {row[2]:.2f} |")


def declare_operators():
    """Let a torchvision built for CUDA be imported beside a CPU-only torch.

    Package indexes without the CPU build bring the other one. Its compiled part cannot load without
    CUDA's libraries, and torchvision's Python then stops at describing two operators that were
    never declared. No transform uses them: declaring their signatures is enough.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    except ImportError:
        pass
    return None


class PillowBlur:
    """Gaussian blur as MoCo v2's code has it."""

    def __call__(self, image: Image.Image) -> Image.Image:
        from PIL import ImageFilter

        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class FourOfFourteen:
    """SCAN's operations on a Pillow image."""

    def __init__(self) -> None:
        affine, nearest = Image.Transform.AFFINE, Image.Resampling.NEAREST

        def moved(image, *matrix):
            return image.transform(image.size, affine, matrix, nearest)

        def enhanced(kind):
            return lambda image, amount: kind(image).enhance(amount), 0.05, 0.95

        self.operations = [
            (lambda image, _: image, 0, 1),
            (lambda image, _: ImageOps.autocontrast(image), 0, 1),
            (lambda image, _: ImageOps.equalize(image), 0, 1),
            (ImageOps.solarize, 0, 256),
            (lambda image, bits: ImageOps.posterize(image, int(bits)), 4, 8),
            enhanced(ImageEnhance.Color),
            enhanced(ImageEnhance.Contrast),
            enhanced(ImageEnhance.Brightness),
            enhanced(ImageEnhance.Sharpness),
            (lambda image, degrees: image.rotate(degrees), -30, 30),
            (lambda image, share: moved(image, 1, share, 0, 0, 1, 0), -0.1, 0.1),
            (lambda image, share: moved(image, 1, 0, 0, share, 1, 0), -0.1, 0.1),
            (lambda image, share: moved(image, 1, 0, share * image.width, 0, 1, 0), -0.1, 0.1),
            (lambda image, share: moved(image, 1, 0, 0, 0, 1, share * image.height), -0.1, 0.1),
        ]

    def __call__(self, image: Image.Image) -> Image.Image:
        for operation, least, most in random.choices(self.operations, k=4):
            image = operation(image, random.uniform(least, most))
        return image


class Cutout:
    """A square hole in a tensor."""

    def __init__(self, largest: int) -> None:
        self.largest = largest

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[1:]
        half = random.randint(1, self.largest) // 2
        y, x = random.randrange(height), random.randrange(width)
        image[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        return image


if __name__ == "__main__":
    main()
