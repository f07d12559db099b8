"""Which pilot run narrows a forecast most for what it costs, and when to stop piloting.

Before a pilot is trained its loss is as uncertain as the fit says, and it moves the forecast as far
as the two vary together. With t and c the log losses of a new run at the target and at the
candidate, the variance of t after c was seen is that of linear regression, the analysis step of an
ensemble Kalman filter (Evensen 1994) and the criterion of Cohn et al. (1996):

    var(t | c) = var(t) - cov(t, c)² / var(c)

Both come from three sources: the bootstrap draws of the fitted law, the scatter of a run about its
cell (`n²`, in both variances and in no covariance), and what the law's form is off by. The last is
what the calibrated interval of the forecast holds beyond the other two; a law that is off at the
target is off likewise nearby, with correlation exp(-d), d the decades between the two, both axes
together. At a cell with trained runs it is none: they have told it, and one more seed tells only
what seeds average away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from chemscale.desk.candidates import Candidate, candidate_at, common_unit, named, trained_cells
from chemscale.desk.costs import MANY, Costs, Rung, round_numbers, words
from chemscale.desk.forecast import Prediction
from chemscale.desk.laws import additive_surface, power_floor
from chemscale.desk.plan import known, prices_of, promise, refuse_amounts, refuse_device
from chemscale.desk.sentences import number, plural
from chemscale.table.errors import NotIdentified, UsageError
from chemscale.table.fits import FamilyFit, Fit, LawFit, SurfaceFit
from chemscale.table.records import Forecast, Prices
from chemscale.table.results import Array, Interval, Point

RATES = {
    "flops": "per FLOP",
    "hours": "per hour",
    "joules": "per joule",
    "money": "for its money",
    "work": "for its parameters times items",
}


@dataclass(frozen=True)
class Pilot:
    """A run that could be trained first."""

    candidate: Candidate
    trained: int  # seeds of this cell that are there already
    interval: Interval  # expected at the target once it is trained and fitted
    narrower: float  # by this share of the width, in log loss


@dataclass(frozen=True)
class Design:
    """Pilot runs in order of what they narrow for their cost; none where piloting should stop."""

    target: Candidate
    interval: Interval  # at the target, now
    pilots: tuple[Pilot, ...]
    unit: str  # of the cost that they are ranked by: flops, hours, joules or money
    prices: Prices | None
    sentence: str

    def forecast(self, costs: Costs, *, now: str) -> Forecast | None:
        """That of the first pilot, as it is written down; None where piloting should stop."""
        if not self.pilots:
            return None
        return promise(self.pilots[0].candidate, costs, now, self.sentence, self.prices)


def design(
    fit: Fit,
    costs: Costs,
    at: str,
    num_train: int | None = None,
    *,
    flops: float | None = None,
    hours: float | None = None,
    device: str | None = None,
    joules: float | None = None,
    money: float | None = None,
    label_price: float | None = None,
    hour_price: float | None = None,
    available: int | None = None,
    bought: Sequence[Point] = (),
    least: float = 0.05,
) -> Design:
    """Rank the pilot runs for a forecast by how much they narrow its interval for their cost.

    Candidates are the sizes there are on each fitted `num_train`, those of the study, that of the
    target and all there are: not trained yet, or once more with another seed; not what the study
    holds out. Nothing is drawn here: the draws are those the fit was recorded with.

    Cost is in money where labels or hours have a price, which may then buy labels up to those of
    the target; in hours where these or their device are named; in joules where these are; else in
    FLOPs, or in what a table tells instead: hours, or no more than sizes and amounts.

    Piloting stops when no affordable run is expected to narrow the interval by `least`. By default
    5 %: a standard deviation over the 200 draws that a fit keeps is itself uncertain by
    1/√(2·200) = 5 %, so less than that cannot be told from the luck of the draws.

    Args:
        fit: the laws.
        costs: the sizes, and what they cost.
        at: "family:size" of the forecast to narrow.
        num_train: of that forecast; by default the largest fitted.
        flops: what one pilot may cost; by default as much as the target, which answers itself.
        hours: the same, on `device`.
        device: as in `forecast`.
        joules: the same, where runs tell their electricity.
        money: the same, by the prices.
        label_price: as in `forecast`.
        hour_price: as in `forecast`.
        available: how many training items there are; by default as many as were fitted.
        bought: what earlier plans trained; untold to the fit, so not bought again.
        least: smallest share of the width worth a run.

    Raises:
        UsageError: several budgets.
        NotIdentified: no forecast at the target, with the run that would give one; or the cost is
            not known, with how to come to know it.
    """
    budgets = {"flops": flops, "hours": hours, "joules": joules, "money": money}
    given = {unit: budget for unit, budget in budgets.items() if budget is not None}
    if len(given) > 1:
        raise UsageError(f"a pilot has one budget, not {' and '.join(given)}")
    refuse_amounts({**budgets, "num_train": num_train, "available": available})
    if device is not None and given.keys() & {"flops", "joules"}:
        raise UsageError(f"a budget of {[*given][0]} knows no device: give hours, or leave it out")
    prices = prices_of(fit, money, label_price, hour_price, device, available)
    if prices is not None and given.keys() - {"money"}:
        raise UsageError(f"with prices the budget is money, not {[*given][0]}")
    timed = hours is not None or hour_price is not None or device is not None
    refuse_device(costs, device, timed)
    target = named(fit, costs, at, num_train, 1, prices)
    one = target.fit
    unit = next(
        iter(given), "money" if prices is not None else "hours" if timed else common_unit([target])
    )
    rungs = [(one, size) for size in costs.rungs(one.family)]
    if (what := "hours" if hour_price is not None else unit) in ("flops", "hours", "joules"):
        rungs = known(rungs, costs, what)
        known([(one, target.size)], costs, what)
    budget = given.get(unit, target.cost(unit))
    there = max(cell.num_train for cell in one.observed) if available is None else available
    if label_price is not None:
        there = max(there, target.num_train)
    found = [
        pair
        for pair in _candidates(
            one, costs, [size for _, size in rungs], target, there, bought, prices
        )
        if pair[0].cost(unit) <= budget and pair[0].prediction.held == target.prediction.held
    ]
    runs = [target, *(run for run, _ in found)]
    places = np.array([(run.size.num_params, run.num_train) for run in runs], float)
    shares = expected(one, places, [run.prediction for run in runs])
    now = _interval(target.prediction)
    pilots = [
        Pilot(run, trained, _narrowed(target, now, 1 - share), share)
        for (run, trained), share in zip(found, shares.tolist(), strict=True)
    ]
    worth = [pilot for pilot in pilots if pilot.narrower >= least]
    ranked = tuple(sorted(worth, key=lambda pilot: _gain(pilot, unit), reverse=True))
    told = _words(target, pilots, ranked, least, unit, words(unit, budget, device))
    return Design(target, now, ranked, unit, prices, told)


def expected(one: FamilyFit, places: Array, predictions: Sequence[Prediction]) -> Array:
    """By which share (C,) a run at each candidate is expected to narrow the target's interval.

    Args:
        one: the laws.
        places: (1 + C, 2) num_params and num_train, the target's first.
        predictions: (1 + C,) there, all by the same law.
    """
    law = _law(one, predictions[0].held)
    noise = one.seed_scatter or law.residual or 0.0
    log_loss = _log_loss(law, places)  # (S, 1 + C)
    off = log_loss - log_loss.mean(axis=0)
    shared = off.T @ off[:, 0] / (len(off) - 1)  # (1 + C,) covariance with the target
    own = (off**2).sum(axis=0) / (len(off) - 1)
    spread = np.array([_spread(prediction) for prediction in predictions])
    fitted = {cell.key: cell.num_runs for cell in one.observed}
    seeds = np.array([fitted.get(tuple(place), 0) for place in places])
    form = np.sqrt(np.maximum(spread**2 - own - noise**2, 0.0)) * (seeds == 0)
    distance = np.abs(np.log10(places / places[0])).sum(axis=1)
    shared = shared + form[0] * form * np.exp(-distance)
    total = float(own[0] + form[0] ** 2 + noise**2)
    own = own + form**2 + _scatter(seeds, noise, law.residual or 0.0)
    told = shared**2 / np.maximum(own * total, 1e-300)
    return np.asarray(1 - np.sqrt(np.clip(1 - told, 0.0, 1.0)))[1:]


def _scatter(seeds: Array, noise: float, residual: float) -> Array:
    """Variance (T,) of what one more run tells of the law, given the seeds (T,) of its cell.

    The mean of m seeds is off the law by c² + n²/m, c² what the cells' residuals hold beyond seeds,
    which no further seed averages away; the next one tells what it adds to the precision of that.
    """
    run = max(noise**2, 1e-12)
    cell = max(residual**2 - run, 0.0)
    there = np.maximum(seeds, 1)
    again = (cell + run / there) * (cell + run / (there + 1)) / run * there * (there + 1)
    return np.where(seeds == 0, run, again)


def _gain(pilot: Pilot, unit: str) -> tuple[float, float]:
    """Narrowing for its cost, of the log of the width; between equals the narrowest."""
    shrinks, cost = -math.log(max(1 - pilot.narrower, 1e-12)), pilot.candidate.cost(unit)
    return shrinks / cost if cost else math.inf, pilot.narrower


def _candidates(
    one: FamilyFit,
    costs: Costs,
    sizes: Sequence[Rung],
    target: Candidate,
    there: int,
    bought: Sequence[Point],
    prices: Prices | None,
) -> Iterator[tuple[Candidate, int]]:
    """Runs that the fit can answer for, with how many seeds of them it was fitted to."""
    fitted = {cell.key: cell.num_runs for cell in one.observed}
    trained = {cell.key for cell in trained_cells(one, bought)}
    study = costs.study
    amounts = {amount for _, amount in fitted}
    if len(amounts) > MANY:  # runs that all differ: neighbours would be told ten times
        amounts = {*round_numbers(amounts)}
    amounts |= {target.num_train, there}
    amounts |= {*study.num_train} if study else set()
    for size in sizes:
        held_out = study.hold_out.get(size.size, ()) if study else ()
        for amount in sorted(amounts - set(held_out)):
            cell = (size.num_params, amount)
            if amount > there or (cell in trained and cell not in fitted):
                continue
            # A seed that did not finish was asked for all the same: the next one is another.
            asked = study.num_seeds(size.size) if study else 0
            seeds = max(fitted[cell], asked) if cell in fitted else 0
            try:
                yield candidate_at(one, costs, size, amount, 1, prices), seeds
            except NotIdentified:
                continue  # too far: it would tell of a law that is not there yet


def _law(one: FamilyFit, held: object) -> SurfaceFit | LawFit:
    """The law behind a prediction."""
    if not held:
        assert one.surface is not None
        return one.surface
    return next(law for law in one.laws if law.at == held)


def _log_loss(law: SurfaceFit | LawFit, places: Array) -> Array:
    """Log loss (S, T) of each draw at num_params and num_train (T, 2)."""
    draws = np.array(law.draws[1:], float).T[:, :, None]  # the first is the best fit
    if isinstance(law, LawFit):
        loss = power_floor(places[:, ("num_params", "num_train").index(law.axis)], *draws)
    else:
        loss = additive_surface(*places.T, *draws)
    return np.asarray(np.log(np.maximum(loss, 1e-300)))


def _interval(prediction: Prediction) -> Interval:
    return next(i for i in prediction.intervals if i.level == 0.9)


def _spread(prediction: Prediction) -> float:
    """Standard deviation of the log loss of a new run, were its interval that of a normal one."""
    interval = _interval(prediction)
    return math.log(interval.high / interval.low) / 2 / 1.645


def _narrowed(target: Candidate, now: Interval, factor: float) -> Interval:
    """The interval about the same forecast, its log width times a factor."""
    middle = target.prediction.value
    return Interval(
        low=middle * (now.low / middle) ** factor,
        high=middle * (now.high / middle) ** factor,
        level=now.level,
    )


def _words(
    target: Candidate,
    pilots: Sequence[Pilot],
    ranked: Sequence[Pilot],
    least: float,
    unit: str,
    budget: str,
) -> str:
    where = f"{target.size.family}:{target.size.size} on {target.num_train:,}"
    where += f" {plural(target.fit.unit)}"
    if ranked:
        first = ranked[0]
        again = f" (seed {first.trained + 1} of it)" if first.trained else ""
        return (
            f"narrows the forecast of {where} most {RATES[unit]}{again}: its "
            f"{100 * first.interval.level:g} % interval is expected to become "
            f"{number(first.interval.low)} to {number(first.interval.high)}, "
            f"{100 * first.narrower:.0f} % narrower"
        )
    if not pilots:
        return f"stop piloting {where}: nothing to forecast costs {budget} or less"
    best = max(pilots, key=lambda pilot: pilot.narrower)
    run = best.candidate
    return (
        f"stop piloting {where}: no run within {budget} is expected to narrow its "
        f"interval by {100 * least:g} % (the best, {run.size.size} on {run.num_train:,}, by "
        f"{100 * best.narrower:.1f} %)"
    )
