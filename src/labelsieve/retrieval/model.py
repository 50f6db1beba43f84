"""A trained embedding: to embed and search with, and to keep."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelsieve.errors import RunError
from labelsieve.neighbors.knn import nearest_neighbors, search
from labelsieve.records import Features, Findings, ImageSet
from labelsieve.report.retrieval_metrics import RetrievalScores
from labelsieve.retrieval.kept import embed_images
from labelsieve.run import copy_run, read_run
from labelsieve.stages.inputs import Progress


class EmbeddingModel:
    """An embedding in which like images lie close, and what its training found of the labels.

    It lives in the folder of its run; one that `retrieve` made lives in a folder that goes with it,
    until `save` gives it one to stay.

    Example:
        >>> import labelsieve as ls
        >>> model = ls.EmbeddingModel.load("run/")  # doctest: +SKIP
        >>> shop, queries = model.embed("shop/"), model.embed("queries/")  # doctest: +SKIP
        >>> rows, similarities = model.search(queries, shop)  # doctest: +SKIP
    """

    def __init__(self, folder: Path, *, temporary: bool = False) -> None:
        """Take the model in the folder of a finished `labelsieve retrieve`.

        Args:
            folder: of the run.
            temporary: it is removed when the model is no longer used.
        """
        self.folder = folder
        if temporary:
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        about = read_run(folder)
        if about["job"] != "retrieve":
            raise RunError(
                f"{folder}: made by `labelsieve {about['job']}`; expected a run of `retrieve`."
            )
        self._scores: dict[str, Any] = about.get("scores") or {}

    def __repr__(self) -> str:
        right = None if self.scores is None else self.scores.precision_at_1
        found = (
            "" if right is None else f", precision at 1 of {100 * right:.1f} % on its test images"
        )
        return f"EmbeddingModel({str(self.folder)!r}{found})"

    @classmethod
    def load(cls, folder: str | Path) -> EmbeddingModel:
        """The model of a finished run.

        Raises:
            RunError: there is none.
        """
        return cls(Path(folder))

    @property
    def findings(self) -> Findings:
        """What is said of the label of each training image."""
        return Findings.load(self.folder / "findings.parquet")

    @property
    def stages(self) -> dict[str, RetrievalScores]:
        """Scores on the test images, by phase; the last is that of the model."""
        return {phase: RetrievalScores.from_dict(each) for phase, each in self._scores.items()}

    @property
    def scores(self) -> RetrievalScores | None:
        """Scores of the model on its test images, if it was tested."""
        return next(reversed(self.stages.values()), None)

    def embed(
        self,
        images: ImageSet | str | Path,
        *,
        features: str | Features | None = None,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> Features:
        """One unit-norm row for each image that can be read.

        Args:
            images: from `read`, or what `read` takes.
            features: of these images, where the model was trained on features of your own.
            device: "cpu", "cuda", ...
            progress: called with (stage, done, total).

        Raises:
            ConfigError: features are missing or not needed.
            DataError: no image can be read.
        """
        return embed_images(
            self.folder, images, features=features, device=device, progress=progress
        )

    def search(
        self,
        queries: Features,
        gallery: Features,
        n_nearest: int = 10,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The images of a gallery that lie nearest to each query.

        Args:
            queries: of `embed`.
            gallery: of `embed`; where it is the very same object, an image does not find itself.
            n_nearest: K, at most as many as there are to be found.

        Returns:
            (N, K) rows of the gallery, nearest first, and their cosine similarities.
        """
        if queries is gallery:
            found = nearest_neighbors(np.asarray(gallery.values), n_nearest)
        else:
            found = search(np.asarray(queries.values), np.asarray(gallery.values), n_nearest)
        return found.indices, found.similarities

    def save(self, folder: str | Path) -> None:
        """Copy the model, its findings and its report into a new folder.

        Raises:
            RunError: the folder is not empty, or cannot be written.
        """
        copy_run(self.folder, Path(folder))
