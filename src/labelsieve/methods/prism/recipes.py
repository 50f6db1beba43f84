"""Named settings of a retrieval: what is learned (`--recipe`), and what learns it (`--model`).

Any recipe goes with any model: the data path and the budget are the model's, so that recipes can be
compared. What a recipe changes of a model is in `fitted`.

Published constants are those of PRISM's code (its one configuration is of CARS-98N) and of its
paper, which names networks, lengths of rows and noise rates of the other sets, and no schedule of
them. Two things differ for all: the central square of a photograph is decoded, at 256 pixels, where
the code cuts views from the whole of it; and the last update counts, where the code keeps the best
of forty on the test images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Self, get_args

from torch import nn

from labelsieve.data.augment import Normalization, Weak
from labelsieve.errors import ConfigError, did_you_mean
from labelsieve.features.pooling import Pooling
from labelsieve.methods.prism.embedding import Embed, Pairs, Proxies, adam
from labelsieve.methods.prism.filter import Filter
from labelsieve.methods.prism.two_stage import SecondStage

Rows = Literal["features", "images"]
Start = Literal["scratch", "pretrained"]


@dataclass(frozen=True)
class Learned:
    """What a recipe is made of: all that it says of a model's settings."""

    loss: Pairs | Proxies = field(default_factory=Pairs)
    filtered: bool = True  # as the model filters; else nothing is
    second: SecondStage | None = None  # after it, training anew on what is kept


@dataclass(frozen=True)
class Retriever:
    """What is trained, how it is shown images, and for how long. Defaults: PRISM on CARS-98N."""

    rows: Rows = "images"  # features: a linear layer on features that stay as they are
    n_hidden: int = 0  # of rows features: width of a layer before it; 0: none
    # Of rows features: what is added to them while they are learned, as a share of their spread.
    noise: float = 0.0
    # Of rows features: to their principal directions, half whitened, with which the layer begins.
    turned: bool = False
    network: str | None = "bn-inception"  # by its name; None: that which is given, or none
    start: Start = "pretrained"  # or new weights
    pooling: Pooling = "max"  # of the network's last map, for features
    image_size: int = 256  # side of the images that views are cut from, pixels
    embed: Embed = field(default_factory=Embed)
    # Passes over the images, where `embed.updates` come to fewer; 0: they decide alone.
    least_passes: int = 0
    second: SecondStage | None = None  # training anew on what is kept; none: one training

    def __post_init__(self) -> None:
        for name, choices in (("rows", Rows), ("start", Start), ("pooling", Pooling)):
            if getattr(self, name) not in get_args(choices):
                listed = ", ".join(get_args(choices))
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected one of {listed}.")
        for name, least in (("n_hidden", 0), ("noise", 0), ("least_passes", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} or more.")
        view = self.embed.weak.size - 2 * self.embed.weak.padding
        if self.rows == "images" and self.image_size < view:
            raise ConfigError(
                f"image_size is {self.image_size}, and views of {self.embed.weak.size} pixels are "
                f"cut with a padding of {self.embed.weak.padding}; at least {view} are needed. "
                "Raise image_size or lower embed.weak.size."
            )

    @property
    def view_size(self) -> int:
        """Side of what the network is shown, pixels."""
        return self.embed.weak.size

    def normalized(self, network: nn.Module) -> Normalization:
        """How pixels are normalized: as the network expects them."""
        found: Normalization = network.normalization  # type: ignore[assignment]
        return found

    def fitted_to(self, image_size: int, view_size: int) -> Self:
        """The same with the sizes that a network was trained with before."""
        embed = self.embed
        weak = replace(embed.weak, size=view_size)
        crops = None if embed.crops is None else replace(embed.crops, size=view_size)
        return replace(self, image_size=image_size, embed=replace(embed, weak=weak, crops=crops))

    def for_images(self, n_images: int) -> Self:
        """The same with as many updates as the least passes come to with so many images.

        Example:
            >>> made = fitted("prism", "small")
            >>> made.for_images(1000).embed.updates, made.for_images(64_000).embed.updates
            (600, 3000)
        """
        embed = self.embed
        n_batches = -(-n_images // embed.training.batch_size)
        updates = max(embed.updates, self.least_passes * n_batches)
        if embed.updates == 0 or updates == embed.updates:
            return self
        return replace(self, embed=replace(embed, updates=updates))


def fitted(recipe: str, model: str) -> Retriever:
    """A model with what it learns, both by name.

    Args:
        recipe: of `OBJECTIVES`.
        model: of `MODELS`.

    Raises:
        ConfigError: there is no such recipe or model; the near ones are named.

    Example:
        >>> fitted("unfiltered", "cub").embed.filter is None
        True
    """
    if recipe not in OBJECTIVES:
        raise ConfigError(f"there is no recipe {recipe!r}. {did_you_mean(recipe, OBJECTIVES)}")
    if model not in MODELS:
        raise ConfigError(f"--model: there is no {model!r}. {did_you_mean(model, MODELS)}")
    learned, made = OBJECTIVES[recipe](), MODELS[model]()
    loss, sieve, second = learned.loss, made.embed.filter, learned.second
    if isinstance(loss, Pairs) and not learned.filtered and sieve is not None:
        loss = replace(loss, memory_size=sieve.memory_size)
    if second is not None and sieve is not None:  # a rate that is given holds for both stages
        second = replace(second, offline=replace(second.offline, noise_rate=sieve.noise_rate))
    embed = replace(made.embed, loss=loss, filter=sieve if learned.filtered else None)
    return replace(made, embed=embed, second=second)


def prism() -> Learned:
    """The default: PRISM. Of each batch, what is unlike its class in a memory is left out.

    Run:      labelsieve retrieve photos/ --test others/ --out run/
              where the noise rate is known: --noise-rate 0.5
    Paper:    MCL + PRISM, Precision@1 with half of the labels wrong: CARS 72.93, SOP 72.85, CUB
    56.03; half of them wrong by small clusters: 68.26, 73.84, 53.46. The rate was given.
    Measured: docs/results.md, "Retrieval". Differs from the paper: the noise rate is estimated, and
    nothing is left out before half of a batch can be judged; docs/retrieval.md has the rest.
    """
    return Learned()


def two_stage() -> Learned:
    """PRISM, then all labels judged by what it learned, then training anew on those that hold.

    Run:      labelsieve retrieve photos/ --test others/ --recipe two-stage --out run/
              where the rate is known: --noise-rate 0.5
    Measured: docs/results.md, "Retrieval". Ours; twice the time of `prism`.
    """
    return Learned(second=SecondStage())


def unfiltered() -> Learned:
    """The contrastive loss against a memory (MCL), on all labels: what PRISM is compared with.

    Run:      labelsieve retrieve photos/ --test others/ --recipe unfiltered --out run/
    Paper:    Precision@1 with half of the labels wrong: CARS 46.88, SOP 67.21, CUB 31.18; by small
    clusters: 36.43, 68.71, 41.58.
    Measured: docs/results.md, "Retrieval".
    """
    return Learned(filtered=False)


def soft_triple() -> Learned:
    """SoftTriple on what PRISM keeps: several learned proxies of each class, no pairs.

    Run:      labelsieve retrieve photos/ --test others/ --recipe soft-triple --out run/
    Paper:    Precision@1: CARS-98N 64.81, Food-101N 64.46. Best where a class has several kinds of
    wrong images: MCL + PRISM has 57.95 and 52.47 there.
    Measured: not yet.
    """
    return Learned(loss=Proxies())


def soft_triple_unfiltered() -> Learned:
    """SoftTriple on all labels.

    Run:      labelsieve retrieve photos/ --test others/ --recipe soft-triple-unfiltered --out run/
    Measured: not yet.
    """
    return Learned(loss=Proxies(), filtered=False)


def batch() -> Learned:
    """The contrastive loss within the batch alone, of what PRISM keeps: the memory only judges.

    Run:      labelsieve retrieve photos/ --test others/ --recipe batch --out run/
    Measured: not yet.
    """
    return Learned(loss=Pairs(memory_weight=0.0))


def features() -> Retriever:
    """A linear layer on features that stay as they are: seconds on a CPU.

    Run:      labelsieve retrieve photos/ --test others/ --out run/
              labelsieve retrieve photos/ --features dino.npy --test others/
              --test-features dino-others.npy --out run/
    Measured: docs/results.md, "Retrieval".
    """
    return Retriever(
        rows="features",
        turned=True,
        network=None,
        start="scratch",
        pooling="mean",
        least_passes=4,
        embed=_on_cpu(Embed(dim=256), Weak(), updates=200),
    )


def small() -> Retriever:
    """Three convolutions from new weights, for drawings and thumbnails: a minute on a CPU.

    Run:      labelsieve retrieve drawings/ --test others/ --model small --out run/
              photos may be mirrored: --set embed.weak.flip_rate=0.5
    Measured: docs/results.md, "Retrieval": characters of alphabets that were not learned.
    """
    return Retriever(
        network="small-conv-net",
        start="scratch",
        pooling="mean",  # of no use: its features are places
        image_size=32,
        least_passes=3,
        embed=_on_cpu(Embed(dim=64), Weak(size=32, padding=2, flip_rate=0.0), 600, peak=3e-3),
    )


def cars() -> Retriever:
    """Cars196 with PRISM's network and schedule: BN-Inception, 512 numbers; a GPU.

    Run:      labelsieve retrieve cars/ --test cars-test/ --model cars --device cuda
              --network bn_inception-52deb4733.pth --out run/
              as published: --noise-rate RATE, that of the noisy list
    Paper:    72.93 at 50 % symmetric noise, 68.26 at 50 % by small clusters (Precision@1).
    Measured: not yet. The schedule is that of CARS-98N: the one of this set is not published.
    """
    return Retriever()


def cub() -> Retriever:
    """As `cars`, for birds: CUB-200-2011; a GPU.

    Run:      labelsieve retrieve cub/ --test cub-test/ --model cub --device cuda
              --network bn_inception-52deb4733.pth --out run/
    Paper:    56.03 at 50 % symmetric noise, 53.46 at 50 % by small clusters (Precision@1).
    Measured: not yet. The schedule is that of CARS-98N.
    """
    return Retriever()


def cars_98n() -> Retriever:
    """Cars from the web, CARS-98N, with all of the published settings; a GPU.

    Run:      labelsieve retrieve cars-98n/ --test cars-test/ --model cars-98n --device cuda
              --network bn_inception-52deb4733.pth --out run/
    Paper:    57.95, with `--recipe soft-triple` 64.81, with `--recipe unfiltered` 38.73
    (Precision@1), the best of forty evaluations on the test images.
    Measured: not yet. Half of each batch is left out, and the memory has 9,500 rows, as published.
    """
    return Retriever(embed=Embed(filter=Filter(noise_rate=0.5, memory_size=9500)))


def sop() -> Retriever:
    """Stanford Online Products: ResNet-50, 128 numbers, 11,318 classes; a GPU.

    Run:      labelsieve retrieve sop/ --test sop-test/ --model sop --device cuda
              --network resnet50.pth --out run/
    Paper:    72.85 at 50 % symmetric noise, 73.84 at 50 % by small clusters (Precision@1).
    Measured: not yet. Thirty passes, as in a replication; the schedule of the authors is not
    published.
    """
    return _resnet50()


def food_101n() -> Retriever:
    """Dishes from the web, Food-101N, half of its classes: ResNet-50, 128 numbers; a GPU.

    Run:      labelsieve retrieve food-101n/ --test food-101/ --model food-101n --device cuda
              --recipe soft-triple --network resnet50.pth --out run/
    Paper:    64.46 with SoftTriple, 52.47 without (Precision@1).
    Measured: not yet. Thirty passes, as in a replication; the schedule of the authors is not
    published.
    """
    return _resnet50()


def finetune() -> Retriever:
    """A pretrained network learns on, at 224 of 256 pixels or at its own sizes; wants a GPU.

    Run:      labelsieve retrieve photos/ --test others/ --model finetune --network pretrained/
              --device cuda --out run/
              where pretrained/ is what `labelsieve features --pretrain` wrote; or --backbone
              timm:NAME
    Measured: not yet. Features are pooled as the network does; PRISM's schedule, thirty passes at
    least.
    """
    made = Retriever(network=None, pooling="mean", least_passes=30)
    training = replace(made.embed.training, precision="fastest")
    return replace(made, embed=replace(made.embed, training=training))


def _on_cpu(embed: Embed, weak: Weak, updates: int, peak: float = 1e-3) -> Embed:
    """PRISM's, at a rate for new weights; nothing is cropped, as drawings must stay whole."""
    return replace(
        embed,
        updates=updates,
        weak=weak,
        crops=None,
        test_every=0,
        training=adam(epochs=10, peak=peak),
    )


def _resnet50() -> Retriever:
    """128 numbers, and passes over the images in place of a number of updates."""
    made = Retriever(network="resnet50")
    training = replace(made.embed.training, epochs=30)
    return replace(made, embed=replace(made.embed, dim=128, updates=0, training=training))


OBJECTIVES: dict[str, Callable[[], Learned]] = {
    "prism": prism,
    "two-stage": two_stage,
    "unfiltered": unfiltered,
    "soft-triple": soft_triple,
    "soft-triple-unfiltered": soft_triple_unfiltered,
    "batch": batch,
}
MODELS: dict[str, Callable[[], Retriever]] = {
    "features": features,
    "small": small,
    "cars": cars,
    "cub": cub,
    "cars-98n": cars_98n,
    "sop": sop,
    "food-101n": food_101n,
    "finetune": finetune,
}
