"""Where the runs of a table will end whose learning rates are planned: rates without a loss yet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from chemscale.desk.annealing import Schedule
from chemscale.desk.schedule import SAME_PEAK, RatedCurve, fit_schedules
from chemscale.table.curves import TabledCurve
from chemscale.table.errors import DataError
from chemscale.table.results import Interval

Ends = dict[int, tuple[float, Interval]]  # id of the curve → loss at the end of its plan


def planned_ends(
    curves: Sequence[TabledCurve], level: float = 0.9
) -> tuple[Ends, dict[str, list[str]]]:
    """Forecast the end of every plan, by all runs of that model and peak rate.

    Returns:
        The forecasts, and what is to be said of each family: of its laws, and what has none.
    """
    ends: Ends = {}
    said: dict[str, list[str]] = {}
    groups: dict[tuple[str, str, int | None, int | None], list[TabledCurve]] = {}
    for one in curves:
        if one.schedule is not None and (not one.seen.size or np.isfinite(one.val_loss[-1])):
            key = (one.family, one.size, one.num_train, one.batch_size)
            groups.setdefault(key, []).append(one)
    for (family, size, _, _), group in groups.items():
        for one in group:
            if one.goes_on and id(one) not in ends:
                found, words = _together(one, group, level)
                ends |= found
                where = f"at {size} " * bool(size)
                said.setdefault(family, []).extend(f"{where}{word}" for word in words)
    return ends, {family: list(dict.fromkeys(words)) for family, words in said.items()}


def _together(
    planned: TabledCurve, group: Sequence[TabledCurve], level: float
) -> tuple[Ends, list[str]]:
    """What the runs with the peak rate of one of them say of it, and of others that go on."""
    rated, words = {}, []
    for one in group:
        told = _rated(one)
        try:
            same = math.isclose(
                Schedule.of(told.step, told.learning_rate, f"run {one.run}").peak,
                planned.learning_rate or math.nan,
                rel_tol=SAME_PEAK,
            )
        except DataError as error:
            words.append(f"without a schedule: {error}")
            continue
        if same:
            rated[id(one)] = told
    law = fit_schedules(list(rated.values()))
    words.append(f"along planned learning rates: {law.sentence}")
    ends = {}
    for one in group:
        if not one.goes_on or id(one) not in rated or not len(law.draws):
            continue
        found = law.forecast(rated[id(one)], [level])
        value, (low, high) = found.value[-1], (end[-1] for end in found.intervals[level])
        if math.isfinite(value):
            ends[id(one)] = float(value), Interval(low=float(low), high=float(high), level=level)
        else:
            words.append(f"the plan of run {one.run} leads beyond ten times the longest run")
    return ends, words


def _rated(one: TabledCurve) -> RatedCurve:
    """Rates at all its rows, between those that tell one by a straight line."""
    assert one.schedule is not None
    places, rates = one.schedule
    inside = (one.seen >= places[0]) & (one.seen <= places[-1])
    steps = np.union1d(places, one.seen[inside])
    losses = np.full(len(steps), np.nan)
    losses[np.searchsorted(steps, one.seen[inside])] = one.val_loss[inside]
    return RatedCurve(steps, np.interp(steps, places, rates), losses, one.run)
