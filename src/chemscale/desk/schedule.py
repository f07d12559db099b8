"""Where a run will end under a learning-rate schedule, from runs under other schedules.

The law is the multi-power law of `annealing`. A few runs hardly tell its shape parameters apart, so
a forecast is the median over draws of all that explain the runs (`walk`). What draws cannot know is
that the law itself is off: its authors missed 0.11 to 0.17 % of the loss, on schedules that they
had not fitted, where the log loss had fallen by 0.2 to 0.3. So it is trusted to 1 % of
the fall in log loss that was seen, beside its error on runs left out in turn (where none can be,
another 1 %); beyond the longest run, to twice as much with each doubling of the progress.

converged       two schedules were seen, one of them with a falling rate, over a decade of progress
too_short       less than a decade
at_bound        the loss does not fall with progress, or the exponent is the largest allowed
not_identified  what cooling is worth was not seen: nothing is forecast
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chemscale.desk.annealing import Schedule, multi_power
from chemscale.desk.laws import Law
from chemscale.desk.sample import spread_out
from chemscale.desk.sentences import number
from chemscale.desk.solve import Objective, influence, log_law, solve
from chemscale.desk.walk import walk
from chemscale.table.errors import DataError, UsageError
from chemscale.table.fits import FitStatus
from chemscale.table.results import Array

MAX_ROWS = 600  # that are fitted, of all runs together; neighbouring rows tell nearly the same
REACH = 10.0  # times the longest run seen
TRUST = 0.01  # of the fall in log loss that was seen
SAME_PEAK = 0.01
NUM_SHAPES = 4
NEVER = (np.zeros((1, 0)), np.zeros(0), np.zeros(0))  # a row whose rate never fell


@dataclass(frozen=True)
class RatedCurve:
    """A run by its rows: `step`, `learning_rate`, and `loss`, nan where there is none (yet).

    Rows without a loss tell the schedule, also of what is planned. Items serve as well as steps.
    """

    step: ArrayLike  # (m,)
    learning_rate: ArrayLike  # (m,)
    loss: ArrayLike | None = None  # (m,)
    run: str = "a run"


@dataclass(frozen=True)
class ScheduleForecast:
    """The loss along a schedule; nan before its peak, and beyond ten times the longest run."""

    value: Array  # (m,)
    intervals: Mapping[float, tuple[Array, Array]]  # level → low, high, of one new evaluation


@dataclass(frozen=True)
class ScheduleFit:
    """The law of the runs of one model under several schedules, and how well it is known."""

    status: FitStatus
    sentence: str
    num_runs: int = 0
    num_rows: int = 0
    peak: float = math.nan  # learning rate
    end: float = math.nan  # progress of the longest run
    best: Array = field(default_factory=lambda: np.zeros(0))  # (7,) as in `annealing`: E, A, B, …
    draws: Array = field(default_factory=lambda: np.zeros((0, 7)))  # (S, 7)
    scatter: float = math.nan  # of an evaluation about the law, of the log loss
    trust: float = math.nan  # how far the law may be off within what was seen, of the log loss

    def forecast(
        self, curve: RatedCurve, levels: Sequence[float] = (0.5, 0.8, 0.9)
    ) -> ScheduleForecast:
        """Forecast the loss at every row of a schedule.

        Raises:
            DataError: a schedule the law does not hold for, or of another peak rate.
            UsageError: a level that is not between 0 and 1.
        """
        if not all(0 < level < 1 for level in levels):
            raise UsageError(f"the level of an interval lies between 0 and 1: {list(levels)}")
        schedule = Schedule.of(curve.step, curve.learning_rate, curve.run)
        value = np.full(len(schedule.progress), np.nan)
        ends = {level: (value.copy(), value.copy()) for level in levels}
        rows = np.flatnonzero(schedule.cooled & (schedule.progress <= REACH * self.end))
        if not len(self.draws) or not len(rows):
            return ScheduleForecast(value, ends)
        if not math.isclose(schedule.peak, self.peak, rel_tol=SAME_PEAK):
            raise DataError(
                f"{curve.run}: its peak learning rate is {schedule.peak:g}, the law was fitted at "
                f"{self.peak:g}; what another peak does was not seen"
            )
        law = multi_power([schedule.felt(rows)], self.end)
        log_x = np.log(schedule.progress[rows] / self.end)[:, None]
        logs = log_law(law, log_x, self.draws)
        middle = np.median(logs, axis=0)
        value[rows] = np.exp(middle)
        doublings = 2 ** np.maximum(log_x[:, 0] / math.log(2), 0.0)
        off = np.hypot(self.scatter, self.trust * doublings)
        for level in levels:
            # The spread over draws and the rest are of a kind: their halves add up as variances.
            sides = np.quantile(logs, [(1 - level) / 2, (1 + level) / 2], axis=0) - middle
            half = off * _normal(level)
            ends[level][0][rows] = np.exp(middle - np.hypot(sides[0], half))
            ends[level][1][rows] = np.exp(middle + np.hypot(sides[1], half))
        return ScheduleForecast(value, ends)


def _normal(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


@dataclass(frozen=True)
class _Rows:
    """What is fitted of one run."""

    schedule: Schedule
    at: NDArray[np.intp]  # rows of the schedule
    log_loss: Array
    weight: Array  # one over the number of runs that share the row, as those of one trunk do

    @property
    def progress(self) -> Array:
        return self.schedule.progress[self.at]


def fit_schedules(curves: Sequence[RatedCurve], seed: int = 0) -> ScheduleFit:
    """Fit the multi-power law to runs of one model and one peak learning rate.

    Args:
        curves: of one model on one data set, finished or not. Rows before the peak of the rate are
            not fitted, and those that several runs share count once.
        seed: of the draws.

    Raises:
        DataError: a schedule the law does not hold for, or peaks that differ.
    """
    schedules = [Schedule.of(one.step, one.learning_rate, one.run) for one in curves]
    peaks = sorted(one.peak for one in schedules)
    if peaks and peaks[-1] > (1 + SAME_PEAK) * peaks[0]:
        raise DataError(
            f"the runs have peak learning rates from {peaks[0]:g} to {peaks[-1]:g}: the law is of "
            "one; fit those of each peak apart"
        )
    runs, left_out = _rows(curves, schedules)
    num_rows = sum(len(one.at) for one in runs)
    beside = f"; {left_out} rows whose loss has no logarithm left out" * bool(left_out)
    refusal = _refusal(runs)
    if refusal:
        return ScheduleFit("not_identified", refusal + beside, len(runs), num_rows)
    end = max(float(one.progress[-1]) for one in runs)
    objective = _objective(runs, end)
    candidates = objective.law.candidates(100, objective.log_x)
    best = solve(objective, candidates, starts=4, tolerance=1e-7)[0]
    residual = objective.residual(best[None])[0]
    independent = _independent(residual, runs)
    fall = float(np.ptp(objective.log_y))
    draws = walk(objective, best, independent, TRUST * fall, np.random.default_rng(seed))
    weights = objective.weights[0] * influence(residual, objective.delta)
    spare = independent / max(independent - len(best), 1.0)
    missed = _left_out_in_turn(runs, end, best)
    status, words = _verdict(objective.law, best, end / min(float(one.progress[0]) for one in runs))
    return ScheduleFit(
        status,
        f"multi-power law of {len(runs)} runs{words}: {_worth(draws, missed)}{beside}",
        len(runs),
        num_rows,
        peaks[-1],
        end,
        best,
        draws,
        math.sqrt(float(weights @ residual**2) / float(weights.sum()) * spare),
        math.hypot(TRUST * fall, TRUST * fall if missed is None else missed),
    )


def _rows(curves: Sequence[RatedCurve], schedules: Sequence[Schedule]) -> tuple[list[_Rows], int]:
    """Rows of each run that has some, few enough, and how many have no logarithm."""
    runs: list[tuple[Schedule, NDArray[np.intp], Array]] = []
    left_out = 0
    for curve, schedule in zip(curves, schedules, strict=True):
        if curve.loss is None:
            continue
        loss = np.asarray(curve.loss, float).reshape(-1)
        if len(loss) != len(schedule.progress):
            raise DataError(f"{curve.run}: {len(schedule.progress)} steps and {len(loss)} losses")
        good = np.isfinite(loss) & (loss > 0)
        left_out += int((~good & ~np.isnan(loss)).sum())
        at = np.flatnonzero(good & schedule.cooled)
        if len(at):
            runs.append((schedule, at, loss))
    most = max(MAX_ROWS // max(len(runs), 1), 8)
    thinned = [(one, np.array(spread_out(at.tolist(), most)), loss) for one, at, loss in runs]
    keys = [np.stack([one.progress[at], loss[at]], axis=1) for one, at, loss in thinned]
    if not keys:
        return [], left_out
    _, place, counts = np.unique(
        np.concatenate(keys), axis=0, return_inverse=True, return_counts=True
    )
    shares = np.split(1 / counts[place.reshape(-1)], np.cumsum([len(one) for one in keys])[:-1])
    return [
        _Rows(schedule, at, np.log(loss[at]), share)
        for (schedule, at, loss), share in zip(thinned, shares, strict=True)
    ], left_out


def _refusal(runs: Sequence[_Rows]) -> str:
    """Why the law cannot be told from these runs; "" where it can."""
    unseen = "what cooling is worth was not seen"
    num_rows = sum(len(one.at) for one in runs)
    if num_rows < 12:
        return f"{unseen}: {num_rows} losses after the peak of the learning rate, 12 are needed"
    if not any((one.schedule.rate[one.at] < 0.99).any() for one in runs):
        return f"{unseen}: the learning rate never fell; a run with a cooldown would tell"
    if not any(_differ(runs[0], other) for other in runs[1:]):
        return (
            f"{unseen} apart from that of longer training: all runs had one schedule; one at a "
            "constant rate, or of another length, would tell"
        )
    return ""


def _differ(one: _Rows, other: _Rows) -> bool:
    """Whether the rates differ by a hundredth of the peak somewhere, where both were seen."""
    begin = max(float(rows.progress[0]) for rows in (one, other))
    end = min(float(rows.progress[-1]) for rows in (one, other))
    places = np.linspace(begin, max(begin, end), 500)
    first, second = (
        np.interp(places, rows.schedule.progress, rows.schedule.rate) for rows in (one, other)
    )
    return bool((np.abs(first - second) > 0.01).any())


def _objective(runs: Sequence[_Rows], end: float) -> Objective:
    """What is fitted; rows more than 1 % off pull no more than those at 1 %."""
    law = multi_power([one.schedule.felt(one.at) for one in runs], end)
    progress = np.concatenate([one.schedule.progress[one.at] for one in runs])
    log_loss = np.concatenate([one.log_loss for one in runs])
    weights = np.concatenate([one.weight for one in runs])
    log_x = np.log(progress / end)[:, None]
    return Objective(law, log_x, log_loss[None], weights[None], floor=True, delta=0.01)


def _independent(residual: Array, runs: Sequence[_Rows]) -> float:
    """How many independent rows the rows amount to, by the correlation along each run."""
    products, start = np.zeros(max(len(one.at) for one in runs)), 0
    for one in runs:
        mine = residual[start : start + len(one.at)] * np.sqrt(one.weight)
        start += len(mine)
        products[: len(mine)] += np.correlate(mine, mine, "full")[len(mine) - 1 :]
    along = products / max(products[0], 1e-300)
    ends = np.flatnonzero(along <= 0)
    length = 1 + 2 * float(along[1 : ends[0] if len(ends) else len(along)].sum())
    return float(sum(one.weight.sum() for one in runs)) / length


def _left_out_in_turn(runs: Sequence[_Rows], end: float, best: Array) -> float | None:
    """Root mean square error of the log loss on runs that were not fitted.

    Rows that a fitted run shares are not counted, nor runs without which nothing is told.
    """
    squares = []
    for place in spread_out(range(len(runs)), 8):
        others = [one for which, one in enumerate(runs) if which != place]
        alone = runs[place].weight == 1
        if not alone.any() or _refusal(others):
            continue
        objective = _objective(others, end)
        candidates = objective.law.candidates(60, objective.log_x)
        candidates = np.concatenate([best[None, -NUM_SHAPES:], candidates])
        found = solve(objective, candidates, starts=3, tolerance=1e-5)
        squares.append(_objective([runs[place]], end).residual(found)[0][alone] ** 2)
    return math.sqrt(float(np.mean(np.concatenate(squares)))) if squares else None


def _worth(draws: Array, missed: float | None) -> str:
    """What a run as long as the longest gains by cooling, and how far off the law was."""
    unfallen = np.exp(log_law(multi_power([NEVER], 1.0), np.zeros((1, 1)), draws))[:, 0]
    low, high = np.quantile(100 * draws[:, 2] / unfallen, [0.05, 0.95])
    told = f"a rate cooled to nothing takes {number(low)} to {number(high)} % off the loss"
    told += " if given time to be felt (90 % interval)"
    if missed is None:
        return told
    return f"{told}; on runs left out in turn the law was off by {number(100 * missed)} %"


def _verdict(law: Law, best: Array, span: float) -> tuple[FitStatus, str]:
    low, high = law.parameters["exponent"]
    if not low * 1.001 < best[3] < high * 0.999 or best[1] == 0:
        return "at_bound", ", at the bound of its exponent"
    if span < 10 * (1 - 1e-9):
        return "too_short", f", over a factor of {number(span)} of progress only"
    return "converged", ""
