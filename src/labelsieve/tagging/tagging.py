"""Tags: clean many noisy ones by a few that people verified, and train a tagger.

read -> decode -> features -> train -> [others to compare with] -> thresholds -> tags -> report

A run that is gone on with after people have verified more keeps its features, and learns anew.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.clustering import history
from labelsieve.config import to_dict
from labelsieve.data.tags.read import read_tags
from labelsieve.data.tags.write import write_tags
from labelsieve.errors import ConfigError, DataError
from labelsieve.files import atomic, write_csv, write_json
from labelsieve.inputs import Inputs, Progress, check_device, recorded, silent, stamps
from labelsieve.methods.veit.objectives.plain import Noisy
from labelsieve.methods.veit.relations import Relation
from labelsieve.methods.veit.thresholds import Basis, TagThresholds, tag_thresholds
from labelsieve.methods.veit.trained_tagger import TrainedTagger
from labelsieve.methods.veit.verify import Round, Suggestions, Why, drawn, stopping_advice, suggest
from labelsieve.records import Features
from labelsieve.report.metrics import Bin, Calibration
from labelsieve.report.tag_breakdowns import read_groups
from labelsieve.report.tag_galleries import Question
from labelsieve.report.tag_metrics import TagScores
from labelsieve.report.tag_page import QUESTIONS_FILE, ROWS_FILE, write_tag_page
from labelsieve.report.tag_reliability import Reliability, false_positive_share, reliability
from labelsieve.report.tag_rows import TagRow, rows_to_arrow, tag_rows
from labelsieve.representation import FeatureMaker, feature_maker
from labelsieve.run import REPLACED, Run, flat, read_run
from labelsieve.runtime import n_launched
from labelsieve.tag_findings import Pairs, Tagged, TagVerdict
from labelsieve.tag_set import TagSet, values_at
from labelsieve.tagging.job import (
    NOISY,
    Job,
    Material,
    check_images,
    compared,
    given_network,
    in_set,
    material_of_images,
    material_of_rows,
    score_cleaner,
    score_of,
    train_on,
)
from labelsieve.tagging.kept import keep_tagger
from labelsieve.tagging.model import TagModel
from labelsieve.tagging.settings import Tag, tagging_recipe
from labelsieve.trained import PRETEXT, Trained

PAIRS, LABELS, CLEANED = "tags", "labels", "cleaned"  # stems of a run's files
GIVEN = "given.parquet"  # the tags as given, with all that was verified
COUNTED = "counted.parquet"  # verified pairs that estimate how much is wrong
PAGE = "page.json"  # what the page shows beside them
Mode = Literal["learn", "fix"]


class Wanted(NamedTuple):
    """What a run makes beside clean tags."""

    n_questions: int = 0  # pairs to be verified next
    mode: Mode = "learn"  # what they are to be good for
    compare: tuple[str, ...] = ()  # recipes that are trained beside, to be scored


class Cleaned(NamedTuple):
    """What a cleaning leaves."""

    tags: TagSet
    tagged: Tagged
    scores: dict[str, TagScores]  # by method, the last one that of the run
    rows: tuple[TagRow, ...]  # one a tag
    reliability: Reliability | None
    relations: Sequence[Any]
    questions: Suggestions | None
    notes: tuple[str, ...]  # on what the form of the source cannot hold
    asked: Sequence[Question]  # the questions, as the page shows them


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
        tags.source, seed=seed, device=device, recipe="default",
        network=None if network is None else str(network),
    )  # fmt: skip
    given = given_network(inputs, settings)
    make = maker_of(inputs, settings)
    if features is not None:
        inputs = replace(inputs, features="given", network=None)
        make = lambda *_: features  # noqa: E731
    check_images(tags, inputs)
    folder = Path(tempfile.mkdtemp(prefix="labelsieve-"))
    about = {"inputs": recorded(inputs), "tag": to_dict(settings)}
    try:
        with Run.open(folder, "tag", about) as run:
            job = Job(tags, answers, inputs, settings, run, progress or silent)
            _finish(job, clean(job, make, given, Wanted()), cleaned_file=False)
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
) -> Cleaned | None:
    """Clean the tags that `inputs` names, and write the run's folder.

    Returns:
        what was found; None of a run that had finished, and whose verified tags are the same.

    Raises:
        DataError: the tags, images or features are not what a cleaning needs.
        ConfigError: options that do not go together.
        RunError: the folder cannot be used.
    """
    wanted = wanted or Wanted()
    check_device(inputs.device)
    if n_launched() > 1:
        raise ConfigError(
            f"{n_launched()} processes were begun; tags are cleaned in one. Make features in "
            "several by `labelsieve features --pretrain` and give them with --features."
        )
    tags = tags_of(inputs)
    if resume:
        tags = with_answers_of(out, tags)
    check_images(tags, inputs)
    answers = None if inputs.answers is None else answers_of(inputs, tags)
    groups = {} if inputs.groups is None else read_groups(Path(inputs.groups), tags.tag_names)
    given = given_network(inputs, settings)
    make = maker_of(inputs, settings)
    about = {
        "inputs": recorded(inputs),
        "tag": to_dict(settings),
        "wanted": wanted._asdict(),
        "tags": tags.fingerprint(),
        "files": stamps(inputs),
    }
    if tags.images is not None:
        about["images"] = {"n": len(tags), "fingerprint": tags.images.fingerprint()}
    rounds, again = _earlier(out, about) if resume else ((), False)
    with Run.open(
        out, "tag", about, resume=resume and not again, overwrite=overwrite or again
    ) as run:
        if run.done:
            return None
        if again:
            _take_over(run.path)
        run.note(rounds=list(rounds))
        job = Job(tags, answers, inputs, settings, run, progress or silent, wanted.compare, groups)
        found = clean(job, make, given, wanted)
        _finish(job, found)
        return found


def tags_of(inputs: Inputs) -> TagSet:
    """The tags as given, with what people verified; of a run that is repeated, as it has them.

    Raises:
        DataError: they cannot be read.
    """
    if inputs.audited is not None:
        return TagSet.load(Path(inputs.audited) / GIVEN)
    return read_tags(
        inputs.source, label=inputs.label, verified=inputs.verified, truth=inputs.truth,
        synonyms=inputs.synonyms, implies=tuple(inputs.implies), images=inputs.image_folder,
    )  # fmt: skip


def with_answers_of(out: Path, tags: TagSet) -> TagSet:
    """Tags with what people verified in the rounds before, where the new round says nothing.

    Args:
        out: folder of a run that is gone on with.
        tags: of the new round.

    Raises:
        DataError: the rounds before are of other images.
    """
    for folder in (out / REPLACED, out):
        if (folder / GIVEN).is_file():
            break
    else:
        return tags
    before = TagSet.load(folder / GIVEN)
    if before.ids != tags.ids:
        raise DataError(
            f"{out}: its tags are of {len(before)} images, and {tags.source} now has {len(tags)}, "
            "or others. Begin anew with --overwrite, or choose another --out."
        )
    rows, columns, present = before.verified_pairs()
    place = {name: c for c, name in enumerate(tags.tag_names)}
    numbers = np.array([place.get(name, -1) for name in before.tag_names], np.int64)[columns]
    known = numbers >= 0
    earlier = csr_array(
        (np.where(present[known], 1, -1).astype(np.int8), (rows[known], numbers[known])),
        shape=tags.verified.shape,
    )
    unsaid = values_at(tags.verified, earlier) == 0
    earlier.data[~unsaid] = 0
    merged = csr_array(tags.verified + earlier)
    merged.eliminate_zeros()
    return replace(tags, verified=merged)


def answers_of(inputs: Inputs, tags: TagSet) -> csr_array:
    """Verified pairs that only score, of the images and tags of a set.

    Raises:
        DataError: they cannot be read, or none is of a tag of the set.
    """
    read = read_tags(
        inputs.source, label=inputs.label, verified=inputs.answers, synonyms=inputs.synonyms,
        implies=tuple(inputs.implies), images=inputs.image_folder,
    )  # fmt: skip
    place = {name: c for c, name in enumerate(tags.tag_names)}
    rows, columns, present = read.verified_pairs()
    number = np.array([place.get(name, -1) for name in read.tag_names], np.int64)[columns]
    known = number >= 0
    if not known.any():
        strange = read.tag_names[int(columns[0])] if len(columns) else None
        raise DataError(
            f"--test {inputs.answers}: none of its {len(rows)} verified pairs is of a tag of "
            f"{tags.source}{'' if strange is None else f', such as {strange!r}'}. Name the same "
            "tags in both."
        )
    values = np.where(present[known], 1, -1).astype(np.int8)
    found = csr_array((values, (rows[known], number[known])), shape=tags.asserted.shape)
    found.sort_indices()
    return found


def maker_of(inputs: Inputs, settings: Tag) -> FeatureMaker:
    """What makes features, or the network to learn along where --pretrain names one."""
    if settings.learn_backbone:
        inputs = replace(inputs, network=None)
    return feature_maker(inputs, settings.dictionary, settings.pretrain, folder=PRETEXT)


def clean(job: Job, make: FeatureMaker, given: Trained | None, wanted: Wanted) -> Cleaned:
    """All stages but the report.

    Args:
        job: of the cleaning.
        make: of features.
        given: the network that the user named, if any.
        wanted: beside clean tags.
    """
    if job.settings.learn_backbone:
        material = material_of_images(job, make, given)
    else:
        material = material_of_rows(job, make, given)
    trained = train_on(job, material, job.inputs.recipe, job.settings.train)
    keep_tagger(job.run.path, trained, job.tags.tag_names, material.about)
    beside = compared(job, material)
    verified = _verified(material, trained)
    thresholds = tag_thresholds(*verified, job.tags.n_tags, job.settings.keep)
    warnings = (*trained.warnings, *thresholds.warnings(job.tags.tag_names))
    tagged = Tagged.of_probabilities(
        job.tags, in_set(job.tags, material, trained.keep), thresholds.threshold,
        review=job.settings.review, added=_added(job, material, trained),
        warnings=_once(warnings),
    )  # fmt: skip
    said = in_set(job.tags, material, trained.said)
    counted = _counted(job)
    questions = None
    if wanted.n_questions:
        questions = suggest(
            said, job.tags.asserted, job.tags.verified, wanted.n_questions, wanted.mode,
            job.inputs.seed,
        )  # fmt: skip
    _write_counted(job, counted)
    scores = _scores(job, material, trained, tagged, beside)
    rows = _rows(job, tagged, thresholds, counted)
    return Cleaned(
        job.tags, tagged, scores, rows, _reliability(job, verified), trained.relations, questions,
        (), _asked(questions),
    )  # fmt: skip


def _verified(
    material: Material, trained: TrainedTagger
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Asserted pairs that people verified: what is said of them, their tags, what people found.

    By networks that did not learn them, where there are such: else probabilities are too sure.
    """
    tags = material.tags
    said = trained.said if trained.cross_fitted is None else trained.cross_fitted
    verified = tags.verified_of_asserted()
    there = (verified != 0) & ~np.isnan(said)
    columns = tags.asserted.indices[there].astype(np.int64)
    return said[there], columns, verified[there] > 0


def _added(job: Job, material: Material, trained: TrainedTagger) -> Pairs | None:
    """Pairs that nobody asserted and the tagger is sure of, where the settings ask for them."""
    least = job.settings.add_from
    if not least:
        return None
    found: list[tuple[NDArray[Any], ...]] = []
    for first in range(0, len(material.asked), 4096):
        rows = material.asked[first : first + 4096]
        said = trained.probabilities(material.source, rows)
        at = np.nonzero(said >= least)
        found.append((material.whole[rows[at[0]]] if len(material.whole) != len(job.tags)
                      else rows[at[0]], at[1], said[at]))  # fmt: skip
    parts = [np.concatenate(each) for each in zip(*found, strict=True)]
    return Pairs(*parts)


def _scores(
    job: Job,
    material: Material,
    trained: TrainedTagger,
    tagged: Tagged,
    beside: Mapping[str, TagScores],
) -> dict[str, TagScores]:
    """Of the tags as given, the control, what was compared, and last of the run's own."""
    if material.answers is None:
        return {}
    recipe, kept = job.inputs.recipe, tagged.cleaned()
    if len(material.tags) != len(job.tags):
        kept = csr_array(kept[material.whole])
    found = {NOISY: score_of(job, material, trained, baseline=True), **beside}
    cleaner = score_cleaner(job, material, trained.said, kept)
    if cleaner is not None and not isinstance(job.settings.train.objective, Noisy):
        found[f"{recipe}: cleaner"] = cleaner
    found.pop(recipe, None)
    return {**found, recipe: score_of(job, material, trained, kept)}


def _rows(
    job: Job, tagged: Tagged, thresholds: TagThresholds, counted: NDArray[np.bool_]
) -> tuple[TagRow, ...]:
    _, columns = job.tags.asserted_pairs()
    present = job.tags.verified_of_asserted()[counted] > 0
    wrong = false_positive_share(columns[counted], present, job.tags.n_tags)
    bases = [Basis(basis).name.lower() for basis in thresholds.basis]
    return tag_rows(tagged, wrong, thresholds.expected_precision, bases)


def _counted(job: Job) -> NDArray[np.bool_]:
    """(P,) verified assertions that estimate how many are wrong.

    What people looked at before anything was suggested, and of what was suggested what was drawn
    at random: uncertain and suspicious pairs are wrong more often than others.
    """
    verified: NDArray[np.bool_] = job.tags.verified_of_asserted() != 0
    before = job.run.path / COUNTED
    if not before.is_file():
        return verified
    drawn_to = max((each["drawn_to"] for each in job.run.about.get("rounds", ())), default=0.0)
    rows, columns = job.tags.asserted_pairs()
    seed = job.inputs.seed
    at = np.flatnonzero(verified)
    known = {tuple(pair.values()) for pair in pq.read_table(before).to_pylist()}
    ids, names = job.tags.ids, job.tags.tag_names
    pairs = zip(rows[at].tolist(), columns[at].tolist(), strict=True)
    counts = np.array([(ids[row], names[column]) in known for row, column in pairs], bool)
    found = np.zeros(len(verified), bool)
    found[at] = counts | drawn(rows[at], columns[at], seed, drawn_to)
    return found


def _write_counted(job: Job, counted: NDArray[np.bool_]) -> None:
    rows, columns = job.tags.asserted_pairs()
    table = pa.table(
        {
            "image": pa.array([job.tags.ids[row] for row in rows[counted].tolist()], pa.string()),
            "tag": pa.array(job.tags.tag_names, pa.string()).take(pa.array(columns[counted])),
        }
    )
    with atomic(job.run.path / COUNTED) as partial_file:
        pq.write_table(table, partial_file)


def _reliability(
    job: Job, verified: tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]
) -> Reliability | None:
    if not len(verified[0]):
        return None
    return reliability(*verified, job.tags.tag_names)


def _finish(job: Job, found: Cleaned, *, cleaned_file: bool = True) -> None:
    """Write what was found, and the report."""
    run = job.run
    for suffix in (".parquet", ".csv"):
        found.tagged.write(run.path / f"{PAIRS}{suffix}")
        found.tagged.write_images(run.path / f"{LABELS}{suffix}")
    found.tags.save(run.path / GIVEN)
    write_csv(rows_to_arrow(found.rows), run.path / ROWS_FILE)
    name = None
    if cleaned_file:
        name = cleaned_name(found.tags)
        notes = write_tags(found.tags, found.tagged.cleaned(), run.path / name)
        found = found._replace(notes=notes)
    drawn_to = 0.0
    if found.questions is not None:
        drawn_to = found.questions.drawn_to
        found.questions.write(run.path / QUESTIONS_FILE, found.tags.ids, found.tags.tag_names)
    best = next(reversed(found.scores.values()), None)
    rounds = [
        *run.about.get("rounds", ()),
        {
            "n_verified": int(found.tags.verified.nnz),
            "score": None if best is None else best.map,
            "drawn_to": drawn_to,
        },
    ]
    write_json(run.path / PAGE, _page_facts(found))
    run.note(
        cleaned=name,
        next=_next(job, found),
        recipe=job.inputs.recipe,
        seed=job.inputs.seed,
        device=job.inputs.device,
        understood=list(found.tags.understood),
        notes=list(found.notes),
        summary=summary(found),
        scores={name: each.to_dict() for name, each in found.scores.items()} or None,
    )
    with run.stage("report"):
        write_cleaned_page(run, found, partial(job.progress, "report"))
    run.finish(rounds=rounds, advice=_advice(rounds))


def summary(found: Cleaned) -> dict[str, Any]:
    """What `--json` prints of a cleaning."""
    tagged, tags = found.tagged, found.tags
    counts = tagged.counts().sum(axis=0)
    return {
        "n_images": len(tags),
        "n_tags": tags.n_tags,
        "n_asserted": int(tags.asserted.nnz),
        "n_verified": int(tags.verified.nnz),
        "n_never_verified": int(tags.never_verified.sum()),
        **{verdict.name.lower(): int(counts[verdict]) for verdict in TagVerdict},
        "warnings": list(tagged.warnings),
    }


def cleaned_name(tags: TagSet) -> str:
    """The file or folder of cleaned tags in the form of the source."""
    files = tags.form.files
    if len(files) == 1 and tags.form.family not in ("voc", "nus-wide", "per-class", "sidecar"):
        return CLEANED + Path(files[0]).suffix
    return CLEANED + (".parquet" if tags.form.family == "image-set" else "")


def write_cleaned_page(run: Run | Path, found: Cleaned, progress: Any = None) -> Path:
    """Write the report page of a run."""
    folder, about = (run.path, run.about) if isinstance(run, Run) else (run, read_run(run))
    path = folder / "report.html"
    write_tag_page(
        found.tagged, found.tags, path, about=about, scores=found.scores,
        tag_rows=found.rows, reliability=found.reliability, relations=found.relations,
        to_verify=found.asked, history=history(folder / "log.jsonl"), progress=progress,
    )  # fmt: skip
    return path


def read_cleaned(run: Path, about: Mapping[str, Any]) -> Cleaned:
    """What a finished run left.

    Args:
        run: its folder.
        about: its run.json.
    """
    facts = json.loads((run / PAGE).read_text(encoding="utf-8"))
    scores = about.get("scores") or {}
    return Cleaned(
        TagSet.load(run / GIVEN),
        Tagged.load(run / f"{PAIRS}.parquet"),
        {name: TagScores.from_dict(each) for name, each in scores.items()},
        tuple(TagRow(**{**row, "interval": tuple(row["interval"])}) for row in facts["rows"]),
        None if facts["reliability"] is None else _reliability_of(facts["reliability"]),
        [Relation(*each) for each in facts["relations"]],
        None,
        tuple(about["notes"]),
        [Question(*each) for each in facts["questions"]],
    )


def _page_facts(found: Cleaned) -> dict[str, Any]:
    """What the page shows beside the tables of a run."""
    return {
        "rows": [asdict(row) for row in found.rows],
        "reliability": None if found.reliability is None else asdict(found.reliability),
        "relations": [list(each) for each in found.relations],
        "questions": [list(each) for each in found.asked],
    }


def _reliability_of(given: Mapping[str, Any]) -> Reliability:
    def one(each: Mapping[str, Any]) -> Calibration:
        bins = tuple(Bin(**part) for part in each["bins"])
        return Calibration(each["name"], each["expected_error"], bins)

    return Reliability(one(given["overall"]), tuple(map(one, given["tags"])))


def _asked(questions: Suggestions | None) -> list[Question]:
    if questions is None:
        return []
    return [
        Question(int(row), int(column), float(probability), Why(why).name.lower())
        for row, column, probability, why in zip(
            questions.rows, questions.columns, questions.probability, questions.why, strict=True
        )
    ]


def _next(job: Job, found: Cleaned) -> list[tuple[str, str]]:
    """How to go on: commands, and what they do."""
    if found.questions is None:
        return []
    out = job.run.path
    file = out / QUESTIONS_FILE
    return [
        (
            f"labelsieve tag {job.inputs.source} --verified {file} --out {out} --resume",
            "goes on with the answers that were filled in",
        )
    ]


def _advice(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether more answers are worth their time, after several rounds that were scored."""
    known = [
        Round(each["n_verified"], each["score"]) for each in rounds if each["score"] is not None
    ]
    return [stopping_advice(known).text] if len(known) > 1 else []


def _earlier(out: Path, about: Mapping[str, Any]) -> tuple[tuple[dict[str, Any], ...], bool]:
    """The rounds of a finished run, and whether more has been verified since."""
    if not (out / "run.json").is_file():
        return (), False
    before = json.loads((out / "run.json").read_text(encoding="utf-8"))
    if before.get("job") != "tag" or before.get("status") != "done":
        return tuple(before.get("rounds", ())), False
    then, now = flat(before["settings"]), flat(json.loads(json.dumps(about)))
    changed = {name for name in then.keys() | now.keys() if then.get(name) != now.get(name)}
    answers = {settings["inputs"]["verified"] for settings in (before["settings"], about)}
    told = {"tags", "inputs.verified", *(f"files.{path}" for path in answers)}
    news = {name for name in changed if name in told or name.startswith("wanted.")}
    return tuple(before.get("rounds", ())), bool(news) and changed == news


def _take_over(run: Path) -> None:
    """Take from the round before what does not depend on verified tags: features, their maker."""
    for name in ("features.json", "features.npy", "dictionary.safetensors", PRETEXT, COUNTED):
        old = run / REPLACED / name
        if old.is_dir():
            shutil.copytree(old, run / name, dirs_exist_ok=True)
        elif old.exists():
            shutil.copyfile(old, run / name)


def _once(sentences: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(sentences))
