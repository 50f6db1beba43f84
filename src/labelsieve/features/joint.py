"""One closed-form map over two kinds of features: a dictionary's, and a trained network's maps.

What a dictionary of patches and a small contrastive network see differs; the map along which random
views of an image agree most (closed_form.py) takes from each what the other lacks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from labelsieve.config import from_dict, to_dict
from labelsieve.data.augment import AS_STORED, clean_view, contrastive_view
from labelsieve.data.decode import Pixels
from labelsieve.data.draws import Draws
from labelsieve.errors import ConfigError, DataError
from labelsieve.features import dictionary
from labelsieve.features.closed_form import Moments, invariant_directions
from labelsieve.features.dictionary import (
    Dictionary,
    DictionaryModel,
    check_pixels,
    mapped_rows,
    to_device,
)
from labelsieve.features.extract import learned_from, transformed
from labelsieve.features.resnets import mean_over_places
from labelsieve.features.weights import digest
from labelsieve.files import atomic
from labelsieve.loop.runtime import Runtime, fastest_precision
from labelsieve.records import Features, ImageSet

Progress = Callable[[int, int], None]  # done, in all

CHUNK = 256  # images in one go; sums are taken chunk by chunk, so another size gives other digits


@dataclass(frozen=True)
class Joint:
    """How both are brought together. Defaults: chosen on CIFAR-10 and Tiny-ImageNet classes."""

    dictionary: Dictionary = field(
        # The map here scales directions by itself.
        default_factory=lambda: Dictionary(n_dimensions=384, agreement_power=0.0)
    )
    n_cells: int = 2  # the network's last map is also averaged over n_cells x n_cells parts
    n_view_images: int = 50_000  # whose views the map is fitted to; how many: dictionary.views
    ridge: float = 1e-3  # added to the covariance of views, as a share of its mean diagonal
    n_dimensions: int = 384  # of the features
    agreement_power: float = 1.25  # directions are scaled by their correlation to this power

    def __post_init__(self) -> None:
        for name in ("n_cells", "n_view_images", "n_dimensions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"joint.{name} is {getattr(self, name)}; at least 1 is needed.")
        if not self.ridge > 0:
            raise ConfigError(f"joint.ridge is {self.ridge}; it must be above 0.")

    def digest(self) -> str:
        """A short hash of all settings."""
        text = json.dumps(to_dict(self), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class JointModel:
    """A fitted dictionary, a network, and the map over both."""

    settings: Joint
    dictionary: DictionaryModel
    network: nn.Module  # with `maps` and `normalization`, in evaluation mode
    center: Tensor  # (R,) mean of what both give
    projection: Tensor  # (R, D) scaled directions
    agreement: Tensor  # (D,) correlation of two views along each direction, in [0, 1], falling

    @property
    def n_dimensions(self) -> int:
        """D of the features."""
        return self.projection.shape[1]

    def transform(
        self,
        pixels: NDArray[np.uint8],
        rows: NDArray[np.int64] | None = None,
        *,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """One unit-norm row an image: of the mean over the image and its mirror image.

        Args:
            pixels: (N, 3, image_size, image_size) uint8.
            rows: which images, and in which order; all by default.
            progress: told images done and images in all.

        Raises:
            DataError: the pixels are of another shape or type.
        """
        check_pixels(pixels, self.settings.dictionary.image_size)
        return mapped_rows(
            self._encode, self.center, self.projection, pixels, rows, CHUNK, progress
        )

    def _encode(self, images: Tensor) -> Tensor:
        return encode(images, self.dictionary, self.network, self.settings.n_cells)

    def save(self, path: Path) -> None:
        """Write one .safetensors file of everything but the network."""
        own = {"center": self.center, "projection": self.projection, "agreement": self.agreement}
        tensors = {f"joint.{name}": each.contiguous().cpu() for name, each in own.items()}
        tensors |= {f"dictionary.{name}": each for name, each in self.dictionary.tensors().items()}
        with atomic(path) as partial:
            partial.write_bytes(save(tensors, {"joint": json.dumps(to_dict(self.settings))}))

    @classmethod
    def load(cls, path: Path, network: nn.Module, device: str = "cpu") -> JointModel:
        """Read what `save` wrote.

        Args:
            path: the file.
            network: that the map was fitted with.
            device: "cpu", "cuda", ...

        Raises:
            DataError: it is not such a file.
        """
        try:
            with safe_open(path, "pt", device=device) as file:
                about = json.loads(file.metadata()["joint"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            settings = from_dict(Joint(), about, str(path))
            parts = {
                part: {
                    name.removeprefix(part): each
                    for name, each in tensors.items()
                    if name.startswith(part)
                }
                for part in ("dictionary.", "joint.")
            }
            model = DictionaryModel.of(settings.dictionary, parts["dictionary."])
            return cls(settings, model, network.to(device).eval(), **parts["joint."])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: cannot be read as a joint model: {error}. "
                "Give a file that JointModel.save wrote."
            ) from error


def encode(images: Tensor, model: DictionaryModel, network: nn.Module, n_cells: int) -> Tensor:
    """What both say of some images, side by side.

    Args:
        images: (B, 3, S, S) float, 0 to 255.
        model: its mapped codes come first.
        network: then, of its last two maps, the mean and those over n_cells x n_cells parts.
        n_cells: 1 and more.

    Returns:
        (B, R) float32.
    """
    runtime = Runtime(images.device, fastest_precision(str(images.device)))
    inputs = clean_view(images, images.shape[-1], network.normalization)  # type: ignore[arg-type]
    with runtime.autocast():
        found = network.last_maps(inputs)  # type: ignore[operator]
    rows = [model.mapped(images)]
    for maps in found:
        maps = maps.float()
        rows += [mean_over_places(maps), adaptive_avg_pool2d(maps, n_cells).flatten(1)]
    return torch.cat(rows, dim=1)


def fit(
    pixels: NDArray[np.uint8],
    network: nn.Module,
    settings: Joint | None = None,
    *,
    rows: NDArray[np.int64] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> JointModel:
    """Learn a dictionary and then the map, without labels.

    Args:
        pixels: (N, 3, S, S) uint8, S as the dictionary's settings say.
        network: with `last_maps` and `normalization`; put into evaluation mode.
        settings: `Joint()` unless given.
        rows: which images to learn from; all by default.
        seed: of all random choices.
        device: "cpu", "cuda", ...
        progress: told codes made and codes to make.

    Raises:
        DataError: no images, or of another size.
    """
    settings = settings or Joint()
    rows = np.arange(len(pixels)) if rows is None else rows
    first_part = dictionary.n_codes_to_fit(len(rows), settings.dictionary)
    total = n_codes_to_fit(len(rows), settings)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, total)

    model = dictionary.fit(
        pixels, settings.dictionary, rows=rows, seed=seed, device=device,
        progress=lambda done, _: tell(done),
    )  # fmt: skip
    network = network.to(device).eval()
    with torch.inference_mode():
        return _fit_map(
            pixels, rows, model, network, settings, seed, lambda n: tell(first_part + n)
        )


def n_codes_to_fit(n_images: int, settings: Joint) -> int:
    """How many images and views `fit` codes."""
    n = min(n_images, settings.n_view_images)
    views = settings.dictionary.views.each(n)
    return dictionary.n_codes_to_fit(n_images, settings.dictionary) + n * views


def _fit_map(
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64],
    model: DictionaryModel,
    network: nn.Module,
    settings: Joint,
    seed: int,
    tell: Callable[[int], None],
) -> JointModel:
    """Covariances of views and of their means, and the directions between them."""
    order = np.random.default_rng(seed).permutation(len(rows))[: settings.n_view_images]
    chosen = np.sort(rows[order])
    device = model.center.device
    views = settings.dictionary.views
    n_views, recipe = views.each(len(chosen)), views.recipe(settings.dictionary.image_size)

    def encoded(first: int, view: int) -> Tensor:
        images = to_device(pixels[chosen[first : first + CHUNK]], device)
        places = torch.arange(first, first + len(images), device=device)
        # epoch 1: other draws than those that the dictionary was fitted with
        shown = contrastive_view(images, recipe, Draws(seed, 1, places, view), AS_STORED)
        return encode(shown, model, network, settings.n_cells)

    start = encoded(0, 0)
    shift, scale = start.mean(0), start.std(0, correction=0) + 1e-6
    single, means = Moments(torch.zeros_like(shift)), Moments(torch.zeros_like(shift))
    for first in range(0, len(chosen), CHUNK):
        total = torch.zeros(())
        for view in range(n_views):
            part = (encoded(first, view) - shift) / scale
            single.add(part)
            total = total + part
        means.add(total / n_views)
        tell(min(len(chosen), first + CHUNK) * n_views)
    agreement, directions = invariant_directions(
        single.covariance, means.covariance, n_views, settings.n_dimensions, settings.ridge
    )
    mapping = directions * agreement.clamp(min=1e-4) ** settings.agreement_power
    center = shift + scale * single.mean
    # in rows, as it is read back: products of few rows differ by the layout
    projection = (mapping / scale[:, None]).contiguous()
    return JointModel(settings, model, network, center, projection, agreement)


def joint_features(  # noqa: PLR0913 -- dictionary_features', and a network with its settings
    images: ImageSet,
    pixels: Pixels,
    network: nn.Module,
    settings: Joint,
    *,
    learn: NDArray[np.bool_] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    path: Path | None = None,
) -> Features:
    """Fit the map and give each image that could be decoded its row.

    Args:
        images: the set that `pixels` were decoded from.
        pixels: of all images, at the dictionary's size.
        network: that was trained on them.
        settings: of the map.
        learn: (N,) the images that the map is fitted to; all by default.
        seed: of all random choices.
        device: "cpu", "cuda", ...
        progress: told codes made and codes to make.
        path: an .npy file to hold the rows in place of memory, from which a killed run goes on.
    """
    rows, about = learned_from(pixels, learn)
    made_by = (
        f"joint features {settings.digest()} of a network {digest(network)}, seed {seed}, of "
        f"{images.fingerprint()}, {about}"
    )
    return transformed(
        images, pixels, made_by,
        lambda tell: fit(
            pixels.values, network, settings, rows=rows, seed=seed, device=device, progress=tell
        ),
        lambda saved: JointModel.load(saved, network, device),
        n_fitted=n_codes_to_fit(len(rows), settings), progress=progress, path=path,
    )  # fmt: skip
