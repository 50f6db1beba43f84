"""A trained tagger and clean tags: to predict with, and to keep."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import Any

from labelsieve.errors import RunError
from labelsieve.records import Features, ImageSet
from labelsieve.records.tag_findings import Tagged
from labelsieve.records.tag_set import TagSet
from labelsieve.records.tagged_images import TaggedImages
from labelsieve.report.tag_metrics import TagScores
from labelsieve.run import copy_run, read_run
from labelsieve.stages.inputs import Progress
from labelsieve.tagging.kept import tags_of_images


class TagModel:
    """A tagger, and what its training found of the tags.

    It lives in the folder of its run; one that `tag` made lives in a folder that goes with it,
    until `save` gives it one to stay.

    Example:
        >>> import labelsieve as ls
        >>> model = ls.TagModel.load("run/")  # doctest: +SKIP
        >>> model.predict("new-photos/").write("new.csv")  # doctest: +SKIP
    """

    def __init__(self, folder: Path, *, temporary: bool = False) -> None:
        """Take the model in the folder of a finished `labelsieve tag`.

        Args:
            folder: of the run.
            temporary: it is removed when the model is no longer used.
        """
        self.folder = folder
        if temporary:
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        about = read_run(folder)
        if about["job"] != "tag":
            raise RunError(
                f"{folder}: made by `labelsieve {about['job']}`; expected a run of `tag`."
            )
        self._scores: dict[str, Any] = about.get("scores") or {}

    def __repr__(self) -> str:
        return f"TagModel({str(self.folder)!r}, {self.tagged!r})"

    @classmethod
    def load(cls, folder: str | Path) -> TagModel:
        """The model of a finished run.

        Raises:
            RunError: there is none.
        """
        return cls(Path(folder))

    @property
    def tagged(self) -> Tagged:
        """What is said of each tag of each image."""
        return Tagged.load(self.folder / "tags.parquet")

    @property
    def given(self) -> TagSet:
        """The tags as given, with what people verified."""
        return TagSet.load(self.folder / "given.parquet")

    @property
    def scores(self) -> dict[str, TagScores]:
        """On verified pairs that only scored, by method; the last is the model's."""
        return {name: TagScores.from_dict(each) for name, each in self._scores.items()}

    def predict(
        self,
        images: ImageSet | str | Path,
        *,
        features: str | Features | None = None,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> TaggedImages:
        """Say which tags images have.

        Args:
            images: from `read`, or what `read` takes.
            features: of these images, where the model was trained on features of your own.
            device: "cpu", "cuda", ...
            progress: called with (stage, done, total).

        Raises:
            ConfigError: features are missing or not needed.
            DataError: no image can be read.
        """
        return tags_of_images(
            self.folder, images, features=features, device=device, progress=progress
        )

    def save(self, folder: str | Path) -> None:
        """Copy the model, its tags and its report into a new folder.

        Raises:
            RunError: the folder is not empty, or cannot be written.
        """
        copy_run(self.folder, Path(folder))
