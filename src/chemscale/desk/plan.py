"""From a fit and a budget to the next study, with its forecast written down beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from chemscale.desk import costs
from chemscale.desk.forecast import Prediction, predict, reach
from chemscale.desk.sentences import metric_words, number, plural
from chemscale.table.errors import NotIdentified, UnknownName, UsageError
from chemscale.table.records import Forecast, Prices, Study
from chemscale.table.results import FamilyFit, Fit, Point, Size


@dataclass(frozen=True)
class Candidate:
    """A run that could be next: where, what it costs, what it promises."""

    fit: FamilyFit
    size: Size
    num_train: int
    flops: float  # for all its seeds
    prediction: Prediction
    money: float = 0.0  # labels and training of all its seeds; 0 without prices


def plan(
    fit: Fit,
    study: Study,
    sizes: Sequence[Size],
    *,
    now: str,
    at: str | None = None,
    num_train: int | None = None,
    flops: float | None = None,
    hours: float | None = None,
    device: str | None = None,
    money: float | None = None,
    label_price: float | None = None,
    hour_price: float | None = None,
    target: float | None = None,
    family: str | None = None,
    seeds: int = 1,
    available: int | None = None,
    bought: Sequence[Point] = (),
) -> Study:
    """Choose the next run and return it as a study with a forecast.

    Exactly one of five wishes:

    * `at` ("painn:w48", with `num_train`, by default the largest fitted): forecast there.
    * `flops`: the lowest forecast whose training costs no more, all seeds together.
    * `hours` on a `device`: the same by measured items per second; evaluation is not counted.
    * `money`: the same by `label_price` and `hour_price`; it may buy labels that are not there yet.
    * `target`: the cheapest run forecast to reach this loss, at even odds; it may need more
      training items than there are, and says how many. Cheapest in money where a price is given,
      else in FLOPs.

    A budget never buys a size and `num_train` that was trained already. A trunk is charged its
    whole ceiling and the cooldown, though patience may end it sooner.

    Args:
        fit: the laws.
        study: what the plan continues: dataset, recipe and budget are kept.
        sizes: the ladders of its families.
        now: when, for the record.
        at: family and size.
        num_train: with `at`.
        flops: budget.
        hours: budget, with `device`.
        device: as named in `Size.items_per_second`.
        money: budget, in the currency of the prices.
        label_price: money per training item beyond those `available`.
        hour_price: money per hour of training on `device`; free where not given.
        target: loss to reach, in the fitted metric.
        family: consider this one only.
        seeds: how many to train.
        available: how many training items there are; by default as many as were fitted.
        bought: all that was trained, by earlier plans too, which no law is fitted to.

    Raises:
        UsageError: not exactly one wish, a name that is not there, a target reached or a run
            trained already.
        NotIdentified: the fit cannot answer, nothing fits the budget, or nothing reaches the
            target; with what would help.
    """
    wishes = {"at": at, "flops": flops, "hours": hours, "money": money, "target": target}
    given = [name for name, value in wishes.items() if value is not None]
    if len(given) != 1:
        raise UsageError(
            f"give exactly one of at, flops, hours, money and target, not {given or 'none'}"
        )
    if (hours is None and hour_price is None) != (device is None):
        raise UsageError("hours or hour_price go together with device: hours=100, device='h200'")
    priced = label_price is not None or hour_price is not None
    if priced and money is None and target is None:
        raise UsageError("label_price and hour_price go with money or target")
    if money is not None and not priced:
        raise UsageError("money needs a price: label_price=2.5, or hour_price=4 with device='h200'")
    for name, price in {"label_price": label_price, "hour_price": hour_price}.items():
        if price is not None and not 0 <= price < math.inf:
            raise UsageError(f"{name} must be 0 or more, not {price:g}")
    if num_train is not None and at is None:
        raise UsageError("num_train goes with at; the other wishes choose it themselves")
    for name, value in {**wishes, "seeds": seeds, "num_train": num_train}.items():
        if isinstance(value, int | float) and not value > 0:
            raise UsageError(f"{name} must be above 0, not {value:g}")
    if at is not None:
        asked = named(fit, study, sizes, at, num_train, seeds)
        _refuse_trained(asked, seeds, bought)
        return as_study(study, asked, seeds, now, f"at {at}")

    fits = _families(fit, family)
    rungs = [size for size in sizes if size.family in {one.family for one in fits}]
    if device is not None:
        rungs = costs.measured(rungs, device)
    if target is not None:
        _refuse_reached(fits, rungs, target, bought)
    # A budget is spent on the items there are; what a target needs can be labelled, and what
    # money pays for after the training.
    prices = None
    if priced:
        there = max((cell[1] for one in fits for cell in one.observed), default=0)
        prices = Prices(
            label=label_price or 0.0,
            hour=hour_price or 0.0,
            device=device,
            available=there if available is None else available,
        )

    def limit(size: Size) -> float | None:
        if target is not None:
            return math.inf
        if money is None or label_price is None or prices is None:
            return available
        left = money - costs.training(size, study, prices, seeds)
        return prices.available + max(0.0, left) / label_price if label_price else math.inf

    candidates, reasons = _candidates(fits, study, rungs, seeds, limit, available, bought)
    if prices is not None:
        candidates = [_charged(one, study, prices, seeds) for one in candidates]
    if not candidates:
        raise NotIdentified(
            "no forecast for any run that was not trained yet: "
            + "; ".join(reasons or ["no sizes"])
        )
    if target is not None:

        def again(one: Candidate, amount: int) -> Candidate | None:
            if (one.size.num_params, amount) in {c[:2] for c in trained_cells(one.fit, bought)}:
                return None  # and it did not reach the target
            found = candidate_at(one.fit, study, one.size, amount, seeds)
            return _charged(found, study, prices, seeds)

        chosen = _cheapest(_fewest(candidates, target, again), target)
        why = f"the cheapest run forecast to reach {number(target)}"
        if available is not None and chosen.num_train > available:
            missing = f"{chosen.num_train - available:,} {plural(chosen.fit.unit)}"
            why += f" (it needs {missing} more than the {available:,} there are to train on)"
        return as_study(study, chosen, seeds, now, why, prices)
    if flops is not None:
        affordable = [one for one in candidates if one.flops <= flops]
        least = min(one.flops for one in candidates)
        why = f"the best forecast within {number(flops)} FLOPs"
        need = f"takes {number(least)} FLOPs"
    elif money is not None:
        affordable = [one for one in candidates if one.money <= money]
        why = f"the best forecast for {number(money)} in money"
        need = f"costs {number(min(one.money for one in candidates))}"
    else:
        assert hours is not None and device is not None
        times = [costs.hours(one.size, study, device, seeds) for one in candidates]
        affordable = [one for one, time in zip(candidates, times, strict=True) if time <= hours]
        why = f"the best forecast within {number(hours)} h on {device}"
        need = f"takes {number(min(times))} h on {device}"
    if not affordable:
        raise NotIdentified(f"nothing fits the budget: the cheapest run {need}")
    best = min(affordable, key=lambda one: (one.prediction.value, one.money, one.flops))
    return as_study(study, best, seeds, now, why, prices)


def named(
    fit: Fit, study: Study, sizes: Sequence[Size], at: str, num_train: int | None, seeds: int
) -> Candidate:
    """The run at "family:size", by default on as many items as the largest that was fitted."""
    family, _, name = at.partition(":")
    if not name:
        raise UsageError(f"at {at!r}: give family:size, such as {sizes[0].family}:{sizes[0].size}")
    [one] = _families(fit, family)
    rungs = {size.size: size for size in sizes if size.family == family}
    if name not in rungs:
        raise UnknownName.of("size", name, rungs, where=at)
    amount = num_train or max((cell[1] for cell in one.observed), default=0)
    return candidate_at(one, study, rungs[name], amount, seeds)


def _families(fit: Fit, family: str | None) -> list[FamilyFit]:
    """The fits to consider: the one named, or all where their losses can be compared."""
    known = {one.family: one for one in fit.families}
    if family is not None:
        if family not in known:
            raise UnknownName.of("fitted family", family, known)
        return [known[family]]
    metrics = sorted({one.metric for one in fit.families})
    if len(metrics) > 1:
        raise UsageError(f"families are measured by {' and '.join(metrics)}: name one with family")
    return list(fit.families)


def _candidates(
    fits: Iterable[FamilyFit],
    study: Study,
    sizes: Sequence[Size],
    seeds: int,
    limit: Callable[[Size], float | None],
    available: int | None,
    bought: Sequence[Point],
) -> tuple[list[Candidate], list[str]]:
    """Every untrained size and `num_train` the fit can answer for, and why others cannot be."""
    found: list[Candidate] = []
    reasons: dict[str, None] = {}
    for one in fits:
        trained = {cell[:2] for cell in trained_cells(one, bought)}
        for size in (size for size in sizes if size.family == one.family):
            for amount in _amounts(one, limit(size), available):
                if (size.num_params, amount) in trained:
                    continue
                try:
                    found.append(candidate_at(one, study, size, amount, seeds))
                except NotIdentified as error:
                    reasons[str(error)] = None
    return found, list(reasons)[:1]


def candidate_at(one: FamilyFit, study: Study, size: Size, num_train: int, seeds: int) -> Candidate:
    """Cost and forecast of a run; NotIdentified where the fit does not answer."""
    ceiling = study.budget.items
    if one.at_this_training_length and one.max_items and ceiling and ceiling > one.max_items:
        raise NotIdentified(
            f"{one.family}: over a third of its runs were capped at {one.max_items:,} items, so "
            f"the fit does not hold for a budget of {ceiling:,}. Raise budget.items of the study "
            "that was fitted, train again (its trunks go on) and fit"
        )
    prediction = predict(one, size.num_params, num_train)
    flops = seeds * costs.items(study, size) * size.flops_per_item
    return Candidate(one, size, num_train, flops, prediction)


def _amounts(one: FamilyFit, limit: float | None, available: int | None = None) -> list[int]:
    """Fitted values of `num_train`, round ones between and beyond, all there are, and the limit."""
    fitted = sorted({cell[1] for cell in one.observed})
    if not fitted:
        return []
    farthest = math.floor(reach((fitted[0], fitted[-1]))[1])
    last = int(min(fitted[-1] if limit is None else limit, farthest))
    powers = 10 ** np.arange(math.floor(math.log10(fitted[0])), math.log10(max(last, 1)) + 1)
    between = {round(step * power) for power in powers for step in (1, 1.5, 2, 3, 5, 7)}
    amounts = {*fitted, *between, available or last, last}
    return sorted(amount for amount in amounts if fitted[0] <= amount <= last)


def trained_cells(one: FamilyFit, bought: Sequence[Point]) -> list[tuple[int, int, float]]:
    """Parameters, `num_train` and loss of what was trained: by the sweep, then by plans."""
    swept = [cell[:3] for cell in one.observed]
    return swept + [
        (point.num_params, point.num_train, point.losses[one.metric])
        for point in bought
        if point.family == one.family
        and point.role.startswith("plans/")
        and one.metric in point.losses
    ]


def _refuse_trained(one: Candidate, seeds: int, bought: Sequence[Point]) -> None:
    """A forecast of what is known would be judged by what it was fitted to."""
    cell = one.fit.family, one.size.num_params, one.num_train
    known = {
        point.seed: point.losses[one.fit.metric]
        for point in bought
        if (point.family, point.num_params, point.num_train) == cell
        and (point.role == "sweep" or point.role.startswith("plans/"))
        and one.fit.metric in point.losses
    }
    if set(range(seeds)) <= set(known):
        many = "" if seeds == 1 else f" with {seeds} seeds"
        raise UsageError(
            f"{one.fit.family}:{one.size.size} on {one.num_train:,} {plural(one.fit.unit)} was "
            f"trained already{many} and came to {metric_words(one.fit.metric)} "
            f"{', '.join(number(known[seed]) for seed in range(seeds))}. Ask for another size, "
            "another --num-train or more --seeds"
        )


def _refuse_reached(
    fits: Iterable[FamilyFit], sizes: Sequence[Size], target: float, bought: Sequence[Point]
) -> None:
    """Tell of a trained run that reached the target, so that none is bought again."""
    names = {(size.family, size.num_params): size.size for size in sizes}
    for one in fits:
        for num_params, num_train, loss in trained_cells(one, bought):
            if loss <= target:
                size = names.get((one.family, num_params), f"{num_params:,} parameters")
                raise UsageError(
                    f"{one.family}:{size} on {num_train:,} {plural(one.unit)} reached "
                    f"{number(loss)} already: give a target below that"
                )


def _fewest(
    candidates: Sequence[Candidate],
    target: float,
    again: Callable[[Candidate, int], Candidate | None],
) -> list[Candidate]:
    """Beside the candidates, the fewest items to two digits that bring each size to the target."""
    refined = []
    for key in dict.fromkeys(one.size.key for one in candidates):
        mine = [one for one in candidates if one.size.key == key]
        mine.sort(key=lambda one: one.num_train)
        place = next((i for i, one in enumerate(mine) if one.prediction.value <= target), 0)
        low, least = mine[place - 1].num_train, mine[place]
        while place and low < (middle := _two_digits(low, least.num_train)) < least.num_train:
            one = again(least, middle)
            if one and one.prediction.value <= target:
                least = one
            else:
                low = middle
        refined.append(least)
    return [*candidates, *refined]


def _two_digits(low: int, high: int) -> int:
    return round(float(f"{math.sqrt(low * high):.1e}"))


def _charged(one: Candidate, study: Study, prices: Prices | None, seeds: int) -> Candidate:
    if prices is None:
        return one
    return replace(one, money=costs.money(one.size, one.num_train, study, prices, seeds))


def _cheapest(candidates: Sequence[Candidate], target: float) -> Candidate:
    reaching = [one for one in candidates if one.prediction.value <= target]
    if not reaching:
        best = min(candidates, key=lambda one: one.prediction.value)
        words = metric_words(best.fit.metric)
        raise NotIdentified(
            f"no run within reach of the fit is forecast to reach {words} {number(target)}: the "
            f"lowest is {number(best.prediction.value)} ({best.size.family}:{best.size.size}, "
            f"{best.num_train:,} {plural(best.fit.unit)})"
        )
    return min(reaching, key=lambda o: (o.money, o.flops, o.num_train, o.prediction.value))


def as_study(
    study: Study, one: Candidate, seeds: int, now: str, why: str, prices: Prices | None = None
) -> Study:
    """The plan as a study: one family, size and `num_train`; nothing else is changed."""
    promised = one.prediction
    why += f", {number(one.flops)} FLOPs at most"
    if prices is not None:
        why += f", costs {number(one.money)} in money ({costs.bill(one.num_train, prices)})"
    last = f"{number(promised.last_observed_at[0])} parameters and "
    last += f"{promised.last_observed_at[1]:,} {plural(one.fit.unit)}"
    forecast = Forecast(
        family=one.fit.family,
        size=one.size.size,
        num_params=one.size.num_params,
        num_train=one.num_train,
        metric=one.fit.metric,
        value=promised.value,
        intervals={f"{100 * i.level:g}": (i.low, i.high) for i in promised.intervals},
        law=promised.law,
        fitted_runs=promised.fitted_runs,
        made=now,
        why=f"{why}; no change from the last observation "
        f"({last}) would be {number(promised.last_observation)}",
        capped_at_items=one.fit.max_items if one.fit.at_this_training_length else None,
        prices=prices,
        money=one.money if prices else None,
    )
    return study.model_copy(
        update={
            "name": f"{study.name}-plan",
            "families": {one.fit.family: (one.size.size,)},
            "num_train": (one.num_train,),
            "seeds": seeds,
            "hold_out": {},
            "search": None,
            "forecast": (forecast,),
        }
    )
