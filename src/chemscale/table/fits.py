"""What was fitted: laws with their intervals, what limits them, and families beside each other."""

from __future__ import annotations

from typing import Literal, NamedTuple

from chemscale.table.record import Record
from chemscale.table.results import Quantity

Axis = Literal["num_train", "num_params", "flops"]
FitStatus = Literal["converged", "at_bound", "not_identified", "too_short", "failed"]


class LeftOut(Record):
    """What a law would have been without one run, size or amount."""

    what: Literal["run", "num_params", "num_train"]
    value: int | str  # the amount, or the run's id
    exponents: dict[str, float] = {}  # axis → exponent; empty where the rest identifies no law
    tenfold: float | None = None  # the law's loss at ten times the largest x (a surface: of both)


class Knee(Record):
    """Where the slope of a law changes inside its window."""

    status: Literal["seen", "none", "not_identified"]
    at: Quantity = Quantity()
    before: Quantity = Quantity()  # exponent below it
    after: Quantity = Quantity()


Limit = Literal["data", "size", "compute", "resolution", "not_identified"]


class Regime(Record):
    """What limits one cell, a size on an amount of data (`desk.regimes`)."""

    num_params: int
    num_train: int
    limit: Limit
    data_slope: Quantity = Quantity()  # fall of the log loss per log num_train, there
    size_slope: Quantity = Quantity()  # per log num_params


class LawFit(Record):
    """One law along one axis: loss = irreducible_loss + coefficient · x^-exponent."""

    axis: Axis
    law: Literal["power", "power-floor"]
    at: dict[str, float]  # what is held fixed, e.g. {"num_train": 1000}
    status: FitStatus
    sentence: str
    exponent: Quantity
    coefficient: Quantity
    irreducible_loss: Quantity
    window: tuple[float, float]  # smallest and largest x fitted
    decades: float
    points: tuple[str, ...]  # runs
    residual: float | None = None  # root mean square of the log residuals
    # the best fit, then bootstrap draws: E, coefficient, exponent
    draws: tuple[tuple[float, float, float], ...] = ()
    influence: tuple[LeftOut, ...] = ()
    delta: float | None = None  # of the Huber loss of log residuals; None: least squares
    starts: tuple[int, int] = (0, 0)  # how many reached the best objective, of how many
    knee: Knee | None = None


class SurfaceFit(Record):
    """The additive surface L(N, D) = E + A·N^-a + B·D^-b over num_params and num_train."""

    status: FitStatus
    sentence: str
    irreducible_loss: Quantity
    size_coefficient: Quantity
    size_exponent: Quantity
    data_coefficient: Quantity
    data_exponent: Quantity
    num_params_window: tuple[float, float]
    num_train_window: tuple[float, float]
    points: tuple[str, ...]
    residual: float | None = None
    # the best fit, then bootstrap draws: E, A, a, B, b
    draws: tuple[tuple[float, float, float, float, float], ...] = ()
    influence: tuple[LeftOut, ...] = ()
    delta: float | None = None  # of the Huber loss of log residuals; None: least squares
    starts: tuple[int, int] = (0, 0)  # how many reached the best objective, of how many


class BestSize(Record):
    """What the losses at one budget of FLOPs say of the best size; nothing without a minimum.

    at_smallest, at_largest: more than half of the draws are lowest there. too_few: under four.
    """

    flops: float
    num_sizes: int
    status: Literal["seen", "at_smallest", "at_largest", "too_few"]
    num_params: Quantity = Quantity()
    num_train: Quantity = Quantity()  # of that size at that budget
    loss: float | None = None


class IsoFlop(Record):
    """Best sizes, cheapest budget first, and exponents of compute; none from fewer than three."""

    budgets: tuple[BestSize, ...]
    size_exponent: Quantity
    data_exponent: Quantity


class Reported(Record):
    """One item of the checklist of what to report with a law (`desk.checklist`)."""

    item: str
    value: str | None = None
    missing: str = ""  # what the points do not tell, and how to supply it


class Cell(NamedTuple):
    """A size on an amount of data, as it was measured."""

    num_params: int
    num_train: int
    loss: float  # geometric mean over its runs
    num_runs: int

    @property
    def key(self) -> tuple[int, int]:
        """Size and amount."""
        return self.num_params, self.num_train


class FamilyFit(Record):
    """Everything fitted to one family."""

    family: str
    metric: str
    unit: str  # of num_train
    laws: tuple[LawFit, ...]
    surface: SurfaceFit | None
    seed_scatter: float | None  # standard deviation of log loss between seeds
    num_points: int
    num_capped: int
    at_this_training_length: bool  # over a third capped: the data exponent is not the converged one
    max_items: int | None
    check: str | None  # what half and double the chosen rate said at the largest size
    excluded: tuple[tuple[str, str], ...]  # run, reason
    sentence: str
    observed: tuple[Cell, ...] = ()  # what was fitted
    regimes: tuple[Regime, ...] = ()
    isoflop: IsoFlop | None = None
    checklist: tuple[Reported, ...] = ()


class Saving(Record):
    """What an amount of data is worth to one family, in data of another at equal loss."""

    num_train: int  # of the better one
    needs: Quantity = Quantity()  # of the other; missing beyond what it was measured with
    at_least: float | None = None  # then: what it surely needs


class Crossing(Record):
    """Two families along one axis, over the window that both were measured in."""

    axis: Axis
    status: Literal["crosses", "none", "not_identified"]
    sentence: str
    exponents: Quantity = Quantity()  # of the first less that of the second
    better: str | None = None  # beyond the crossing, or throughout where there is none
    at: Quantity = Quantity()  # x from which on it is better
    ratio: Quantity = Quantity()  # loss of the first over that of the second, at the window's end
    window: tuple[float, float] | None = None
    savings: tuple[Saving, ...] = ()  # along num_train


class Comparison(Record):
    """Two families measured by the same loss (`desk.crossover`)."""

    families: tuple[str, str]
    metric: str
    crossings: tuple[Crossing, ...]
    sentence: str


class Fit(Record):
    """The laws of a study, family by family; prints as sentences."""

    metric: str | None
    level: float
    families: tuple[FamilyFit, ...]
    made: str
    comparisons: tuple[Comparison, ...] = ()

    def __str__(self) -> str:
        told = [family.sentence for family in self.families]
        return "\n".join(told + [comparison.sentence for comparison in self.comparisons])

    def _repr_html_(self) -> str:
        return "".join(f"<p>{line}</p>" for line in str(self).splitlines())
