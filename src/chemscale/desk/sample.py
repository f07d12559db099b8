"""Which points may be fitted, and the arrays they become. Everything left out has a reason."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from chemscale.table.errors import DataError, UsageError, hint
from chemscale.table.fits import Cell
from chemscale.table.results import Array, Point

WILD = math.log(3)  # of the loss
LIKE_A_LOSS = "loss|mae|mse|error|nats|bits|perplexity"
LAW_METRICS = {"molecule": "nats_per_molecule", "structure": "force_mae"}

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """Runs that may be fitted together, in an order that does not depend on how they came.

    A cell is a model size with a training-set size; its runs are replicates.
    """

    metric: str
    points: tuple[Point, ...]
    log_loss: Array  # (n,) of the metric
    log_params: Array  # (n,)
    log_train: Array  # (n,)
    cell: NDArray[np.intp]  # (n,)

    @classmethod
    def of(cls, points: Sequence[Point], metric: str) -> Sample:
        """Sort the points and take logarithms."""
        kept = sorted(points, key=lambda p: (p.num_params, p.num_train, p.seed, p.run))
        cells = sorted({(point.num_params, point.num_train) for point in kept})
        place = {cell: index for index, cell in enumerate(cells)}
        return cls(
            metric=metric,
            points=tuple(kept),
            log_loss=np.log([point.losses[metric] for point in kept]),
            log_params=np.log([point.num_params for point in kept]),
            log_train=np.log([point.num_train for point in kept]),
            cell=np.array([place[point.num_params, point.num_train] for point in kept], np.intp),
        )

    def where(self, keep: Iterable[bool]) -> Sample:
        """The runs marked true."""
        kept = [point for point, yes in zip(self.points, keep, strict=True) if yes]
        return Sample.of(kept, self.metric)

    @property
    def runs(self) -> tuple[str, ...]:
        """Ids of the runs."""
        return tuple(point.run for point in self.points)

    def seed_scatter(self) -> tuple[float, int] | None:
        """Pooled standard deviation of the log loss within a cell, and its degrees of freedom.

        None where no cell was repeated. With five degrees of freedom or more, one wild seed is
        not taken for the scatter: deviations end at four robust standard deviations.
        """
        counts = np.bincount(self.cell)
        freedom = int((counts - 1).sum())
        if freedom == 0:
            return None
        means = np.bincount(self.cell, self.log_loss) / counts
        repeated = counts[self.cell] > 1
        deviation = np.abs(self.log_loss - means[self.cell])[repeated]
        unbiased = np.sqrt(1 - 1 / counts[self.cell][repeated])  # a mean of m runs hides 1/m
        if freedom >= 5:
            robust = 1.4826 * float(np.median(deviation / unbiased))
            deviation = np.minimum(deviation, 4 * robust * unbiased)
        return math.sqrt(float((deviation**2).sum()) / freedom), freedom

    def observed(self) -> tuple[Cell, ...]:
        """What was measured in every cell."""
        counts = np.bincount(self.cell)
        means = np.exp(np.bincount(self.cell, self.log_loss) / counts)
        first = np.unique(self.cell, return_index=True)[1]
        return tuple(
            Cell(self.points[i].num_params, self.points[i].num_train, float(mean), int(count))
            for i, mean, count in zip(first, means, counts, strict=True)
        )


def law_metric(points: Sequence[Point], metric: str | None) -> str:
    """The metric to fit for one family: the one asked for, else its unit's, else the only one.

    Raises:
        UsageError: it is not among the points' losses, or there are several to choose from.
    """
    family = points[0].family
    known = {name for point in points for name in point.losses}
    spoiled = {name for point in points for name in point.non_finite}
    if metric is not None:
        if metric not in known | spoiled:
            raise UsageError(
                f"{family}: no loss named {metric!r}{hint(metric, known)} A column is one "
                "where some cell in it is a number"
            )
        return metric
    usual = LAW_METRICS.get(points[0].unit)
    if usual in known:
        return str(usual)
    if len(known) == 1:
        return known.pop()
    if not known and spoiled:
        raise DataError(f"{family}: {_list(spoiled)} is nan or infinite in every run that has one")
    if not known:
        raise DataError(f"{family}: no run has a loss, so there is nothing to fit")
    likely = [name for name in known if re.search(LIKE_A_LOSS, name.lower())]
    option = f"--metric {likely[0]}" if len(likely) == 1 else "--metric"
    raise UsageError(
        f"{family}: which loss shall be fitted? Say {option}. Known: {_list(known)}. Columns of "
        "numbers count as losses, unless they are given a known name: --columns run=ITS-NAME"
    )


def select(points: Sequence[Point], metric: str) -> tuple[list[Point], tuple[tuple[str, str], ...]]:
    """Split one family's points into those to fit and (run, reason) of those left out."""
    kept: dict[tuple[object, ...], Point] = {}
    excluded: list[tuple[str, str]] = []

    def order(p: Point) -> tuple[object, ...]:
        # Of two losses of one run the worse counts, whichever came first.
        return p.run, p.role, p.num_train, p.num_params, p.seed, -p.losses.get(metric, 0.0)

    for point in sorted(points, key=order):
        reason = _reason(point, metric)
        one = point.run, point.num_params, point.num_train, point.seed  # tables reuse names
        if reason is None and one in kept:
            same = kept[one].losses[metric] == point.losses[metric]
            reason = "given twice" if same else f"given twice, with another {metric}"
        if reason is None:
            kept[one] = point
        else:
            excluded.append((point.run, reason))
    best = _best_settings(kept.values(), metric)
    runs = []
    for point in kept.values():
        if best[_cell(point)] in (None, _settings(point)):
            runs.append(point)
        else:
            excluded.append((point.run, "its learning rate or batch size is not its cell's best"))
    return runs, tuple(excluded)


def _cell(point: Point) -> tuple[object, ...]:
    return point.num_params, point.num_train, point.max_items


def _settings(point: Point) -> tuple[object, ...]:
    return point.learning_rate, point.batch_size


def _best_settings(
    points: Iterable[Point], metric: str
) -> dict[tuple[object, ...], tuple[object, ...] | None]:
    """The settings of each cell that ended lowest, as a mean over seeds.

    A table may hold a whole search. Poor settings are no seeds: their mean would be of no use.
    None where some runs of a cell do not tell theirs.
    """
    logs: dict[tuple[object, ...], dict[tuple[object, ...], list[float]]] = {}
    for point in points:
        mine = logs.setdefault(_cell(point), {})
        mine.setdefault(_settings(point), []).append(math.log(point.losses[metric]))
    return {
        cell: None
        if any(len({one is None for one in told}) > 1 for told in zip(*mine, strict=True))
        else min(mine, key=lambda settings: float(np.mean(mine[settings])))
        for cell, mine in logs.items()
    }


def wild_words(sample: Sample) -> str:
    """Name runs whose loss no size or seed explains; "" where there is none.

    Compared are runs of no more parameters and no more data, of which it should be no worse.
    """
    wild = []
    for place, point in enumerate(sample.points):
        below = (sample.log_params <= sample.log_params[place] + 1e-9) & (
            sample.log_train <= sample.log_train[place] + 1e-9
        )
        below[place] = False
        if below.sum() >= 2 and sample.log_loss[place] > np.median(sample.log_loss[below]) + WILD:
            wild.append(point)
    if not wild:
        return ""
    worst = max(wild, key=lambda one: one.losses[sample.metric])
    runs = "1 run is" if len(wild) == 1 else f"{len(wild)} runs are"
    return (
        f"{runs} over three times worse than smaller ones on less data, such as "
        f"{worst.run} ({worst.losses[sample.metric]:.3g}): did it diverge? A column status "
        "with the word diverged leaves a run out"
    )


def refuse_uncooled(points: Sequence[Point]) -> None:
    """Refuse a table in which every loss is from the middle of a schedule.

    Raises:
        DataError: saying what to do.
    """
    fittable = [p for p in points if p.role == "sweep" and p.status == "finished"]
    if fittable and not any(point.cooled for point in fittable):
        raise DataError(
            f"all {len(fittable)} losses are from the middle of a schedule, which are not the "
            "losses of shorter runs. End each run with a cooldown (`chemscale train` does), or "
            "give the last row of runs whose schedule had ended (phase = cooldown)."
        )


def _reason(point: Point, metric: str) -> str | None:
    """Why a point is left out, or None."""
    loss = point.losses.get(metric)
    if point.role == "check":
        return "check of the learning rate, never fitted"
    if point.role != "sweep":
        return f"belongs to {point.role}, not to the sweep"
    if point.status != "finished":
        return point.status.replace("_", " ")
    if not point.cooled:
        return "loss from the middle of a schedule"
    if metric in point.non_finite:
        return f"its {metric} is {point.non_finite[metric]}, which has no logarithm"
    if loss is None:
        return f"has no {metric}"
    if not (math.isfinite(loss) and loss > 0):
        return f"its {metric} is {loss:g}, which has no logarithm"
    if point.num_params <= 0 or point.num_train <= 0:
        return "num_params and num_train must be positive"
    return None


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))


def spread_out(those: Sequence[T], most: int) -> list[T]:
    """At most so many, evenly, the first and the last among them."""
    if len(those) <= most:
        return list(those)
    return [those[place] for place in np.linspace(0, len(those) - 1, most).round().astype(int)]
