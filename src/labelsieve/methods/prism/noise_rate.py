"""How much of a set is labeled wrongly, where nobody says so: for the filter and offline.

Counting the rows that are nearer another class takes classes that overlap for wrong labels: .13 for
2 %, .61 for 50 %. What tells them apart is how far the label is off. Where classes overlap, a label
is nearly as likely as the nearest; a wrong one is as unlikely as any.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from labelsieve.methods.prism.centers import Score
from labelsieve.methods.prism.leave_one_out import Centers, Space, likelihood_blocks

# Of the margins that come by chance, the lower half: lower tails tell more, but wrong labels that
# were kept pull their class's center to themselves and are missing there (rates of .35 for .50).
TAILS = (0.5,)
SURE = (2.0, 6.0)  # standard errors from which, and up to which, a filter's margins are believed
HIGHEST = 0.9  # noise rate that anything is done for
RELATIVE = np.geomspace(0.1, 4.0, 14)  # temperatures, in standard deviations over the classes
SAMPLE = 8192  # rows a rate is fitted on
MOST_LIKELIHOODS = 1 << 26  # of a fit, which is 14 exponentials each: 5,900 rows of 11,318 classes
N_SPREAD = 256  # rows whose likelihoods say how far those of classes lie apart
N_STEPS = 60  # of expectation and maximization
CONVERGED = 1e-5
N_HALVINGS = 40  # of the range that a prior is searched in
START = (0.25, 0.05)  # shares of both kinds of wrong labels that the first step assumes
TINY = 1e-12
LEAST_SKILL = 0.4  # of rightly labeled rows, share nearest their class, for confusion to be noise


class LabelFit(NamedTuple):
    """What explains the labels."""

    rate: float  # share of wrong labels
    scattered: float  # share of labels that are wrong by the look of any class; at most the rate
    temperature: float  # of the likelihoods, at which the other labels are likeliest
    nearer: float  # share of rows that lie nearer another class: more cannot be wrong


def online_noise_rate(margins: Tensor, chance: Tensor) -> float:
    """The share of wrong labels among the rows that a filter saw lately.

    Wrong labels have the margins that labels of other rows have, and right ones are hardly ever as
    low: so the share is how often margins are that low, against how often they are by chance
    (Storey's estimate of the share of nulls). Little is removed while the network knows little:
    where given labels do not suit rows clearly better than others do, the answer is near 0.

    Args:
        margins: (n,) own class's score minus the best other's.
        chance: (n,) the same for a label that was not given, such as that of another row.

    Returns:
        in [0, 0.9]; 0 without margins.

    Example:
        >>> import torch
        >>> chance = torch.linspace(0, 1, 1000)  # margins of labels that nobody gave
        >>> given = torch.cat([chance, chance + 2, chance + 2, chance + 2])
        >>> round(online_noise_rate(given, chance), 2)
        0.25
    """
    given = np.sort(margins.detach().double().cpu().numpy())
    random = np.sort(chance.detach().double().cpu().numpy())
    given, random = given[np.isfinite(given)], random[np.isfinite(random)]
    if not len(given) or not len(random):
        return 0.0
    below = np.searchsorted(random, given, "left") + np.searchsorted(random, given, "right")
    auc = below.sum() / (2 * len(given) * len(random))
    error = math.sqrt((len(given) + len(random) + 1) / (12 * len(given) * len(random)))
    belief = np.clip(((auc - 0.5) / error - SURE[0]) / (SURE[1] - SURE[0]), 0, 1)
    ends = np.quantile(random, TAILS)
    shares = np.searchsorted(given, ends, "right") / len(given)
    expected = np.searchsorted(random, ends, "right") / len(random)  # not TAILS where many tie
    return float(belief * np.clip((shares / expected).mean(), 0, HIGHEST))


def fit_labels(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    centers: Centers,
    score: Score,
    space: Space | None,
    rng: np.random.Generator,
) -> LabelFit | None:
    """Explain the labels of a sample of rows.

    A label is right, and as likely as its class is by the features at some temperature; or it is
    wrong: any other class's; or another's that rows near the same class often have. All shares and
    the temperature are those that make the labels likeliest.

    Returns:
        None where no row can be judged.
    """
    judged = (labels >= 0) & (centers.counts[labels] > centers.used)
    rows = np.flatnonzero(judged)
    n_present = int(np.count_nonzero(centers.counts))
    if not len(rows) or n_present < 2:
        return None
    n_most = min(SAMPLE, max(1, MOST_LIKELIHOODS // len(centers.counts)))
    if len(rows) > n_most:
        rows = np.sort(rng.choice(rows, n_most, replace=False))
    few = next(likelihood_blocks(features, labels, rows[:N_SPREAD], centers, score, space))
    temperatures = _spread(few.likelihoods) * RELATIVE
    found = [
        against_rest(block.likelihoods, labels[block.rows], temperatures)
        for block in likelihood_blocks(features, labels, rows, centers, score, space)
    ]
    return _explained(
        np.concatenate([each.log_odds for each in found], axis=1),
        np.concatenate([each.margin for each in found]),
        np.concatenate([each.other for each in found]),
        labels[rows], temperatures, n_present,
    )  # fmt: skip


class AgainstRest(NamedTuple):
    """The given label against all others."""

    log_odds: NDArray[np.float64]  # (T, b) that it is the likeliest, at each temperature
    margin: NDArray[np.float32]  # (b,) its likelihood minus the best other's
    nearest: NDArray[np.float32]  # (b,) the best other's likelihood
    other: NDArray[np.int64]  # (b,) the best other class
    share: NDArray[np.float64]  # (T, b) of the best other among all others, in (0, 1]


def against_rest(
    likelihoods: NDArray[np.float32],
    labels: NDArray[np.int64],
    temperatures: NDArray[np.floating],
) -> AgainstRest:
    """Weigh each row's own class against the rest, with all classes equally frequent.

    Args:
        likelihoods: (b, C) logarithms; at least one finite in each row beside the own class.
        labels: (b,) in [-1, C); without one, all classes are others, and the rest is NaN.
        temperatures: (T,) > 0, that divide them.

    Example:
        >>> found = against_rest(np.log(np.array([[2.0, 1.0, 1.0]])), np.array([0]), np.ones(1))
        >>> found.log_odds.tolist(), found.other.tolist(), found.share.round(2).tolist()
        ([[0.0]], [1], [[0.5]])
    """
    here, labeled = np.arange(len(labels)), labels >= 0
    rest = likelihoods.copy()
    rest[here[labeled], labels[labeled]] = -np.inf
    other = rest.argmax(axis=1)
    best = rest[here, other]
    margin = np.where(labeled, likelihoods[here, labels], np.nan) - best
    rest -= best[:, None]
    log_odds, share = np.empty((2, len(temperatures), len(labels)))
    scaled = np.empty_like(rest)
    for place, temperature in enumerate(temperatures):
        np.multiply(
            rest, rest.dtype.type(1 / temperature), out=scaled
        )  # float64 takes thrice as long
        total = np.exp(scaled, out=scaled).sum(axis=1, dtype=np.float64)  # >= 1
        log_odds[place] = margin / temperature - np.log(total)
        share[place] = 1 / total
    return AgainstRest(log_odds, margin, best, other, share)


def wrong_probability(log_odds: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """How likely labels are wrong, such that as many are wrong as the rate says.

    Bayes' rule with wrong labels that may be any class's, and the prior that gives the rate.

    Args:
        log_odds: (n,) that the label is right, by the features.
        rate: in [0, 1).

    Returns:
        (n,) falling with the log-odds; their mean is the rate.

    Example:
        >>> wrong_probability(np.array([-9.0, 2.0, 3.0, 4.0]), 0.25).round(2).tolist()
        [1.0, 0.0, 0.0, 0.0]
    """
    if not len(log_odds) or rate <= 0:
        return np.zeros(len(log_odds))
    low, high = float(log_odds.min()) - 40, float(log_odds.max()) + 40
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(middle - log_odds).mean() < rate else (low, middle)
    wrong: NDArray[np.float64] = expit(middle - log_odds)
    return wrong


def _spread(likelihoods: NDArray[np.float32]) -> float:
    """How much likelihoods of a row differ, typically: the unit of temperatures."""
    finite = likelihoods[:, np.isfinite(likelihoods).all(axis=0)]
    return max(float(finite.std(axis=1).mean()) if finite.shape[1] > 1 else 0.0, 1e-6)


class _Mixture(NamedTuple):
    """The shares at which labels are likeliest, at one temperature."""

    likelihood: float  # mean log-likelihood of the labels
    scattered: float  # share of wrong labels that may be any class's
    confused: float  # share of wrong labels that go with the class the row looks like
    temperature: float


def _explained(
    log_odds: NDArray[np.float64],
    margins: NDArray[np.float32],
    other: NDArray[np.int64],
    labels: NDArray[np.int64],
    temperatures: NDArray[np.float64],
    n_classes: int,
) -> LabelFit:
    """The likeliest shares and temperature; confusion only where features could tell it."""
    _, other = np.unique(other, return_inverse=True)
    _, pair = np.unique(other * (labels.max() + 1) + labels, return_inverse=True)

    def likeliest(*groups: NDArray[np.int64]) -> _Mixture:
        found = (
            _mixture(odds, n_classes, temperature, *groups)
            for odds, temperature in zip(log_odds, temperatures, strict=True)
        )
        return max(found, key=lambda each: each.likelihood)

    best = likeliest()
    scattered, nearer = best.scattered, float((margins < 0).mean())
    # Of features that find hardly any row's class, the confusions are their own.
    if 1 - nearer >= LEAST_SKILL * (1 - scattered):
        best = likeliest(other, pair)
    return LabelFit(best.scattered + best.confused, scattered, best.temperature, nearer)


def _mixture(
    log_odds: NDArray[np.float64],
    n_classes: int,
    temperature: float,
    other: NDArray[np.int64] | None = None,
    pair: NDArray[np.int64] | None = None,
) -> _Mixture:
    """Expectation and maximization of two kinds of wrong labels, or of the first alone.

    Args:
        log_odds: (n,) that the label is right, by the features.
        n_classes: that have rows.
        temperature: they are made with.
        other: (n,) the best class but the own, numbered.
        pair: (n,) that class and the label as one number.
    """
    right, wrong = expit(log_odds), np.maximum(expit(-log_odds), TINY)
    scattered, confused = START if pair is not None else (sum(START), 0.0)
    doubt = wrong
    for _ in range(N_STEPS):
        by_any = scattered * wrong / (n_classes - 1)
        by_look = confused * wrong * _usual(doubt, other, pair) if confused else 0 * wrong
        total = np.maximum(by_any + by_look + (1 - scattered - confused) * right, TINY**2)
        doubt = (by_any + by_look) / total
        before = scattered, confused
        scattered, confused = float((by_any / total).mean()), float((by_look / total).mean())
        if abs(scattered - before[0]) + abs(confused - before[1]) < CONVERGED:
            break
    return _Mixture(float(np.log(total).mean()), scattered, confused, temperature)


def _usual(
    doubt: NDArray[np.float64], other: NDArray[np.int64] | None, pair: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """(n,) share of each label among the wrong labels of rows that look the same, itself left out.

    Without leaving it out every wrong label would vouch for itself.
    """
    if other is None or pair is None:
        return np.zeros_like(doubt)
    same = np.bincount(pair, doubt)[pair] - doubt
    alike = np.bincount(other, doubt)[other] - doubt
    usual: NDArray[np.float64] = same / (alike + 1)
    return usual
