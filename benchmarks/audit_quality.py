"""How well the audit tells mislabeled and foreign images, beside other ways, on human mistakes.

    python benchmarks/audit_quality.py --data DIR [--seeds 0 1 2] [--cache FOLDER] [--out FILE.json]
    python benchmarks/audit_quality.py --features NOISY.npz [--unmixed CLEAN.npz]

DIR holds cifar10/train.parquet with the labels of CIFAR-10N and ood32/ood32.parquet. A tenth of the
50,000 images is replaced by foreign ones, which keep the label of the image they replace; a seed
chooses which, and is the seed of our own methods. Features are labelsieve's dictionary features of
the mixed set; all methods get the same ones, and one fit of each serves all its measures.

A --features file has `features` (N, D), `foreign` (N,), `truth` (N,) and `worse`, `aggre` (N,);
--unmixed has `train` (N, D) and `label_train` (N,), of the same images without foreign ones.

  auroc a   mislabeled images against all others, foreign ones among them
  auroc b   mislabeled against clean images, foreign ones left out
  sugg.     truly mislabeled images that the method finds closest to their true class, called or not
  sugg. own the same among those that the method itself calls mislabeled
  ece       mean |probability - frequency| in 15 bins: clean, mislabeled, foreign
  covered   classes whose true rate lies in the 95 % interval: mislabeled, foreign
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", type=Path, help="folder with cifar10/ and ood32/")
parser.add_argument("--features", type=Path, help=".npz of one mixed set, in place of --data")
parser.add_argument("--unmixed", type=Path, help=".npz of the same images without foreign ones")
parser.add_argument("--seeds", type=int, nargs="+", default=[0])
parser.add_argument("--labels", nargs="+", default=["worse", "aggre", "clean"])
parser.add_argument("--methods", nargs="+", help="only these")
parser.add_argument("--threads", type=int, default=1, help="for all methods alike")
parser.add_argument("--cache", type=Path, help="folder that keeps the features")
parser.add_argument("--out", type=Path, help="JSON of all measures")
options = parser.parse_args()
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(options.threads)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.metrics import average_precision_score, roc_auc_score  # noqa: E402
from sklearn.model_selection import StratifiedKFold, cross_val_predict  # noqa: E402

from labelsieve.methods.sncf.detect import detect  # noqa: E402
from labelsieve.methods.sncf.evidence import neighbor_labels  # noqa: E402
from labelsieve.methods.sncf.paper import PaperDetection  # noqa: E402
from labelsieve.methods.sncf.robust import RobustDetection  # noqa: E402
from labelsieve.neighbors.knn import nearest_neighbors  # noqa: E402

torch.set_num_threads(options.threads)
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
FOREIGN_RATE = 0.1
N_BINS = 15


class Mixed(NamedTuple):
    """One set of images: what is true of them, and their features."""

    features: np.ndarray  # (N, D) unit-norm
    foreign: np.ndarray  # (N,) bool
    truth: np.ndarray  # (N,)
    labels: dict[str, np.ndarray]  # (N,) by name


class Said(NamedTuple):
    """What a method says; None where it does not speak of it."""

    mislabeled: np.ndarray | None  # (N,) higher is more so
    foreign: np.ndarray | None
    suggestion: np.ndarray | None  # (N,)
    called: np.ndarray | None  # (N,) bool: mislabeled
    called_foreign: np.ndarray | None = None
    probabilities: np.ndarray | None = None  # (N, 3)
    rates: tuple[Any, ...] = ()


def ours(settings):
    def method(mixed, labels, neighbors, seed):
        found = detect(mixed.features, neighbors, labels, CLASSES, settings, seed=seed)
        p = found.probabilities
        calibrated = isinstance(settings, RobustDetection)
        return Said(
            p[:, 1], p[:, 2], found.closest, found.verdict == 1, found.verdict == 2,
            p if calibrated else None, found.noise_rates,
        )  # fmt: skip

    return method


def cleanlab(mixed, labels, neighbors, seed):
    """cleanlab with 5-fold logistic regression, and the better of its foreign scores."""
    from cleanlab.filter import find_label_issues
    from cleanlab.outlier import OutOfDistribution
    from cleanlab.rank import get_label_quality_scores

    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    classifier = LogisticRegression(max_iter=1000)
    p = cross_val_predict(classifier, mixed.features, labels, cv=folds, method="predict_proba")
    quality = get_label_quality_scores(labels, p, method="self_confidence")
    scores = [
        -OutOfDistribution().fit_score(pred_probs=p, labels=labels, verbose=False),
        -OutOfDistribution().fit_score(features=mixed.features, verbose=False),
    ]
    better = scores[0]
    if mixed.foreign.any():  # the rival is given the better of its two scores
        better = max(scores, key=lambda score: roc_auc_score(mixed.foreign, score))
    return Said(-quality, better, p.argmax(axis=1), find_label_issues(labels, p, n_jobs=1))


def disagreement(mixed, labels, neighbors, seed):
    """Share of the 50 nearest images with another label, weighted by similarity cubed."""
    shares = neighbor_labels(neighbors, labels, len(CLASSES))
    own = shares[np.arange(len(labels)), labels]
    far = 1 - neighbors.similarities.mean(axis=1)
    return Said(1 - own, far, shares.argmax(axis=1), None)


def selfclean(mixed, labels, neighbors, seed):
    """SelfClean's label errors (Groeger et al., NeurIPS 2024): nearest same and nearest other.

    score = d_same^2 / (d_same^2 + d_other^2) with cosine distances, higher for errors.
    """
    order = np.argsort(labels, kind="stable")
    columns, starts = mixed.features[order].T, np.searchsorted(labels[order], range(len(CLASSES)))
    nearest = np.empty((len(labels), len(CLASSES)), np.float32)
    place = np.argsort(order)
    for first in range(0, len(labels), 1000):
        block = mixed.features[first : first + 1000] @ columns
        rows = np.arange(len(block))
        block[rows, place[first : first + 1000]] = -1  # not its own neighbor
        nearest[first : first + 1000] = np.maximum.reduceat(block, starts, axis=1)
    rows = np.arange(len(labels))
    same = (1 - nearest[rows, labels]).clip(1e-6) ** 2
    nearest[rows, labels] = -1
    other = (1 - nearest.max(axis=1)).clip(1e-6) ** 2
    return Said(same / (same + other), None, nearest.argmax(axis=1), None)


METHODS = {
    "robust": ours(RobustDetection()),
    "paper": ours(PaperDetection()),
    "cleanlab": cleanlab,
    "kNN": disagreement,
    "SelfClean": selfclean,
}


def measure(said: Said, mixed: Mixed, labels: np.ndarray) -> dict[str, Any]:
    """All measures of one method on one set."""
    wrong = (labels != mixed.truth) & ~mixed.foreign
    known = ~mixed.foreign
    found: dict[str, Any] = {}
    if wrong.any():
        found["auroc a"] = roc_auc_score(wrong, said.mislabeled)
        found["ap a"] = average_precision_score(wrong, said.mislabeled)
        found["auroc b"] = roc_auc_score(wrong[known], said.mislabeled[known])
        found["ap b"] = average_precision_score(wrong[known], said.mislabeled[known])
        right = said.suggestion == mixed.truth
        found["sugg."] = right[wrong].mean()
        if said.called is not None:
            found["sugg. own"] = right[wrong & said.called].mean()
    if mixed.foreign.any() and said.foreign is not None:
        found["foreign"] = roc_auc_score(mixed.foreign, said.foreign)
        found["ap f"] = average_precision_score(mixed.foreign, said.foreign)
    if said.called is not None:
        found["calls"] = int(said.called.sum())
        found["prec."] = wrong[said.called].mean() if said.called.any() else None
    if said.called_foreign is not None:
        found["f calls"] = int(said.called_foreign.sum())
        if said.called_foreign.any():
            found["f prec."] = mixed.foreign[said.called_foreign].mean()
    if said.probabilities is not None:
        kinds = np.stack([known & ~wrong, wrong, mixed.foreign], axis=1)
        pairs = zip(said.probabilities.T, kinds.T, strict=True)
        found["ece"] = [calibration_error(p, true) for p, true in pairs]
        found["covered"] = coverage(said.rates, labels, wrong, mixed.foreign)
    return found


def calibration_error(p, true):
    bins = np.minimum((p * N_BINS).astype(int), N_BINS - 1)
    gaps = [abs(p[bins == b].sum() - true[bins == b].sum()) for b in range(N_BINS)]
    return float(sum(gaps) / len(p))


def coverage(rates, labels, wrong, foreign):
    """Of the classes, those whose true rate lies within its interval."""

    def inside(kind, interval):
        truths = [kind[labels == CLASSES.index(rate.class_name)].mean() for rate in rates]
        ends = [getattr(rate, interval) for rate in rates]
        return float(np.mean([a <= t <= b for t, (a, b) in zip(truths, ends, strict=True)]))

    return [inside(wrong, "mislabeled_interval"), inside(foreign, "foreign_interval")]


def read_npz(path: Path, unmixed: Path | None) -> dict[str, Mixed]:
    with np.load(path) as arrays:
        labels = {name: arrays[name] for name in ("worse", "aggre") if name in arrays}
        labels["clean"] = arrays["truth"]
        mixed = Mixed(arrays["features"], arrays["foreign"], arrays["truth"], labels)
    if unmixed is None:
        return {"mixed": mixed}
    with np.load(unmixed) as arrays:
        features, truth = arrays["train"], arrays["label_train"]
    none = np.zeros(len(truth), bool)
    return {"mixed": mixed, "unmixed": Mixed(features, none, truth, {**labels, "clean": truth})}


def make(data: Path, seed: int, cache: Path | None) -> dict[str, Mixed]:
    """The mixed set of a seed and the unmixed one, with dictionary features of each."""
    import pyarrow.parquet as pq

    from labelsieve.data.decode import decode_images
    from labelsieve.data.read import read
    from labelsieve.features.dictionary import Dictionary, fit

    names = {"clean": "label", "worse": "cifar10n_worse", "aggre": "cifar10n_aggre"}
    path = data / "cifar10" / "train.parquet"
    table = pq.read_table(path, columns=list(names.values()))
    labels = {name: table[column].to_numpy().astype(np.int64) for name, column in names.items()}
    size = Dictionary().image_size
    images = decode_images(read(str(path), label="label"), size).values
    pool = data / "ood32" / "ood32.parquet"
    overlap = pq.read_table(pool, columns=["cifar10_overlap"])["cifar10_overlap"].to_pylist()
    usable = np.flatnonzero([not name for name in overlap])
    strangers = decode_images(read(str(pool), label="class_name"), size).values
    rng = np.random.default_rng(seed)
    replaced = rng.permutation(len(images))[: round(FOREIGN_RATE * len(images))]
    foreign = np.zeros(len(images), bool)
    foreign[replaced] = True
    pixels = {"unmixed": images, "mixed": images.copy()}
    pixels["mixed"][replaced] = strangers[rng.choice(usable, len(replaced), replace=False)]
    sets = {}
    for kind in ("mixed", "unmixed"):
        file = cache / f"{Dictionary().digest()}-{kind}-{seed}.npy" if cache else None
        if file is not None and file.exists():
            features = np.load(file)
        else:
            features = fit(pixels[kind], Dictionary(), seed=seed).transform(pixels[kind])
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, features)
        there = foreign if kind == "mixed" else np.zeros_like(foreign)
        sets[kind] = Mixed(features, there, labels["clean"], labels)
    return sets


def runs(sets: dict[str, Mixed], seed: int):
    """Each method on each labeling of the mixed set, and on clean labels of the unmixed one."""
    for kind, mixed in sets.items():
        clock = time.process_time()
        neighbors = nearest_neighbors(mixed.features, 50)
        print(
            f"{kind}, seed {seed}: neighbors in {time.process_time() - clock:.0f} CPU-s", flush=True
        )
        for labeling in options.labels if kind == "mixed" else ["clean"]:
            labels = mixed.labels[labeling]
            for name in options.methods or METHODS:
                clock = time.process_time()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of the rivals' libraries
                    said = METHODS[name](mixed, labels, neighbors, seed)
                found = measure(said, mixed, labels)
                found["cpu s"] = time.process_time() - clock
                case = labeling if kind == "mixed" else f"{labeling}, none foreign"
                print(row(case, name, found), flush=True)
                yield {"seed": seed, "case": case, "method": name, **found}


def row(case: str, name: str, found: dict[str, Any]) -> str:
    def show(value):
        if isinstance(value, list):
            return "/".join(f"{v:.3f}".lstrip("0") for v in value)
        return f"{value:.4f}".lstrip("0") if value < 1 else f"{value:,.0f}"

    cells = [f"{key} {show(value)}" for key, value in found.items() if value is not None]
    return f"{case:20} {name:10} " + "  ".join(cells)


def summary(results: list[dict[str, Any]]) -> None:
    """Mean and standard deviation over seeds, then the bars."""
    print(f"\nmean ± std over {len({r['seed'] for r in results})} seed(s)")
    means: dict[tuple[str, str], dict[str, Any]] = {}
    for key in dict.fromkeys((r["case"], r["method"]) for r in results):
        mine = [r for r in results if (r["case"], r["method"]) == key]
        names = [n for n, v in mine[0].items() if isinstance(v, (int, float)) and n != "seed"]
        values = {n: np.array([r[n] for r in mine], float) for n in names}
        means[key] = {n: float(v.mean()) for n, v in values.items()}
        text = [f"{n} {v.mean():.4g} ± {v.std():.2g}" for n, v in values.items()]
        print(f"{key[0]:20} {key[1]:10} " + "  ".join(text))
    print("\nbars: robust against the others")
    for case in dict.fromkeys(case for case, _ in means):
        bars(case, {method: found for (c, method), found in means.items() if c == case})


def bars(case: str, found: dict[str, dict[str, float]]) -> None:
    if "robust" not in found or "cleanlab" not in found:
        return
    mine, lab = found["robust"], found["cleanlab"]
    others = {name: each for name, each in found.items() if name not in ("robust", "paper")}
    for measure_name in ("auroc a", "auroc b", "ap a", "ap b"):
        if measure_name in mine:
            best = max(others, key=lambda name: others[name][measure_name])
            tell(case, measure_name, mine[measure_name] - lab[measure_name], 0.02, "cleanlab")
            tell(case, measure_name, mine[measure_name] - others[best][measure_name], 0, best)
    if "sugg." in mine:
        tell(case, "sugg.", mine["sugg."] - lab["sugg."], 0.03, "cleanlab")
    if "foreign" in mine:
        tell(case, "foreign", mine["foreign"] - lab["foreign"], 0, "cleanlab")
    if case.startswith("clean"):
        tell(case, "calls", 1.02 * lab["calls"] - mine["calls"], 0, "1.02 of cleanlab's")


def tell(case: str, what: str, margin: float, least: float, rival: str) -> None:
    word = "met" if margin >= least else "MISSED"
    print(f"  {word:6} {case:20} {what:8} {margin:+.4g} against {rival} (at least {least:+g})")


def main() -> None:
    results = []
    if options.features is not None:
        for seed in options.seeds:
            results += runs(read_npz(options.features, options.unmixed), seed)
    elif options.data is not None:
        for seed in options.seeds:
            results += runs(make(options.data, seed, options.cache), seed)
    else:
        parser.error("give --data or --features")
    summary(results)
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1, default=float), encoding="utf-8")


if __name__ == "__main__":
    main()
