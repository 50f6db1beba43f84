"""What a trained classifier says of each image: the sixth record, beside `Findings` and `Clusters`.

Axis letters: N images, M images that could be read, C classes, K the choices kept, at most five.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
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
    first_probability,
    most_probable,
    rows_of_lists,
    to_pandas,
    write,
)
from labelsieve.records.tables import read_table


@dataclass(frozen=True, repr=False)
class Predictions:
    """The classes of a set of images: one row an image. Columns as in docs/formats.md.

    Example:
        >>> found = Predictions.of_probabilities(("a", "b"), [1], [[0.2, 0.8]], ("cat", "dog"))
        >>> found.label.tolist(), found.counts().tolist()
        ([-1, 1], [0, 1])
    """

    image: tuple[str, ...]
    class_names: tuple[str, ...]  # (C,) each once
    choices: NDArray[np.int64]  # (N, K) classes, most probable first; all -1 where broken
    probabilities: NDArray[np.float32]  # (N, K) of the choices, falling; NaN where broken
    warnings: tuple[str, ...] = ()  # when and why the result should not be trusted

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("choices", "probabilities")}
        if any(length != len(self.image) for length in lengths.values()):
            raise DataError(
                f"Predictions of {len(self.image)} images with columns of other lengths: {lengths}."
            )
        if len(set(self.class_names)) < len(self.class_names):
            twice = sorted({c for c in self.class_names if self.class_names.count(c) > 1})
            raise DataError(f"class names occur more than once: {twice}. Give each class its own.")
        check_choices(self.choices, self.probabilities, len(self.class_names), "classes")
        none = self.choices < 0
        if (none.any(axis=1) != none.all(axis=1)).any():
            raise DataError("an image has all its choices, or none where it is broken.")

    def __repr__(self) -> str:
        n_broken = self.n_broken
        broken = f", {n_broken:,} of them broken" if n_broken else ""
        return f"Predictions({len(self):,} images{broken}, {len(self.class_names):,} classes)"

    def __len__(self) -> int:
        return len(self.image)

    @property
    def label(self) -> NDArray[np.int64]:
        """(N,) the most probable class, -1 where the image is broken."""
        return first_choice(self.choices)

    @property
    def probability(self) -> NDArray[np.float32]:
        """(N,) of that class; NaN where the image is broken."""
        return first_probability(self.probabilities)

    @property
    def n_broken(self) -> int:
        """How many images cannot be read."""
        return int((self.label < 0).sum())

    def counts(self) -> NDArray[np.int64]:
        """(C,) images of each class; broken ones are in none."""
        return count_choices(self.choices, len(self.class_names))

    @classmethod
    def of_probabilities(
        cls,
        image: Sequence[str],
        rows: Any,
        probabilities: Any,
        class_names: Sequence[str],
        *,
        warnings: Sequence[str] = (),
    ) -> Predictions:
        """Predictions from the probability of each class, ties to the lower one.

        Args:
            image: (N,) ids of all images.
            rows: (M,) which of them could be read, each once; the others are broken.
            probabilities: (M, C) in [0, 1], rows sum to 1; a row of NaN is broken too.
            class_names: (C,).
            warnings: when and why the result should not be trusted.

        Raises:
            DataError: columns that do not go together.
        """
        values, places = np.asarray(probabilities, np.float32), np.asarray(rows, np.int64)
        n_classes = len(class_names)
        if values.shape != (len(places), n_classes) or not n_classes:
            raise DataError(
                f"probabilities of shape {values.shape} for {len(places)} images and "
                f"{n_classes} classes; expected one row an image and one column a class."
            )
        if len(places) and not 0 <= places.min() <= places.max() < len(image):
            raise DataError(
                f"rows run from {places.min()} to {places.max()} for {len(image)} images."
            )
        if len(np.unique(places)) < len(places):
            raise DataError("rows name an image more than once; give each its one prediction.")
        found, kept = most_probable(values, width := min(N_CHOICES, n_classes))
        choices = np.full((len(image), width), -1, np.int64)
        of_choices = np.full((len(image), width), np.nan, np.float32)
        choices[places], of_choices[places] = found, kept
        return cls(tuple(image), tuple(class_names), choices, of_choices, tuple(warnings))

    def to_arrow(self) -> pa.Table:
        """The contracted columns; null where an image is broken or there is a single class."""
        names = pa.array(self.class_names, pa.string())
        first, second = (choice_column(self.choices, self.probabilities, k) for k in (0, 1))
        choices, probabilities = choice_lists(self.choices, self.probabilities, names)
        return pa.table(
            {
                "image": pa.array(self.image, pa.string()),
                "label": names.take(first[0]),
                "probability": first[1],
                "second_choice": names.take(second[0]),
                "second_probability": second[1],
                "choices": choices,
                "choice_probabilities": probabilities,
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
        """Write the contracted Parquet file; class names and warnings travel in its metadata."""
        about = {
            "class_names": self.class_names,
            "n_choices": self.choices.shape[1],
            "warnings": self.warnings,
        }
        table = self.to_arrow().replace_schema_metadata({"labelsieve": json.dumps(about)})
        with atomic(path) as partial:
            pq.write_table(table, partial)

    @classmethod
    def load(cls, path: str | Path) -> Predictions:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, or one of something else.
        """
        table, about = read_table(Path(path))
        if "n_choices" not in about or "class_names" not in about:
            raise DataError(f"{path}: a file of ours, but not of predictions.")
        names, width = pa.array(about["class_names"], pa.string()), about["n_choices"]
        return cls(
            image=tuple(table.column("image").to_pylist()),
            class_names=tuple(about["class_names"]),
            choices=rows_of_lists(table.column("choices"), width, np.array(-1, np.int64), names),
            probabilities=rows_of_lists(
                table.column("choice_probabilities"), width, np.array(np.nan, np.float32)
            ),
            warnings=tuple(about["warnings"]),
        )
