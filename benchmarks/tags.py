"""What cleaning tags by a few verified images brings, on photographs that people tagged twice.

    python benchmarks/tags.py --data DIR --cache FOLDER [--set primary synthetic ...]
        [--features described dictionary] [--seeds 0 1 2 3 4] [--sides noisy paper ...]

DIR holds mirflickr/mirflickr64.parquet: 12,176 images of 64 pixels. Of each image 24 tags are known
as people gave them freely (wide), 14 of these as they confirmed them (strict).

  primary      wide tags are given; 1,000 random images have strict ones as verified; scores are of
               4,000 others, on their given tags of the 14; the rest is learned as given
  primary-300  the same with 300 verified images
  synthetic    strict tags are the truth, a made-up annotator gives wrong ones (`TagNoise`): about a
               third; 1,000 verified of the 7,683 in "train", scores of the 2,493 in "val"
  low-noise    the same with 5 to 40 % wrong tags of a kind, 13 % in all, and 500 verified images

  noisy, mixed, clean, misra, biases, paper, paper-pretrained, default   the recipes
  clean-long   recipe clean for 4,000 updates, not stopped: 1,000 passes over 1,000 images
  clean-longest  the same for 11,000: with 1,000 images nearly as many passes as in the paper, 3,200
  oracle       recipe noisy, told the truth of all images it learns from
  cleanlab     its filter for several tags an image, on what recipe noisy says of unlearned images

  described    patches, colors and edges (tag_features.py), 512 columns
  dictionary   dictionary features of 48 pixels, 256 columns

Features are made once, of all images and without their tags. A seed draws the split, the noise and
the networks. What a side scored is kept in FOLDER and taken from there as long as its settings are
the same; after a change of code remove its files. Printed are means over seeds, the gain over noisy
within each seed with its 95 % interval, and which of the bars are met.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.config import to_dict
from labelsieve.data.batches import of_rows
from labelsieve.data.decode import decode_images
from labelsieve.data.read import read
from labelsieve.data.tag_noise import TagNoise, annotator
from labelsieve.features.dictionary import Dictionary, Views, fit
from labelsieve.methods.veit.objectives.plain import Clean
from labelsieve.methods.veit.recipes import tag_recipe
from labelsieve.methods.veit.targets import only_rows
from labelsieve.methods.veit.trained_tagger import TrainedTagger
from labelsieve.methods.veit.training import VeitTraining, train_tagger
from labelsieve.records.tag_set import TagSet, values_at
from labelsieve.report.tag_metrics import TagScores, score_tags
from tag_bars import bars, shown, table
from tag_features import described

SETS = ("primary", "primary-300", "synthetic", "low-noise")
FEATURES = ("described", "dictionary")
SIDES = (
    "oracle", "noisy", "misra", "misra-relevance", "biases", "mixed", "clean", "clean-long",
    "clean-longest", "paper", "paper-pretrained", "default", "cleanlab",
)  # fmt: skip
LONG = {"clean-long": 4000, "clean-longest": 11_000}  # updates
N_SCORED = 4000  # images of the real sets
N_VERIFIED = {"primary": 1000, "primary-300": 300, "synthetic": 1000, "low-noise": 500}
NOISE = {"synthetic": TagNoise(), "low-noise": TagNoise(low=0.05, high=0.4)}
DICTIONARY = Dictionary(image_size=48, views=Views(in_all=75_000))
CONFUSABLE = {
    "baby": "portrait female", "bird": "sea tree", "car": "people night",
    "clouds": "sea river tree", "dog": "baby flower", "female": "male portrait",
    "flower": "tree bird", "male": "female people", "night": "people clouds",
    "people": "dog flower tree car", "portrait": "people dog male female", "river": "sea tree",
    "sea": "clouds river", "tree": "flower clouds river",
}  # fmt: skip


class Photos(NamedTuple):
    """All images, with both kinds of tags."""

    split: NDArray[np.str_]  # (N,) train, val or test
    names: tuple[str, ...]  # of the 24 wide tags
    wide: NDArray[np.int8]  # (N, 24)
    strict: NDArray[np.int8]  # (N, 24) of the tags that have a strict kind, else 0
    has_strict: NDArray[np.bool_]  # (24,)


class Case(NamedTuple):
    """One seed of one set."""

    tags: TagSet  # verified is what people say of all asserted tags; truth is of all images
    features: NDArray[np.float32]  # (N, D)
    known: NDArray[np.bool_]  # (C,) tags that the truth speaks of
    learned: NDArray[np.int64]  # rows with tags as given: T
    verified: NDArray[np.int64]  # V
    scored: NDArray[np.int64]  # E
    seed: int


def photos(data: Path) -> Photos:
    table = pq.read_table(data / "mirflickr" / "mirflickr64.parquet")
    names = tuple(name[5:] for name in table.column_names if name.startswith("wide_"))
    wide = np.stack([table[f"wide_{name}"].to_numpy() for name in names], axis=1)
    has_strict = np.array([f"strict_{name}" in table.column_names for name in names])
    strict = np.zeros_like(wide)
    for c in np.flatnonzero(has_strict):
        strict[:, c] = table[f"strict_{names[c]}"].to_numpy()
    return Photos(np.array(table["split"].to_pylist()), names, wide, strict, has_strict)


def features_of(kind: str, data: Path, cache: Path) -> NDArray[np.float32]:
    """Features of all images, made once."""
    path = cache / f"{kind}.npy"
    if not path.exists():
        clock = time.process_time()
        images = read(str(data / "mirflickr" / "mirflickr64.parquet"), label="labels_wide")
        size = 64 if kind == "described" else DICTIONARY.image_size
        pixels = np.asarray(decode_images(images, size).values)
        rows = (
            described(pixels) if kind == "described" else fit(pixels, DICTIONARY).transform(pixels)
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rows)
        seconds = time.process_time() - clock
        print(f"{kind} features of {len(rows)} images: {seconds:.0f} CPU s", flush=True)
    return np.load(path)


def case(name: str, given: Photos, features: NDArray[np.float32], seed: int) -> Case:
    rng = np.random.default_rng([0x746167, seed])
    n_verified = N_VERIFIED[name]
    if name in NOISE:
        rows = np.flatnonzero(given.split != "test")
        truth = csr_array(given.strict[rows][:, given.has_strict])
        names = tuple(np.array(given.names)[given.has_strict])
        place = {tag: c for c, tag in enumerate(names)}
        confusable = {
            place[tag]: [place[other] for other in others.split()]
            for tag, others in CONFUSABLE.items()
        }
        asserted = annotator(truth, NOISE[name], rng, confusable)
        order = rng.permutation(np.flatnonzero(given.split[rows] == "train"))
        scored = np.flatnonzero(given.split[rows] == "val")
        verified, learned = np.split(order, [n_verified])
    else:
        rows, names = np.arange(len(given.split)), given.names
        truth, asserted = csr_array(given.strict), csr_array(given.wide)
        order = rng.permutation(len(rows))
        scored, verified, learned = np.split(order, [N_SCORED, N_SCORED + n_verified])
    known = np.array([tag in CONFUSABLE for tag in names])
    said = np.where(values_at(truth, asserted) > 0, 1, -1) * known[asserted.indices]
    people = with_values(asserted, said)
    tags = TagSet(tuple(map(str, rows)), names, asserted, people, source=name, truth=truth)
    return Case(tags, features[rows], known, *map(np.sort, (learned, verified, scored)), seed)


def settings_of(side: str) -> VeitTraining:
    if side in LONG:
        return replace(tag_recipe("clean"), objective=Clean(updates=LONG[side]))
    same = {"oracle": "noisy", "cleanlab": "noisy", "misra-relevance": "misra"}
    return tag_recipe(same.get(side, side))


def told_all(on: Case) -> TagSet:
    """The truth in place of given tags, as far as it speaks of them."""
    untold = on.tags.asserted.copy()
    untold.data *= ~on.known[untold.indices]
    return replace(on.tags, asserted=csr_array(untold + on.tags.truth.astype(np.float32)))


def trained(on: Case, tags: TagSet, settings: VeitTraining) -> TrainedTagger:
    rows = np.sort(np.concatenate([on.learned, on.verified]))
    return train_tagger(
        on.features, tags, settings,
        rows=rows, verified_rows=on.verified, asked=np.arange(len(tags)), seed=on.seed,
    )  # fmt: skip


def measured(on: Case, side: str, settings: VeitTraining) -> dict[str, Any]:
    """Train a side and score it: its tagger, its cleaner, and the tags that stay."""
    clock = time.process_time()
    made = trained(on, told_all(on) if side == "oracle" else on.tags, settings)
    seconds = time.process_time() - clock
    source, scored = of_rows(on.features), on.scored
    said_by_all = made.probabilities(source, scored)  # (E, C)
    if side == "misra-relevance" and made.relevance is not None:
        with torch.no_grad():
            features = made.net.backbone(torch.from_numpy(on.features[scored]))
            said_by_all = made.relevance(features).exp().numpy()
    asked = only_rows(on.tags.verified, scored)
    place = np.zeros(len(on.tags), np.int64)
    place[scored] = np.arange(len(scored))
    rows = np.repeat(np.arange(len(on.tags)), np.diff(asked.indptr))
    tagger = said_by_all[place[rows], asked.indices]
    believed = made.said
    if side in ("oracle", "misra-relevance"):  # of which `said` is something else
        believed = np.ones(on.tags.asserted.nnz, np.float32)
        believed[values_at(asked, on.tags.asserted) != 0] = tagger
    stays = believed >= 0.5
    cleaned = [with_values(on.tags.asserted, stays)]
    if side == "cleanlab":
        cleaned = by_cleanlab(on, said_by_all)
    cleaner = believed[values_at(asked, on.tags.asserted) != 0]
    never = made.never_verified[on.tags.asserted.indices]
    truth, known = on.tags.truth, on.known
    frequency = np.bincount(on.tags.asserted.indices, minlength=on.tags.n_tags)
    scores = {
        name: score_tags(
            values, asked.indices, asked.data > 0, on.tags.tag_names,
            frequency=frequency, kept=cleaner >= 0.5,
        )
        for name, values in (("tagger", tagger), ("cleaner", cleaner))
    }  # fmt: skip
    best = max(
        (score_of(one, on, scored) for one in cleaned), key=lambda one: one.kept_full.f1 or 0.0
    )
    scores["tagger"] = scores["tagger"].against_truth(
        lambda columns: said_by_all[:, columns], truth[scored], known=known
    )
    scores["cleaner"] = replace(scores["cleaner"], kept_full=best.kept_full)
    given = score_of(on.tags.asserted, on, scored)
    return {
        **{name: one.to_dict() for name, one in scores.items()},
        "given f1": given.kept_full.f1,
        "learned f1": score_of(cleaned[0], on, on.learned).kept_full.f1,
        "never verified, kept": float(stays[never].mean()) if never.any() else None,
        "cpu s": round(seconds, 1),
        "updates": made.n_updates,
    }


def with_values(pairs: csr_array, values: NDArray) -> csr_array:
    """The pairs of a matrix where the values are not 0."""
    copied = pairs.indices.copy(), pairs.indptr.copy()  # as zeros are taken out in place
    found = csr_array((values.astype(np.int8), *copied), shape=pairs.shape)
    found.eliminate_zeros()
    return found


def score_of(kept: csr_array, on: Case, rows: NDArray[np.int64]) -> TagScores:
    """Tags that stay of some images, against the truth of all of them."""
    nothing = np.zeros(0, np.int64)
    empty = score_tags(np.zeros(0), nothing, nothing > 0, on.tags.tag_names)
    return empty.against_truth(None, on.tags.truth[rows], kept[rows], known=on.known)


def by_cleanlab(on: Case, said: NDArray[np.float32]) -> list[csr_array]:
    """Given tags of the scored images without those it calls wrong; and also with those it misses.

    The better one counts as its result.
    """
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

    given = on.tags.asserted[on.scored].toarray() > 0
    labels = [np.flatnonzero(row).tolist() for row in given]
    issues = find_multilabel_issues_per_class(labels, said.astype(np.float64), n_jobs=1)
    wrong = np.asarray(issues)  # (E, C)
    found = []
    for cleaned in (given & ~wrong, given ^ wrong):
        whole = np.zeros(on.tags.asserted.shape, np.int8)
        whole[on.scored] = cleaned
        found.append(csr_array(whole))
    return found


def kept_result(path: Path, on: Case, side: str, settings: VeitTraining) -> dict[str, Any]:
    """What a side scored, from its file if it was made with the same settings."""
    about = json.loads(json.dumps(to_dict(settings)))
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] == about:
            return found
    found = {"settings": about, **measured(on, side, settings)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")
    line = " ".join(f"{name} {value:.2f}" for name, value in figures(found).items())
    print(f"{path.stem}: {line}", flush=True)
    return found


def figures(found: Mapping[str, Any]) -> dict[str, float]:
    """What a table shows of one run, in percent."""
    tagger, cleaner = found["tagger"], found["cleaner"]
    shown = {
        "AP_all": tagger["ap_all"], "MAP": tagger["map"], "MAP_full": tagger["map_full"],
        "cleaner AP_all": cleaner["ap_all"], "cleaner MAP": cleaner["map"],
        "precision": cleaner["precision_kept_full"], "recall": cleaner["recall_kept"],
        "F1": cleaner["f1_kept_full"], "given F1": found["given f1"],
    }  # fmt: skip
    seconds = {"cpu s": found["cpu s"]}
    return {name: 100 * value for name, value in shown.items() if value is not None} | seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="with mirflickr/")
    parser.add_argument("--cache", type=Path, required=True, help="keeps features and results")
    parser.add_argument("--set", nargs="+", default=["primary"], choices=SETS)
    parser.add_argument("--features", nargs="+", default=["described"], choices=FEATURES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    given = photos(chosen.data)
    for kind in chosen.features:
        features = features_of(kind, chosen.data, chosen.cache)
        for name in chosen.set:
            runs: dict[str, dict[str, dict[str, Any]]] = {}
            for seed in chosen.seeds:
                on = case(name, given, features, seed)
                runs[str(seed)] = {
                    side: kept_result(
                        chosen.cache / f"{name}-{kind}-{seed}-{side}.json",
                        on, side, settings_of(side),
                    )
                    for side in chosen.sides
                }  # fmt: skip
            lines = [*table(f"{name}, {kind} features", runs), *shown(bars(name, kind, runs))]
            print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
