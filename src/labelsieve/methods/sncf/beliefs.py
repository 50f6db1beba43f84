"""What is believed of each image's label, before and after a classifier has learned from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import DataError
from labelsieve.records import Findings, Verdict


@dataclass(frozen=True, repr=False)
class Beliefs:
    """Of all N images; what stands in rows of broken ones is never asked for.

    Example:
        >>> beliefs = Beliefs.trusting(np.array([0, 1, 1]))
        >>> beliefs.verdict.tolist(), beliefs
        ([0, 0, 0], Beliefs(3 images: 3 clean, 0 mislabeled, 0 foreign))
    """

    labels: NDArray[np.int64]  # (N,) as given, -1 none
    kinds: NDArray[np.float32]  # (N, 3) probabilities: clean, mislabeled, foreign; rows sum to 1
    suggestion: NDArray[np.int64]  # (N,) the class that is proposed, -1 none
    suggestion_probability: NDArray[np.float32]  # (N,) in [0, 1]; 0 where there is no suggestion
    foreign_group: NDArray[np.int32]  # (N,) cluster among the foreign images, -1 none
    certain: NDArray[np.bool_]  # (N,) decided by a person: never refined

    def __post_init__(self) -> None:
        n = len(self.labels)
        columns = ("kinds", "suggestion", "suggestion_probability", "foreign_group", "certain")
        lengths = {name: len(getattr(self, name)) for name in columns}
        if any(length != n for length in lengths.values()):
            raise DataError(f"beliefs of {n} images with columns of other lengths: {lengths}.")
        if self.kinds.shape != (n, 3) or not np.all(np.abs(self.kinds.sum(axis=1) - 1) < 1e-3):
            raise DataError(
                f"kinds of shape {self.kinds.shape}; expected ({n}, 3), and that the probabilities "
                "of each image sum to 1."
            )
        trusted = np.flatnonzero((self.labels < 0) & (self.kinds[:, Verdict.CLEAN] > 0))
        if len(trusted):
            raise DataError(
                f"row {trusted[0]} has no label and is {self.kinds[trusted[0], 0]:.2f} clean; "
                "expected 0, as there is nothing to be right."
            )

    def __repr__(self) -> str:
        counts = np.bincount(self.verdict, minlength=3)
        kinds = ", ".join(f"{n:,} {Verdict(kind).name.lower()}" for kind, n in enumerate(counts))
        return f"Beliefs({len(self):,} images: {kinds})"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def verdict(self) -> NDArray[np.int8]:
        """(N,) the likeliest kind of each image, as a `Verdict`; of equal ones the first."""
        verdict: NDArray[np.int8] = self.kinds.argmax(axis=1).astype(np.int8)
        return verdict

    @classmethod
    def trusting(cls, labels: NDArray[np.int64]) -> Beliefs:
        """Every label is right; images without one are mislabeled, so that their class is guessed.

        Args:
            labels: (N,), -1 for none.
        """
        n = len(labels)
        kinds = np.eye(3, dtype=np.float32)[
            np.where(labels >= 0, Verdict.CLEAN, Verdict.MISLABELED)
        ]
        return cls(
            np.asarray(labels, np.int64), kinds, np.full(n, -1), np.zeros(n, np.float32),
            np.full(n, -1, np.int32), np.zeros(n, np.bool_),
        )  # fmt: skip

    @classmethod
    def of_findings(cls, findings: Findings, certain: NDArray[np.bool_] | None = None) -> Beliefs:
        """What an audit found.

        An image without a label is not clean: that share of its probability is taken for
        "mislabeled", so that its class is guessed. Broken images count as foreign.

        Args:
            findings: of N images.
            certain: (N,) which of them a person decided about; their verdict in the findings is
                taken as it is. None of them by default.
        """
        kinds = np.nan_to_num(findings.probabilities.astype(np.float32))
        certain = np.zeros(len(findings), np.bool_) if certain is None else certain
        broken = findings.verdict == Verdict.BROKEN
        kinds[broken] = np.eye(3, dtype=np.float32)[Verdict.FOREIGN]
        decided = certain & ~broken
        kinds[decided] = np.eye(3, dtype=np.float32)[findings.verdict[decided]]
        unlabeled = findings.label < 0
        kinds[unlabeled, Verdict.MISLABELED] += kinds[unlabeled, Verdict.CLEAN]
        kinds[unlabeled, Verdict.CLEAN] = 0
        return cls(
            labels=findings.label,
            kinds=kinds / kinds.sum(axis=1, keepdims=True),
            suggestion=findings.suggestion,
            suggestion_probability=np.nan_to_num(findings.suggestion_probability),
            foreign_group=findings.foreign_group,
            certain=certain,
        )
