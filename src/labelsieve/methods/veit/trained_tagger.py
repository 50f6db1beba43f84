"""What came of training a tagger: networks, what they say of all asserted tags, and why.

::

    TrainedTagger    asks them of any images
    keep_answer      what says how likely an asserted pair is right
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from labelsieve.data.batches import Source
from labelsieve.features.tag_batch import TagBatch
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.veit.asking import (
    PairAnswer,
    own_probability,
    pair_answers,
    tag_probabilities,
)
from labelsieve.methods.veit.network import GateCleaner, LabelCleaner, TagNet
from labelsieve.methods.veit.objectives.gated import gate_answer
from labelsieve.methods.veit.relations import Relation

_TIES = 1e-3  # share of the tagger's word in what a clipped cleaner says, which has many ties


@dataclass(frozen=True)
class TrainedTagger:
    """What came of a training. Networks are on the CPU or where they were trained, to be asked."""

    net: TagNet  # backbone and tagger
    baseline: TagNet  # the tagger of the tags as asserted
    cleaner: LabelCleaner | None  # on the features of `net`
    gates: GateCleaner | None  # on the features of `baseline`
    relevance: nn.Module | None  # of Misra et al.: features to log p that a tag is given
    # (P,) how likely each asserted pair is right, in the order of `asserted.data`, and 1 or 0 where
    # people said; NaN of images that were not asked for.
    keep: NDArray[np.float32]
    said: NDArray[np.float32]  # (P,) the same, as if nobody had
    # (P,) what gates say that did not learn from the image; NaN but at verified pairs. None where
    # there are no gates.
    cross_fitted: NDArray[np.float32] | None
    never_verified: NDArray[np.bool_]  # (C,)
    relations: list[Relation]
    n_updates: int | None  # that an early stop chose: of the tagger, or passes of the gates
    warnings: tuple[str, ...]
    runtime: Runtime
    clean: Callable[[Tensor], Tensor]

    def keep_probabilities(
        self, source: Source, asserted: csr_array, rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """How likely asserted pairs of any images are right, people not considered.

        Args:
            source: of N images, or rows of features.
            asserted: (N, C) of the tags it was trained on.
            rows: which of them, each once.

        Returns:
            (P,) in the order of `asserted.data`; NaN of other images.
        """
        net, answer = keep_answer(self.net, self.baseline, self.cleaner, self.gates,
                              self.never_verified, None)  # fmt: skip
        return pair_answers(answer, net, source, asserted, rows, self.clean, self.runtime)

    def probabilities(self, source: Source, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """How likely each tag is of some images: (n, C). For many images ask for pairs."""
        return tag_probabilities(self.net, source, rows, self.clean, self.runtime)

    def pair_probabilities(
        self, source: Source, pairs: csr_array, rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """What the tagger says of pairs, whether they are asserted or not: (P,)."""
        return pair_answers(
            own_probability, self.net, source, pairs, rows, self.clean, self.runtime
        )


def keep_answer(
    net: TagNet,
    before: TagNet,
    cleaner: LabelCleaner | None,
    gates: GateCleaner | None,
    never_verified: NDArray[np.bool_],
    pair_logits: NDArray[np.float32] | None,
) -> tuple[TagNet, PairAnswer]:
    """What says how likely an asserted pair is right, and the network whose features it takes."""
    if gates is not None:
        device = next(gates.parameters()).device
        return before, gate_answer(gates, pair_logits, torch.from_numpy(never_verified).to(device))
    if cleaner is None:
        return net, own_probability

    def cleaned(
        tags: TagBatch, places: NDArray[np.int64], features: Tensor, logits: Tensor
    ) -> Tensor:
        own = own_probability(tags, places, features, logits)
        said = cleaner(tags, features)[tags.rows, tags.columns].clamp(0, 1)
        return torch.lerp(said, own, _TIES)

    return net, cleaned
