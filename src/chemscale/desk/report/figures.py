"""The figures, one function an idea: from a page to a drawn figure, or None if it has nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chemscale.desk.report.curves import curves_figure, tabled_figure
from chemscale.desk.report.drawing import (
    INK,
    MUTED,
    PAPER,
    Drawn,
    blank,
    log_axis,
    series_looks,
    style,
)
from chemscale.desk.report.evaluation import evaluation_figure
from chemscale.desk.report.lawplot import compare_figure, law_figure
from chemscale.desk.report.page import Page, Promise, named
from chemscale.desk.report.words import counted, metric_label, plain, plural, short, with_unit
from chemscale.table.results import EstimateRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
