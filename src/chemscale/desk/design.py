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

from chemscale.desk.forecast import Prediction
from chemscale.desk.plan import Candidate, as_study, candidate_at, named, trained_cells
from chemscale.desk.sentences import number, plural
from chemscale.table.errors import NotIdentified
from chemscale.table.records import Study
from chemscale.table.results import Array, FamilyFit, Fit, Interval, LawFit, Point, Size, SurfaceFit


@dataclass(frozen=True)
class Pilot:
    """A run that could be trained first."""

    candidate: Candidate
    trained: int  # seeds of this cell that are there already
    interval: Interval  # expected at the target once it is trained and fitted
    narrower: float  # by this share of the width, in log loss


@dataclass(frozen=True)
class Design:
    """Pilot runs in order of what they narrow per FLOP; none where piloting should stop."""

    target: Candidate
    interval: Interval  # at the target, now
    pilots: tuple[Pilot, ...]
    sentence: str

    def plan(self, study: Study, *, now: str) -> Study | None:
        """The first pilot as a study with its forecast; None where piloting should stop."""
        if not self.pilots:
            return None
        first = self.pilots[0]
        return as_study(study, first.candidate, first.trained + 1, now, self.sentence)


def design(
    fit: Fit,
    study: Study,
    sizes: Sequence[Size],
    at: str,
    num_train: int | None = None,
    *,
    flops: float | None = None,
    available: int | None = None,
    bought: Sequence[Point] = (),
    least: float = 0.05,
) -> Design:
    """Rank the pilot runs for a forecast by how much they narrow its interval per FLOP.

    Candidates are the sizes of the ladder on each fitted `num_train`, those of the study, that of
    the target and all there are: not trained yet, or once more with another seed; not what the
    study holds out. Nothing is drawn here: the draws are those the fit was recorded with.

    Piloting stops when no affordable run is expected to narrow the interval by `least`. By default
    5 %: a standard deviation over the 200 draws that a fit keeps is itself uncertain by
    1/√(2·200) = 5 %, so less than that cannot be told from the luck of the draws.

    Args:
        fit: the laws.
        study: what the pilots continue.
        sizes: the ladders of its families.
        at: "family:size" of the forecast to narrow.
        num_train: of that forecast; by default the largest fitted.
        flops: what one pilot may cost; by default as much as the target, which answers itself.
        available: how many training items there are; by default as many as were fitted.
        bought: what earlier plans trained; untold to the fit, so not bought again.
        least: smallest share of the width worth a run.

    Raises:
        NotIdentified: no forecast at the target; with the run that would give one.
    """
    target = named(fit, study, sizes, at, num_train, 1)
    one = target.fit
    budget = target.flops if flops is None else flops
    rungs = [size for size in sizes if size.family == one.family]
    found = [
        pair
        for pair in _candidates(one, study, rungs, target, available, bought)
        if pair[0].flops <= budget and pair[0].prediction.held == target.prediction.held
    ]
    shares = expected(
        one,
        np.array([_place(run) for run in (target, *(pair[0] for pair in found))]),
        [target.prediction, *(pair[0].prediction for pair in found)],
    )
    now = _interval(target.prediction)
    pilots = [
        Pilot(run, trained, _narrowed(target, now, 1 - share), share)
        for (run, trained), share in zip(found, shares.tolist(), strict=True)
    ]
    worth = [pilot for pilot in pilots if pilot.narrower >= least]
    ranked = tuple(sorted(worth, key=_gain, reverse=True))
    return Design(target, now, ranked, _words(target, pilots, ranked, least, budget))


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
    fitted = {cell[:2]: cell[3] for cell in one.observed}
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


def _gain(pilot: Pilot) -> tuple[float, float]:
    """Narrowing per FLOP, of the log of the width; between equals the narrowest."""
    shrinks = -math.log(max(1 - pilot.narrower, 1e-12))
    return (
        shrinks / pilot.candidate.flops if pilot.candidate.flops else math.inf,
        pilot.narrower,
    )


def _candidates(
    one: FamilyFit,
    study: Study,
    sizes: Sequence[Size],
    target: Candidate,
    available: int | None,
    bought: Sequence[Point],
) -> Iterator[tuple[Candidate, int]]:
    """Runs that the fit can answer for, with how many seeds of them it was fitted to."""
    fitted = {cell[:2]: cell[3] for cell in one.observed}
    trained = {cell[:2] for cell in trained_cells(one, bought)}
    there = max(amount for _, amount in fitted) if available is None else available
    amounts = {amount for _, amount in fitted} | {*study.num_train, target.num_train, there}
    for size in sizes:
        for amount in sorted(amounts - set(study.hold_out.get(size.size, ()))):
            cell = (size.num_params, amount)
            if amount > there or (cell in trained and cell not in fitted):
                continue
            # A seed that did not finish was asked for all the same: the next one is another.
            seeds = max(fitted[cell], study.num_seeds(size.size)) if cell in fitted else 0
            try:
                yield candidate_at(one, study, size, amount, 1), seeds
            except NotIdentified:
                continue  # too far: it would tell of a law that is not there yet


def _law(one: FamilyFit, held: object) -> SurfaceFit | LawFit:
    """The law behind a prediction."""
    if not held:
        assert one.surface is not None
        return one.surface
    return next(law for law in one.laws if law.at == held)


def _place(run: Candidate) -> tuple[float, float]:
    return float(run.size.num_params), float(run.num_train)


def _log_loss(law: SurfaceFit | LawFit, places: Array) -> Array:
    """Log loss (S, T) of each draw at num_params and num_train (T, 2)."""
    rows = np.array(law.draws[1:], float)  # the first is the best fit
    axes = [0, 1]
    if isinstance(law, LawFit):
        axes = [("num_params", "num_train").index(law.axis)]
    value = np.repeat(rows[:, :1], len(places), axis=1)
    for term, axis in enumerate(axes):
        coefficient, exponent = rows[:, 1 + 2 * term, None], rows[:, 2 + 2 * term, None]
        value += coefficient * places[:, axis] ** -exponent
    return np.asarray(np.log(np.maximum(value, 1e-300)))


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
    budget: float,
) -> str:
    where = f"{target.size.family}:{target.size.size} on {target.num_train:,}"
    where += f" {plural(target.fit.unit)}"
    if ranked:
        first = ranked[0]
        again = f" (seed {first.trained + 1} of it)" if first.trained else ""
        return (
            f"narrows the forecast of {where} most per FLOP{again}: its "
            f"{100 * first.interval.level:g} % interval is expected to become "
            f"{number(first.interval.low)} to {number(first.interval.high)}, "
            f"{100 * first.narrower:.0f} % narrower"
        )
    if not pilots:
        return f"stop piloting {where}: nothing to forecast costs {number(budget)} FLOPs or less"
    best = max(pilots, key=lambda pilot: pilot.narrower)
    run = best.candidate
    return (
        f"stop piloting {where}: no run within {number(budget)} FLOPs is expected to narrow its "
        f"interval by {100 * least:g} % (the best, {run.size.size} on {run.num_train:,}, by "
        f"{100 * best.narrower:.1f} %)"
    )
