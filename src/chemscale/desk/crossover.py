"""Two families beside each other: how their exponents differ, and where the better one changes.

The laws of the fit are compared; bootstrap draws of one family are paired with draws of the other.
Nothing is said outside the window that both were measured in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from chemscale.desk.sentences import axis_unit, interval_words, number, plural
from chemscale.table.fits import Axis, Comparison, Crossing, FamilyFit, Saving
from chemscale.table.results import Array, Interval, Point, Quantity


@dataclass(frozen=True)
class Side:
    """A law of one family along one axis."""

    family: str
    where: str  # what is held fixed, in words
    held: float | None  # the amount of data that has to be the same in both
    draws: Array  # (S, 3) E, coefficient, exponent; the first is the best fit
    window: tuple[float, float]


def compare(
    families: Sequence[FamilyFit], points: Mapping[str, Sequence[Point]], level: float
) -> tuple[Comparison, ...]:
    """Compare every two families that were measured by the same loss on the same kind of item.

    Args:
        families: fitted.
        points: family → its fitted runs.
        level: of the intervals.
    """
    sides = {
        (one.family, axis): side
        for one in (families if len(families) > 1 else ())
        for axis, side in _sides(one, points[one.family]).items()
    }
    found = []
    for one, other in combinations(families, 2):
        if (one.metric, one.unit) != (other.metric, other.unit):
            continue
        crossings: list[Crossing] = []
        for axis in ("num_train", "num_params", "flops"):
            pair = sides.get((one.family, axis)), sides.get((other.family, axis))
            if pair[0] and pair[1]:
                crossings.append(_cross(axis, pair[0], pair[1], one.unit, level))
            elif axis == "flops":
                said = "along flops which is better is not identified: no law of both frontiers"
                crossings.append(Crossing(axis=axis, status="not_identified", sentence=said))
        if len(crossings) == 1 and crossings[0].exponents.value is None:
            continue  # neither has a law, as is said of each
        told = "; ".join(crossing.sentence for crossing in crossings)
        short = one.at_this_training_length or other.at_this_training_length
        length = " at this training length" if short else ""
        found.append(
            Comparison(
                families=(one.family, other.family),
                metric=one.metric,
                crossings=tuple(crossings),
                sentence=f"{one.family} against {other.family}{length}: {told}.",
            )
        )
    return tuple(found)


def _sides(family: FamilyFit, points: Sequence[Point]) -> dict[Axis, Side]:
    found: dict[Axis, Side] = {}
    names = {point.num_params: point.size for point in points if point.size}
    for law in family.laws:
        if law.exponent.value is None or "num_capped" in law.at:
            continue
        if law.axis == "flops":
            found["flops"] = Side(
                family.family, "the frontier", None, np.array(law.draws), law.window
            )
            continue
        held = next(iter(law.at.values()))
        name, count = names.get(int(held)), f"{held:,.0f} parameters"
        where = f"{name} with {count}" if name and name != count else count
        if law.axis == "num_params":
            where = f"{held:,.0f} {plural(family.unit)}"
        same = held if law.axis == "num_params" else None
        found[law.axis] = Side(family.family, where, same, np.array(law.draws), law.window)
    return found


def _cross(axis: Axis, one: Side, other: Side, unit: str, level: float) -> Crossing:
    """Compare two laws over the window they share."""
    window = max(one.window[0], other.window[0]), min(one.window[1], other.window[1])
    places = dict.fromkeys((one.where, other.where))
    start = f"along {axis} ({' and '.join(places)})"
    if one.held != other.held:
        said = f"{start} nothing can be compared, the amounts of data differ"
        return Crossing(axis=axis, status="not_identified", sentence=said)
    size = min(len(one.draws), len(other.draws)) - 1
    first, second = [one.draws[:1]], [other.draws[:1]]
    for turn in range(5):  # the draws of two families are independent: any pairing will do
        first.append(one.draws[1 : size + 1])
        second.append(np.roll(other.draws[1 : size + 1], turn, axis=0))
    ours, theirs = np.concatenate(first), np.concatenate(second)
    larger = Quantity.of(ours[:, 2] - theirs[:, 2], level)
    said = f"{start} {_exponent_words(one.family, other.family, larger)}"
    if window[1] <= window[0]:
        said += ", and they share no window, so which is better is not identified"
        return Crossing(axis=axis, status="not_identified", exponents=larger, sentence=said)
    log_x = np.linspace(math.log(window[0]), math.log(window[1]), 200)
    gap = _log_loss(ours, log_x) - _log_loss(theirs, log_x)
    better = one.family if gap[0, -1] < 0 else other.family
    counted = axis_unit(axis, unit)
    at, surely = _crossing(gap, log_x, level)
    kept = float((np.sign(gap) == np.sign(gap[0, -1])).all(axis=1).mean())
    status: Literal["crosses", "none", "not_identified"] = "not_identified"
    span = f"from {number(window[0])} to {number(window[1])} {counted}"
    words = f"which is better {span} is open"
    if kept >= level:
        status = "none"
        lower = Quantity.of(np.exp(np.abs(gap[:, -1])), level)
        assert lower.value is not None and lower.interval is not None
        words = (
            f"{better} is better {span}, at the end by a factor of {number(lower.value)} "
            f"({interval_words(lower.interval)})"
        )
    elif at.value is not None and at.interval is not None:
        status = "crosses"
        words = (
            f"{better} is better from {number(round(at.value))} {counted} on "
            f"({interval_words(at.interval)})"
        )
    elif surely is not None:
        words = f"{better} is better from {number(round(surely))} {counted} on, below that is open"
    savings: tuple[Saving, ...] = ()
    begins = window[0] if status == "none" else at.value or surely
    if axis == "num_train" and begins is not None:
        sides = (ours, theirs) if better == one.family else (theirs, ours)
        savings = _savings(*sides, (begins, window[1]), level)
        words += _savings_words(savings, better, other if better == one.family else one, unit)
    return Crossing(
        axis=axis,
        status=status,
        savings=savings,
        exponents=larger,
        better=None if begins is None else better,
        at=at,
        ratio=Quantity.of(np.exp(gap[:, -1]), level),
        window=window,
        sentence=f"{said}, and {words}",
    )


def _crossing(gap: Array, log_x: Array, level: float) -> tuple[Quantity, float | None]:
    """Where the better one changes, with an interval inside the window; and the interval's end.

    A pair of draws that does not cross counts as crossing before the window where its better one
    is the later better one, beyond it where it is the other. A pair that crosses otherwise, twice
    or the other way round, counts against there being a crossing.
    """
    late = np.sign(gap) == np.sign(gap[0, -1])  # (pairs, x)
    orderly = (np.diff(late.astype(int), axis=1) >= 0).all(axis=1)
    if not orderly[0] or orderly.mean() < level:
        return Quantity(), None
    first = late.argmax(axis=1)
    place = np.where(late.any(axis=1), log_x[first], np.inf)
    place = np.where(late[:, 0], -np.inf, place)[orderly]
    tail = (1 - level) / 2
    low, high = np.quantile(place, [tail, 1 - tail], method="nearest")
    surely = math.exp(high) if math.isfinite(high) else None
    if surely is None or not math.isfinite(low) or not math.isfinite(place[0]):
        return Quantity(), surely
    interval = Interval(low=math.exp(low), high=surely, level=level)
    return Quantity(value=math.exp(place[0]), interval=interval), surely


def _savings(
    better: Array, other: Array, window: tuple[float, float], level: float
) -> tuple[Saving, ...]:
    """How many items the other needs where the better one has 1 or 3 times a power of ten."""
    powers = range(math.floor(math.log10(window[0])), math.ceil(math.log10(window[1])) + 1)
    amounts = [digit * 10**power for power in powers for digit in (1, 3)]
    found = []
    for amount in (one for one in amounts if window[0] <= one <= window[1]):
        loss = np.exp(_log_loss(better, np.log([amount])))[:, 0]
        floor, coefficient, exponent = other.T
        above = loss > floor  # the other never gets below its floor
        needs = np.full(len(loss), np.inf)
        with np.errstate(over="ignore", divide="ignore"):  # of draws that do not fall
            needs[above] = (coefficient / (loss - floor))[above] ** (1 / exponent[above])
        low, high = np.quantile(needs[1:], [(1 - level) / 2, (1 + level) / 2], method="nearest")
        if needs[0] <= window[1] and math.isfinite(high):
            interval = Interval(low=float(low), high=float(high), level=level)
            worth = Quantity(value=float(needs[0]), interval=interval)
            found.append(Saving(num_train=amount, needs=worth))
        else:
            surely = min(float(low), window[1])
            found.append(Saving(num_train=amount, at_least=surely))
    return tuple(found)


def _savings_words(savings: Sequence[Saving], better: str, other: Side, unit: str) -> str:
    known = [one for one in savings if one.needs.value is not None]
    if not savings:
        return ""
    told = known[len(known) // 2] if known else savings[0]
    worth = f"more than {number(told.at_least)}" if told.at_least else ""
    if told.needs.value is not None and told.needs.interval is not None:
        worth = f"{number(told.needs.value)} ({interval_words(told.needs.interval)})"
    return f"; {told.num_train:,} {plural(unit)} do for {better} what {worth} do for {other.family}"


def _log_loss(draws: Array, log_x: Array) -> Array:
    floor, coefficient, exponent = draws.T[:, :, None]
    return np.asarray(np.log(np.maximum(floor + coefficient * np.exp(-exponent * log_x), 1e-300)))


def _exponent_words(one: str, other: str, larger: Quantity) -> str:
    assert larger.value is not None and larger.interval is not None
    interval = interval_words(larger.interval, ".2f")
    if larger.interval.low <= 0 <= larger.interval.high:
        return f"the exponents do not surely differ ({one} less {other}: {interval})"
    if larger.value < 0:
        other, value = one, -larger.value
        interval = interval_words(
            larger.interval.model_copy(
                update={"low": -larger.interval.high, "high": -larger.interval.low}
            ),
            ".2f",
        )
        return f"the exponent of {other} is smaller by {value:.2f} ({interval})"
    return f"the exponent of {one} is larger by {larger.value:.2f} ({interval})"
