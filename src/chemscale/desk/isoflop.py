"""IsoFLOP curves: the best size at each of several budgets of compute, and how it grows.

Hoffmann et al. 2022, approach 2, with the curve of Porian et al. 2024: at each budget the losses
are joined over log N by Akima's interpolant, which a point far from the minimum does not bend, and
its lowest place is sought, in draws with the scatter between runs. The best size is their median;
a minimum at the smallest or the largest size is none. Then

    N_best = G·C^a,    D_best = H·C^b

by least squares of the logs, each budget weighted by its draws and by how closely its sizes lie:
where between two of them a curve is lowest is not known better than to their distance over √12.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from chemscale.desk.along import Question
from chemscale.desk.sample import Sample
from chemscale.desk.sentences import interval_words, number
from chemscale.table.errors import DataError
from chemscale.table.fits import BestSize, IsoFlop
from chemscale.table.results import Array, Interval, Quantity

ALIKE = 1.05  # FLOPs of runs of one budget, which go by whole steps, differ by less
LEAST = 4  # sizes at a budget: the best is none of the two at the ends
STEPS = 25  # places between two sizes at which a curve is looked at


def isoflop(
    flops: Array,
    num_params: Array,
    num_train: Array,
    loss: Array,
    *,
    scatter: float,
    rng: np.random.Generator,
    level: float = 0.9,
    num_draws: int = 1000,
) -> IsoFlop:
    """Find the best size at each budget, and with which power of compute it and its data grow.

    Args:
        flops: (n,) of each run; neighbours up to 5 % apart are of one budget.
        num_params: (n,).
        num_train: (n,) or tokens, or whatever the data are counted in.
        loss: (n,); replicates of a size at a budget count by the mean of their logs.
        scatter: of the log loss from run to run. Where it is not known, 0: intervals of the
            exponents then go by how far the best sizes lie from a straight line alone, and best
            sizes have none.
        rng: of the draws.
        level: of the intervals.
        num_draws: how many.

    Raises:
        DataError: a value that has no logarithm.
    """
    values = np.stack([flops, num_params, num_train, loss], axis=1)
    if not (np.isfinite(values) & (values > 0)).all():
        raise DataError(
            "IsoFLOP curves need flops, num_params, num_train and loss above 0 in every row: leave "
            "out the runs that did not end with a loss"
        )
    log = np.log(values)
    which = _budgets(log[:, 0])
    budgets, seen = [], []
    for place in np.unique(which):
        budget, gap, draws = _best_size(log[which == place], scatter, rng, level, num_draws)
        budgets.append(budget)
        if budget.status == "seen":
            seen.append((math.log(budget.flops), gap, draws))
    if len(seen) < 3:
        return IsoFlop(budgets=tuple(budgets), size_exponent=Quantity(), data_exponent=Quantity())
    log_flops, gaps = np.array([one[:2] for one in seen]).T
    size, data = np.stack([draws for _, _, draws in seen], axis=-1)  # (S, budgets) each
    return IsoFlop(
        budgets=tuple(budgets),
        size_exponent=_exponent(log_flops, size, gaps, rng, level),
        data_exponent=_exponent(log_flops, data, gaps, rng, level),
    )


def _budgets(log_flops: Array) -> NDArray[np.intp]:
    """Which budget each run (n,) is of, from 0 on; between budgets no runs are alike."""
    order, budget = np.argsort(log_flops, kind="stable"), np.zeros(len(log_flops), np.intp)
    budget[order[1:]] = np.cumsum(np.diff(log_flops[order]) > math.log(ALIKE))
    return budget


def isoflop_of(sample: Sample, question: Question) -> IsoFlop | None:
    """The same of runs that come in three budgets or more of four sizes, each on one num_train."""
    costed = [place for place, point in enumerate(sample.points) if point.flops]
    flops = np.array([sample.points[place].flops for place in costed], float)
    log_size, log_data, log_loss = (
        one[costed] for one in (sample.log_params, sample.log_train, sample.log_loss)
    )
    budget = _budgets(np.log(flops))
    cells = {(b, n, d) for b, n, d in zip(budget, log_size, log_data, strict=True)}
    sizes = np.bincount([b for b, _ in {cell[:2] for cell in cells}], minlength=1)
    if (sizes >= LEAST).sum() < 3 or len({cell[:2] for cell in cells}) < len(cells):
        return None
    kept = sizes[budget] >= LEAST
    return isoflop(
        flops[kept],
        np.exp(log_size[kept]),
        np.exp(log_data[kept]),
        np.exp(log_loss[kept]),
        scatter=question.seeds[0] if question.seeds else 0.0,
        rng=question.rng("isoflop"),
        level=question.level,
    )


def isoflop_words(found: IsoFlop | None) -> str | None:
    """Say how the best size grows with compute."""
    if found is None:
        return None
    seen = [one for one in found.budgets if one.status == "seen"]
    size, data = found.size_exponent, found.data_exponent
    count = f"{len(seen)} of {len(found.budgets)} IsoFLOP curves have their lowest point inside"
    if size.value is None or size.interval is None or data.value is None or data.interval is None:
        return f"how the best size grows with flops is not identified: {count}, three are needed"
    first, last = (one.num_params.value for one in (seen[0], seen[-1]))
    assert first is not None and last is not None
    return (
        f"the best size grows as flops^{size.value:.2f} ({interval_words(size.interval, '.2f')}) "
        f"and its num_train as flops^{data.value:.2f} ({interval_words(data.interval, '.2f')}), "
        f"from {number(first)} parameters at {number(seen[0].flops)} FLOPs to {number(last)} at "
        f"{number(seen[-1].flops)}: {count}"
    )


def _best_size(
    log: Array, scatter: float, rng: np.random.Generator, level: float, num_draws: int
) -> tuple[BestSize, float, Array]:
    """What one budget says, the distance of its sizes, draws (2, S) of log best size and data.

    Draws whose lowest place lies at an end are nan.
    """
    from scipy.interpolate import Akima1DInterpolator  # which alone takes half a second

    log_size, which, count = np.unique(log[:, 1], return_inverse=True, return_counts=True)
    _, _, log_data, log_loss = (np.bincount(which, one) / count for one in log.T)
    flops, num_sizes = math.exp(log[:, 0].mean()), len(log_size)
    if num_sizes < LEAST:
        few = BestSize(flops=flops, num_sizes=num_sizes, status="too_few")
        return few, math.nan, np.zeros((2, 0))
    ticks = np.linspace(0, num_sizes - 1, STEPS * (num_sizes - 1) + 1)
    places = np.interp(ticks, np.arange(num_sizes), log_size)
    drawn = log_loss + scatter * rng.standard_normal((num_draws, num_sizes)) / np.sqrt(count)
    curves = Akima1DInterpolator(log_size, drawn.T)(places)  # (places, S)
    lowest = curves.argmin(axis=0)
    inside = (lowest > 0) & (lowest < len(places) - 1)
    if 2 * inside.sum() <= num_draws:
        low = 2 * (lowest == 0).sum() > num_draws - inside.sum()
        end = "at_smallest" if low else "at_largest"
        ending = BestSize(flops=flops, num_sizes=num_sizes, status=end)
        return ending, math.nan, np.zeros((2, 0))
    sizes = np.where(inside, places[lowest], np.nan)
    gap = np.gradient(log_size)[np.abs(log_size - np.median(sizes[inside])).argmin()]
    draws = np.stack([sizes, np.interp(sizes, log_size, log_data)])
    size, data = (
        Quantity(
            value=math.exp(np.median(one)),
            interval=Interval.of(np.exp(one), level) if scatter else None,
        )
        for one in draws[:, inside]
    )
    found = BestSize(
        flops=flops,
        num_sizes=num_sizes,
        status="seen",
        num_params=size,
        num_train=data,
        loss=math.exp(np.median(curves.min(axis=0))),
    )
    return found, float(gap), draws


def _exponent(
    log_flops: Array, draws: Array, gaps: Array, rng: np.random.Generator, level: float
) -> Quantity:
    """Slope of the weighted straight line through log best sizes (S, budgets), nan where none is.

    Where they lie farther from the line than the draws tell, the interval is wider by as much.
    """
    inside, best = ~np.isnan(draws), np.nanmedian(draws, axis=0)
    weights = inside.mean(axis=0) ** 2 / (np.nanvar(draws, axis=0) + gaps**2 / 12)
    chosen = np.vstack([np.ones_like(best, bool), inside[inside.sum(axis=1) >= 3]])
    values = np.vstack([best, np.nan_to_num(draws[inside.sum(axis=1) >= 3])])
    share = weights * chosen
    share /= share.sum(axis=1, keepdims=True)
    away = log_flops - (share * log_flops).sum(axis=1, keepdims=True)
    slopes = (share * away * values).sum(axis=1) / (share * away**2).sum(axis=1)
    off = best - (share[0] * best).sum() - slopes[0] * away[0]
    freedom = len(best) - 2
    told = (share[0] * off**2).sum() / (share[0] * away[0] ** 2).sum() / freedom
    told = told * freedom / rng.chisquare(freedom, len(slopes) - 1)
    more = np.sqrt(np.maximum(0.0, told - slopes[1:].var()))
    drawn = slopes[1:] - np.median(slopes[1:]) + more * rng.standard_normal(len(more))
    return Quantity(value=float(slopes[0]), interval=Interval.of(slopes[0] + drawn, level))
