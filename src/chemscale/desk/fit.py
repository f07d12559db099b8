"""From points to laws: how the loss falls with data and with size, and what is not identified.

A law is fitted to log losses, a run at a time, so a cell with three seeds counts three times.
Intervals are percentiles over a bootstrap by run (`bootstrap`). Every ending has a status:

converged       the exponent has an interval, over a decade or more
too_short       less than a decade: a description of the window, not a law
not_identified  fewer than three values of x, or an interval over half of what is allowed
at_bound        the exponent touches 0 (the loss does not fall) or the largest allowed
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chemscale.desk.along import Question, fit_along
from chemscale.desk.check import check_words
from chemscale.desk.checklist import checklist
from chemscale.desk.crossover import compare
from chemscale.desk.influence import influence_words
from chemscale.desk.isoflop import isoflop_of, isoflop_words
from chemscale.desk.knee import knee_words
from chemscale.desk.regimes import regime_words, regimes
from chemscale.desk.sample import Sample, law_metric, refuse_uncooled, select, wild_words
from chemscale.desk.sentences import excluded_words
from chemscale.desk.surface import fit_surface
from chemscale.table.errors import DataError, UsageError
from chemscale.table.fits import FamilyFit, Fit, LawFit, SurfaceFit
from chemscale.table.results import Array, Point


def fit(
    points: Sequence[Point],
    metric: str | None = None,
    level: float = 0.9,
    seed: int = 0,
    now: str = "",
) -> Fit:
    """Fit the laws of every family among the points.

    Args:
        points: in any order; what is not fitted comes back in `excluded`, with its reason.
        metric: the loss to fit; by default that of the family's unit (`sample.LAW_METRICS`), else
            the only one there is.
        level: of all intervals, 0.9 for 90 %.
        seed: of the bootstrap.
        now: when, for the record.

    Raises:
        DataError: no points, or all losses are from the middle of a schedule.
        UsageError: no such metric, or the level is not between 0 and 1.
    """
    if not points:
        raise DataError("there are no points to fit: no run has ended yet")
    if not 0 < level < 1:
        raise UsageError(f"the level of an interval lies between 0 and 1, not at {level:g}")
    refuse_uncooled(points)
    families: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda p: p.family):
        families.setdefault(point.family, []).append(point)
    if metric is not None:
        law_metric(points, metric)  # a family without it says so in its sentence
    named = {family: metric or law_metric(mine, None) for family, mine in families.items()}
    shared = set(named.values())
    fitted = [_fit_family(mine, named[family], level, seed) for family, mine in families.items()]
    kept = {family: select(mine, named[family])[0] for family, mine in families.items()}
    return Fit(
        metric=shared.pop() if len(shared) == 1 else None,
        level=level,
        families=tuple(fitted),
        made=now,
        comparisons=compare(fitted, kept, level),
    )


def _fit_family(points: Sequence[Point], metric: str, level: float, seed: int) -> FamilyFit:
    family, unit = points[0].family, points[0].unit
    kinds = sorted({point.unit for point in points})
    if len(kinds) > 1:
        raise DataError(f"{family}: num_train counts {' and '.join(kinds)}: fit them apart")
    kept, excluded = select(points, metric)
    sample = Sample.of(kept, metric)
    seeds = sample.seed_scatter()
    num_capped = sum(point.ending == "capped" for point in kept)
    mostly_capped = 3 * num_capped > len(kept)
    ceilings = [point.max_items for point in kept if point.max_items is not None]
    max_items = max(ceilings, default=None)
    limit = "" if max_items is None else f" (≤ {max_items:,} items)"
    question = Question(
        family=family,
        metric=metric,
        unit=unit,
        level=level,
        seed=seed,
        seeds=seeds,
        names={point.num_params: point.size for point in points if point.size},
        caveat=f" at this training length{limit}" if mostly_capped else "",
    )
    laws: list[LawFit] = []
    told: list[str | None] = [f"nothing to fit, none of {len(points)} runs gives a {metric}"]
    if kept:
        laws, told = _laws(sample, question, mostly_capped)
    surface = fit_surface(sample, question)
    fitted: list[LawFit | SurfaceFit] = [*laws, *([surface] if surface else [])]
    limits = regimes(sample, surface, seeds, level)
    best_sizes = isoflop_of(sample, question)
    if kept:
        told.append(surface.sentence if surface else "too few sizes or num_train for a surface")
        told.append(isoflop_words(best_sizes))
        told += [knee_words(law, unit) for law in laws]
        told.append(wild_words(sample))
        told += [regime_words(limits), influence_words(fitted, question)]
    check = check_words(
        [point for point in points if point.role == "check"],
        sample.points,
        metric,
        seeds[0] if seeds else None,
        question.names,
    )
    told += [check, excluded_words(excluded, len(kept))]
    return FamilyFit(
        family=family,
        metric=metric,
        unit=unit,
        laws=tuple(laws),
        surface=surface,
        seed_scatter=seeds[0] if seeds else None,
        num_points=len(kept),
        num_capped=num_capped,
        at_this_training_length=mostly_capped,
        max_items=max_items,
        check=check,
        excluded=excluded,
        sentence=f"{family}: {'; '.join(filter(None, told))}.",
        observed=sample.observed(),
        regimes=limits,
        isoflop=best_sizes,
        checklist=checklist(points, sample, fitted, excluded, seed),
    )


def _laws(
    sample: Sample, question: Question, mostly_capped: bool
) -> tuple[list[LawFit], list[str | None]]:
    """The laws along each axis, and what is to be said of them."""
    laws: list[LawFit] = []
    told: list[str | None] = []

    def add(law: LawFit) -> None:
        laws.append(law)
        told.append(law.sentence)

    at_size = sample.where(sample.log_params == _richest(sample.log_params, sample.log_train))
    add(fit_along(at_size, "num_train", question))
    if mostly_capped:
        if converged := _converged_law(at_size, question):
            add(converged)
        else:
            told.append(
                "the exponent of training to convergence is not identified: it takes four "
                "num_train over a decade at that size whose runs were not capped"
            )
    at_amount = sample.where(sample.log_train == _richest(sample.log_train, sample.log_params))
    add(fit_along(at_amount, "num_params", question))
    costed = sample.where([bool(point.flops) for point in sample.points])
    if costed.points:
        add(fit_along(costed, "flops", question))
        if untold := len(sample.points) - len(costed.points):
            told.append(f"{untold} of {len(sample.points)} runs tell no FLOPs")
    return laws, told


def _richest(held: Array, along: Array) -> float:
    """The largest held value with three different values along the other axis, else the largest."""
    values = np.unique(held)[::-1]
    for value in values:
        if len(np.unique(along[held == value])) >= 3:
            return float(value)
    return float(values[0])


def _converged_law(at_size: Sample, question: Question) -> LawFit | None:
    """The data law of the runs that were not capped, where four of them span a decade."""
    free = at_size.where([point.ending != "capped" for point in at_size.points])
    amounts = sorted({point.num_train for point in free.points})
    if len(amounts) < 4 or amounts[-1] < 10 * amounts[0]:
        return None
    return fit_along(free, "num_train", question, uncapped=True)
