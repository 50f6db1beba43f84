"""What a model says of images: probabilities of clusters, and clusters of a whole set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from labelsieve.data.augment import Normalization
from labelsieve.data.sources import Source
from labelsieve.features.heads import ClusterHeads, cluster_probabilities
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.scan.clusterer import clean_logits
from labelsieve.records import ImageSet
from labelsieve.records.clusters import Clusters, Part

BLOCK = 32 * 512  # images between two words of progress; whole batches, or rounding would differ


def network_probabilities(
    backbone: nn.Module,
    heads: ClusterHeads,
    source: Source,
    rows: NDArray[np.int64],
    normalization: Normalization,
    size: int,
    *,
    device: str,
    progress: Callable[[int, int], None],
) -> NDArray[np.float32]:
    """What a network and aligned heads on it say of images as they are, in float32.

    Args:
        backbone: (B, 3, size, size) to (B, D).
        heads: on it.
        source: of the images.
        rows: which of them.
        normalization: of the pixels.
        size: of the views, pixels.
        device: "cpu", "cuda", ...
        progress: told images done and images in all.

    Returns:
        (len(rows), C). It is the only array of this size: logits are of one block at a time.
    """
    runtime = Runtime.start(device)
    found = np.empty((len(rows), heads.settings.n_classes), np.float32)
    for first in range(0, len(rows), BLOCK):
        part = rows[first : first + BLOCK]
        logits = clean_logits(backbone, heads, source, part, normalization, size, runtime=runtime)
        found[first : first + BLOCK] = cluster_probabilities(logits).numpy()
        progress(first + len(part), len(rows))
    return found


def clusters_of_set(
    images: ImageSet,
    rows: NDArray[np.int64],
    found: Clusters,
    part: NDArray[np.int8] | Part,
    **columns: Any,
) -> Clusters:
    """Clusters of all images of a set, from those of the images that can be read.

    Args:
        images: the set.
        rows: which of its images `found` is of, in that order; the others are broken.
        found: clusters of those.
        part: of all readable images, or (N,) of each image.
        columns: further columns of `Clusters`, of the set.
    """
    n, width = len(images), found.choices.shape[1]
    choices = np.full((n, width), -1, np.int64)
    probabilities = np.full((n, width), np.nan, np.float32)
    parts = np.full(n, Part.BROKEN, np.int8)
    choices[rows], probabilities[rows] = found.choices, found.probabilities
    parts[rows] = part[rows] if isinstance(part, np.ndarray) else part
    others = {
        "names": found.names,
        "duplicate_of": np.full(n, -1, np.int64),
        "prototypes": (-1,) * len(found.names),
        **columns,
    }
    return Clusters(
        image=images.ids, choices=choices, probabilities=probabilities, part=parts, **others
    )
