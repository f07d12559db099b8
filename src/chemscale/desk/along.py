"""One law along one axis: num_train at a size, num_params at a num_train, FLOPs on the frontier."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chemscale.desk.bootstrap import fit_sample
from chemscale.desk.frontier import Choose, by_length, log_cost, on_frontier
from chemscale.desk.influence import leave_out
from chemscale.desk.knee import find_knee
from chemscale.desk.laws import MAX_EXPONENT
from chemscale.desk.sample import Sample
from chemscale.desk.sentences import (
    axis_unit,
    interval_words,
    metric_words,
    number,
    plural,
    whole_tenths,
)
from chemscale.table.fits import Axis, FitStatus, Knee, LawFit, LeftOut
from chemscale.table.results import Array, Quantity

TELLING = 7  # runs, from which on a floor can be told from none


@dataclass(frozen=True)
class Question:
    """What is asked of one family's runs, and how it is spoken of."""

    family: str
    metric: str
    unit: str
    level: float
    seed: int
    seeds: tuple[float, int] | None  # pooled seed scatter, its degrees of freedom
    names: dict[int, str]  # num_params → size
    caveat: str  # " at this training length (≤ 12,000 items)" or ""

    def rng(self, purpose: str) -> np.random.Generator:
        """A stream of its own for each law, whatever else is fitted beside it."""
        key = zlib.crc32(f"{self.family}/{purpose}".encode())
        return np.random.default_rng([self.seed, key])

    def at(self, axis: str, held: int) -> str:
        """Say what is held fixed."""
        if axis == "num_train":
            return f"at {self.names.get(held, f'{held:,} parameters')}"
        return f"at {held:,} {plural(self.unit)}"


@dataclass(frozen=True)
class _Runs:
    """The n runs of one law, and how they are spoken of."""

    cell: NDArray[np.intp]  # (n,) which are replicates of each other
    log_x: Array  # (n,)
    kept: NDArray[np.bool_]  # (n,) which the law is of
    xs: list[float]  # of those, each once, ascending
    seeds: tuple[float, int] | None  # as of a question
    where: str
    caveat: str
    at: dict[str, float] = field(default_factory=dict)  # what is held fixed
    choose: Choose | None = None  # which of them are kept in a draw


def fit_along(
    sample: Sample,
    axis: Axis,
    question: Question,
    *,
    uncapped: bool = False,
) -> LawFit:
    """Fit a power law along one axis, with a floor where the data ask for one.

    A floor is looked for only with five different x, and chosen by the corrected Akaike criterion.

    Args:
        sample: runs that differ along this axis only (and in seed); of flops: of all cells, each
            with its FLOPs, of which those on the frontier are fitted.
        axis: the axis.
        question: metric, level and words.
        uncapped: the runs are those of a capped ladder that were not capped themselves.
    """
    if axis == "flops":
        runs = _on_frontier(sample, question)
    else:
        runs = _over(axis, sample, question, uncapped)
    fitted = None
    if len(runs.xs) >= 3:
        fitted = fit_sample(
            runs.log_x[:, None],
            sample.log_loss,
            runs.cell,
            floor=None,
            seeds=runs.seeds,
            rng=question.rng(f"{axis}{' uncapped' * uncapped}"),
            choose=runs.choose,
        )
    window = (float(runs.xs[0]), float(runs.xs[-1]))
    decades = math.log10(window[1] / window[0])
    floor = fitted.quantity(0, question.level) if fitted and fitted.floor else Quantity()
    exponent = fitted.quantity(2, question.level) if fitted else Quantity()
    status = ending(exponent, decades)
    known = status != "not_identified"
    knee: Knee | None = None
    influence: tuple[LeftOut, ...] = ()
    if fitted and axis != "flops":  # leave a cell of the frontier out, and another takes its place
        knee = find_knee(
            runs.log_x,
            sample.log_loss,
            sample.cell,
            plain=fitted.criterion,
            delta=fitted.delta,
            seeds=runs.seeds,
            level=question.level,
            rng=question.rng(f"knee {axis}"),
        )
        influence = leave_out(sample, [axis], floor=None, delta=fitted.delta)
    return LawFit(
        axis=axis,
        law="power-floor" if fitted and fitted.floor else "power",
        at=runs.at,
        status=status,
        sentence=_law_words(question, axis, runs, status, exponent, floor),
        exponent=exponent if known else Quantity(),
        coefficient=fitted.quantity(1, question.level) if fitted and known else Quantity(),
        irreducible_loss=floor if known else Quantity(),
        window=window,
        decades=decades,
        points=tuple(run for run, yes in zip(sample.runs, runs.kept, strict=True) if yes),
        residual=fitted.residual if fitted else None,
        draws=tuple(map(tuple, fitted.kept_draws().tolist())) if fitted else (),
        influence=influence,
        knee=knee,
        delta=fitted.delta if fitted and math.isfinite(fitted.delta) else None,
        starts=fitted.starts if fitted else (0, 0),
    )


def _on_frontier(sample: Sample, question: Question) -> _Runs:
    sample = by_length(sample)
    log_flops = log_cost(sample)
    choose = on_frontier(log_flops, sample.cell)
    kept = choose(sample.log_loss[None], np.ones((1, len(sample.points))))[0]
    xs = np.unique(np.exp(log_flops[kept])).tolist()
    return _Runs(
        cell=sample.cell,
        log_x=log_flops,
        kept=kept,
        xs=xs,
        seeds=sample.seed_scatter(),
        where=f"on the frontier of {len(xs)} of {len(np.unique(sample.cell))} cells",
        caveat=f", the law of the best choice among what was trained{question.caveat}",
        choose=choose,
    )


def _over(axis: Axis, sample: Sample, question: Question, uncapped: bool) -> _Runs:
    held_axis = "num_params" if axis == "num_train" else "num_train"
    held = getattr(sample.points[0], held_axis)
    at, where, caveat = {held_axis: held}, question.at(axis, held), question.caveat
    if uncapped:
        at, caveat = {**at, "num_capped": 0}, ""
        where += f", on the {len(sample.points)} runs that were not capped"
    return _Runs(
        cell=sample.cell,
        log_x=sample.log_train if axis == "num_train" else sample.log_params,
        kept=np.ones(len(sample.points), bool),
        xs=sorted({getattr(point, axis) for point in sample.points}),
        seeds=question.seeds,
        where=where,
        caveat=caveat,
        at=at,
    )


def ending(exponent: Quantity, decades: float) -> FitStatus:
    """Say how a fit ended, from one exponent and the decades it was seen over."""
    value, interval = exponent.value, exponent.interval
    if value is None or interval is None or interval.high - interval.low > 0.5 * MAX_EXPONENT:
        return "not_identified"
    if not 1e-6 < value < MAX_EXPONENT - 1e-6:
        return "at_bound"
    return "too_short" if decades < 1 - 1e-9 else "converged"


def _law_words(
    question: Question,
    axis: str,
    runs: _Runs,
    status: FitStatus,
    exponent: Quantity,
    floor: Quantity,
) -> str:
    """Say how a loss falls along one axis, or why that cannot be said."""
    xs = runs.xs
    if exponent.value is None or exponent.interval is None:
        have = f"{len(xs)} value{'' if len(xs) == 1 else 's'} of {axis}"
        return f"the exponent along {axis} is not identified {runs.where}: {have}, three are needed"
    metric, decades = metric_words(question.metric), math.log10(xs[-1] / xs[0])
    span = f"from {number(xs[0])} to {number(xs[-1])} {axis_unit(axis, question.unit)}"
    span += f" ({whole_tenths(decades)} decades) {runs.where}{runs.caveat}"
    value, interval = exponent.value, interval_words(exponent.interval, ".2f")
    if status == "not_identified":
        return f"the exponent along {axis} is not identified {span}: {interval}"
    if status == "at_bound":
        verdict = "does not fall with" if value < 1 else "falls faster than any law allowed with"
        return f"{metric} {verdict} {axis} {span}: exponent at its bound {value:.2g}, {interval}"
    falls = f"as {axis}^-{value:.2f} ({interval})"
    if floor.value is not None and floor.interval is not None:
        falls += f" towards a floor of {number(floor.value)} ({interval_words(floor.interval)})"
    else:
        # From fewer the criterion never asks for one.
        looked = len(xs) >= 5 and len(runs.kept) >= TELLING
        falls += ", no floor seen," if looked else ", assuming no floor,"
    if status == "too_short":
        return (
            f"{metric} fell {falls} {span}: less than a decade, "
            "a description of this window and no law to extrapolate"
        )
    return f"{metric} falls {falls} {span}"
