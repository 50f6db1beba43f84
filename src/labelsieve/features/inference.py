"""What networks say of images as they are: without augmentation, in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labelsieve.data.augment import Normalization, clean_view
from labelsieve.data.batches import Batches, Source
from labelsieve.data.samplers import in_order, shuffled
from labelsieve.loop.runtime import Runtime


@torch.no_grad()
def clean_outputs(
    answer: Callable[[Tensor], Tensor],
    modules: Sequence[nn.Module],
    source: Source,
    rows: NDArray[np.int64],
    clean: Callable[[Tensor], Tensor],
    *,
    runtime: Runtime,
    batch_size: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """What networks answer to images as they are, in evaluation mode.

    Each of several processes sees its part of the rows, and gets the answers to all.

    Args:
        answer: what `clean` gives to (B, ...), by the modules, under the precision it wants.
        modules: which are in evaluation mode meanwhile.
        source: of the images.
        rows: which of them: those that can be decoded.
        clean: what a network is shown of a batch of images; see `clean_of`.
        runtime: device and processes.
        batch_size: images at once, on each process.
        progress: told images done and images in all, of this process.

    Returns:
        (len(rows), ...) float32, on the CPU.
    """
    n_each = -(-len(rows) // runtime.n_processes)
    # gathered shares must be equally long: the last ones get some rows from the beginning again
    share = np.resize(rows, n_each * runtime.n_processes)[runtime.rank * n_each :][:n_each]
    found = torch.empty(0)
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(in_mode(module, training=False))
        batches = Batches(source, in_order(share, batch_size), device=runtime.device)
        done = 0
        for batch in batches.epoch(0):
            said = runtime.gather_detached(answer(clean(batch.images)).float())
            said = said.reshape(runtime.n_processes, -1, *said.shape[1:]).cpu()
            if done == 0:  # to the CPU at once: of 1.28 million x 1,000 classes these are 5 GB
                found = torch.empty(runtime.n_processes, n_each, *said.shape[2:])
            found[:, done : done + said.shape[1]] = said
            done += said.shape[1]
            if progress is not None:
                progress(done, n_each)
    return found.flatten(0, 1)[: len(rows)]


@torch.no_grad()
def take_statistics(
    model: nn.Module,
    source: Source,
    rows: NDArray[np.int64],
    n_images: int,
    clean: Callable[[Tensor], Tensor],
    *,
    runtime: Runtime,
    batch_size: int = 512,
) -> None:
    """Make the statistics of batch norms those of images as they are.

    Training leaves those of augmented views, whose colors are darker and weaker: by them, clean
    images come into uneven clusters.

    Args:
        model: changed in place, but for its weights; made by `Runtime.prepare` where there are
            several processes. Its parts keep their modes.
        source: of the images.
        rows: to draw images from, the same ones at each call.
        n_images: to draw; a thousand or two are enough.
        clean: what a network is shown of a batch of images; see `clean_of`.
        runtime: device, precision and processes.
        batch_size: images at once, on all processes together.
    """
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    drawn = np.random.default_rng(0).permutation(rows)[: max(n_images, runtime.n_processes)]
    batches = Batches(
        source, shuffled(drawn, batch_size, 0, n_processes=runtime.n_processes),
        device=runtime.device, rank=runtime.rank, n_processes=runtime.n_processes,
    )  # fmt: skip
    with in_mode(model, training=False):
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean of all batches
        for batch in batches.epoch(0):
            with runtime.autocast():
                model(clean(batch.images))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def clean_of(size: int, normalization: Normalization) -> Callable[[Tensor], Tensor]:
    """Images as they are: uint8 to normalized views of so many pixels."""
    return lambda images: clean_view(images, size, normalization)


def middle_of(size: int, normalization: Normalization) -> Callable[[Tensor], Tensor]:
    """The middle of images as they are, so many pixels of it: at the scale of `weak_view`."""

    def view(images: Tensor) -> Tensor:
        top, left = (max(0, side - size) // 2 for side in images.shape[2:])
        return clean_view(images[:, :, top : top + size, left : left + size], size, normalization)

    return view


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode for a while; then every part has the mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, before in modes:
            part.training = before
