"""What robust training of a classifier on features is worth on CIFAR-10 with wrong labels.

    python benchmarks/robust_heads.py --data DIR --networks RUN RUN RUN --cache FOLDER
        [--noise worse mixed none] [--sides plain mixup ...]

DIR holds cifar10/ with the labels of CIFAR-10N and ood32/. RUN is what this leaves, one a seed:

    labelsieve features DIR/cifar10/train.parquet --pretrain cpu --seed S --out c10.npy

so the network was trained on the 50,000 images of CIFAR-10 without any label, and on no foreign
one. Its features stay as they are; a classifier on them is trained by `--model features`, all sides
for the same number of epochs, the test images are all 10,000, the result is that of the last epoch.

  worse, mixed, none   as in robust_training.py, of all 50,000 images
  plain, mixup, gce, elr   on all labels
  cleanlab        cross-entropy on what cleanlab keeps: find_label_issues with its defaults, of
                  out-of-sample probabilities of 5-fold logistic regression on the same features
  clean, clean-mixup   on what the audit calls clean
  robust          recipe robust
  plain-half, mixup-half   half the epochs, which suits plain training better; as the command does

What was made is kept in FOLDER. CPU seconds of one thread, those of features and audit apart.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/ and ood32/")
parser.add_argument("--networks", type=Path, nargs="+", required=True, help="one run a seed")
parser.add_argument("--seeds", type=int, nargs="+", help="0, 1, ... by default")
parser.add_argument("--cache", type=Path, required=True)
parser.add_argument("--noise", nargs="+", default=["worse", "mixed"], help="worse, mixed, none")
parser.add_argument("--sides", nargs="+", help="only these")
options = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from scipy.stats import t as student  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import StratifiedKFold, cross_val_predict  # noqa: E402

from labelsieve.data.decode import decode_images  # noqa: E402
from labelsieve.data.read import read  # noqa: E402
from labelsieve.data.sources import of_rows  # noqa: E402
from labelsieve.features.joint import JointModel  # noqa: E402
from labelsieve.features.rows import Rows  # noqa: E402
from labelsieve.features.shown import row_views  # noqa: E402
from labelsieve.features.weights import drawn_from  # noqa: E402
from labelsieve.methods.sncf.beliefs import Beliefs  # noqa: E402
from labelsieve.methods.sncf.classify import train_classifier  # noqa: E402
from labelsieve.methods.sncf.detect import detect  # noqa: E402
from labelsieve.methods.sncf.robust import RobustDetection  # noqa: E402
from labelsieve.methods.sncf.training_recipes import fitted  # noqa: E402
from labelsieve.neighbors.knn import nearest_neighbors  # noqa: E402
from labelsieve.stages.trained import load_trained  # noqa: E402
from labelsieve.training.classifying import row_probabilities  # noqa: E402

torch.set_num_threads(1)
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
RECIPES = {
    "plain": "plain", "mixup": "mixup", "gce": "gce", "elr": "elr", "cleanlab": "plain",
    "clean": "clean", "clean-mixup": "clean-mixup", "robust": "robust",
    "plain-half": "plain", "mixup-half": "mixup",
}  # fmt: skip


def main() -> None:
    results = []
    for noise in options.noise:
        for seed in options.seeds or range(len(options.networks)):
            made = prepared(noise, seed)
            for side in options.sides or RECIPES:
                results.append({"noise": noise, "seed": seed, "side": side, **run(made, side)})
                print(json.dumps(results[-1]), flush=True)
    table(results)


def pixels_of(name: str, *columns: str, label: str):
    path = options.data / name
    table = pq.read_table(path, columns=[*columns])
    pixels = np.asarray(decode_images(read(str(path), label=label), 32).values)
    return pixels, [table[column].to_pylist() for column in columns]


def noisy(noise: str, seed: int):
    """Pixels, labels, truth and which are foreign, of the 50,000 images."""
    pixels, (truth, worse) = pixels_of(
        "cifar10/train.parquet", "label", "cifar10n_worse", label="label"
    )
    truth, worse = np.array(truth, np.int64), np.array(worse, np.int64)
    foreign, rng = np.zeros(len(truth), bool), np.random.default_rng([seed, 1])
    if noise != "mixed":
        return pixels, worse if noise == "worse" else truth, truth, foreign
    others, (overlap,) = pixels_of("ood32/ood32.parquet", "cifar10_overlap", label="class_name")
    draw = rng.random(len(truth))
    foreign = draw < 0.2
    drawn = (draw >= 0.2) & (draw < 0.4)
    labels, pixels = truth.copy(), pixels.copy()
    labels[drawn] = rng.integers(0, len(CLASSES), drawn.sum())  # the true class too
    usable = np.flatnonzero([not name for name in overlap])
    pixels[foreign] = others[rng.permutation(usable)[: foreign.sum()]]
    return pixels, labels, truth, foreign


def prepared(noise: str, seed: int) -> dict[str, np.ndarray]:
    """Features, audit and cleanlab's choice of a seed."""
    file = options.cache / f"heads-{noise}-{seed}.npz"
    if not file.exists():
        options.cache.mkdir(parents=True, exist_ok=True)
        pixels, labels, truth, foreign = noisy(noise, seed)
        network = load_trained(options.networks[seed])
        model = JointModel.load(network.joint, network.backbone, "cpu")
        clocks = [time.process_time()]
        rows = model.transform(pixels)
        clocks.append(time.process_time())
        neighbors = nearest_neighbors(rows, 50)
        found = detect(rows, neighbors, labels, CLASSES, RobustDetection(), seed=seed)
        clocks.append(time.process_time())
        kept = kept_by_cleanlab(rows, labels, seed)
        clocks.append(time.process_time())
        test, (test_labels,) = pixels_of("cifar10/test.parquet", "label", label="label")
        np.savez(
            file, rows=rows, labels=labels, truth=truth, foreign=foreign, kept=kept,
            kinds=found.probabilities, suggestion=found.suggestion,
            suggestion_probability=found.suggestion_probability,
            foreign_group=found.foreign_group, test=model.transform(test),
            test_labels=np.array(test_labels, np.int64), seconds=np.diff(clocks), seed=seed,
        )  # fmt: skip
    with np.load(file) as arrays:
        return dict(arrays) | {"seed": np.array(seed)}


def kept_by_cleanlab(rows, labels, seed):
    from cleanlab.filter import find_label_issues

    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    p = cross_val_predict(
        LogisticRegression(max_iter=1000), rows, labels, cv=folds, method="predict_proba"
    )
    return ~find_label_issues(labels, p, n_jobs=1)


def run(made: dict[str, np.ndarray], side: str) -> dict[str, float]:
    """One side: what it scores on the test images, and what it took."""
    seed, rows, labels = int(made["seed"]), made["rows"], made["labels"]
    names = ("kinds", "suggestion", "suggestion_probability", "foreign_group")
    certain = np.zeros(len(labels), bool)
    beliefs = Beliefs(labels=labels, certain=certain, **{name: made[name] for name in names})
    model = fitted(RECIPES[side], "features")
    epochs = fitted("robust", "features").classify.training.epochs
    if side.endswith("-half"):
        epochs //= 2
    training = replace(model.classify.training, epochs=epochs)
    classify = replace(model.classify, training=training, test_every=0)
    learned = np.flatnonzero(made["kept"]) if side == "cleanlab" else np.arange(len(labels))
    clock = time.process_time()
    with drawn_from(seed):
        network = Rows(rows.shape[1], model.n_hidden).fit(rows)
    views = row_views(seed, model.noise * float(network.spread))
    found = train_classifier(
        of_rows(rows), network, beliefs, len(CLASSES), classify,
        rows=learned, views=views, seed=seed,
    )  # fmt: skip
    seconds = time.process_time() - clock
    both = torch.nn.Sequential(found.network, found.classifier)
    said = row_probabilities(both, made["test"], "cpu").argmax(axis=1)
    return {"accuracy": float((said == made["test_labels"]).mean()), "seconds": seconds}


def table(results: list[dict]) -> None:
    print(
        "\n| noise | side | test accuracy, % | robust is above by | CPU s |\n|---|---|---|---|---|"
    )
    for noise in dict.fromkeys(result["noise"] for result in results):
        here = [result for result in results if result["noise"] == noise]
        best = {r["seed"]: r["accuracy"] for r in here if r["side"] == "robust"}
        for side in dict.fromkeys(result["side"] for result in here):
            mine = [result for result in here if result["side"] == side]
            accuracies = 100 * np.array([result["accuracy"] for result in mine])
            gains = [100 * (best[r["seed"]] - r["accuracy"]) for r in mine if r["seed"] in best]
            each = ", ".join(f"{gain:.1f}" for gain in gains)
            cpu = np.mean([result["seconds"] for result in mine])
            print(f"| {noise} | {side} | {interval(accuracies)} | {each} | {cpu:.0f} |")


def interval(values: np.ndarray) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
