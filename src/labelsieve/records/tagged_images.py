"""What a tagger says of new images: one row an image, its tags and how likely they are.

Axis letters: N images, M of them that can be read, C tags.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.files import atomic
from labelsieve.records.choices import to_pandas, write

N_LIKELY = 5  # tags of an image that are listed with their probability, whatever it is
LEAST = 0.5  # probability of a tag that an image has


@dataclass(frozen=True, repr=False)
class TaggedImages:
    """Tags of images that no source spoke of. Columns as in docs/formats.md.

    Example:
        >>> found = TaggedImages(("a", "b"), ("cat", "dog"), np.array([1]),
        ...                      csr_array(np.array([[0.4, 0.9]], np.float32)))
        >>> found.to_arrow().column("labels").to_pylist()
        [None, ['dog']]
    """

    image: tuple[str, ...]  # (N,)
    tag_names: tuple[str, ...]  # (C,)
    rows: NDArray[np.int64]  # (M,) the images that can be read
    # (M, C) how likely tags are, of each image the likeliest five and all from 0.5 on: of a million
    # images and thousands of tags all of them would not fit.
    probabilities: csr_array

    def __len__(self) -> int:
        return len(self.image)

    def __repr__(self) -> str:
        return f"TaggedImages({len(self):,} images, {len(self.tag_names):,} tags)"

    @property
    def n_broken(self) -> int:
        """Images that cannot be read."""
        return len(self.image) - len(self.rows)

    def counts(self) -> NDArray[np.int64]:
        """(C,) images that have each tag."""
        has = self.probabilities.indices[self.probabilities.data >= LEAST]
        return np.bincount(has, minlength=len(self.tag_names))

    def to_arrow(self) -> pa.Table:
        """One row an image: its tags, and the likeliest ones with their probability."""
        said = self.probabilities
        rows = np.repeat(np.arange(len(self.rows)), np.diff(said.indptr))
        order = np.lexsort((said.indices, -said.data, rows))  # the likeliest first
        rank = np.arange(len(rows)) - said.indptr[rows]
        names = pa.array(self.tag_names, pa.string())
        has, likely = order[said.data[order] >= LEAST], order[rank < N_LIKELY]
        return pa.table(
            {
                "image": pa.array(self.image, pa.string()),
                "labels": self._lists(rows[has], names.take(pa.array(said.indices[has]))),
                "choices": self._lists(rows[likely], names.take(pa.array(said.indices[likely]))),
                "choice_probabilities": self._lists(rows[likely], pa.array(said.data[likely])),
            }
        )

    def _lists(self, rows: NDArray[np.int64], values: pa.Array) -> pa.Array:
        """(N,) values by image, null of those that cannot be read; `rows` rise, in [0, M)."""
        ends = np.searchsorted(rows, np.arange(len(self.rows) + 1)).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(ends), values)
        place = np.full(len(self.image), -1)
        place[self.rows] = np.arange(len(self.rows))
        return lists.take(pa.array(place, mask=place < 0))

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
