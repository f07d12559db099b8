"""How far the fitted numbers could be off: the scatter of the losses, and resampled data sets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chemscale.desk.frontier import Choose
from chemscale.desk.laws import MAX_EXPONENT, Law, power
from chemscale.desk.solve import Objective, influence, log_law, project, refine, solve
from chemscale.desk.surfaces import additive
from chemscale.table.results import Array, Interval, Quantity

TOLERANCE = 1e-10  # of the best fit: the share by which a last step may still lower the objective
NUM_DRAWS = 1000  # resampled data sets


@dataclass(frozen=True)
class Scatter:
    """Standard deviations of the log loss around a law."""

    run: float  # from run to run
    freedom: int  # degrees of freedom it was estimated with
    cell: float  # of a whole cell, where the law itself is off by more than its runs scatter


def scatter(
    residual: Array,
    cell: NDArray[np.intp],
    num_free: int,
    delta: float,
    seeds: tuple[float, int] | None,
) -> Scatter:
    """Estimate the scatter around a law from its residuals and from replicate seeds.

    Without replicates the residuals are all there is, and the run scatter is never below theirs.
    With them, what the cells' mean residuals have beyond the seed scatter is lack of fit.

    Args:
        residual: (n,) of the log loss.
        cell: (n,) which runs are replicates of each other.
        num_free: parameters of the law.
        delta: of the Huber loss the law was fitted with.
        seeds: pooled seed scatter of the family and its degrees of freedom.
    """
    weight = influence(residual, delta)
    spare = len(residual) - num_free
    around = math.sqrt(float((weight * residual**2).sum()) / max(float(weight.sum()) - num_free, 1))
    counts = np.bincount(cell)[np.unique(cell)]
    spare_cells = len(counts) - num_free
    if seeds is None or spare_cells < 1 or len(counts) == len(residual):
        if seeds is not None and seeds[0] >= around:
            return Scatter(seeds[0], seeds[1], 0.0)
        return Scatter(around, max(spare, 1), 0.0)
    means = np.bincount(cell, weight * residual)[np.unique(cell)] / counts
    lack = float((counts * means**2).sum()) / spare_cells - seeds[0] ** 2
    beyond = math.sqrt(max(lack, 0.0) * len(counts) / len(residual))
    if math.hypot(seeds[0], beyond) < around:
        beyond = math.sqrt(around**2 - seeds[0] ** 2)
    return Scatter(seeds[0], seeds[1], beyond)


def resample(
    log_loss: Array,
    cell: NDArray[np.intp],
    spread: Scatter,
    num_draws: int,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Draw data sets (num_draws, n) of log losses and of weights.

    Runs are resampled within their cell, so that every cell keeps something. Drawing m runs with
    replacement gives their mean too little variance, by s²/m²; Gaussian noise of s²/(2m - 1) on
    each run makes up for it. A cell of one run gets all its scatter that way. The scale s is
    itself uncertain: each draw takes its own, from the chi-square of its degrees of freedom.
    """
    num_runs = len(log_loss)
    weights = np.zeros((num_draws, num_runs))
    noise = np.zeros((num_draws, num_runs))
    stretch = np.sqrt(spread.freedom / rng.chisquare(spread.freedom, (num_draws, 1)))
    scale = spread.run * np.minimum(stretch, 30.0)
    for one in np.unique(cell):
        members = np.flatnonzero(cell == one)
        count = len(members)
        weights[:, members] = rng.multinomial(count, np.full(count, 1 / count), num_draws)
        own = rng.standard_normal((num_draws, count)) / math.sqrt(2 * count - 1)
        shared = rng.standard_normal((num_draws, 1)) * spread.cell
        noise[:, members] = own * scale + shared
    return log_loss + noise, weights


@dataclass(frozen=True)
class Fitted:
    """A law with what resampling says about it; rows are E, A_1, a_1, …, A_K, a_K."""

    best: Array  # (P,)
    draws: Array  # (S, P)
    residual: float  # root mean square, of the log loss
    delta: float  # of the Huber loss
    floor: bool  # whether the best form has one; draws may be of either
    criterion: float  # corrected, of Akaike
    starts: tuple[int, int]  # how many of a grid reach the best objective, of how many

    def quantity(self, which: int, level: float) -> Quantity:
        """One parameter with its interval, of percentiles."""
        interval = Interval.of(self.draws[:, which], level)
        return Quantity(value=float(self.best[which]), interval=interval)

    def kept_draws(self) -> Array:
        """The best fit, then up to 200 of the draws, in the order drawn."""
        stride = max(len(self.draws) // 200, 1)
        return np.concatenate([self.best[None], self.draws[::stride][:200]])


def fit_sample(
    log_x: Array,
    log_loss: Array,
    cell: NDArray[np.intp],
    *,
    floor: bool | None,
    seeds: tuple[float, int] | None,
    rng: np.random.Generator,
    num_draws: int = NUM_DRAWS,
    choose: Choose | None = None,
) -> Fitted:
    """Fit a power law along one axis, or the additive surface over two, and its bootstrap.

    Args:
        log_x: (n, K).
        log_loss: (n,).
        cell: (n,) which runs are replicates of each other.
        floor: with an irreducible loss, without, or None: by the corrected Akaike criterion, and
            only where there are five different x.
        seeds: pooled seed scatter of the family and its degrees of freedom.
        rng: of the bootstrap.
        num_draws: resampled data sets.
        choose: which runs the law is fitted to, where their losses decide; asked in every draw.
    """
    law = power if log_x.shape[1] == 1 else additive
    centre = log_x.mean(axis=0)  # x = 1 in the middle: well conditioned
    log_x = log_x - centre
    kept = np.ones(len(log_loss), bool)
    if choose is not None:
        kept = choose(log_loss[None], np.ones((1, len(log_loss))))[0]
    forms = [floor] if floor is not None else [False]
    if floor is None and len(np.unique(log_x[kept], axis=0)) >= 5:
        forms = [False, True]
    fits = {form: best_fit(law, log_x[kept], log_loss[kept], form, grid(law, 40)) for form in forms}
    num_linear = 2 * log_x.shape[1]
    off = {form: objective.residual(best[None])[0] for form, (best, objective) in fits.items()}
    told = [criterion(off[form], num_linear + form) for form in forms]
    floor = forms[int(np.argmin(told))]
    (best, measured), residual = fits[floor], off[floor]
    delta = float(measured.delta)
    reached = _reached(measured, best)
    spread = scatter(residual, cell[kept], num_linear + floor, delta, seeds)
    resampled, weights = resample(log_loss, cell, spread, num_draws, rng)
    if choose is not None:
        weights = weights * choose(resampled, weights)
    trust = weights.copy()
    trust[:, kept] *= influence(residual, delta) ** 2  # an odd seed asks for no form
    drawn, scores = [], []
    for form in forms:  # chosen anew for every draw: the data might have asked for the other
        objective = replace(measured, log_x=log_x, log_y=resampled, weights=weights, floor=form)
        drawn.append(solve(objective, grid(law, 8), tolerance=1e-6))
        scores.append(criteria(objective.residual(drawn[-1]), trust, num_linear + form))
        if form and choose is not None:
            scores[-1][_num_cells(cell, weights) < 5] = np.inf
    draws = np.stack(drawn)[np.argmin(scores, axis=0), range(num_draws)]
    if choose is not None:
        # One cell that beats all others: the loss does not fall.
        alone = _num_cells(cell, weights) == 1
        level = (weights * resampled).sum(axis=1) / weights.sum(axis=1)
        draws[alone] = np.stack([0 * level, np.exp(level), 0 * level], axis=1)[alone]
        # The lowest of noisy means is too low. By how much, the draws tell, which choose from noisy
        # means again: their loss falls below the best fit's as that falls below the truth.
        place, linear = log_x[kept], slice(1 + law.num_shapes)
        low = np.mean(log_law(law, place, draws) - log_law(law, place, best[None]))
        best[linear] *= np.exp(-low)
        draws[:, linear] *= np.exp(-2 * low)
    draws, best = (uncentred(rows, centre) for rows in (draws, best[None]))
    return Fitted(
        best=best[0],
        draws=draws,
        residual=float(np.sqrt(np.mean(residual**2))),
        delta=delta,
        floor=floor,
        criterion=min(told),
        starts=reached,
    )


def _num_cells(cell: NDArray[np.intp], weights: Array) -> NDArray[np.intp]:
    """How many cells have runs that count, in each row of weights (S, n)."""
    return np.array([len(np.unique(cell[row > 0])) for row in weights], np.intp)


def grid(law: Law, count: int) -> Array:
    """Exponents (C, K) tried before refinement; not 0, where a term is a second floor."""
    ticks = np.linspace(0.0, MAX_EXPONENT, count + 1)[1:]
    sides = np.meshgrid(*[ticks] * law.num_axes, indexing="ij")
    return np.stack(sides, axis=-1).reshape(-1, law.num_axes)


def uncentred(rows: Array, centre: Array) -> Array:
    """From E, A_1 … A_K, a_1 … a_K about the middle to E, A_1, a_1, … of x itself."""
    num_axes = len(centre)
    exponents = rows[:, 1 + num_axes :]
    coefficients = rows[:, 1 : 1 + num_axes] * np.exp(exponents * centre)
    terms = np.stack([coefficients, exponents], axis=2).reshape(len(rows), -1)
    return np.concatenate([rows[:, :1], terms], axis=1)


def best_fit(
    law: Law, log_x: Array, log_loss: Array, floor: bool, tried: Array, starts: int = 1
) -> tuple[Array, Objective]:
    """Parameters, and what they were fitted to, with the delta of its Huber loss."""
    once, data = np.ones((1, len(log_loss))), log_loss[None]
    objective = Objective(law, log_x, data, once, floor, math.inf)
    spare = len(log_loss) - law.num_shapes - tried.shape[1] - floor
    if spare >= 5:  # else an odd run cannot be told
        rough = solve(replace(objective, delta=1e-3), tried, tolerance=1e-4, starts=starts)
        sizes = np.sort(np.abs(objective.residual(rough)[0]))
        # The rough fit runs through as many runs as it has parameters: leave those out.
        spread = 1.4826 * float(np.median(sizes[-spare:]))
        objective = replace(objective, delta=1.345 * max(spread, 1e-6))
        tried = np.concatenate([rough[:, 1 + law.num_shapes :], tried])
    return solve(objective, tried, tolerance=TOLERANCE, starts=starts)[0], objective


def _reached(objective: Objective, best: Array) -> tuple[int, int]:
    """How many starts of a coarse grid end within 1e-6 of the best objective, of how many."""
    tried = grid(objective.law, 8)
    near, scale = objective.centred()
    found = refine(near, project(near, tried, len(tried)), TOLERANCE)
    found[:, : 1 + objective.law.num_shapes] *= scale
    least = objective.value(best[None])[0]
    return int((objective.value(found) <= least * (1 + 1e-6) + 1e-12).sum()), len(found)


def criterion(residual: Array, num_free: int) -> float:
    """AICc for normal residuals of the log loss; infinite where it is not defined."""
    return float(criteria(residual[None], np.ones((1, len(residual))), num_free)[0])


def criteria(residual: Array, weights: Array, num_free: int) -> Array:
    """The same for every row of residuals (S, n), of which those of weight 0 do not count."""
    count = weights.sum(axis=1)
    spare = np.maximum(count - num_free - 1, 0)
    squares = np.maximum((weights * residual**2).sum(axis=1) / np.maximum(count, 1), 1e-20)
    with np.errstate(divide="ignore"):
        correction = 2 * num_free * (num_free + 1) / spare
    return np.asarray(count * np.log(squares) + 2 * num_free + correction)
