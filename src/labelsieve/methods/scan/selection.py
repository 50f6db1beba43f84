"""Which state of a training is kept for its end, without labels.

::

    Judge    the loss of each head on images that are not trained on
    Best     keeps the state of the lowest loss
    Watch    sees that clusters are lost, and says when to stop
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.errors import ConfigError, DataError
from labelsieve.loop.runtime import bare
from labelsieve.methods.scan.health import Health, collapsed
from labelsieve.methods.scan.losses import validation_loss
from labelsieve.records import Neighbors

_COME_AND_GO = 0.02  # of the clusters


class Best:
    """Copies of modules as they were at the lowest loss, and which epoch and head had it.

    Part of a checkpoint like any network, so that a resumed training chooses among all its epochs.

    Example:
        >>> from torch.nn import init
        >>> layer = nn.Linear(1, 1)
        >>> best = Best({"layer": layer})
        >>> _ = init.constant_(layer.weight, 3)
        >>> best.offer(epoch=0, loss=-1.5, head=2)
        True
        >>> _ = init.constant_(layer.weight, 4)
        >>> best.offer(epoch=1, loss=-1.2)
        False
        >>> best.restore()
        >>> layer.weight.item(), best.epoch, best.loss, best.head
        (3.0, 0, -1.5, 2)

    Attributes:
        epoch: of the lowest loss; -1 before the first.
        loss: the lowest; infinite before the first.
        head: which of several heads had it.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        """Name what is to be kept; nothing is copied yet.

        Args:
            modules: all that the training changes and its end needs; those that `Runtime.prepare`
                gave are kept without what it wrapped around them.
        """
        self._modules = {name: bare(module) for name, module in modules.items()}
        self._states: dict[str, dict[str, Tensor]] = {}
        self.epoch, self.loss, self.head = -1, math.inf, 0

    def offer(self, epoch: int, loss: float, head: int = 0) -> bool:
        """Keep the modules as they are now if the loss is the lowest; whether it is.

        Of equal losses the first stays. NaN is never the lowest.
        """
        if not loss < self.loss:
            return False
        self.keep(epoch, loss, head)
        return True

    def keep(self, epoch: int, loss: float, head: int = 0) -> None:
        """Keep the modules as they are now, whatever was kept before."""
        self.epoch, self.loss, self.head = epoch, float(loss), head
        self._states = {
            name: {key: value.detach().clone() for key, value in module.state_dict().items()}
            for name, module in self._modules.items()
        }

    def restore(self) -> None:
        """Make the modules what they were; as long as nothing was kept, they stay as they are."""
        for name, state in self._states.items():
            self._modules[name].load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "epoch": self.epoch, "loss": self.loss, "head": self.head, "states": self._states,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.epoch, self.loss, self.head = state["epoch"], state["loss"], state["head"]
        self._states = {name: dict(values) for name, values in state["states"].items()}


class Judge:
    """The validation loss of each head, and what the log says of it."""

    def __init__(
        self,
        neighbors: Neighbors,
        n_rows: int,
        entropy_weight: float,
        prior: NDArray[np.floating[Any]] | None,
        n_clusters: int,
    ) -> None:
        indices = neighbors.indices
        if len(indices) != n_rows or (
            indices.size and not 0 <= indices.min() <= indices.max() < n_rows
        ):
            raise DataError(
                f"valid_neighbors has {len(indices)} rows for {n_rows} validation images; expected "
                "one row each, of indices into valid_rows."
            )
        self._neighbors = torch.from_numpy(np.asarray(indices, np.int64))
        self._entropy_weight, self._n_clusters = entropy_weight, n_clusters
        self._log_prior = torch.full((n_clusters,), -math.log(n_clusters))
        if prior is not None:
            sizes = torch.as_tensor(prior, dtype=torch.float64)
            if sizes.shape != (n_clusters,) or not bool((sizes > 0).all()):
                raise ConfigError(
                    f"prior is {np.asarray(prior).tolist()}; expected {n_clusters} sizes above 0, "
                    "one for each cluster."
                )
            self._log_prior = (sizes / sizes.sum()).log().float().sort().values

    def __call__(self, logits: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The losses (H,) of logits (H, M, C), and their values for the log.

        With a prior, the loss is told how far the clusters' shares are from it, KL(m || prior) -
        ln C, and not -H(m): the same number where the prior is uniform. Shares and prior are
        compared by rank, as in training.
        """
        # one head at a time, as in `validation_loss`
        sums = torch.stack([head.log_softmax(1).logsumexp(0) for head in logits])
        log_mean = sums - math.log(logits.shape[1])  # (H, C)
        log_mean = log_mean.sort(dim=1).values
        mean, most = log_mean.exp(), math.log(self._n_clusters)
        evenness = most - (mean * (log_mean - self._log_prior)).sum(1)  # H(m) where uniform
        entropy = -(mean * log_mean).sum(1)
        losses = validation_loss(logits, self._neighbors) + entropy - evenness
        head = int(losses.argmin())
        weighted = losses[head] - (self._entropy_weight - 1) * evenness[head]
        values = {
            "valid_loss": float(losses[head]),
            "valid_gap": float(losses[head]) + most,  # to the least it can be
            "valid_loss_weighted": float(weighted),
        }
        if len(losses) > 1:
            values["valid_head"] = float(head)
            values |= {f"valid_loss_{i}": float(loss) for i, loss in enumerate(losses)}
        return losses, values


class Watch:
    """Notices that clusters are lost, and says when to stop.

    Part of a checkpoint, as it counts epochs in a row.
    """

    def __init__(self, patience: int, before: Health | None = None) -> None:
        """Begin with what is known: nothing, or the predictions before the training.

        Args:
            patience: epochs in a row with a problem after which to stop; 0 never stops.
            before: what later epochs are compared with.
        """
        self._patience, self._before = patience, before
        self._n_bad, self._problem, self._stopped_at = 0, "", -1

    def lost(self, now: Health) -> str | None:
        """Which clusters are lost, in a sentence.

        Of a thousand clusters some come and go: up to a fiftieth of them count as none.
        """
        if self._before is None or now.n_used >= (1 - _COME_AND_GO) * self._before.n_used:
            return None
        return collapsed(now, self._before)

    def look(self, epoch: int, now: Health, problem: str | None, *, is_new: bool = False) -> bool:
        """Count an epoch; whether to stop.

        Args:
            epoch: its number.
            now: its predictions.
            problem: with them, in a sentence; None where there is none.
            is_new: compare later epochs with this one.
        """
        if is_new:
            self._before = now
        self._n_bad = 0 if problem is None else self._n_bad + 1
        self._problem = problem or ""
        if problem is None or self._n_bad != self._patience:
            return False
        self.stop(epoch, problem)
        return True

    def stop(self, epoch: int, reason: str) -> None:
        """Note that the training ends after this epoch, and why."""
        self._problem, self._stopped_at = reason, epoch

    def warnings(self, chosen: int) -> tuple[str, ...]:
        """What to tell of a training of which this epoch was chosen, -1 for none of them."""
        whose = f"that of epoch {chosen + 1}" if chosen >= 0 else "the one it began with"
        found = []
        if self._stopped_at >= 0:
            when = f"Training stopped after epoch {self._stopped_at + 1}."
            found.append(f"{when} {self._problem} The network given back is {whose}.")
        elif self._problem:
            found.append(
                f"At the end of training: {self._problem} The network given back is {whose}."
            )
        before = self._before
        if before is not None and before.n_used < before.n_clusters:
            found.append(
                f"Of {before.n_clusters} clusters {before.n_used} have any of the validation "
                "images. There may be fewer classes, or too few images to learn so many from."
            )
        return tuple(found)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        before = None if self._before is None else asdict(self._before)
        return {
            "before": before, "n_bad": self._n_bad, "problem": self._problem,
            "stopped_at": self._stopped_at,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        before = state["before"]
        self._before = None if before is None else Health(**before)
        self._n_bad, self._problem = state["n_bad"], state["problem"]
        self._stopped_at = state["stopped_at"]
