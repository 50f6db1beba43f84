"""Why an image got its verdict: one plain sentence each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labelsieve.records import Neighbors, Verdict

N_ASKED = 10  # nearest images that a reason speaks of


def reasons(
    verdict: NDArray[np.int8],
    probabilities: NDArray[np.float32],
    suggestion: NDArray[np.int64],
    suggestion_probability: NDArray[np.float32],
    neighbors: Neighbors,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
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
    """
    near = labels[neighbors.indices[:, :N_ASKED]]  # (N, 10)
    n_asked = near.shape[1]
    n_same = (near == labels[:, None]).sum(axis=1)
    n_suggested = (near == suggestion[:, None]).sum(axis=1)
    found: list[str] = []
    for row, label in enumerate(labels):
        given = repr(class_names[label]) if label >= 0 else ""
        other = repr(class_names[suggestion[row]])
        clean, _, foreign = map(_percent, probabilities[row])
        wrong = probabilities[row, Verdict.MISLABELED]
        likely = _percent(suggestion_probability[row])
        if verdict[row] == Verdict.FOREIGN:
            text = f"Its {n_asked} nearest images carry {_kinds(near[row])}"
            own = f"{given} gets {clean}, " if given else ""
            found.append(f"{text}; {own}none of the classes {foreign}.")
        elif not given:
            text = f"{n_suggested[row]} of its {n_asked} nearest images are labeled {other}"
            found.append(f"{text}, which gets {likely}; it has no label itself.")
        elif verdict[row] == Verdict.MISLABELED:
            text = f"{n_suggested[row]} of its {n_asked} nearest images are labeled {other}"
            rest = f"{given} gets {clean}, {other} {likely}"
            if suggestion_probability[row] <= probabilities[row, Verdict.CLEAN]:
                rest += f", all other classes together {_percent(wrong)}"
            found.append(f"{text}; {rest}.")
        else:
            text = f"{n_same[row]} of its {n_asked} nearest images are labeled {given} as well"
            found.append(f"{text}, which gets {clean}.")
    return tuple(found)


def _kinds(labels: NDArray[np.int64]) -> str:
    """How mixed some labels are, in words."""
    _, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(counts) == 0:
        return "no labels"
    if len(counts) == 1:
        return "one label, but it lies apart from them"
    return f"{len(counts)} different labels, none more than {counts.max()} times"


def _percent(probability: float) -> str:
    """A probability in words: never 0 % or 100 %, which nothing here can be.

    Example:
        >>> _percent(0.913), _percent(0.001), _percent(0.9999)
        ('91 %', 'under 1 %', 'over 99 %')
    """
    if probability < 0.01:
        return "under 1 %"
    return "over 99 %" if probability > 0.99 else f"{probability:.0%}".replace("%", " %")
