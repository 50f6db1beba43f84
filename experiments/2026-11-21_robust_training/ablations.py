"""Each ingredient of robust training on its own, on the semantic hold-out set.

    python experiments/2026-11-21_robust_training/ablations.py --data DIR --cache FOLDER
        [--seeds 0 1] [--steps 900] [--only NAME ...]

The sets, the network, the detection and the budget are those of benchmarks/semantic_holdout.py,
whose cache of detections is taken over and added to. Prints a row of a table for each change:
test accuracy of each seed, their mean, and what it is above the default; what became of the wrong
labels; CPU-s.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/")
parser.add_argument("--cache", type=Path, required=True, help="folder of what is done")
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
parser.add_argument("--steps", type=int, default=900)
parser.add_argument("--only", nargs="+", metavar="NAME", help="rows that contain one of these")

# What is changed of the default: settings of `Robust`, and words for the benchmark itself.
ROWS: dict[str, list[str]] = {
    "robust": [],
    "no contrastive loss": ["contrast_weight=0"],
    "contrast: groups in full (SNCF)": ["interpolated=false"],
    "contrast: half the weight": ["contrast_weight=0.5"],
    "strong views without cross-entropy": ["strong_weight=0"],
    "labels by the audit alone": ["evidence=audit"],
    "labels by audit and small loss in turn": ["evidence=alternate"],
    "the audit counts half in the end": ["audit_power=0.5"],
    "the audit counts for nothing in the end": ["audit_power=0"],
    "guesses sharpened": ["guess_power=2"],
    "suggestions count from the first": ["label_first=false"],
    "guesses count from the first": ["ramp=0"],
    "guesses come to count over the whole training": ["ramp=1"],
    "weights by pseudo-loss (PLS)": ["pseudo_loss=true"],
    "weights by confidence": ["confidence=1"],
    "balance penalty": ["balance_weight=0.5"],
    "mislabeled images as often as clean ones": ["mislabeled_rate=1"],
    "all images equally often": ["mislabeled_rate=1", "foreign_rate=1"],
    "hardly any foreign images": ["foreign_rate=0"],
    "the network itself guesses": ["teacher=network"],
    "no averaged weights": ["--average", "0"],
    "rate in steps": ["--schedule", "steps"],
}


def main() -> None:
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch read it
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
    sys.argv = sys.argv[:1]
    import semantic_holdout as holdout

    print("| | accuracy | mean | above the default | true class / fitted of wrong labels | CPU-s |")
    print("|---|---|---|---|---|---|")
    default = None
    for name, changes in ROWS.items():
        if options.only and not any(word in name for word in options.only):
            continue
        words = ["--data", str(options.data), "--cache", str(options.cache), "--sides", "robust"]
        words += ["--steps", str(options.steps), "--seeds", *map(str, options.seeds)]
        words += [word for change in changes if "=" in change for word in ("--set", change)]
        words += [change for change in changes if "=" not in change]
        out = options.cache / f"ablation-{os.getpid()}.json"
        sys.stdout, shown = open(os.devnull, "w"), sys.stdout  # noqa: SIM115 -- its own table
        try:
            holdout.main([*words, "--out", str(out)])
        finally:
            sys.stdout = shown
        runs = json.loads(out.read_text(encoding="utf-8"))
        out.unlink()
        means = {key: sum(run[key] for run in runs) / len(runs) for key in runs[0] if key != "side"}
        default = means["accuracy"] if name == "robust" else default
        above = "" if default is None else f"{100 * (means['accuracy'] - default):+.1f}"
        print(
            f"| {name} | {' / '.join(format(run['accuracy'], '.4f') for run in runs)} | "
            f"{means['accuracy']:.4f} | {above} | {means['true class of wrong labels']:.3f} / "
            f"{means['wrong labels fitted']:.3f} | {means['cpu s']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
