"""Features and Neighbors: a row an image, and the rows that are nearest to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.files import atomic, write_json


@dataclass(frozen=True)
class Features:
    """One unit-norm row an image, and what made them."""

    ids: tuple[str, ...]
    values: NDArray[np.float32]  # (N, D) unit-norm rows; may be memory-mapped
    made_by: str  # model, preprocessing and a hash of both with the images: equal means equal rows

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != len(self.ids):
            raise DataError(
                f"{self.made_by}: features of shape {self.values.shape} for {len(self.ids)} "
                "images; expected one row an image."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write `path` (.npy) and, beside it, the ids and the maker (.json)."""
        write_json(path.with_suffix(".json"), {"made_by": self.made_by, "ids": self.ids})
        with atomic(path) as partial:  # after the ids: where the rows are, the ids are too
            np.save(partial, self.values)

    @classmethod
    def load(cls, path: Path) -> Features:
        """Read what `save` wrote; the rows stay on disk and are memory-mapped."""
        try:
            about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            return cls(tuple(about["ids"]), np.load(path, mmap_mode="r"), about["made_by"])
        except (OSError, EOFError, KeyError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as features: {error}.") from error


@dataclass(frozen=True)
class Neighbors:
    """The nearest other images of each image, nearest first."""

    indices: NDArray[np.int64]  # (N, K) rows; never the image itself
    similarities: NDArray[np.float32]  # (N, K) cosine, in [-1, 1], falling along a row

    def __post_init__(self) -> None:
        if self.indices.shape != self.similarities.shape:
            raise DataError(
                f"indices {self.indices.shape}, but similarities {self.similarities.shape}."
            )

    def save(self, path: Path) -> None:
        """Write one uncompressed .npz."""
        with atomic(path) as partial:
            np.savez(partial, indices=self.indices, similarities=self.similarities)

    @classmethod
    def load(cls, path: Path) -> Neighbors:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["indices"], arrays["similarities"])
