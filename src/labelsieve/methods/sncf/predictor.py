"""What a classifier says of images as they are, at any moment of its training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from labelsieve.data.batches import Source
from labelsieve.features.inference import clean_outputs, take_statistics
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.sncf.classifier import Trunk


class Predictor:
    """Asks a network for class probabilities, and leaves it as it is.

    With statistics of batch norms that are taken anew, a copy of the network is asked: in the
    network itself they would change what follows, as soon as anything is asked of it in evaluation
    mode.
    """

    def __init__(
        self,
        trunk: Trunk,
        source: Source,
        rows: NDArray[np.int64],
        n_images: int,
        clean: Callable[[Tensor], Tensor],
        runtime: Runtime,
    ) -> None:
        """Name the network; nothing is asked yet.

        Args:
            trunk: without what `Runtime.prepare` wrapped around it; on the runtime's device.
            source: of the images that statistics are taken from.
            rows: which of them.
            n_images: how many of these; 0: the running statistics of the training.
            clean: what a network is shown of images, or rows, as they are.
            runtime: device, precision and processes.
        """
        self._live, self._source, self._rows, self._n_images = trunk, source, rows, n_images
        self._clean, self._runtime = clean, runtime
        self._own: Trunk | None = None
        if n_images and any(isinstance(part, _BatchNorm) for part in trunk.modules()):
            self._own = copy.deepcopy(trunk).requires_grad_(False)
        self._unchanged = self._is_fresh = False

    def __call__(self, source: Source, rows: NDArray[np.int64]) -> Tensor:
        """(len(rows), C) float32 probabilities on the CPU; all processes must ask.

        Args:
            source: of these images, such as those of a test set.
            rows: which of them: those that can be decoded.
        """
        trunk = self.trunk()

        def answer(images: Tensor) -> Tensor:
            with self._runtime.autocast():
                _, logits = trunk(images)
            return logits.softmax(dim=1)  # type: ignore[no-any-return]

        return clean_outputs(
            answer, (trunk,), source, rows, self._clean, runtime=self._runtime
        )  # fmt: skip

    def trunk(self) -> Trunk:
        """The network that is asked, with its statistics."""
        if self._own is None:
            return self._live
        if not self._is_fresh:
            self._own.load_state_dict(self._live.state_dict())
            take_statistics(
                self._own, self._source, self._rows, self._n_images, self._clean,
                runtime=self._runtime,
            )  # fmt: skip
            self._is_fresh = self._unchanged
        return self._own

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """A while in which the network does not change: statistics are taken once."""
        self._unchanged, self._is_fresh = True, False
        try:
            yield
        finally:
            self._unchanged = self._is_fresh = False
