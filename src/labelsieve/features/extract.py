"""An image set and a maker of features become Features: batch by batch, and resumable."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.data.decode import Batch, Pixels, decoder_name, stream
from labelsieve.data.places import reading_order
from labelsieve.errors import ConfigError, DataError, NumericError
from labelsieve.features import dictionary
from labelsieve.features.backbones import Backbone, wrap
from labelsieve.features.dictionary import Dictionary, DictionaryModel, code_dtype, unit_rows
from labelsieve.features.load import load_features
from labelsieve.files import cannot_write, write_json
from labelsieve.records import Features, ImageSet

__all__ = ["dictionary_features", "extract", "load_features"]

Progress = Callable[[int, int], None]  # done, in all

_CHUNK = 32 * dictionary.CHUNK  # images between two notes of how far the dictionary has come


def dictionary_features(
    images: ImageSet,
    pixels: Pixels,
    settings: Dictionary | None = None,
    *,
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
        seed: of all random choices.
        device: "cpu", "cuda", ...
        progress: told codes made and codes to make, those of fitting included.
        path: an .npy file to hold the rows in place of memory, the fitted model beside it. What it
            holds already is used where it is of the same images and settings.

    Raises:
        DataError: no image could be decoded, or the pixels are of another size.
    """
    settings = settings or Dictionary()
    rows = np.flatnonzero(pixels.usable)
    if len(rows) == 0:
        raise _nothing_left(images, dict(enumerate(map(str, pixels.reasons))))
    fitting = dictionary.n_codes_to_fit(len(rows), settings)
    total = fitting + 2 * len(rows)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, total)

    made_by = (
        f"dictionary features {settings.digest()} in {_name(code_dtype(device))}, "
        f"seed {seed}, of {images.fingerprint()}, {len(rows)} decoded by {decoder_name()}"
    )
    saved = None if path is None else path.with_suffix(".safetensors")
    store = _Rows(path, made_by)
    if saved is not None and store.resumed and saved.is_file():
        model = DictionaryModel.load(saved, device)
    else:
        model = dictionary.fit(
            pixels.values, settings, rows=rows, seed=seed, device=device,
            progress=lambda done, _: tell(done),
        )  # fmt: skip
        if saved is not None:
            model.save(saved)
    store.begin((len(rows), model.n_dimensions))
    for first in range(store.done, len(rows), _CHUNK):
        part = rows[first : first + _CHUNK]
        begun = fitting + 2 * first
        store.values[first : first + len(part)] = model.transform(
            pixels.values, part, progress=_shifted(tell, begun)
        )
        store.note(first + len(part), {})
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
    store = _Rows(path, made_by)
    order = reading_order(images.places)
    store.open()
    module = backbone.module.to(device)
    training = module.training
    module.eval()
    try:
        batches = stream(images, backbone.size, batch_size, rows=order[store.done :])
        for batch in batches:
            if len(batch.rows):
                values = _forward(backbone, batch, device, images)
                store.begin((len(images), values.shape[1]))
                store.values[batch.rows] = values
            store.note(min(len(images), store.done + batch_size), batch.broken)
            if progress is not None:
                progress(store.done, len(images))
    finally:
        module.train(training)
    if len(store.broken) == len(images):
        raise _nothing_left(images, store.broken)
    kept = np.setdiff1d(np.arange(len(images)), list(store.broken))
    ids = images.ids if len(kept) == len(images) else tuple(images.ids[row] for row in kept)
    return Features(ids, store.finish(kept), made_by)


def _forward(
    backbone: Backbone, batch: Batch, device: str, images: ImageSet
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


def _shifted(tell: Callable[[int], None], begun: int) -> Progress:
    """Progress of a transform, which codes each image and its mirror image."""
    return lambda done, _: tell(begun + 2 * done)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _amp_dtype(device: str) -> torch.dtype:
    return code_dtype(device) if torch.device(device).type == "cuda" else torch.float32


def _nothing_left(images: ImageSet, broken: dict[int, str]) -> DataError:
    if not len(images):
        return DataError(f"{images.source}: there are no images; at least one is needed.")
    row, reason = next(iter(broken.items()))
    return DataError(
        f"{images.source}: none of {len(images)} images can be decoded, such as "
        f"{images.ids[row]!r}: {reason}."
    )


class _Rows:
    """Rows as they are made: in memory, or in an .npy file with notes of how far it is."""

    values: NDArray[np.float32]

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self.key = path, key
        self.done = 0  # images, in the order in which they are made
        self.broken: dict[int, str] = {}
        self._begun = False
        about: dict[str, Any] = {}
        if path is not None:
            try:
                about = json.loads(self._notes.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                about = {}  # nothing there yet, or cut off by a kill
        self._about = about if about.get("key") == key else {}
        if path is not None and not self._about:
            # before anything it speaks of is overwritten
            try:
                self._notes.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(self._notes, error) from error

    @property
    def resumed(self) -> bool:
        """Whether what is on disk is of the same images and maker."""
        return bool(self._about)

    @property
    def _notes(self) -> Path:
        assert self.path is not None  # noqa: S101 -- asked only where there is one
        return self.path.with_name(self.path.name + ".progress")

    def open(self) -> None:
        """Take over the rows that are on disk, if any are of the same images and maker."""
        if self.path is None or not self.resumed:
            return
        try:
            self.values = np.load(self.path, mmap_mode="r+")
        except (OSError, ValueError, EOFError):
            return
        self._begun = True
        self.done = self._about["done"]
        self.broken = {int(row): reason for row, reason in self._about["broken"].items()}

    def begin(self, shape: tuple[int, int]) -> None:
        """Make room, unless there is some already."""
        if not self._begun:
            self.open()
        if self._begun and self.values.shape == shape:
            return
        self._begun = True
        if self.path is None:
            self.values = np.zeros(shape, np.float32)
            return
        try:
            self.values = np.lib.format.open_memmap(self.path, "w+", np.float32, shape)
            if hasattr(os, "posix_fallocate"):
                # a write to a memory map on a full disk would end the process without a word
                with open(self.path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, self.path.stat().st_size)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def note(self, done: int, broken: dict[int, str]) -> None:
        """Remember that the rows of the first `done` images are there, or broken."""
        self.done = done
        self.broken.update(broken)
        if self.path is not None and self._begun:
            self.values.flush()  # type: ignore[attr-defined]
            write_json(self._notes, {"key": self.key, "done": done, "broken": self.broken})

    def finish(self, kept: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """The rows, of the kept images only; read-only where they are on disk."""
        if kept is not None and len(kept) < len(self.values):
            self.values = self.values[kept]
        elif isinstance(self.values, np.memmap):
            assert self.path is not None  # noqa: S101 -- that is where they are mapped from
            self.values = np.load(self.path, mmap_mode="r")
        return self.values
