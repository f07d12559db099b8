"""From a fit and a budget to the next run, with its forecast written down beforehand."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence

from chemscale.desk.candidates import (
    Candidate,
    candidate_at,
    candidates,
    common_unit,
    families,
    named,
    trained_cells,
)
from chemscale.desk.costs import Costs, Rung, bill, words
from chemscale.desk.laws import additive_surface
from chemscale.desk.sentences import metric_words, number, plural
from chemscale.table.errors import NotIdentified, UsageError
from chemscale.table.fits import FamilyFit, Fit
from chemscale.table.records import Forecast, Prices, Study
from chemscale.table.results import Point


def forecast(
    fit: Fit,
    costs: Costs,
    *,
    now: str,
    at: str | None = None,
    num_train: int | None = None,
    flops: float | None = None,
    hours: float | None = None,
    device: str | None = None,
    joules: float | None = None,
    money: float | None = None,
    label_price: float | None = None,
    hour_price: float | None = None,
    target: float | None = None,
    family: str | None = None,
    seeds: int = 1,
    available: int | None = None,
    bought: Sequence[Point] = (),
) -> Forecast:
    """Choose the next run and forecast it.

    Exactly one of six wishes:

    * `at` ("painn:w48", with `num_train`, by default the largest fitted): forecast there.
    * `flops`: the lowest forecast whose training costs no more, all seeds together.
    * `hours` (of a study, on a `device`): the same by measured items per second, of a table by what
      its runs took; evaluation is not counted.
    * `joules`: the same by the electricity that runs took, where they tell it.
    * `money`: the same by `label_price` and `hour_price`; it may buy labels that are not there yet.
    * `target`: the cheapest run forecast to reach this loss, at even odds; it may need more
      training items than there are, and says how many. Cheapest in money where a price is given,
      else in FLOPs, else in hours, else in parameters times training items.

    A budget never buys a size and `num_train` that was trained already. A trunk is charged its
    whole ceiling and the cooldown, though patience may end it sooner.

    Args:
        fit: the laws.
        costs: the sizes, and what they cost.
        now: when, for the record.
        at: family and size.
        num_train: with `at`.
        flops: budget.
        hours: budget, with `device`.
        device: of a study, as named in `Size.items_per_second`.
        joules: budget.
        money: budget, in the currency of the prices.
        label_price: money per training item beyond those `available`.
        hour_price: money per hour of training (on `device`); free where not given.
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
    wishes = {"at": at, "flops": flops, "hours": hours, "joules": joules}
    wishes |= {"money": money, "target": target}
    given = [name for name, value in wishes.items() if value is not None]
    if len(given) != 1:
        names = f"{', '.join([*wishes][:-1])} and target"
        raise UsageError(f"give exactly one of {names}, not {given or 'none'}")
    timed = hours is not None or hour_price is not None
    refuse_device(costs, device, timed)
    priced = label_price is not None or hour_price is not None
    if priced and money is None and target is None:
        raise UsageError("label_price and hour_price go with money or target")
    if num_train is not None and at is None:
        raise UsageError("num_train goes with at; the other wishes choose it themselves")
    refuse_amounts({**wishes, "seeds": seeds, "num_train": num_train, "available": available})
    prices = prices_of(fit, money, label_price, hour_price, device, available)
    if at is not None:
        asked = named(fit, costs, at, num_train, seeds)
        _refuse_trained(asked, seeds, bought)
        return promise(asked, costs, now, f"at {at}")

    fits = families(fit, family)
    what = "hours" if timed else given[0] if given[0] in ("flops", "joules") else None
    all_rungs = [(one, size) for one in fits for size in costs.rungs(one.family)]
    rungs = all_rungs if what is None else known(all_rungs, costs, what)
    left_out = _left_out(all_rungs, rungs)
    if target is not None:
        _refuse_reached(fits, (size for _, size in rungs), target, bought)

    # A budget is spent on the items there are; what a target needs can be labelled, and what
    # money pays for after the training.
    def limit(size: Rung) -> float | None:
        if target is not None:
            return math.inf
        if money is None or label_price is None or prices is None:
            return available
        return _most_paid(size, money, prices, costs, seeds)

    found = candidates(rungs, costs, seeds, limit, available, bought, prices)
    if target is not None:

        def again(one: Candidate, amount: int) -> Candidate | None:
            if (one.size.num_params, amount) in {c.key for c in trained_cells(one.fit, bought)}:
                return None  # and it did not reach the target
            return candidate_at(one.fit, costs, one.size, amount, seeds, prices)

        unit = common_unit(found)
        best = _cheapest(_fewest(found, target, again), target, unit, costs)
        why = f"the cheapest run forecast to reach {number(target)}{left_out}"
        if unit == "work" and prices is None:
            why += " (by parameters times items, as nothing tells what training costs)"
        if available is not None and best.num_train > available:
            missing = f"{best.num_train - available:,} {plural(best.fit.unit)}"
            why += f" (it needs {missing} more than the {available:,} there are to train on)"
        return promise(best, costs, now, why, prices)
    [unit], budget = given, wishes[given[0]]
    assert isinstance(budget, int | float)
    best = _best_within(found, unit, budget, device)
    why = f"the best forecast within {words(unit, budget, device)}{left_out}"
    most = max((cell.num_train for cell in best.fit.observed), default=0)
    if costs.study is None and (available, prices, best.num_train) == (None, None, most):
        why += " on as many items as a run of the table had (--available: how many there are)"
    return promise(best, costs, now, why, prices)


def _most_paid(size: Rung, money: float, prices: Prices, costs: Costs, seeds: int) -> float:
    """How many training items the money pays for, training included."""
    if not prices.label:
        return math.inf
    most = range(prices.available + int(money / prices.label) + 1)
    paid = bisect_right(
        most, money, key=lambda amount: costs.money(size, max(amount, 1), prices, seeds)
    )
    return max(prices.available, paid - 1)


def _best_within(
    found: Sequence[Candidate], unit: str, budget: float, device: str | None
) -> Candidate:
    affordable = [one for one in found if one.cost(unit) <= budget]
    if not affordable:
        least = words(unit, min(one.cost(unit) for one in found), device)
        raise NotIdentified(f"nothing fits the budget: the cheapest run costs {least}")
    training = common_unit(affordable)
    return min(affordable, key=lambda o: (o.prediction.value, o.money, o.cost(training)))


def refuse_amounts(told: Mapping[str, object]) -> None:
    """Amounts are above 0."""
    for name, value in told.items():
        if isinstance(value, int | float) and not 0 < value < math.inf:
            raise UsageError(f"{name} must be above 0, not {value:g}")


def refuse_device(costs: Costs, device: str | None, timed: bool) -> None:
    """Hours of a study are on a device, those of a table as they were."""
    if costs.study is None and device is not None:
        raise UsageError(
            "device goes with a study; the hours of a table are those that it tells, so "
            "leave device out"
        )
    if costs.study is not None and timed != (device is not None):
        raise UsageError(
            "hours and hour_price of a study go with a device, and a device with them: --hours 100 "
            "--device cpu. `chemscale expand STUDY --measure` times the device it runs on"
        )


def prices_of(
    fit: Fit,
    money: float | None,
    label_price: float | None,
    hour_price: float | None,
    device: str | None,
    available: int | None,
) -> Prices | None:
    """What labels and hours cost; None where nothing has a price."""
    if label_price is None and hour_price is None:
        if money is not None:
            raise UsageError("money needs a price: label_price=2.5, or hour_price=4 with a device")
        return None
    for name, price in {"label_price": label_price, "hour_price": hour_price}.items():
        if price is not None and not 0 <= price < math.inf:
            raise UsageError(f"{name} must be 0 or more, not {price:g}")
    there = max((cell.num_train for one in fit.families for cell in one.observed), default=0)
    return Prices(
        label=label_price or 0.0,
        hour=hour_price or 0.0,
        device=device,
        available=there if available is None else available,
    )


def known(
    rungs: Sequence[tuple[FamilyFit, Rung]], costs: Costs, what: str
) -> list[tuple[FamilyFit, Rung]]:
    """The sizes whose flops, hours or joules are known.

    Raises:
        NotIdentified: none is; says how to come to know them.
    """
    ask = {"flops": costs.flops, "hours": costs.hours, "joules": costs.joules}[what]
    found = [(one, size) for one, size in rungs if ask(size, 1) is not None]
    if not found:
        raise NotIdentified(costs.missing(what))
    return found


def _left_out(
    rungs: Sequence[tuple[FamilyFit, Rung]], kept: Sequence[tuple[FamilyFit, Rung]]
) -> str:
    """Which families, or how many sizes of others, were not considered."""
    considered = {(size.family, size.size) for _, size in kept}
    there = {family for family, _ in considered}
    missing: dict[str, list[str]] = {}
    for _, size in rungs:
        if (size.family, size.size) not in considered:
            missing.setdefault(size.family, []).append(size.size)
    names = [
        family
        if family not in there
        else f"{family}:{sizes[0]}" + f" and {len(sizes) - 1} more" * (len(sizes) > 1)
        for family, sizes in missing.items()
    ]
    return f" (without {', '.join(names)}, whose cost is not known)" if names else ""


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
    fits: Iterable[FamilyFit], sizes: Iterable[Rung], target: float, bought: Sequence[Point]
) -> None:
    """Tell of a trained run that reached the target, so that none is bought again."""
    names = {(size.family, size.num_params): size.size for size in sizes}
    for one in fits:
        for cell in trained_cells(one, bought):
            if cell.loss <= target:
                size = names.get((one.family, cell.num_params), f"{cell.num_params:,} parameters")
                raise UsageError(
                    f"{one.family}:{size} on {cell.num_train:,} {plural(one.unit)} reached "
                    f"{number(cell.loss)} already: give a target below that"
                )


def _fewest(
    candidates: Sequence[Candidate],
    target: float,
    again: Callable[[Candidate, int], Candidate | None],
) -> list[Candidate]:
    """Beside the candidates, the fewest items to two digits that bring each size to the target."""
    refined = []
    for key in dict.fromkeys((one.fit.family, one.size.size) for one in candidates):
        mine = [one for one in candidates if (one.fit.family, one.size.size) == key]
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


def _cheapest(candidates: Sequence[Candidate], target: float, unit: str, costs: Costs) -> Candidate:
    reaching = [one for one in candidates if one.prediction.value <= target]
    if not reaching:
        best = min(candidates, key=lambda one: one.prediction.value)
        raise NotIdentified(
            "no run within reach of the fit is forecast to reach "
            f"{metric_words(best.fit.metric)} {number(target)}: the "
            f"lowest is {number(best.prediction.value)} ({best.size.family}:{best.size.size}, "
            f"{best.num_train:,} {plural(best.fit.unit)}). "
            + (
                "A run sees no more: raise budget.items of the study, train again and fit"
                if best.num_train == costs.most_items
                else "With that run, or others towards it, in the fit the laws reach farther"
            )
        )
    return min(reaching, key=lambda o: (o.money, o.cost(unit), o.num_train, o.prediction.value))


def _beside(one: Candidate) -> str:
    """What the surface of the fit says there, where that is far from the averaged forecast."""
    surface = one.fit.surface
    if surface is None or surface.status != "converged" or one.prediction.held:
        return ""
    place = (float(one.size.num_params), float(one.num_train))
    alone = float(additive_surface(*place, *surface.draws[0]))
    narrow = min(one.prediction.intervals, key=lambda interval: interval.level)
    if narrow.low <= alone <= narrow.high:
        return ""
    return f"; the surface of the fit alone, without the other laws, gives {number(alone)}"


def promise(
    one: Candidate, costs: Costs, now: str, why: str, prices: Prices | None = None
) -> Forecast:
    """The forecast of a run, as it is written down."""
    promised = one.prediction
    why += costs.words(one.flops, one.hours)
    if prices is not None:
        why += f", costs {number(one.money)} in money ({bill(one.num_train, prices)})"
    last = f"{number(promised.last_observed_at[0])} parameters and "
    last += f"{promised.last_observed_at[1]:,} {plural(one.fit.unit)}"
    return Forecast(
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
        f"({last}) would be {number(promised.last_observation)}{_beside(one)}",
        capped_at_items=one.fit.max_items if one.fit.at_this_training_length else None,
        prices=prices,
        money=one.money if prices else None,
    )


def as_study(study: Study, promised: Forecast, seeds: int) -> Study:
    """The plan as a study: one family, size and `num_train`; nothing else is changed."""
    return study.model_copy(
        update={
            "name": f"{study.name}-plan",
            "families": {promised.family: (promised.size,)},
            "num_train": (promised.num_train,),
            "seeds": seeds,
            "hold_out": {},
            "search": None,
            "forecast": (promised,),
        }
    )
