"""Named settings of a training: what is learned (`--recipe`), and what learns it (`--model`).

Any recipe goes with any model: the data path and the budget are the model's, so that recipes can be
compared. What a recipe changes of a model, and the other way round, is in `fitted`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from labelsieve.data.augment import Contrastive, Weak
from labelsieve.errors import ConfigError, did_you_mean
from labelsieve.features.recipes import cpu as cpu_pretraining
from labelsieve.loop.optimizers import Optimizer
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.train import Training
from labelsieve.methods.sncf.classify import Classify, sgd
from labelsieve.methods.sncf.dividemix import DivideMix
from labelsieve.methods.sncf.paper_training import Paper
from labelsieve.methods.sncf.plain_training import Plain
from labelsieve.methods.sncf.robust_training import Robust

Objective = Robust | Paper | Plain | DivideMix
Rows = Literal["features", "images"]
Start = Literal["scratch", "pretrained"]
Colors = Literal["network", "cifar10", "cifar100", "imagenet", "mini-imagenet"]


@dataclass(frozen=True)
class Model:
    """What is trained, how it is shown images, and for how long. Defaults: SNCF's on CIFAR."""

    rows: Rows = "images"  # features: a classifier on features that stay as they are
    n_hidden: int = 0  # of rows features: width of a hidden layer; 0: none
    # Of rows features: what is added to them while they are learned, as a share of their spread.
    noise: float = 0.0
    network: str | None = "preact-resnet18"  # by its name; None: that which is given, or none
    start: Start = "scratch"  # new weights, or those that the network was trained to before
    image_size: int = 32  # side of the images that views are cut from, pixels
    normalization: Colors = "network"  # of pixels; network: as the network expects
    # Updates of the weights: as many epochs as they take, where training.epochs would be fewer, or
    # more. 0: training.epochs, whatever the number of images.
    least_updates: int = 0
    most_updates: int = 0
    classify: Classify = field(default_factory=Classify)

    def __post_init__(self) -> None:
        known = (("rows", Rows), ("start", Start), ("normalization", Colors))
        for name, choices in known:
            if getattr(self, name) not in get_args(choices):
                listed = ", ".join(get_args(choices))
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected one of {listed}.")
        for name in ("n_hidden", "noise", "least_updates", "most_updates"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        if 0 < self.most_updates < self.least_updates:
            raise ConfigError(
                f"least_updates is {self.least_updates} and most_updates {self.most_updates}; "
                "expected no more than that. Lower the one or raise the other."
            )
        view = self.classify.weak.size - 2 * self.classify.weak.padding
        if self.rows == "images" and self.image_size < view:
            raise ConfigError(
                f"image_size is {self.image_size}, and views of {self.classify.weak.size} pixels "
                f"are cut with a padding of {self.classify.weak.padding}; at least {view} are "
                "needed. Raise image_size or lower classify.weak.size."
            )


def fitted(recipe: str, model: str) -> Model:
    """A model with its objective, both by name, and what either changes of the other.

    Args:
        recipe: of `OBJECTIVES`.
        model: of `MODELS`.

    Raises:
        ConfigError: there is no such recipe or model; the near ones are named.

    Example:
        >>> fitted("paper", "cnwl").classify.objective.contrast_by_share
        True
    """
    if recipe not in OBJECTIVES:
        raise ConfigError(f"there is no recipe {recipe!r}. {did_you_mean(recipe, OBJECTIVES)}")
    if model not in MODELS:
        raise ConfigError(f"--model: there is no {model!r}. {did_you_mean(model, MODELS)}")
    objective, made = OBJECTIVES[recipe](), MODELS[model]()
    if isinstance(objective, Paper) and model == "cnwl":
        objective = replace(objective, contrast_by_share=True)
    if isinstance(objective, DivideMix) and made.start == "pretrained":
        objective = replace(objective, second="copy")
    classify = replace(made.classify, objective=objective)
    if not isinstance(objective, Robust | Paper):
        classify = replace(classify, projection="none")  # nothing is contrasted
    if isinstance(objective, Robust):
        classify = _modern(classify)
    on_all = isinstance(objective, Plain) and objective.on == "all"
    if on_all and made.rows == "features":
        # Half of them: twice as many fit wrong labels (mixup, 40 % of them wrong: .736 and .690).
        epochs = -(-classify.training.epochs // 2)
        classify = replace(classify, training=replace(classify.training, epochs=epochs))
    return replace(made, classify=classify)


def robust() -> Robust:
    """The default: audit and network tell together what each image is; nothing is certain.

    Run:      labelsieve train photos/ --out model/
              labelsieve train photos/ --model cpu --test checked/ --out model/
    Measured: docs/results.md, "Training"; what each part buys is in docs/training.md. A model with
    a published schedule gets a cosine in place of its cuts, and averaged weights that predict.
    """
    return Robust()


def paper() -> Paper:
    """SNCF as published: clean images, guesses for mislabeled ones, all of them contrasted.

    Run:      labelsieve train photos/ --recipe paper --model cifar --device cuda --out model/
    Paper:    SNCF, stage B.
    Measured: docs/results.md, "Training". Differs from the authors' code where docs/training.md
    says so: batches of few or no mislabeled or foreign images, and the last epoch counts.
    """
    return Paper()


def plain() -> Plain:
    """Cross-entropy with the labels as they are: what everything is compared with.

    Run:      labelsieve train photos/ --recipe plain --out model/
    Measured: docs/results.md, "Training".
    """
    return Plain()


def mixup() -> Plain:
    """Cross-entropy of mixed pairs of images, labels as they are (Zhang et al., ICLR 2018).

    Run:      labelsieve train photos/ --recipe mixup --out model/
    Measured: docs/results.md, "Training". Factors are of Beta(1, 1), as SNCF's.
    """
    return Plain(alpha=1.0)


def gce() -> Plain:
    """Generalized cross-entropy, q = 0.7 (Zhang and Sabuncu, NeurIPS 2018), on all labels.

    Run:      labelsieve train photos/ --recipe gce --out model/
    Measured: docs/results.md, "Training". Differs from the paper: the schedule is the model's, and
    images are not left out by their loss (their "truncated" form).
    """
    return Plain(loss="gce")


def elr() -> Plain:
    """Early-learning regularization (Liu et al., NeurIPS 2020), on all labels.

    Run:      labelsieve train photos/ --recipe elr --out model/
              with 100 classes: --set classify.objective.strength=7 and ...keep=0.9, as in the paper
    Measured: docs/results.md, "Training". Differs from the paper: the schedule is the model's; one
    network, not the two of ELR+.
    """
    return Plain(loss="elr")


def dividemix() -> DivideMix:
    """Two networks that tell each other which labels are right, after Li et al., ICLR 2020.

    Run:      labelsieve train photos/ --recipe dividemix --model cifar --device cuda --out model/
    Measured: docs/results.md, "Training". Differs from the paper: the schedule is the model's, and
    both networks learn at every step. An epoch costs 5.9 times a plain one. Short trainings of
    networks fail with half of the labels wrong: all images end in one class (3,000 of four classes,
    320 updates: 27 % right, plain training 52 %). A warm-up of half the updates or more keeps it
    from that and does not mend it: 46 to 50 %; in 460 updates 52 %, plain 56 %. Take `plain` or
    `robust` there. On features it does not fail.
    """
    return DivideMix()


def clean() -> Plain:
    """Cross-entropy on the images alone whose label the audit believes.

    Run:      labelsieve train photos/ --recipe clean --out model/
    Measured: docs/results.md, "Training".
    """
    return Plain(on="clean")


def clean_mixup() -> Plain:
    """As `clean`, with mixed pairs.

    Run:      labelsieve train photos/ --recipe clean-mixup --out model/
    Measured: docs/results.md, "Training".
    """
    return Plain(on="clean", alpha=1.0)


def features() -> Model:
    """A classifier with one hidden layer on features that stay as they are: seconds on a CPU.

    Run:      labelsieve train photos/ --test checked/ --out model/
              labelsieve train photos/ --features dino.npy --out model/
    Measured: docs/results.md, "Training": 12 to 22 CPU-seconds for 50,000 rows of 384 columns. A
    linear classifier was 1 to 2.5 points worse at every noise level, rows without noise 1.
    """
    return Model(
        rows="features",
        n_hidden=512,
        noise=0.5,
        network=None,
        least_updates=400,
        classify=Classify(
            projection="none",
            average=0.99,
            training=Training(
                epochs=16, batch_size=512,
                learning_rate=LearningRate(peak=2e-3, warmup=0.1, start=0.0, final=0.0),
                optimizer=Optimizer("adamw", second_momentum=0.98, weight_decay=1e-4),
            ),
        ),
    )  # fmt: skip


def cpu() -> Model:
    """A small network from new weights: minutes on a CPU, for pictures of about 32 pixels.

    Run:      labelsieve train photos/ --model cpu --test checked/ --out model/
    Measured: docs/results.md, "Training".
    """
    return Model(
        network="small-preact",
        least_updates=600,
        most_updates=3000,
        classify=Classify(
            strong=Contrastive(),
            projection="small",
            average=0.99,
            clean_norms=2000,
            test_every=0,
            training=Training(
                epochs=40, batch_size=256,
                learning_rate=LearningRate(peak=0.05, warmup=0.05, start=0.0, final=0.0),
                # as in pretraining: 600 updates were better than 1,800 of SGD
                optimizer=cpu_pretraining().training.optimizer,
                precision="fastest",
            ),
        ),
    )  # fmt: skip


def cifar() -> Model:
    """SNCF's network and schedule for pictures of 32 pixels: PreAct ResNet-18, 100 epochs; a GPU.

    Run:      labelsieve train photos/ --recipe paper --model cifar --device cuda --out model/
              for CIFAR-100: --set normalization=cifar100
    Paper:    SNCF, stage B: batches of 256, SGD at 0.1, a tenth of it from epochs 50 and 80 on.
    Measured: not yet at full length.
    """
    return Model(classify=Classify(training=_published(100, 256)))


def cnwl() -> Model:
    """As `cifar`, for web noise: mini-ImageNet of CNWL at 32 pixels, in its colors; a GPU.

    Run:      labelsieve train photos/ --recipe paper --model cnwl --device cuda --out model/
    Paper:    61.6, 59.9, 54.9 and 45.6 % at 20, 40, 60 and 80 % noise, the best epoch on the test
    images. The command is not published: the schedule is that of CIFAR. With `--recipe paper` the
    contrastive loss weighs as much as the share of images that are foreign, 0.5 if none is.
    Measured: not yet.
    """
    return Model(normalization="mini-imagenet", classify=Classify(training=_published(100, 256)))


def webvision() -> Model:
    """SNCF's network for mini-WebVision: Inception-ResNet-v2 at 227 of 256 pixels; several GPUs.

    Run:      torchrun --nproc-per-node 4 -m labelsieve train photos/ --recipe paper
              --model webvision --device cuda --out model/
    Paper:    78.2 % on WebVision, 74.2 % on ImageNet, one network, the best epoch. The command is
    not published. Epochs and cuts are those of SNCF on CIFAR; batches of 64 and the rate of 0.02
    are those of PLS-LSA, by the same author with the same network: there a cosine of 130 epochs
    (DSOS, before: batches of 32, 0.01, cuts as here).
    Measured: not yet.
    """
    return Model(
        network="inception-resnet-v2",
        image_size=256,
        classify=Classify(
            weak=Weak(size=227),
            strong=Contrastive(size=227, smallest_crop=0.08),
            training=_published(100, 64, peak=0.02),
        ),
    )


def finetune() -> Model:
    """A pretrained network learns on, at 224 of 256 pixels or at its own sizes; wants a GPU.

    Run:      labelsieve train photos/ --model finetune --network pretrained/ --device cuda
              --out model/
              where pretrained/ is what `labelsieve features --pretrain` wrote
    Measured: not yet. AdamW at a rate that a pretrained network of either kind, with batch norms or
    without, stands; the weights that predict are averages.
    """
    return Model(
        network=None,
        start="pretrained",
        image_size=256,
        most_updates=20_000,
        classify=Classify(
            weak=Weak(size=224, padding=0),
            strong=Contrastive(size=224),
            projection="small",
            average=0.999,
            training=Training(
                epochs=20, batch_size=64,
                learning_rate=LearningRate(peak=1e-4, warmup=0.05, start=0.0, final=0.0),
                optimizer=Optimizer("adamw", weight_decay=0.05),
                largest_gradient=1.0,
                precision="fastest",
            ),
        ),
    )  # fmt: skip


def _modern(classify: Classify) -> Classify:
    """A cosine where the rate is cut, and averaged weights where none are averaged (as in PLS)."""
    rate = classify.training.learning_rate
    if rate.shape == "steps":
        rate = replace(rate, shape="cosine", cuts=(), final=0.0)
    training = replace(classify.training, learning_rate=rate)
    return replace(classify, training=training, average=classify.average or 0.999)


def _published(epochs: int, batch_size: int, peak: float = 0.1) -> Training:
    """SNCF's training, in mixed precision as there."""
    training = replace(sgd(epochs, batch_size), precision="fastest")
    return replace(training, learning_rate=replace(training.learning_rate, peak=peak))


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "robust": robust,
    "paper": paper,
    "plain": plain,
    "mixup": mixup,
    "gce": gce,
    "elr": elr,
    "dividemix": dividemix,
    "clean": clean,
    "clean-mixup": clean_mixup,
}
MODELS: dict[str, Callable[[], Model]] = {
    "features": features,
    "cpu": cpu,
    "cifar": cifar,
    "cnwl": cnwl,
    "webvision": webvision,
    "finetune": finetune,
}
