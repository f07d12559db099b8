"""The frontier along compute: the best loss among what was trained at no more than so many FLOPs.

Hoffmann et al. 2022, approach 1, over ended runs instead of whole curves: a cell is a size on an
amount of data for one training length, and lies on the frontier if none of at most its FLOPs has a
lower mean loss. FLOPs and lengths within a fifth count as equal: runs that patience ended, and
those of one budget that were rounded to whole steps, differ by chance. The frontier is a choice
among noisy means, so a bootstrap has to choose again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from chemscale.desk.sample import Sample
from chemscale.table.results import Array

ALIKE = 1.2  # amounts of compute up to this factor apart are one

# Log losses and weights of the runs, (S, n) both, to which of them are fitted.
Choose = Callable[[Array, Array], NDArray[np.bool_]]


def by_length(sample: Sample) -> Sample:
    """The same runs, in cells of size, num_train and training length.

    Lengths are those asked for (max_items), else items seen, else FLOPs.
    """
    ranked = sorted(range(len(sample.points)), key=lambda i: (sample.cell[i], _length(sample, i)))
    cell = np.zeros(len(ranked), np.intp)
    for last, here in zip(ranked, ranked[1:], strict=False):
        longer = _length(sample, here) > ALIKE * _length(sample, last)
        cell[here] = cell[last] + (longer or sample.cell[here] != sample.cell[last])
    return replace(sample, cell=cell)


def _length(sample: Sample, place: int) -> float:
    point = sample.points[place]
    return point.max_items or point.items_seen or point.flops or 0.0


def log_cost(sample: Sample) -> Array:
    """Log FLOPs of each run's cell, the geometric mean over its runs."""
    log_flops = np.log([point.flops or 1.0 for point in sample.points])
    return (np.bincount(sample.cell, log_flops) / np.bincount(sample.cell))[sample.cell]


def on_frontier(log_flops: Array, cell: NDArray[np.intp]) -> Choose:
    """Choose the runs of cells that none of at most their FLOPs beats.

    Args:
        log_flops: (n,) of each run's cell.
        cell: (n,) which runs are replicates of each other.
    """
    first = np.unique(cell, return_index=True)[1]
    order = np.argsort(log_flops[first], kind="stable")
    member = (cell[:, None] == cell[first][order]).astype(float)  # (n, cells), cheapest first
    cost = log_flops[first][order]
    last = np.searchsorted(cost, cost + math.log(ALIKE), side="right") - 1  # as dear

    def choose(log_loss: Array, weights: Array) -> NDArray[np.bool_]:
        mean = (weights * log_loss) @ member / (weights @ member)
        best = mean <= np.minimum.accumulate(mean, axis=1)[:, last]
        return np.asarray(best @ member.T > 0)

    return choose
