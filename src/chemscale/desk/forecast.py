"""What is to be expected elsewhere, how surely, and where there is nothing to say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from chemscale.desk.average import Average, Settings, average
from chemscale.desk.calibration import Calibration, calibration
from chemscale.desk.laws import Law
from chemscale.desk.sentences import metric_words, number, plural
from chemscale.desk.surfaces import additive, broken_in_data, kaplan
from chemscale.table.errors import NotIdentified, UsageError
from chemscale.table.fits import Cell, FamilyFit, FitStatus, LawFit, SurfaceFit
from chemscale.table.results import Array, Interval

# --- anybody's curve -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Extrapolation:
    """Forecasts of new measurements; nan where there is nothing to say.

    Status: `converged`; `at_bound`: the loss does not fall, no change is forecast; `too_short`:
    less than a decade was seen; `not_identified`: under three different x.
    """

    status: FitStatus
    sentence: str
    value: Array  # (T,)
    intervals: Mapping[float, tuple[Array, Array]]  # level → low, high
    no_change: float  # the last observation: the forecast to beat
    weights: Mapping[str, float]  # of each law, sum 1
    rolling_error: float  # of log y at earlier origins; nan where there are none
    rolling_error_no_change: float


def extrapolate(
    x: ArrayLike,
    y: ArrayLike,
    x_new: ArrayLike,
    *,
    run: Sequence[object] | None = None,
    levels: Sequence[float] = (0.5, 0.8, 0.9),
    laws: Sequence[Law] | None = None,
) -> Extrapolation:
    """Forecast y at x_new from a curve, or from a surface over two axes.

    Units of x and y, and the order of the rows, do not matter. Rows with a value that has no
    logarithm are left out and counted in the sentence. Rows that are equal in x, y and `run` count
    once; without `run`, those equal in x and y.

    Args:
        x: (m,) or (m, 2), such as num_train, or num_params and num_train.
        y: (m,) losses.
        x_new: (T,) or (T, 2).
        run: (m,) what makes a run: replicates may be equal in x and y.
        levels: of the intervals, which are for one new measurement.
        laws: to average; by default all built-in ones that fit the axes.

    Raises:
        UsageError: shapes that do not fit together, or a level that is not between 0 and 1.
    """
    seen, loss = _columns(x), np.asarray(y, float).reshape(-1)
    asked = _columns(x_new)
    if len(seen) != len(loss) or seen.shape[1] != asked.shape[1]:
        raise UsageError(
            f"x is {seen.shape}, y {loss.shape} and x_new {asked.shape}: x and y need as many "
            "rows, x and x_new as many columns"
        )
    if not all(0 < level < 1 for level in levels):
        raise UsageError(f"the level of an interval lies between 0 and 1: {list(levels)}")
    good = np.isfinite(seen).all(axis=1) & (seen > 0).all(axis=1) & np.isfinite(loss) & (loss > 0)
    names = np.unique([str(one) for one in run] if run is not None else [""] * len(loss),
                      return_inverse=True)[1]  # fmt: skip
    rows = np.unique(np.column_stack([seen, loss, names])[good], axis=0)
    seen, loss = rows[:, :-2], rows[:, -2]
    left_out = f" ({int((~good).sum())} rows without a logarithm left out)" * bool((~good).any())
    distinct = len(np.unique(seen, axis=0))
    nothing = np.full(len(asked), np.nan)
    reachable = np.isfinite(asked).all(axis=1) & (asked > 0).all(axis=1)
    if distinct < 3 * seen.shape[1]:
        have = f"{distinct} different x, {3 * seen.shape[1]} are needed{left_out}"
        return Extrapolation(
            "not_identified",
            f"nothing to extrapolate: {have}",
            nothing,
            {level: (nothing, nothing) for level in levels},
            float(loss[np.argmax(np.log(seen).sum(axis=1))]) if len(loss) else math.nan,
            {},
            math.nan,
            math.nan,
        )
    found = average(seen, loss, laws)
    value = nothing.copy()
    ends = {level: (nothing.copy(), nothing.copy()) for level in levels}
    if reachable.any():
        factors = calibration("along" if seen.shape[1] == 1 else "surface")
        told = _told(found, asked[reachable], levels, factors)
        value[reachable] = told[0]
        for level, (low, high) in told[1].items():
            ends[level][0][reachable], ends[level][1][reachable] = low, high
    decades = float(np.ptp(np.log10(seen), axis=0).min())
    status, words = _verdict(found, decades)
    return Extrapolation(
        status,
        words + left_out,
        value,
        ends,
        float(_number(found.points.log_y[-1:])[0]),
        found.by_law(),
        found.rolling,
        found.rolling_constant,
    )


def _columns(x: ArrayLike) -> Array:
    array = np.asarray(x, float)
    return array.reshape(-1, 1) if array.ndim < 2 else array


def _told(
    found: Average, x: Array, levels: Sequence[float], factors: Calibration
) -> tuple[Array, dict[float, tuple[Array, Array]]]:
    """Values and intervals at x (T, K)."""
    outlook = found.at(x)
    scale = factors.scale(outlook)
    ends = {}
    for level in levels:
        half = factors.quantile(level) * scale
        ends[level] = (_number(outlook.log_y - half), _number(outlook.log_y + half))
    return _number(outlook.log_y), ends


def _number(log: Array) -> Array:
    """Its exponential, which must still be a number."""
    return np.asarray(np.exp(np.clip(log, -700.0, 700.0)))


def _verdict(found: Average, decades: float) -> tuple[FitStatus, str]:
    points = found.points
    beside = "; no earlier origin to test it from"
    if math.isfinite(found.rolling):
        beside = (
            f"; from earlier origins it was off by {100 * found.rolling:.2g} %, no change by "
            f"{100 * found.rolling_constant:.2g} %"
        )
    slope = np.polyfit(points.order, points.log_y, 1, w=np.sqrt(points.weight))[0]
    if slope >= -1e-12:
        return "at_bound", f"the loss does not fall with x: no change is forecast{beside}"
    shares = _shares(found)
    if decades < 1 - 1e-9:
        return "too_short", f"less than a decade of x was seen: {shares}{beside}"
    return "converged", f"{shares}{beside}"


def _shares(found: Average) -> str:
    """Which laws the average listens to, in words."""
    ranked = sorted(found.by_law().items(), key=lambda item: -item[1])
    listed = ", ".join(f"{name} {100 * share:.0f} %" for name, share in ranked if share >= 0.005)
    return f"average of {listed}"


# --- a run of a fitted family --------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """A forecast for one new run of a given size and `num_train`."""

    value: float
    intervals: tuple[Interval, ...]
    law: str  # in words
    fitted_runs: tuple[str, ...]
    beyond: float  # decades outside the fitted windows, both axes together
    last_observation: float  # the forecast of one who expects no change from there
    last_observed_at: tuple[int, int]  # num_params, num_train
    held: Mapping[str, float]  # the axis that the law holds fixed; none over a surface


def predict(
    family_fit: FamilyFit,
    num_params: float,
    num_train: float,
    levels: Sequence[float] = (0.5, 0.8, 0.9),
) -> Prediction:
    """Forecast the loss of one new run.

    By the averaged surface, else by the averaged curve through the same size or the same
    `num_train`, with calibrated intervals (`average`, `calibration`).

    A window of a decade or more may be left by as far as it is wide, at most by a factor of 30;
    a shorter one not at all.

    Raises:
        NotIdentified: no law reaches there, or its 90 % interval is wider than a factor of ten;
            with the run that would help.
    """
    refusals: list[str] = []
    elsewhere: list[str] = []
    laws: list[SurfaceFit | LawFit] = [
        law for law in family_fit.laws if law.axis != "flops" and "num_capped" not in law.at
    ]
    for law in [family_fit.surface, *laws]:
        if law is None:
            continue
        if isinstance(law, LawFit) and law.draws and not _through(law, num_params, num_train):
            held = ", ".join(f"{axis} = {number(value)}" for axis, value in law.at.items())
            elsewhere.append(f"the law along {law.axis} holds at {held} only")
            continue
        refusal = _refusal(law, num_params, num_train)
        if refusal is None:
            prediction = _predict(law, family_fit, num_params, num_train, levels)
            if prediction is not None:
                return prediction
            refusal = (
                f"the runs scatter too much for a forecast over {_words(law)}: its 90 % interval "
                "is wider than a factor of ten. More seeds or a longer ladder would narrow it"
            )
        refusals.append(refusal)
    point = f"{number(num_params)} parameters and {number(num_train)} {plural(family_fit.unit)}"
    reasons = "; ".join(dict.fromkeys(refusals or elsewhere)) or "nothing was fitted"
    raise NotIdentified(f"{family_fit.family}: no forecast for {point}: {reasons}.")


def reach(window: tuple[float, float]) -> tuple[float, float]:
    """Smallest and largest x a law fitted on this window may be asked about."""
    ratio = window[1] / window[0]
    factor = min(ratio, 30.0) if ratio > 10 * (1 - 1e-9) else 1.0
    return window[0] / factor, window[1] * factor


def _through(law: LawFit, num_params: float, num_train: float) -> bool:
    asked = {"num_params": num_params, "num_train": num_train}
    return all(asked[axis] == held for axis, held in law.at.items())


def _windows(law: SurfaceFit | LawFit) -> dict[str, tuple[float, float]]:
    if isinstance(law, LawFit):
        return {law.axis: law.window}
    return {"num_params": law.num_params_window, "num_train": law.num_train_window}


def _refusal(law: SurfaceFit | LawFit, num_params: float, num_train: float) -> str | None:
    """Why the law has nothing to say there, and the run that would help; None where it has."""
    if not law.draws:
        return law.sentence + (_to_begin(law) if isinstance(law, LawFit) else "")
    asked = {"num_params": num_params, "num_train": num_train}
    for axis, window in _windows(law).items():
        low, high = reach(window)
        if not low * (1 - 1e-9) <= asked[axis] <= high * (1 + 1e-9):
            span = f"{axis} was fitted from {number(window[0])} to {number(window[1])}"
            if low == window[0]:
                need = 10 * window[0] if asked[axis] > high else window[1] / 10
                side = "or more" if asked[axis] > high else "or fewer"
                return (
                    f"{span}, less than a decade, and is not extrapolated: runs at {axis} = "
                    f"{number(need)} {side} would make it a law"
                )
            factor = high / window[1]
            nearer = asked[axis] / factor if asked[axis] > high else asked[axis] * factor
            return (
                f"{span} and reaches a factor of {number(factor)} beyond that: a run near {axis} = "
                f"{number(float(f'{nearer:.2g}'))} would bring it within reach"
            )
    return None


def _to_begin(law: LawFit) -> str:
    """The runs that would make it a law, over a decade, where there are fewer than three x."""
    low, high = law.window
    if not low > 0:
        return ""
    if low == high:
        more = [3 * low, 10 * low]
    else:
        more = [math.sqrt(low * high) if high >= 10 * low else 10 * low]
    values = " and ".join(number(float(f"{x:.2g}")) for x in more)
    return (
        f": {'runs' if len(more) > 1 else 'a run'} with {law.axis} = {values} would make it a law"
    )


@lru_cache(maxsize=64)
def _averaged(cells: tuple[tuple[float, ...], ...], noise: float | None) -> Average:
    """Average over cells of x (one axis or two), geometric mean loss and number of runs.

    Over the few cells of a study's surface a short memory would hang on the last of them, and more
    data could seem to harm; and there the additive law adds something of its own.
    """
    table = np.array(cells, float)
    laws, settings = None, None
    if table.shape[1] == 4:
        laws, settings = (additive, kaplan, broken_in_data), Settings(memories=(math.inf,))
    return average(table[:, :-2], table[:, -2], laws, settings, table[:, -1], noise)


def _predict(
    law: SurfaceFit | LawFit,
    fit: FamilyFit,
    num_params: float,
    num_train: float,
    levels: Sequence[float],
) -> Prediction | None:
    asked = {"num_params": num_params, "num_train": num_train}
    windows = _windows(law)
    axes = list(windows)
    held = law.at if isinstance(law, LawFit) else {}
    cells = tuple(
        (*(float(getattr(cell, axis)) for axis in axes), cell.loss, cell.num_runs)
        for cell in fit.observed
        if all(getattr(cell, axis) == value for axis, value in held.items())
    )
    found = _averaged(cells, fit.seed_scatter)
    x = np.array([[asked[axis] for axis in axes]])
    # Over a study's surface all laws remember everything and none is loose: as along one axis, what
    # tells is the spread between them.
    value, ends = _told(found, x, sorted({*levels, 0.9}), calibration("along"))
    if float(ends[0.9][1][0] / ends[0.9][0][0]) > 10:
        return None
    outside = 0.0
    for axis, window in windows.items():
        outside += abs(math.log10(asked[axis] / float(np.clip(asked[axis], *window))))
    last = _last(fit.observed, num_params, num_train)
    return Prediction(
        value=float(value[0]),
        intervals=tuple(
            Interval(low=float(ends[level][0][0]), high=float(ends[level][1][0]), level=level)
            for level in levels
        ),
        law=f"{metric_words(fit.metric)} = {_shares(found)} over {_words(law)}, "
        f"from {len(law.points)} runs",
        fitted_runs=law.points,
        beyond=outside,
        last_observation=last.loss,
        last_observed_at=last.key,
        held=held,
    )


def _words(law: SurfaceFit | LawFit) -> str:
    if isinstance(law, SurfaceFit):
        return "num_params and num_train"
    held = " and ".join(f"{axis} = {value:,.0f}" for axis, value in law.at.items())
    return f"{law.axis} at {held}"


def _last(observed: Sequence[Cell], num_params: float, num_train: float) -> Cell:
    """The nearest cell observed with no more parameters and data, else the nearest of all."""

    def distance(cell: Cell) -> float:
        size, amount = math.log(cell.num_params / num_params), math.log(cell.num_train / num_train)
        return abs(size) + abs(amount)

    within = [c for c in observed if c.num_params <= num_params and c.num_train <= num_train]
    return min(within or observed, key=distance)
