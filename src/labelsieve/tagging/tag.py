"""Tags: clean many noisy ones by a few that people verified, and train a tagger.

read -> decode -> features -> train -> [others to compare with] -> thresholds -> tags -> report
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.config import to_dict
from labelsieve.errors import ConfigError, DataError
from labelsieve.loop.runtime import n_launched
from labelsieve.methods.veit.objectives.misra import Misra
from labelsieve.methods.veit.objectives.plain import Noisy
from labelsieve.methods.veit.thresholds import Basis, TagThresholds, tag_thresholds
from labelsieve.methods.veit.trained_tagger import TrainedTagger
from labelsieve.methods.veit.verify import Suggestions, suggest
from labelsieve.records import Features
from labelsieve.records.tag_findings import Pairs, Tagged
from labelsieve.records.tag_set import TagSet, compact
from labelsieve.report.tag_breakdowns import read_groups
from labelsieve.report.tag_page import QUESTIONS_FILE
from labelsieve.report.tag_reliability import false_positive_share, reliability
from labelsieve.report.tag_rows import TagRow, tag_rows
from labelsieve.run import Run, read_run
from labelsieve.stages.inputs import Inputs, Progress, check_device, recorded, silent, stamps
from labelsieve.stages.representation import FeatureMaker
from labelsieve.stages.trained import Trained
from labelsieve.tagging.job import (
    Job,
    Material,
    given_network,
    maker_of,
    material_of_images,
    material_of_rows,
    train_on,
)
from labelsieve.tagging.kept import keep_tagger
from labelsieve.tagging.model import TagModel
from labelsieve.tagging.rounds import (
    GIVEN,
    Before,
    counted,
    rounds_before,
    take_over,
)
from labelsieve.tagging.scoring import compared, scores_of
from labelsieve.tagging.sets import sets_of, without_answers
from labelsieve.tagging.settings import Tag, Wanted, recipe_of, tagging_recipe
from labelsieve.tagging.written import Cleaned, shown_questions, write_cleaned

_MEMORY = "given"  # stands for a file of features where there are features in memory
_VALUES = 4 << 20  # of a block's probabilities: 16 MB


class Verified(NamedTuple):
    """Asserted pairs that people verified, with what is said of them by who did not learn them."""

    said: NDArray[np.float32]  # (V,)
    tags: NDArray[np.int64]  # (V,)
    present: NDArray[np.bool_]  # (V,)


def tag(
    tags: TagSet,
    settings: Tag | None = None,
    *,
    features: Features | None = None,
    network: str | Path | None = None,
    answers: csr_array | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TagModel:
    """Clean noisy tags by those that are verified, and train a tagger.

    Args:
        tags: from `read_tags`.
        settings: `tagging_recipe("default")` unless given.
        features: one row for each image; made from its images unless given.
        network: the folder of a trained one: of the features, or to learn along.
        answers: (N, C) +1 and -1 of verified pairs that are only to score by; nothing is learned
            of their images.
        seed: of every random choice.
        device: "cpu", "cuda", ...
        progress: called with (stage, done, total).

    Raises:
        DataError: there are neither images nor features, or hardly an image that can be read.
        ConfigError: a network is to learn along, and none is named.

    Example:
        >>> import labelsieve as ls
        >>> tags = ls.read_tags("photos.csv", verified="checked.csv")  # doctest: +SKIP
        >>> ls.tag(tags).tagged.write("tags.csv")  # doctest: +SKIP
    """
    settings = settings or tagging_recipe()
    inputs = Inputs(
        tags.source, seed=seed, device=device, recipe=recipe_of(settings),
        features=None if features is None else _MEMORY,
        network=None if network is None else str(network),
    )  # fmt: skip
    given = given_network(inputs, settings)
    make = maker_of(tags, replace(inputs, features=None), settings) if features is None else None
    if answers is not None:
        if answers.shape != tags.asserted.shape:
            raise DataError(
                f"answers of shape {answers.shape} for tags of {tags.asserted.shape}; expected a "
                "row an image and a column a tag."
            )
        answers = compact(answers, np.int8)
        tags = without_answers(tags, answers, "the answers to score by")
    folder = Path(tempfile.mkdtemp(prefix="labelsieve-"))
    about = {"inputs": recorded(inputs), "tag": to_dict(settings), "rounds": []}
    try:
        with Run.open(folder, "tag", about) as run:
            job = Job(tags, answers, inputs, settings, run, progress or silent, features=features)
            clean(job, make, given, cleaned_file=False)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return TagModel(folder, temporary=True)


def run_tag(
    inputs: Inputs,
    settings: Tag,
    out: Path,
    wanted: Wanted | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    tell: Callable[[Sequence[str]], None] | None = None,
) -> Cleaned | None:
    """Clean the tags that `inputs` names, and write the run's folder.

    Args:
        inputs: what is worked on.
        settings: of the cleaning.
        out: the folder.
        wanted: beside clean tags.
        resume: go on with the run that is there.
        overwrite: replace it.
        progress: called with (stage, done, total).
        tell: told, before anything is learned, what was understood of the tags.

    Returns:
        what was found; None of a run that had finished, and whose verified tags are the same.

    Raises:
        DataError: the tags, images or features are not what a cleaning needs.
        ConfigError: options that do not go together.
        RunError: the folder cannot be used.
    """
    wanted = wanted or Wanted()
    _check(inputs, settings, out)
    before = rounds_before(out) if resume else Before()
    tags, answers = sets_of(inputs, before)
    if tell is not None:
        tell(tags.understood)
    groups = {} if inputs.groups is None else read_groups(Path(inputs.groups), tags.tag_names)
    given = given_network(inputs, settings)
    make = maker_of(tags, inputs, settings)
    about = _about(inputs, settings, wanted, tags)
    again = before.is_another_round(about)
    about["rounds"] = _rounds(inputs, before, again=again)
    questions = out / QUESTIONS_FILE
    filled_in = questions.read_bytes() if again and questions.is_file() else None
    with Run.open(
        out, "tag", about, resume=resume and not again, overwrite=overwrite or again
    ) as run:
        if run.done:
            return None
        if again:
            take_over(out, filled_in)
        job = Job(tags, answers, inputs, settings, run, progress or silent, wanted, groups)
        return clean(job, make, given)


def _check(inputs: Inputs, settings: Tag, out: Path) -> None:
    """Refuse what can be seen to be of no use, before tables are read."""
    check_device(inputs.device)
    if n_launched() > 1:
        raise ConfigError(
            f"{n_launched()} processes were begun; tags are cleaned in one. Make features in "
            "several by `labelsieve features --pretrain` and give them with --features."
        )
    for named in (inputs.source, inputs.image_folder):
        folder = None if named is None else Path(named).resolve()
        if folder is not None and folder.is_dir() and out.resolve().is_relative_to(folder):
            raise ConfigError(
                f"--out {out}: lies among the images of {folder}. Choose another place."
            )
    for option, file in (("--features", inputs.features), ("--groups", inputs.groups)):
        if file is not None and not Path(file).is_file():
            raise DataError(f"{option} {file}: there is no such file.")


def _about(inputs: Inputs, settings: Tag, wanted: Wanted, tags: TagSet) -> dict[str, Any]:
    """Everything that decides the result. What people verified is part of the tags."""
    about = {
        "inputs": recorded(inputs),
        "tag": to_dict(settings),
        "wanted": asdict(wanted),
        "tags": tags.fingerprint(),
        "files": stamps(replace(inputs, verified=None)),
    }
    if tags.images is not None:
        about["images"] = {"n": len(tags), "fingerprint": tags.images.fingerprint()}
    return about


def _rounds(inputs: Inputs, before: Before, *, again: bool) -> list[Any]:
    """The finished rounds before the one that these inputs are of."""
    if inputs.audited is not None:  # a run that is repeated
        rounds: list[Any] = read_run(Path(inputs.audited))["settings"]["rounds"]
        return rounds
    if before.settings is not None and not again:  # the round that is there
        return list(before.settings["rounds"])
    return list(before.rounds)


def clean(
    job: Job, make: FeatureMaker | None, given: Trained | None, *, cleaned_file: bool = True
) -> Cleaned:
    """All stages.

    Args:
        job: of the cleaning.
        make: of features; None where they are in memory.
        given: the network that the user named, if any.
        cleaned_file: whether cleaned tags are written in the form of the source.
    """
    job.tags.save(job.run.path / GIVEN)  # at once: what people answered is there if this is killed
    material_of = material_of_images if job.settings.learn_backbone else material_of_rows
    material = material_of(job, make, given)
    trained = train_on(job, material, job.inputs.recipe, job.settings.train)
    keep_tagger(job.run.path, trained, job.tags.tag_names, material.about)
    beside = compared(job, material)
    verified = verified_pairs(material, trained)
    thresholds = tag_thresholds(*verified, job.tags.n_tags, job.settings.keep)
    said = material.in_set(job.tags, trained.said)
    tagged = Tagged.of_probabilities(
        job.tags, material.in_set(job.tags, trained.keep), thresholds.threshold,
        review=job.settings.review, added=_added(job, material, trained),
        warnings=_warnings(job, material, trained, thresholds),
    )  # fmt: skip
    asked = ~np.isnan(said)
    asked &= np.repeat(~job.only_scores, np.diff(job.tags.asserted.indptr))
    questions = _questions(job, said, asked)
    found = Cleaned(
        job.tags, tagged, scores_of(job, material, trained, tagged, beside),
        _rows(job, tagged, thresholds, counted(job, asked)),
        reliability(*verified, job.tags.tag_names)
        if len(verified.said) and not _learned_them(job, trained)
        else None,
        trained.relations, shown_questions(questions),
    )  # fmt: skip
    write_cleaned(job, found, questions, cleaned_file=cleaned_file)
    return found


def verified_pairs(material: Material, trained: TrainedTagger) -> Verified:
    """What is said of pairs that people verified.

    By networks that did not learn them, where there are such: else probabilities are too sure, as
    `_warnings` says.
    """
    tags = material.tags
    said = trained.said if trained.cross_fitted is None else trained.cross_fitted
    verified = tags.verified_of_asserted()
    there = (verified != 0) & ~np.isnan(said)
    columns = tags.asserted.indices[there].astype(np.int64)
    return Verified(said[there], columns, verified[there] > 0)


def _learned_them(job: Job, trained: TrainedTagger) -> bool:
    """Whether all that judges verified pairs has learned from them."""
    uses_none = isinstance(job.settings.train.objective, (Noisy, Misra))
    return trained.cross_fitted is None and not uses_none and job.tags.verified.nnz > 0


def _questions(job: Job, said: NDArray[np.float32], asked: NDArray[np.bool_]) -> Suggestions | None:
    if not job.wanted.n_questions:
        return None
    tags, wanted = job.tags, job.wanted
    free = np.where(asked, said, np.float32(np.nan))
    return suggest(
        free, tags.asserted, tags.verified, wanted.n_questions, wanted.mode, job.inputs.seed
    )


def _added(job: Job, material: Material, trained: TrainedTagger) -> Pairs | None:
    """Pairs that nobody asserted and the tagger is sure of, where the settings ask for them."""
    least = job.settings.add_from
    if not least:
        return None
    found: list[tuple[NDArray[Any], ...]] = []
    size = max(1, _VALUES // job.tags.n_tags)
    for first in range(0, len(material.asked), size):
        rows = material.asked[first : first + size]
        said = trained.probabilities(material.source, rows)
        asserted = material.tags.asserted[rows]
        said[asserted.nonzero()] = 0
        at = np.nonzero(said >= least)
        found.append(
            (material.whole[rows[at[0]]].astype(np.int32), at[1].astype(np.int32), said[at])
        )
    return Pairs(*(np.concatenate(each) for each in zip(*found, strict=True)))


def _warnings(
    job: Job, material: Material, trained: TrainedTagger, thresholds: TagThresholds
) -> Sequence[str]:
    """When and why the result should not be trusted, each sentence once."""
    found = [*trained.warnings, *thresholds.warnings(job.tags.tag_names)]
    if _learned_them(job, trained):
        wanted = job.settings.keep.target_precision
        promise = "" if wanted is None else f"a precision of {wanted:g} is not promised; "
        found.append(
            f"Recipe {job.inputs.recipe} is judged here by verified tags that it learned from, so "
            f"that probabilities and expected precisions are too good: {promise}score it on "
            "others with --test, or use recipe default."
        )
    unread = np.ones(len(job.tags), np.bool_)
    unread[material.whole[material.asked]] = False
    if unread.any():
        such = job.tags.ids[int(unread.argmax())]
        found.append(
            f"{unread.sum():,} of {len(unread):,} images cannot be read, such as {such}: their "
            "tags are for review, but for those that people verified."
        )
    return tuple(dict.fromkeys(found))


def _rows(
    job: Job, tagged: Tagged, thresholds: TagThresholds, counts: NDArray[np.bool_]
) -> Sequence[TagRow]:
    columns = job.tags.asserted.indices[counts]
    present = job.tags.verified_of_asserted()[counts] > 0
    wrong = false_positive_share(columns, present, job.tags.n_tags)
    bases = [Basis(basis).name.lower() for basis in thresholds.basis]
    return tag_rows(tagged, wrong, thresholds.expected_precision, bases)
