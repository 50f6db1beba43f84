"""What a cleaning of tags is given: tags, what is verified of them, and what only scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from labelsieve.data.tags.read import read_tags
from labelsieve.errors import DataError
from labelsieve.records.tag_set import TagSet, compact
from labelsieve.stages.inputs import Inputs
from labelsieve.tagging.rounds import GIVEN, Before, with_earlier_answers


def sets_of(inputs: Inputs, before: Before) -> tuple[TagSet, csr_array | None]:
    """The tags as given with all that was verified, and the verified pairs that only score.

    Args:
        inputs: a run that is repeated names the run, which has its tags.
        before: the rounds before.

    Raises:
        DataError: they cannot be read, or nothing is left to learn from.
    """
    if inputs.audited is not None:
        tags = TagSet.load(Path(inputs.audited) / GIVEN)
    else:
        tags = read_tags(
            inputs.source, label=inputs.label, verified=inputs.verified, truth=inputs.truth,
            synonyms=inputs.synonyms, implies=tuple(inputs.implies), images=inputs.image_folder,
        )  # fmt: skip
    if before.tags is not None:
        tags = with_earlier_answers(tags, before.tags)
    if inputs.answers is None:
        return tags, None
    answers = answers_of(inputs, tags)
    return without_answers(tags, answers, f"--test {inputs.answers}"), answers


def answers_of(inputs: Inputs, tags: TagSet) -> csr_array:
    """Verified pairs that only score, of the images and tags of a set.

    Raises:
        DataError: they cannot be read, or none is of a tag of the set.
    """
    try:
        read = read_tags(
            inputs.source, label=inputs.label, verified=inputs.answers, synonyms=inputs.synonyms,
            implies=tuple(inputs.implies), images=inputs.image_folder,
        )  # fmt: skip
    except DataError as error:  # the reader knows one option for what is verified
        raise DataError(str(error).replace("--verified", "--test")) from error
    if read.ids != tags.ids:
        raise DataError(f"{inputs.source}: its images are others than they were. Begin anew.")
    place = {name: c for c, name in enumerate(tags.tag_names)}
    rows, columns, present = read.verified_pairs()
    number = np.array([place.get(name, -1) for name in read.tag_names], np.int64)[columns]
    known = number >= 0
    if not known.any():
        strange = f", such as {read.tag_names[int(columns[0])]!r}" if len(columns) else ""
        raise DataError(
            f"--test {inputs.answers}: none of its {len(rows)} verified pairs is of a tag of "
            f"{tags.source}{strange}. Name the same tags in both."
        )
    values = np.where(present[known], 1, -1).astype(np.int8)
    found = csr_array((values, (rows[known], number[known])), shape=tags.asserted.shape)
    return compact(found, np.int8)


def without_answers(tags: TagSet, answers: csr_array, name: str) -> TagSet:
    """Tags without what is verified of images that only score.

    Args:
        tags: with what is verified.
        answers: (N, C) that score.
        name: of these, for messages.

    Raises:
        DataError: all verified images only score.
    """
    scores = np.diff(answers.indptr) > 0
    both = scores & tags.is_verified_row
    if not both.any():
        return tags
    if both.sum() == tags.is_verified_row.sum():
        raise DataError(
            f"{name}: has all {both.sum():,} images of which tags are verified, so that nothing is "
            "left to learn from. Give other images to score on than to learn from."
        )
    kept = csr_array(tags.verified, copy=True)
    kept.data[np.repeat(scores, np.diff(kept.indptr))] = 0
    kept.eliminate_zeros()
    note = f"{both.sum():,} images with verified tags are in {name}: nothing is learned of them."
    return replace(tags, verified=kept, understood=(*tags.understood, note))
