"""What an image is trained toward: its label where that is believed, a guess where it is not.

::

    mean_guess, sharpened_guess, label_guess    what the network says, from two weak views
    training_targets                            of the recipe that takes verdicts for certain
    soft_targets                                of the one that weighs them by their probability

Pure functions, and nothing here has a gradient: a target is not trained. Probabilities of half
precision become float32; float64 stays.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from labelsieve.errors import ConfigError, DataError
from labelsieve.records import Verdict


@torch.no_grad()
def mean_guess(first: Tensor, second: Tensor) -> Tensor:
    """The mean of what is said of two views of each image: (p1 + p2) / 2.

    Source: SNCF, stage B, step 1; the average over augmentations of MixMatch (D. Berthelot et al.,
    NeurIPS 2019, eq. 6) for two of them.

    Args:
        first: (B, C) probabilities.
        second: (B, C) probabilities of other views of the same images.

    Raises:
        DataError: two shapes.

    Example:
        >>> mean_guess(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]))
        tensor([[0.7500, 0.2500]])
    """
    _check_rows(first, "the first guess")
    if first.shape != second.shape:
        raise DataError(
            f"two guesses are {_shape(first)} and {_shape(second)}; expected one shape (B, C)."
        )
    return (_upcast(first) + _upcast(second)) / 2


@torch.no_grad()
def sharpened_guess(probabilities: Tensor, power: float = 2.0) -> Tensor:
    """Make the likely classes likelier: q = p^power / sum_c p_c^power.

    Source: SNCF, stage B, step 1, with tau1 = 2; MixMatch, eq. 7, where the power is 1 / T and T is
    1/2. The rows sum to 1, as in both authors' code; SNCF's poster leaves that out.

    Args:
        probabilities: (B, C), each row with a sum above 0.
        power: >= 1; 1 changes nothing.

    Returns:
        (B, C); the order of the classes of a row stays, and its entropy does not rise.

    Raises:
        ConfigError: a power below 1, which would make guesses vaguer.

    Example:
        >>> sharpened_guess(torch.tensor([[0.75, 0.25]]))
        tensor([[0.9000, 0.1000]])
    """
    _check_rows(probabilities, "the guess")
    if not power >= 1:
        raise ConfigError(f"power is {power}; expected 1 or more. SNCF and MixMatch use 2.")
    p = _upcast(probabilities)
    # Over the highest first: (1 / C)^power of many classes and a high power would be 0 in float32.
    raised = (p / p.amax(dim=1, keepdim=True)) ** power
    return raised / raised.sum(dim=1, keepdim=True)


@torch.no_grad()
def label_guess(first: Tensor, second: Tensor, power: float = 2.0) -> Tensor:
    """Which class an image has, by what the network says of two weak views of it.

    Source: SNCF, stage B, step 1: q = ((p1 + p2) / 2)^tau1, divided by its sum.

    Args:
        first: (B, C) logits.
        second: (B, C) logits of the second views.
        power: tau1, >= 1.

    Returns:
        (B, C) rows sum to 1.

    Example:
        >>> label_guess(torch.zeros(1, 4), torch.zeros(1, 4))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    _check_rows(first, "the logits of first views")
    return sharpened_guess(
        mean_guess(_upcast(first).softmax(dim=1), _upcast(second).softmax(dim=1)), power
    )


@torch.no_grad()
def training_targets(labels: Tensor, verdict: Tensor, guess: Tensor, n_classes: int) -> Tensor:
    """The given label of clean images, the guess of mislabeled ones, nothing of foreign ones.

    Source: SNCF, stage B, step 2.

    Args:
        labels: (B,) int64 as given; -1 for none.
        verdict: (B,) int, of `records.Verdict`; CLEAN, MISLABELED or FOREIGN.
        guess: (B, C) of `label_guess`.
        n_classes: C.

    Returns:
        (B, C); rows of clean and mislabeled images sum to 1, those of foreign ones are zeros: their
        cross-entropy is 0 and has no gradient. An image without label has the guess, even where it
        is called clean.

    Raises:
        DataError: lengths that do not fit.

    Example:
        >>> guess = torch.tensor([[0.2, 0.8]]).repeat(3, 1)
        >>> training_targets(torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2]), guess, 2)
        tensor([[1.0000, 0.0000],
                [0.2000, 0.8000],
                [0.0000, 0.0000]])
    """
    _check_given(labels, verdict, guess)
    if guess.shape[1] != n_classes:
        raise DataError(f"the guess is {_shape(guess)}; expected ({len(labels)}, {n_classes}).")
    known = (verdict != Verdict.FOREIGN)[:, None]
    as_given = ((verdict == Verdict.CLEAN) & (labels >= 0))[:, None]
    guess = _upcast(guess)
    return torch.where(as_given, _one_hot(labels, guess), torch.where(known, guess, 0.0))


class SoftTargets(NamedTuple):
    """What images are trained toward, and how much they count."""

    targets: Tensor  # (B, C) rows sum to 1
    weights: Tensor  # (B,) in [0, 1]: how likely an image is any of the classes


@torch.no_grad()
def soft_targets(labels: Tensor, kinds: Tensor, guess: Tensor) -> SoftTargets:
    """The label and the guess, each by how likely it is the right one; weights for foreign images.

    ``t = (clean * one_hot(y) + mislabeled * q) / (clean + mislabeled)``, with the weight
    ``clean + mislabeled``. With certain kinds these are `training_targets`. Co-refinement of
    DivideMix (J. Li et al., ICLR 2020, eq. 3) is this without foreign images; ours is the weight.

    Args:
        labels: (B,) int64 as given; -1 for none: what of such an image is called clean goes to the
            guess, as there is no label to be right.
        kinds: (B, 3) how likely an image is clean, mislabeled, foreign; rows sum to 1.
        guess: (B, C) of `label_guess`.

    Returns:
        of an image that is surely foreign, the guess with weight 0.

    Raises:
        DataError: lengths that do not fit.

    Example:
        >>> guess, kinds = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.4, 0.4, 0.2]])
        >>> soft_targets(torch.tensor([1]), kinds, guess)
        SoftTargets(targets=tensor([[0.2500, 0.7500]]), weights=tensor([0.8000]))
    """
    _check_given(labels, kinds, guess)
    if kinds.ndim != 2 or kinds.shape[1] != 3:
        raise DataError(f"kinds are {_shape(kinds)}; expected (B, 3): clean, mislabeled, foreign.")
    guess = _upcast(guess)
    clean, mislabeled = kinds[:, 0].to(guess), kinds[:, 1].to(guess)
    weights = clean + mislabeled
    right = torch.where(labels >= 0, clean, 0.0) / weights.clamp(min=torch.finfo(guess.dtype).tiny)
    return SoftTargets(torch.lerp(guess, _one_hot(labels, guess), right[:, None]), weights)


def _one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """(B, C); zeros for -1, which torch's own refuses."""
    classes = torch.arange(like.shape[1], device=like.device)
    return (labels[:, None] == classes).to(like)


def _upcast(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _check_rows(values: Tensor, name: str) -> None:
    if values.ndim != 2 or values.shape[1] == 0:
        raise DataError(f"{name} is {_shape(values)}; expected (B, C) of C >= 1 classes.")


def _check_given(labels: Tensor, known: Tensor, guess: Tensor) -> None:
    _check_rows(guess, "the guess")
    if labels.shape != guess.shape[:1] or known.shape[:1] != guess.shape[:1]:
        raise DataError(
            f"labels are {_shape(labels)}, what is known of them is {_shape(known)}, the guess is "
            f"{_shape(guess)}; expected one row an image."
        )
