"""Features refined by their neighbors, round by round, before clusters are made of them."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from labelsieve.clustering.job import Job, Rows
from labelsieve.clustering.rows import rows
from labelsieve.data.decode import Pixels
from labelsieve.features.contrast import Encoder
from labelsieve.features.extract import extract
from labelsieve.features.heads import small_head
from labelsieve.features.joint import JointModel, joint_features
from labelsieve.features.refine import Refine, refine
from labelsieve.features.weights import drawn_from
from labelsieve.files import atomic
from labelsieve.records import Features
from labelsieve.stages.makers import keep_network
from labelsieve.stages.sources import fitting_pixels
from labelsieve.stages.trained import JOINT, PRETEXT, Trained, as_backbone, load_trained

REFINE = "refine"  # phase, as logged, with the number of the round


def refined(job: Job, settings: Refine, pixels: Pixels, of: Rows) -> Rows:
    """The rows and neighbors after all rounds; the network is in the run's folder afterwards.

    Args:
        job: whose network is in its folder already.
        settings: of the rounds.
        pixels: of all images, at some small size.
        of: rows of the network as it was.
    """
    made = None
    before = job.run.path / PRETEXT
    for number in range(settings.rounds):
        folder = job.folder(f"{REFINE}-{number}")
        with job.run.stage(f"{REFINE} {number + 1}"):
            made = job.run.cached(
                folder / "features.npy",
                partial(_round, job, settings, pixels, of, before, folder, number),
                Features.save,
                Features.load,
            )
        of = rows(job, of.split, made, f"-{number}")
        before = folder
    assert made is not None  # noqa: S101 -- there is a round
    keep_network(job.run.path / PRETEXT, load_trained(before))
    made.save(job.run.path / "features.npy")
    return of


def _round(
    job: Job,
    settings: Refine,
    pixels: Pixels,
    of: Rows,
    before: Path,
    folder: Path,
    number: int,
) -> Features:
    """Train with neighbors, keep the network, and make the rows of all images anew."""
    # Read here and not by the caller, who needs it no more after a round: a run that was killed
    # while it wrote the refined network over this one has half of each.
    trained = load_trained(before)
    head = trained.head
    if head is None:
        with drawn_from(job.inputs.seed):
            head = small_head(int(trained.backbone.n_features))  # type: ignore[arg-type]
    encoder = refine(
        job.source(pixels, trained.image_size), Encoder(trained.backbone, head), of.neighbors,
        settings, rows=of.split.whole[of.split.train], normalization=trained.normalization,
        seed=job.inputs.seed + number, runtime=job.runtime(settings.training), folder=folder,
        log=job.log(f"{REFINE}-{number + 1}", settings.training), progress=job.tell(REFINE),
    )  # fmt: skip
    after = replace_network(trained, encoder)
    if trained.joint is None:
        keep_network(folder, after)
        after = load_trained(folder)  # as it is read back, so that a resumed run has the same bits
        return extract(
            job.images, as_backbone(after), device=job.inputs.device, progress=job.tell("features"),
            path=folder / "rows.npy",
        )  # fmt: skip
    keep_network(folder, after._replace(joint=None, rows="network"))
    network = load_trained(folder).backbone
    size = trained.image_size
    fitting = fitting_pixels(job.images, pixels, size, job.run.checkpoint, job.progress)
    found = joint_features(
        job.images, fitting, network, JointModel.load(trained.joint, trained.backbone).settings,
        learn=job.learn, seed=job.inputs.seed, device=job.inputs.device,
        progress=job.tell("features"), path=folder / "rows.npy",
    )  # fmt: skip
    with atomic(folder / JOINT) as partial_file:
        shutil.copyfile(folder / "rows.safetensors", partial_file)
    keep_network(folder, after._replace(joint=folder / JOINT))
    return found


def replace_network(trained: Trained, encoder: Encoder) -> Trained:
    """The same with another network and head, on the CPU."""
    return trained._replace(backbone=encoder.network.cpu(), head=encoder.head.cpu())
