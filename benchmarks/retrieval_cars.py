"""What the filter is worth on cars: PRISM's published noisy lists, classes that were never learned.

    python benchmarks/retrieval_cars.py --data DIR --cache FOLDER [--model small features]
        [--lists 0_1 0_2 0_5 0_25smallcluster 0_5smallcluster] [--sides unfiltered prism ...]
        [--seeds 0 1 2] [--updates N]

DIR holds cars/cars.parquet: 4,052 photographs of 98 models to learn from, at most 64 pixels high or
wide, with the labels of the published lists, and 4,092 of 98 other models, each of them a query to
all others. Lists cover twice as many photographs: rates of noise are those of the rows here, where
the few whose entry in the list is not certain are left out.

  unfiltered    contrastive loss and a memory of all images
  prism         filtered, at the true rate of noise
  prism-auto    filtered, at the rate that it estimates
  two-stage     prism-auto; then all labels scored again, and trained anew on those that are kept
  clean         two-stage's training on rightly labeled images alone: the best it could come to
  untrained     the features before anything is learned (features alone)

Models: small, three convolutions from new weights on 32 of 36 pixels; features, a linear layer on
features of a dictionary, which is learned from the photographs that are learned from, without
labels. Scores are those of the last update, in percent. A run is a line; means follow.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from labelsieve.data.augment import Weak
from labelsieve.data.batches import Source
from labelsieve.data.decode import decode_images
from labelsieve.data.read import read
from labelsieve.data.sources import of_rows, resident
from labelsieve.features.backbones import network
from labelsieve.features.dictionary import Dictionary, fit
from labelsieve.features.rows import Rows
from labelsieve.features.shown import Views, image_views, row_views
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.prism.embedding import embed, train_embedding
from labelsieve.methods.prism.recipes import Retriever, fitted
from labelsieve.methods.prism.two_stage import second_stage
from labelsieve.report.retrieval_metrics import score_retrieval

LISTS = ("0_1", "0_2", "0_5", "0_25smallcluster", "0_5smallcluster")
SIDES = ("unfiltered", "prism", "prism-auto", "two-stage")
RECIPES = {"prism-auto": "prism", "clean": "unfiltered"}
DECODED = {"small": 36, "features": 48}  # pixels


class Cars(NamedTuple):
    """All photographs, as a model sees them."""

    source: Source
    values: np.ndarray  # of the source: pixels, or rows of features
    table: dict[str, np.ndarray]  # columns of the file
    model: str

    @property
    def rows(self) -> np.ndarray:
        """Those to learn from."""
        certain = ~self.table["prism_name_ambiguous"].astype(bool)
        return np.flatnonzero((self.table["split"] == "train") & certain)

    @property
    def test_rows(self) -> np.ndarray:
        return np.flatnonzero(self.table["split"] == "test")

    def noisy(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels of a list, -1 for test images; and which of those to learn from are wrong."""
        column = f"prism_{name}noised"
        labels = np.full(len(self.table["label"]), -1, np.int64)
        labels[self.rows] = self.table[column][self.rows].astype(np.int64)
        said = self.table.get(f"{column}_host", self.table[column])
        return labels, said[self.rows].astype(np.int64) != self.table["label"][self.rows]


def cars(data: Path, model: str, cache: Path) -> Cars:
    """Decoded, and with rows of features where the model is of those."""
    import pyarrow.parquet as pq

    path = data / "cars" / "cars.parquet"
    wanted = ["split", "label", "prism_name_ambiguous"]
    names = [name for name in pq.read_schema(path).names if name.startswith("prism_0")]
    read_table = pq.read_table(path, columns=wanted + names)
    table = {name: np.asarray(read_table[name].to_numpy()) for name in read_table.column_names}
    decoded = decode_images(read(str(path), label="label"), DECODED[model], threads=1).values
    found = Cars(resident(decoded), decoded, table, model)
    if model == "small":
        return found
    file = cache / "features.npy"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        learned = fit(decoded, Dictionary(image_size=DECODED[model]), rows=found.rows, seed=0)
        np.save(file, learned.transform(decoded))
    values = np.load(file)
    return found._replace(source=of_rows(values), values=values)


def settings_of(model: str, side: str, rate: float, n_images: int, updates: int) -> Retriever:
    """The recipe's settings; photographs may be mirrored, and the true rate given."""
    made = fitted(RECIPES.get(side, side), model).for_images(n_images)
    changed = replace(made.embed, weak=Weak(size=32, padding=0))
    if updates:
        changed = replace(changed, updates=updates)
    if side == "prism":
        assert changed.filter is not None
        changed = replace(changed, filter=replace(changed.filter, noise_rate=rate))
    if side == "clean":
        changed = replace(changed, loss=replace(changed.loss, over="mean"))
    return replace(made, embed=changed)


def begun(on: Cars, settings: Retriever, seed: int) -> tuple[torch.nn.Module, Views]:
    """What training begins with, and what it is shown."""
    if on.model == "features":
        values = on.values[on.rows]
        module = Rows(values.shape[1], settings.n_hidden, settings.turned).fit(values)
        return module, row_views(seed, settings.noise * float(module.spread))
    module = network(str(settings.network), seed=seed)
    return module, image_views(settings.embed.weak, None, settings.normalized(module), seed)


def result(on: Cars, name: str, side: str, seed: int, updates: int) -> dict[str, object]:
    """Train one side, and score the photographs of other models."""
    clock = time.process_time()
    labels, wrong = on.noisy(name)
    rows, n_classes = on.rows, int(labels.max()) + 1
    settings = settings_of(on.model, side, float(wrong.mean()), len(rows), updates)
    module, views = begun(on, settings, seed)
    chosen = rows[~wrong] if side == "clean" else rows
    trained = train_embedding(
        on.source, module, labels, n_classes, settings.embed, rows=chosen, views=views, seed=seed
    )
    said: dict[str, object] = {"noise_rate": trained.noise_rate}
    if settings.second is not None:
        stages = second_stage(
            on.source, module, trained, labels, n_classes, settings.embed, settings.second,
            rows=rows, views=begun(on, settings, seed + 1000)[1], seed=seed,
        )  # fmt: skip
        trained = stages.trained
        said |= removed(~stages.scores.keep, np.ones(len(rows)), wrong)
        said["noise_rate"] = stages.scores.noise_rate
    elif trained.filter is not None:
        judged, kept = trained.times_judged[rows], trained.times_kept[rows]
        said |= removed(judged - kept, judged, wrong)
    values = embed(trained.embedder, on.source, on.test_rows, views.clean, Runtime.start())
    return {
        **scored(on, values), **said, "true_rate": float(wrong.mean()),
        "cpu_seconds": round(time.process_time() - clock, 1),
    }  # fmt: skip


def untrained(on: Cars) -> dict[str, object]:
    """The features as they are."""
    values = on.values[on.test_rows]
    return scored(on, values / np.linalg.norm(values, axis=1, keepdims=True))


def scored(on: Cars, values: np.ndarray) -> dict[str, object]:
    found = score_retrieval(values, on.table["label"][on.test_rows].astype(np.int64))
    return {"precision_at_1": 100 * found.precision_at_1, "map_at_r": 100 * found.map_at_r}


def removed(gone: np.ndarray, judged: np.ndarray, wrong: np.ndarray) -> dict[str, object]:
    """Which share of what is removed is wrong, and which share of the wrong is removed."""
    return {
        "removal_precision": float(gone[wrong].sum() / max(1, gone.sum())),
        "removal_recall": float(gone[wrong].sum() / max(1, judged[wrong].sum())),
    }


def kept(file: Path, make: Callable[[], dict[str, object]]) -> dict[str, object]:
    """A result, made once."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        made = make()
        file.write_text(json.dumps(made))
    found: dict[str, object] = json.loads(file.read_text())
    return found


def table_of(results: list[dict]) -> None:
    """Means over seeds of each model, list and side."""
    columns = ("precision_at_1", "map_at_r", "removal_precision", "removal_recall", "noise_rate")
    print(f"\n{'model':9} {'list':17} {'side':11} {'n':>2}" + "".join(f" {c:>17}" for c in columns))
    for key in dict.fromkeys((r["model"], r["list"], r["side"]) for r in results):
        own = [r for r in results if (r["model"], r["list"], r["side"]) == key]
        line = f"{key[0]:9} {key[1]:17} {key[2]:11} {len(own):2}"
        for name in columns:
            values = [r[name] for r in own if r.get(name) is not None]
            line += f" {np.mean(values):10.3f} ±{np.std(values):5.2f}" if values else " " * 18
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with cars/")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["small"], choices=list(DECODED))
    parser.add_argument("--lists", nargs="+", default=LISTS, choices=LISTS)
    parser.add_argument("--sides", nargs="+", default=SIDES, help="also: clean")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=0, help="0: as the recipe has it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for model in options.model:
        on = cars(options.data, model, options.cache)
        if model == "features":
            results.append({"model": model, "list": "", "side": "untrained", **untrained(on)})
        for seed in options.seeds:
            for name in options.lists:
                for side in options.sides:
                    file = f"{model}-{options.updates}-{name}-{side}-{seed}.json"
                    make = partial(result, on, name, side, seed, options.updates)
                    found = kept(options.cache / file, make)
                    about = {"model": model, "list": name, "side": side, "seed": seed}
                    results.append({**about, **found})
                    print(json.dumps(results[-1]), flush=True)
    table_of(results)


if __name__ == "__main__":
    main()
