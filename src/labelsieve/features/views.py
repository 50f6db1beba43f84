"""Rows of augmented views, made once: a network that does not learn need not see them each epoch.

SCAN on ImageNet trains heads on a network that stays as it is, and sends each image through it
twice an epoch. Here R views of each image go through it once, and heads draw from their rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelsieve.data.sources import Source, Wanted
from labelsieve.data.store import RowStore
from labelsieve.errors import ConfigError, NumericError

Progress = Callable[[int, int], None]  # images done, images in all


def view_rows(  # noqa: PLR0913 -- what is made, of what, and where it is kept
    source: Source,
    rows: NDArray[np.int64],
    encode: Callable[[Tensor], Tensor],
    view: Callable[[Tensor, Tensor, int], Tensor],
    n_views: int,
    *,
    seed: int,
    path: Path | None = None,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
    made_by: str = "",
    progress: Progress | None = None,
) -> NDArray[np.floating[Any]]:
    """R augmented views of each image, through an encoder; each image is decoded once.

    Args:
        source: of the images.
        rows: which of them: those that can be decoded.
        encode: of views (B, 3, S, S) to rows (B, D), in evaluation mode and on the device; called
            without gradient. float16 rows are kept as such, which halves the file; others become
            float32.
        view: of images (B, 3, S, S) uint8, which rows of the source they are (B,), and the number
            of the view 0, ..., R - 1. Views that are functions of these alone make an interrupted
            call go on as if it had not been.
        n_views: R.
        seed: of the views; here only part of what the file is known by.
        path: an .npy file to hold the rows in place of memory. What it holds already is used where
            it is of the same images, views and maker: a killed call goes on where it was.
        device: of the encoder.
        batch_size: images at once; R times as many views go through the encoder one after the
            other.
        made_by: everything that decides what `encode` and `view` give: weights, sizes, settings.
        progress: told images done and images in all.

    Returns:
        (R, len(rows), D), read-only and memory-mapped where there is a path.

    Raises:
        ConfigError: n_views or batch_size below 1, or an encoder that gives no row an image.
        NumericError: the encoder gave numbers that are not finite.
        RunError: the file cannot be written.
    """
    for name, value in (("n_views", n_views), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; at least 1 is needed.")
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:  # a source tells cuda from cuda:0
        device = torch.device("cuda", torch.cuda.current_device())
    wanted = np.ascontiguousarray(rows, np.int64)
    key = {
        "made_by": made_by, "n_views": n_views, "seed": seed,
        "batch_size": batch_size, "rows": _digest(wanted),
    }  # fmt: skip
    store = RowStore(path, key, len(wanted))
    batches = _batches(wanted, store.done, batch_size)
    fetched = source.fetch(batches, device)
    try:
        for there, images in fetched:
            values = [_encoded(encode, view(images, there, place)) for place in range(n_views)]
            part = torch.stack(values, dim=1).cpu().numpy()  # (B, R, D)
            store.begin(part.shape[1:], part.dtype)
            store.values[store.done : store.done + len(part)] = part
            store.note(len(part))
            if progress is not None:
                progress(store.done, len(wanted))
    finally:
        fetched.close()
    if not store.begun:
        raise ConfigError("there are no images to make views of; give at least one row.")
    return np.moveaxis(store.finish(), 1, 0)


def _batches(rows: NDArray[np.int64], first: int, batch_size: int) -> Iterator[Wanted]:
    """The rows from number `first` on, cut where they would be without an interruption."""
    for begin in range(first, len(rows), batch_size):
        part = rows[begin : begin + batch_size]
        yield Wanted(part, slice(0, len(part)))


def _encoded(encode: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
    with torch.no_grad():
        rows = encode(views)
    if rows.ndim != 2 or len(rows) != len(views):
        raise ConfigError(
            f"the encoder gives {tuple(rows.shape)} for {len(views)} images; expected (B, D). Pool "
            "or flatten what it gives."
        )
    if not rows.isfinite().all():
        raise NumericError(
            "the encoder gives numbers that are not finite. Check its weights, or run it in "
            "float32."
        )
    return rows if rows.dtype == torch.float16 else rows.float()


def _digest(rows: NDArray[np.int64]) -> str:
    return hashlib.blake2b(rows.tobytes(), digest_size=16).hexdigest()
