"""How long PRISM's filter takes a step, beside the published loop and beside the full memory.

    python benchmarks/prism_filter.py [--classes 100 11318] [--batch 64 256 512]
        [--memory 10000 60000] [--dim 512] [--repeats 5] [--json FILE] [--probe]

A step is what the filter adds to one of training: score, threshold, update. All sides see the same
rows, in blocks of 4 steps in turn, in one run on one thread; a step before each block is not
counted, so that no side pays for what the one before left in the caches. Times are CPU milliseconds
a step, the median of all steps. A batch has 4 rows a class, as the authors' sampler draws them.

  loop      as the authors' code does it: the means of the classes kept in the step before are
            taken anew by scanning the memory, and each row is multiplied with the centers by
            itself. A test holds it against the traces of that code.
  full      the paper's formula before it is shortened: each row against the whole memory, in one
            product, and the sums of the classes; threshold and memory as ours
  ours      CleanFilter, score "average"

--probe instead makes unit vectors of 50 classes with known noise and prints how well the clean log
probability of each score tells right from wrong labels (area under the ROC curve), of an unfiltered
memory.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor
from torch.nn.functional import normalize

from labelsieve.features.bank import MemoryBank
from labelsieve.methods.prism.centers import (
    average_similarity,
    class_sums,
    clean_log_probability,
    margins,
)
from labelsieve.methods.prism.filter import CleanFilter, Filter
from labelsieve.methods.prism.thresholds import SmoothThreshold

RATE, WINDOW, PER_CLASS = 0.5, 30, 4  # of the authors' only configuration
BLOCK = 4  # steps in a row that are counted


class PublishedLoop:
    """The filter of the authors' code, step for step and fault for fault."""

    def __init__(self, n_classes: int, dim: int, size: int, rate: float, window: int) -> None:
        self.memory, self.labels = torch.zeros(size, dim), torch.full((size,), -1)
        self.centers, self.filled = torch.zeros(n_classes, dim), torch.zeros(n_classes).bool()
        self.rate, self.window, self.next_slot, self.n_rows = rate, window, 0, 0
        self.last_inserted: list[int] = []
        self.quantiles: list[float] = []

    def step(self, features: Tensor, labels: Tensor) -> Tensor:
        keep = self.judge(features, labels)
        self.insert(features[keep], labels[keep])
        return keep

    def judge(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B,) bool; probabilities and threshold stay in the object."""
        if not self.n_rows:
            return torch.ones_like(labels).bool()  # and no class is noted as inserted
        memory, memory_labels = self.memory[: self.n_rows], self.labels[: self.n_rows]
        for k in self.last_inserted:
            self.centers[k] = memory[memory_labels == k].mean(dim=0)
            self.filled[k] = True
        self.probabilities = torch.ones(len(features))
        for i in range(len(features)):
            label = labels[i].item()
            if self.filled[label]:
                likelihoods = (self.centers @ features[i]).exp()
                self.probabilities[i] = likelihoods[label] / (likelihoods.sum() + 1e-6)
        keep = self.cut(self.probabilities)
        self.last_inserted = labels[keep].unique().tolist()
        return keep

    def cut(self, probabilities: Tensor) -> Tensor:
        order = probabilities.argsort()
        n_removed = int(self.rate * len(order))
        quantile = probabilities[order[n_removed - 1]].item()
        if quantile != 1:
            self.quantiles = [*self.quantiles, quantile][-self.window :]
        if not self.quantiles:
            self.threshold, keep = 1.0, torch.zeros(len(order)).bool()
        else:
            self.threshold = sum(self.quantiles) / len(self.quantiles)
            keep = probabilities > self.threshold
            if keep.any():
                return keep
            self.quantiles, self.threshold = self.quantiles[-1:], quantile
        keep[order[n_removed:]] = True
        return keep

    def insert(self, features: Tensor, labels: Tensor) -> None:
        n, size = len(labels), len(self.labels)
        if self.next_slot + n > size:  # over the newest rows, and not over the oldest
            self.memory[size - n :], self.labels[size - n :] = features, labels
            self.next_slot, self.n_rows = 0, size
            return
        place = slice(self.next_slot, self.next_slot + n)
        self.memory[place], self.labels[place] = features, labels
        self.next_slot += n
        self.n_rows = max(self.n_rows, self.next_slot)


class FullMemory:
    """No centers: each row against every row of the memory."""

    def __init__(self, n_classes: int, dim: int, size: int) -> None:
        self.n_classes, self.bank = n_classes, MemoryBank(size, dim)
        self.smooth = SmoothThreshold(WINDOW)

    def step(self, features: Tensor, labels: Tensor) -> Tensor:
        # the bank's own tensors: a copy, as of read(), would be charged to this side
        similarity = average_similarity(
            features, self.bank.features, self.bank.labels, self.n_classes
        )
        scores = margins(similarity, labels, ~similarity[0].isnan())
        keep = self.smooth(scores, RATE).keep
        self.bank.exchange(features, labels, keep=keep)
        return keep


def measured(n_classes: int, size: int, batch: int, dim: int, repeats: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    memory = normalize(torch.randn(size, dim, generator=generator), dim=1)
    labels = torch.arange(size) % n_classes
    loop = PublishedLoop(n_classes, dim, size, RATE, WINDOW)
    full = FullMemory(n_classes, dim, size)
    ours = CleanFilter(n_classes, dim, size, Filter(noise_rate=RATE, window=WINDOW))
    ours.update(memory, labels)
    full.bank.push(memory, labels)
    loop.insert(memory, labels)
    sums, counts = class_sums(memory, labels, n_classes)
    loop.centers, loop.filled = sums / counts[:, None], counts > 0
    batches = []
    for _ in range(BLOCK + 1):
        classes = torch.randperm(n_classes, generator=generator)[: batch // PER_CLASS]
        given = classes.repeat_interleave(-(-batch // len(classes)))[:batch]
        batches.append((normalize(torch.randn(batch, dim, generator=generator), dim=1), given))

    def filtered(rows: Tensor, given: Tensor) -> None:
        ours.update(rows, given, ours(rows, given))

    sides = {"loop": loop.step, "full": full.step, "ours": filtered}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for rows, given in batches[:2]:  # warms up; the loop has no class to scan for in the first
        for side in sides.values():
            side(rows, given)
    for _ in range(repeats):  # in turn, so that what else runs on the machine meets all sides
        for name, side in sides.items():
            for step, (rows, given) in enumerate(batches):
                start = time.process_time()
                side(rows, given)
                if step:  # the first finds the caches as another side left them
                    times[name].append(1000 * (time.process_time() - start))
    middle = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    return {
        "classes": n_classes, "memory": size, "batch": batch, **middle,
        "loop / ours": middle["loop"] / middle["ours"],
        "full / ours": middle["full"] / middle["ours"],
    }  # fmt: skip


# ------------------------------------------------------------------ how well the scores tell


def made(case: str, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, int]:
    """Unit rows, given labels, which are wrong, number of classes: 50 x 60 rows of width 64."""
    n_classes, per_class, dim = (500, 6, 64) if "500" in case else (50, 60, 64)
    centers = normalize(torch.randn(n_classes, dim, generator=generator), dim=1)
    spread = torch.full((n_classes,), 0.16)
    if "spread" in case:  # 6 times as wide at one end as at the other
        spread = 0.08 * 6 ** torch.linspace(0, 1, n_classes)
    true = torch.arange(n_classes).repeat_interleave(per_class)
    rate = torch.full((n_classes,), 0.5 if "50 %" in case else 0.3)
    if "10-80" in case:
        rate = torch.linspace(0.1, 0.8, n_classes)[torch.randperm(n_classes, generator=generator)]
    wrong = torch.rand(len(true), generator=generator) < rate[true]
    step = torch.randint(1, n_classes, (len(true),), generator=generator)
    if "pair" in case:
        step = torch.ones_like(step)
    given = torch.where(wrong, (true + step) % n_classes, true)
    noise = torch.randn(len(true), dim, generator=generator)
    return normalize(centers[true] + spread[true, None] * noise, dim=1), given, wrong, n_classes


def area(scores: Tensor, wrong: Tensor) -> float:
    """Under the ROC curve: how often a right label scores above a wrong one."""
    ranks = scores.argsort().argsort().double() + 1
    n_right, n_wrong = int((~wrong).sum()), int(wrong.sum())
    return float((ranks[~wrong].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


CASES = ("50 %", "10-80 % by class", "30 %, spread x 6", "10-80 %, spread x 6", "pairs 30 %",
         "500 classes x 6 rows, 50 %")  # fmt: skip


def probe(case: str, seed: int = 0) -> dict[str, float]:
    """Area under the ROC curve of each score, given an unfiltered memory of the same rows."""
    rows, given, wrong, n_classes = made(case, torch.Generator().manual_seed(seed))
    sums, counts = class_sums(rows, given, n_classes)
    centers, present = sums / counts.clamp(min=1)[:, None], counts > 0
    return {
        score: area(
            clean_log_probability(rows, given, centers, present, score=score, counts=counts), wrong
        )
        for score in ("average", "cosine", "vmf")
    }


def table(rows: list[dict[str, object]]) -> None:
    print("| " + " | ".join(rows[0]) + " |")
    print("|---" * len(rows[0]) + "|")
    for row in rows:
        cells = (
            f"{value:.3g}" if isinstance(value, float) else f"{value}" for value in row.values()
        )
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 11318])
    parser.add_argument("--memory", type=int, nargs="+", default=[10_000, 60_000])
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    parser.add_argument("--probe", action="store_true", help="how well the scores tell, instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.probe:
        rows = [{"case": case, **probe(case)} for case in CASES]
    else:
        rows = [
            measured(n_classes, size, batch, options.dim, options.repeats)
            for n_classes in options.classes
            for size in options.memory
            if size >= n_classes
            for batch in options.batch
        ]
    table(rows)
    if options.json:
        options.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
