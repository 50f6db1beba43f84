"""Why an image got its verdict: one plain sentence each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labelsieve.methods.detection import percent
from labelsieve.records import Neighbors, Verdict

N_ASKED = 10  # nearest images that a reason speaks of
LEAST_BELIEF = 0.5  # in the evidence on an image, for a reason to speak of it


def reasons(
    verdict: NDArray[np.int8],
    probabilities: NDArray[np.float32],
    suggestion: NDArray[np.int64],
    suggestion_probability: NDArray[np.float32],
    neighbors: Neighbors,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    belief: NDArray[np.float64],
) -> tuple[str, ...]:
    """One sentence an image: how its nearest images are labeled, and how likely that makes what.

    Args:
        verdict: (N,) clean, mislabeled or foreign.
        probabilities: (N, 3) of these.
        suggestion: (N,) in [0, C).
        suggestion_probability: (N,).
        neighbors: of all images.
        labels: (N,) in [-1, C).
        class_names: C names.
        belief: (N,) in [0, 1], how far the evidence on an image is believed.
    """
    near = labels[neighbors.indices[:, :N_ASKED]]  # (N, 10)
    n_asked = near.shape[1]
    n_same = (near == labels[:, None]).sum(axis=1)
    n_suggested = (near == suggestion[:, None]).sum(axis=1)
    found: list[str] = []
    for row, label in enumerate(labels):
        given = repr(class_names[label]) if label >= 0 else ""
        other = repr(class_names[suggestion[row]])
        clean, _, foreign = map(percent, probabilities[row])
        wrong = probabilities[row, Verdict.MISLABELED]
        likely = percent(suggestion_probability[row])
        if belief[row] < LEAST_BELIEF and verdict[row] == Verdict.CLEAN:
            found.append("Not judged: too little speaks for or against its label.")
        elif verdict[row] == Verdict.FOREIGN:
            text = f"Its {n_asked} nearest images carry {_kinds(near[row])}"
            own = f"{given} gets {clean}, " if given else ""
            found.append(f"{text}; {own}none of the classes {foreign}.")
        elif not given:
            text = f"{_labeled(n_suggested[row], n_asked)} {other}"
            found.append(f"{text}, which gets {likely}; it has no label itself.")
        elif verdict[row] == Verdict.MISLABELED:
            text = f"{_labeled(n_suggested[row], n_asked)} {other}"
            rest = f"{given} gets {clean}, {other} {likely}"
            if suggestion_probability[row] <= probabilities[row, Verdict.CLEAN]:
                rest += f", all but {given} together {percent(wrong)}"
            found.append(f"{text}; {rest}.")
        else:
            text = f"{_labeled(n_same[row], n_asked)} {given} as well, which gets {clean}"
            found.append(
                f"{text}." if 2 * n_same[row] > n_asked else f"{text}; no other gets more."
            )
    return tuple(found)


def _labeled(count: int, n_asked: int) -> str:
    return f"{count} of its {n_asked} nearest images {'is' if count == 1 else 'are'} labeled"


def _kinds(labels: NDArray[np.int64]) -> str:
    """How mixed some labels are, in words."""
    _, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(counts) == 0:
        return "no labels"
    if len(counts) == 1:
        return "one label, but it lies apart from them"
    return f"{len(counts)} different labels, none more than {counts.max()} times"
