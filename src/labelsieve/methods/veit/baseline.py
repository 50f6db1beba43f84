"""The tagger of the tags as asserted, which all begin with; and what it says of unlearned pairs."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from labelsieve.data.samplers import shuffled
from labelsieve.features.heads import width_of
from labelsieve.features.tag_batch import pair_places
from labelsieve.features.tag_heads import Tagger
from labelsieve.features.weights import drawn_from
from labelsieve.methods.veit.asking import own_logit, pair_answers
from labelsieve.methods.veit.network import TagNet
from labelsieve.methods.veit.objectives.plain import tagger_step
from labelsieve.methods.veit.stopping import folds
from labelsieve.methods.veit.targets import frequencies
from labelsieve.methods.veit.work import Work

# Of the mean logit of asserted pairs, on learned and unlearned images: how much surer a tagger may
# be of what it learned.
LARGEST_GAP = 0.1


def new_net(backbone: nn.Module, frequency: NDArray[np.float64]) -> TagNet:
    """A copy of a backbone and a new tagger on it, which says how frequent each tag is."""
    with drawn_from(0):  # what it draws is overwritten, and should not move PyTorch's generator
        tagger = Tagger(width_of(backbone), len(frequency)).start_at(frequency)
    return TagNet(copy.deepcopy(backbone), tagger)


def learn_asserted(work: Work, rows: NDArray[np.int64], name: str = "noisy") -> None:
    """Teach `work.net` the tags as asserted, of some images."""
    training = work.baseline
    work.train(
        name, tagger_step(work, work.asserted),
        shuffled(rows, training.batch_size, work.seed, n_processes=work.runtime.n_processes),
        work.optimizers(training), {"net": work.net}, n_updates=work.updates, training=training,
    )  # fmt: skip


def unseen_logits(work: Work, before: TagNet, n_taggers: int) -> tuple[NDArray[np.float32], float]:
    """What the tagger says of asserted pairs, and of images that it knows by heart another one.

    A tagger is surer of what it learned than it would be if the image were new to it. Gates learn
    from verified images, which are new to it, and would keep what it learned all too often.

    Args:
        work: of which the verified images are those that the tagger did not learn.
        before: the tagger.
        n_taggers: in how many parts the other images are cut, if the tagger is surer of them; each
            is judged by one that learned the other parts. 0: all by `before`.

    Returns:
        (P,) logits, and by how much it is surer.
    """
    rows = np.sort(np.concatenate([work.noisy_rows, work.verified_rows]))
    found = _asked(work, before, rows)
    gap = _mean_at(work, found, work.noisy_rows) - _mean_at(work, found, work.verified_rows)
    if n_taggers == 0 or len(work.noisy_rows) < 2 * n_taggers or not gap > LARGEST_GAP:
        return found, gap
    for i, (fit, held) in enumerate(folds(work.noisy_rows, work.seed, n_taggers)):
        bare = new_net(before.backbone, frequencies(work.asserted, fit))
        bare.backbone.requires_grad_(False)
        other = replace(work, net=work.runtime.prepare(bare), bare=bare)
        learn_asserted(other, fit, f"noisy-{i}")
        work.n_done = other.n_done
        places = pair_places(work.asserted, held)
        found[places] = _asked(other, bare, held)[places]
    return found, gap


def _asked(work: Work, net: TagNet, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return pair_answers(
        own_logit, net, work.source, work.asserted, rows, work.views.clean, work.runtime
    )


def _mean_at(work: Work, logits: NDArray[np.float32], rows: NDArray[np.int64]) -> float:
    at = logits[pair_places(work.asserted, rows)]
    return float(at.mean(dtype=np.float64)) if len(at) else 0.0
