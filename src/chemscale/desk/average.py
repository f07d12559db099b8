"""Averaged forecasts: many laws, fitted with short and long memory, weighted by how they forecast.

No one form extrapolates best everywhere, and the best interpolator is often not a good one. So each
law is fitted with several *memories* (points count e times less for each `memory` of log x they lie
before the last), with a floor and without; what it forecasts is the mean over its shape parameters,
weighted by how well they fit. The forecasts are then weighted by *rolling origin*: fitted to the
first part of the points only, how well did each forecast the rest?

Everything is done at all origins, memories and shape parameters at once: the normal equations of
every beginning of the data are sums over its points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from chemscale.desk.laws import ALONG, Law, largest
from chemscale.desk.solve import nonnegative
from chemscale.desk.surfaces import broken_in_data, kaplan
from chemscale.table.results import Array


@dataclass(frozen=True)
class Settings:
    """What was chosen by looking at many curves; nothing here depends on the curve."""

    memories: tuple[float, ...] = (np.inf, 2.0, 0.7, 0.25, 0.1, 0.05)  # in log x, per axis
    long_memory: tuple[float, ...] = (0.4, 0.7)  # prior weights of the first memories; 1 of others
    no_floor: float = 0.2  # prior weight of a law without a floor
    damping: float = 0.75  # each forecast also counts with its change shrunk by this factor
    origins: tuple[float, ...] = (0.25, 0.5, 0.8, 1.1)  # hidden for rolling origin, log x per axis
    late: float = 1.0  # log of the weight of each origin over that of the one before
    power: float = 3.0  # weights go as rolling-origin error to minus this power
    resolution: float = 0.002  # smallest error told apart, in log y
    alike: float = 0.3  # in log x: how near to each other along a curve residuals are correlated
    support: float = 0.5  # power of the share of its parameters that an expert has points for
    candidates: tuple[int, int] = (500, 1000)  # shape parameters a law, along one axis, over more
    bins: int = 64  # longer curves are averaged in this many equal steps of log x


@dataclass(frozen=True)
class Points:
    """Measured losses, in logarithms, replicates and neighbours merged, in order of x."""

    log_x: Array  # (n, K), 0 at the largest x of each axis, or of those tied
    log_y: Array  # (n,)
    weight: Array  # (n,) how many measurements, mean 1
    order: Array  # (n,) sum of log_x, 0 at the last point: log x, or log of the product of axes
    last: float  # sum of log_x at the last point
    noise: float  # standard deviation of log y of one measurement; 0 where it cannot be told
    end: Array  # (K,) log of the largest x

    @classmethod
    def of(
        cls,
        x: Array,
        y: Array,
        bins: int,
        count: Array | None = None,
        noise: float | None = None,
        tied: tuple[int, ...] = (),
    ) -> Points:
        """Merge and sort; x (m, K) and y (m,) are positive, y the geometric mean of `count` runs.

        Along one axis long curves are averaged in equal steps of log x. Noise comes from replicates
        where there are any, else (along one axis) from neighbours by linear interpolation.
        """
        log_x, log_y = np.log(x), np.log(y)
        end = largest(log_x, tied)
        log_x = log_x - end
        each = np.ones(len(y)) if count is None else np.asarray(count, float)
        cells, place = np.unique(log_x, axis=0, return_inverse=True)
        place = place.reshape(-1)
        weight = np.bincount(place, each)
        mean = np.bincount(place, each * log_y) / weight
        freedom = len(log_y) - len(cells)
        spread = float(((log_y - mean[place]) ** 2).sum())
        if log_x.shape[1] == 1 and len(cells) > bins:
            step = ((cells[:, 0] - cells[0, 0]) / -cells[0, 0] * bins).astype(int)
            step = np.minimum(step, bins - 1)
            total = np.bincount(step, weight, bins)
            kept = total > 0
            cells = (np.bincount(step, weight * cells[:, 0], bins)[kept] / total[kept])[:, None]
            mean = np.bincount(step, weight * mean, bins)[kept] / total[kept]
            weight = total[kept]
        order = cells.sum(axis=1)
        sort = np.argsort(order, kind="stable")
        cells, mean, weight, order = cells[sort], mean[sort], weight[sort], order[sort]
        last = float(order[-1])
        order = order - last
        if noise is None:
            flicker = _flicker(order, mean) if log_x.shape[1] == 1 else 0.0
            noise = np.sqrt(spread / freedom) if freedom else flicker
        return cls(cells, mean, weight / weight.mean(), order, last, float(noise), end)


def _flicker(log_x: Array, log_y: Array) -> float:
    """Robust standard deviation about the line between neighbours, over the last 24 points."""
    if len(log_x) < 3:
        return 0.0
    share = (log_x[1:-1] - log_x[:-2]) / (log_x[2:] - log_x[:-2])
    off = log_y[1:-1] - (1 - share) * log_y[:-2] - share * log_y[2:]
    size = np.abs(off / np.sqrt(1 + share**2 + (1 - share) ** 2))
    # Of three to five points a small one may be luck: no median, and wider as Student's t is.
    if few := {1: 3.84, 2: 1.78, 3: 1.43}.get(len(size)):  # 95 % of Student's t over the normal's
        return few * float(np.sqrt(np.mean(size**2)))
    return float(1.4826 * np.median(size[-24:]))


@dataclass(frozen=True)
class Expert:
    """One law with one memory, with a floor or without: shape parameters and what they forecast."""

    law: Law
    floor: bool
    memory: float
    theta: Array  # (C, Q)
    linear: Array  # (C, 1 + J): E and the coefficients, in units of y at the last point
    belief: Array  # (C,) weights of the shape parameters, sum 1
    support: float  # effective number of points over the number of parameters, at most 1
    errors: Array  # (O,) at each origin, root mean square of log y
    damped_errors: Array  # (O,) the same with the change shrunk
    hidden: tuple[Array, ...]  # what it forecast of the hidden points, origin by origin
    damped_hidden: tuple[Array, ...]
    last: float  # its mean at the last point

    def at(self, shapes: Array) -> Array:
        """Mean and variance (2, T) over shape parameters, of log y less its last."""
        values = _log_values(shapes, self.linear)
        mean = self.belief @ values
        return np.stack([mean, self.belief @ (values - mean) ** 2])


@dataclass(frozen=True)
class Average:
    """The experts of one curve or surface with their weights; the last is "no change"."""

    points: Points
    settings: Settings
    experts: tuple[Expert, ...]
    weights: Array  # (2M + 1,) experts, damped experts, no change
    rolling: float  # error of the average at the origins, in log y; nan without origins
    rolling_constant: float  # the same of "no change"
    names: tuple[str, ...]  # of the M laws
    residual: float = 0.0  # over a surface, root mean square of log y about the average itself

    def at(self, x: Array) -> Outlook:
        """Forecast log y at x (T, K)."""
        log_x = np.log(x) - self.points.end
        shapes = {e.law.name: (e.law, e.theta) for e in self.experts}
        drawn = {name: _shapes(law, log_x, theta) for name, (law, theta) in shapes.items()}
        told = np.array([expert.at(drawn[expert.law.name]) for expert in self.experts])
        means, within = told[:, 0] + self.points.log_y[-1], told[:, 1]
        last = np.array([expert.last for expert in self.experts])[:, None]
        damped = last + self.settings.damping * (means - last)
        constant = np.full((1, len(x)), self.points.log_y[-1])
        everything = np.concatenate([means, damped, constant])
        within = np.concatenate([within, self.settings.damping**2 * within, 0.0 * constant])
        # Between the points memory has no direction: only laws that remember all of them count.
        beyond = np.maximum(log_x.sum(axis=1) - self.points.last, 0.0)
        inside = beyond == 0
        forgetful = [np.isfinite(expert.memory) for expert in self.experts]
        mask = np.array([*forgetful, *[True] * len(forgetful), True])[:, None] & inside
        weights = np.where(mask, 0.0, self.weights[:, None])
        weights = weights / weights.sum(axis=0)
        middle = (weights * everything).sum(axis=0)
        return Outlook(
            log_y=middle,
            between=np.sqrt((weights * (everything - middle) ** 2).sum(axis=0)),
            within=np.sqrt((weights * within).sum(axis=0)),
            beyond=beyond / log_x.shape[1],
            noise=self.points.noise or self.residual,
            rolling=self.rolling,
            origins=len(self.experts[0].errors),
        )

    def by_law(self) -> dict[str, float]:
        """Weight of each law, damped or not, and of "no change"."""
        shares = dict.fromkeys(self.names, 0.0)
        count = len(self.experts)
        for place, expert in enumerate(self.experts):
            shares[expert.law.name] += float(self.weights[place] + self.weights[count + place])
        return shares | {"no change": float(self.weights[-1])}


@dataclass(frozen=True)
class Outlook:
    """A forecast of log y (T,) and what its error may come from, each in log y."""

    log_y: Array
    between: Array  # standard deviation over the forecasts that were averaged
    within: Array  # of each of them over its shape parameters, root mean square
    beyond: Array  # log x after the last point, a mean over the axes
    noise: float  # of one measurement; over a surface without repeats, what the average misses
    rolling: float  # at the origins; nan without
    origins: int  # how many there are


def average(
    x: Array,
    y: Array,
    laws: Sequence[Law] | None = None,
    settings: Settings | None = None,
    count: Array | None = None,
    noise: float | None = None,
) -> Average:
    """Fit the laws and weigh them.

    Args:
        x: (m, K), positive.
        y: (m,), positive.
        laws: by default all along one axis; over a surface Kaplan's and the one broken in data,
            which holds the additive one as the case without a break.
        settings: for experiments.
        count: (m,) how many runs y is the geometric mean of; 1 by default.
        noise: standard deviation of log y of one run; by default from the points.
    """
    settings = settings or Settings()
    laws = laws or (ALONG if x.shape[1] == 1 else (kaplan, broken_in_data))
    tied = tuple(sorted({axis for law in laws for axis in law.tied}))
    points = Points.of(x, y, settings.bins, count, noise, tied)
    starts = _origins(points, settings)
    many = settings.candidates[x.shape[1] > 1]
    experts = []
    for law in laws:
        theta = law.candidates(min(many, 200 ** len(law.parameters)), points.log_x)
        shapes = _shapes(law, points.log_x, theta)
        for floor in (False, True):
            experts += _experts(law, floor, theta, shapes, points, starts, settings)
    found = _weigh(points, settings, tuple(experts), starts, tuple(law.name for law in laws))
    if x.shape[1] == 1:
        return found
    off = found.at(np.exp(points.log_x + points.end)).log_y - points.log_y
    return replace(found, residual=_rms(off, points.weight))


def _origins(points: Points, settings: Settings) -> list[int]:
    """How many points each origin shows; at least three, and a few hidden."""
    reach = points.log_x.shape[1] * min(0.7, -points.order[0] / points.log_x.shape[1] / 2.2)
    counts = [int((points.order <= -hide / 0.7 * reach + 1e-9).sum()) for hide in settings.origins]
    found = sorted({count for count in counts if 3 <= count < len(points.order)})
    if not found and len(points.order) > 3:
        found = [len(points.order) - 1]
    return found


def _shapes(law: Law, log_x: Array, theta: Array) -> Array:
    """Shapes (C, T, J), each 1 at the last point."""
    end = np.zeros((1, log_x.shape[1]))
    logs = np.stack(law.log_shapes(log_x, theta), -1) - np.stack(law.log_shapes(end, theta), -1)
    return np.asarray(np.exp(np.clip(logs, -80.0, 80.0)))


def _log_values(shapes: Array, linear: Array) -> Array:
    """Log of E + sum_j A_j·S_j: (…, C, T) from shapes (C, T, J) and linear (…, C, 1 + J)."""
    value = np.broadcast_to(linear[..., :1], (*linear.shape[:-1], shapes.shape[1])).copy()
    for term in range(shapes.shape[2]):
        value += linear[..., 1 + term, None] * shapes[..., term]
    return np.asarray(np.log(np.maximum(value, 1e-300)))


def _experts(
    law: Law,
    floor: bool,
    theta: Array,
    shapes: Array,
    points: Points,
    starts: list[int],
    settings: Settings,
) -> list[Expert]:
    """One law with every memory. M memories, O origins and the whole, C candidates, n points."""
    num_axes = points.log_x.shape[1]
    memories = np.array(settings.memories) * num_axes
    typical = np.exp(np.clip(points.log_y - points.log_y[-1], -60.0, 60.0))
    trust = points.weight * np.exp(points.order / memories[:, None])  # (M, n)
    columns = shapes if not floor else np.concatenate([np.ones_like(shapes[..., :1]), shapes], 2)
    columns = columns / typical[:, None]  # relative: f/y - 1 stands in for log f - log y
    count = np.array([*starts, len(typical)])
    shown = (np.arange(len(typical)) < count[:, None]) * trust[:, None]  # (M, O + 1, n)
    num_candidates, num_points, num_terms = columns.shape
    pairs = np.triu_indices(num_terms)
    products = (columns[..., pairs[0]] * columns[..., pairs[1]]).swapaxes(0, 1)
    size = (*shown.shape[:2], num_candidates)
    sums = (shown @ products.reshape(num_points, -1)).reshape(*size, -1)
    gram = np.empty((*size, num_terms, num_terms))
    gram[..., pairs[0], pairs[1]] = sums
    gram[..., pairs[1], pairs[0]] = sums
    moment = (shown @ columns.swapaxes(0, 1).reshape(num_points, -1)).reshape(*size, num_terms)
    linear, gain = nonnegative(gram, moment)
    if not floor:
        linear = np.concatenate([np.zeros_like(linear[..., :1]), linear], axis=-1)
    most = trust.max(axis=1)[:, None, None]
    total = shown.sum(axis=2, keepdims=True)
    effective = total / most  # (M, O + 1, 1)
    misfit = np.maximum(total - gain, 0.0) / most
    fits = np.log(np.maximum(misfit + effective * (settings.resolution / 2) ** 2, 1e-300))
    counted = effective
    if num_axes == 1:
        counted = (shown @ _independent(points.order, settings.alike))[..., None] / most
    likelihood = -0.5 * (counted + 1) * fits
    belief = np.exp(likelihood - likelihood.max(axis=2, keepdims=True))
    belief /= belief.sum(axis=2, keepdims=True)  # (M, O + 1, C)
    ahead = []  # per origin (M, 1 + hidden): the last point shown, and what was forecast after it
    for place, first in enumerate(starts):
        values = _log_values(shapes[:, first - 1 :], linear[:, place])  # (M, C, 1 + hidden)
        ahead.append((belief[:, place, None] @ values)[:, 0] + points.log_y[-1])
    last = (belief[:, -1, None] @ _log_values(shapes[:, -1:], linear[:, -1]))[:, 0, 0]
    num_free = num_terms + theta.shape[1]
    found = []
    for which, memory in enumerate(memories):
        hidden = [
            tuple(told[which, 0] + factor * (told[which, 1:] - told[which, 0]) for told in ahead)
            for factor in (1.0, settings.damping)
        ]
        errors = [
            np.array(
                [
                    _rms(told - points.log_y[first:], points.weight[first:])
                    for first, told in zip(starts, side, strict=True)
                ]
            )
            for side in hidden
        ]
        found.append(
            Expert(
                law=law,
                floor=floor,
                memory=float(memory),
                theta=theta,
                linear=linear[which, -1],
                belief=belief[which, -1],
                support=min(1.0, float(effective[which, -1, 0]) / num_free),
                errors=errors[0],
                damped_errors=errors[1],
                hidden=hidden[0],
                damped_hidden=hidden[1],
                last=float(last[which] + points.log_y[-1]),
            )
        )
    return found


def _independent(order: Array, alike: float) -> Array:
    """What each point (n,) counts for, where residuals are correlated as exp(-distance/alike).

    (1 - r)/(1 + r), as in the variance of the mean of a first-order autoregressive series.
    """
    step = np.diff(order, prepend=order[0] - np.diff(order[:2]).sum())
    return np.asarray(np.tanh(step / (2 * alike)))


def _rms(error: Array, weight: Array) -> float:
    return float(np.sqrt(weight @ error**2 / weight.sum()))


def _weigh(
    points: Points,
    settings: Settings,
    experts: tuple[Expert, ...],
    starts: list[int],
    names: tuple[str, ...],
) -> Average:
    memories = sorted({expert.memory for expert in experts}, reverse=True)
    of_memory = dict(zip(memories, settings.long_memory, strict=False))
    prior = np.array(
        [
            (1.0 if expert.floor else settings.no_floor)
            * of_memory.get(expert.memory, 1.0)
            * expert.support**settings.support
            for expert in experts
        ]
    )
    # Over a surface the last point is one of many with the same product: nothing to shrink towards.
    along = float(points.log_x.shape[1] == 1)
    prior = np.concatenate([prior, along * prior, [along]])
    constant = [_rms(points.log_y[s - 1] - points.log_y[s:], points.weight[s:]) for s in starts]
    rolling = rolling_constant = np.nan
    if starts:
        errors = np.array(
            [e.errors for e in experts] + [e.damped_errors for e in experts] + [constant]
        )
        late = np.exp(settings.late * np.arange(len(starts)))
        late /= late.sum()
        least = np.hypot(settings.resolution, 0.5 * points.noise)
        score = 0.5 * np.log(errors**2 + least**2) @ late
        prior = prior * np.exp(-settings.power * (score - score.min()))
    weights = prior / prior.sum()
    if starts:
        off = []
        for place, shown in enumerate(starts):
            told = [e.hidden[place] for e in experts] + [e.damped_hidden[place] for e in experts]
            told.append(np.full(len(points.log_y) - shown, points.log_y[shown - 1]))
            joint = weights @ np.array(told)
            off.append(_rms(joint - points.log_y[shown:], points.weight[shown:]))
        rolling = float(np.exp(late @ np.log(np.array(off) + 1e-12)))
        rolling_constant = float(np.exp(late @ np.log(np.array(constant) + 1e-12)))
    return Average(points, settings, experts, weights, rolling, rolling_constant, names)
