"""What each stage of an audit costs against the number of images.

    python benchmarks/stages.py --data train.parquet --label label --sizes 2000 10000 50000

Prints CPU seconds (all threads) and wall-clock seconds of each stage, and the peak memory of the
process, as rows for docs/results.md. Each size runs in a process of its own. The constants of
src/labelsieve/auditing/estimate.py are made from these rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

STAGES = ("decode", "features", "neighbors", "detect", "duplicates", "report")


def audit_some(data: str, label: str | None, size: int, device: str) -> dict[str, object]:
    """Audit some images of a set, drawn by chance, and give back the run's run.json."""
    import numpy as np

    from labelsieve.auditing.audit import Audit, Inputs, audit_into, feature_maker
    from labelsieve.data.read import read
    from labelsieve.run import Run

    images = read(data, label=label)
    size = min(size, len(images))
    rows = np.sort(np.random.default_rng(0).choice(len(images), size, replace=False))
    inputs, settings = Inputs(data, label=label, device=device), Audit()
    make = feature_maker(inputs, settings)
    with tempfile.TemporaryDirectory() as folder, Run.open(Path(folder), "audit", {}) as run:
        audit_into(run, images.take(rows), inputs, settings, make)
        return run.about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="../shared/data/cifar10/train.parquet")
    parser.add_argument("--label")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 10_000, 50_000])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        print(json.dumps(audit_some(words.data, words.label, words.one, words.device)))
        return
    print(f"| images | {' | '.join(STAGES)} | all | wall clock | peak memory |")
    print("|---" * (len(STAGES) + 4) + "|")
    for size in words.sizes:
        again = [sys.executable, __file__, "--data", words.data, "--one", str(size)]
        again += ["--device", words.device] + (["--label", words.label] if words.label else [])
        done = subprocess.run(again, capture_output=True, text=True, check=True)
        about = json.loads(done.stdout.splitlines()[-1])
        cpu = [about["timings"][stage]["cpu_seconds"] for stage in STAGES]
        wall = sum(about["timings"][stage]["seconds"] for stage in STAGES)
        shown = " | ".join(f"{seconds:.1f}" for seconds in cpu)
        memory = f"{about['peak_memory_mb']:,.0f} MB"
        print(f"| {size:,} | {shown} | {sum(cpu):.1f} | {wall:.1f} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
