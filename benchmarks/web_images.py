"""What an audit buys on real web images: classifiers trained with it and without.

    python benchmarks/web_images.py --data DIR --cache FOLDER [--sets bears sports]
        [--models features cpu] [--plant none symmetric ...] [--sides plain robust ...]
        [--seeds 0 1 2] [--json FILE]

DIR holds bears_web/ (three crawls: trained on two, tested on the third, each in turn) and
sports_web/ (a random fifth is held out). Labels are the folders that images were found in; nobody
has checked them, and those of held-out images are as noisy as the others. So accuracy is given
twice: on all held-out images, and on those that an audit of the held-out images alone calls clean.
Training images that repeat a held-out one are left out. Features are dictionary features, learned
from the training images.

  --plant   noise added to the training images, whose rate --rate says; held-out ones stay real
    none        nothing
    symmetric   another class, each as likely
    asymmetric  the class that is most like it (black and grizzly bears; sports of one kind)
    foreign     images of the other set, under the labels of those that they replace

  plain, mixup        cross-entropy on all training images
  clean, clean-mixup  the same on what the audit calls clean
  robust              recipe robust, with what the audit believes
  known               mixup without the images that were planted: the best that an audit could do

All sides share data, network and updates; scores are those of the last one. A line a run, then
means over runs, and the mean difference from mixup with its 95 % interval over runs. Runs that hold
out the same crawl share their test images: of these the interval is too narrow.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy import stats

from labelsieve.data.decode import confirmed_hashes, decode_images
from labelsieve.data.noise import asymmetric, foreign, symmetric
from labelsieve.data.read import read
from labelsieve.data.sources import of_rows, resident
from labelsieve.features.backbones import network
from labelsieve.features.dictionary import Dictionary, fit
from labelsieve.features.rows import Rows
from labelsieve.features.shown import image_views, row_views
from labelsieve.features.weights import drawn_from
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.detection import Detection
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.classify import train_classifier
from labelsieve.methods.sncf.detect import detect
from labelsieve.methods.sncf.robust import RobustDetection
from labelsieve.neighbors.duplicates import exact_duplicates, near_duplicates
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Verdict
from labelsieve.training.settings import train_recipe

FILES = {"bears": "bears_web/bears96.parquet", "sports": "sports_web/sports64.parquet"}
ALIKE = {
    "bears": {"black": "grizzly", "grizzly": "black"},
    "sports": {
        "badminton": "tennis", "tennis": "badminton", "table_tennis": "tennis",
        "hockey": "ice_hockey", "ice_hockey": "hockey", "formula1": "motogp", "motogp": "formula1",
    },
}  # fmt: skip
SIDES = ("plain", "mixup", "clean", "clean-mixup", "robust", "known")
HELD_OUT = 0.2  # of sports


class Web(NamedTuple):
    """One set of web images."""

    name: str
    pixels: np.ndarray  # (N, 3, S, S) uint8
    labels: np.ndarray  # (N,)
    class_names: tuple[str, ...]
    crawl: np.ndarray | None  # (N,) who collected it
    original: np.ndarray  # (N,) row of the image that it repeats, its own if none


class Split(NamedTuple):
    """Training images, noise planted among them, and held-out ones."""

    pixels: np.ndarray  # (M, 3, S, S)
    labels: np.ndarray  # (M,)
    planted: np.ndarray  # (M,) 0 nothing, 1 mislabeled, 2 foreign
    held_pixels: np.ndarray  # (T, 3, S, S)
    held_labels: np.ndarray  # (T,)


class Audited(NamedTuple):
    """What an audit says of the training images, and another of the held-out ones."""

    rows: np.ndarray  # (M, D)
    held_rows: np.ndarray  # (T, D)
    beliefs: Beliefs
    clean: np.ndarray  # (T,) bool


def load(name: str, data: Path, cache: Path) -> Web:
    path = data / FILES[name]
    images = read(str(path), label="label_name")
    decoded = decode_images(images, Dictionary().image_size)
    labels, pixels = np.asarray(images.labels), np.asarray(decoded.values)
    columns = pq.read_schema(path).names
    crawl = None
    if "crawl" in columns:
        crawl = np.array(pq.read_table(path, columns=["crawl"])["crawl"].to_pylist())
    rows = kept(cache / f"{name}-all.npy", lambda: fitted(pixels, pixels, 0)[0])
    exact = exact_duplicates(confirmed_hashes(images, decoded))
    repeats = near_duplicates(pixels, nearest_neighbors(rows, 50), exact)
    original = np.where(repeats >= 0, repeats, np.arange(len(labels)))
    return Web(name, pixels, labels, images.class_names, crawl, original)


def fitted(pixels: np.ndarray, others: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Dictionary features, learned from `pixels`, of these and of others."""
    made = fit(pixels, Dictionary(), seed=seed)
    return made.transform(pixels), made.transform(others)


def kept(path: Path, make) -> np.ndarray:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        values = make()
        np.save(path, values)
    return np.load(path)


def folds(web: Web) -> list[str]:
    return ["a fifth"] if web.crawl is None else sorted(set(web.crawl))


def split(
    web: Web, fold: str, seed: int, plant: str, rate: float, strangers: np.ndarray | None
) -> Split:
    rng = np.random.default_rng(seed)
    n = len(web.labels)
    if web.crawl is None:
        held = np.zeros(n, bool)
        held[rng.permutation(n)[: round(HELD_OUT * n)]] = True
    else:
        held = web.crawl == fold
    rows = np.flatnonzero(~held & ~np.isin(web.original, web.original[held]))
    pixels, labels = web.pixels[rows].copy(), web.labels[rows]
    planted = np.zeros(len(rows), np.int8)
    if plant == "foreign":
        shown = foreign(labels, np.arange(len(strangers)), rate, rng)
        planted[shown >= 0] = Verdict.FOREIGN
        pixels[shown >= 0] = strangers[shown[shown >= 0]]
    elif plant != "none":
        names = list(web.class_names)
        pairs = {names.index(a): names.index(b) for a, b in ALIKE[web.name].items()}
        noisy = (
            symmetric(labels, len(names), rate, rng)
            if plant == "symmetric"
            else asymmetric(labels, pairs, rate, rng)
        )
        planted[noisy != labels] = Verdict.MISLABELED
        labels = noisy
    return Split(pixels, labels, planted, web.pixels[held], web.labels[held])


def audited(web: Web, part: Split, features: Path, verdicts: Path, seed: int) -> Audited:
    """Features and verdicts; what was made before is read from these files."""
    n = len(part.labels)
    both = kept(features, lambda: np.concatenate(fitted(part.pixels, part.held_pixels, seed)))
    rows, held_rows = both[:n], both[n:]

    def said(values: np.ndarray, labels: np.ndarray) -> Detection:
        neighbors = nearest_neighbors(values, 50)
        return detect(values, neighbors, labels, web.class_names, RobustDetection(), seed=seed)

    if not verdicts.exists():
        found, of_held = said(rows, part.labels), said(held_rows, part.held_labels)
        np.savez(
            verdicts, kinds=found.probabilities, suggestion=found.suggestion,
            suggestion_probability=found.suggestion_probability,
            foreign_group=found.foreign_group, clean=of_held.verdict == Verdict.CLEAN,
        )  # fmt: skip
    found = dict(np.load(verdicts))
    clean = found.pop("clean")
    beliefs = Beliefs(labels=part.labels, certain=np.zeros(n, bool), **found)
    return Audited(rows, held_rows, beliefs, clean)


def believed(side: str, part: Split, audit: Audited) -> Beliefs:
    if side != "known":
        return audit.beliefs
    kinds = np.eye(3, dtype=np.float32)[part.planted]
    return replace(Beliefs.trusting(part.labels), kinds=kinds)


def trained(
    side: str, model: str, web: Web, part: Split, audit: Audited, seed: int, epochs: int
) -> np.ndarray:
    """(T, C) what a classifier says of the held-out images."""
    settings = train_recipe("clean-mixup" if side == "known" else side, model)
    settings = settings.for_images(len(part.labels))
    classify = settings.classify
    if epochs:
        classify = replace(classify, training=replace(classify.training, epochs=epochs))
    n, n_held = len(part.labels), len(part.held_labels)
    runtime = Runtime.start("cpu", classify.training.precision)
    if model == "features":
        with drawn_from(seed):
            module = Rows(audit.rows.shape[1], settings.n_hidden).fit(audit.rows)
        spread = settings.noise * float(module.spread)
        views = row_views(seed, spread)
        source, held = of_rows(audit.rows), of_rows(audit.held_rows)
    else:
        module = network(settings.network, pixels=part.pixels, rows=np.arange(n), seed=seed)
        strong = None if classify.projection == "none" else classify.strong
        views = image_views(classify.weak, strong, settings.normalized(module), seed)
        source, held = resident(part.pixels), resident(part.held_pixels)
    said = {}

    def test(predictor) -> dict[str, float]:
        said["held"] = predictor(held, np.arange(n_held)).numpy()
        return {}

    train_classifier(
        source, module, believed(side, part, audit), len(web.class_names), classify,
        rows=np.arange(n), views=views, test=test, seed=seed, runtime=runtime,
    )  # fmt: skip
    return said["held"]


def runs(web: Web, strangers: np.ndarray, chosen: argparse.Namespace, plant: str):
    """A record of each fold, seed, model and side."""
    for fold in folds(web):
        for seed in chosen.seeds:
            part = split(web, fold, seed, plant, chosen.rate, strangers)
            case = f"{web.name}-{fold}-{seed}-"
            shown = f"foreign-{chosen.rate:g}" if plant == "foreign" else "real"
            audit = audited(
                web, part, chosen.cache / f"{case}{shown}.npy",
                chosen.cache / f"{case}{plant}-{chosen.rate:g}.npz", seed,
            )  # fmt: skip
            told(web, fold, seed, plant, part, audit)
            for model in chosen.models:
                for side in chosen.sides:
                    if side == "known" and plant == "none":
                        continue
                    clock = time.process_time()
                    said = trained(side, model, web, part, audit, seed, chosen.epochs)
                    right = said.argmax(axis=1) == part.held_labels
                    record = {
                        "set": web.name, "fold": fold, "seed": seed, "plant": plant,
                        "model": model, "side": side,
                        "accuracy": float(right.mean()),
                        "on clean": float(right[audit.clean].mean()),
                        "cpu s": round(time.process_time() - clock, 1),
                    }  # fmt: skip
                    print(" ".join(map(show, record.values())), flush=True)
                    yield record


def told(web: Web, fold: str, seed: int, plant: str, part: Split, audit: Audited) -> None:
    """What the audit found: of the images there are, and of those that were planted."""
    verdict = audit.beliefs.verdict
    counts = ", ".join(f"{(verdict == v).sum()} {v.name.lower()}" for v in list(Verdict)[:3])
    line = f"{web.name} {fold} seed {seed} plant {plant}: {len(verdict)} training images: {counts}"
    bad = part.planted > 0
    if bad.any():
        found = verdict > 0
        line += f"; of {bad.sum()} planted {found[bad].mean():.0%} found"
        line += f", of the others {found[~bad].mean():.0%} called wrong"
    held = len(audit.clean)
    print(f"{line}; {audit.clean.sum()} of {held} held-out images called clean", flush=True)


def show(value) -> str:
    return f"{value:.4f}" if isinstance(value, float) and value <= 1 else str(value)


def summary(records: list[dict]) -> None:
    groups = defaultdict(dict)
    for record in records:
        case = record["set"], record["plant"], record["model"]
        groups[case].setdefault(record["side"], []).append(record)
    for (name, plant, model), sides in groups.items():
        n = len(next(iter(sides.values())))
        print(f"\n{name}, planted: {plant}, model {model}: mean of {n} runs")
        for side, found in sides.items():
            line = f"  {side:12}"
            for measure in ("accuracy", "on clean"):
                values = np.array([record[measure] for record in found])
                line += f"  {measure} {values.mean():.3f}"
                if side != "mixup" and "mixup" in sides:
                    line += against(values, np.array([r[measure] for r in sides["mixup"]]))
            print(f"{line}  {np.mean([record['cpu s'] for record in found]):.0f} CPU s")


def against(values: np.ndarray, others: np.ndarray) -> str:
    """The mean difference and half its 95 % interval, by Student's t over runs."""
    gaps = values - others
    if len(gaps) < 2:
        return f" ({100 * gaps.mean():+.1f} points)"
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    return f" ({100 * gaps.mean():+.1f} ± {100 * half:.1f} points)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="with bears_web/ and sports_web/")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps features")
    parser.add_argument("--sets", nargs="+", default=list(FILES), choices=list(FILES))
    parser.add_argument("--models", nargs="+", default=["features"], choices=["features", "cpu"])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--plant", nargs="+", default=["none"],
                        choices=["none", "symmetric", "asymmetric", "foreign"])  # fmt: skip
    parser.add_argument("--rate", type=float, default=0.3, help="of what is planted")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=0, help="other than the model's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write all records here")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    webs = {name: load(name, chosen.data, chosen.cache) for name in FILES}
    records = []
    for name in chosen.sets:
        other = next(web for web in webs.values() if web.name != name)
        for plant in chosen.plant:
            records += runs(webs[name], other.pixels, chosen, plant)
    summary(records)
    if chosen.json:
        chosen.json.write_text(json.dumps(records, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
