"""The default: how likely each asserted tag is right, by several gates; the tagger learns that.

Beyond the paper, whose cleaner gives the median of 0 and 1 and so deletes a tag that is more often
wrong than right altogether. A gate gives a probability:

1. gates learn the verified pairs, as often as is best for images that are held out (`_stopped`);
2. what they say of all asserted pairs is what the tagger learns, 9:1 with verified images;
3. its biases are refitted to the verified images, so that its probabilities can be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from labelsieve.data.batches import Batch, Source, of_rows
from labelsieve.data.draws import batch_generator
from labelsieve.data.samplers import shuffled
from labelsieve.errors import ConfigError
from labelsieve.features.contrast import Step
from labelsieve.features.tag_batch import TagBatch, pair_places
from labelsieve.features.tag_heads import GateCleaner, GateShape, widest
from labelsieve.features.weights import drawn_from
from labelsieve.loop.checkpoints import Kept
from labelsieve.loop.optimizers import Optimizer, make_optimizers
from labelsieve.loop.rates import LearningRate, Shape
from labelsieve.loop.train import Training
from labelsieve.methods.veit.asking import PairAnswer, blocks, pair_answers
from labelsieve.methods.veit.baseline import unseen_logits
from labelsieve.methods.veit.network import TagNet
from labelsieve.methods.veit.objectives.biases import refit_biases
from labelsieve.methods.veit.objectives.plain import both_kinds, tagger_step
from labelsieve.methods.veit.stopping import folds, stretched
from labelsieve.methods.veit.targets import only_rows, overruled
from labelsieve.methods.veit.work import Learned, Work, numbers
from labelsieve.records.tag_set import values_at

LEAST_PAIRS = 20  # verified asserted pairs, for a look at held-out ones
_LOOKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # after how many passes


@dataclass(frozen=True)
class Gated:
    """Settings of the gates, and of what the tagger learns of them."""

    n_members: int = 5  # gates, of which the mean is taken
    n_label: int = 128
    n_hidden: int = 256
    dropout: float = 0.5
    # Of the features gates see one direction for so many verified images, the widest ones; 0: all.
    # Few images and many features make a worse cleaner than tags alone: see docs/results.md.
    images_a_direction: int = 32
    rate: float = 3e-3  # learning rate
    weight_decay: float = 1e-2
    batch_size: int = 256  # verified images a batch; fewer where they are few: a sixteenth of them
    # Over the verified images at a constant rate, at most; it is seen how many are best for
    # held-out ones. The gates then learn for twice as many, at a rate that falls to 0.
    passes: int = 32
    n_folds: int = 5  # parts of the verified images, each held out once; 0: half of the passes
    # Taggers of parts of the other images, so that each is judged by one that did not learn it,
    # where taggers know by heart what they learned; 0: never.
    n_taggers: int = 4
    # What the tagger is told of an asserted pair is p^k / (p^k + (1 - p)^k), k at least 1: more
    # decided than the gates are. Told what these leave open, it learns little of the images.
    sharpness: float = 4.0
    calibrate: bool = True  # refit the tagger's biases in the end

    def __post_init__(self) -> None:
        for name, least in (
            ("n_members", 1), ("n_label", 1), ("n_hidden", 1), ("batch_size", 1), ("passes", 1),
            ("n_folds", 0), ("n_taggers", 0), ("weight_decay", 0), ("images_a_direction", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} or more.")
        if self.sharpness < 1:
            raise ConfigError(f"sharpness is {self.sharpness}; expected 1 or more.")
        if not self.rate > 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"rate is {self.rate} and dropout {self.dropout}; expected above 0, and "
                "0 <= dropout < 1."
            )
        if self.n_folds == 1 or self.n_taggers == 1:
            raise ConfigError(
                "n_folds and n_taggers are 0, or at least 2 parts to hold one out of."
            )

    def planned(self, work: Work) -> int:
        n = len(work.verified_rows)
        a_pass = max(1, n // self._size(n))
        return (self.n_folds + 2) * self.passes * a_pass + (self.n_taggers + 1) * work.updates

    def learn(self, work: Work, before: TagNet) -> Learned:
        logits, _ = unseen_logits(work, before, self.n_taggers)
        few = _few(work, before, logits, self.images_a_direction)
        n_passes, fitted = self._stopped(work, few)
        spread = np.full(work.asserted.nnz, np.nan, np.float32)
        # A cosine to 0 over twice as many passes has the same sum of rates.
        gates = self._fit(work, few, np.arange(len(few.rows)), 2 * n_passes, "gates", "cosine")
        if fitted is not None:
            gates.slope.fill_(fitted.slope)
            gates.shift.fill_(fitted.shift)
            spread[few.places] = fitted.probabilities
        keep = kept(work, before, gates, logits)
        soft = overruled(sharpened(keep, self.sharpness), work.asserted, work.verified)
        targets = _with_added(work, soft)
        work.train(
            "tagger", tagger_step(work, targets), both_kinds(work),
            work.optimizers(work.training), {"net": work.net}, n_updates=work.updates,
        )  # fmt: skip
        if self.calibrate:
            refit_biases(work, pull=1.0)
        return Learned(gates=gates, pair_logits=logits, cross_fitted=spread, n_updates=n_passes)

    def _stopped(self, work: Work, few: _Few) -> tuple[int, _Fitted | None]:
        """After how many passes held-out pairs are told best, and what is said of them then.

        Best when it is stretched and moved as fits them: how sure networks are can be corrected
        afterwards, and by itself would stop them before they tell much apart.
        """
        known = np.flatnonzero(few.said)
        if self.n_folds == 0 or len(few.rows) < 2 or len(known) < LEAST_PAIRS:
            return max(1, self.passes // 2), None
        looks = [n for n in _LOOKS if n < self.passes] + [self.passes]
        said = torch.full((len(looks), few.asserted.nnz), float("nan"))
        for i, (fit, held) in enumerate(folds(np.arange(len(few.rows)), work.seed, self.n_folds)):
            own = torch.zeros_like(said)
            self._fit(
                work, few, fit, self.passes, f"gates-{i}", "constant", _Watched(looks, held, own)
            )
            places = pair_places(few.asserted, held)
            said[:, places] = own[:, places]
        right = few.said[known] > 0
        curves = [stretched(each[known].double().numpy(), right) for each in said]
        best = min(range(len(looks)), key=lambda i: curves[i].loss)
        curve, logits = curves[best], said[best].double().numpy()
        probabilities = expit(curve.slope * logits + curve.shift)
        probabilities[few.said == 0] = np.nan
        return looks[best], _Fitted(curve.slope, curve.shift, probabilities.astype(np.float32))

    def _fit(
        self,
        work: Work,
        few: _Few,
        rows: NDArray[np.int64],
        n_passes: int,
        name: str,
        shape: Shape,
        watched: _Watched | None = None,
    ) -> GateCleaner:
        """New gates learn verified pairs of some rows of the few."""
        gates = self._made(work, few)
        prepared = work.runtime.prepare(gates)
        training = Training(
            epochs=n_passes, batch_size=self._size(len(rows)),
            learning_rate=LearningRate(peak=self.rate, shape=shape, final=0.0),
            optimizer=Optimizer("adamw", weight_decay=self.weight_decay),
            precision=work.training.precision,
            checkpoint_minutes=work.training.checkpoint_minutes,
        )  # fmt: skip
        sampler = shuffled(
            rows, training.batch_size, work.seed, n_processes=work.runtime.n_processes
        )
        state: dict[str, Kept] = {"gates": prepared}
        if watched is not None:
            state["said"] = watched.said
        prepared.train()
        work.train(
            name, gate_step(work, prepared, few), sampler,
            make_optimizers(training.optimizer, [prepared]), state,
            training=training, source=few.source,
            after_epoch=None if watched is None else _watch(work, gates, few, watched),
        )  # fmt: skip
        return gates.eval()

    def _made(self, work: Work, few: _Few) -> GateCleaner:
        n_seen = 0 if few.seen is None else few.seen[1].shape[1]
        shape = GateShape(
            work.n_tags, few.features.shape[1], self.n_label, self.n_hidden, self.n_members,
            self.dropout, n_seen,
        )  # fmt: skip
        with drawn_from(work.seed + 2):
            gates = GateCleaner(shape)
        return gates if few.seen is None else gates.look_along(*few.seen)

    def _size(self, n: int) -> int:
        """Verified images a batch, of so many."""
        return max(1, min(self.batch_size, max(32, n // 16), n))


@dataclass(frozen=True)
class _Few:
    """The verified images, by themselves."""

    rows: NDArray[np.int64]  # (V,) which images they are
    features: NDArray[np.float32]  # (V, D) by the tagger of the tags as asserted
    source: Source  # of these
    asserted: csr_array  # (V, C)
    logits: NDArray[np.float32]  # (p,) of the asserted pairs
    said: NDArray[np.int8]  # (p,) +1, -1, 0
    places: NDArray[np.int64]  # (p,) of these pairs among all P
    seen: tuple[Tensor, Tensor] | None  # center (D,) and directions (D, K); None: all features


def _few(work: Work, before: TagNet, logits: NDArray[np.float32], images_a_direction: int) -> _Few:
    rows = work.verified_rows
    found = blocks(before, work.source, rows, work.views.clean, work.runtime)
    features = np.concatenate([features.float().cpu().numpy() for _, features, _ in found])
    asserted = work.asserted[rows]
    places = pair_places(work.asserted, rows)
    said = values_at(work.verified[rows], asserted)
    seen = None
    if images_a_direction:
        n_seen = max(1, len(rows) // images_a_direction)
        seen = widest(features, n_seen) if n_seen < features.shape[1] else None
    return _Few(rows, features, of_rows(features), asserted, logits[places], said, places, seen)


def gate_step(work: Work, gates: torch.nn.Module, few: _Few) -> Step:
    """Each gate learns which asserted pairs people found right: summed over pairs."""

    def step(batch: Batch) -> Mapping[str, Tensor]:
        rows = numbers(batch.rows)
        places = pair_places(few.asserted, rows)
        logits = torch.from_numpy(few.logits[places]).to(work.runtime.device)
        said = torch.from_numpy(few.said[places]).to(work.runtime.device)
        dice = batch_generator(work.seed, batch.epoch, batch.step)
        generator = torch.Generator().manual_seed(int(dice.integers(0, 2**62)))
        answers = gates(work.tags(few.asserted, rows), batch.images, logits, generator)
        right = (said > 0).float().expand_as(answers)
        losses = binary_cross_entropy_with_logits(answers, right, reduction="none")
        return {"loss": (losses * (said != 0)).sum() / len(rows)}

    return step


def gate_answer(
    gates: GateCleaner, pair_logits: NDArray[np.float32] | None, never_verified: Tensor
) -> PairAnswer:
    """How likely asserted pairs are right: the mean over gates; 1 for tags that nobody verified.

    Args:
        gates: in evaluation mode.
        pair_logits: (P,) of the tagger; None: what it says now.
        never_verified: (C,) bool.
    """

    def answer(
        tags: TagBatch, places: NDArray[np.int64], features: Tensor, logits: Tensor
    ) -> Tensor:
        at = logits[tags.rows, tags.columns]
        if pair_logits is not None:
            at = torch.from_numpy(pair_logits[places]).to(logits)
        said = gates.probability(tags, features, at)
        return torch.where(never_verified[tags.columns], 1.0, said)

    return answer


def kept(
    work: Work, before: TagNet, gates: GateCleaner, logits: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(P,) how likely each asserted pair is right; of images that are not learned, as asserted."""
    never = torch.ones(work.n_tags, dtype=torch.bool)
    never[torch.from_numpy(np.unique(work.verified.indices)).long()] = False
    rows = np.sort(np.concatenate([work.noisy_rows, work.verified_rows]))
    found = pair_answers(
        gate_answer(gates, logits, never.to(work.runtime.device)), before, work.source,
        work.asserted, rows, work.views.clean, work.runtime,
    )  # fmt: skip
    found *= work.asserted.data
    return np.nan_to_num(found, nan=1.0)


def sharpened(keep: NDArray[np.float32], sharpness: float) -> NDArray[np.float32]:
    """p^k / (p^k + (1 - p)^k): 0, 1/2 and 1 stay, others move away from 1/2.

    Example:
        >>> sharpened(np.array([0.5, 0.75], np.float32), 2.0).round(6).tolist()
        [0.5, 0.8999999761581421]
    """
    odds, against = keep**sharpness, (1 - keep) ** sharpness
    return (odds / (odds + against)).astype(np.float32)


def _with_added(work: Work, soft: NDArray[np.float32]) -> csr_array:
    """(N, C) targets: what is said of asserted pairs, and tags that people added."""
    if work.unverified == "absent":
        looked = np.repeat(np.diff(work.verified.indptr) > 0, np.diff(work.asserted.indptr))
        soft = np.where(looked & (values_at(work.verified, work.asserted) == 0), 0, soft)
    matrix = csr_array(
        (soft, work.asserted.indices, work.asserted.indptr), shape=work.asserted.shape
    )
    added = only_rows(work.verified, work.verified_rows).astype(np.float32)
    added.data[(added.data < 0) | (values_at(matrix, added) != 0)] = 0
    # + of sparse matrices sums what both have: nothing is left in `added` that `matrix` has
    found: csr_array = matrix + added
    found.eliminate_zeros()
    return found


class _Fitted(NamedTuple):
    slope: float
    shift: float
    probabilities: NDArray[np.float32]  # (p,) of the asserted pairs of the few; NaN if not verified


class _Watched(NamedTuple):
    """Held-out images, and what gates say of them now and then while they learn."""

    looks: list[int]  # after how many passes
    held: NDArray[np.int64]
    said: Tensor  # (looks, p) logits, filled at the pairs of these images


def _watch(
    work: Work,
    gates: GateCleaner,
    few: _Few,
    watched: _Watched,
) -> Callable[[int, dict[str, float]], None]:
    looks, held, said = watched
    places = pair_places(few.asserted, held)

    @torch.no_grad()
    def after_epoch(epoch: int, values: dict[str, float]) -> None:
        if epoch + 1 not in looks:
            return
        gates.eval()
        device = work.runtime.device
        found = gates.together(
            work.tags(few.asserted, held),
            torch.from_numpy(few.features[held]).to(device),
            torch.from_numpy(few.logits[places]).to(device),
        )
        said[looks.index(epoch + 1), places] = found.cpu()
        gates.train()

    return after_epoch
