"""What clustering says of each image: the fifth record, beside those of `records`.

Axis letters: N images, C clusters, K the choices kept for an image, at most five.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.files import atomic
from labelsieve.records.choices import (
    N_CHOICES,
    check_choices,
    choice_column,
    choice_lists,
    count_choices,
    first_choice,
    most_probable,
    rows_of_lists,
    to_pandas,
    write,
)
from labelsieve.records.tables import read_table


class Part(IntEnum):
    """What an image was to the training; the names in files are these in lower case."""

    TRAIN = 0
    VALID = 1  # kept apart: it only chose epoch and head
    NEW = 2  # put into clusters that were made without it
    BROKEN = 3  # the file cannot be read as an image


@dataclass(frozen=True, repr=False)
class Clusters:
    """The clusters of a set of images: one row an image. Columns as in docs/formats.md.

    Example:
        >>> found = Clusters.of_probabilities(("a", "b"), [[0.2, 0.8], [0.9, 0.1]], Part.TRAIN)
        >>> found.cluster.tolist(), found.named({0: "cat", 1: "dog"}).names
        ([1, 0], ('cat', 'dog'))
    """

    image: tuple[str, ...]
    names: tuple[str, ...]  # (C,) each once; "0", "1", ... until somebody names them
    choices: NDArray[np.int64]  # (N, K) clusters, most probable first; -1 none, all -1 where broken
    probabilities: NDArray[np.float32]  # (N, K) of the choices, falling; NaN where there is none
    part: NDArray[np.int8]  # (N,) a Part
    duplicate_of: NDArray[np.int64]  # (N,) row of the image it repeats, -1 none
    prototypes: tuple[int, ...]  # (C,) row of the image that shows a cluster best, -1 none
    warnings: tuple[str, ...] = ()  # when and why the result should not be trusted

    def __post_init__(self) -> None:
        columns = ("choices", "probabilities", "part", "duplicate_of")
        lengths = {name: len(getattr(self, name)) for name in columns}
        if any(length != len(self.image) for length in lengths.values()):
            raise DataError(
                f"Clusters of {len(self.image)} images with columns of other lengths: {lengths}."
            )
        if len(set(self.names)) < len(self.names) or len(self.prototypes) != len(self.names):
            raise DataError(
                f"{len(set(self.names))} different names and {len(self.prototypes)} prototypes "
                f"for {len(self.names)} clusters; expected one of each for each cluster."
            )
        check_choices(self.choices, self.probabilities, len(self.names), "clusters")
        if self.choices.shape[1] and ((self.cluster < 0) != (self.part == Part.BROKEN)).any():
            raise DataError("images without a cluster are those of Part.BROKEN, and no others.")

    def __repr__(self) -> str:
        n_used = int((self.counts() > 0).sum())
        used = "" if n_used == len(self.names) else f", {n_used:,} of them used"
        return f"Clusters({len(self):,} images in {len(self.names):,} clusters{used})"

    def __len__(self) -> int:
        return len(self.image)

    @property
    def cluster(self) -> NDArray[np.int64]:
        """(N,) the most probable cluster, -1 where the image is broken."""
        return first_choice(self.choices)

    def counts(self) -> NDArray[np.int64]:
        """(C,) images in each cluster; broken ones are in none."""
        return count_choices(self.choices, len(self.names))

    def count(self, part: Part) -> int:
        """How many images are of this part."""
        return int((self.part == part).sum())

    @classmethod
    def of_probabilities(
        cls,
        image: Sequence[str],
        probabilities: Any,
        part: Any = Part.TRAIN,
        *,
        names: Sequence[str] | None = None,
        duplicate_of: NDArray[np.int64] | None = None,
        prototypes: Sequence[int] | None = None,
        warnings: Sequence[str] = (),
    ) -> Clusters:
        """Clusters from the probability of each, the most probable first, ties to the lower one.

        Args:
            image: (N,) ids.
            probabilities: (N, C) in [0, 1], rows sum to 1; a row of NaN where an image is broken.
            part: a Part, or (N,) of them; images with a row of NaN are BROKEN whatever it says.
            names: (C,) of the clusters; their numbers where None.
            duplicate_of: (N,) row of the image it repeats, -1 none; none where None.
            prototypes: (C,) row of the image that shows a cluster best, -1 none; none where None.
            warnings: when and why the result should not be trusted.
        """
        values = np.asarray(probabilities, np.float32)
        if values.ndim != 2 or not values.shape[1]:
            raise DataError(
                f"probabilities of shape {values.shape}; expected one column a cluster, at least 1."
            )
        n, n_clusters = values.shape
        choices, kept = most_probable(values, min(N_CHOICES, n_clusters))
        parts = np.broadcast_to(np.asarray(part, np.int8), (n,)).copy()
        parts[choices[:, 0] < 0] = Part.BROKEN
        return cls(
            image=tuple(image),
            names=tuple(names) if names is not None else tuple(map(str, range(n_clusters))),
            choices=choices,
            probabilities=kept,
            part=parts,
            duplicate_of=np.full(n, -1, np.int64) if duplicate_of is None else duplicate_of,
            prototypes=tuple(prototypes) if prototypes is not None else (-1,) * n_clusters,
            warnings=tuple(warnings),
        )

    def named(self, names: Mapping[int, str]) -> Clusters:
        """Give names to clusters; those that get the same name become one.

        A cluster without a name keeps the one it has. Merged clusters stand in the place of the
        lowest of them: an image's probability is the sum over them, as far as they are among its
        choices; its prototype is that of the largest.

        Args:
            names: of cluster numbers; the numbers are those of this record.

        Raises:
            DataError: there is no such cluster, a name is empty, or it is that of a cluster which
                is not given it again.
        """
        _check_names(names, self.names)
        final = [names.get(c, name) for c, name in enumerate(self.names)]
        merged = list(dict.fromkeys(final))
        if len(merged) == len(final):
            return replace(self, names=tuple(merged))
        place = np.array([merged.index(name) for name in final], np.int64)
        choices, probabilities = _merged(self.choices, self.probabilities, place)
        counts = self.counts()
        largest_last = sorted(range(len(final)), key=lambda c: (counts[c], -c))
        prototypes = {final[c]: self.prototypes[c] for c in largest_last}
        return replace(
            self,
            names=tuple(merged),
            choices=choices,
            probabilities=probabilities,
            prototypes=tuple(prototypes[name] for name in merged),
        )

    def to_arrow(self) -> pa.Table:
        """The contracted columns; null where an image is broken or has no second choice."""
        first, second = (choice_column(self.choices, self.probabilities, k) for k in (0, 1))
        parts = np.array([part.name.lower() for part in Part])
        names = pa.array(self.image, pa.string())
        lists = choice_lists(self.choices, self.probabilities)
        copies = pa.array(self.duplicate_of, mask=self.duplicate_of < 0)
        return pa.table(
            {
                "image": names,
                "cluster": first[0],
                "name": pa.array(self.names, pa.string()).take(first[0]),
                "probability": first[1],
                "second_choice": second[0],
                "second_probability": second[1],
                "part": pa.array(parts[self.part], pa.string()),
                "choices": lists[0],
                "choice_probabilities": lists[1],
                "duplicate_of": names.take(copies),
            }
        )

    def to_pandas(self) -> Any:
        """A pandas DataFrame of the contracted columns."""
        return to_pandas(self)

    def write(self, path: str | Path) -> None:
        """Write the contracted columns as .csv or .parquet, by the name of the file.

        Raises:
            DataError: another suffix.
            RunError: the file cannot be written.
        """
        write(self, path)

    def save(self, path: Path) -> None:
        """Write the contracted Parquet file; what is not of one image travels in its metadata."""
        about = {
            "names": self.names,
            "n_choices": self.choices.shape[1],
            "prototypes": [int(row) for row in self.prototypes],
            "warnings": self.warnings,
        }
        table = self.to_arrow().replace_schema_metadata({"labelsieve": json.dumps(about)})
        with atomic(path) as partial:
            pq.write_table(table, partial)

    @classmethod
    def load(cls, path: str | Path) -> Clusters:
        """Read what `save` wrote."""
        table, about = read_table(Path(path))
        if "names" not in about or "choices" not in table.column_names:
            raise DataError(f"{path}: a file of ours, but not of clusters.")
        images = tuple(table.column("image").to_pylist())
        rows = {name: row for row, name in enumerate(images)}
        repeated = table.column("duplicate_of").to_pylist()
        parts = {part.name.lower(): part for part in Part}
        width = about["n_choices"]
        return cls(
            image=images,
            names=tuple(about["names"]),
            choices=rows_of_lists(table.column("choices"), width, np.array(-1, np.int64)),
            probabilities=rows_of_lists(
                table.column("choice_probabilities"), width, np.array(np.nan, np.float32)
            ),
            part=np.array([parts[name] for name in table.column("part").to_pylist()], np.int8),
            duplicate_of=np.array(
                [-1 if name is None else rows[name] for name in repeated], np.int64
            ),
            prototypes=tuple(about["prototypes"]),
            warnings=tuple(about["warnings"]),
        )


def _merged(
    choices: NDArray[np.int64], probabilities: NDArray[np.float32], place: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Choices among merged clusters; what is freed at the end of a row is -1 and NaN."""
    merged = np.where(choices >= 0, place[choices], -1)
    sums = np.nan_to_num(probabilities)
    width = choices.shape[1]
    for k in range(1, width):
        for earlier in range(k):  # at most ten pairs of columns
            same = (merged[:, k] >= 0) & (merged[:, earlier] == merged[:, k])
            sums[same, earlier] += sums[same, k]
            merged[same, k] = -1
    order = np.argsort(np.where(merged >= 0, -sums, np.inf), axis=1, kind="stable")
    merged = np.take_along_axis(merged, order, axis=1)
    sums = np.take_along_axis(sums, order, axis=1)
    return merged, np.where(merged >= 0, sums, np.nan).astype(np.float32)


def _check_names(names: Mapping[int, str], present: tuple[str, ...]) -> None:
    for c, name in sorted(names.items()):
        if not 0 <= c < len(present):
            raise DataError(
                f"cluster {c}: there is no such cluster; they are 0 to {len(present) - 1}."
            )
        if not name.strip():
            raise DataError(f"cluster {c}: its name is empty. Give it a name, or leave it out.")
    kept = {name: c for c, name in enumerate(present) if c not in names}
    for c, name in sorted(names.items()):
        if name in kept:
            raise DataError(
                f"cluster {c}: {name!r} is the name of cluster {kept[name]}. "
                "To make them one, give both that name; else choose another."
            )
