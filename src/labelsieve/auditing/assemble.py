"""What was found of the images that can be read, put together as findings of all images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelsieve.methods.detection import Detection
from labelsieve.records import Findings, ImageSet, Neighbors, Verdict

N_SHOWN = 5  # neighbors in the findings


def with_contradictions(
    detection: Detection, exact: NDArray[np.int64], labels: NDArray[np.int64], ids: Sequence[str]
) -> Detection:
    """Warn of images with the same pixels and different labels: at least one label is wrong."""
    copies = np.flatnonzero(exact >= 0)
    both = (labels[copies] >= 0) & (labels[exact[copies]] >= 0)
    wrong = copies[both & (labels[copies] != labels[exact[copies]])]
    if not len(wrong):
        return detection
    first = wrong[0]
    warning = (
        f"Pairs of images with equal pixels and different labels: {len(wrong)}, such as "
        f"{ids[first]!r} and {ids[exact[first]]!r}. One label of each pair is wrong, though both "
        "may be called clean: look at them among the duplicates."
    )
    return replace(detection, warnings=(*detection.warnings, warning))


def assemble(
    images: ImageSet,
    whole: NDArray[np.int64],
    broken: Sequence[str | None],
    detection: Detection,
    neighbors: Neighbors,
    repeats: NDArray[np.int64],
) -> Findings:
    """Findings of all images, from what was found of those that can be read."""

    def of_all(values: NDArray[Any], empty: float) -> NDArray[Any]:
        column = np.full((len(images), *values.shape[1:]), empty, values.dtype)
        column[whole] = values
        return column

    def in_set(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(rows >= 0, whole[rows], -1)

    reasons = [f"{why[:1].upper()}{why[1:]}." if why else "" for why in broken]
    for row, why in zip(whole, detection.reasons, strict=True):
        reasons[row] = why
    return Findings(
        image=images.ids,
        class_names=images.class_names,
        label=np.asarray(images.labels),
        verdict=of_all(detection.verdict, Verdict.BROKEN),
        probabilities=of_all(detection.probabilities, np.nan),
        suggestion=of_all(detection.suggestion, -1),
        suggestion_probability=of_all(detection.suggestion_probability, np.nan),
        foreign_group=of_all(detection.foreign_group, -1),
        duplicate_of=of_all(in_set(repeats), -1),
        neighbors=of_all(in_set(neighbors.indices[:, :N_SHOWN]), -1),
        reason=tuple(reasons),
        noise_rates=detection.noise_rates,
        warnings=detection.warnings,
    )
