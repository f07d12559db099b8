"""The figures, one function an idea: from a page to a drawn figure, or None if it has nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chemscale.desk.report.drawing import (
    INK,
    MOST_SAID,
    MUTED,
    PAPER,
    Drawn,
    Look,
    blank,
    log_axis,
    ordered_looks,
    series_looks,
    spread_out,
    style,
)
from chemscale.desk.report.evaluation import evaluation_figure
from chemscale.desk.report.lawplot import compare_figure, law_figure
from chemscale.desk.report.page import Page, Promise, named
from chemscale.desk.report.tabled import tabled_figure
from chemscale.desk.report.words import counted, metric_label, plain, plural, short, with_unit
from chemscale.table.results import Array, EstimateRow, Trained

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COLUMNS = 6
MOST_NAMED = 30  # runs whose names stand beside their marks


def figures(pages: Sequence[Page]) -> dict[str, Figure]:
    """Every figure of a report by name, to be written with `save`."""
    return {one.name: one.figure for one in all_figures(pages)}


def all_figures(pages: Sequence[Page]) -> list[Drawn]:
    """Every figure of a report, in the order of the report."""
    found: list[Drawn | None] = []
    for prefix, page in named(tuple(pages)):
        found += [curves_figure(page, prefix), tabled_figure(page, prefix)]
        found.append(estimate_figure(page, prefix))
        found += [law_figure(page, family, prefix) for family in page.families]
        found += [compare_figure(page, prefix), forecast_figure(page, prefix)]
        found.append(evaluation_figure(page, prefix))
    return [one for one in found if one is not None]


# --- Curve ---------------------------------------------------------------------------------------


def curves_figure(page: Page, prefix: str = "") -> Drawn | None:
    """Validation loss against items seen: a row per family, a column per `num_train`.

    Columns and not line styles tell amounts of data apart: some sixty curves share a family.
    """
    shown = [one for one in page.trained if set(one.roles) - {"search", "finish", "check"}]
    shown = [one for one in shown or page.trained if len(_trunk(one)[0]) > 1]
    if not shown:
        return None
    families = [f for f in page.families if any(one.run.trunk.family == f for one in shown)]
    amounts = spread_out(sorted({one.run.trunk.num_train for one in shown}), MOST_COLUMNS)
    with style():
        figure, grid = blank(
            max(4.5, min(8.8, 1.2 + 1.9 * len(amounts))),
            0.5 + 2.0 * len(families),
            len(families),
            len(amounts),
            sharex=True,
            sharey="row",
        )
        for row, family in zip(grid, families, strict=True):
            mine = [one for one in shown if one.run.trunk.family == family]
            looks = _size_looks(page, mine)
            row[0].set_ylabel(family, fontweight="bold")
            for axes, amount in zip(row, amounts, strict=True):
                here = [one for one in mine if one.run.trunk.num_train == amount]
                for one in here:
                    _draw_curve(axes, one, looks[one.run.size])
                if axes is not row[0] and not here:
                    axes.set_visible(False)
            values = _sensible([loss for one in mine for loss in _losses(one)])
            log_axis(row[0], "y", values)
            _size_legend(page, family, row[0], looks)
        for axes, amount in zip(grid[0], amounts, strict=True):
            where = axes if axes.get_visible() else _first_visible(grid, axes)
            where.set_title(f"{short(amount)} {plural(page.unit)}")
        items = [float(x) for one in shown for x in _columns(one)[0]]
        log_axis(grid[0][0], "x", items, counts=True, most=7 if len(grid[0]) < 4 else 4)
        figure.supxlabel(f"{plural(page.unit)} seen in training, repeats counted", fontsize=8)
        figure.supylabel(f"validation loss,\n{_loss_unit(page)}", fontsize=8, ma="center")
    return Drawn(
        name=f"{prefix}curves",
        figure=figure,
        caption=(
            "Validation loss along training. Lines are trunks at a constant learning rate; the "
            "thin line down to a marker is the cooldown, and the marker is the loss that counts. "
            "Size is said by colour, dashes and marker alike. Runs of the search and of the rate "
            "check are left out."
        ),
        alt=(
            f"Validation loss against {plural(page.unit)} seen for {counted(len(shown), 'run')} of "
            f"{', '.join(families)}, one panel for each of {len(amounts)} training set sizes."
        ),
    )


def _first_visible(grid: Any, axes: Axes) -> Axes:
    column = list(grid[0]).index(axes)
    shown: list[Axes] = [row[column] for row in grid if row[column].get_visible()]
    return shown[0] if shown else axes


def _size_looks(page: Page, runs: Sequence[Trained]) -> dict[str, Look]:
    sizes = {one.run.size: one.run.trunk.family for one in runs}
    order = sorted(sizes, key=lambda size: (page.num_params_total(sizes[size], size) or 0, size))
    return dict(zip(order, ordered_looks(len(order)), strict=True))


def _size_legend(page: Page, family: str, axes: Axes, looks: dict[str, Look]) -> None:
    from matplotlib.lines import Line2D

    axes.legend(
        handles=[
            Line2D(
                [],
                [],
                color=look.color,
                linestyle=look.dashes,
                marker=look.marker,
                label=page.size_label(family, size),
            )
            for size, look in spread_out([*looks.items()], MOST_SAID)
        ],
        loc="lower left",
        fontsize=6.8,
        handlelength=2.6,
        labelspacing=0.25,
        borderpad=0,
    )


def _loss_unit(page: Page) -> str:
    units = {"molecule": "nats per token", "structure": "in the recipe's units (force RMS)"}
    return units.get(page.unit, "as trained")


def _columns(one: Trained) -> tuple[Array, Array, Any]:
    if not {"items_seen", "val_loss", "phase"} <= set(one.curve.columns):
        return np.zeros(0), np.zeros(0), np.zeros(0, str)  # it failed before any evaluation
    items = np.asarray(one.curve["items_seen"], float)
    loss = np.asarray(one.curve["val_loss"], float)
    phase = np.asarray(one.curve["phase"]).astype(str)
    good = np.isfinite(items) & np.isfinite(loss) & (items > 0) & (loss > 0)
    return items[good], loss[good], phase[good]


def _trunk(one: Trained) -> tuple[Array, Array]:
    items, loss, phase = _columns(one)
    return items[phase != "cooldown"], loss[phase != "cooldown"]


def _losses(one: Trained) -> list[float]:
    # A diverging curve must not squeeze all others against the floor.
    return [] if one.outcome.status == "diverged" else [float(x) for x in _columns(one)[1]]


def _sensible(values: list[float]) -> list[float]:
    if not values:
        return [0.1, 1.0]
    return [min(values), min(max(values), 1e3 * min(values))]


def _draw_curve(axes: Axes, one: Trained, look: Look) -> None:
    items, loss, phase = _columns(one)
    trunk_items, trunk_loss = _trunk(one)
    axes.plot(
        trunk_items, trunk_loss, color=look.color, linestyle=look.dashes, linewidth=1.1, alpha=0.8
    )
    cooling = phase == "cooldown"
    if not cooling.any() or not len(trunk_items):
        return
    # The cooldown branches from the best checkpoint, often long before the trunk's own end.
    branch = max(int(np.searchsorted(trunk_items, items[cooling][0], side="right")) - 1, 0)
    path = np.column_stack([items[cooling], loss[cooling]])
    path = np.vstack([[trunk_items[branch], trunk_loss[branch]], path])
    axes.plot(path[:, 0], path[:, 1], color=look.color, linewidth=0.7)
    axes.plot(
        *path[-1], marker=look.marker, color=look.color, markeredgecolor=PAPER, markeredgewidth=0.4
    )


# --- Estimate ------------------------------------------------------------------------------------


def estimate_figure(page: Page, prefix: str = "") -> Drawn | None:
    """Early loss against the final loss: measured where finished, forecast where not."""
    found = page.estimate.families if page.estimate else ()
    panels = [
        (family.family, [row for row in family.rows if row.early_loss and _final(row)])
        for family in found
    ]
    panels = [(family, rows) for family, rows in panels if rows]
    if not panels:
        return None
    with style():
        figure, grid = blank(min(8.8, 0.6 + 4.1 * len(panels)), 3.3, 1, len(panels))
        for axes, (family, rows) in zip(grid[0], panels, strict=True):
            axes.set_title(family)
            _draw_settings(axes, rows)
            axes.set_xlabel("early validation loss, where the search stopped")
            axes.set_ylabel("final validation loss")
    finished = sum(row.final_loss is not None for _, rows in panels for row in rows)
    total = sum(len(rows) for _, rows in panels)
    return Drawn(
        name=f"{prefix}estimate",
        figure=figure,
        caption=(
            "Does the early loss tell the final one? Filled: settings that were finished. Hollow: "
            "the forecast for the others, with its interval. Numbers are learning rates, where "
            "these are known and there is room; shapes are batch sizes."
        ),
        alt=(
            f"Early against final validation loss of {counted(total, 'setting')}, "
            f"{finished} of them finished."
        ),
    )


def _final(row: EstimateRow) -> float | None:
    return row.final_loss if row.final_loss is not None else row.forecast


def _draw_settings(axes: Axes, rows: Sequence[EstimateRow]) -> None:
    from matplotlib.lines import Line2D

    batches = sorted({row.batch_size for row in rows}, key=lambda size: size or 0)
    looks = dict(zip(batches, series_looks(len(batches)), strict=True))
    heights: list[float] = []
    for row in rows:
        x, y, look = row.early_loss or 0.0, _final(row) or 0.0, looks[row.batch_size]
        hollow = row.final_loss is None
        if hollow and row.interval and row.interval.low > 0:
            axes.plot([x, x], [row.interval.low, row.interval.high], color=look.color, lw=0.8)
            heights += [row.interval.low, row.interval.high]
        heights.append(y)
        axes.plot(
            x,
            y,
            marker=look.marker,
            markersize=5.5,
            color=look.color,
            markerfacecolor=PAPER if hollow else look.color,
        )
    log_axis(axes, "x", [row.early_loss for row in rows if row.early_loss])
    log_axis(axes, "y", heights)
    _name_settings(axes, rows)
    axes.legend(
        handles=[
            Line2D([], [], linestyle="", marker=look.marker, color=look.color, label=f"batch {b}")
            for b, look in looks.items()
            if b is not None
        ],
        loc="upper left",
    )


def _name_settings(axes: Axes, rows: Sequence[EstimateRow]) -> None:
    """Name each setting right or left of its point, the best first, where nothing else stands."""
    from matplotlib.transforms import Bbox

    figure: Any = axes.figure
    figure.draw_without_rendering()  # only then points are where they will be
    places = axes.transData.transform([(row.early_loss or 1, _final(row) or 1) for row in rows])
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in places]
    for row in sorted(rows, key=lambda row: row.early_loss or 0.0):
        name = plain(row.learning_rate) if row.learning_rate else row.run
        if not row.learning_rate and len(rows) > MOST_NAMED:
            continue
        for side, align in ((5, "left"), (-5, "right")):
            label = axes.annotate(
                name,
                (row.early_loss or 0.0, _final(row) or 0.0),
                xytext=(side, 3),
                textcoords="offset points",
                ha=align,
                fontsize=6.5,
                color=MUTED,
            )
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


# --- Plan ----------------------------------------------------------------------------------------


def forecast_figure(page: Page, prefix: str = "") -> Drawn | None:
    """Each written forecast with its intervals, and the outcomes that came later."""
    promises = page.promises()
    metrics = sorted({one.forecast.metric for one in promises})
    if not promises:
        return None
    with style():
        figure, grid = blank(7.4, 0.8 * len(metrics) + 0.5 * len(promises), len(metrics), 1)
        for axes, metric in zip(grid[:, 0], metrics, strict=True):
            _draw_promises(axes, page, [one for one in promises if one.forecast.metric == metric])
            axes.set_xlabel(metric_label(metric, "test"))
        _promise_legend(figure)
    known = sum(bool(one.outcomes) for one in promises)
    return Drawn(
        name=f"{prefix}forecast",
        figure=figure,
        caption=(
            "What was promised before the runs were trained, and what came. Line: the forecast. "
            f"Bars: its {_levels(promises)} intervals for one new run, the narrowest thickest. "
            "Diamonds: outcomes, one a run."
        ),
        alt=(
            f"{counted(len(promises), 'forecast')}, {known} with an outcome: "
            + "; ".join(
                f"{one.forecast.family} {one.forecast.size} forecast "
                f"{with_unit(one.forecast.value, one.forecast.metric)}, outcome "
                + (
                    ", ".join(with_unit(value, one.forecast.metric) for _, value in one.outcomes)
                    or "not yet known"
                )
                for one in promises
            )
            + "."
        ),
    )


def _levels(promises: Sequence[Promise]) -> str:
    levels = {level for one in promises for level, _, _ in one.levels()}
    *most, last = (f"{level} %" for level in sorted(levels, key=float))
    return f"{', '.join(most)} and {last}" if most else last


def _draw_promises(axes: Axes, page: Page, promises: Sequence[Promise]) -> None:
    look = series_looks(2)
    for place, one in enumerate(promises):
        levels = one.levels()
        for rank, (_, low, high) in enumerate(levels):
            width = 9.0 - 6.0 * rank / max(len(levels) - 1, 1) if len(levels) > 1 else 6.0
            axes.plot(
                [low, high],
                [place, place],
                color=look[0].color,
                linewidth=width,
                solid_capstyle="butt",
                alpha=0.45,
            )
        axes.plot(one.forecast.value, place, marker="|", markersize=13, color=INK, mew=1.6)
        for _, value in one.outcomes:
            axes.plot(value, place, marker="D", markersize=5, color=look[1].color, mec=PAPER)
    axes.set_yticks(range(len(promises)))
    axes.set_yticklabels(
        [
            f"{one.plan.removeprefix('plans/')}  {one.forecast.family} {one.forecast.size}, "
            f"{short(one.forecast.num_train)} {plural(page.unit)}"
            for one in promises
        ]
    )
    axes.set_ylim(len(promises) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def _promise_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    look = series_looks(2)
    figure.legend(
        handles=[
            Line2D([], [], color=look[0].color, lw=5, alpha=0.45, label="interval"),
            Line2D([], [], color=INK, marker="|", ls="", markersize=9, mew=1.6, label="forecast"),
            Line2D([], [], color=look[1].color, marker="D", ls="", markersize=5, label="outcome"),
        ],
        loc="outside upper right",
        ncols=3,
    )
