"""Any one law by itself, with intervals of whatever it says: the values that the losses allow.

A value of a parameter, or of the loss somewhere, is refuted where the law that is held to it fits
so much worse than the best fit as happens, with the truth, in one of ten simulated studies of the
best fit. (The profile likelihood with its Monte Carlo distribution. Chi-square, which large studies
follow, is wrong here where a floor lies at its bound, where a law has a kink, and where a break can
find chance structure anywhere. Percentiles of a bootstrap count how many ways of fitting the noise
lead to a value, and are off to one side.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from chemscale.desk.bootstrap import Scatter, best_fit, scatter
from chemscale.desk.laws import Law
from chemscale.desk.solve import Objective, descend, log_law, project, refine, solve
from chemscale.table.errors import UsageError
from chemscale.table.results import Array, Interval, Quantity

NUM_SIMULATED = 99  # studies; a share of them, counted with the measured one, is exact
TOLERANCE = 1e-4  # a step less is a thousandth of what refutes a value

Hold = Callable[[Objective, Array], Objective]  # one value for each data set


@dataclass(frozen=True)
class FittedLaw:
    """Any one law with what the losses say about it.

    Rows are E, A_1 … A_J, θ_1 … θ_Q of `solve`, with log x counted from `origin`: exponents are
    those of x itself, a position is its distance from there, A_j belongs to x/exp(origin).
    """

    origin: Array  # (K,) log x
    allowed: Array  # (2, P) smallest and largest value; of A_j, a factor of ten
    best: Array  # (P,)
    measured: Objective
    simulated: Objective  # studies of the best fit
    free: Array  # (S,) how well the best fit of each of them does
    doubt: Array  # (S,) by how much each misjudges its scatter, squared
    rows: Array  # (R, P) where fits of either ended
    starts: int  # how many of the rows a fit sets out from

    def loss(self, log_x: Array, level: float = 0.9) -> tuple[Array, Array, Array]:
        """The loss at log x (T, K), and the ends of its interval."""
        value, ends = [], []
        for place in log_x - self.origin:
            logs = log_law(self.measured.law, place[None], np.vstack([self.best, self.rows]))[:, 0]
            hold = partial(_through, place)
            ends.append(self._interval(hold, logs, (-math.inf, math.inf), level)[:2])
            value.append(logs[0])
        low, high = np.exp(ends).T
        return np.exp(value), low, high

    def parameters(self, level: float = 0.9) -> dict[str, Quantity]:
        """Each with its interval; an empty `Quantity` where it is not identified.

        That is: a bound is not refuted at a level of 1 - (1 - level)², so that few are thought to
        be known by chance, or the interval is wider than half of what is allowed.
        """
        law = self.measured.law
        linear = [*range(1 + law.num_shapes)]
        # A fit whose breaks have changed places says something else of each.
        orders = [linear + [len(linear) + one for one in order] for order in law.orders]
        whole = replace(self, rows=np.vstack([self.rows, *(self.rows[:, one] for one in orders)]))
        terms = [f"coefficient_{number}" for number in range(1, law.num_shapes + 1)]
        told = {}
        for which, name in enumerate(("irreducible_loss", *terms, *law.parameters)):
            told[name] = Quantity()
            bounds, value = self.allowed[:, which], float(self.best[which])
            if bounds[0] == bounds[1]:
                continue
            values = np.append(value, whole.rows[:, which])
            low, high, inside = whole._interval(partial(_held, which), values, bounds, level)
            if inside and 2 * (high - low) < np.ptp(bounds):
                told[name] = Quantity(
                    value=value, interval=Interval(low=low, high=high, level=level)
                )
        return told

    def _interval(
        self, hold: Hold, values: Array, bounds: tuple[float, float] | Array, level: float
    ) -> tuple[float, float, bool]:
        """The ends of what is not refuted, infinite where there is none; and if the bounds are.

        Args:
            hold: makes objectives whose fits have a value.
            values: of the best fit, then of rows.
            bounds: between which values lie.
            level: of the interval.
        """
        most, surely = self._most(hold, values[0], level)
        rows, least = np.vstack([self.best, self.rows]), self.measured.value(self.best[None])[0]
        ticks = np.append(np.quantile(values, np.linspace(0.01, 0.99, 9)), values[0])
        step = max(float(np.ptp(ticks)), 1e-9)
        ends = [bound for bound in bounds if math.isfinite(bound)]
        ticks = np.unique(np.append(np.clip(ticks, *bounds), ends))
        told = np.zeros((0, 2))  # values, how well the law does there
        for _ in range(4):
            held = hold(self.measured.repeated(len(ticks)), ticks)
            found = descend(held, rows, tolerance=TOLERANCE, starts=self.starts)
            rows = np.vstack([rows, found])
            told = np.vstack([told, np.stack([ticks, held.value(found)], axis=1)])
            told = told[np.argsort(told[:, 0])]
            worse = told[:, 1] - min(least, told[:, 1].min())
            allowed = np.flatnonzero(worse <= most)
            edges = [(allowed[0], -1), (allowed[-1], 1)]
            ticks = np.concatenate([_between(told[:, 0], *edge, step) for edge in edges])
            ticks = ticks[(ticks >= bounds[0]) & (ticks <= bounds[1])]
            if not len(ticks):
                break
        low, high = (_crossing(told[:, 0], worse - most, *edge) for edge in edges)
        return low, high, bool(worse[0] > surely and worse[-1] > surely)

    def _most(self, hold: Hold, value: float, level: float) -> tuple[float, float]:
        """By how much simulated studies refute what they were made with, at two levels."""
        held = hold(self.simulated, np.full(len(self.free), value))
        rows = np.vstack([self.best, self.rows])
        found = descend(held, rows, tolerance=TOLERANCE, starts=self.starts)
        # What the search for the best fit has missed.
        free = self.simulated.value(refine(self.simulated, found, TOLERANCE))
        excess = held.value(found) - np.minimum(self.free, free)
        order = np.sort(np.maximum(excess, 0.0) * self.doubt)
        levels = level, 1 - (1 - level) ** 2
        place, farther = (math.ceil(one * (len(order) + 1) - 1e-9) for one in levels)
        if place > len(order):
            few = f"{len(order)} simulated studies are too few for a level of {level}"
            raise UsageError(
                f"{few}: ask for num_simulated={math.ceil(1 / (1 - level)) - 1} or more"
            )
        return float(order[place - 1]), float(order[min(farther, len(order)) - 1])


def _between(values: Array, inner: int, side: int, step: float) -> Array:
    """Where to look next for the edge between what is refuted and what is not."""
    outer = inner + side
    if 0 <= outer < len(values):
        return np.linspace(values[inner], values[outer], 6)[1:-1]
    return np.asarray(values[inner] + side * step * np.array([0.25, 0.5, 1.0, 2.0, 4.0]))


def _crossing(values: Array, worse: Array, inner: int, side: int) -> float:
    """The edge itself; where there is none, infinity."""
    outer = inner + side
    if not 0 <= outer < len(values):
        return side * math.inf
    share = worse[inner] / (worse[inner] - worse[outer])
    return float(values[inner] + share * (values[outer] - values[inner]))


def _held(which: int, objective: Objective, values: Array) -> Objective:
    """One parameter is held at a value."""
    held = np.full(
        (len(values), 1 + objective.law.num_shapes + len(objective.law.parameters)), np.nan
    )
    held[:, which] = values
    return replace(objective, held=held)


def _through(log_x: Array, objective: Objective, values: Array) -> Objective:
    """The law goes through the log losses at log x (K,): a point that outweighs all others."""
    weight = 1e4
    return replace(
        objective,
        log_x=np.vstack([objective.log_x, log_x]),
        log_y=np.column_stack([objective.log_y, values]),
        weights=np.column_stack([objective.weights, np.full(len(values), weight)]),
        delta=np.append(np.broadcast_to(objective.delta, len(objective.log_x)), math.inf),
    )


def fit_law(
    law: Law,
    log_x: Array,
    log_loss: Array,
    cell: NDArray[np.intp],
    *,
    floor: bool,
    seeds: tuple[float, int] | None,
    rng: np.random.Generator,
    num_simulated: int = NUM_SIMULATED,
) -> FittedLaw:
    """Fit any one law.

    Args:
        law: the form.
        log_x: (n, K).
        log_loss: (n,).
        cell: (n,) which runs are replicates of each other.
        floor: with an irreducible loss, or without.
        seeds: pooled seed scatter of the family and its degrees of freedom.
        rng: of the simulated studies.
        num_simulated: how many of them.
    """
    origin = law.end(log_x)
    log_x = log_x - origin
    tried = law.candidates(1000, log_x)
    best, measured = best_fit(law, log_x, log_loss, floor, tried, starts=16)
    num_free = len(best) - (not floor)
    off, delta = measured.residual(best[None])[0], float(measured.delta)
    spread = scatter(off, cell, num_free, delta, seeds)
    log_y = log_law(law, log_x, best[None]) + noise(cell, spread, num_simulated, rng)
    simulated = replace(measured, log_y=log_y, weights=np.ones_like(log_y))
    # A law of many parameters has several optima that are nearly as good, and other data choose
    # another of them: each study sets out from those of the measured one.
    near, scale = measured.centred()
    ends = refine(near, project(near, tried, 16))
    ends = ends[np.unique(np.round(ends[:, 1 + law.num_shapes :], 2), axis=0, return_index=True)[1]]
    ends[:, : 1 + law.num_shapes] *= scale
    starts = min(len(ends), 4)
    rows = np.vstack([best, ends])
    candidates = np.concatenate([rows[:, 1 + law.num_shapes :], tried[::30]])
    found = solve(simulated, candidates, tolerance=TOLERANCE, starts=starts)
    linear = best[1 : 1 + law.num_shapes]
    low, high = law.bounds(log_x)
    allowed = np.array(
        [[0.0, *linear / 10, *low], [floor * math.exp(log_loss.min()), *linear * 10, *high]]
    )
    doubt = spread.freedom / rng.chisquare(spread.freedom, num_simulated)
    return FittedLaw(
        origin,
        allowed,
        best,
        measured,
        simulated,
        simulated.value(found),
        doubt,
        np.vstack([found, rows]),
        starts,
    )


def noise(cell: NDArray[np.intp], spread: Scatter, count: int, rng: np.random.Generator) -> Array:
    """Of the log losses of so many studies (count, n): each run's, and each cell's."""
    own = spread.run * rng.standard_normal((count, len(cell)))
    _, which = np.unique(cell, return_inverse=True)
    return np.asarray(own + spread.cell * rng.standard_normal((count, which.max() + 1))[:, which])
