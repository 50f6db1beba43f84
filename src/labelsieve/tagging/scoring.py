"""Scores of cleaned tags: on verified pairs that nothing was learned from, and by full truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.methods.veit.objectives.plain import Noisy
from labelsieve.methods.veit.recipes import tag_recipe
from labelsieve.methods.veit.trained_tagger import TrainedTagger
from labelsieve.methods.veit.training import VeitTraining
from labelsieve.records.tag_findings import Tagged
from labelsieve.records.tag_set import values_at
from labelsieve.report.tag_evaluation import CLEANER
from labelsieve.report.tag_metrics import TagScores, full_average_precision, score_tags
from labelsieve.tagging.job import Job, Material, train_on

NOISY, BIASES = "noisy", "biases"  # scored beside whatever is trained
MOST_DENSE = 1 << 28  # probabilities of images and tags at once: 1 GB


def compared(job: Job, material: Material) -> dict[str, TagScores]:
    """Scores of the recipes that are trained beside, and always of the honest control."""
    if job.answers is None:
        return {}
    found = {}
    for name in dict.fromkeys((BIASES, *job.wanted.compare)):
        if name not in (NOISY, job.inputs.recipe):
            trained = train_on(job, material, name, like(tag_recipe(name), job.settings.train))
            found[name] = score_tagger(job, material, trained)
    return found


def like(recipe: VeitTraining, settings: VeitTraining) -> VeitTraining:
    """A recipe with the budget and the batches of other settings, to be compared with them."""
    return replace(
        recipe,
        baseline=settings.baseline,
        updates=settings.updates,
        least_passes=settings.least_passes,
        unverified=settings.unverified,
        verified_share=settings.verified_share,
        backbone_rate=settings.backbone_rate,
        confidences=settings.confidences,
    )


def scores_of(
    job: Job,
    material: Material,
    trained: TrainedTagger,
    tagged: Tagged,
    beside: Mapping[str, TagScores],
) -> dict[str, TagScores]:
    """Of the tags as given, the control, what was compared, and last of the run's own.

    Args:
        job: of the cleaning.
        material: what was learned from.
        trained: by the run's recipe.
        tagged: what is found.
        beside: of `compared`.
    """
    recipe, kept = job.inputs.recipe, tagged.cleaned()
    found: dict[str, TagScores] = {}
    if job.answers is not None:
        noisy = replace(trained, net=trained.baseline)
        found = {NOISY: score_tagger(job, material, noisy, job.tags.asserted), **beside}
        cleaner = score_cleaner(job, material, trained, kept)
        if cleaner is not None and not isinstance(job.settings.train.objective, Noisy):
            found[f"{recipe}{CLEANER}"] = cleaner
        found.pop(recipe, None)  # the run's own is the last
        found[recipe] = score_tagger(job, material, trained, kept)
    if job.tags.truth is None:
        return found
    names = job.tags.tag_names
    nothing = score_tags(np.empty(0), np.empty(0, np.int64), np.empty(0, np.bool_), names)
    taggers = {NOISY: replace(trained, net=trained.baseline), recipe: trained}
    for name, tags in {NOISY: job.tags.asserted, recipe: kept}.items():
        scores = found.get(name) or by_truth(job, material, taggers[name], material.asked, nothing)
        of_kept = scores.against_truth(None, job.tags.truth, tags)
        found[name] = replace(of_kept, ap_full=scores.ap_full)
    return found


def score_tagger(
    job: Job, material: Material, trained: TrainedTagger, kept: csr_array | None = None
) -> TagScores:
    """What a tagger says of the pairs that only score, against what people found.

    Args:
        job: of the cleaning.
        material: what was learned from.
        trained: the tagger.
        kept: (N, C) tags of the set that stay.
    """
    assert material.answers is not None  # noqa: S101 -- scored only where there are any
    answers = material.answers
    rows = np.intersect1d(np.flatnonzero(np.diff(answers.indptr)), material.asked)
    said = trained.pair_probabilities(material.source, answers, rows)
    return by_truth(job, material, trained, rows, _scored(job, material, said, answers, kept))


def by_truth(
    job: Job,
    material: Material,
    trained: TrainedTagger,
    rows: NDArray[np.int64],
    scores: TagScores,
) -> TagScores:
    """Scores with the average precision over all of some images, where the full truth is known.

    Left out where a probability of each tag of each image would not fit into memory.

    Args:
        job: of the cleaning.
        material: what was learned from.
        trained: the tagger.
        rows: images, as rows of the source.
        scores: of the same tagger.
    """
    truth = job.tags.truth
    if truth is None or len(rows) * job.tags.n_tags > MOST_DENSE:
        return scores
    said = trained.probabilities(material.source, rows)
    in_set = rows if len(material.tags) == len(job.tags) else material.whole[rows]
    return replace(
        scores, ap_full=full_average_precision(lambda tags: said[:, tags], truth[in_set])
    )


def score_cleaner(
    job: Job, material: Material, trained: TrainedTagger, kept: csr_array
) -> TagScores | None:
    """How well a cleaner ranks asserted pairs that only score; None where there are none.

    Args:
        job: of the cleaning.
        material: what was learned from.
        trained: whose cleaner it is.
        kept: (N, C) tags of the set that stay.
    """
    assert material.answers is not None  # noqa: S101
    asserted = material.tags.asserted
    answers = csr_array(material.answers, copy=True)
    answers.data[values_at(asserted, answers) == 0] = 0
    answers.eliminate_zeros()
    if not answers.nnz:
        return None
    # one more than the probability: values_at gives 0 where nothing is stored
    found = csr_array((trained.said + 1, asserted.indices, asserted.indptr), shape=asserted.shape)
    return _scored(job, material, values_at(found, answers) - 1, answers, kept)


def _scored(
    job: Job,
    material: Material,
    said: NDArray[np.float32],
    answers: csr_array,
    kept: csr_array | None,
) -> TagScores:
    known = ~np.isnan(said)
    frequency = np.bincount(job.tags.asserted.indices, minlength=job.tags.n_tags)
    if kept is not None:
        kept = kept if len(material.tags) == len(job.tags) else csr_array(kept[material.whole])
    return score_tags(
        said[known], answers.indices[known], answers.data[known] > 0, job.tags.tag_names,
        kept=None if kept is None else values_at(kept, answers)[known] != 0,
        frequency=frequency, groups=job.groups,
    )  # fmt: skip
