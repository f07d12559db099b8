"""The law metric on another distribution, beside the test set."""

from __future__ import annotations

from math import exp, log

from chemscale.desk.report.page import Page
from chemscale.desk.report.tables import Cell, Table, columns
from chemscale.desk.report.words import METRICS, number, plural
from chemscale.table.results import Point


def shift_table(page: Page, family: str) -> Table | None:
    """Test and shift of each size and `num_train`, geometric means over seeds; None without any."""
    metric = page.metric(family)
    shifted = f"shift_{metric}"
    cells: dict[tuple[int, str, int], list[Point]] = {}
    for point in page.measured(family):
        if point.losses.get(shifted, 0) > 0:
            total = point.num_params_total or point.num_params
            cells.setdefault((total, point.size, point.num_train), []).append(point)
    if not cells:
        return None
    rows = []
    for (total, size, num_train), points in sorted(cells.items()):
        test, shift = _mean(points, metric), _mean(points, shifted)
        rows.append(
            (
                Cell(size, total),
                Cell(f"{num_train:,}", num_train),
                Cell(str(len(points)), len(points)),
                Cell(number(test), test),
                Cell(number(shift), shift),
                Cell(number(shift / test), shift / test),
            )
        )
    unit = METRICS.get(metric, ("", ""))[1]
    told = f", {unit}" if unit else ""
    head = (
        f"size | #training {plural(page.unit)} | #runs | #test{told} | #shift{told} | #shift / test"
    )
    caption = f"{family} on the shift set, which no law is fitted to"
    return Table(caption, columns(head), tuple(rows), sortable=True)


def _mean(points: list[Point], name: str) -> float:
    return exp(sum(log(point.losses[name]) for point in points) / len(points))
