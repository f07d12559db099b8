"""From the loss of a law to what its users care about: a link learned from the runs themselves.

A straight line between the log loss and the other metric, in logs where it is positive, in log odds
where it is a share; so it is monotone, and what it says of better losses than any measured is an
extrapolation by that line. Its interval is for one new run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from chemscale.table.records import Forecast
from chemscale.table.results import Array, Point


def utility(
    forecast: Forecast, points: Sequence[Point], measured: Mapping[str, Mapping[str, float]]
) -> dict[str, tuple[float, float, float]] | None:
    """Say what a forecast loss means in the other metrics: name → value and 90 % interval.

    A metric is left out unless it was measured in five cells or more (sizes and amounts), surely
    moves with the loss, and the forecast lies within half of the measured span (in logs) of it.
    Other losses (`nats_…`, `…loss`) say nothing that the law does not.

    Args:
        forecast: with its 90 % interval.
        points: of any family; used are ended runs of the forecast's.
        measured: run → metric → value, what `evaluate` found.
    """
    runs = [
        (point, point.losses | dict(measured.get(point.run, {})))
        for point in points
        if point.family == forecast.family and point.status == "finished" and point.cooled
        and point.losses.get(forecast.metric, 0.0) > 0
    ]  # fmt: skip
    names = sorted({name for _, metrics in runs for name in metrics} - {forecast.metric})
    found: dict[str, tuple[float, float, float]] = {}
    for name in names:
        if "nats_per" in name or name.endswith("loss"):
            continue
        both = [
            (point, metrics[name])
            for point, metrics in runs
            if math.isfinite(metrics.get(name, math.nan))
        ]
        cells = {(point.num_params, point.num_train) for point, _ in both}
        if len(cells) >= 5:
            log_loss = np.log([point.losses[forecast.metric] for point, _ in both])
            told = _predict(forecast, log_loss, np.array([one for _, one in both]), len(cells))
            found |= {name: told} if told else {}
    return found or None


def _predict(
    forecast: Forecast, log_loss: Array, values: Array, num_cells: int
) -> tuple[float, float, float] | None:
    """The line at the forecast; None where it is not identified there."""
    from scipy.special import expit, logit, stdtrit

    if (values > 0).all() and (values < 1).all():
        there, back = logit, expit
    elif (values > 0).all():
        there, back = np.log, np.exp
    else:
        return None  # a share of exactly 0 or 1, or a sign that changes: no line through it
    middle, span = float(log_loss.mean()), float(np.ptp(log_loss))
    x, y = log_loss - middle, there(values)
    at = math.log(forecast.value) - middle
    squares = float((x**2).sum())
    if squares == 0 or not x.min() - span / 2 <= at <= x.max() + span / 2:
        return None
    slope = float(x @ (y - y.mean())) / squares
    residual = y - y.mean() - slope * x
    # Runs of one cell are off the line together: the cells are what counts.
    freedom, reach = num_cells - 2, float(stdtrit(num_cells - 2, 0.95))
    scatter = math.sqrt(float((residual**2).mean()) * num_cells / freedom)
    if abs(slope) <= reach * scatter * math.sqrt(len(x) / num_cells / squares):
        return None
    low, high = forecast.intervals["90"]
    of_loss = abs(slope) * math.log(high / low) / 2  # half width, of the same level
    of_line = reach * scatter * math.sqrt(1 + 1 / num_cells + at**2 * len(x) / num_cells / squares)
    value, half = float(y.mean()) + slope * at, math.hypot(of_loss, of_line)
    return float(back(value)), float(back(value - half)), float(back(value + half))
