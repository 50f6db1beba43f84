"""The phases of a clustering, in order, and what they share. Each is kept in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from labelsieve.clusters import Clusters, Part
from labelsieve.config import to_dict
from labelsieve.data.augment import clean_view, contrastive_view
from labelsieve.data.decode import Pixels, confirmed_hashes, decode_images
from labelsieve.data.draws import Draws
from labelsieve.data.sources import Source
from labelsieve.errors import DataError
from labelsieve.features.heads import ClusterHeads, cluster_probabilities
from labelsieve.features.saved import save_network
from labelsieve.features.views import view_rows
from labelsieve.features.weights import digest
from labelsieve.inputs import Inputs, Progress
from labelsieve.logs import EpochLog
from labelsieve.makers import PRETEXT, Encoder, encoder_of, keep_maker
from labelsieve.methods.scan.clusterer import one_head
from labelsieve.methods.scan.heads import row_probabilities, train_heads
from labelsieve.methods.scan.kmeans import assign, kmeans
from labelsieve.methods.scan.network import clean_logits, train_scan
from labelsieve.methods.scan.number import Evidence, number_of_classes
from labelsieve.methods.scan.prior import class_shares
from labelsieve.methods.scan.prototypes import prototypes
from labelsieve.methods.scan.recipes import Cluster
from labelsieve.methods.scan.self_labels import train_self_labels
from labelsieve.neighbors.duplicates import exact_duplicates, near_duplicates
from labelsieve.records import Features, ImageSet, Neighbors
from labelsieve.report.cluster_scores import ClusterScores, score_parts
from labelsieve.representation import FeatureMaker, pretrained_features
from labelsieve.run import Run
from labelsieve.runtime import Runtime
from labelsieve.stages import fitting_pixels, image_source, neighbors_of, rows_of, small_size
from labelsieve.train import Training
from labelsieve.trained import Trained, load_trained

KMEANS, HEADS, SCAN, SELF_LABELS = "k-means", "heads", "scan", "self-label"  # phases, as logged
Scored = dict[str, dict[str, ClusterScores]]  # phase -> part -> scores


@dataclass
class Rows:
    """The images that can be read, and what of them is trained on."""

    whole: NDArray[np.int64]  # (M,) rows of the set
    values: NDArray[np.float32]  # (M, D) their features
    train: NDArray[np.int64]  # places in `whole`
    valid: NDArray[np.int64]
    neighbors: Neighbors  # of `train`, among them
    valid_neighbors: Neighbors


@dataclass
class Job:
    """What all phases of a clustering share."""

    images: ImageSet
    held_out: NDArray[np.bool_] | None  # (N,) images that the user gave to choose by
    inputs: Inputs
    settings: Cluster
    run: Run
    progress: Progress
    warnings: list[str] = field(default_factory=list)
    scores: Scored = field(default_factory=dict)

    def clustered(
        self, make: FeatureMaker, n: int | Literal["auto"]
    ) -> tuple[Clusters, Scored, Evidence | None]:
        """All phases: the clusters, their scores where any class is known, and why so many."""
        pixels = self.decoded()
        features = self.features(make, pixels)
        maker = keep_maker(self.run, self.inputs, self.given_network())
        rows = self.rows(features, pixels)
        evidence, n_clusters = self.number(rows, n)
        copies = self.duplicates(pixels, rows)
        self.kmeans(rows, n_clusters)
        probabilities = self.phases(rows, n_clusters, pixels, maker)
        whole = Clusters.of_probabilities(
            [self.images.ids[row] for row in rows.whole], probabilities
        )
        shown = prototypes(rows.values, whole)
        everyone = np.full((len(self.images), n_clusters), np.nan, np.float32)
        everyone[rows.whole] = probabilities
        clusters = Clusters.of_probabilities(
            self.images.ids, everyone, self.parts(rows), duplicate_of=copies,
            prototypes=[int(rows.whole[row]) if row >= 0 else -1 for row in shown],
            warnings=self.warnings,
        )  # fmt: skip
        return clusters, self.scores, evidence

    def given_network(self) -> Trained | None:
        """The network that the user named, if any."""
        if self.inputs.network is None:
            return None
        return load_trained(self.inputs.network, self.settings.pretrain)

    def decoded(self) -> Pixels:
        """All images at a small size."""
        pretext = self.settings.pretrain
        size = small_size(self.settings.dictionary, pretext.image_size if pretext else None)
        with self.run.stage("decode"):
            pixels = decode_images(
                self.images, size, path=self.run.checkpoint / "pixels.npy",
                progress=partial(self.progress, "decode"),
            )  # fmt: skip
        if pixels.usable.sum() < 4:
            row = int(np.flatnonzero(~pixels.usable)[0]) if not pixels.usable.all() else -1
            first = f", such as {self.images.ids[row]}: {pixels.reasons[row]}" if row >= 0 else ""
            raise DataError(
                f"{self.images.source}: {int(pixels.usable.sum())} of {len(self.images)} images "
                f"can be read{first}. A clustering needs some dozens of images a cluster."
            )
        return pixels

    def features(self, make: FeatureMaker, pixels: Pixels) -> Features:
        """One row for each image that can be read."""
        with self.run.stage("features"):
            return self.run.cached(
                self.run.path / "features.npy",
                lambda: make(self.images, pixels, self.run, self.progress),
                Features.save,
                Features.load,
            )

    def rows(self, features: Features, pixels: Pixels) -> Rows:
        """Which images are trained on, and the neighbors of each among its own part."""
        whole = np.flatnonzero(pixels.usable)
        values = rows_of(features, self.images, whole)
        train, valid = self.split(whole)
        with self.run.stage("neighbors"):
            neighbors = self.neighbors(values, train, self.settings.n_neighbors, "neighbors")
            others = self.neighbors(values, valid, self.settings.n_valid_neighbors, "valid")
        return Rows(whole, values, train, valid, neighbors, others)

    def split(self, whole: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of those to learn from, and of those to choose by."""
        if self.held_out is not None:
            out = self.held_out[whole]
        else:
            n = max(2, round(self.settings.valid_share * len(whole)))
            out = np.zeros(len(whole), bool)
            out[np.random.default_rng(self.inputs.seed).permutation(len(whole))[:n]] = True
        parts = np.flatnonzero(~out), np.flatnonzero(out)
        for name, places in zip(("to learn from", "held out"), parts, strict=True):
            if len(places) < 2:
                raise DataError(
                    f"{self.images.source}: {len(places)} readable images are {name}; at least 2 "
                    "are needed, and some dozens a cluster to be worth it."
                )
        return parts

    def neighbors(
        self, values: NDArray[np.float32], rows: NDArray[np.int64], n: int, name: str
    ) -> Neighbors:
        """The nearest of some rows among them."""
        return self.run.cached(
            self.run.checkpoint / f"{name}.npz",
            lambda: neighbors_of(
                values[rows], n, seed=self.inputs.seed, run=self.run, progress=self.progress
            ),
            Neighbors.save,
            Neighbors.load,
        )

    def number(self, rows: Rows, n: int | Literal["auto"]) -> tuple[Evidence | None, int]:
        """How many clusters."""
        if n != "auto":
            if n > len(rows.train):
                raise DataError(
                    f"{n} clusters of {len(rows.train)} images to learn from. Ask for fewer."
                )
            return None, n
        with self.run.stage("number"):
            evidence = number_of_classes(
                rows.values[rows.train], rows.neighbors, self.settings.number,
                seed=self.inputs.seed, progress=partial(self.progress, "number"),
            )  # fmt: skip
        if not evidence.is_clear:
            self.warnings.append(evidence.sentence)
        return evidence, evidence.chosen

    def duplicates(self, pixels: Pixels, rows: Rows) -> NDArray[np.int64]:
        """(N,) the image that each repeats: pixel for pixel in all parts, nearly in its own."""
        with self.run.stage("duplicates"):
            exact = exact_duplicates(confirmed_hashes(self.images, pixels)[rows.whole])
            found = exact.copy()
            for places, near in (
                (rows.train, rows.neighbors), (rows.valid, rows.valid_neighbors)
            ):  # fmt: skip
                of = near_duplicates(
                    pixels.values, near, exact_duplicates(same_pixels(exact)[places]),
                    self.settings.duplicates, rows.whole[places],
                )  # fmt: skip
                mine = (found[places] < 0) & (of >= 0)
                found[places[mine]] = places[of[mine]]
        everyone = np.full(len(self.images), -1, np.int64)
        everyone[rows.whole] = np.where(found >= 0, rows.whole[found], -1)
        return everyone

    def kmeans(self, rows: Rows, n_clusters: int) -> None:
        """The baseline: fitted on the images to learn from, all put to the nearest center."""
        n_runs = self.settings.n_kmeans_runs
        if not n_runs:
            return
        with self.run.stage("k-means"):
            fit = kmeans(rows.values[rows.train], n_clusters, n_runs=n_runs, seed=self.inputs.seed)
            found = assign(rows.values, fit.centers)
        self.run.note(kmeans={"n_runs": n_runs, "inertia": fit.inertia})
        self.score(KMEANS, rows, found[:, None], np.ones((len(found), 1), np.float32))

    def phases(
        self, rows: Rows, n_clusters: int, pixels: Pixels, maker: Mapping[str, Any]
    ) -> NDArray[np.float32]:
        """(M, C) what the last phase says of all readable images; its model is in the folder."""
        settings = self.settings
        prior = None
        if settings.prior == "estimated":
            prior = class_shares(
                rows.values[rows.train], rows.neighbors, n_clusters, seed=self.inputs.seed
            )
            self.run.note(prior=prior.tolist())
        network = self.network(pixels) if settings.needs_network else None
        heads, probabilities = None, None
        if settings.heads is not None:
            heads, probabilities = self.heads(rows, n_clusters, pixels, maker, network, prior)
            if network is None or settings.rows == "features":
                self.save_heads(heads, maker)
        if network is not None and (settings.scan is not None or settings.self_labels is not None):
            warm = heads if settings.rows == "network" else None
            return self.whole_network(network, warm, rows, n_clusters, pixels, prior)
        assert probabilities is not None  # noqa: S101 -- settings have heads or scan
        if network is not None and settings.rows == "network" and heads is not None:
            self.save_whole(network.backbone, heads, network)
        return probabilities

    def network(self, pixels: Pixels) -> Trained:
        """The pretrained network: of the features, or trained now beside features of another."""
        folder = self.run.path / PRETEXT
        if not (folder / "model.json").is_file():
            assert self.settings.pretrain is not None  # noqa: S101 -- seen to at the beginning
            learn = None if self.held_out is None else ~self.held_out
            with self.run.stage("pretrain"):
                pretrained_features(
                    self.images, pixels, self.settings.pretrain, self.inputs, self.run,
                    self.progress, learn, PRETEXT,
                )  # fmt: skip
        return load_trained(folder)

    def heads(
        self,
        rows: Rows,
        n_clusters: int,
        pixels: Pixels,
        maker: Mapping[str, Any],
        network: Trained | None,
        prior: NDArray[np.float64] | None,
    ) -> tuple[ClusterHeads, NDArray[np.float32]]:
        """Heads on rows that do not change, and what they say of all readable images."""
        settings = self.settings.heads
        assert settings is not None  # noqa: S101 -- asked by the caller
        encoder, values = None, rows.values
        with self.run.stage(HEADS):
            if self.settings.rows == "network" and network is not None:
                encoder = raw_encoder(network, self.inputs.device)
                values = self.views(encoder, rows.whole, pixels, 0)[0]
            views = None
            if self.settings.n_views:
                encoder = encoder or encoder_of(self.run.path, maker, self.inputs.device)
                learned = rows.whole[rows.train]
                views = self.views(encoder, learned, pixels, self.settings.n_views)
            found = train_heads(
                values[rows.train], rows.neighbors, n_clusters, settings,
                valid=values[rows.valid], valid_neighbors=rows.valid_neighbors, views=views,
                prior=prior, seed=self.inputs.seed,
                runtime=self.runtime(settings.training), folder=self.folder(HEADS),
                log=self.log(HEADS, settings.training), progress=partial(self.progress, HEADS),
            )  # fmt: skip
        self.run.note(heads={"valid_losses": list(found.losses), "agreement": found.agreement,
                             "chosen": found.chosen, "epoch": found.epoch})  # fmt: skip
        probabilities = row_probabilities(found.heads, values)
        self.done(HEADS, rows, probabilities, found.warnings)
        return found.heads, probabilities

    def views(
        self, encoder: Encoder, rows: NDArray[np.int64], pixels: Pixels, n_views: int
    ) -> NDArray[np.floating[Any]]:
        """(R, len(rows), D) of augmented views; of none, the image as it is, (1, len(rows), D)."""
        recipe = replace(self.settings.views, size=encoder.size)
        seed = self.inputs.seed

        def view(images: torch.Tensor, numbers: torch.Tensor, place: int) -> torch.Tensor:
            if not n_views:
                return clean_view(images, encoder.size, encoder.normalization)
            draws = Draws(seed, place, numbers, 0)
            return contrastive_view(images, recipe, draws, encoder.normalization)

        name = "views.npy" if n_views else "clean.npy"
        what = f"{encoder.name} at {encoder.size} px: {to_dict(recipe) if n_views else 'clean'}"
        size = pixels.values.shape[-1] if encoder.size <= pixels.values.shape[-1] else encoder.size
        return view_rows(
            self.source(pixels, size), rows, encoder.rows_of, view, max(1, n_views), seed=seed,
            path=self.run.checkpoint / name, device=self.inputs.device, made_by=what,
            progress=partial(self.progress, "views"),
        )  # fmt: skip

    def whole_network(
        self,
        network: Trained,
        heads: ClusterHeads | None,
        rows: Rows,
        n_clusters: int,
        pixels: Pixels,
        prior: NDArray[np.float64] | None,
    ) -> NDArray[np.float32]:
        """Phases that train the network, and what it says in the end of all readable images."""
        source = self.source(pixels, network.image_size)
        backbone, scan, after = network.backbone, self.settings.scan, self.settings.self_labels
        train, valid = rows.whole[rows.train], rows.whole[rows.valid]
        if scan is not None:
            with self.run.stage(SCAN):
                found = train_scan(
                    source, backbone, rows.neighbors, n_clusters, scan, rows=train,
                    valid_rows=valid, valid_neighbors=rows.valid_neighbors, heads=heads,
                    normalization=network.normalization, prior=prior, seed=self.inputs.seed,
                    runtime=self.runtime(scan.training), folder=self.folder(SCAN),
                    log=self.log(SCAN, scan.training), progress=partial(self.progress, SCAN),
                )  # fmt: skip
            backbone, heads = found.network, found.heads
            self.note_network(SCAN, found.epoch, found.loss)
            probabilities = self.said(source, backbone, heads, rows, network)
            self.done(SCAN, rows, probabilities, found.warnings)
        if after is not None:
            assert heads is not None  # noqa: S101 -- settings have heads or scan
            with self.run.stage(SELF_LABELS):
                found = train_self_labels(
                    source, backbone, surest(heads, self.run.about), after, rows=train,
                    valid_rows=valid, normalization=network.normalization,
                    seed=self.inputs.seed, runtime=self.runtime(after.training),
                    folder=self.folder(SELF_LABELS), log=self.log(SELF_LABELS, after.training),
                    progress=partial(self.progress, SELF_LABELS),
                )  # fmt: skip
            backbone, heads = found.network, found.heads
            self.note_network(SELF_LABELS, found.epoch, found.loss)
            probabilities = self.said(source, backbone, heads, rows, network)
            self.done(SELF_LABELS, rows, probabilities, found.warnings)
        assert heads is not None  # noqa: S101 -- there was a phase
        self.save_whole(backbone, heads, network)
        return probabilities

    def said(
        self,
        source: Source,
        backbone: nn.Module,
        heads: ClusterHeads,
        rows: Rows,
        network: Trained,
    ) -> NDArray[np.float32]:
        """(M, C) probabilities of all readable images as they are."""
        logits = clean_logits(
            backbone, heads, source, rows.whole, network.normalization, network.view_size,
            runtime=self.runtime(None),
        )  # fmt: skip
        return cluster_probabilities(logits).numpy()

    def source(self, pixels: Pixels, size: int) -> Source:
        """Where a network takes images from."""
        folder = self.run.checkpoint
        fitting = fitting_pixels(self.images, pixels, size, folder, self.progress)
        return image_source(self.images, fitting, size, folder, self.progress)

    def runtime(self, training: Training | None) -> Runtime:
        """Where a phase runs; to evaluate, in float32."""
        return Runtime.start(self.inputs.device, training.precision if training else "float32")

    def folder(self, phase: str) -> Path:
        """Of a phase's checkpoint."""
        folder = self.run.checkpoint / phase
        folder.mkdir(exist_ok=True)
        return folder

    def log(self, phase: str, training: Training) -> EpochLog:
        """Of a phase, in the run's log.jsonl."""
        events = self.run.path / "tensorboard" if training.tensorboard else None
        return EpochLog(self.run.path / "log.jsonl", phase, events)

    def done(
        self, phase: str, rows: Rows, probabilities: NDArray[np.float32], said: Sequence[str]
    ) -> None:
        """Score what a phase says, and keep what it warns of."""
        self.warnings += [f"{phase}: {sentence}" for sentence in said]
        if self.names is not None:
            found = Clusters.of_probabilities([""] * len(probabilities), probabilities)
            self.score(phase, rows, found.choices, found.probabilities, probabilities.shape[1])

    def score(
        self,
        phase: str,
        rows: Rows,
        choices: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        n_clusters: int | None = None,
    ) -> None:
        """Hold a phase against the classes, where they are known."""
        if self.names is None:
            return
        n = n_clusters or int(choices.max()) + 1
        found = Clusters(
            image=tuple(self.images.ids[row] for row in rows.whole),
            names=tuple(map(str, range(n))),
            choices=choices,
            probabilities=probabilities,
            part=self.parts(rows)[rows.whole],
            duplicate_of=np.full(len(rows.whole), -1, np.int64),
            prototypes=(-1,) * n,
        )
        self.scores[phase] = score_parts(found, [self.names[row] for row in rows.whole])

    @property
    def names(self) -> Sequence[str | None] | None:
        """The class of each image, if the set says any: its truth, else its labels."""
        if self.images.truth is not None:
            return self.images.truth
        if self.images.labels is None or (self.images.labels < 0).all():
            return None
        names = (*self.images.class_names, None)
        return [names[label] for label in self.images.labels.tolist()]

    def parts(self, rows: Rows) -> NDArray[np.int8]:
        """(N,) what each image was to the training."""
        parts = np.full(len(self.images), Part.BROKEN, np.int8)
        parts[rows.whole[rows.train]] = Part.TRAIN
        parts[rows.whole[rows.valid]] = Part.VALID
        return parts

    def note_network(self, phase: str, epoch: int, loss: float) -> None:
        """Which epoch was chosen."""
        self.run.note(**{phase.replace("-", "_"): {"epoch": epoch, "valid_loss": loss}})

    def save_heads(self, heads: ClusterHeads, maker: Mapping[str, Any]) -> None:
        """The model of a clustering of features: heads on rows."""
        save_network(self.run.path, heads.cpu(), {"kind": "features", "features": dict(maker)})

    def save_whole(self, backbone: nn.Module, heads: ClusterHeads, network: Trained) -> None:
        """The model of a clustering of images: a network and heads on it."""
        about = {
            "kind": "network",
            "image_size": network.image_size,
            "view_size": network.view_size,
            "normalization": network.normalization._asdict(),
        }
        parts = nn.ModuleDict({"backbone": backbone.cpu(), "heads": heads.cpu()})
        save_network(self.run.path, parts, about)


def same_pixels(exact: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(M,) equal numbers for images with the same pixels."""
    return np.where(exact >= 0, exact, np.arange(len(exact))).astype(np.uint64)


def surest(heads: ClusterHeads, about: Mapping[str, Any]) -> ClusterHeads:
    """The one of several heads that had the lowest validation loss."""
    if heads.settings.n_heads == 1:
        return heads
    return one_head(heads, int(about["heads"]["chosen"]))


def raw_encoder(network: Trained, device: str) -> Encoder:
    """What the network itself gives, of any length: what heads stand on in the paper."""
    module = network.backbone.to(device).eval()
    name = f"{type(module).__name__} {digest(module)}"
    return Encoder(
        lambda views: module(views).float(), network.view_size, network.normalization, name
    )
