"""The steps of contrastive pretraining, each as its paper's algorithm box.

A step takes this process' share of a batch and gives the loss of the whole batch: projections are
gathered from all processes, with their gradient. What is drawn for an image hangs on (seed, epoch,
row, view), what is drawn for a batch on (seed, epoch, step); so the number of processes changes
nothing. Encoders are as `runtime.prepare` gives them: they compute in the runtime's precision and
give float32.

    simclr_step    NT-Xent between two views
    imix_step      N-pairs, the first view mixed with another image's: SNCF's stage A
    moco_step      queries against a queue of slowly changing keys: MoCo v2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from labelsieve.data.augment import Contrastive, Normalization, contrastive_view
from labelsieve.data.batches import Batch
from labelsieve.data.draws import Draws, batch_generator
from labelsieve.data.mixing import mixing
from labelsieve.features.bank import MemoryBank
from labelsieve.features.momentum import MomentumEncoder, average_statistics, exchange, restore
from labelsieve.features.objectives import info_nce_queue, n_pairs_mixed, nt_xent
from labelsieve.loop.runtime import Runtime

Step = Callable[[Batch], Mapping[str, Tensor]]
View = Callable[[Tensor, Tensor, int, int], Tensor]  # of images, rows, epoch: their view v


class Encoder(nn.Module):
    """A network and its projection head: (B, 3, H, W) to (B, P) unit-norm rows."""

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, images: Tensor) -> Tensor:
        projections: Tensor = self.head(self.network(images))
        return projections


def random_views(settings: Contrastive, normalization: Normalization, seed: int) -> View:
    """View v of each image of a batch in an epoch; views of other numbers are other draws."""

    def view(images: Tensor, rows: Tensor, epoch: int, place: int) -> Tensor:
        return contrastive_view(images, settings, Draws(seed, epoch, rows, place), normalization)

    return view


def simclr_step(encoder: nn.Module, view: View, temperature: float, runtime: Runtime) -> Step:
    """Two views of each image find each other among all views of the batch.

    Source: Chen et al., ICML 2020, algorithm 1. Both views go through the network in one pass, so
    they share the statistics of its batch norms, as in SCAN's pretext.
    """

    def step(batch: Batch) -> dict[str, Tensor]:
        views = [view(batch.images, batch.rows, batch.epoch, place) for place in (0, 1)]
        first, second = encoder(torch.cat(views)).chunk(2)
        return {"loss": nt_xent(runtime.gather(first), runtime.gather(second), temperature)}

    return step


def imix_step(
    encoder: nn.Module, view: View, temperature: float, runtime: Runtime, seed: int
) -> Step:
    """A first view that is mixed of two images finds both their second views.

    Source: SNCF, stage A (i-Mix with N-pairs): lambda ~ Beta(1, 1), the larger side kept; first
    views are mixed in pixels, second views are not.
    """

    def step(batch: Batch) -> dict[str, Tensor]:
        first, second = (view(batch.images, batch.rows, batch.epoch, place) for place in (0, 1))
        n = len(first) * runtime.n_processes
        factor, permutation = mixing(batch_generator(seed, batch.epoch, batch.step), n)
        partners = exchange(first, permutation, runtime)  # one may lie on another process
        mixed = torch.lerp(partners, first, factor)
        anchors, candidates = encoder(torch.cat([mixed, second])).chunk(2)
        anchors, candidates = runtime.gather(anchors), runtime.gather(candidates)
        permutation = permutation.to(anchors.device, non_blocking=True)
        return {"loss": n_pairs_mixed(anchors, candidates, permutation, factor, temperature)}

    return step


def moco_step(
    encoder: nn.Module,
    slow: MomentumEncoder,
    bank: MemoryBank,
    view: View,
    temperature: float,
    runtime: Runtime,
    seed: int,
) -> Step:
    """A query finds its key, made by a slow copy of the encoder, among those of earlier batches.

    Source: He et al., CVPR 2020, algorithm 1; MoCo v2 for head, views and temperature. Keys are
    encoded in another order than queries: see momentum.py.
    """

    def step(batch: Batch) -> dict[str, Tensor]:
        slow.follow(encoder)
        queries = encoder(view(batch.images, batch.rows, batch.epoch, 0))
        n = len(batch.rows) * runtime.n_processes
        order = torch.from_numpy(batch_generator(seed, batch.epoch, batch.step).permutation(n))
        images, rows = (exchange(each, order, runtime) for each in (batch.images, batch.rows))
        candidates = view(images, rows, batch.epoch, 1)
        with runtime.autocast():
            keys = slow(candidates)
        keys = restore(keys, order, runtime)
        loss = info_nce_queue(runtime.gather(queries), keys, bank.read()[0], temperature)
        bank.push(keys)
        for module in (encoder, slow):
            average_statistics(module, runtime.mean)
        return {"loss": loss}

    return step
