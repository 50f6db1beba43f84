"""Six ways to train on wrong labels and foreign images, with nothing but their content to tell.

    python benchmarks/semantic_holdout.py --data DIR [--seeds 0 1 2] [--sides NAME ...]
        [--cache FOLDER] [--out FILE.json] [--set NAME=VALUE ...] [--optimizer muon|sgd]
        [--foreign RATE] [--mislabeled RATE] [--steps N] [--cost]

DIR holds cifar10/train.parquet and cifar10/test.parquet. The four vehicle classes of CIFAR-10 are
the classes, 1,500 images of each; 30 % of all images are replaced by animals, which keep the label
of the image they replace, and 20 % of all get the label of another vehicle. Test images are the
4,000 vehicles of the test set. Cameras and compression are the same on both sides.

A small network learns features of the set without its labels (i-Mix, 90 epochs), the robust
detector says what is clean, mislabeled and foreign, and each side trains the same network from
scratch with the same number of updates on the same views:

  plain         cross-entropy on everything
  mixup         the same with mixup
  clean         cross-entropy on what the detector calls clean
  clean-mixup   the same with mixup
  paper         SNCF's second stage
  robust        the default recipe; --set changes its settings

The last update is scored; nothing is chosen by the test set. With --cache, a side of a seed that is
there is not trained again. CPU-s are of the process.

With --cost nothing is scored: the CPU-s of an epoch over all images, each once, of plain training
and of robust training with everything that belongs to it, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

SIDES = ("plain", "mixup", "clean", "clean-mixup", "paper", "robust")

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/")
parser.add_argument("--seeds", type=int, nargs="+", default=[0])
parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
parser.add_argument("--cache", type=Path, help="folder of what is done, to go on from")
parser.add_argument("--out", type=Path, help="JSON of all measures")
parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes")
parser.add_argument("--optimizer", choices=["muon", "sgd"], default="muon", help="of all sides")
parser.add_argument("--foreign", type=float, default=0.3, help="share of all images")
parser.add_argument("--mislabeled", type=float, default=0.2, help="share of all images")
parser.add_argument("--steps", type=int, default=1800, help="updates of each side")
parser.add_argument("--epochs", type=int, default=90, help="of learning features")
parser.add_argument("--average", type=float, default=0.99, help="of the weights; 0: none")
parser.add_argument("--schedule", choices=["cosine", "steps"], default="cosine", help="of rates")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--cost", action="store_true", help="measure the cost of an epoch instead")

VEHICLES = (0, 1, 8, 9)  # airplane, automobile, ship, truck
NAMES = ("airplane", "automobile", "ship", "truck")
PER_CLASS = 1500
BATCH_SIZE = 128
WARMUP = 0.3  # of the updates of `paper`


class Mixed(NamedTuple):
    """One set of images, and what is true of them."""

    pixels: Any  # (N, 3, 32, 32) uint8
    labels: Any  # (N,)
    truth: Any  # (N,)
    foreign: Any  # (N,) bool
    test_pixels: Any
    test_truth: Any


def make(options: argparse.Namespace, seed: int) -> Mixed:
    """The set of a seed."""
    import numpy as np

    pixels, classes = read_set(options.data, "train")
    test_pixels, test_classes = read_set(options.data, "test")
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(classes == c))[:PER_CLASS] for c in VEHICLES]
    order = rng.permutation(len(VEHICLES) * PER_CLASS)
    rows = np.concatenate(members)[order]
    truth = np.repeat(np.arange(len(VEHICLES)), PER_CLASS)[order]
    turn, n = rng.permutation(len(rows)), len(rows)
    n_foreign, n_wrong = round(options.foreign * n), round(options.mislabeled * n)
    replaced, wrong = turn[:n_foreign], turn[n_foreign : n_foreign + n_wrong]
    animals = rng.permutation(np.flatnonzero(~np.isin(classes, VEHICLES)))[:n_foreign]
    mixed = pixels[rows]
    mixed[replaced] = pixels[animals]
    labels = truth.copy()
    labels[wrong] = (truth[wrong] + rng.integers(1, len(VEHICLES), n_wrong)) % len(VEHICLES)
    foreign = np.zeros(n, bool)
    foreign[replaced] = True
    there = np.isin(test_classes, VEHICLES)
    test_truth = np.searchsorted(VEHICLES, test_classes[there])
    return Mixed(mixed, labels, truth, foreign, test_pixels[there], test_truth)


def read_set(data: Path, name: str) -> tuple[Any, Any]:
    import numpy as np
    import pyarrow.parquet as pq

    from labelsieve.data.decode import decode_images
    from labelsieve.data.read import read

    path = data / "cifar10" / f"{name}.parquet"
    classes = pq.read_table(path, columns=["label"])["label"].to_numpy().astype(np.int64)
    return decode_images(read(str(path), label="label"), 32).values, classes


def detected(mixed: Mixed, options: argparse.Namespace, seed: int, file: Path | None) -> Any:
    """What the robust detector believes by features that are learned here."""
    import numpy as np

    from labelsieve.methods.sncf.beliefs import Beliefs
    from labelsieve.methods.sncf.detect import detect
    from labelsieve.methods.sncf.robust import RobustDetection
    from labelsieve.neighbors.knn import nearest_neighbors

    if file is not None and file.exists():
        with np.load(file) as arrays:
            return Beliefs(**arrays)
    clock = time.process_time()
    # of the images alone, whatever their labels
    kept = file and file.with_name(f"features-{options.foreign:g}-{options.epochs}-{seed}.npy")
    if kept is not None and kept.exists():
        features = np.load(kept)
    else:
        features = learned_features(mixed, options, seed)
        if kept is not None:
            np.save(kept, features)
    found = detect(
        features, nearest_neighbors(features, 50), mixed.labels, NAMES, RobustDetection(), seed=seed
    )
    beliefs = Beliefs(
        mixed.labels, found.probabilities, found.suggestion, found.suggestion_probability,
        found.foreign_group, np.zeros(len(mixed.labels), bool),
    )  # fmt: skip
    print(f"seed {seed}: {kinds_line(mixed, found)}; {time.process_time() - clock:.0f} CPU-s")
    if file is not None:
        np.savez(file, **vars(beliefs))
    return beliefs


def learned_features(mixed: Mixed, options: argparse.Namespace, seed: int) -> Any:
    """(N, 128) unit-norm projections of a network that learned from these images alone."""
    import numpy as np

    from labelsieve.data.augment import CIFAR10
    from labelsieve.data.batches import resident
    from labelsieve.features.inference import clean_of, clean_outputs
    from labelsieve.features.pretrain import Pretrain, pretrain
    from labelsieve.loop.rates import LearningRate
    from labelsieve.loop.runtime import Runtime
    from labelsieve.loop.train import Training

    training = Training(
        epochs=options.epochs, batch_size=256, optimizer=optimizer("muon"), precision="fastest",
        learning_rate=LearningRate(peak=0.05, warmup=0.03, start=0.0, final=0.0),
    )  # fmt: skip
    settings = Pretrain(
        network="small-preact", head="sncf", objective="imix", temperature=0.2, training=training
    )
    source, rows = resident(mixed.pixels), np.arange(len(mixed.labels))
    runtime = Runtime.start(precision="fastest")
    encoder = pretrain(source, rows, settings, seed=seed, runtime=runtime)

    def answer(images: Any) -> Any:
        with runtime.autocast():
            return encoder(images)

    found = clean_outputs(
        answer, (encoder,), source, rows, clean_of(32, CIFAR10), runtime=runtime
    ).numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def optimizer(name: str) -> Any:
    from labelsieve.features.recipes import cpu
    from labelsieve.loop.optimizers import Optimizer

    return cpu().training.optimizer if name == "muon" else Optimizer(weight_decay=5e-4)


def kinds_line(mixed: Mixed, found: Any) -> str:
    """Precision and recall of each kind."""
    import numpy as np

    true = np.where(mixed.foreign, 2, np.where(mixed.labels != mixed.truth, 1, 0))
    parts = []
    for kind, name in enumerate(("clean", "mislabeled", "foreign")):
        called, are = found.verdict == kind, true == kind
        both = (called & are).sum()
        parts.append(f"{name} {both / max(1, called.sum()):.3f}/{both / max(1, are.sum()):.3f}")
    return "precision/recall " + ", ".join(parts)


def objective(side: str, beliefs: Any, options: argparse.Namespace) -> tuple[Any, int]:
    """What a side learns, and in how many epochs it has the updates."""
    import numpy as np

    from labelsieve.config import overrides
    from labelsieve.methods.sncf.paper_training import Paper
    from labelsieve.methods.sncf.plain_training import Plain
    from labelsieve.methods.sncf.robust_training import Robust
    from labelsieve.methods.sncf.streams import three_streams

    n, n_clean = len(beliefs), int((beliefs.verdict == 0).sum())
    rows = np.arange(n)
    if side == "paper":
        before = max(1, round(WARMUP * options.steps / (n_clean // BATCH_SIZE)))
        streams = len(three_streams(beliefs.verdict, rows, BATCH_SIZE, 0))
        after = max(1, round((1 - WARMUP) * options.steps / streams))
        return Paper(warmup=before / (before + after)), before + after
    if side == "robust":
        updates = n // BATCH_SIZE
        return overrides(Robust(), options.changes), max(1, round(options.steps / updates))
    alpha, on = (1.0 if "mixup" in side else 0.0), ("clean" if "clean" in side else "all")
    seen = n_clean if on == "clean" else n
    return Plain(alpha=alpha, on=on), max(1, round(options.steps / (seen // BATCH_SIZE)))  # type: ignore


def train_side(
    side: str, mixed: Mixed, beliefs: Any, seed: int, options: argparse.Namespace
) -> dict[str, float]:
    """Test accuracy of the last update, what became of the wrong labels, and the cost."""
    import numpy as np

    from labelsieve.data.batches import resident

    learned, epochs = objective(side, beliefs, options)
    test = resident(mixed.test_pixels)
    found: dict[str, float] = {}

    def tested(predict: Any) -> dict[str, float]:
        said = predict(test, np.arange(len(mixed.test_truth))).argmax(1).numpy()
        found["accuracy"] = float((said == mixed.test_truth).mean())
        return dict(found)

    clock = time.process_time()
    done = classifier(learned, epochs, mixed, beliefs, seed, options, test=tested)
    seconds = time.process_time() - clock
    said = done.probabilities.argmax(1)
    wrong = (mixed.labels != mixed.truth) & ~mixed.foreign
    if wrong.any():
        found["true class of wrong labels"] = float((said == mixed.truth)[wrong].mean())
        found["wrong labels fitted"] = float((said == mixed.labels)[wrong].mean())
    return {**found, "epochs": epochs, "cpu s": seconds}


def classifier(
    learned: Any, epochs: int, mixed: Mixed, beliefs: Any, seed: int, options: Any, **more: Any
) -> Any:
    """The small network, trained from scratch."""
    import numpy as np

    from labelsieve.data.augment import CIFAR10, Contrastive, Weak
    from labelsieve.data.batches import resident
    from labelsieve.features.backbones import network
    from labelsieve.features.shown import image_views
    from labelsieve.loop.rates import LearningRate
    from labelsieve.loop.train import Training
    from labelsieve.methods.sncf.classify import Classify, train_classifier
    from labelsieve.methods.sncf.plain_training import Plain

    rate = LearningRate(peak=0.05, warmup=0.03, start=0.0, final=0.0)
    if options.schedule == "steps":
        rate = LearningRate(peak=0.05, shape="steps", cuts=(0.5, 0.8))
    contrasts = not isinstance(learned, Plain)
    settings = Classify(
        objective=learned, test_every=0, average=options.average, weak=Weak(),
        strong=Contrastive(), projection="sncf" if contrasts else "none",
        training=Training(
            epochs=epochs, batch_size=BATCH_SIZE, optimizer=optimizer(options.optimizer),
            precision="fastest", learning_rate=rate,
        ),
    )  # fmt: skip
    strong = settings.strong if contrasts else None
    return train_classifier(
        resident(mixed.pixels), network("small-preact", seed=seed), beliefs, len(NAMES), settings,
        rows=np.arange(len(mixed.labels)), seed=seed,
        views=image_views(settings.weak, strong, CIFAR10, seed), **more,
    )  # fmt: skip


def cost(options: argparse.Namespace) -> None:
    """CPU-s of an epoch in which each image comes once, the better of several turns."""
    import numpy as np

    from labelsieve.config import overrides
    from labelsieve.methods.sncf.beliefs import Beliefs
    from labelsieve.methods.sncf.plain_training import Plain
    from labelsieve.methods.sncf.robust_training import Robust

    mixed = make(options, 0)
    kinds = np.random.default_rng(0).dirichlet([3, 1, 1], len(mixed.labels)).astype(np.float32)
    beliefs = Beliefs.trusting(mixed.labels)
    beliefs = Beliefs(**{**vars(beliefs), "kinds": kinds})
    every = Robust(mislabeled_rate=1.0, foreign_rate=1.0)
    seconds: dict[str, list[float]] = {"plain": [], "robust": []}
    for _ in range(5):
        for name, learned in (("plain", Plain()), ("robust", overrides(every, options.changes))):
            clocks: list[float] = []

            def progress(done: int, total: int, clocks: list[float] = clocks) -> None:
                if 2 * done == total or done == total:  # the end of either of two epochs
                    clocks.append(time.process_time())

            classifier(learned, 2, mixed, beliefs, 0, options, progress=progress)
            seconds[name].append(clocks[1] - clocks[0])
        best = {name: min(values) for name, values in seconds.items()}
        print(
            f"an epoch of {len(mixed.labels)} images: plain {best['plain']:.2f} CPU-s, robust "
            f"{best['robust']:.2f}: {best['robust'] / best['plain']:.2f} times as much; in turn "
            + ", ".join(f"{b / a:.2f}" for a, b in zip(*seconds.values(), strict=True)),
            flush=True,
        )


def main(words: list[str] | None = None) -> None:
    options = parser.parse_args(words)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # before numpy and torch read them
    import torch

    torch.set_num_threads(options.threads)
    if options.cost:
        cost(options)
        return
    of_set = f"{options.foreign:g}-{options.mislabeled:g}-{options.epochs}"
    of_side = f"{options.optimizer}-{options.steps}"
    if options.average != 0.99 or options.schedule != "cosine":
        of_side += f"-{options.average:g}-{options.schedule}"
    of_robust = "-".join([of_side, *sorted(options.changes)])
    results = []
    if options.cache is not None:
        options.cache.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        mixed = make(options, seed)
        cached = options.cache and options.cache / f"{of_set}-{seed}.npz"
        beliefs = detected(mixed, options, seed, cached)
        for side in options.sides:
            name = of_robust if side == "robust" else of_side
            file = options.cache and options.cache / f"{of_set}-{seed}-{side}-{name}.json"
            if file is not None and file.exists():
                found = json.loads(file.read_text(encoding="utf-8"))
            else:
                found = train_side(side, mixed, beliefs, seed, options)
                if file is not None:
                    file.write_text(json.dumps(found), encoding="utf-8")
            results.append({"seed": seed, "side": side, **found})
            print(f"seed {seed}: {side:12} " + line(found), flush=True)
    summary(results)
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


def line(found: dict[str, float]) -> str:
    return ", ".join(
        f"{key} {value:.4f}" if 0 < value < 1 else f"{key} {value:.0f}"
        for key, value in found.items()
    )


def summary(results: list[dict[str, Any]]) -> None:
    """Mean and standard deviation over seeds, then the bars."""
    import numpy as np

    print(f"\nmean ± std over {len({r['seed'] for r in results})} seed(s)")
    means = {}
    for side in dict.fromkeys(r["side"] for r in results):
        mine = np.array([r["accuracy"] for r in results if r["side"] == side])
        means[side] = mine.mean()
        seconds = np.mean([r["cpu s"] for r in results if r["side"] == side])
        print(f"  {side:12} {mine.mean():.4f} ± {mine.std():.4f}  {seconds:4.0f} CPU-s")
    print("\nbars")
    order = [("plain", "clean"), ("mixup", "clean"), ("clean", "clean-mixup")]
    order += [("clean-mixup", "paper"), ("paper", "robust")]
    for low, high in order:
        tell(means, low, high, 0.0)
    for high in ("paper", "robust"):
        tell(means, "mixup", high, 0.05)
    tell(means, "plain", "robust", 0.0 if len(means) < len(SIDES) else 0.05)


def tell(means: dict[str, float], low: str, high: str, least: float) -> None:
    if low in means and high in means:
        margin = means[high] - means[low]
        word = "met" if margin >= least else "MISSED"
        print(f"  {word:6} {high} {margin:+.4f} over {low} (at least {least:+g})")


if __name__ == "__main__":
    main()
