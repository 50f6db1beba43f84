"""The audit: from an image set to findings, stage by stage, each kept in the run's folder.

decode -> features -> neighbors -> detect -> duplicates -> report
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelsieve.auditing.assemble import N_SHOWN, assemble, with_contradictions
from labelsieve.config import to_dict
from labelsieve.data.decode import Pixels, confirmed_hashes, decode_images
from labelsieve.data.read import read
from labelsieve.errors import ConfigError, DataError, did_you_mean, import_extra
from labelsieve.features import recipes
from labelsieve.features.dictionary import Dictionary
from labelsieve.features.pretrain import Pretrain
from labelsieve.loop.runtime import n_launched
from labelsieve.methods.auditing import RECIPES, AnyDetection, detect
from labelsieve.methods.sncf.paper import PaperDetection
from labelsieve.methods.sncf.robust import RobustDetection
from labelsieve.neighbors.approximate import EXACT_LIMIT
from labelsieve.neighbors.duplicates import Duplicates, exact_duplicates, near_duplicates
from labelsieve.records import Features, Findings, ImageSet, Neighbors
from labelsieve.report.metrics import Scores, score
from labelsieve.report.page import write_page
from labelsieve.report.table import summary
from labelsieve.run import Run
from labelsieve.stages.inputs import Inputs, Progress, recorded, silent, stamps
from labelsieve.stages.makers import keep_maker
from labelsieve.stages.representation import FeatureMaker, feature_maker
from labelsieve.stages.sources import neighbors_of, rows_of


@dataclass(frozen=True)
class Audit:
    """Settings of an audit."""

    detection: AnyDetection = field(default_factory=RobustDetection)
    dictionary: Dictionary = field(default_factory=Dictionary)  # of the features, unless given
    pretrain: Pretrain | None = None  # of the features, where --pretrain names a recipe
    duplicates: Duplicates = field(default_factory=Duplicates)
    n_neighbors: int = 50  # of each image, in the whole set

    def __post_init__(self) -> None:
        least = (
            self.detection.n_neighbors if isinstance(self.detection, PaperDetection) else N_SHOWN
        )
        if self.n_neighbors < least:
            raise ConfigError(f"n_neighbors is {self.n_neighbors}; at least {least} are needed.")


@dataclass(frozen=True)
class Audited:
    """What an audit leaves."""

    images: ImageSet
    findings: Findings
    scores: Scores | None  # where the truth is known


def recipe(name: str, pretraining: str | None = None) -> Audit:
    """The settings of a recipe by its name.

    Args:
        name: of a recipe for audits.
        pretraining: name of a recipe for features, if any.

    Raises:
        ConfigError: there is no such recipe.

    Example:
        >>> recipe("robust").n_neighbors
        50
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r}. {did_you_mean(name, RECIPES)}")
    return Audit(detection=RECIPES[name](), pretrain=recipes.pretraining(pretraining))


def audit(
    images: ImageSet | str | Path,
    settings: Audit | None = None,
    *,
    features: Features | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Findings:
    """Sort labeled images into clean, mislabeled, foreign and broken; find duplicates.

    Args:
        images: from `read`, with one label an image (-1 for none); or what `read` takes.
        settings: `recipe("robust")` unless given.
        features: one row for each image; dictionary features unless given.
        seed: of every random choice; the same seed and number of threads give the same findings.
        device: "cpu", "cuda", ...
        progress: called with (stage, done, total).

    Raises:
        DataError: there are no labels, only one class, or hardly an image that can be read.

    Example:
        >>> import labelsieve as ls
        >>> findings = ls.audit(ls.read("photos/"))  # doctest: +SKIP
        >>> findings.write("findings.csv")  # doctest: +SKIP
    """
    settings = settings or Audit()
    if not isinstance(images, ImageSet):
        images = read(images)
    inputs = Inputs(images.source, seed=seed, device=device)
    make = feature_maker(inputs, settings.dictionary, settings.pretrain)
    if features is not None:
        make = lambda *_: features  # noqa: E731
    with (
        tempfile.TemporaryDirectory(prefix="labelsieve-") as folder,
        Run.open(Path(folder), "audit", {}) as run,
    ):
        findings, _ = audit_stages(images, inputs, settings, make, run, progress or silent)
    return findings


def run_audit(
    inputs: Inputs,
    settings: Audit,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Audited:
    """Audit what `inputs` names and write the run's folder: findings, report, run.json.

    Raises:
        DataError: the images, labels or features are not what an audit needs.
        RunError: the folder cannot be used.
    """
    images = read(inputs.source, label=inputs.label, truth=inputs.truth)
    check_labels(images)
    make = feature_maker(inputs, settings.dictionary, settings.pretrain)
    if n_launched() > 1:
        raise ConfigError(
            f"{n_launched()} processes were begun; an audit runs in one. Pretrain in several by "
            "`labelsieve features --pretrain` and give the file with --features."
        )
    source = Path(inputs.source).resolve()
    if source.is_dir() and out.resolve().is_relative_to(source):
        raise ConfigError(f"--out {out}: lies among the images of {source}. Choose another place.")
    if len(images) > EXACT_LIMIT:
        import_extra("faiss", "faiss", f"neighbors of more than {EXACT_LIMIT:,} images")
    about = {
        "inputs": recorded(inputs),
        "audit": to_dict(settings),
        "images": {"n": len(images), "fingerprint": images.fingerprint()},
        "labels": images.label_fingerprint(),
        "files": stamps(inputs),
    }
    with Run.open(out, "audit", about, resume=resume, overwrite=overwrite) as run:
        return audit_into(run, images, inputs, settings, make, progress)


def audit_into(
    run: Run,
    images: ImageSet,
    inputs: Inputs,
    settings: Audit,
    make: FeatureMaker,
    progress: Progress | None = None,
) -> Audited:
    """Audit into an open run. Of a run that had finished, the findings are only read."""
    progress = progress or silent
    if run.done:
        findings = Findings.load(run.path / "findings.parquet")
    else:
        findings, features = audit_stages(images, inputs, settings, make, run, progress)
    scores = None if images.truth is None else score(findings, images.truth)
    if run.done:
        return Audited(images, findings, scores)
    findings.write(run.path / "findings.parquet")
    findings.write(run.path / "findings.csv")
    if settings.pretrain is None and inputs.network is None:  # else their networks are kept
        keep_maker(run, inputs, None)
    run.note(
        recipe=inputs.recipe, seed=inputs.seed, device=inputs.device, features=features.made_by
    )
    run.note(summary=summary(findings), scores=None if scores is None else scores.to_dict())
    with run.stage("report"):
        write_page(
            findings, images, run.path / "report.html", features=features,
            about=run.about, scores=scores, progress=partial(progress, "report"),
        )  # fmt: skip
    run.finish()
    return Audited(images, findings, scores)


def check_labels(images: ImageSet, job: str = "an audit") -> None:
    """Refuse sets that an audit can say nothing of.

    Args:
        images: the set.
        job: what is asked for, in words.

    Raises:
        DataError: no labels, several labels an image, or a single class.
    """
    if images.tags is not None:
        raise DataError(
            f"{images.source}: images have several labels each; {job} needs one an image. "
            "Name the column that holds it with --label."
        )
    if images.labels is None or (images.labels < 0).all():
        raise DataError(
            f"{images.source}: {len(images)} images without labels; {job} needs one an image. "
            "Put the images of each class in a folder of its own, or give a table with a column "
            "`label` (or another with --label)."
        )
    present = np.unique(images.labels[images.labels >= 0])
    if len(present) == 1:
        raise DataError(
            f"{images.source}: one class only ({images.class_names[present[0]]!r}, "
            f"{(images.labels >= 0).sum()} images). {job.capitalize()} compares classes and needs "
            "two."
        )


def audit_stages(
    images: ImageSet,
    inputs: Inputs,
    settings: Audit,
    make_features: FeatureMaker,
    run: Run,
    progress: Progress,
) -> tuple[Findings, Features]:
    """Decode, features, neighbors, detect, duplicates."""
    check_labels(images)
    with run.stage("decode"):
        pixels = decode_images(
            images, settings.dictionary.image_size, path=run.checkpoint / "pixels.npy",
            progress=partial(progress, "decode"),
        )  # fmt: skip
    whole = _whole_rows(images, pixels)
    labels = np.asarray(images.labels)[whole]
    with run.stage("features"):
        features = run.cached(
            run.path / "features.npy",
            lambda: make_features(images, pixels, run, progress),
            Features.save,
            Features.load,
        )
    values = rows_of(features, images, whole)
    with run.stage("neighbors"):
        neighbors = run.cached(
            run.checkpoint / "neighbors.npz",
            lambda: neighbors_of(
                values, settings.n_neighbors, seed=inputs.seed, run=run, progress=progress
            ),
            Neighbors.save,
            Neighbors.load,
        )
    with run.stage("detect"):
        detection = detect(
            values, neighbors, labels, images.class_names, settings.detection,
            seed=inputs.seed, device=inputs.device, progress=partial(progress, "detect"),
        )  # fmt: skip
    with run.stage("duplicates"):
        exact = exact_duplicates(confirmed_hashes(images, pixels)[whole])
        repeats = near_duplicates(pixels.values, neighbors, exact, settings.duplicates, whole)
    detection = with_contradictions(detection, exact, labels, [images.ids[row] for row in whole])
    findings = assemble(images, whole, pixels.reasons, detection, neighbors, repeats)
    return findings, features


def _whole_rows(images: ImageSet, pixels: Pixels) -> NDArray[np.int64]:
    """The rows of the images that can be read; at least two classes must be left."""
    whole = np.flatnonzero(pixels.usable)
    left = np.unique(np.asarray(images.labels)[whole])
    if len(left[left >= 0]) < 2:
        row = int(np.flatnonzero(~pixels.usable)[0])
        raise DataError(
            f"{images.source}: {len(images) - len(whole)} of {len(images)} images cannot be read, "
            f"and fewer than two classes are left. The first is {images.ids[row]}: "
            f"{pixels.reasons[row]}."
        )
    return whole
