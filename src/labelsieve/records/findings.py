"""Findings: what a method says of each image, in the contracted columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labelsieve.errors import DataError, import_extra
from labelsieve.files import atomic, write_csv
from labelsieve.records.tables import read_table


class Verdict(IntEnum):
    """What is said of an image's label; the names in files are these in lower case."""

    CLEAN = 0
    MISLABELED = 1  # in-distribution noise: another of the classes would be right
    FOREIGN = 2  # out-of-distribution noise: none of the classes would be right
    BROKEN = 3  # the file cannot be read as an image


@dataclass(frozen=True)
class NoiseRate:
    """How many of a class's images carry the label wrongly; how, docs/audit.md says."""

    class_name: str
    n_images: int
    mislabeled: float  # in [0, 1]
    mislabeled_interval: tuple[float, float]
    foreign: float  # in [0, 1]
    foreign_interval: tuple[float, float]


@dataclass(frozen=True, repr=False)
class Findings:
    """What a method says of each image: one row an image. Columns as in docs/formats.md."""

    image: tuple[str, ...]
    class_names: tuple[str, ...]
    label: NDArray[np.int64]  # (N,) the class as given, -1 none
    verdict: NDArray[np.int8]  # (N,) a Verdict
    probabilities: NDArray[
        np.float32
    ]  # (N, 3) clean, mislabeled, foreign; rows sum to 1; NaN where broken
    suggestion: NDArray[np.int64]  # (N,) the class the method would give, -1 none
    suggestion_probability: NDArray[np.float32]  # (N,) in [0, 1], NaN where there is no suggestion
    foreign_group: NDArray[np.int32]  # (N,) cluster among the foreign images, -1 none
    duplicate_of: NDArray[np.int64]  # (N,) row of the image it repeats, -1 none
    neighbors: NDArray[np.int64]  # (N, <= 5) rows of the nearest images, -1 none
    reason: tuple[str, ...]  # one plain sentence each
    noise_rates: tuple[NoiseRate, ...] = ()
    warnings: tuple[str, ...] = ()  # when and why the result should not be trusted

    def __post_init__(self) -> None:
        columns = ("label", "verdict", "probabilities", "suggestion", "suggestion_probability",
                   "foreign_group", "duplicate_of", "neighbors", "reason")  # fmt: skip
        lengths = {name: len(getattr(self, name)) for name in columns}
        if any(length != len(self.image) for length in lengths.values()):
            raise DataError(
                f"Findings of {len(self.image)} images with columns of other lengths: {lengths}."
            )
        known = self.probabilities[self.verdict != Verdict.BROKEN]
        if len(known) and not (np.abs(known.sum(axis=1) - 1) < 1e-3).all():
            raise DataError(
                "the three probabilities of an image sum to 1; in these findings some do not."
            )

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(v):,} {v.name.lower()}" for v in Verdict)
        return f"Findings({len(self):,} images: {counts})"

    def __len__(self) -> int:
        return len(self.image)

    def count(self, verdict: Verdict) -> int:
        """How many images got this verdict."""
        return int((self.verdict == verdict).sum())

    def to_arrow(self) -> pa.Table:
        """The contracted columns, names in place of rows and numbers."""
        names = pa.array(self.image, pa.string())
        classes = pa.array(self.class_names, pa.string())

        def pick(values: pa.Array, rows: NDArray[np.integer[Any]]) -> pa.Array:
            return values.take(pa.array(rows, mask=rows < 0))

        def nullable(values: NDArray[np.float32]) -> pa.Array:
            return pa.array(values.astype(np.float32), mask=np.isnan(values))

        verdicts = np.array([verdict.name.lower() for verdict in Verdict])
        near = self.neighbors
        return pa.table(
            {
                "image": names,
                "label": pick(classes, self.label),
                "verdict": pa.array(verdicts[self.verdict], pa.string()),
                "clean_probability": nullable(self.probabilities[:, 0]),
                "mislabeled_probability": nullable(self.probabilities[:, 1]),
                "foreign_probability": nullable(self.probabilities[:, 2]),
                "suggestion": pick(classes, self.suggestion),
                "suggestion_probability": nullable(self.suggestion_probability),
                "foreign_group": pa.array(self.foreign_group, pa.int32()),
                "duplicate_of": pick(names, self.duplicate_of),
                "neighbors": pa.array(
                    [[self.image[j] for j in row if j >= 0] for row in near], pa.list_(pa.string())
                ),
                "reason": pa.array(self.reason, pa.string()),
            }
        )

    def to_pandas(self) -> Any:
        """A pandas DataFrame of the contracted columns."""
        import_extra("pandas", "pandas", "Findings.to_pandas()")
        return self.to_arrow().to_pandas()

    def write(self, path: str | Path) -> None:
        """Write the contracted columns as .csv or .parquet, by the name of the file.

        Raises:
            DataError: another suffix.
            RunError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".csv":
            write_csv(self.to_arrow(), path)
        elif path.suffix.lower() == ".parquet":
            self.save(path)
        else:
            raise DataError(f"{path}: findings are written as .csv or .parquet. Name such a file.")

    def save(self, path: Path) -> None:
        """Write the contracted Parquet file; noise rates and warnings travel in its metadata."""
        about = {
            "class_names": self.class_names,
            "noise_rates": [asdict(rate) for rate in self.noise_rates],
            "warnings": self.warnings,
        }
        table = self.to_arrow().replace_schema_metadata({"labelsieve": json.dumps(about)})
        with atomic(path) as partial:
            pq.write_table(table, partial)

    @classmethod
    def load(cls, path: Path) -> Findings:
        """Read what `save` wrote."""
        table, about = read_table(path)
        column = {name: table.column(name).to_pylist() for name in table.column_names}
        images = tuple(column["image"])
        rows = {name: row for row, name in enumerate(images)}
        classes = {name: c for c, name in enumerate(about["class_names"])}
        width = max((len(near) for near in column["neighbors"]), default=0)
        neighbors = np.full((len(images), width), -1, np.int64)
        for row, near in enumerate(column["neighbors"]):
            neighbors[row, : len(near)] = [rows[name] for name in near]
        probabilities = [
            table.column(f"{kind}_probability").to_numpy()
            for kind in ("clean", "mislabeled", "foreign")
        ]
        return cls(
            image=images,
            class_names=tuple(about["class_names"]),
            label=_indices(column["label"], classes),
            verdict=np.array([Verdict[name.upper()] for name in column["verdict"]], np.int8),
            probabilities=np.stack(probabilities, axis=1).astype(np.float32),
            suggestion=_indices(column["suggestion"], classes),
            suggestion_probability=table.column("suggestion_probability")
            .to_numpy()
            .astype(np.float32),
            foreign_group=table.column("foreign_group").to_numpy(),
            duplicate_of=_indices(column["duplicate_of"], rows),
            neighbors=neighbors,
            reason=tuple(column["reason"]),
            noise_rates=tuple(_noise_rate(rate) for rate in about["noise_rates"]),
            warnings=tuple(about["warnings"]),
        )


def _indices(names: Sequence[str | None], index: dict[str, int]) -> NDArray[np.int64]:
    return np.array([-1 if name is None else index[name] for name in names], np.int64)


def _noise_rate(about: dict[str, Any]) -> NoiseRate:
    intervals = {name: tuple(about[name]) for name in ("mislabeled_interval", "foreign_interval")}
    return NoiseRate(**{**about, **intervals})
