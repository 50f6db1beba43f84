"""Settings of a clustering, and the named ones: `labelsieve cluster --recipe NAME`.

Where paper and authors' code disagree, the code is followed, and docs/clustering.md says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from labelsieve.data.augment import Contrastive
from labelsieve.data.strong import Strong
from labelsieve.errors import ConfigError
from labelsieve.features import recipes as pretraining
from labelsieve.features.dictionary import Dictionary
from labelsieve.features.pretrain import Pretrain
from labelsieve.features.refine import Refine
from labelsieve.loop.optimizers import Optimizer
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.train import Training
from labelsieve.methods.scan.heads import HeadTraining, Scaling, temi_heads
from labelsieve.methods.scan.network import ScanTraining, adam
from labelsieve.methods.scan.number import NumberSettings
from labelsieve.methods.scan.self_labels import SelfLabels
from labelsieve.neighbors.duplicates import Duplicates


@dataclass(frozen=True)
class Cluster:
    """Settings of a clustering: which phases it has, and what they stand on."""

    heads: HeadTraining | None = field(default_factory=HeadTraining)  # on rows that do not change
    scan: ScanTraining | None = None  # of a network
    self_labels: SelfLabels | None = None  # of a network
    # What heads stand on: the features, or what the network itself gives, of any length.
    rows: Literal["features", "network"] = "features"
    n_views: int = 0  # augmented views of each image that heads learn from; 0: the image as it is
    views: Contrastive = field(default_factory=Contrastive)  # those
    n_neighbors: int = 20  # of each image to learn from, among those
    n_valid_neighbors: int = 5  # of each held out image, among those
    valid_share: float = 0.1  # of the images, held out; unless --valid gives others
    # How large the clusters should be. estimated: as the neighbor graph falls apart into so many.
    prior: Literal["equal", "estimated"] = "equal"
    n_kmeans_runs: int = 10  # of the baseline, the best by inertia; 0: no baseline
    number: NumberSettings = field(default_factory=NumberSettings)  # of --classes auto
    dictionary: Dictionary = field(default_factory=Dictionary)  # of the features, unless given
    pretrain: Pretrain | None = None  # of the features, and of the network
    refine: Refine | None = None  # of the features by their neighbors, after pretraining
    duplicates: Duplicates = field(default_factory=Duplicates)

    def __post_init__(self) -> None:
        if self.heads is None and self.scan is None:
            raise ConfigError("heads and scan are both none; there is nothing that makes clusters.")
        if self.self_labels is not None and self.scan is None and self.rows != "network":
            raise ConfigError(
                f"self_labels train a network, and nothing puts heads on it: scan is none and rows "
                f"is {self.rows}. Set rows=network, or take a --recipe with scan."
            )
        if self.prior == "estimated" and self.heads and self.heads.objective != "scan":
            raise ConfigError(
                f"prior is estimated and heads.objective {self.heads.objective}; a prior goes with "
                "scan only. Set prior=equal or heads.objective=scan."
            )
        for name, least in (
            ("n_neighbors", 1), ("n_valid_neighbors", 1), ("n_views", 0), ("n_kmeans_runs", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} or more.")
        if not 0 < self.valid_share <= 0.5:
            raise ConfigError(f"valid_share is {self.valid_share}; it lies in (0, 0.5].")
        if self.heads is not None and self.heads.n_neighbors > self.n_neighbors:
            raise ConfigError(
                f"heads.n_neighbors is {self.heads.n_neighbors} of n_neighbors={self.n_neighbors}."
            )

    @property
    def needs_network(self) -> bool:
        """Whether a phase trains a network, or heads stand on one."""
        return self.scan is not None or self.self_labels is not None or self.rows == "network"

    @property
    def clean_size(self) -> int | None:
        """Side of what a trained network is shown of an image as it is, pixels."""
        phase = self.scan or self.self_labels
        return None if phase is None else phase.clean_size


def heads() -> Cluster:
    """SCAN's objective on features that stay as they are: seconds on a CPU. The default.

    Run:      labelsieve cluster photos/ --classes 10 --out run
              labelsieve cluster photos/ --features dino.npy --classes 10 --out run
    Measured: docs/results.md, "Clustering frozen features".
    """
    return Cluster()


def temi() -> Cluster:
    """TEMI's objective on features that stay as they are.

    Run:      labelsieve cluster photos/ --features dino.npy --recipe temi --classes 10 --out run
    Paper:    94.5 % on CIFAR-10 with features of DINO's ViT-B, 96.9 % with CLIP's ViT-L.
    Measured: docs/results.md, "Clustering frozen features".
    """
    return Cluster(heads=temi_heads(), n_neighbors=50)


def cpu() -> Cluster:
    """A small network is trained on the images and refined by neighbors, then heads: on a CPU.

    Run:      labelsieve cluster photos/ --recipe cpu --classes 10 --out run
    Measured: docs/results.md, "Clustering with a network trained on a CPU".
    """
    return Cluster(pretrain=pretraining.cpu(), refine=Refine())


def scan_cpu() -> Cluster:
    """All of SCAN's phases with a small network on a CPU.

    Heads begin on the network as it is; then all of it is trained with them, in the mild views of
    its pretraining; then self-labels, each the mean over an image and its neighbors.

    Run:      labelsieve cluster photos/ --recipe scan-cpu --classes 5 --out run
    Measured: docs/results.md, "All phases on a CPU".
    """
    views = Contrastive(size=24)  # as in pretraining
    step = Training(
        epochs=4, batch_size=256, precision="fastest",
        learning_rate=LearningRate(peak=1e-3, warmup=0.05, final=0.0),
        optimizer=Optimizer("adam", weight_decay=1e-4),
    )  # fmt: skip
    # Every image is learned from: of the surest alone, borders between clusters move.
    self_labels = SelfLabels(
        augmentation="contrastive", contrastive=views, n_neighbors=20, smallest_share=1.0,
        largest_share=1.0, training=replace(Refine().training, epochs=6),
    )  # fmt: skip
    return Cluster(
        scan=ScanTraining(augmentation="contrastive", contrastive=views, training=step),
        self_labels=self_labels,
        rows="network",
        pretrain=replace(pretraining.cpu(), rows="head", most_updates=1200),
    )  # fmt: skip


def scan_cifar10() -> Cluster:
    """SCAN on CIFAR-10: SimCLR of 500 epochs, SCAN of 50, self-labels of 200; wants a GPU.

    Run:      labelsieve cluster photos/ --recipe scan-cifar10 --classes 10 --device cuda --out run
    Paper:    81.8 % after SCAN, 87.6 % after self-labels (means of ten runs).
    Measured: not yet at full length.
    """
    return _small(epochs=50, batch_size=128, self_epochs=200)


def scan_cifar20() -> Cluster:
    """SCAN on CIFAR-100's 20 superclasses: as on CIFAR-10, with larger batches for longer.

    Run:      labelsieve cluster photos/ --recipe scan-cifar20 --classes 20 --device cuda --out run
    Paper:    42.2 % after SCAN, 45.9 % after self-labels (means of ten runs).
    Measured: not yet.
    """
    made = _small(epochs=100, batch_size=512, self_epochs=200)
    return replace(made, pretrain=replace(pretraining.cifar_simclr(), normalization="cifar100"))


def scan_stl10() -> Cluster:
    """SCAN on STL-10, pictures of 96 pixels.

    Run:      labelsieve cluster photos/ --recipe scan-stl10 --classes 10 --device cuda --out run
    Paper:    75.5 % after SCAN, 76.7 % after self-labels (means of ten runs).
    Measured: not yet.
    """
    size = 96
    made = _small(epochs=100, batch_size=128, self_epochs=100, size=size, largest_hole=32)
    pretext = replace(
        pretraining.cifar_simclr(), network="stl-resnet18", image_size=size,
        views=Contrastive(size=size), normalization="imagenet",
    )  # fmt: skip
    return replace(made, pretrain=pretext)


def scan_imagenet50() -> Cluster:
    """SCAN on 50 classes of ImageNet: heads on a frozen ResNet-50 of MoCo's, then self-labels.

    Run:      labelsieve cluster photos/ --recipe scan-imagenet50 --classes 50
              --network moco_v2_800ep_pretrain.pth.tar --device cuda --out run
    Paper:    75.1 % after SCAN, 76.8 % after self-labels.
    Measured: not yet.
    """
    return _imagenet(batch_size=512)


def scan_imagenet100() -> Cluster:
    """SCAN on 100 classes of ImageNet: as on 50, with larger batches.

    Run:      as scan-imagenet50, with --classes 100
    Paper:    66.2 % after SCAN, 68.9 % after self-labels.
    Measured: not yet.
    """
    return _imagenet(batch_size=1024)


def scan_imagenet200() -> Cluster:
    """SCAN on 200 classes of ImageNet: as on 100.

    Run:      as scan-imagenet50, with --classes 200
    Paper:    56.3 % after SCAN, 58.1 % after self-labels.
    Measured: not yet.
    """
    return _imagenet(batch_size=1024)


def scan_imagenet1000() -> Cluster:
    """SCAN on all of ImageNet: heads alone, in batches that hold every class some times.

    Run:      as scan-imagenet50, with --classes 1000
    Paper:    39.9 % (NMI 72.0, AMI 51.2), without self-labels.
    Measured: not yet.
    """
    return replace(_imagenet(batch_size=4096), self_labels=None)


def _small(
    epochs: int, batch_size: int, self_epochs: int, size: int = 32, largest_hole: int = 16
) -> Cluster:
    """The paper's way with small pictures: all of the network is trained, one head."""
    strong = Strong(size=size, largest_hole=largest_hole)
    return Cluster(
        heads=None,
        scan=ScanTraining(strong=strong, clean_size=size, training=_fast(adam(epochs, batch_size))),
        self_labels=SelfLabels(
            teacher="itself", rule="threshold", strong=strong, clean_size=size,
            training=_fast(adam(self_epochs, 1000)),
        ),
        pretrain=pretraining.cifar_simclr(),
    )  # fmt: skip


def _imagenet(batch_size: int) -> Cluster:
    """The paper's way with photographs: ten heads on a frozen network, then self-labels of it all.

    The views that heads learn from are made once, ten of each image, and not anew in each of 100
    epochs. Self-labels: the authors' "EMA" is a thousandth of the rate with batch norms that keep
    their statistics; here it is said so.
    """
    strong = Strong(size=224, largest_hole=75)
    return Cluster(
        heads=HeadTraining(
            n_neighbors=50, symmetric=False, scaling=Scaling(center=False, size=0.0),
            largest_difference=0.0, least_updates=0,
            training=Training(
                epochs=100, batch_size=batch_size,
                learning_rate=LearningRate(peak=5.0, shape="constant"),
                optimizer=Optimizer("sgd", weight_decay=0.0),
            ),
        ),
        self_labels=SelfLabels(
            teacher="itself", rule="threshold", balanced=False, frozen_norms=True,
            strong=strong, clean_size=224,
            training=Training(
                epochs=25, batch_size=512,
                learning_rate=LearningRate(peak=3e-5, shape="constant"),
                optimizer=Optimizer("sgd", weight_decay=0.0), precision="fastest",
            ),
        ),
        rows="network",
        n_views=10,
        views=Contrastive(size=224),
        n_neighbors=50,
        pretrain=pretraining.imagenet_moco(),
    )  # fmt: skip


def _fast(training: Training) -> Training:
    return replace(training, precision="fastest")


RECIPES: dict[str, Callable[[], Cluster]] = {
    "heads": heads,
    "temi": temi,
    "cpu": cpu,
    "scan-cpu": scan_cpu,
    "scan-cifar10": scan_cifar10,
    "scan-cifar20": scan_cifar20,
    "scan-stl10": scan_stl10,
    "scan-imagenet50": scan_imagenet50,
    "scan-imagenet100": scan_imagenet100,
    "scan-imagenet200": scan_imagenet200,
    "scan-imagenet1000": scan_imagenet1000,
}
