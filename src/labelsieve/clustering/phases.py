"""The phases of a clustering in order, each kept in the run's folder: a killed run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from labelsieve.clustering.answers import clusters_of_set, network_probabilities
from labelsieve.clustering.job import Job, Rows
from labelsieve.clustering.refine import refined
from labelsieve.clustering.rows import (
    REFINED_KMEANS,
    baseline,
    decoded,
    duplicates,
    features,
    number,
    rows,
    split,
)
from labelsieve.config import to_dict
from labelsieve.data.augment import clean_view, contrastive_view
from labelsieve.data.decode import Pixels
from labelsieve.data.draws import Draws
from labelsieve.features.heads import ClusterHeads
from labelsieve.features.saved import save_network
from labelsieve.features.views import view_rows
from labelsieve.files import atomic
from labelsieve.loop.train import Training
from labelsieve.methods.scan.clusterer import one_head
from labelsieve.methods.scan.heads import TrainedHeads, row_probabilities, train_heads
from labelsieve.methods.scan.network import TrainedScan, train_scan
from labelsieve.methods.scan.number import Evidence
from labelsieve.methods.scan.prior import class_shares
from labelsieve.methods.scan.prototypes import prototypes
from labelsieve.methods.scan.self_labels import train_self_labels
from labelsieve.records.clusters import Clusters
from labelsieve.stages.makers import Encoder, encoder_of, keep_maker, raw_encoder
from labelsieve.stages.representation import FeatureMaker, pretrained_network
from labelsieve.stages.trained import PRETEXT, Trained, load_trained

HEADS, SCAN, SELF_LABELS = "heads", "scan", "self-label"  # phases, as logged


def clustered(
    job: Job, make: FeatureMaker, n: int | Literal["auto"], trained: Trained | None
) -> tuple[Clusters, Evidence | None]:
    """All phases: clusters of all images, and why so many where the number was not given.

    Args:
        job: what they share; scores and warnings are left in it.
        make: of the features.
        n: clusters, or "auto".
        trained: the network that the user named, if any.
    """
    pixels = decoded(job)
    parts = split(job, pixels, n)
    made = features(job, make, pixels)
    maker = keep_maker(job.run, job.inputs, trained)
    of = first = rows(job, parts, made)
    if job.settings.refine is not None:
        of = refined(job, job.settings.refine, pixels, first)
        trained = None  # the one that was refined is in the run's folder
    evidence, n_clusters = number(job, of, n)
    copies = duplicates(job, pixels, of)
    baseline(job, first, n_clusters)
    if of is not first:
        baseline(job, of, n_clusters, REFINED_KMEANS)
    prior = _prior(job, of, n_clusters)
    found = Trainings(job, of, n_clusters, pixels, maker, prior, trained).run_all()
    shown = prototypes(of.values, found)
    whole = of.split.whole
    clusters = clusters_of_set(
        job.images, whole, found, of.split.parts(len(job.images)), duplicate_of=copies,
        prototypes=tuple(int(whole[row]) if row >= 0 else -1 for row in shown),
        warnings=tuple(job.warnings),
    )  # fmt: skip
    return clusters, evidence


def _prior(job: Job, of: Rows, n_clusters: int) -> NDArray[np.float64] | None:
    """(C,) how large the clusters should be, where they need not be of one size."""
    if job.settings.prior == "equal":
        return None
    with job.run.stage("prior"):
        # kept: a second look may differ, as k-means on several threads does
        shares: NDArray[np.float64] = job.run.cached(
            job.run.checkpoint / "prior.npy",
            lambda: class_shares(
                of.values[of.split.train], of.neighbors, n_clusters, seed=job.inputs.seed
            ),
            _save_array,
            np.load,
        )
    job.run.note(prior=shares.tolist())
    return shares


def _save_array(values: NDArray[Any], path: Path) -> None:
    with atomic(path) as partial:
        np.save(partial, values)


@dataclass(frozen=True)
class Trainings:
    """The phases that train: heads, the whole network, self-labels."""

    job: Job
    of: Rows
    n_clusters: int
    pixels: Pixels
    maker: Mapping[str, Any]  # of the features
    prior: NDArray[np.float64] | None
    given: Trained | None  # the network that the user named

    def run_all(self) -> Clusters:
        """What the last phase says of all readable images; its model is in the folder."""
        settings = self.job.settings
        network = self.network() if settings.needs_network else None
        trained, said = None, None
        if settings.heads is not None:
            trained, said = self.heads(network if settings.rows == "network" else None)
        if network is not None and (settings.scan is not None or settings.self_labels is not None):
            return self.whole_network(network, trained if settings.rows == "network" else None)
        assert trained is not None and said is not None  # noqa: S101,PT018 -- settings see to it
        if network is not None and settings.rows == "network":
            self.save_whole(network.backbone, trained.heads, network, network.view_size)
        else:
            about = {"kind": "features", "features": dict(self.maker)}
            save_network(self.job.run.path, trained.heads.cpu(), about)
        return said

    def network(self) -> Trained:
        """The network to begin with: the user's, that of the features, or one trained now."""
        if self.given is not None:
            return self.given
        job, folder = self.job, self.job.run.path / PRETEXT
        if not (folder / "model.json").is_file():
            assert job.settings.pretrain is not None  # noqa: S101 -- seen to at the beginning
            settings = replace(job.settings.pretrain, rows="network")  # no others are made of it
            with job.run.stage("pretrain"):
                pretrained_network(
                    job.images, self.pixels, settings, job.inputs, job.run, job.progress,
                    job.learn, PRETEXT,
                )  # fmt: skip
        return load_trained(folder)

    def heads(self, network: Trained | None) -> tuple[TrainedHeads, Clusters]:
        """Heads on rows that do not change: on what the network gives, or else on the features."""
        job, of, settings = self.job, self.of, self.job.settings.heads
        assert settings is not None  # noqa: S101 -- asked by the caller
        encoder = None
        if network is not None:
            encoder = raw_encoder(network, job.settings.clean_size, job.inputs.device)
        learned, held_out = of.split.train, of.split.valid
        with job.run.stage(HEADS):
            values: NDArray[np.floating[Any]] = of.values
            if encoder is not None:
                values = self.views(encoder, of.split.whole, 0)[0]
            views = None
            if job.settings.n_views:
                encoder = encoder or encoder_of(job.run.path, self.maker, job.inputs.device)
                views = self.views(encoder, of.split.whole[learned], job.settings.n_views)
            found = train_heads(
                values[learned], of.neighbors, self.n_clusters, settings,
                valid=values[held_out], valid_neighbors=of.valid_neighbors, views=views,
                prior=self.prior, **self.where(HEADS, settings.training),
            )  # fmt: skip
            said = self.clusters(row_probabilities(found.heads, values))
        job.run.note(
            heads={
                "valid_losses": list(found.losses), "chosen": found.chosen, "epoch": found.epoch,
                "agreement": found.agreement if len(found.losses) > 1 else None,
            }
        )  # fmt: skip
        job.done(HEADS, of.split, said, found.warnings)
        return found, said

    def views(
        self, encoder: Encoder, images: NDArray[np.int64], n_views: int
    ) -> NDArray[np.floating[Any]]:
        """(R, len(images), D) of augmented views; of none, (1, len(images), D) of the images."""
        job, size = self.job, encoder.size
        recipe = replace(job.settings.views, size=size)
        seed = job.inputs.seed

        def view(those: torch.Tensor, numbers: torch.Tensor, place: int) -> torch.Tensor:
            if not n_views:
                return clean_view(those, size, encoder.normalization)
            draws = Draws(seed, place, numbers, 0)
            return contrastive_view(those, recipe, draws, encoder.normalization)

        what = to_dict(recipe) if n_views else "clean"
        return view_rows(
            job.source(self.pixels, encoder.image_size), images, encoder.rows_of, view,
            max(1, n_views), seed=seed, device=job.inputs.device,
            path=job.run.checkpoint / ("views.npy" if n_views else "clean.npy"),
            made_by=f"{encoder.name} at {size} of {encoder.image_size} px: {what}",
            progress=job.tell("views"),
        )  # fmt: skip

    def whole_network(self, network: Trained, trained: TrainedHeads | None) -> Clusters:
        """The phases that train the network, and what it says in the end."""
        scan, self_labels = self.job.settings.scan, self.job.settings.self_labels
        source = self.job.source(self.pixels, network.image_size)
        train = self.of.split.whole[self.of.split.train]
        valid = self.of.split.whole[self.of.split.valid]
        shared: dict[str, Any] = {
            "rows": train,
            "valid_rows": valid,
            "normalization": network.normalization,
        }
        backbone = network.backbone
        heads = None if trained is None else trained.heads
        if scan is not None:
            found, said = self.whole_phase(SCAN, network, scan.clean_size, lambda: train_scan(
                source, backbone, self.of.neighbors, self.n_clusters, scan, heads=heads,
                valid_neighbors=self.of.valid_neighbors, prior=self.prior,
                **shared, **self.where(SCAN, scan.training),
            ))  # fmt: skip
            backbone, heads, size = found.network, found.heads, scan.clean_size
        elif trained is not None:
            heads = one_head(trained.heads, trained.chosen)
        assert heads is not None  # noqa: S101 -- settings have scan, or heads on the network
        if self_labels is not None:
            size = self_labels.clean_size
            found, said = self.whole_phase(SELF_LABELS, network, size, lambda: train_self_labels(
                source, backbone, heads, self_labels, neighbors=self.of.neighbors,
                **shared, **self.where(SELF_LABELS, self_labels.training),
            ))  # fmt: skip
        self.save_whole(found.network, found.heads, network, size)
        return said

    def whole_phase(
        self, phase: str, network: Trained, size: int, train: Callable[[], TrainedScan]
    ) -> tuple[TrainedScan, Clusters]:
        """One training of the network, timed and scored, and what it then says of all images."""
        job, whole = self.job, self.of.split.whole
        with job.run.stage(phase):
            found = train()
            said = self.clusters(
                network_probabilities(
                    found.network, found.heads, job.source(self.pixels, network.image_size),
                    whole, network.normalization, size, device=job.inputs.device,
                    progress=job.tell("predict"),
                )
            )  # fmt: skip
        job.run.note(**{phase.replace("-", "_"): {"epoch": found.epoch, "valid_loss": found.loss}})
        job.done(phase, self.of.split, said, found.warnings)
        return found, said

    def where(self, phase: str, training: Training) -> dict[str, Any]:
        """Where a phase runs, what it draws from, and where it is kept."""
        return {
            "seed": self.job.inputs.seed,
            "runtime": self.job.runtime(training),
            "folder": self.job.folder(phase),
            "log": self.job.log(phase, training),
            "progress": self.job.tell(phase),
        }

    def clusters(self, probabilities: NDArray[np.float32]) -> Clusters:
        """Of the readable images, from (M, C) probabilities."""
        images, whole = self.job.images, self.of.split.whole
        ids = [images.ids[row] for row in whole]
        parts = self.of.split.parts(len(images))[whole]
        return Clusters.of_probabilities(ids, probabilities, parts)

    def save_whole(
        self, backbone: nn.Module, heads: ClusterHeads, network: Trained, view_size: int
    ) -> None:
        """The model of a clustering of images: a network and heads on it."""
        about = {
            "kind": "network",
            "image_size": network.image_size,
            "view_size": view_size,
            "normalization": network.normalization._asdict(),
        }
        parts = nn.ModuleDict({"backbone": backbone.cpu(), "heads": heads.cpu()})
        save_network(self.job.run.path, parts, about)
