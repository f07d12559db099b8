"""What a law owes to single runs, sizes and amounts: the fit again without each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from chemscale.desk.bootstrap import criteria, grid, uncentred
from chemscale.desk.laws import power
from chemscale.desk.sample import Sample
from chemscale.desk.sentences import number, plural
from chemscale.desk.solve import Objective, solve
from chemscale.desk.surfaces import additive
from chemscale.table.fits import LawFit, LeftOut, SurfaceFit
from chemscale.table.results import Array, Quantity

if TYPE_CHECKING:
    from chemscale.desk.along import Question

Axis = Literal["num_train", "num_params"]


def leave_out(
    sample: Sample, axes: Sequence[Axis], *, floor: bool | None, delta: float
) -> tuple[LeftOut, ...]:
    """Fit again without each run, and without each value along each axis.

    Whether there is a floor is asked anew each time. A law takes three values along each axis,
    a surface seven pairs besides.

    Args:
        sample: what the law was fitted to.
        axes: one, or both for the surface.
        floor: as for `bootstrap.fit_sample`.
        delta: of the Huber loss, as the whole sample gave it.
    """
    values = {axis: np.array([getattr(p, axis) for p in sample.points]) for axis in axes}
    left: list[tuple[Literal["run", "num_params", "num_train"], int | str]] = []
    keep: list[Array] = []
    for axis, column in values.items():
        for value in np.unique(column):
            left.append((axis, int(value)))
            keep.append(column != value)
    for place, run in enumerate(sample.runs):
        left.append(("run", run))
        keep.append(np.arange(len(sample.points)) != place)
    enough = [
        all(len(np.unique(column[kept])) >= 3 for column in values.values())
        and (len(axes) == 1 or len(np.unique(sample.cell[kept])) >= 7)
        for kept in keep
    ]
    found: list[LeftOut] = []
    rows: Iterator[Array] = iter(
        _fits(
            np.log(np.stack(list(values.values()), axis=1)),
            sample.log_loss,
            np.array([kept for kept, yes in zip(keep, enough, strict=True) if yes], float),
            floor,
            delta,
        )
        if any(enough)
        else ()
    )
    ends = [float(column.max()) for column in values.values()]
    for (what, value), yes in zip(left, enough, strict=True):
        if not yes:
            found.append(LeftOut(what=what, value=value))
            continue
        row = next(rows)
        exponents = dict(zip(axes, map(float, row[2::2]), strict=True))
        found.append(
            LeftOut(what=what, value=value, exponents=exponents, tenfold=tenfold(row, ends))
        )
    return tuple(found)


def _fits(log_x: Array, log_loss: Array, weights: Array, floor: bool | None, delta: float) -> Array:
    """The best law (G, P) for each row of weights."""
    num_axes = log_x.shape[1]
    law = power if num_axes == 1 else additive
    centre = log_x.mean(axis=0)
    repeated = np.broadcast_to(log_loss, weights.shape)
    fits: dict[bool, Array] = {}
    scores = []
    forms = [False, True] if floor is None else [floor]
    for form in forms:
        objective = Objective(law, log_x - centre, repeated, weights, form, delta)
        candidates = grid(law, 40 if num_axes == 1 else 16)
        fits[form] = solve(objective, candidates, tolerance=1e-8)
        scores.append(criteria(objective.residual(fits[form]), weights, 2 * num_axes + form))
    if len(forms) == 2:
        distinct = np.array([len(np.unique(log_x[row > 0])) for row in weights])
        scores[1][distinct < 5] = np.inf
    best = np.stack([fits[form] for form in forms])[np.argmin(scores, axis=0), range(len(weights))]
    return uncentred(best, centre)


def tenfold(row: Sequence[float] | Array, ends: Sequence[float]) -> float:
    """Loss of a law (E, A_1, a_1, …) at ten times the largest x of each axis."""
    terms = zip(row[1::2], row[2::2], ends, strict=True)
    return float(row[0] + sum(c * (10 * end) ** -e for c, e, end in terms))


def influence_words(laws: Sequence[LawFit | SurfaceFit], question: Question) -> str | None:
    """Say what moves an exponent most, in widths of its interval; None where nothing can."""
    moved, known = [], False
    for law in laws:
        for axis, quantity in known_exponents(law).items():
            value, interval = quantity.value, quantity.interval
            assert value is not None and interval is not None
            width = max(interval.high - interval.low, 1e-12)
            for one in law.influence:
                if axis in one.exponents:
                    known = True
                if axis in one.exponents and f"{one.exponents[axis]:.2f}" != f"{value:.2f}":
                    moved.append((abs(one.exponents[axis] - value) / width, axis, law, one))
    if not moved:
        return "no run, size or amount moves an exponent by 0.01 when left out" if known else None
    _, axis, law, one = max(moved, key=lambda item: item[0])
    value, interval = (quantity := known_exponents(law)[axis]).value, quantity.interval
    assert value is not None and interval is not None and one.tenfold is not None
    now = one.exponents[axis]
    where = "over both"
    if isinstance(law, LawFit):
        held = next(count for name, count in law.at.items() if name != "num_capped")
        where = question.at(axis, int(held))
    return (
        f"most depends on {left_words(one, question.unit, question.names)}: without "
        f"{'it' if one.what == 'run' else 'them'} the exponent along {axis} {where} is "
        f"{now:.2f} instead of {value:.2f}, "
        f"{'inside' if interval.low <= now <= interval.high else 'outside'} its interval, and at "
        f"ten times {f'the largest {axis}' if isinstance(law, LawFit) else 'both'} the law gives "
        f"{number(one.tenfold)} instead of {number(whole_tenfold(law))}"
    )


def known_exponents(law: LawFit | SurfaceFit) -> dict[str, Quantity]:
    """Axis → exponent, of those that are identified."""
    if isinstance(law, LawFit):
        both: dict[str, Quantity] = {law.axis: law.exponent}
    else:
        both = {"num_train": law.data_exponent, "num_params": law.size_exponent}
    return {axis: one for axis, one in both.items() if one.interval is not None}


def whole_tenfold(law: LawFit | SurfaceFit) -> float:
    """Loss at ten times the largest x of each axis, with nothing left out."""
    if isinstance(law, LawFit):
        return tenfold(law.draws[0], [law.window[1]])
    return tenfold(law.draws[0], [law.num_params_window[1], law.num_train_window[1]])


def left_words(one: LeftOut, unit: str, names: dict[int, str]) -> str:
    """Name what was left out."""
    if one.what == "run":
        return f"run {str(one.value)[:10]}"
    if one.what == "num_train":
        return f"the runs on {one.value:,} {plural(unit)}"
    return f"the runs of {names.get(int(one.value), f'{one.value:,} parameters')}"
