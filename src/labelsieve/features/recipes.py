"""Named settings of pretraining: `labelsieve features --pretrain NAME`, `audit --pretrain NAME`."""

from __future__ import annotations

from collections.abc import Callable

from labelsieve.data.augment import Contrastive
from labelsieve.errors import ConfigError, did_you_mean
from labelsieve.features.pretrain import Pretrain
from labelsieve.loop.optimizers import Optimizer
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.train import Training


def cifar_simclr() -> Pretrain:
    """SimCLR on pictures of 32 pixels, as SCAN pretrains: ResNet-18, 500 epochs; wants a GPU.

    Run:      labelsieve features photos/ --pretrain cifar-simclr --device cuda --out photos.npy
    Paper:    SCAN 1.3; 65.9 % k-means accuracy on CIFAR-10 by its features.
    Measured: not yet at full length. Differs from the authors' code: NT-Xent is symmetric, and hue
    turns the color circle linearly (docs/pretraining.md).
    """
    return Pretrain(
        normalization="cifar10",
        training=Training(
            optimizer=Optimizer(decay_all=True),
            learning_rate=LearningRate(by_epoch=True),
            precision="fastest",
        ),
    )


def cifar_imix() -> Pretrain:
    """i-Mix with N-pairs on pictures of 32 pixels, as SNCF pretrains: PreAct ResNet-18; a GPU.

    Run:      labelsieve features photos/ --pretrain cifar-imix --device cuda --out photos.npy
    Paper:    SNCF, stage A: 2,000 epochs. The same authors' ResNet-18 after 4,000 epochs has 91.4 %
    200-NN accuracy on CIFAR-10.
    Measured: not yet at full length.
    """
    return Pretrain(
        network="preact-resnet18",
        head="sncf",
        objective="imix",
        temperature=0.2,
        normalization="cifar10",
        views=Contrastive(smallest_crop=0.08),
        training=Training(
            epochs=2000,
            batch_size=256,
            learning_rate=LearningRate(peak=0.01, shape="steps", cuts=(0.5, 0.75), by_epoch=True),
            optimizer=Optimizer(weight_decay=5e-4, decay_all=True),
            precision="fastest",
        ),
        monitor_every=10,
    )


def imagenet_moco() -> Pretrain:
    """MoCo v2 on photographs of 224 pixels: ResNet-50, 800 epochs; wants several GPUs.

    Run:      torchrun --nproc-per-node 8 -m labelsieve features photos/ --pretrain imagenet-moco
              --device cuda --out photos.npy
    Paper:    71.1 % linear accuracy on ImageNet; SCAN starts from these features.
    Measured: not yet.
    """
    return Pretrain(
        network="resnet50",
        head="moco",
        objective="moco",
        temperature=0.2,
        image_size=256,
        views=Contrastive(size=224, blur_rate=0.5),
        training=Training(
            epochs=800,
            batch_size=256,
            learning_rate=LearningRate(peak=0.03, final=0.0, by_epoch=True),
            optimizer=Optimizer(decay_all=True),
            precision="fastest",
        ),
        rows="network",
    )


def cpu() -> Pretrain:
    """The best features for some minutes on a CPU: a small network and a dictionary, together.

    Run:      labelsieve features photos/ --pretrain cpu --out photos.npy
    Measured: docs/results.md, "Pretraining on a CPU".
    """
    return Pretrain(
        network="dictionary-net",
        head="small",
        views=Contrastive(size=24),
        training=Training(
            epochs=400,
            batch_size=256,
            learning_rate=LearningRate(peak=0.05, warmup=0.03, start=0.0, final=0.0),
            # Biases and norms by AdamW at 0.003. AdamW alone took three times as long to the same
            # accuracy: experiments/2026-11-21_cpu_pretraining.
            optimizer=Optimizer(
                name="muon", nesterov=True, second_momentum=0.98, weight_decay=0.0,
                relative=True, n_iterations=3, rest_factor=0.06,
            ),
            precision="fastest",
        ),
        most_updates=5500,
        rows="joint",
        monitor_every=0,
    )  # fmt: skip


PRETRAINING: dict[str, Callable[[], Pretrain]] = {
    "cpu": cpu,
    "cifar-simclr": cifar_simclr,
    "cifar-imix": cifar_imix,
    "imagenet-moco": imagenet_moco,
}


def pretraining(name: str | None) -> Pretrain | None:
    """The settings of `--pretrain NAME`, if it is given.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name is None:
        return None
    if name not in PRETRAINING:
        near = did_you_mean(name, PRETRAINING)
        raise ConfigError(f"--pretrain: there is no recipe {name!r}. {near}")
    return PRETRAINING[name]()
