"""Dictionary features: good features of any images, learned from them alone in CPU minutes.

1. a dictionary of whitened patches, with both signs of each atom pooled over the quarters of the
   image (patches.py: Coates and Ng 2011);
2. the principal directions of these codes;
3. within them, the linear map along which random views of an image agree most (data/augment.py,
   closed_form.py), each direction scaled by a power of that agreement.

No labels, no gradient, no pretrained weights. Every step is a function of the pixels and the seed.
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
from torch import Tensor

from labelsieve.config import from_dict, to_dict
from labelsieve.data.augment import AS_STORED, Contrastive, contrastive_view
from labelsieve.data.draws import Draws
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.closed_form import Moments, invariant_directions, principal_directions
from labelsieve.features.patches import PatchCoder, Patches, learn_patches
from labelsieve.files import atomic
from labelsieve.loop.runtime import fastest_precision

Progress = Callable[[int, int], None]  # done, in all

# Images coded in one go. Not a setting: sums are taken chunk by chunk, so another size gives other
# last digits. Whoever transforms in pieces keeps the bits by cutting at multiples of it.
CHUNK = 512
_VERSION = 2  # raise it when the same pixels and settings give other features than before
_RANK_TOLERANCE = 1e-6  # of the greatest variance: what is below is rounding


@dataclass(frozen=True)
class Views:
    """How many views of an image, and what may differ between them, as in `Contrastive`."""

    in_all: int = 200_000  # views to fit to, of all images together; each image gets as many ...
    least: int = 4  # ... but no fewer than this
    most: int = 16  # ... and no more
    smallest_crop: float = 0.3  # share of the image's area; SimCLR: 0.08
    aspect: float = 4 / 3  # a crop's sides differ at most by this factor
    brightness: float = 0.4  # a factor in 1 -+ this; likewise the next two
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # turns of the color circle
    jitter_rate: float = 0.8  # share of views that are recolored
    gray_rate: float = 0.2  # share of views without color

    def __post_init__(self) -> None:
        if not 2 <= self.least <= self.most:
            raise ConfigError(
                f"views.least is {self.least} and views.most {self.most}; expected 2 <= least <= "
                "most."
            )
        try:
            self.recipe(1)
        except ConfigError as error:
            raise ConfigError(f"views.{error}") from error

    def each(self, n_images: int) -> int:
        """How many views each of n_images gets: the fewer images, the more."""
        return min(self.most, max(self.least, self.in_all // max(n_images, 1)))

    def recipe(self, size: int) -> Contrastive:
        """The views themselves, of this side."""
        given = {name: value for name, value in vars(self).items() if name not in _NUMBERS}
        return Contrastive(size=size, **given)


_NUMBERS = ("in_all", "least", "most")  # settings of `Views` that say how many


@dataclass(frozen=True)
class Dictionary:
    """Settings of dictionary features.

    Defaults: chosen on CIFAR-10 by `benchmarks/features.py`, within 300 CPU-seconds for all of it.
    """

    # Pixels; each image's central square is resized to it. On photographs from the web 48 gave 3
    # points of kNN accuracy (sports) at 1.8 times the time, and 64 none (bears) at 3 times.
    image_size: int = 32
    patches: Patches = field(default_factory=Patches)
    views: Views = field(default_factory=Views)
    n_pca_images: int = 10_000  # that the principal directions are taken from
    n_components: int = 2048  # principal directions kept, at most
    images_a_component: int = 4  # and no more of them than one for so many images, or 64
    n_view_images: int = 50_000  # whose views the map is fitted to
    ridge: float = 1e-3  # added to the covariance of views, as a share of its mean diagonal
    n_dimensions: int = 256  # of the features
    agreement_power: float = 1.5  # directions are scaled by their correlation to this power

    def __post_init__(self) -> None:
        for name in ("n_pca_images", "n_components", "n_view_images", "n_dimensions",
                     "images_a_component"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least 1 is needed.")
        least = self.patches.size + self.patches.stride * (self.patches.n_cells - 1)
        if self.image_size < least:
            raise ConfigError(
                f"image_size is {self.image_size}; patches of {self.patches.size} pixels in "
                f"{self.patches.n_cells} x {self.patches.n_cells} cells need at least {least}."
            )
        if not self.ridge > 0:
            raise ConfigError(f"ridge is {self.ridge}; it must be above 0.")

    def digest(self) -> str:
        """A short hash of all settings and of this code's version."""
        text = json.dumps([_VERSION, to_dict(self)], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class DictionaryModel:
    """Fitted dictionary features; `transform` applies them to any images of the same size."""

    settings: Dictionary
    coder: PatchCoder
    center: Tensor  # (n_codes,) mean code of the images it was fitted to
    projection: Tensor  # (n_codes, D) scaled directions
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
        """One unit-norm row an image: the mean of the image's codes and its mirror image's, mapped.

        Args:
            pixels: (N, 3, image_size, image_size); memory-mapped arrays are read chunk by chunk.
            rows: which images, and in which order; all by default.
            progress: told images done and images in all.

        Returns:
            (N, D). The first axis for an image that is not told from the mean of all, such as every
            image of a set of equal ones.

        Raises:
            DataError: the pixels are of another shape or type.
        """
        check_pixels(pixels, self.settings.image_size)
        return mapped_rows(
            self.coder.encode, self.center, self.projection, pixels, rows, CHUNK, progress
        )

    def mapped(self, images: Tensor) -> Tensor:
        """(B, D) float32, not unit-norm, of (B, 3, S, S) float images, 0 to 255."""
        codes = self.coder.encode(images)
        fast = self.coder.weights.dtype
        product = (codes.to(fast) @ self.projection.to(fast)).float()
        return product - self.center @ self.projection

    def tensors(self) -> dict[str, Tensor]:
        """What was learned, by name, on the CPU."""
        named = {
            "weights": self.coder.weights,
            "bias": self.coder.bias,
            "center": self.center,
            "projection": self.projection,
            "agreement": self.agreement,
        }
        return {name: tensor.contiguous().cpu() for name, tensor in named.items()}

    @classmethod
    def of(cls, settings: Dictionary, tensors: dict[str, Tensor]) -> DictionaryModel:
        """The model whose `tensors` these are."""
        coder = PatchCoder(settings.patches, tensors["weights"], tensors["bias"])
        return cls(settings, coder, tensors["center"], tensors["projection"], tensors["agreement"])

    def save(self, path: Path) -> None:
        """Write one .safetensors file; the settings travel in its metadata."""
        with atomic(path) as partial:
            partial.write_bytes(
                save(self.tensors(), {"dictionary": json.dumps(to_dict(self.settings))})
            )

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> DictionaryModel:
        """Read what `save` wrote.

        Raises:
            DataError: it is not such a file.
        """
        try:
            with safe_open(path, "pt", device=device) as file:
                about = json.loads(file.metadata()["dictionary"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: cannot be read as a dictionary model: {error}. "
                "Give a file that DictionaryModel.save wrote."
            ) from error
        return cls.of(from_dict(Dictionary(), about, str(path)), tensors)


def fit(
    pixels: NDArray[np.uint8],
    settings: Dictionary | None = None,
    *,
    rows: NDArray[np.int64] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> DictionaryModel:
    """Learn dictionary features from a set of images, without labels.

    Memory does not grow with the number of images: the largest array is (n_codes, n_codes).

    Args:
        pixels: (N, 3, image_size, image_size). A random part is used where N is above the settings'
            numbers; with few images there are fewer atoms and dimensions.
        settings: `Dictionary()` unless given.
        rows: which images to learn from; all by default.
        seed: of all random choices: the same seed, machine and pixels give the same bits.
        device: "cpu", "cuda", ...
        progress: told codes made and codes to make.

    Raises:
        DataError: no images, or of another shape or type.
    """
    settings = settings or Dictionary()
    check_pixels(pixels, settings.image_size)
    rows = np.arange(len(pixels)) if rows is None else rows
    if len(rows) == 0:
        raise DataError("there are no images to learn features from; at least one is needed.")
    generator = torch.Generator().manual_seed(seed)
    order = rows[torch.randperm(len(rows), generator=generator).numpy()]
    count = _Counter(progress, n_codes_to_fit(len(rows), settings))
    with torch.inference_mode():
        few = to_device(pixels[np.sort(order[: settings.patches.n_images])], torch.device(device))
        coder = learn_patches(few, settings.patches, code_dtype(device), generator)
        center, basis = _principal(pixels, order, coder, settings, generator, count)
        mapping, agreement = _invariant(pixels, order, coder, center, basis, settings, seed, count)
    return DictionaryModel(settings, coder, center, basis @ mapping, agreement)


def n_codes_to_fit(n_images: int, settings: Dictionary) -> int:
    """How many images and views `fit` codes: what its cost is in proportion to."""
    n_fitted = min(n_images, settings.n_view_images)
    return min(n_images, settings.n_pca_images) + settings.views.each(n_fitted) * n_fitted


def code_dtype(device: str) -> torch.dtype:
    """What codes are computed in."""
    dtype: torch.dtype = getattr(torch, fastest_precision(device))
    return dtype


def mapped_rows(
    encode: Callable[[Tensor], Tensor],
    center: Tensor,
    projection: Tensor,
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64] | None,
    chunk: int,
    progress: Progress | None,
) -> NDArray[np.float32]:
    """One unit-norm row an image: the mean of its code and its mirror image's, mapped.

    Args:
        encode: (B, 3, S, S) float images, 0 to 255, to (B, R) codes.
        center: (R,) taken off the codes.
        projection: (R, D).
        pixels: (N, 3, S, S); memory-mapped arrays are read chunk by chunk.
        rows: which images, and in which order; all by default.
        chunk: images in one go.
        progress: told images done and images in all.
    """
    rows = np.arange(len(pixels)) if rows is None else rows
    values = np.empty((len(rows), projection.shape[1]), np.float32)
    with torch.inference_mode():
        for first in range(0, len(rows), chunk):
            images = to_device(pixels[rows[first : first + chunk]], center.device)
            codes = encode(images) + encode(images.flip(3))
            mapped = (codes / 2 - center) @ projection
            values[first : first + chunk] = unit_rows(mapped).cpu().numpy()
            if progress is not None:
                progress(min(len(rows), first + chunk), len(rows))
    return values


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of length 1; the first axis for a row without length."""
    length = rows.norm(dim=1, keepdim=True)
    first = torch.zeros_like(rows)
    first[:, 0] = 1
    return torch.where(length > 1e-6, rows / length.clamp(min=1e-12), first)


def check_pixels(pixels: NDArray[np.uint8], size: int) -> None:
    """Refuse anything but uint8 images of one size.

    Raises:
        DataError: saying what came.
    """
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, size, size):
        raise DataError(
            f"pixels are {pixels.dtype} of shape {pixels.shape}; expected uint8 of shape "
            f"(N, 3, {size}, {size}). Decode them with decode_images(images, {size})."
        )


def _principal(
    pixels: NDArray[np.uint8],
    order: NDArray[np.int64],
    coder: PatchCoder,
    settings: Dictionary,
    generator: torch.Generator,
    count: _Counter,
) -> tuple[Tensor, Tensor]:
    """(n_codes,) mean code; (n_codes, R) directions in which codes differ, to variance 1."""
    rows = np.sort(order[: settings.n_pca_images])
    moments: Moments | None = None
    for first in range(0, len(rows), CHUNK):
        codes = coder.encode(to_device(pixels[rows[first : first + CHUNK]], coder.bias.device))
        moments = moments or Moments(codes.mean(0))
        moments.add(codes)
        count.add(len(codes))
    assert moments is not None  # noqa: S101 -- fit saw to it that there are images
    n_fitted = min(len(order), settings.n_view_images)
    most = max(64, n_fitted // settings.images_a_component)  # more would fit the views by chance
    n = min(settings.n_components, most, len(rows) - 1, coder.n_codes)
    variances, directions = principal_directions(moments.covariance, n, generator)
    kept = variances > _RANK_TOLERANCE * variances.sum().clamp(min=1e-12)
    return moments.mean, directions[:, kept] / variances[kept].sqrt()


def _invariant(
    pixels: NDArray[np.uint8],
    order: NDArray[np.int64],
    coder: PatchCoder,
    center: Tensor,
    basis: Tensor,
    settings: Dictionary,
    seed: int,
    count: _Counter,
) -> tuple[Tensor, Tensor]:
    """(R, D) the scaled map to features, and (D,) the agreement of views along each of them."""
    n_kept = basis.shape[1]
    if n_kept == 0:  # all images are equal, or there is only one
        return basis.new_zeros(0, 1), basis.new_zeros(1)
    rows = np.sort(order[: settings.n_view_images])
    n_views = settings.views.each(len(rows))
    views, means = Moments(basis.new_zeros(n_kept)), Moments(basis.new_zeros(n_kept))
    fast = basis.to(coder.weights.dtype)
    offset = center @ basis
    recipe = settings.views.recipe(settings.image_size)
    for first in range(0, len(rows), CHUNK):
        images = to_device(pixels[rows[first : first + CHUNK]], basis.device)
        # Keyed by place among the images fitted to: the same pixels give the same draws.
        places = torch.arange(first, first + len(images), device=basis.device)
        total = torch.zeros(len(images), n_kept, device=basis.device)
        for view in range(n_views):
            draws = Draws(seed, 0, places, view)
            codes = coder.encode(contrastive_view(images, recipe, draws, AS_STORED))
            mapped = (codes.to(fast.dtype) @ fast).float() - offset
            views.add(mapped)
            total += mapped
            count.add(len(codes))
        means.add(total / n_views)
    n = min(settings.n_dimensions, n_kept)
    agreement, directions = invariant_directions(
        views.covariance, means.covariance, n_views, n, settings.ridge
    )
    return directions * agreement.clamp(min=1e-4) ** settings.agreement_power, agreement


def to_device(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, 3, S, S) float32, 0 to 255; copied, as memory-mapped pixels are read-only."""
    return torch.from_numpy(np.array(pixels)).to(device).float()


class _Counter:
    """Adds up what several stages did, for one progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, n: int) -> None:
        self._done += n
        if self._progress is not None:
            self._progress(self._done, self._total)


__all__ = ["Dictionary", "DictionaryModel", "Patches", "Views", "code_dtype", "fit", "unit_rows"]
