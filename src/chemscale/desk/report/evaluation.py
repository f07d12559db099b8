"""What a lower loss buys: measures of generated molecules against the loss of their models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chemscale.desk.estimate import spearman
from chemscale.desk.report.drawing import MUTED, PAPER, Drawn, blank, ordered_looks, style
from chemscale.desk.report.page import Page
from chemscale.desk.report.tables import Cell, Table, columns
from chemscale.desk.report.words import counted, metric_label, number, plural, short
from chemscale.table.evaluation import ErrorSettings
from chemscale.table.results import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {  # name → label, better when higher
    "energy_mae": ("energy MAE, meV/atom", False),
    "force_mae": ("force MAE, meV/Å", False),
    "stress_mae": ("stress MAE, meV/Å³", False),
    "force_cosine": ("cosine of forces", True),
    "nve_ps": ("dynamics held together, ps", True),
    "nve_drift": ("drift of energy, meV/atom/ps", False),
    "energy_rmse": ("energy RMSE, meV/atom", False),
    "force_rmse": ("force RMSE, meV/Å", False),
    "fcd": ("Fréchet ChemNet distance", False),
    "validity": ("valid", True),
    "ended": ("ended by the stop token", True),
    "unique": ("distinct, of the valid", True),
    "novelty": ("new, of the distinct", True),
    "memorised": ("in the training set, of the valid", False),
    "rediscovered": ("in the test set, of the valid", True),
    "internal_diversity": ("internal diversity", True),
    "snn": ("similarity to the nearest of test", True),
    "fragments": ("cosine of BRICS fragments", True),
    "scaffolds": ("cosine of scaffolds", True),
    "logp": ("distance in logP", False),
    "sa": ("distance in synthetic accessibility", False),
    "qed": ("distance in QED", False),
    "weight": ("distance in weight, g/mol", False),
    "unique_at_1000": ("distinct, of the first 1,000 valid", True),
}
IN_ROW = 4


@dataclass(frozen=True)
class EvaluatedPoint:
    """A model, its loss, and what its samples are like."""

    point: Point
    loss: float
    metrics: dict[str, float]


def evaluated(page: Page) -> list[EvaluatedPoint]:
    """The evaluated models whose loss is known, worst loss first."""
    points = {point.run: point for point in page.points}
    found = []
    for one in page.evaluation.runs if page.evaluation else ():
        point = points.get(one.run)
        loss = point.losses.get(page.metric(point.family)) if point else None
        if point is not None and loss is not None:
            found.append(EvaluatedPoint(point, loss, one.metrics))
    return sorted(found, key=lambda one: (-one.loss, one.point.run))


def evaluation_figure(page: Page, prefix: str = "") -> Drawn | None:
    """Each measure against the loss, a panel each; sizes told apart by colour and marker."""
    models = evaluated(page)
    shown = [name for name in MEASURES if any(name in one.metrics for one in models)]
    shown = [name for name in shown if name != "unique_at_1000"]
    if not models or page.evaluation is None or not shown:
        return None
    sizes = {_model(one.point): one.point for one in models}
    order = sorted(sizes, key=lambda name: (sizes[name].num_params_total, name))
    looks = dict(zip(order, ordered_looks(len(order)), strict=True))
    rows = -(-len(shown) // IN_ROW)
    metric = page.metric(models[0].point.family)
    with style():
        from matplotlib.lines import Line2D

        figure, grid = blank(8.8, 0.5 + 1.75 * rows, rows, IN_ROW, sharex=True)
        flat = list(grid.flat)
        for axes, name in zip(flat, shown, strict=False):
            axes.set_title(MEASURES[name][0], fontsize=7, fontweight="normal")
            floor = page.evaluation.floor.get(name)
            if floor is not None:
                axes.axhline(floor, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
            for one in models:
                if name in one.metrics:
                    look = looks[_model(one.point)]
                    axes.plot(
                        one.loss, one.metrics[name], linestyle="", marker=look.marker,
                        color=look.color, markeredgecolor=PAPER, markeredgewidth=0.4,
                    )  # fmt: skip
            _room(axes)
        for axes in flat[len(shown) :]:
            axes.set_visible(False)
        for column in range(IN_ROW):  # the lowest panel of a column has the numbers
            lowest = max((i for i in range(len(shown)) if i % IN_ROW == column), default=None)
            if lowest is not None:
                flat[lowest].tick_params(labelbottom=True)
        flat[0].invert_xaxis()
        figure.supxlabel(f"{metric_label(metric, 'test')}, better to the right", fontsize=8)
        figure.legend(
            handles=[
                Line2D([], [], linestyle="", marker=looks[name].marker, color=looks[name].color,
                       label=f"{name} · {short(sizes[name].num_params_total)}")
                for name in order
            ] + [Line2D([], [], color=MUTED, linestyle=(0, (4, 2)), label="training molecules")]
            * bool(page.evaluation.floor),
            loc="outside upper right", ncols=min(len(order) + 1, 6),
        )  # fmt: skip
    settings = page.evaluation.settings
    if isinstance(settings, ErrorSettings):
        dynamics = f", and {settings.dynamics:g} ps of dynamics" if settings.dynamics else ""
        caption = (
            "What a lower test error buys: each trained potential on the structures of "
            f"test{dynamics}."
        )
        alt = f"{len(shown)} measures of {counted(len(models), 'potential')} against its error."
    else:
        caption = (
            f"{settings.num_samples:,} samples of each trained model against its loss, which "
            "falls to the right. Dashed: the same of as many training molecules, which is as near "
            "to the test set as molecules of the same origin come. Definitions are those of MOSES."
        )
        alt = (
            f"{len(shown)} measures of generated molecules against the test loss of "
            f"{counted(len(models), 'model')}."
        )
    return Drawn(f"{prefix}evaluation", figure, caption, alt)


def _room(axes: Axes) -> None:
    """Do not blow up what hardly differs: no axis shows less than 1 % of its value."""
    low, high = axes.get_ylim()
    least = 0.01 * max(abs(low), abs(high))
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)


def evaluation_table(page: Page) -> Table | None:
    """Each measure at the worst and the best loss, and how closely it follows the loss."""
    models = evaluated(page)
    if not models or page.evaluation is None:
        return None
    names = list(dict.fromkeys(name for one in models for name in one.metrics))
    ranks = {name: rank for rank, name in enumerate(MEASURES)}
    names.sort(key=lambda n: (n.startswith("shift_"), ranks.get(n.removeprefix("shift_"), 99)))
    rows = []
    for name in names:
        label, up = _measure(name.removeprefix("shift_"))
        known = [one for one in models if name in one.metrics]
        floor = page.evaluation.floor.get(name)
        values = np.array([(-one.loss, one.metrics[name]) for one in known])
        follows = spearman(*values.T) if len(known) >= 4 else None
        rows.append(
            (
                Cell(f"{label}, shift set" if name.startswith("shift_") else label),
                Cell("higher" if up else "lower"),
                Cell(number(known[0].metrics[name]), known[0].metrics[name]),
                Cell(number(known[-1].metrics[name]), known[-1].metrics[name]),
                *((Cell(number(floor), floor),) * bool(page.evaluation.floor)),
                Cell(number(follows, 2), follows),
            )
        )
    worst, best = number(models[0].loss), number(models[-1].loss)
    head = (
        f"measure | better | #at loss {worst} | #at loss {best} | "
        f"{'#training molecules | ' * bool(page.evaluation.floor)}"
        "#rank correlation with a lower loss"
    )
    caption = f"{counted(len(models), 'model')}, from the worst loss to the best"
    return Table(caption, columns(head), tuple(rows))


def models_table(page: Page) -> Table | None:
    """Every evaluated model with its measures."""
    models = evaluated(page)
    names = [name for name in MEASURES if any(name in one.metrics for one in models)]
    if not models:
        return None
    rows = tuple(
        (
            Cell(_model(one.point), one.point.num_params_total),
            Cell(f"{one.point.num_train:,}", one.point.num_train),
            Cell(str(one.point.seed), one.point.seed),
            Cell(number(one.loss), one.loss),
            *(Cell(number(one.metrics.get(name)), one.metrics.get(name)) for name in names),
        )
        for one in models
    )
    measures = " | ".join(f"#{name.replace('_', ' ')}" for name in names)
    head = f"model | #training {plural(page.unit)} | #seed | #test loss | {measures}"
    return Table("Every evaluated model", columns(head), rows, sortable=True)


def _model(point: Point) -> str:
    return f"{point.family} {point.size}"


def _measure(name: str) -> tuple[str, bool]:
    """What a measure is called, and whether more of it is better."""
    base, *of = name.split(".", 2)  # such as force_mae.element.O
    label, up = MEASURES.get(base, (base.replace("_", " "), base == "nve_stable"))
    return (f"{label}, {of[-1]}" if of else label), up
