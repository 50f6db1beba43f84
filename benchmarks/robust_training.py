"""What robust training of a small network is worth on CIFAR-10 with wrong labels.

    python benchmarks/robust_training.py --data DIR --cache FOLDER [--seeds 0 1 2]
        [--noise worse mixed none] [--sides plain mixup ...] [--networks FOLDER ...]
    python benchmarks/robust_training.py --data DIR --cache FOLDER --epoch-cost

DIR holds cifar10/ with the labels of CIFAR-10N and ood32/. A seed draws which of the 50,000 images
are learned from, the noise, the first weights and the order of images; all sides of a seed share
these. Test images are always all 10,000, with clean labels; scores are those of the last update.
The audit and cleanlab have the same features: dictionary features of the set itself or, where
--networks names one FOLDER for each seed, rows of a network that learned from all 50,000 images
without labels (`labelsieve features DIR/cifar10/train.parquet --pretrain cpu --seed SEED`). The
network that is trained here is always new.

  worse   the label that one of three people gave, of CIFAR-10N (40 % wrong)
  mixed   each image is replaced by a foreign one with probability .2, or its label is drawn from
          all ten classes with probability .2, as SNCF does it
  none    the labels of CIFAR-10

  plain, mixup    cross-entropy on all images
  cleanlab        cross-entropy on what cleanlab keeps: find_label_issues with its defaults, of
                  out-of-sample probabilities of 5-fold logistic regression on the audit's features
  clean, clean-mixup   the same on what the audit calls clean
  robust          recipe robust, with what the audit believes
  plain-long, mixup-long   as many updates as fit into the CPU seconds of robust

All sides do the same number of updates of as many images. What was made is kept in FOLDER: a killed
benchmark goes on with the first run it has not finished, and several may share it where they do
not have the same noise and seed. CPU seconds of one thread; those of the audit are told apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/ and ood32/")
parser.add_argument("--cache", type=Path, required=True, help="folder that keeps sets and runs")
parser.add_argument("--networks", type=Path, nargs="+", help="one for each seed, for the audit")
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
parser.add_argument("--noise", nargs="+", default=["worse", "mixed"], help="worse, mixed, none")
parser.add_argument("--sides", nargs="+", help="only these")
parser.add_argument("--images", type=int, default=20_000, help="to learn from")
parser.add_argument("--updates", type=int, help="of every side; by default as --model cpu")
parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                    help="change a setting of the model, on all sides")  # fmt: skip
parser.add_argument("--robust", action="append", default=[], metavar="NAME=VALUE",
                    help="change a setting of recipe robust alone")  # fmt: skip
parser.add_argument("--epoch-cost", action="store_true", help="an epoch of robust against plain")
options = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from scipy.stats import t as student  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import StratifiedKFold, cross_val_predict  # noqa: E402

from labelsieve.config import overrides, to_dict  # noqa: E402
from labelsieve.data.augment import AS_STORED, clean_view  # noqa: E402
from labelsieve.data.decode import decode_images  # noqa: E402
from labelsieve.data.read import read  # noqa: E402
from labelsieve.data.sources import resident  # noqa: E402
from labelsieve.features.backbones import network  # noqa: E402
from labelsieve.features.dictionary import Dictionary, fit  # noqa: E402
from labelsieve.features.joint import JointModel  # noqa: E402
from labelsieve.features.shown import image_views  # noqa: E402
from labelsieve.methods.sncf.beliefs import Beliefs  # noqa: E402
from labelsieve.methods.sncf.classify import (  # noqa: E402
    Classify,
    TrainedClassifier,
    train_classifier,
)
from labelsieve.methods.sncf.detect import detect  # noqa: E402
from labelsieve.methods.sncf.robust import RobustDetection  # noqa: E402
from labelsieve.methods.sncf.training_recipes import Model, fitted  # noqa: E402
from labelsieve.neighbors.knn import nearest_neighbors  # noqa: E402
from labelsieve.stages.trained import load_trained  # noqa: E402

torch.set_num_threads(1)
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
RECIPES = {
    "plain": "plain", "mixup": "mixup", "cleanlab": "plain", "clean": "clean",
    "clean-mixup": "clean-mixup", "robust": "robust", "plain-long": "plain", "mixup-long": "mixup",
}  # fmt: skip
SIDES = [*RECIPES]
MODEL = "cpu"


class Set(NamedTuple):
    """Images to learn from, and what is true of them."""

    pixels: np.ndarray  # (N, 3, 32, 32) uint8
    labels: np.ndarray  # (N,) as given
    truth: np.ndarray  # (N,) of the image that was there before a foreign one took its place
    foreign: np.ndarray  # (N,) bool


class Audited(NamedTuple):
    """What the audit and cleanlab say of a set."""

    beliefs: Beliefs
    kept: np.ndarray  # (N,) bool: by cleanlab
    seconds: np.ndarray  # CPU seconds of features, audit and cleanlab


def main() -> None:
    if options.epoch_cost:
        epoch_cost()
        return
    results = []
    for noise in options.noise:
        for seed in options.seeds:
            made = make(noise, seed)
            for side in options.sides or SIDES:
                results.append(
                    {"noise": noise, "seed": seed, "side": side, **run(made, noise, seed, side)}
                )
                print(line(results[-1]), flush=True)
    table(results)


def make(noise: str, seed: int) -> Set:
    """The set of a seed: some of the images, the labels or the images of some changed."""
    file = options.cache / f"set-{noise}-{seed}-{options.images}.npz"
    if not file.exists():
        pixels, labels = images_of("cifar10/train.parquet", "label", "cifar10n_worse")
        rows = np.sort(np.random.default_rng(seed).permutation(len(pixels))[: options.images])
        pixels, truth = pixels[rows], labels["label"][rows]
        given, foreign = truth.copy(), np.zeros(len(rows), bool)
        rng = np.random.default_rng([seed, 1])
        if noise == "worse":
            given = labels["cifar10n_worse"][rows]
        elif noise == "mixed":
            pixels, given, foreign = with_foreign_and_mislabeled(pixels, truth, rng)
        elif noise != "none":
            raise SystemExit(f"--noise {noise}: expected worse, mixed or none.")
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, pixels=pixels, labels=given, truth=truth, foreign=foreign)
    with np.load(file) as arrays:
        return Set(**{name: arrays[name] for name in Set._fields})


def with_foreign_and_mislabeled(pixels, truth, rng, foreign_rate=0.2, mislabeled_rate=0.2):
    """SNCF's noise: each image is foreign, or mislabeled, or neither, by one draw of its own."""
    draw = rng.random(len(truth))
    foreign = draw < foreign_rate
    drawn = (draw >= foreign_rate) & (draw < foreign_rate + mislabeled_rate)
    given = truth.copy()
    given[drawn] = rng.integers(0, len(CLASSES), drawn.sum())  # the true class too
    others, columns = images_of("ood32/ood32.parquet", "cifar10_overlap")
    usable = np.flatnonzero(columns["cifar10_overlap"] == "")
    pixels = pixels.copy()
    pixels[foreign] = others[rng.permutation(usable)[: foreign.sum()]]
    return pixels, given, foreign


def images_of(name: str, *columns: str):
    """Pixels (N, 3, 32, 32) of a table of the data, and some columns."""
    path = options.data / name
    table = pq.read_table(path, columns=[*columns])
    values = {
        column: table[column].to_numpy()
        if str(table[column].type) != "string"
        else np.array([text or "" for text in table[column].to_pylist()])
        for column in columns
    }
    label = "class_name" if "ood32" in name else "label"
    pixels = np.asarray(decode_images(read(str(path), label=label), 32).values)
    return pixels, {n: v.astype(np.int64) if v.dtype.kind in "iu" else v for n, v in values.items()}


def audited(made: Set, noise: str, seed: int) -> Audited:
    """The audit's default recipe on features of the set, and cleanlab on the same."""
    trained = options.networks[options.seeds.index(seed)] if options.networks else None
    made_by = trained.name if trained else Dictionary().digest()
    file = options.cache / f"audit-{noise}-{seed}-{options.images}-{made_by}.npz"
    if not file.exists():
        clocks = [time.process_time()]
        features = features_of(made.pixels, trained, seed)
        clocks.append(time.process_time())
        neighbors = nearest_neighbors(features, 50)
        found = detect(features, neighbors, made.labels, CLASSES, RobustDetection(), seed=seed)
        clocks.append(time.process_time())
        kept = kept_by_cleanlab(features, made.labels, seed)
        clocks.append(time.process_time())
        np.savez(
            file, kinds=found.probabilities, suggestion=found.suggestion,
            suggestion_probability=found.suggestion_probability,
            foreign_group=found.foreign_group, kept=kept, seconds=np.diff(clocks),
        )  # fmt: skip
    with np.load(file) as arrays:
        columns = {name: arrays[name] for name in arrays}
    kept, seconds = columns.pop("kept"), columns.pop("seconds")
    certain = np.zeros(len(kept), bool)
    return Audited(Beliefs(labels=made.labels, certain=certain, **columns), kept, seconds)


def features_of(pixels: np.ndarray, trained: Path | None, seed: int) -> np.ndarray:
    if trained is None:
        return fit(pixels, Dictionary(), seed=seed).transform(pixels)
    found = load_trained(trained)
    return JointModel.load(found.joint, found.backbone).transform(pixels)


def kept_by_cleanlab(features, labels, seed):
    """(N,) bool: what cleanlab's default filter finds no issue with."""
    from cleanlab.filter import find_label_issues

    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    classifier = LogisticRegression(max_iter=1000)
    p = cross_val_predict(classifier, features, labels, cv=folds, method="predict_proba")
    return ~find_label_issues(labels, p, n_jobs=1)


def run(made: Set, noise: str, seed: int, side: str) -> dict[str, float]:
    """One side: what it scores on the test images, and what it took."""
    settings = model_of(side)
    facts = {**to_dict(settings), "images": options.images, "updates": options.updates}
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=6).hexdigest()
    file = options.cache / f"run-{noise}-{seed}-{side}-{digest}.json"
    if not file.exists():
        found = train(made, noise, seed, side, settings)
        file.write_text(json.dumps(found | {"settings": facts}))
    found = json.loads(file.read_text())
    del found["settings"]
    return found


def model_of(side: str) -> Model:
    """The settings of a side: recipe and model by name, and what the command line changes."""
    made = overrides(fitted(RECIPES[side], MODEL), options.set)
    if side == "robust":
        made = overrides(made, [f"classify.objective.{change}" for change in options.robust])
    return replace(made, classify=replace(made.classify, test_every=0))


def train(made: Set, noise: str, seed: int, side: str, settings: Model) -> dict[str, float]:
    said = audited(made, noise, seed)
    size = settings.image_size
    rows = np.flatnonzero(said.kept) if side == "cleanlab" else np.arange(len(made.labels))
    n_learned = len(rows)
    if side in ("clean", "clean-mixup"):
        n_learned = int((said.beliefs.verdict == 0).sum())
    if side.endswith("-long"):
        short = run(made, noise, seed, side.removesuffix("-long"))
        robust = run(made, noise, seed, "robust")
        n_updates = round(updates() * robust["seconds"] / short["seconds"])
    else:
        n_updates = updates()
    classify = with_updates(settings.classify, n_learned, n_updates)
    clock = time.process_time()
    pixels = resized(made.pixels, size)
    backbone = network(settings.network, pixels=pixels, seed=seed)
    views = image_views(classify.weak, classify.strong, backbone.normalization, seed)
    done = 0

    def progress(n_done: int, _: int) -> None:
        nonlocal done
        done = n_done

    trained = train_classifier(
        resident(pixels), backbone, said.beliefs, len(CLASSES), classify,
        rows=rows, views=views, seed=seed, progress=progress,
    )  # fmt: skip
    seconds = time.process_time() - clock
    return {
        "accuracy": test_accuracy(trained, views.clean, size),
        "updates": done,
        "seconds": seconds,
        "audit_seconds": float(said.seconds[:2].sum()),
        **fits(trained.probabilities, made, rows),
    }


def updates() -> int:
    """Of each side, but the long ones: those of --model cpu for so many images."""
    model = fitted("plain", MODEL)
    n_batches = options.images // model.classify.training.batch_size
    return options.updates or min(model.most_updates, model.classify.training.epochs * n_batches)


def with_updates(classify: Classify, n_images: int, n_updates: int) -> Classify:
    """As many epochs as come closest to so many updates."""
    n_batches = max(1, n_images // classify.training.batch_size)
    training = replace(classify.training, epochs=max(1, round(n_updates / n_batches)))
    return replace(classify, training=training)


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    if pixels.shape[2] == size:
        return pixels
    views = clean_view(torch.from_numpy(pixels), size, AS_STORED)
    return views.round().clamp(0, 255).to(torch.uint8).contiguous().numpy()


@torch.no_grad()
def test_accuracy(trained: TrainedClassifier, clean, size: int) -> float:
    """Of the last update, on all 10,000 images."""
    pixels, labels = images_of("cifar10/test.parquet", "label")
    trained.network.eval()
    right = 0
    for first in range(0, len(pixels), 500):
        images = clean(torch.from_numpy(resized(pixels[first : first + 500], size)))
        said = trained.classifier(trained.network(images)).argmax(dim=1).numpy()
        right += int((said == labels["label"][first : first + 500]).sum())
    return right / len(pixels)


def fits(probabilities: np.ndarray, made: Set, rows: np.ndarray) -> dict[str, float]:
    """Of the mislabeled images learned from: how many get their wrong label, and their class."""
    wrong = ((made.labels != made.truth) & ~made.foreign)[rows]
    if not wrong.any():
        return {}
    said = probabilities.argmax(axis=1)[wrong]
    return {
        "fits_wrong": float((said == made.labels[rows][wrong]).mean()),
        "right_of_wrong": float((said == made.truth[rows][wrong]).mean()),
    }


def line(result: dict) -> str:
    cells = [f"{key} {value:.4g}" for key, value in result.items() if isinstance(value, float)]
    return f"{result['noise']:6} seed {result['seed']} {result['side']:12} " + "  ".join(cells)


def table(results: list[dict]) -> None:
    """Mean and 95 % interval over seeds, and what robust gains within each seed."""
    print("\n| noise | side | test accuracy, % | robust is above by | CPU s | updates |")
    print("|---|---|---|---|---|---|")
    for noise in dict.fromkeys(result["noise"] for result in results):
        here = [result for result in results if result["noise"] == noise]
        best = {r["seed"]: r["accuracy"] for r in here if r["side"] == "robust"}
        for side in dict.fromkeys(result["side"] for result in here):
            mine = [result for result in here if result["side"] == side]
            gains = [best[r["seed"]] - r["accuracy"] for r in mine if r["seed"] in best]
            gain = "" if side == "robust" or not gains else interval(gains)
            seconds, n_updates = (np.mean([r[key] for r in mine]) for key in ("seconds", "updates"))
            accuracy = interval([r["accuracy"] for r in mine])
            print(f"| {noise} | {side} | {accuracy} | {gain} | {seconds:.0f} | {n_updates:.0f} |")


def interval(shares: list[float]) -> str:
    """Mean and half the 95 % interval of Student's t, in %."""
    values = 100 * np.array(shares)
    if len(values) == 1:
        return f"{values[0]:.1f}"
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():.1f} ± {half:.1f}"


def epoch_cost() -> None:
    """CPU seconds of an epoch of robust and of plain, in turns, and their ratio."""
    seed = options.seeds[0]
    made = make("mixed", seed)
    said = audited(made, "mixed", seed)
    seconds: dict[str, list[float]] = {"plain": [], "robust": []}
    for _ in range(3):
        for side, found in seconds.items():
            found.append(epoch_seconds(made, said, side, seed))
            print(f"{side:8} {found[-1]:.2f} CPU s an epoch", flush=True)
    ratios = [robust / plain for plain, robust in zip(*seconds.values(), strict=True)]
    print(f"ratio {np.median(ratios):.2f}, of single rounds {min(ratios):.2f} to {max(ratios):.2f}")


def epoch_seconds(made: Set, said: Audited, side: str, seed: int) -> float:
    """The mean of the second half of four epochs: by then robust does all that it ever does."""
    settings = model_of(side)
    classify = with_updates(settings.classify, len(made.labels), 1)
    classify = replace(classify, training=replace(classify.training, epochs=4))
    pixels = resized(made.pixels, settings.image_size)
    backbone = network(settings.network, pixels=pixels, seed=seed)
    views = image_views(classify.weak, classify.strong, backbone.normalization, seed)
    clocks: list[float] = []
    train_classifier(
        resident(pixels), backbone, said.beliefs, len(CLASSES), classify,
        rows=np.arange(len(pixels)), views=views, seed=seed,
        progress=lambda done, _: clocks.append(time.process_time()),
    )  # fmt: skip
    half = len(clocks) // 2
    return (
        (clocks[-1] - clocks[half - 1])
        / (len(clocks) - half)
        * (len(pixels) // classify.training.batch_size)
    )


if __name__ == "__main__":
    main()
