"""What is believed of the images once a classifier has learned from them.

A classifier sees all images of a class at once, and so tells more than the neighbors of each. But
it has also seen the labels, and may have memorized wrong ones: nothing that it says is taken at its
word. What it gives to labels is read on the scale of the audit: how often labels that get as much
are wrong, as far as the audit knows. A classifier that has memorized its labels gives all of them
the same, so that this is one number for all, and changes nothing.

Bayes' rule, as in `posterior.py`, would need predictions by networks that never saw the label. With
predictions on images that were trained on it counts labels twice: on CIFAR-10N (worse) it found 42
to 59 % of the wrong labels, where audits and this find 64 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.detection import percent
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.pool import calibrated, reordered
from labelsieve.records import Findings, NoiseRate, Verdict

_BLOCK = 1 << 14  # rows at a time: probabilities of 1.28 million images x 1,000 are not copied


@dataclass(frozen=True)
class Refine:
    """How much a trained classifier is heard beside the audit: 0 not at all, 1 it alone.

    Chosen by heads on the features of the audit itself, of CIFAR-10 with human mistakes and with
    foreign images: beyond 1/3 those trained without care for wrong labels did harm. A network on
    the images is a better witness: of 20,000 of them with 41 % wrong labels (CIFAR-10N, worse), the
    AUROC of mislabeled ones rose from .890 to .903 at 0.25, and to .914 at 0.5.
    """

    weight: float = 0.25  # in [0, 1]

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"weight is {self.weight}; expected 0 to 1.")


def refined(
    beliefs: Beliefs,
    probabilities: NDArray[np.float32],
    rows: NDArray[np.int64] | None = None,
    settings: Refine = Refine(),
) -> Beliefs:
    """What is believed when audit and classifier are both heard.

    The probabilities of the audit are dealt out anew (`reordered`), as what the classifier says
    changes their order: of "mislabeled" if an image is one of the classes, by how little it gives
    the label; of "foreign", by how torn it is (the entropy of its answer). So the classifier says
    which images, and the audit how many.

    What a person decided stays as it is. Images without a label have none to be wrong: of them only
    "foreign" and the suggestion change.

    Args:
        beliefs: of N images, before training.
        probabilities: (M, C) what the trained classifier says of images that it learned from.
        rows: (M,) which images these are; all N by default. Others keep what was believed.
        settings: of the weight.

    Returns:
        of all N images. The suggestion is the label where it is called right, else the class that
        is likeliest by audit and classifier together, the label left out where it is called wrong.

    Raises:
        DataError: probabilities of another shape, or that are none.
    """
    rows = np.arange(len(beliefs)) if rows is None else rows
    _check(beliefs, probabilities, rows)
    heard = np.flatnonzero(~beliefs.certain[rows])
    if not len(heard):
        return beliefs
    rows = rows[heard]
    labels, before = beliefs.labels[rows], beliefs.kinds[rows].astype(np.float64)
    of_wrong = beliefs.suggestion_probability[rows] / np.maximum(
        before[:, Verdict.MISLABELED], 1e-6
    )
    said = _said(probabilities, heard, labels, beliefs.suggestion[rows], np.minimum(of_wrong, 1))

    wrong = _wrong(before, labels, said.of_label, settings.weight)
    foreign = before[:, Verdict.FOREIGN]
    scaled = calibrated(said.entropy, foreign, np.ones(len(foreign)))
    foreign = reordered(foreign, scaled, settings.weight)
    kinds = np.stack([(1 - foreign) * (1 - wrong), (1 - foreign) * wrong, foreign], axis=1)
    return _with_kinds(beliefs, rows, kinds, said)


def refined_findings(
    findings: Findings,
    beliefs: Beliefs,
    probabilities: NDArray[np.float32],
    rows: NDArray[np.int64] | None = None,
    settings: Refine = Refine(),
) -> Findings:
    """Findings with what is believed after training: verdicts, suggestions, reasons, noise rates.

    Args:
        findings: of N images, before training, what people decided among them.
        beliefs: the same, as the classifier was trained on them.
        probabilities: (M, C) what the classifier says of images that it learned from.
        rows: (M,) which images these are; all N by default. Of others, broken ones among them,
            and of those that a person decided, the findings stay.
        settings: of the weight.

    Raises:
        DataError: as in `refined`.
    """
    rows = np.arange(len(beliefs)) if rows is None else rows
    after = refined(beliefs, probabilities, rows, settings)
    heard = np.flatnonzero(~beliefs.certain[rows] & (findings.verdict[rows] != Verdict.BROKEN))
    rows = rows[heard]
    kinds = after.kinds[rows]
    unlabeled = findings.label[rows] < 0  # in findings they are clean or foreign
    kinds[unlabeled, Verdict.CLEAN] += kinds[unlabeled, Verdict.MISLABELED]
    kinds[unlabeled, Verdict.MISLABELED] = 0
    columns = {
        name: getattr(findings, name).copy()
        for name in ("verdict", "probabilities", "suggestion", "suggestion_probability",
                     "foreign_group")
    }  # fmt: skip
    columns["probabilities"][rows] = kinds
    columns["verdict"][rows] = kinds.argmax(axis=1)
    for name in ("suggestion", "suggestion_probability", "foreign_group"):
        columns[name][rows] = getattr(after, name)[rows]
    reasons = list(findings.reason)
    for first in range(0, len(rows), _BLOCK):
        block = slice(first, first + _BLOCK)
        places = rows[block].tolist()
        said = refined_reasons(
            [findings.reason[row] for row in places], findings.label[places], kinds[block],
            probabilities[heard[block]], findings.class_names,
        )  # fmt: skip
        for row, reason in zip(places, said, strict=True):
            reasons[row] = reason
    found = replace(findings, **columns, reason=tuple(reasons))
    return replace(found, noise_rates=refined_rates(found))


def refined_rates(findings: Findings) -> tuple[NoiseRate, ...]:
    """Noise rates by the probabilities that the findings have now.

    A rate is the mean probability. What is left in doubt is what the audit said, which is not less
    sure because a classifier agrees that has learned from it: its interval stays, and is widened
    where the new rate lies outside.
    """
    rates = []
    names = {name: c for c, name in enumerate(findings.class_names)}
    read = findings.verdict != Verdict.BROKEN
    for rate in findings.noise_rates:
        rows = np.flatnonzero((findings.label == names[rate.class_name]) & read)
        if not len(rows):
            rates.append(rate)
            continue
        _, wrong, foreign = findings.probabilities[rows].mean(axis=0, dtype=np.float64).tolist()
        rates.append(
            NoiseRate(
                rate.class_name, rate.n_images,
                wrong, _with(rate.mislabeled_interval, wrong),
                foreign, _with(rate.foreign_interval, foreign),
            )
        )  # fmt: skip
    return tuple(rates)


def refined_reasons(
    before: Sequence[str],
    labels: NDArray[np.int64],
    kinds: NDArray[np.float32],
    probabilities: NDArray[np.float32],
    class_names: Sequence[str],
) -> list[str]:
    """What the audit said of each image, what the classifier says, and what follows from both.

    Args:
        before: M sentences of the audit.
        labels: (M,) as given, -1 none.
        kinds: (M, 3) clean, mislabeled, foreign, after training.
        probabilities: (M, C) of the classifier.
        class_names: C names.
    """
    likeliest = probabilities.argmax(axis=1)
    found = []
    for m, (reason, label, best) in enumerate(
        zip(before, labels.tolist(), likeliest.tolist(), strict=True)
    ):
        said = f"The trained classifier gives {class_names[best]!r} {_part(probabilities[m, best])}"
        if label >= 0 and best != label:
            said += f" and {class_names[label]!r} {_part(probabilities[m, label])}"
        verdict = Verdict(int(kinds[m].argmax()))
        if label >= 0 or verdict == Verdict.FOREIGN:
            said += f"; together, {_SAID[verdict]}: {percent(float(kinds[m, verdict]))}"
        found.append(f"{reason} {said}.".strip())
    return found


_SAID = {
    Verdict.CLEAN: "the label is right",
    Verdict.MISLABELED: "the label is wrong",
    Verdict.FOREIGN: "none of the classes",
}


class _Said(NamedTuple):
    """What the classifier says of each of M images, beside what the audit suggested."""

    of_label: NDArray[np.float64]  # (M,) probability of the given label; NaN without one
    entropy: NDArray[np.float64]  # (M,) nats
    above: NDArray[np.bool_]  # (M,) the label is likelier than any other, by both
    other: NDArray[np.int64]  # (M,) the likeliest class but the label, by both
    share: NDArray[np.float64]  # (M,) of `other` among all classes but the label


def _said(
    probabilities: NDArray[np.float32],
    heard: NDArray[np.int64],
    labels: NDArray[np.int64],
    suggestion: NDArray[np.int64],
    chance: NDArray[np.float64],
) -> _Said:
    """Which class is right if the label is not: what the audit says, times the root of the other.

    Roots, as the classifier is too sure of what it has learned from.

    Args:
        probabilities: of the classifier, C columns.
        heard: (M,) which of their rows.
        labels: (M,) -1 none.
        suggestion: (M,) of the audit; one that is the label, as of clean images, says nothing of
            the other classes.
        chance: (M,) that the suggestion is right, if the label is not; what it leaves, it leaves to
            all classes alike.
    """
    parts = []
    n_classes = probabilities.shape[1]
    for first in range(0, len(labels), _BLOCK):
        block = slice(first, first + _BLOCK)
        said = probabilities[heard[block]].astype(np.float64)
        log_p = np.log(np.maximum(said, 1e-6))  # (B, C)
        rows, given = np.arange(len(log_p)), labels[block]
        entropy = -(np.exp(log_p) * log_p).sum(axis=1)
        of_label = np.where(given >= 0, np.exp(log_p[rows, given]), np.nan)
        proposed = np.flatnonzero((suggestion[block] >= 0) & (suggestion[block] != given))
        likely = np.maximum(chance[block][proposed], 0.01)
        rest = np.maximum((1 - likely) / max(n_classes - 2, 1), 0.01)
        log_p[proposed, suggestion[block][proposed]] += 2 * np.log(likely / rest)
        of_given = np.where(given >= 0, log_p[rows, given], -np.inf)
        log_p[rows[given >= 0], given[given >= 0]] = -np.inf
        other = log_p.argmax(axis=1)
        best = log_p[rows, other]
        share = 1 / np.exp((log_p - best[:, None]) / 2).sum(axis=1)
        parts.append((of_label, entropy, of_given >= best, other, share))
    return _Said(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _wrong(
    kinds: NDArray[np.float64],
    labels: NDArray[np.int64],
    of_label: NDArray[np.float64],
    weight: float,
) -> NDArray[np.float64]:
    """(M,) how likely the label of an image is wrong if it is one of the classes; 1 without one."""
    wrong = np.ones(len(labels))
    labeled = np.flatnonzero(labels >= 0)
    known = kinds[labeled, Verdict.CLEAN] + kinds[labeled, Verdict.MISLABELED]
    if not known.any():
        wrong[labeled] = 0
        return wrong
    of_known = kinds[labeled, Verdict.MISLABELED] / np.where(known > 0, known, 1)
    scaled = calibrated(1 - of_label[labeled], of_known, known)
    judged = known > 0
    dealt = reordered(of_known[judged], scaled[judged], weight)
    scaled[judged] = dealt
    wrong[labeled] = scaled
    return wrong


def _with_kinds(
    beliefs: Beliefs, rows: NDArray[np.int64], kinds: NDArray[np.float64], said: _Said
) -> Beliefs:
    """Beliefs with new kinds of some images, and the suggestions that go with them."""
    labels = beliefs.labels[rows]
    verdict = kinds.argmax(axis=1)
    of_other = kinds[:, Verdict.MISLABELED] * said.share
    right = kinds[:, Verdict.CLEAN]
    keeps = (verdict == Verdict.CLEAN) | ((verdict == Verdict.FOREIGN) & said.above)
    keeps &= labels >= 0
    columns = {
        name: getattr(beliefs, name).copy()
        for name in ("kinds", "suggestion", "suggestion_probability", "foreign_group")
    }
    columns["kinds"][rows] = kinds
    columns["suggestion"][rows] = np.where(keeps, labels, said.other)
    columns["suggestion_probability"][rows] = np.where(keeps, right, of_other)
    columns["foreign_group"][rows[verdict != Verdict.FOREIGN]] = -1
    return replace(beliefs, **columns)


def _check(beliefs: Beliefs, probabilities: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    most = int(beliefs.labels.max(initial=-1))
    if probabilities.ndim != 2 or len(probabilities) != len(rows) or probabilities.shape[1] <= most:
        raise DataError(
            f"probabilities are {probabilities.shape}; expected one row for each of {len(rows)} "
            f"images and a column for each of {most + 1} classes or more."
        )
    if probabilities.shape[1] < 2:
        raise DataError("probabilities of one class only; a label can be doubted between two.")
    if not np.all(np.abs(probabilities.sum(axis=1) - 1) < 1e-3):  # also where one is NaN
        raise DataError(
            "probabilities of the classes sum to 1 for each image; of these some do not. Give what "
            "the classifier says after a softmax."
        )


def _part(probability: np.float32) -> str:
    return percent(float(probability))


def _with(interval: tuple[float, float], rate: float) -> tuple[float, float]:
    return min(interval[0], rate), max(interval[1], rate)
