"""Curves of validation loss along training: of runs trained here, and of tables and logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chemscale.desk.report.drawing import (
    MOST_SAID,
    PAPER,
    Drawn,
    Look,
    blank,
    log_axis,
    ordered_looks,
    style,
)
from chemscale.desk.report.page import Page
from chemscale.desk.report.words import counted, plural, short
from chemscale.desk.sample import spread_out
from chemscale.table.results import Array, Trained

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_COLUMNS = 6
MOST_CURVES = 60  # of a family


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


# --- of tables and logs --------------------------------------------------------------------------


def tabled_figure(page: Page, prefix: str = "") -> Drawn | None:
    """Validation loss of each setting along training, a panel per family."""
    curves = [curve for curve in page.curves if curve.seen.size]  # not those planned only
    if not curves or page.estimate is None:
        return None
    rows = [row for one in page.estimate.families for row in one.rows]
    finished = {(row.family, row.run, row.size) for row in rows if row.final_loss is not None}
    families = list(dict.fromkeys(curve.family for curve in curves))
    drawn = 0
    with style():
        figure, grid = blank(min(8.8, 0.6 + 4.1 * len(families)), 3.3, 1, len(families))
        for axes, family in zip(grid[0], families, strict=True):
            mine = [curve for curve in curves if curve.family == family]
            mine.sort(key=lambda curve: (curve.num_params or 0, float(curve.val_loss[-1])))
            mine = spread_out(mine, MOST_CURVES)
            sizes = list(dict.fromkeys(curve.size for curve in mine))
            looks = dict(zip(sizes, ordered_looks(len(sizes)), strict=True))
            losses: list[float] = []
            for curve in mine:
                good = np.isfinite(curve.val_loss) & (curve.val_loss > 0) & (curve.seen > 0)
                x, y = curve.seen[good], curve.val_loss[good]
                losses += y.tolist()
                done = any(
                    name == family and run == curve.run and size.startswith(curve.size)
                    for name, run, size in finished
                )
                width, alpha = (1.2, 0.9) if done else (0.7, 0.45)
                axes.plot(x, y, color=looks[curve.size].color, lw=width, alpha=alpha)
            drawn += len(mine)
            axes.set_title(family)
            axes.set_xlabel(f"{mine[0].by} seen in training")
            axes.set_ylabel("validation loss")
            seen = [float(x) for curve in mine for x in curve.seen if x > 0]
            log_axis(axes, "x", seen or [1.0, 10.0], counts=True)
            # Diverging curves must not squeeze all others against the floor.
            high = min(max(losses, default=1.0), 5 * float(np.median(losses or [1.0])))
            log_axis(axes, "y", [min(losses, default=0.1), high])
            if len(sizes) > 1:
                for size in spread_out(sizes, MOST_SAID):
                    axes.plot([], [], color=looks[size].color, label=size)
                axes.legend(loc="upper right", fontsize=6.8)
    coloured = " Colours are sizes." * (len({curve.size for curve in curves}) > 1)
    of_all = f" Drawn are {drawn} of {len(curves)}." * (drawn < len(curves))
    return Drawn(
        name=f"{prefix}curves",
        figure=figure,
        caption="Validation loss along training. Strong lines: settings that were finished; faint: "
        f"the others.{coloured}{of_all}",
        alt=f"Validation loss along training of {counted(drawn, 'setting')}.",
    )
