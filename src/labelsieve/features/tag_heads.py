"""What stands on a backbone where images have several tags: a tagger, and cleaners of tags.

::

    Tagger          which tags an image has: h of the paper
    LabelCleaner    cleaned tags, from those that are asserted and the image: g of the paper
    GateCleaner     how likely each asserted tag is right

Source: Veit et al., "Learning from noisy large-scale datasets with minimal supervision", CVPR 2017.
Letters: B images of a batch, C tags, D features, n asserted pairs of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, relu

from labelsieve.errors import ConfigError
from labelsieve.features.heads import Classes
from labelsieve.features.tag_batch import TagBatch

_SUREST = 1e-6  # probabilities keep as far from 0 and 1
_RAREST = 1e-4  # frequency that a tag is taken to have at least, and at most 1 minus it


class Tagger(nn.Linear):
    """One linear layer: (B, D) to logits (B, C), of which `sigmoid` makes probabilities."""

    def __init__(self, n_features: int, n_tags: int) -> None:
        self.settings = Classes(n_features, n_tags)
        super().__init__(n_features, n_tags)

    def start_at(self, frequencies: NDArray[np.float64]) -> Tagger:
        """Say of every image how frequent each tag is: what training begins with.

        Args:
            frequencies: (C,) share of the images that have the tag.
        """
        inner = frequencies.clip(_RAREST, 1 - _RAREST)
        with torch.no_grad():
            self.weight.zero_()
            self.bias.copy_(torch.from_numpy(np.log(inner / (1 - inner))))
        return self


@dataclass(frozen=True)
class CleanerShape:
    """The shape of a `LabelCleaner`. Defaults: linear, clipped, as published."""

    n_tags: int = 24  # C
    n_features: int = 512  # D
    n_label: int = 128  # of the tags, and of the features, where they are brought together
    n_hidden: int = 256  # after that; the published sizes are not known
    relu: bool = False  # between the layers; a better cleaner, for other training than published
    # The gradient passes the clip as if it were not there: what was pushed beyond 0 or 1 comes back
    # from there. Needed with Adam, not with the published optimizer.
    straight_through: bool = False

    def __post_init__(self) -> None:
        _check_positive(self, ("n_tags", "n_features", "n_label", "n_hidden"))


class LabelCleaner(nn.Module):
    """Cleaned tags in [0, 1], from those that are asserted of an image and what it shows.

    Source: Veit et al., fig. 3 and eq. 1::

        c = clip(y + r, 0, 1),    r = W_o (W_u [W_y y + b_y ; W_f f + b_f] + b_u) + b_o

    W_y y is a sum of the rows of W_y that are asserted; it is never multiplied with the zeros of y.
    W_o and b_o are 0 at first, so that the tags stay as they are, to the bit.

    Example:
        >>> from scipy.sparse import csr_array
        >>> from labelsieve.features.tag_batch import tag_batch
        >>> tags = tag_batch(csr_array(np.array([[1, 0, 1]])), np.array([0]))
        >>> LabelCleaner(CleanerShape(3, 2))(tags, torch.ones(1, 2)).tolist()
        [[1.0, 0.0, 1.0]]
    """

    def __init__(self, settings: CleanerShape | None = None) -> None:
        super().__init__()
        self.settings = shape = settings or CleanerShape()
        self.tags = _BagOfTags(shape.n_tags, shape.n_label)
        self.features = nn.Linear(shape.n_features, shape.n_label)
        self.hidden = nn.Linear(2 * shape.n_label, shape.n_hidden)
        self.output = nn.Linear(shape.n_hidden, shape.n_tags)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, tags: TagBatch, features: Tensor) -> Tensor:
        """Asserted tags of B images and their features (B, D) to cleaned ones (B, C), float32."""
        _, hidden = self.units(tags, features)
        residual: Tensor = self.output(hidden[0]).float()
        # in place: of 1,024 images and 6,012 tags a copy has 25 MB
        cleaned: Tensor = residual.index_put_(
            (tags.rows, tags.columns), tags.values, accumulate=True
        )
        if self.settings.straight_through:
            return clip_straight_through(cleaned)
        if torch.is_grad_enabled():
            return cleaned.clamp(0, 1)
        return cleaned.clamp_(0, 1)

    def units(self, tags: TagBatch, features: Tensor) -> tuple[Tensor, Tensor]:
        """What comes of tags and features side by side (1, B, 2 e); the next layer (1, B, m)."""
        joined = torch.cat([self.tags(tags), self.features(features)], dim=1)
        joined = relu(joined) if self.settings.relu else joined
        hidden = self.hidden(joined)
        return joined[None], (relu(hidden) if self.settings.relu else hidden)[None]


@dataclass(frozen=True)
class GateShape:
    """The shape of a `GateCleaner`."""

    n_tags: int = 24
    n_features: int = 512
    n_label: int = 128
    n_hidden: int = 256
    n_members: int = 5  # M, networks that learn apart
    dropout: float = 0.5  # share of the numbers before each of the two last layers, in training
    n_seen: int = 0  # K, directions of the features that are looked along; 0: all D features

    def __post_init__(self) -> None:
        _check_positive(self, ("n_tags", "n_features", "n_label", "n_hidden", "n_members"))
        if not 0 <= self.n_seen <= self.n_features:
            raise ConfigError(f"n_seen is {self.n_seen}; expected 0 to {self.n_features}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; expected 0 <= dropout < 1.")


class GateCleaner(nn.Module):
    """How likely each asserted tag of an image is right, by several networks that learn apart.

    Each of the M members says, of a tag c that is asserted::

        p = sigmoid(a l + b_c + MLP([W_y y + b_y ; W_f f + b_f])_c)

    where l is what a tagger says that learned the tags as they are. A tag that is not asserted
    stays absent, and of those that are, only their own outputs are computed. At first p is
    `sigmoid(l)`. Members differ in their first weights, and their layers are multiplied at once.
    What they say together is the mean of their p, of which the logit is then stretched and moved as
    held-out pairs want it: few pairs make networks too sure.

    From few images a network learns many features by heart, and then knows less of others than one
    that sees the tags alone. So f may be a few directions of them; see `look_along`.
    """

    center: Tensor  # (D,) where there are directions
    directions: Tensor  # (D, K)

    slope: Tensor  # () of the logit of the mean
    shift: Tensor  # ()
    scale: nn.Parameter  # (M,), a
    hidden: nn.Parameter  # (M, 2 e, m)
    hidden_bias: nn.Parameter  # (M, 1, m)
    output: nn.Parameter  # (C, M, m)
    output_bias: nn.Parameter  # (C, M), b_c

    def __init__(self, settings: GateShape | None = None) -> None:
        super().__init__()
        self.settings = shape = settings or GateShape()
        n, width = shape.n_members, 2 * shape.n_label
        self.tags = _BagOfTags(shape.n_tags, n * shape.n_label)
        self.features = nn.Linear(shape.n_seen or shape.n_features, n * shape.n_label)
        if shape.n_seen:
            self.register_buffer("center", torch.zeros(shape.n_features))
            self.register_buffer("directions", torch.eye(shape.n_features, shape.n_seen))
        reach = 1 / math.sqrt(width)
        self.hidden = nn.Parameter(torch.empty(n, width, shape.n_hidden).uniform_(-reach, reach))
        self.hidden_bias = nn.Parameter(torch.empty(n, 1, shape.n_hidden).uniform_(-reach, reach))
        self.output = nn.Parameter(torch.zeros(shape.n_tags, n, shape.n_hidden))
        self.output_bias = nn.Parameter(torch.zeros(shape.n_tags, n))
        self.scale = nn.Parameter(torch.ones(n))
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def look_along(self, center: Tensor, directions: Tensor) -> GateCleaner:
        """See only (f - center) @ directions of features f, as `widest` finds (D,) and (D, K)."""
        self.center.copy_(center)
        self.directions.copy_(directions)
        return self

    def probability(self, tags: TagBatch, features: Tensor, logits: Tensor) -> Tensor:
        """How likely the asserted pairs of a batch are right: (n,); arguments as of `forward`."""
        moved: Tensor = self.slope * self.together(tags, features, logits) + self.shift
        return moved.sigmoid()

    def together(self, tags: TagBatch, features: Tensor, logits: Tensor) -> Tensor:
        """The logit of the mean over members, (n,), before it is stretched and moved."""
        members: Tensor = self(tags, features, logits)
        return members.sigmoid().mean(dim=0).logit(_SUREST)

    def forward(
        self,
        tags: TagBatch,
        features: Tensor,
        logits: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What each member says of the asserted pairs of a batch: logits (M, n).

        Args:
            tags: the n pairs.
            features: (B, D).
            logits: (n,) of the pairs, by the tagger.
            generator: draws what is dropped, in training mode; None: nothing is.
        """
        _, units = self.units(tags, features, generator)
        units = self._dropped(units, generator)
        of_pairs = units.transpose(0, 1)[tags.rows]  # (n, M, m)
        own = (of_pairs * self.output[tags.columns]).sum(dim=2) + self.output_bias[tags.columns]
        return (self.scale * logits[:, None] + own).T

    def units(
        self, tags: TagBatch, features: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """What comes of tags and features side by side (M, B, 2 e); the next layer (M, B, m)."""
        n, width = self.settings.n_members, self.settings.n_label
        if self.settings.n_seen:
            features = (features - self.center) @ self.directions
        parts = (part.view(-1, n, width) for part in (self.tags(tags), self.features(features)))
        joined = relu(torch.cat([*parts], dim=2).transpose(0, 1))
        dropped = self._dropped(joined, generator)
        return joined, relu(torch.baddbmm(self.hidden_bias, dropped, self.hidden))

    def _dropped(self, values: Tensor, generator: torch.Generator | None) -> Tensor:
        rate = self.settings.dropout
        if not self.training or generator is None or rate == 0:
            return values
        drawn = torch.rand(values.shape, generator=generator).to(values.device)
        return values * (drawn >= rate) / (1 - rate)


def widest(features: NDArray[np.float32], n: int) -> tuple[Tensor, Tensor]:
    """The center of rows (N, D), (D,), and n directions in which they differ most, (D, n).

    Along each direction the rows have a deviation of 1; along one in which they do not differ, 0.
    """
    rows = torch.from_numpy(features).double()
    center = rows.mean(dim=0)
    variances, directions = torch.linalg.eigh((rows - center).T @ (rows - center) / len(rows))
    variances, directions = variances.flip(0)[:n], directions.flip(1)[:, :n]
    # the sign of a direction is chance: the largest part of each points up
    places = directions.abs().argmax(dim=0, keepdim=True)
    directions = directions * directions.gather(0, places).sign()
    differs = variances > 1e-9 * variances[0]
    scales = torch.where(differs, variances, torch.inf).rsqrt()
    return center.float(), (directions * scales).float()


def clip_straight_through(values: Tensor) -> Tensor:
    """Values between 0 and 1; the gradient is that of values that were not clipped.

    Source: the clip of Veit et al., eq. 1, without its fault: where it cuts, its gradient is 0, so
    that a right tag that was once pushed below 0 would stay there.
    """
    return values + (values.clamp(0, 1) - values).detach()


class _BagOfTags(nn.Module):
    """W y + b, of which W is kept as (C, e): a row a tag. First weights as those of `nn.Linear`."""

    def __init__(self, n_tags: int, width: int) -> None:
        super().__init__()
        reach = 1 / math.sqrt(n_tags)
        self.weight = nn.Parameter(torch.empty(n_tags, width).uniform_(-reach, reach))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-reach, reach))

    def forward(self, tags: TagBatch) -> Tensor:
        """(B, e)."""
        found = embedding_bag(
            tags.columns, self.weight, tags.offsets, mode="sum", per_sample_weights=tags.values
        )
        return found + self.bias


def _check_positive(settings: CleanerShape | GateShape, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise ConfigError(f"{name} is {getattr(settings, name)}; at least 1 is needed.")
