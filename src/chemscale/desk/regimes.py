"""What limits each cell of a sweep: data, size, compute, or the resolution of the measurement.

Read off the measured cells, without a law where they have neighbours: the fall of the log loss per
log num_train and per log num_params, between the next smaller and the next larger cell on a line
(at an end: the cell itself). Its scatter is that of the seeds. Cells without neighbours on both
lines, or a sweep without replicates, take both slopes from the draws of the surface.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from chemscale.desk.sample import Sample
from chemscale.table.fits import Limit, Regime, SurfaceFit
from chemscale.table.results import Array, Interval, Quantity


def regimes(
    sample: Sample, surface: SurfaceFit | None, seeds: tuple[float, int] | None, level: float
) -> tuple[Regime, ...]:
    """Say of every cell what limits it.

    compute         half of its runs or more were capped
    resolution      doubling data and size lowers the loss by less than seeds scatter, surely
    data, size      falls surely faster along this axis than along the other, and falls at all
    not_identified  the interval leaves more than one of these open, or nothing says

    Args:
        sample: the fitted runs of a family.
        surface: fitted to them.
        seeds: pooled seed scatter and its degrees of freedom.
        level: of the intervals; "surely" means by their ends.
    """
    capped = np.array([point.ending == "capped" for point in sample.points], float)
    share = np.bincount(sample.cell, capped) / np.bincount(sample.cell)
    local = _local(sample, seeds, level) if seeds else {}
    found = []
    for place, (size, amount, _, _) in enumerate(sample.observed()):
        slopes = local.get(place) or _of_surface(surface, size, amount, level)
        if slopes is None:
            limit: Limit = "compute" if share[place] >= 0.5 else "not_identified"
            found.append(Regime(num_params=size, num_train=amount, limit=limit))
            continue
        data, in_size, gap, both = slopes
        low, high = _ends(gap)
        limit = "not_identified"
        if share[place] >= 0.5:
            limit = "compute"
        elif seeds and _ends(both)[1] * math.log(2) < seeds[0]:
            limit = "resolution"
        elif low > 0 and _ends(data)[0] > 0:
            limit = "data"
        elif high < 0 and _ends(in_size)[0] > 0:
            limit = "size"
        found.append(
            Regime(
                num_params=size,
                num_train=amount,
                limit=limit,
                data_slope=data,
                size_slope=in_size,
            )
        )
    return tuple(found)


def regime_words(found: Sequence[Regime]) -> str | None:
    """Count the regimes; None where there are none."""
    counts = Counter(one.limit for one in found)
    words: dict[Limit, str] = {
        "data": "data",
        "size": "size",
        "compute": "compute (capped)",
        "resolution": "the scatter of seeds",
    }
    told = [f"{word} in {counts[key]}" for key, word in words.items() if counts[key]]
    if not told:
        return "what limits its cells is not identified" if found else None
    unknown = counts["not_identified"]
    rest = f", undecided in {unknown}" if unknown else ""
    return f"of {len(found)} cells the limit is {', '.join(told)}{rest}"


Slopes = list[Quantity]  # data, size, data - size, data + size


def _ends(quantity: Quantity) -> tuple[float, float]:
    assert quantity.interval is not None
    return quantity.interval.low, quantity.interval.high


def _local(sample: Sample, seeds: tuple[float, int], level: float) -> dict[int, Slopes]:
    """Slopes between neighbouring cells, of every cell that has some along both axes."""
    from scipy.special import stdtrit

    *cells, means, counts = np.array(sample.observed()).T
    log_loss = np.log(means)
    reach = float(stdtrit(seeds[1], (1 + level) / 2)) * seeds[0]
    log_cells = np.log(cells).T
    size, data = (_differences(log_cells, axis) for axis in (0, 1))
    found = {}
    for place in range(len(log_cells)):
        if not (size[place].any() and data[place].any()):
            continue
        told = []
        for row in (data[place], size[place], data[place] - size[place], data[place] + size[place]):
            half = reach * math.sqrt(float((row**2 / counts).sum()))
            value = -float(row @ log_loss)
            interval = Interval(low=value - half, high=value + half, level=level)
            told.append(Quantity(value=value, interval=interval))
        found[place] = told
    return found


def _differences(log_cells: Array, axis: int) -> Array:
    """Rows that turn the cells' means into d log loss / d log x, zero without a neighbour."""
    rows = np.zeros((len(log_cells), len(log_cells)))
    for place, cell in enumerate(log_cells):
        line = np.flatnonzero(log_cells[:, 1 - axis] == cell[1 - axis])
        line = line[np.argsort(log_cells[line, axis])]
        at = int(np.flatnonzero(line == place)[0])
        low, high = line[max(at - 1, 0)], line[min(at + 1, len(line) - 1)]
        if low != high:
            step = log_cells[high, axis] - log_cells[low, axis]
            rows[place, high], rows[place, low] = 1 / step, -1 / step
    return rows


def _of_surface(surface: SurfaceFit | None, size: int, amount: int, level: float) -> Slopes | None:
    if surface is None:
        return None
    floor, a, in_size, b, in_data = np.array(surface.draws).T
    terms = a * size**-in_size, b * amount**-in_data
    loss = floor + terms[0] + terms[1]
    by_size, by_data = in_size * terms[0] / loss, in_data * terms[1] / loss
    rows = (by_data, by_size, by_data - by_size, by_data + by_size)
    return [Quantity.of(row, level) for row in rows]
