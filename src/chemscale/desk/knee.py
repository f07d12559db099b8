"""Whether a law bends once inside its window, and where: two slopes that meet at a knee.

    log y = c - a·u - (b - a)·max(0, u - k)        u = log x

Linear at fixed k, which is tried over a grid. A knee is seen where this describes the runs better
than a power law and a power law with a floor (corrected Akaike criterion, by 4), the exponent
surely changes, and the interval of k is less than half of the window.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from chemscale.desk.bootstrap import criterion, resample, scatter
from chemscale.desk.sentences import axis_unit, interval_words, number
from chemscale.desk.solve import influence
from chemscale.table.fits import Knee, LawFit
from chemscale.table.results import Array, Interval, Quantity

LEAST = 6  # different x: two on each side, and two for the knee to lie between


def find_knee(
    log_x: Array,
    log_loss: Array,
    cell: NDArray[np.intp],
    *,
    plain: float,
    delta: float,
    seeds: tuple[float, int] | None,
    level: float,
    rng: np.random.Generator,
) -> Knee:
    """Look for one knee along one axis.

    Args:
        log_x: (n,).
        log_loss: (n,).
        cell: (n,) which runs are replicates of each other.
        plain: corrected Akaike criterion of the law without a knee.
        delta: of the Huber loss the law without a knee was fitted with.
        seeds: pooled seed scatter of the family and its degrees of freedom.
        level: of the intervals.
        rng: of the bootstrap.
    """
    ticks = np.unique(log_x)
    if len(ticks) < LEAST:
        return Knee(status="not_identified")
    knees = np.linspace(ticks[1], ticks[-2], 60)
    once = np.ones((1, len(log_x)))
    best, place = _fit(log_x, log_loss[None], once, knees)
    residual = _value(log_x, best[0], knees[place[0]]) - log_loss
    for _ in range(10 if math.isfinite(delta) else 0):  # an odd seed makes no knee
        best, place = _fit(log_x, log_loss[None], influence(residual, delta)[None], knees)
        residual = _value(log_x, best[0], knees[place[0]]) - log_loss
    gain = plain - criterion(residual, 4)
    if gain < 4:  # odds of 7 to 1; a floor looks much like a knee
        return Knee(status="none" if gain <= 0 else "not_identified")
    spread = scatter(residual, cell, 4, delta, seeds)
    resampled, weights = resample(log_loss, cell, spread, 300, rng)
    draws, places = _fit(log_x, resampled, weights * influence(residual, delta), knees)
    before, change = -draws[:, 1], -draws[:, 2]
    at = np.exp(knees[places])

    def quantity(value: float, values: Array) -> Quantity:
        return Quantity(value=value, interval=Interval.of(values, level))

    turn, where = Interval.of(change, level), Interval.of(at, level)
    span = math.log(where.high / where.low)
    if turn.low <= 0 <= turn.high or span > 0.5 * (ticks[-1] - ticks[0]):
        return Knee(status="not_identified")
    first = -float(best[0, 1])
    return Knee(
        status="seen",
        at=Quantity(value=math.exp(knees[place[0]]), interval=where),
        before=quantity(first, before),
        after=quantity(first - float(best[0, 2]), before + change),
    )


def knee_words(law: LawFit, unit: str) -> str | None:
    """Say where a law bends and how, if it was seen to."""
    knee = law.knee
    if knee is None or knee.at.value is None or knee.at.interval is None:
        return None
    assert knee.before.value is not None and knee.after.value is not None
    return (
        f"along {law.axis} the exponent changes from {knee.before.value:.2f} to "
        f"{knee.after.value:.2f} at {number(knee.at.value)} {axis_unit(law.axis, unit)} "
        f"({interval_words(knee.at.interval)})"
    )


def _value(log_x: Array, row: Array, knee: float) -> Array:
    return np.asarray(row[0] + row[1] * log_x + row[2] * np.maximum(0, log_x - knee))


def _fit(log_x: Array, log_y: Array, weights: Array, knees: Array) -> tuple[Array, Array]:
    """Least squares (S, 3) of every data set at its best knee, and which that is."""
    rows, costs = [], []
    for knee in knees:
        shapes = np.stack([np.ones_like(log_x), log_x, np.maximum(0, log_x - knee)], axis=1)
        outer = (shapes[:, :, None] * shapes[:, None, :]).reshape(len(log_x), 9)
        normal = (weights @ outer).reshape(-1, 3, 3) + 1e-9 * np.eye(3)
        row = np.linalg.solve(normal, ((weights * log_y) @ shapes)[..., None])[..., 0]
        rows.append(row)
        costs.append((weights * (row @ shapes.T - log_y) ** 2).sum(axis=1))
    best = np.argmin(costs, axis=0)
    return np.stack(rows)[best, np.arange(len(log_y))], best
