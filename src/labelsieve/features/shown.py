"""What a network in training is shown of images, or of rows of frozen features.

Of rows, a batch is (B, D) and views are functions of rows, so that no training need know which of
the two it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from labelsieve.data.augment import Contrastive, Normalization, Weak, weak_view
from labelsieve.data.draws import Draws, Stream
from labelsieve.features.contrast import View, random_views
from labelsieve.features.inference import middle_of

# Numbers of an image's views in an epoch, for `Views`: each is another draw.
WEAK = (0, 1)
STRONG = (2, 3)


class Views(NamedTuple):
    """What a network is shown of the images of a batch, or of its rows."""

    weak: View  # (images, rows, epoch, number) to network inputs: hardly changed
    strong: View | None  # as different as two views of an image may be; None: nothing is contrasted
    clean: Callable[[Tensor], Tensor]  # as they are: what predictions are made of


def image_views(
    weak: Weak, strong: Contrastive | None, normalization: Normalization, seed: int
) -> Views:
    """Views of images: shifted and mirrored; cropped and recolored; the middle as it is.

    Args:
        weak: their settings, and the size of clean views.
        strong: settings; None where nothing is contrasted.
        normalization: of the pixels, as the network expects them.
        seed: of all draws.
    """

    def weakly(images: Tensor, rows: Tensor, epoch: int, number: int) -> Tensor:
        return weak_view(images, weak, Draws(seed, epoch, rows, number), normalization)

    strongly = None if strong is None else random_views(strong, normalization, seed)
    return Views(weakly, strongly, middle_of(weak.size, normalization))


def row_views(seed: int, noise: float = 0.0) -> Views:
    """Views of rows of features: the rows with some noise, and nothing to contrast.

    Args:
        seed: of the noise.
        noise: standard deviation of what is added to each number of a row. It is uniform: over so
            many columns its shape does not show.
    """

    def blurred(values: Tensor, rows: Tensor, epoch: int, number: int) -> Tensor:
        drawn = Draws(seed, epoch, rows, number).uniform(Stream.NOISE, values.shape[1])
        return values + drawn.sub_(0.5).mul_(noise * math.sqrt(12))

    weak = blurred if noise else lambda values, *_: values
    return Views(weak, None, lambda values: values)
