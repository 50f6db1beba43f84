"""How many images a CPU second decodes, by simplejpeg and by Pillow.

    python benchmarks/decode.py [--cifar train.parquet] [--photos 400] [--repeats 3]

With --cifar, a Parquet table of small images is decoded as it is, at 32 px. Photos are made here:
500 x 375 px, smooth shapes with grain, saved as JPEG of quality 85, and decoded to 224 px. One
thread. Prints Markdown rows; of the repeats the one with the least CPU seconds.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from labelsieve.data import picture
from labelsieve.data.decode import decode_images
from labelsieve.data.read import read


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cifar", type=Path, help="Parquet table of images")
    parser.add_argument("--label", default="label", help="its column of labels")
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    words = parser.parse_args()
    print("| images | decoder | CPU s | images a CPU second |\n|---|---|---|---|")
    if words.cifar is not None:
        images = read(words.cifar, label=words.label)
        compare(f"{len(images):,} of {words.cifar.name}, to 32 px", images, 32, words.repeats)
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder), words.photos)
        name = f"{words.photos} photos, 500 x 375, to 224 px"
        compare(name, read(folder), 224, words.repeats)


def compare(name, images, size, repeats):
    """The same images by both decoders; the second as if simplejpeg were not installed."""
    installed = picture.simplejpeg
    for decoder, library in (("simplejpeg", installed), ("Pillow", None)):
        if decoder == "simplejpeg" and installed is None:
            continue
        picture.simplejpeg = library
        seconds = min(timed(images, size) for _ in range(repeats))
        print(f"| {name} | {decoder} | {seconds:.2f} | {len(images) / seconds:,.0f} |", flush=True)
    picture.simplejpeg = installed


def timed(images, size):
    begun = time.process_time()
    pixels = decode_images(images, size, threads=1)
    assert pixels.usable.all()
    return time.process_time() - begun


def make_photos(folder: Path, n: int) -> None:
    """Pictures about as hard to decode as photographs: large shapes, and grain."""
    rng = np.random.default_rng(0)
    for number in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        grained = smooth + rng.normal(0, 6, smooth.shape)
        out = io.BytesIO()
        Image.fromarray(grained.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
        (folder / f"{number:05d}.jpg").write_bytes(out.getvalue())


if __name__ == "__main__":
    main()
