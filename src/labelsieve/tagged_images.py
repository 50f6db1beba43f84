"""What a tagger says of new images: one row an image, its tags and how likely they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labelsieve.choices import to_pandas, write
from labelsieve.files import atomic

N_LIKELY = 5  # tags of an image that are listed with their probability, whatever it is


@dataclass(frozen=True, repr=False)
class TaggedImages:
    """Tags of images that no source spoke of. Columns as in docs/formats.md."""

    image: tuple[str, ...]  # (N,)
    tag_names: tuple[str, ...]  # (C,)
    rows: NDArray[np.int64]  # (M,) the images that can be read
    probabilities: NDArray[np.float32]  # (M, C) how likely each tag is

    def __len__(self) -> int:
        return len(self.image)

    def __repr__(self) -> str:
        return f"TaggedImages({len(self):,} images, {len(self.tag_names):,} tags)"

    @property
    def n_broken(self) -> int:
        """Images that cannot be read."""
        return len(self.image) - len(self.rows)

    def counts(self, least: float = 0.5) -> NDArray[np.int64]:
        """(C,) images that have each tag."""
        found: NDArray[np.int64] = (self.probabilities >= least).sum(axis=0)
        return found

    def to_arrow(self) -> pa.Table:
        """One row an image: its tags, and the likeliest ones with their probability."""
        n = min(N_LIKELY, len(self.tag_names))
        labels: list[list[str] | None] = [None] * len(self.image)
        likely: list[list[str] | None] = [None] * len(self.image)
        values: list[list[float] | None] = [None] * len(self.image)
        for row, own in zip(self.rows.tolist(), self.probabilities, strict=True):
            order = np.argsort(-own, kind="stable")
            labels[row] = self._named(order[own[order] >= 0.5])
            likely[row] = self._named(order[:n])
            values[row] = own[order[:n]].tolist()
        texts = pa.list_(pa.string())
        return pa.table(
            {
                "image": pa.array(self.image, pa.string()),
                "labels": pa.array(labels, texts),
                "choices": pa.array(likely, texts),
                "choice_probabilities": pa.array(values, pa.list_(pa.float32())),
            }
        )

    def to_pandas(self) -> Any:
        """A pandas DataFrame of the same columns."""
        return to_pandas(self)

    def write(self, path: str | Path) -> None:
        """Write the columns as .csv or .parquet, by the name of the file.

        Raises:
            DataError: another suffix.
            RunError: the file cannot be written.
        """
        write(self, path)

    def save(self, path: Path) -> None:
        """Write a Parquet file."""
        with atomic(path) as partial:
            pq.write_table(self.to_arrow(), partial)

    def _named(self, columns: Sequence[int] | NDArray[np.int64]) -> list[str]:
        return [self.tag_names[int(c)] for c in columns]
