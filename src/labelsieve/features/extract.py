"""An image set and a maker of features become Features: batch by batch, and resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.data.decode import Decoded, Pixels, decoder_name, stream
from labelsieve.data.places import reading_order
from labelsieve.data.store import RowStore
from labelsieve.errors import ConfigError, DataError, NumericError
from labelsieve.features import dictionary
from labelsieve.features.backbones import Backbone, wrap
from labelsieve.features.dictionary import Dictionary, DictionaryModel, code_dtype, unit_rows
from labelsieve.features.load import load_features
from labelsieve.records import Features, ImageSet

__all__ = ["dictionary_features", "extract", "load_features"]

Progress = Callable[[int, int], None]  # done, in all

_CHUNK = 32 * dictionary.CHUNK  # images between two notes of how far the dictionary has come


def dictionary_features(
    images: ImageSet,
    pixels: Pixels,
    settings: Dictionary | None = None,
    *,
    learn: NDArray[np.bool_] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    path: Path | None = None,
) -> Features:
    """Learn dictionary features from these images; each that could be decoded gets its row.

    Args:
        images: the set that `pixels` were decoded from.
        pixels: of all images, at `settings.image_size`.
        settings: `Dictionary()` unless given.
        learn: (N,) the images to learn from; all by default.
        seed: of all random choices.
        device: "cpu", "cuda", ...
        progress: told codes made and codes to make, those of fitting included.
        path: an .npy file to hold the rows in place of memory, the fitted model beside it. What it
            holds already is used where it is of the same images and settings.

    Raises:
        DataError: no image could be decoded, or the pixels are of another size.
    """
    settings = settings or Dictionary()
    rows, about = learned_from(pixels, learn)
    if len(rows) == 0:
        raise nothing_left(images, dict(enumerate(map(str, pixels.reasons))))
    made_by = (
        f"dictionary features {settings.digest()} in {_name(code_dtype(device))}, "
        f"seed {seed}, of {images.fingerprint()}, {about}"
    )
    return transformed(
        images, pixels, made_by,
        lambda tell: dictionary.fit(
            pixels.values, settings, rows=rows, seed=seed, device=device, progress=tell
        ),
        lambda saved: DictionaryModel.load(saved, device),
        n_fitted=dictionary.n_codes_to_fit(len(rows), settings), progress=progress, path=path,
    )  # fmt: skip


def learned_from(pixels: Pixels, learn: NDArray[np.bool_] | None) -> tuple[NDArray[np.int64], str]:
    """The rows to fit to, and the words for them: how many, of which images, by which decoder.

    Args:
        pixels: of all images.
        learn: (N,) the images to learn from; all that could be decoded by default.
    """
    n = int(np.count_nonzero(pixels.usable))
    if learn is None:
        return np.flatnonzero(pixels.usable), f"{n} decoded by {decoder_name()}"
    chosen = hashlib.blake2b(np.packbits(learn).tobytes(), digest_size=6).hexdigest()
    rows = np.flatnonzero(pixels.usable & learn)
    return rows, f"{n} decoded by {decoder_name()}, learned from {len(rows)} ({chosen})"


class Transform(Protocol):
    """What turns pixels into rows, once it is fitted."""

    @property
    def n_dimensions(self) -> int: ...
    def transform(
        self,
        pixels: NDArray[np.uint8],
        rows: NDArray[np.int64] | None = None,
        *,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]: ...
    def save(self, path: Path) -> None: ...


def transformed(
    images: ImageSet,
    pixels: Pixels,
    made_by: str,
    fit: Callable[[Progress], Transform],
    load: Callable[[Path], Transform],
    *,
    n_fitted: int,
    progress: Progress | None = None,
    path: Path | None = None,
) -> Features:
    """Fit something to the images, or load what an interrupted run fitted, and transform them all.

    Args:
        images: the set that `pixels` were decoded from.
        pixels: of all images.
        made_by: what the features are of and by what.
        fit: told how to say what it has done of `n_fitted`.
        load: of what `save` wrote.
        n_fitted: codes that fitting makes; each image then takes two, its own and its mirror's.
        progress: told codes made and codes to make.
        path: an .npy file to hold the rows in place of memory, what was fitted beside it.
    """
    rows = np.flatnonzero(pixels.usable)
    total = n_fitted + 2 * len(rows)

    def tell(done: int, _: int = 0) -> None:
        if progress is not None:
            progress(done, total)

    saved = None if path is None else path.with_suffix(".safetensors")
    store = RowStore(path, {"made_by": made_by}, len(rows))
    if saved is None or not (store.begun and saved.is_file()):
        model = fit(tell)
        if saved is not None:
            model.save(saved)
    if saved is not None:
        # Also what was fitted just now: its arrays may lie otherwise in memory, which gives the
        # products of few rows other last digits than an interrupted run would get.
        model = load(saved)
    store.begin((model.n_dimensions,), np.float32)
    for first in range(store.done, len(rows), _CHUNK):
        part = rows[first : first + _CHUNK]
        store.values[first : first + len(part)] = model.transform(
            pixels.values, part, progress=_shifted(tell, n_fitted + 2 * first)
        )
        store.note(len(part))
    ids = images.ids if len(rows) == len(images) else tuple(images.ids[row] for row in rows)
    return Features(ids, store.finish(), made_by)


def extract(
    images: ImageSet,
    model: Backbone | nn.Module,
    *,
    size: int | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    progress: Progress | None = None,
    path: Path | None = None,
) -> Features:
    """Features by a network: one unit-norm row for each image that can be decoded.

    Images are decoded and resized as they are needed. On CUDA the network runs in bfloat16 where
    the GPU multiplies it, elsewhere in float32.

    Args:
        images: the set.
        model: a `Backbone`, or any module from (B, 3, size, size) to (B, D) or (B, D, H, W); of the
            latter the mean over H and W is taken. A bare module gets pixels less ImageNet's mean,
            over its standard deviation; wrap it in a `Backbone` for others.
        size: side of the square that each image is resized to, pixels; the backbone's own by
            default.
        batch_size: images at once.
        device: "cpu", "cuda", ...
        progress: told images done and images in all.
        path: an .npy file to hold the rows in place of memory. What it holds already is used where
            it is of the same images and network: a killed extraction goes on where it was.

    Raises:
        ConfigError: a bare module without a size, or an output that is no row an image.
        DataError: no image can be decoded.
        NumericError: the network gave numbers that are not finite.
    """
    backbone = wrap(model, size)
    made_by = (
        f"{backbone.name} at {backbone.size} px in {_name(_amp_dtype(device))}, "
        f"batches of {batch_size}, of {images.fingerprint()} decoded by {decoder_name()}"
    )
    store = RowStore(path, {"made_by": made_by}, len(images))
    order = reading_order(images.places)
    module = backbone.module.to(device)
    training = module.training
    module.eval()
    try:
        batches = stream(images, backbone.size, batch_size, rows=order[store.done :])
        for batch in batches:
            if len(batch.rows):
                values = _forward(backbone, batch, device, images)
                store.begin(values.shape[1:], np.float32)
                store.values[batch.rows] = values
            store.note(len(batch.rows) + len(batch.broken), batch.broken)
            if progress is not None:
                progress(store.done, len(images))
    finally:
        module.train(training)
    if len(store.broken) == len(images):
        raise nothing_left(images, store.broken)
    kept = np.setdiff1d(np.arange(len(images)), list(store.broken))
    ids = images.ids if len(kept) == len(images) else tuple(images.ids[row] for row in kept)
    rows = store.finish()
    return Features(ids, rows if len(kept) == len(images) else rows[kept], made_by)


def _forward(
    backbone: Backbone, batch: Decoded, device: str, images: ImageSet
) -> NDArray[np.float32]:
    """(B, D) unit rows of a batch."""
    dtype = _amp_dtype(device)
    kind = torch.device(device).type
    with torch.inference_mode(), torch.autocast(kind, dtype, enabled=dtype != torch.float32):
        pixels = torch.from_numpy(batch.pixels).to(device).float().div_(255)
        mean, deviation = (
            torch.tensor(each, device=device)[:, None, None]
            for each in (backbone.mean, backbone.deviation)
        )
        output = backbone.module((pixels - mean) / deviation)
    if not isinstance(output, Tensor) or output.ndim not in (2, 4) or len(output) != len(pixels):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"{backbone.name} gives {found} for {len(pixels)} images; expected a tensor (B, D) or "
            "(B, D, H, W). Wrap it in a module that picks or pools its output."
        )
    output = output.float()
    rows = output if output.ndim == 2 else output.mean((2, 3))
    if not rows.isfinite().all():
        first = int((~rows.isfinite().all(1)).int().argmax())
        raise NumericError(
            f"{backbone.name} gives numbers that are not finite for "
            f"{images.ids[batch.rows[first]]!r}. Check its weights."
        )
    values: NDArray[np.float32] = unit_rows(rows).cpu().numpy()
    return values


def _shifted(tell: Progress, begun: int) -> Progress:
    """Progress of a transform, which codes each image and its mirror image."""
    return lambda done, total: tell(begun + 2 * done, total)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _amp_dtype(device: str) -> torch.dtype:
    return code_dtype(device) if torch.device(device).type == "cuda" else torch.float32


def nothing_left(images: ImageSet, broken: dict[int, str]) -> DataError:
    """What to say of a set without an image that can be decoded.

    Args:
        images: the set.
        broken: why, by row.
    """
    if not len(images):
        return DataError(f"{images.source}: there are no images; at least one is needed.")
    row, reason = next(iter(broken.items()))
    return DataError(
        f"{images.source}: none of {len(images)} images can be decoded, such as "
        f"{images.ids[row]!r}: {reason}. Give a set with images that can be read."
    )
