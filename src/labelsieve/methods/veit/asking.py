"""What trained taggers and cleaners say of images: of pairs, and of all tags of some images.

A pass over the images in blocks, with no more in memory than a block and what is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from labelsieve.data.batches import Batches, Source
from labelsieve.data.samplers import in_order
from labelsieve.features.inference import in_mode
from labelsieve.features.tag_batch import TagBatch, pair_places, tag_batch
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.veit.network import TagNet

Progress = Callable[[int, int], None]  # images done, in all
# of a block: its asserted pairs, their places among all P, features (B, D), logits (B, C) -> (n,)
PairAnswer = Callable[[TagBatch, NDArray[np.int64], Tensor, Tensor], Tensor]

_VALUES = 4 << 20  # of a block's logits: 16 MB


def pair_answers(
    answer: PairAnswer,
    net: TagNet,
    source: Source,
    pairs: csr_array,
    rows: NDArray[np.int64],
    clean: Callable[[Tensor], Tensor],
    runtime: Runtime,
    *,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """An answer to each pair of a matrix.

    Every process asks for all images.

    Args:
        answer: to the pairs of a block of images.
        net: which gives features and logits of the block.
        source: of N images.
        pairs: (N, C), P pairs.
        rows: which images to ask for, each once.
        clean: what the network is shown of images as they are.
        runtime: device and precision.
        progress: told images done and images in all.

    Returns:
        (P,) float32 in the order of `pairs.data`; NaN for images that were not asked for.
    """
    found = np.full(pairs.nnz, np.nan, np.float32)
    done = 0
    for block, features, logits in blocks(net, source, rows, clean, runtime):
        places = pair_places(pairs, block)
        tags = tag_batch(pairs, block, runtime.device)
        with torch.no_grad():
            found[places] = answer(tags, places, features, logits).float().cpu().numpy()
        done += len(block)
        if progress is not None:
            progress(done, len(rows))
    return found


def blocks(
    net: TagNet,
    source: Source,
    rows: NDArray[np.int64],
    clean: Callable[[Tensor], Tensor],
    runtime: Runtime,
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Rows, features (B, D) and logits (B, C) of images as they are, block after block."""
    if not len(rows):
        return
    size = max(1, min(1024, _VALUES // net.tagger.out_features))
    batches = Batches(source, in_order(rows, size), device=runtime.device)
    for batch in batches.epoch(0):
        with in_mode(net, training=False), torch.no_grad(), runtime.autocast():
            features, logits = net(clean(batch.images))
        yield batch.rows.cpu().numpy(), features, logits


def tag_probabilities(
    net: TagNet,
    source: Source,
    rows: NDArray[np.int64],
    clean: Callable[[Tensor], Tensor],
    runtime: Runtime,
) -> NDArray[np.float32]:
    """How likely each tag is, of some images: (n, C) float32. For many images, ask for pairs."""
    found = np.empty((len(rows), net.tagger.out_features), np.float32)
    done = 0
    for block, _, logits in blocks(net, source, rows, clean, runtime):
        found[done : done + len(block)] = logits.sigmoid().float().cpu().numpy()
        done += len(block)
    return found


def own_probability(
    tags: TagBatch, places: NDArray[np.int64], features: Tensor, logits: Tensor
) -> Tensor:
    """What a tagger itself says of the pairs of a block: a `PairAnswer`."""
    return logits[tags.rows, tags.columns].sigmoid()


def own_logit(
    tags: TagBatch, places: NDArray[np.int64], features: Tensor, logits: Tensor
) -> Tensor:
    """The same, as logits."""
    return logits[tags.rows, tags.columns]
