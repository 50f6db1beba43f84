"""Named settings of detection. `labelsieve recipes` prints what stands here."""

from __future__ import annotations

from collections.abc import Callable

from labelsieve.methods.sncf.paper import PaperDetection
from labelsieve.methods.sncf.robust import RobustDetection


def robust() -> RobustDetection:
    """The default: for any number of classes, any noise or none, with probabilities.

    Run:      labelsieve audit photos/ --out run/
    Measured: docs/results.md, "Quality of the audit".
    """
    return RobustDetection()


def paper() -> PaperDetection:
    """The published rules with the constants of CIFAR-100 (500 images a class).

    Run:      labelsieve audit photos/ --recipe paper --features contrastive.npy --out run/
    Measured: docs/results.md, "Quality of the audit". It was made for features of a long
    contrastive training and for many classes; elsewhere prefer `robust`.
    """
    return PaperDetection()


def paper_webvision() -> PaperDetection:
    """The published rules with the constants of mini-WebVision (about 1,300 images a class).

    Run:      labelsieve audit photos/ --recipe paper-webvision --features f.npy --out run/
    Measured: not yet.
    """
    return PaperDetection(min_samples=100, min_cluster_size=50, cautious=True)


def paper_cnwl() -> PaperDetection:
    """The published split for web noise (CNWL): one mixture for the whole set, nothing mislabeled.

    The authors chose covariance=full for noise rates of 40 and 60 %, and diag for 20 and 80 %.

    Run:      labelsieve audit photos/ --recipe paper-cnwl --features contrastive.npy --out run/
    Measured: not yet.
    """
    return PaperDetection(split="mixture")


RECIPES: dict[str, Callable[[], RobustDetection | PaperDetection]] = {
    "robust": robust,
    "paper": paper,
    "paper-webvision": paper_webvision,
    "paper-cnwl": paper_cnwl,
}
