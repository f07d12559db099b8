"""Runs that could be next: where, what they cost, what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from chemscale.desk.costs import Costs, Rung, round_numbers
from chemscale.desk.forecast import Prediction, predict, reach
from chemscale.table.errors import NotIdentified, UnknownName, UsageError
from chemscale.table.fits import Cell, FamilyFit, Fit
from chemscale.table.records import Prices
from chemscale.table.results import Point


@dataclass(frozen=True)
class Candidate:
    """A run that could be next."""

    fit: FamilyFit
    size: Rung
    num_train: int
    prediction: Prediction
    flops: float | None  # for all its seeds; None where nobody knows, as with these two
    hours: float | None
    joules: float | None
    money: float = 0.0  # labels and training of all its seeds; 0 without prices

    def cost(self, unit: str) -> float:
        """In flops, hours, joules, money or work, which is parameters times training items."""
        found = {
            "flops": self.flops,
            "hours": self.hours,
            "joules": self.joules,
            "money": self.money,
            "work": float(self.size.num_params) * self.num_train,
        }[unit]
        assert found is not None  # whose cost is not known is no candidate
        return found


def common_unit(those: Sequence[Candidate]) -> str:
    """What tells of all what it is to train them: flops, else hours, else size times data."""
    known = [
        unit for unit in ("flops", "hours") if all(getattr(o, unit) is not None for o in those)
    ]
    return known[0] if known else "work"


def named(
    fit: Fit,
    costs: Costs,
    at: str,
    num_train: int | None,
    seeds: int,
    prices: Prices | None = None,
) -> Candidate:
    """The run at "family:size", by default on as many items as the largest that was fitted."""
    family, _, name = at.partition(":")
    if not name:
        first = fit.families[0].family
        size = next((one.size for one in costs.rungs(first)), "SIZE")
        plain = size.removesuffix(" parameters").replace(",", "")
        raise UsageError(f"at {at!r}: give family:size, such as {first}:{plain}")
    [one] = families(fit, family)
    amount = num_train or max((cell.num_train for cell in one.observed), default=0)
    return candidate_at(one, costs, costs.rung(family, name), amount, seeds, prices)


def families(fit: Fit, family: str | None) -> list[FamilyFit]:
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


def candidates(
    rungs: Iterable[tuple[FamilyFit, Rung]],
    costs: Costs,
    seeds: int,
    limit: Callable[[Rung], float | None],
    available: int | None,
    bought: Sequence[Point],
    prices: Prices | None,
) -> list[Candidate]:
    """Every untrained size and `num_train` the fit can answer for.

    Raises:
        NotIdentified: there is none; says why.
    """
    found: list[Candidate] = []
    reasons = ["no sizes"]
    for one, size in rungs:
        trained = {cell.key for cell in trained_cells(one, bought)}
        amounts = _amounts(one, limit(size), available, costs.most_items)
        if not amounts:
            reasons.append(f"{one.family}: there are fewer items to train on than any run had")
        for amount in amounts:
            if (size.num_params, amount) in trained:
                continue
            try:
                found.append(candidate_at(one, costs, size, amount, seeds, prices))
            except NotIdentified as error:
                reasons.append(str(error))
    if not found:
        raise NotIdentified(f"no forecast for any run that was not trained yet: {reasons[:2][-1]}")
    return found


def candidate_at(
    one: FamilyFit,
    costs: Costs,
    size: Rung,
    num_train: int,
    seeds: int,
    prices: Prices | None = None,
) -> Candidate:
    """Cost and forecast of a run; NotIdentified where the fit does not answer."""
    costs.refuse(one, num_train)
    one_seed = (ask(size, num_train) for ask in (costs.flops, costs.hours, costs.joules))
    flops, hours, joules = (None if cost is None else seeds * cost for cost in one_seed)
    return Candidate(
        fit=one,
        size=size,
        num_train=num_train,
        prediction=predict(one, size.num_params, num_train),
        flops=flops,
        hours=hours,
        joules=joules,
        money=costs.money(size, num_train, prices, seeds) if prices is not None else 0.0,
    )


def _amounts(one: FamilyFit, limit: float | None, available: int | None, most: float) -> list[int]:
    """Fitted values of `num_train`, round ones between and beyond, all there are, and the limit."""
    fitted = {cell.num_train for cell in one.observed}
    if not fitted:
        return []
    farthest = math.floor(reach((min(fitted), max(fitted)))[1])
    last = int(min(max(fitted) if limit is None else limit, farthest, most))
    more = {amount for amount in (available or last, last) if min(fitted) <= amount <= last}
    return sorted({*round_numbers(fitted, last), *more})


def trained_cells(one: FamilyFit, bought: Sequence[Point]) -> list[Cell]:
    """What was trained: the cells of the sweep, then each run of a plan."""
    return [*one.observed] + [
        Cell(point.num_params, point.num_train, point.losses[one.metric], 1)
        for point in bought
        if point.family == one.family
        and point.role.startswith("plans/")
        and one.metric in point.losses
    ]
