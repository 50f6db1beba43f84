"""Findings made by hand or by chance, for the tests of what goes out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelsieve.records import Findings, NoiseRate, Verdict


def made_findings(
    verdicts: Sequence[Verdict],
    label: Sequence[int],
    *,
    class_names: Sequence[str] = ("cat", "dog", "owl"),
    image: Sequence[str] | None = None,
    probabilities=None,
    suggestion: Sequence[int] | None = None,
    **columns,
) -> Findings:
    """Findings with the columns that matter to a test; the others are plain."""
    n = len(verdicts)
    verdict = np.array(verdicts, np.int8)
    if probabilities is None:
        probabilities = np.full((n, 3), 0.1)
        known = verdict != Verdict.BROKEN
        probabilities[known, verdict[known]] = 0.8
    probabilities = np.array(probabilities, np.float32).reshape(n, 3)
    probabilities[verdict == Verdict.BROKEN] = np.nan
    suggested = np.full(n, -1) if suggestion is None else np.array(suggestion, np.int64)
    plain = {
        "suggestion_probability": np.where(suggested >= 0, 0.7, np.nan).astype(np.float32),
        "foreign_group": np.full(n, -1, np.int32),
        "duplicate_of": np.full(n, -1, np.int64),
        "neighbors": np.empty((n, 0), np.int64),
        "reason": ("",) * n,
    }
    return Findings(
        image=tuple(image or (f"{i:04d}.png" for i in range(n))),
        class_names=tuple(class_names),
        label=np.array(label, np.int64),
        verdict=verdict,
        probabilities=probabilities,
        suggestion=suggested,
        **{**plain, **columns},
    )


def random_findings(n: int, n_classes: int, seed: int, **columns) -> Findings:
    """Findings of every kind, with noise rates."""
    rng = np.random.default_rng(seed)
    verdict = rng.choice(4, n, p=[0.5, 0.3, 0.18, 0.02])
    label = rng.integers(0, n_classes, n)
    suggestion = np.where(verdict == 1, (label + 1 + rng.integers(0, 3, n)) % n_classes, -1)
    names = [f"class {c}" for c in range(n_classes)]
    rates = tuple(NoiseRate(name, 10, r, (r / 2, min(1, 2 * r)), r / 3, (0, r))
                  for name, r in zip(names, rng.random(n_classes), strict=True))  # fmt: skip
    groups = np.where(verdict == 2, rng.integers(-1, 4, n), -1).astype(np.int32)
    columns = {"foreign_group": groups, "noise_rates": rates, "class_names": names, **columns}
    probabilities = rng.dirichlet(np.ones(3), n)
    return made_findings(
        [Verdict(v) for v in verdict], label.tolist(), probabilities=probabilities,
        suggestion=suggestion.tolist(), **columns,
    )  # fmt: skip
