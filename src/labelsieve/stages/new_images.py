"""Images that a finished run does not know: how its network is shown them, and where they wait."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from labelsieve.data.augment import Normalization
from labelsieve.data.decode import Pixels
from labelsieve.data.read import read
from labelsieve.data.sources import Source
from labelsieve.errors import ConfigError
from labelsieve.records import Features, ImageSet
from labelsieve.run import Run
from labelsieve.stages.inputs import Progress, check_device
from labelsieve.stages.makers import GLANCE, readable_pixels
from labelsieve.stages.sources import SMALL, image_source


class Shown(NamedTuple):
    """How images are shown to a network."""

    image_size: int  # of the images as they are decoded, pixels
    view_size: int  # of what the network sees, cut from their middle
    normalization: Normalization

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Shown:
        """As model.json has it."""
        parts = (tuple(about["normalization"][name]) for name in Normalization._fields)
        return cls(int(about["image_size"]), int(about["view_size"]), Normalization(*parts))

    def to_dict(self) -> dict[str, Any]:
        """For model.json."""
        return {**self._asdict(), "normalization": self.normalization._asdict()}


@contextmanager
def new_images(images: ImageSet | str | Path, device: str) -> Iterator[tuple[ImageSet, Run]]:
    """Images to predict, and a folder like a run's for what is on the way.

    Raises:
        ConfigError: there is no such device.
        DataError: the images cannot be read.
    """
    check_device(device)
    if not isinstance(images, ImageSet):
        images = read(images)
    with (
        tempfile.TemporaryDirectory(prefix="labelsieve-") as folder,
        Run.open(Path(folder), "predict", {}) as run,
    ):
        yield images, run


def readable_source(
    images: ImageSet, size: int, folder: Path, progress: Progress
) -> tuple[Pixels, Source]:
    """Images at a small size, which says what can be read, and where a network takes them from.

    Args:
        images: the set.
        size: that the network takes, pixels.
        folder: for what is decoded.
        progress: told stage, done and total.

    Raises:
        DataError: none of them can be read.
    """
    # large ones are decoded again as the network takes them: 200 GB a million at 256 pixels
    pixels = readable_pixels(images, size if size <= SMALL else GLANCE, folder, progress)
    return pixels, image_source(images, pixels, size, folder, progress)


def check_no_features(features: str | Features | None) -> None:
    """Refuse features where a network looks at images.

    Raises:
        ConfigError: some are given.
    """
    if features is not None:
        raise ConfigError(
            f"--features {features!s}: this run's network looks at images itself. Leave it out."
        )
