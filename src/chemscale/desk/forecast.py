"""What a law promises for one new run, how surely, and where it has nothing to say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chemscale.desk.laws import additive_surface, power_floor
from chemscale.desk.sentences import metric_words, number, units
from chemscale.table.errors import NotIdentified
from chemscale.table.results import Array, FamilyFit, Interval, LawFit, SurfaceFit


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


def predict(
    family_fit: FamilyFit,
    num_params: float,
    num_train: float,
    levels: Sequence[float] = (0.5, 0.8, 0.9),
    drift: float = 0.5,
) -> Prediction:
    """Forecast the loss of one new run.

    By the surface, else by the law through the same size or the same `num_train`. The interval
    joins the bootstrap of the law, the scatter of one run around it (Student t) and, outside the
    fitted window, a standard deviation of `drift` times the log change forecast beyond its edge:
    the exponent is not known to stay the same. 0.5 was chosen on development data (eight groups of
    image, language and materials sweeps), where nominal 90 % intervals then held 72 to 100 % of
    the extrapolated points; without it, as few as 2 %.

    A window of a decade or more may be left by as far as it is wide, at most by a factor of 30;
    a shorter one not at all.

    Raises:
        NotIdentified: no law reaches there, or its 90 % interval is wider than a factor of ten;
            with the run that would help.
    """
    refusals: list[str] = []
    elsewhere: list[str] = []
    laws: list[SurfaceFit | LawFit] = [law for law in family_fit.laws if "num_capped" not in law.at]
    for law in [family_fit.surface, *laws]:
        if law is None:
            continue
        if isinstance(law, LawFit) and law.draws and not _through(law, num_params, num_train):
            held = ", ".join(f"{axis} = {number(value)}" for axis, value in law.at.items())
            elsewhere.append(f"the law along {law.axis} holds at {held} only")
            continue
        refusal = _refusal(law, num_params, num_train)
        if refusal is None:
            prediction = _predict(law, family_fit, num_params, num_train, levels, drift)
            if prediction is not None:
                return prediction
            refusal = (
                f"the runs scatter too much for a forecast by {_words(law)}: its 90 % interval is "
                "wider than a factor of ten. More seeds or a longer ladder would narrow it"
            )
        refusals.append(refusal)
    point = f"{number(num_params)} parameters and {number(num_train)} {units(family_fit.unit)}"
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


def _refusal(law: SurfaceFit | LawFit, num_params: float, num_train: float) -> str | None:
    """Why the law has nothing to say there, and the run that would help; None where it has."""
    if not law.draws:
        return law.sentence
    asked = {"num_params": num_params, "num_train": num_train}
    if isinstance(law, LawFit):
        windows = {law.axis: law.window}
    else:
        windows = {"num_params": law.num_params_window, "num_train": law.num_train_window}
    for axis, window in windows.items():
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


def _predict(
    law: SurfaceFit | LawFit,
    fit: FamilyFit,
    num_params: float,
    num_train: float,
    levels: Sequence[float],
    drift: float,
) -> Prediction | None:
    from scipy.special import stdtrit

    logs = np.log(_evaluate(law, num_params, num_train))
    edge_params, edge_train = num_params, num_train
    if isinstance(law, SurfaceFit):
        edge_params = float(np.clip(num_params, *law.num_params_window))
        edge_train = float(np.clip(num_train, *law.num_train_window))
    elif law.axis == "num_params":
        edge_params = float(np.clip(num_params, *law.window))
    else:
        edge_train = float(np.clip(num_train, *law.window))
    beyond_edge = abs(float(logs[0] - np.log(_evaluate(law, edge_params, edge_train)[0])))
    freedom = max(len(law.points) - _num_free(law), 1)
    around = (law.residual or 0.0) * math.sqrt(len(law.points) / freedom)
    scatter = math.hypot(max(around, fit.seed_scatter or 0.0), drift * beyond_edge)
    # Every draw of the law with every quantile of the scatter: no random numbers here.
    ticks = (np.arange(200) + 0.5) / 200
    draws = logs[1:] - np.median(logs[1:])  # around the best fit, which is what is printed
    spread = (draws[:, None] + scatter * stdtrit(freedom, ticks)).ravel()
    low, high = np.quantile(spread, [0.05, 0.95])
    if high - low > math.log(10):
        return None
    intervals = []
    for level in levels:
        ends = np.exp(logs[0] + np.quantile(spread, [(1 - level) / 2, (1 + level) / 2]))
        intervals.append(Interval(low=float(ends[0]), high=float(ends[1]), level=level))
    last = _last(fit, num_params, num_train)
    return Prediction(
        value=float(np.exp(logs[0])),
        intervals=tuple(intervals),
        law=f"{metric_words(fit.metric)} = {_words(law)}, from {len(law.points)} runs",
        fitted_runs=law.points,
        beyond=abs(math.log10(num_params / edge_params)) + abs(math.log10(num_train / edge_train)),
        last_observation=last[2],
        last_observed_at=last[:2],
    )


def _evaluate(law: SurfaceFit | LawFit, num_params: float, num_train: float) -> Array:
    """Loss by the best fit and by every draw."""
    draws = np.array(law.draws).T
    if isinstance(law, SurfaceFit):
        return additive_surface(num_params, num_train, *draws)
    return power_floor(num_params if law.axis == "num_params" else num_train, *draws)


def _num_free(law: SurfaceFit | LawFit) -> int:
    if isinstance(law, SurfaceFit):
        return 5
    return 3 if law.law == "power-floor" else 2


def _words(law: SurfaceFit | LawFit) -> str:
    best = law.draws[0]
    terms = [number(best[0])] if best[0] > 0 else []
    axes = ["num_params", "num_train"] if isinstance(law, SurfaceFit) else [law.axis]
    for place, axis in enumerate(axes):
        terms.append(f"{number(best[1 + 2 * place])}·{axis}^-{best[2 + 2 * place]:.3f}")
    held = ""
    if isinstance(law, LawFit):
        held = " at " + ", ".join(f"{axis} = {value:,.0f}" for axis, value in law.at.items())
    return " + ".join(terms) + held


def _last(fit: FamilyFit, num_params: float, num_train: float) -> tuple[int, int, float]:
    """The nearest cell observed with no more parameters and data, else the nearest of all."""

    def distance(cell: tuple[int, int, float, int]) -> float:
        return abs(math.log(cell[0] / num_params)) + abs(math.log(cell[1] / num_train))

    within = [cell for cell in fit.observed if cell[0] <= num_params and cell[1] <= num_train]
    nearest = min(within or fit.observed, key=distance)
    return nearest[:3]
