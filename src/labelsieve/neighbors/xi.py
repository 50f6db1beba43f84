"""Clusters as the valleys of a reachability plot: xi extraction with predecessor correction.

Source: Ankerst et al. 1999, "OPTICS", section 4.3 (steep areas, conditions of a cluster); Schubert
and Gertz 2018, "Improving the cluster structure extracted from OPTICS plots", algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Plot(NamedTuple):
    """What OPTICS gives; the arrays but `ordering` are indexed by point."""

    ordering: NDArray[np.int64]  # (N,) points in the order they were reached
    reachability: NDArray[np.float64]  # (N,) infinite for the first
    predecessor: NDArray[np.int64]  # (N,) the point it was reached from, -1 for the first
    core_distances: NDArray[np.float64]  # (N,)


@dataclass
class _Descent:
    """A steep down area that may still open a valley."""

    start: int
    end: int
    height: float  # reachability at the start
    highest: float = 0.0  # reachability between its end and here ("mib" in the paper)


def extract_xi(plot: Plot, min_samples: int, min_cluster_size: int, xi: float) -> NDArray[np.int64]:
    """The valleys of a reachability plot that hold no smaller valley, as labels of the points.

    Equal to scikit-learn's cluster_optics_xi(predecessor_correction=True).

    Args:
        plot: from `reachability_plot`.
        min_samples: as given to OPTICS; also the longest flat stretch within a steep area.
        min_cluster_size: fewest points of a cluster.
        xi: in (0, 1); a step is steep if reachability changes by this share.

    Returns:
        (N,) label of each point, -1 for outliers.
    """
    n = len(plot.ordering)
    labels = np.full(n, -1, np.int64)  # in plot order until the last line
    count = 0
    for start, end in _valleys(plot, min_samples, min_cluster_size, xi):
        inside = labels[start : end + 1]
        if (inside == -1).all():
            inside[:] = count
            count += 1
    result = np.empty(n, np.int64)
    result[plot.ordering] = labels
    return result


def _valleys(
    plot: Plot, min_samples: int, min_cluster_size: int, xi: float
) -> list[tuple[int, int]]:
    """First and last place of each valley in the plot, inner ones before those around them."""
    heights = np.append(plot.reachability[plot.ordering], np.inf)
    place = np.empty(len(plot.ordering) + 1, np.int64)
    place[plot.ordering] = np.arange(len(plot.ordering))
    place[-1] = -1  # a predecessor of -1 has no place
    came_from = place[plot.predecessor[plot.ordering]]
    with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 and inf/inf: neither up nor down
        ratio = heights[:-1] / heights[1:]
    down, up = ratio >= 1 / (1 - xi), ratio <= 1 - xi
    end_of_down = _area_ends(down, ratio < 1, min_samples)
    end_of_up = _area_ends(up, ratio > 1, min_samples)

    valleys: list[tuple[int, int]] = []
    descents: list[_Descent] = []
    at, highest = 0, 0.0  # the first place not yet passed; the highest since the last area
    for steep in np.flatnonzero(down | up).tolist():
        if steep < at:
            continue
        highest = max(highest, heights[at : steep + 1].max())
        descents = [d for d in descents if highest <= d.height * (1 - xi) and highest < np.inf]
        for descent in descents:
            descent.highest = max(descent.highest, highest)
        if down[steep]:
            end = int(end_of_down[steep])
            descents.append(_Descent(steep, end, float(heights[steep])))
        else:
            end = int(end_of_up[steep])
            found = [_valley(d, steep, end, heights, came_from, xi) for d in descents]
            valleys += [v for v in reversed(found) if v and v[1] - v[0] + 1 >= min_cluster_size]
        at = end + 1
        highest = float(heights[at])
    return valleys


def _area_ends(
    steep: NDArray[np.bool_], against: NDArray[np.bool_], min_samples: int
) -> NDArray[np.int64]:
    """Where the steep area ends that starts at each steep place (0 at places that are not steep).

    An area goes on to the next steep place unless a step against its direction, or more than
    `min_samples` places that are not steep, lie between.
    """
    ends = np.zeros(len(steep), np.int64)
    places = np.flatnonzero(steep)
    if len(places):
        passed = np.cumsum(against)
        broken = (np.diff(places) - 1 > min_samples) | (np.diff(passed[places]) > 0)
        last = np.append(np.flatnonzero(broken), len(places) - 1)
        ends[places] = places[last[np.searchsorted(last, np.arange(len(places)))]]
    return ends


def _valley(
    descent: _Descent,
    rise: int,
    rise_end: int,
    heights: NDArray[np.float64],
    came_from: NDArray[np.int64],
    xi: float,
) -> tuple[int, int] | None:
    """The cluster between a steep down and a steep up area, if there is one (definition 11)."""
    start, end, rim = descent.start, rise_end, heights[rise_end + 1]
    if rim * (1 - xi) < descent.highest:  # condition 3b
        return None
    if descent.height * (1 - xi) >= rim:  # condition 4b: the left side is higher
        while start < descent.end and heights[start + 1] > rim:
            start += 1
    elif rim * (1 - xi) >= descent.height:  # condition 4c: the right side is higher
        while end > rise and heights[end - 1] > descent.height:
            end -= 1
    # Algorithm 2: the last point must be lower than the first, or have been reached from inside.
    inside = slice(start + 1, end + 1)
    holds = np.flatnonzero((heights[inside] < heights[start]) | (came_from[inside] >= start))
    if not len(holds):
        return None
    end = start + 1 + int(holds[-1])
    return (start, end) if end >= rise else None  # condition 2
