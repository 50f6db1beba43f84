"""Findings as a CSV file and as a summary for programs, and the groups that every report shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelsieve.data.decisions import DECIDED
from labelsieve.records import Findings, NoiseRate, Verdict

N_CONFUSIONS = 15  # pairs in a summary
NEARLY_NONE = 0.02  # noise of a class below which all its labels may be said to fit

MEANINGS = {
    Verdict.CLEAN: "the label fits the image",
    Verdict.MISLABELED: "another of the classes fits better",
    Verdict.FOREIGN: "none of the classes fits",
    Verdict.BROKEN: "the file cannot be read as an image",
}


@dataclass(frozen=True)
class Confusion:
    """Images of one class that look like another."""

    given: int  # class
    suggested: int  # class
    n_images: int


def summary(findings: Findings) -> dict[str, Any]:
    """The audit in figures, ready for JSON: what `--json` prints and run.json keeps."""
    copies = findings.duplicate_of >= 0
    return {
        "n_images": len(findings),
        "n_classes": len(findings.class_names),
        "n_unlabeled": int((findings.label < 0).sum()),
        "verdicts": {
            verdict.name.lower(): {
                "n_images": findings.count(verdict),
                "share": findings.count(verdict) / max(1, len(findings)),
            }
            for verdict in Verdict
        },
        "noise_rates": [
            {
                "class": rate.class_name,
                "n_images": rate.n_images,
                "mislabeled": rate.mislabeled,
                "mislabeled_interval": list(rate.mislabeled_interval),
                "foreign": rate.foreign,
                "foreign_interval": list(rate.foreign_interval),
            }
            for rate in findings.noise_rates
        ],
        "confusions": [
            {
                "label": findings.class_names[confusion.given],
                "suggestion": findings.class_names[confusion.suggested],
                "n_images": confusion.n_images,
            }
            for confusion in top_confusions(findings)
        ],
        "n_foreign_groups": len(foreign_groups(findings)),
        "n_duplicates": int(copies.sum()),
        "n_duplicate_groups": len(np.unique(findings.duplicate_of[copies])),
        "warnings": list(findings.warnings),
    }


def top_confusions(findings: Findings, n_rows: int = N_CONFUSIONS) -> list[Confusion]:
    """The most frequent pairs given -> suggested among the images called mislabeled, most first."""
    called = (findings.verdict == Verdict.MISLABELED) & (findings.label >= 0)
    called &= findings.suggestion >= 0
    return top_pairs(findings.label[called], findings.suggestion[called], n_rows)


def top_pairs(
    given: NDArray[np.int64], suggested: NDArray[np.int64], n_rows: int
) -> list[Confusion]:
    """The most frequent pairs of classes, most first; of equals, the first classes first.

    Args:
        given: (n,) classes.
        suggested: (n,) what each was taken for.
        n_rows: at most.
    """
    size = int(suggested.max(initial=0)) + 1
    pairs, counts = np.unique(given * size + suggested, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:n_rows]
    return [Confusion(*divmod(int(pairs[i]), size), int(counts[i])) for i in order]


def foreign_groups(findings: Findings) -> list[NDArray[np.int64]]:
    """The rows of each group of alike foreign images, largest group first."""
    rows = np.flatnonzero((findings.verdict == Verdict.FOREIGN) & (findings.foreign_group >= 0))
    return _grouped(rows, findings.foreign_group[rows].astype(np.int64))


def duplicate_groups(findings: Findings) -> list[NDArray[np.int64]]:
    """The rows of each group of images that repeat one another; first comes the one to keep."""
    copies = np.flatnonzero(findings.duplicate_of >= 0)
    kept = findings.duplicate_of[copies]
    return [
        np.concatenate([findings.duplicate_of[group[:1]], group])
        for group in _grouped(copies, kept)
    ]


def decided(findings: Findings) -> NDArray[np.bool_]:
    """(N,) whose verdict a person gave."""
    return np.fromiter((reason == DECIDED for reason in findings.reason), np.bool_, len(findings))


def verdict_changes(findings: Findings, before: Findings) -> dict[str, int]:
    """How many verdicts are another than before, ready for JSON: by training, or by people.

    Args:
        findings: after training.
        before: of the same images in the same order.
    """
    by_people, other = decided(findings), findings.verdict != before.verdict
    return {
        "n_decided": int(by_people.sum()),  # whether the audit had said so or not
        "n_by_people": int((by_people & other).sum()),
        "n_by_training": int((~by_people & other).sum()),
    }


def worst_classes(findings: Findings) -> list[NoiseRate]:
    """The noise rates, the class with the most of both kinds together first.

    A rate that is not known counts as none here, so that it is not taken for the worst.
    """

    def noise(rate: NoiseRate) -> float:
        kinds = ((rate.mislabeled, rate.mislabeled_interval), (rate.foreign, rate.foreign_interval))
        return sum(share for share, interval in kinds if is_known(interval))

    return sorted(findings.noise_rates, key=lambda rate: -noise(rate))


def is_known(interval: tuple[float, float]) -> bool:
    """Whether an interval says anything: one from 0 to 1 does not."""
    return interval[0] > 0 or interval[1] < 1


def every_label_fits(findings: Findings) -> bool:
    """Whether the report may say so: nothing found, no warning, and next to no noise estimated."""
    n_found = findings.count(Verdict.MISLABELED) + findings.count(Verdict.FOREIGN)
    labeled = (findings.label >= 0) & (findings.verdict != Verdict.BROKEN)
    if n_found or findings.warnings or not findings.noise_rates or not labeled.any():
        return False
    return all(
        is_known(rate.mislabeled_interval)
        and is_known(rate.foreign_interval)
        and rate.mislabeled + rate.foreign < NEARLY_NONE
        for rate in findings.noise_rates
    )


def label_agreement(findings: Findings) -> float | None:
    """The share of the given labels that are suggested too; None without any."""
    said = (findings.label >= 0) & (findings.suggestion >= 0)
    return float((findings.suggestion == findings.label)[said].mean()) if said.any() else None


def percent(share: float | None, digits: int = 1) -> str:
    """A share as text: 0.1234 is "12.3 %", what is not defined is "–".

    What would round to none or to all without being so is told apart: "< 0.1 %", "> 99.9 %".
    """
    if share is None or share != share:
        return "–"
    smallest = 10.0**-digits
    if 0 < 100 * share < smallest / 2:
        return f"< {smallest:.{digits}f} %"
    if 100 - smallest / 2 < 100 * share < 100:
        return f"> {100 - smallest:.{digits}f} %"
    return f"{100 * share:.{digits}f} %"


def _grouped(rows: NDArray[np.int64], keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of equal key together, in rising order; the largest group first, then the lowest key."""
    if not len(rows):
        return []
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    return sorted(np.split(rows[order], cuts), key=lambda group: -len(group))
