"""A trained classifier: to predict with, and to keep."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path

from labelsieve.errors import RunError
from labelsieve.records import Features, Findings, ImageSet
from labelsieve.records.predictions import Predictions
from labelsieve.report.classifier_scores import ClassifierScores
from labelsieve.report.table import percent
from labelsieve.run import copy_run, read_run
from labelsieve.stages.inputs import Progress
from labelsieve.training.classifying import predict_classes


class Model:
    """A classifier, and what its training found of the images.

    It lives in the folder of its run; one that `train` made lives in a folder that goes with it,
    until `save` gives it one to stay.

    Example:
        >>> import labelsieve as ls
        >>> model = ls.Model.load("run/")  # doctest: +SKIP
        >>> model.predict("new-photos/").write("new.csv")  # doctest: +SKIP
    """

    def __init__(self, folder: Path, *, temporary: bool = False) -> None:
        """Take the model in the folder of a finished `labelsieve train`.

        Args:
            folder: of the run.
            temporary: it is removed when the model is no longer used.
        """
        self.folder = folder
        if temporary:
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        about = read_run(folder)
        if about["job"] != "train":
            raise RunError(
                f"{folder}: made by `labelsieve {about['job']}`; expected a run of `train`."
            )
        scores = about.get("scores")
        self.scores = None if scores is None else ClassifierScores.from_dict(scores)

    def __repr__(self) -> str:
        right = None if self.scores is None else self.scores.accuracy
        accuracy = "" if right is None else f", {percent(right)} of its test images right"
        return f"Model({str(self.folder)!r}{accuracy})"

    @classmethod
    def load(cls, folder: str | Path) -> Model:
        """The model of a finished run.

        Raises:
            RunError: there is none.
        """
        return cls(Path(folder))

    @property
    def findings(self) -> Findings:
        """What is said of each training image, refined by what the classifier learned."""
        return Findings.load(self.folder / "findings.parquet")

    def predict(
        self,
        images: ImageSet | str | Path,
        *,
        features: str | Features | None = None,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> Predictions:
        """Say which class each image shows.

        Args:
            images: from `read`, or what `read` takes.
            features: of these images, where the model was trained on features of your own.
            device: "cpu", "cuda", ...
            progress: called with (stage, done, total).

        Raises:
            ConfigError: features are missing or not needed.
            DataError: no image can be read.
        """
        return predict_classes(
            self.folder, images, features=features, device=device, progress=progress
        )

    def save(self, folder: str | Path) -> None:
        """Copy the model, its findings and its report into a new folder.

        Raises:
            RunError: the folder is not empty, or cannot be written.
        """
        copy_run(self.folder, Path(folder))
