"""The figures of the laws: measured losses, what was fitted to them, and where it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chemscale.desk.forecast import reach
from chemscale.desk.laws import additive_surface, power_floor
from chemscale.desk.report.drawing import (
    INK,
    MOST_SAID,
    PAPER,
    SHADE,
    Drawn,
    Look,
    blank,
    log_axis,
    ordered_looks,
    series_looks,
    style,
)
from chemscale.desk.report.page import Page
from chemscale.desk.report.words import (
    NO_LAW,
    axis_label,
    counted,
    metric_label,
    plural,
    short,
    with_unit,
)
from chemscale.desk.sample import spread_out
from chemscale.table.fits import LawFit, SurfaceFit
from chemscale.table.results import Array, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEYOND = 3.0  # how far a law is drawn past its window, dashed


@dataclass(frozen=True)
class Line:
    """One series of a panel: what is held fixed, how it looks, what it is called."""

    key: float
    look: Look
    label: str


def law_figure(page: Page, family: str, prefix: str = "") -> Drawn | None:
    """The law metric along each axis, with fitted laws, bootstrap bands and windows."""
    points = page.measured(family)
    if not points:
        return None
    fitted = page.family_fit(family)
    axes_shown = ["num_train"]
    if len({point.num_params for point in points}) > 1:
        axes_shown.append("num_params")
    if fitted and any(law.axis == "flops" and _drawable(law) for law in fitted.laws):
        axes_shown.append("flops")
    metric = page.metric(family)
    values = [point.losses[metric] for point in points]
    with style():
        figure, grid = blank(
            {1: 5.2, 2: 8.8, 3: 11.0}[len(axes_shown)], 3.7, 1, len(axes_shown), sharey=True
        )
        for axes, axis in zip(grid[0], axes_shown, strict=True):
            _panel(axes, page, family, axis)
        grid[0][0].set_ylabel(metric_label(metric, "test"))
        log_axis(
            grid[0][0], "y", values + [y for axis in axes_shown for y in _ends(page, family, axis)]
        )
    hollow = sum(_is_hollow(page, point) for point in points)
    return Drawn(
        name=f"{prefix}law-{family}",
        figure=figure,
        caption=" ".join(_caption(page, family, hollow)),
        alt=(
            f"{metric_label(metric, 'test')} of {counted(len(points), f'{family} run')} against "
            f"{' and '.join(axis_label(axis, page.unit) for axis in axes_shown)}; from "
            f"{with_unit(max(values), metric)} down to {with_unit(min(values), metric)}."
        ),
    )


def _caption(page: Page, family: str, hollow: int) -> list[str]:
    fitted = page.family_fit(family)
    said = [f"{family}: one marker a run, seeds apart."]
    if fitted is None:
        return [
            *said,
            f"{NO_LAW} Dotted lines join means.",
            *("Hollow: no runs of the sweep.",) * bool(hollow),
        ]
    level = f"{100 * page.fit.level:g} %" if page.fit else ""
    if any(_drawable(law) for law in fitted.laws):
        said.append(
            "Solid: a law fitted along this axis (FLOPs: on the frontier), inside its window "
            "(grey), with the "
            f"{level} interval of the law, not of a new run; fine dashes: beyond the window."
        )
    if fitted.surface and fitted.surface.status == "converged":
        said.append("Long dashes: the surface fitted to all sizes and amounts at once.")
    if any("num_capped" in law.at for law in fitted.laws):
        said.append("Dashes and dots: fitted only to runs that were not capped.")
    return [*said, "Hollow markers were not fitted."] if hollow else said


def _panel(axes: Axes, page: Page, family: str, axis: str) -> None:
    points = [point for point in page.measured(family) if _x(point, axis) > 0]
    fitted = page.family_fit(family)
    laws = [law for law in fitted.laws if law.axis == axis and _drawable(law)] if fitted else []
    lines = _lines(page, family, points, axis)
    surface = fitted.surface if fitted and axis != "flops" else None
    _shade(axes, laws, surface, axis)
    drawn: set[float] = set()
    for law in laws:
        line = _line_of(law, lines, points)
        _draw_law(axes, law, line.look if line else Look(INK, "o", "-"))
        drawn |= {line.key} if line else set()
    for line in spread_out(lines, MOST_SAID):
        if line.key not in drawn and not (surface and _draw_surface(axes, surface, axis, line)):
            # Seeds of one cell differ in FLOPs: there is no mean to join.
            mine = [p for p in points if axis != "flops" and _key(p, axis) == line.key]
            _join_means(axes, page, mine, axis, line)
    for line in lines:
        mine = [point for point in points if _key(point, axis) == line.key]
        _draw_points(axes, page, family, mine, axis, line.look)
    label = "parameters, non-embedding" if axis == "num_params" else axis_label(axis, page.unit)
    axes.set_xlabel(label)
    if points:
        shown = [_x(point, axis) for point in points] + [_end(law) for law in laws]
        log_axis(axes, "x", shown, counts=axis != "flops")
    _legend(axes, lines)


def _drawable(law: LawFit) -> bool:
    return law.coefficient.value is not None and law.exponent.value is not None


def _shade(axes: Axes, laws: Sequence[LawFit], surface: SurfaceFit | None, axis: str) -> None:
    windows = [law.window for law in laws]
    if surface and surface.status == "converged":
        along_data = axis == "num_train"
        windows.append(surface.num_train_window if along_data else surface.num_params_window)
    if windows:
        low, high = min(one[0] for one in windows), max(one[1] for one in windows)
        axes.axvspan(low, high, color=SHADE, zorder=0)


def _join_means(axes: Axes, page: Page, points: Sequence[Point], axis: str, line: Line) -> None:
    """A faint line through geometric means: a help for the eye where there is no law."""
    means = _means(page, points, axis)
    axes.plot(*means, color=line.look.color, linestyle=":", linewidth=0.7, alpha=0.7)


def _means(page: Page, points: Sequence[Point], axis: str) -> tuple[list[float], list[float]]:
    """Each x, and the geometric mean of the losses there."""
    losses: dict[float, list[float]] = {}
    for point in (point for point in points if not _is_hollow(page, point)):
        losses.setdefault(_x(point, axis), []).append(point.losses[page.metric(point.family)])
    xs = sorted(losses)
    return xs, [float(np.exp(np.mean(np.log(losses[x])))) for x in xs]


def _x(point: Point, axis: str) -> float:
    return float(getattr(point, axis) or 0.0)


def _key(point: Point, axis: str) -> float:
    return float(point.num_train if axis == "num_params" else point.num_params)


def _lines(page: Page, family: str, points: Sequence[Point], axis: str) -> list[Line]:
    keys = {_key(point, axis): point for point in points}
    looks = ordered_looks(len(keys))
    if axis == "num_params":
        labels = [f"{short(key)} {plural(page.unit)}" for key in sorted(keys)]
    else:
        labels = [page.size_label(family, keys[key].size) for key in sorted(keys)]
    return [Line(*one) for one in zip(sorted(keys), looks, labels, strict=True)]


def _line_of(law: LawFit, lines: Sequence[Line], points: Sequence[Point]) -> Line | None:
    """The series that a law was fitted to: by what it holds fixed, else by its points."""
    held = law.at.get("num_train" if law.axis == "num_params" else "num_params")
    if held is None:
        runs = set(law.points)
        keys = {_key(point, law.axis) for point in points if point.run in runs}
        held = keys.pop() if len(keys) == 1 else None
    if held is None or not lines:
        return None
    near = min(lines, key=lambda line: abs(np.log(line.key / held)))
    return near if abs(np.log(near.key / held)) < 0.05 else None


def _end(law: LawFit) -> float:
    """How far a law is drawn: no farther than it may be asked about."""
    if law.status != "converged":
        return law.window[1]
    return min(law.window[1] * BEYOND, reach(law.window)[1])


def _ends(page: Page, family: str, axis: str) -> list[float]:
    """Losses where the drawn laws end, so that the figure has room for them."""
    fitted = page.family_fit(family)
    return [
        float(_loss(law, _end(law)))
        for law in (fitted.laws if fitted else ())
        if law.axis == axis and _drawable(law) and law.status == "converged"
    ]


def _loss(law: LawFit, x: float | Array) -> Array:
    """The loss that a drawable law gives."""
    of = (law.irreducible_loss, law.coefficient, law.exponent)
    return power_floor(x, *(one.value or 0.0 for one in of))


def _draw_law(axes: Axes, law: LawFit, look: Look) -> None:
    """Draw a drawable law; one of uncapped runs only, beside the main one, in dashes and dots."""
    low, high = law.window
    inside, past = np.geomspace(low, high, 60), np.geomspace(high, _end(law), 20)
    beside = "num_capped" in law.at
    solid = (0, (6, 1.4, 1.4, 1.4)) if beside else "-"
    for x, dashes, width in ((inside, solid, 1.4), (past, (0, (2, 1.6)), 1.0)):
        axes.plot(x, _loss(law, x), color=look.color, linestyle=dashes, linewidth=width)
    if len(law.draws) > 20 and not beside:
        x = np.geomspace(low, _end(law), 60)
        floors, coefficients, exponents = np.asarray(law.draws[1:], float).T[:, :, None]
        level = law.exponent.interval.level if law.exponent.interval else 0.9
        _band(axes, x, power_floor(x, floors, coefficients, exponents), level, look)


def _band(axes: Axes, x: Array, draws: Array, level: float, look: Look) -> None:
    edges = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    axes.fill_between(x, edges[0], edges[1], color=look.color, alpha=0.13, linewidth=0)


def _draw_surface(axes: Axes, surface: SurfaceFit, axis: str, line: Line) -> bool:
    values = (
        surface.irreducible_loss.value or 0.0,
        surface.size_coefficient.value,
        surface.size_exponent.value,
        surface.data_coefficient.value,
        surface.data_exponent.value,
    )
    windows = (surface.num_train_window, surface.num_params_window)
    along_data = axis == "num_train"
    (low, high), (least, most) = windows if along_data else windows[::-1]
    if surface.status != "converged" or None in values or not least <= line.key <= most:
        return False
    x = np.geomspace(low, high, 60)
    place = (line.key, x) if along_data else (x, line.key)
    y = additive_surface(*place, *(float(value or 0.0) for value in values))
    axes.plot(x, y, color=line.look.color, linestyle=(0, (4, 1.5)), linewidth=1.0)
    return True


def _draw_points(
    axes: Axes, page: Page, family: str, points: Sequence[Point], axis: str, look: Look
) -> None:
    """One marker a run."""
    metric = page.metric(family)
    for hollow in (False, True):
        mine = [point for point in points if hollow == _is_hollow(page, point)]
        axes.plot(
            [_x(point, axis) for point in mine],
            [point.losses[metric] for point in mine],
            linestyle="",
            marker=look.marker,
            color=look.color,
            markerfacecolor=PAPER if hollow else look.color,
            markeredgecolor=look.color if hollow else PAPER,
            markeredgewidth=0.9 if hollow else 0.4,
            zorder=3,
        )


def _is_hollow(page: Page, point: Point) -> bool:
    """Whether no law was fitted to a run, or none will be."""
    used = page.fitted_runs(point.family)
    return point.run not in used if used else point.role != "sweep"


def _legend(axes: Axes, lines: Sequence[Line]) -> None:
    from matplotlib.lines import Line2D

    axes.legend(
        handles=[
            Line2D([], [], color=line.look.color, marker=line.look.marker, label=line.label)
            for line in spread_out(lines, MOST_SAID)
        ],
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=2 if len(lines) in (2, 4) else 3,
        columnspacing=1.2,
        borderpad=0.2,
    )


# --- families beside each other ------------------------------------------------------------------


def compare_figure(page: Page, prefix: str = "") -> Drawn | None:
    """Families at their largest size, along data: one line each."""
    shown: dict[str, list[str]] = {}
    for family in page.families:
        if page.measured(family):
            shown.setdefault(page.metric(family), []).append(family)
    metric = max(sorted(shown), key=lambda one: len(shown[one]), default="")
    families = shown.get(metric, [])
    if len(families) < 2:
        return None
    with style():
        figure, grid = blank(6.4, 3.6)
        axes = grid[0][0]
        xs: list[float] = []
        ys: list[float] = []
        for family, look in zip(families, series_looks(len(families)), strict=True):
            largest = max(point.num_params for point in page.measured(family))
            points = [p for p in page.measured(family) if p.num_params == largest]
            xs += [float(point.num_train) for point in points]
            ys += [point.losses[metric] for point in points] + _ends(page, family, "num_train")
            _draw_family(axes, page, family, points, look)
        axes.set_xlabel(axis_label("num_train", page.unit))
        axes.set_ylabel(metric_label(metric, "test"))
        log_axis(axes, "x", xs, counts=True)
        log_axis(axes, "y", ys)
        axes.legend(loc="best")
    return Drawn(
        name=f"{prefix}compare",
        figure=figure,
        caption=(
            "Families beside each other, each at its largest size. "
            "A steeper line gains more from data; a lower one is better today. "
            "Hollow markers were not fitted."
        ),
        alt=f"{metric_label(metric, 'test')} against training data for "
        + "; ".join(
            f"{family}, down to {with_unit(best.losses[metric], metric)}"
            for family in families
            if (best := page.best(family))
        )
        + ".",
    )


def _draw_family(axes: Axes, page: Page, family: str, points: Sequence[Point], look: Look) -> None:
    fitted = page.family_fit(family)
    laws = [law for law in fitted.laws if law.axis == "num_train"] if fitted else []
    runs = {point.run for point in points}
    law = next((one for one in laws if one.points and set(one.points) <= runs), None)
    size = page.size_label(family, points[0].size)
    if law is not None and _drawable(law):
        _draw_law(axes, law, look)
    else:
        means = _means(page, points, "num_train")
        axes.plot(*means, color=look.color, linestyle=look.dashes, linewidth=0.8)
    _draw_points(axes, page, family, points, "num_train", look)
    axes.plot([], [], color=look.color, marker=look.marker, label=f"{family} ({size})")
