"""Whether clusters are alive: logged at every epoch, since they can die in silence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from labelsieve.errors import DataError

_NAMED = 5  # lost clusters that are named


@dataclass(frozen=True)
class Health:
    """How predictions use the clusters."""

    n_used: int  # clusters that are the most probable of at least one image
    n_clusters: int
    entropy: float  # of the mean probabilities, over ln C: 1 where clusters are used evenly
    smallest_share: float  # of the images, of the cluster that has the fewest
    confident_90: float  # share of the images whose most probable cluster has more than 0.90
    confident_95: float
    confident_99: float
    unused: tuple[int, ...] = ()  # the clusters without an image

    def to_log(self) -> dict[str, float]:
        """The values of an epoch's line in the log."""
        return {
            "used_clusters": float(self.n_used),
            "entropy": self.entropy,
            "smallest_share": self.smallest_share,
            "confident_90": self.confident_90,
            "confident_95": self.confident_95,
            "confident_99": self.confident_99,
        }


@torch.no_grad()
def health(probabilities: Tensor) -> Health:
    """Look at the predictions for a set of images.

    Args:
        probabilities: (N, C); rows sum to 1.

    Raises:
        DataError: no image or cluster, or a row that is not finite.

    Example:
        >>> found = health(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        >>> found.n_used, found.unused, round(found.entropy, 4)  # ln 2 / ln 3
        (2, (2,), 0.6309)
    """
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise DataError(
            f"probabilities are {tuple(probabilities.shape)}; expected (N, C) of N >= 1 images."
        )
    if not probabilities.isfinite().all():
        row = int((~probabilities.isfinite()).any(dim=1).nonzero()[0])
        raise DataError(f"row {row}: a probability is not finite; leave broken images out.")
    n, n_clusters = probabilities.shape
    highest, cluster = probabilities.max(dim=1)
    counts = cluster.bincount(minlength=n_clusters)
    mean = probabilities.mean(dim=0, dtype=torch.float64)
    entropy = float(torch.special.entr(mean).sum())
    shares = [float((highest > least).double().mean()) for least in (0.9, 0.95, 0.99)]
    unused = tuple((counts == 0).nonzero().flatten().tolist())
    return Health(
        n_used=n_clusters - len(unused),
        n_clusters=n_clusters,
        entropy=entropy / math.log(n_clusters) if n_clusters > 1 else 1.0,
        smallest_share=int(counts.min()) / n,
        confident_90=shares[0],
        confident_95=shares[1],
        confident_99=shares[2],
        unused=unused,
    )


def collapsed(now: Health, before: Health) -> str | None:
    """Say which clusters were lost; None where as many are used as before.

    Where one cluster lost its images and another got some, as in the first epochs, none is lost.

    Args:
        now: of an epoch.
        before: of the same images at an earlier one, such as the best.

    Example:
        >>> before = health(torch.eye(3))
        >>> collapsed(health(torch.eye(3)[:2]), before)
        'Cluster 2 lost all its images: 2 of 3 clusters are used, 3 were before.'
    """
    if now.n_used >= before.n_used:
        return None
    lost = [str(cluster) for cluster in now.unused if cluster not in before.unused]
    named, rest = lost[:_NAMED], len(lost) - _NAMED
    names = f"{', '.join(named)} and {rest} more" if rest > 0 else _listed(named)
    which = (
        f"Cluster {names} lost all its" if len(lost) == 1 else f"Clusters {names} lost all their"
    )
    return (
        f"{which} images: {now.n_used} of {now.n_clusters} clusters are used, {before.n_used} were "
        "before."
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
