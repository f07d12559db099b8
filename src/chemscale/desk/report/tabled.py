"""The curves of somebody else's table or logs, as far as they go."""

from __future__ import annotations

import numpy as np

from chemscale.desk.report.drawing import (
    MOST_SAID,
    Drawn,
    blank,
    log_axis,
    ordered_looks,
    spread_out,
    style,
)
from chemscale.desk.report.page import Page
from chemscale.desk.report.words import counted

MOST_CURVES = 60  # of a family


def tabled_figure(page: Page, prefix: str = "") -> Drawn | None:
    """Validation loss of each setting along training, a panel per family."""
    curves = [curve for curve in page.curves if curve.seen.size]  # not those planned only
    if not curves or page.estimate is None:
        return None
    rows = {
        (row.family, row.run, row.size): row for one in page.estimate.families for row in one.rows
    }
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
                    row.final_loss is not None
                    for (name, run, size), row in rows.items()
                    if name == family and run == curve.run and size.startswith(curve.size)
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
