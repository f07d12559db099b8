"""What was measured, and what a search concluded from it; laws lie next door, in `fits`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chemscale.table.record import Record
from chemscale.table.records import Run

Array = NDArray[np.float64]

# --- measured ------------------------------------------------------------------------------------

CURVE_COLUMNS = (
    "step",
    "phase",  # warmup, stable, cooldown
    "items_seen",
    "tokens_seen",
    "atoms_seen",
    "edges_seen",
    "flops",
    "seconds",
    "joules",
    "learning_rate",
    "train_loss",  # mean over the steps since the row before
    "val_loss",  # the training loss, on validation
)


@dataclass(frozen=True)
class Curve:
    """The evaluations of one run, a row each; the columns are those of `CURVE_COLUMNS`.

    `step_losses` (steps,) holds the training loss of every step. Missing values are NaN.
    """

    run: str
    columns: dict[str, NDArray[Any]]
    step_losses: Array

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self.columns[column]


class Size(Record):
    """One rung of a family's ladder."""

    family: str
    size: str
    revision: int
    config: dict[str, Any]
    num_params: int  # non-embedding
    num_params_total: int
    bytes_training: int  # weights, gradients and optimiser state; no activations
    # batch size → most memory of a training run, without the process itself; predicted, for the
    # study's sizes
    bytes_peak: dict[str, int] = {}
    flops_per_item: float  # one training step of one mean item of the dataset
    flops_formula: dict[str, float]  # per token/pair or per atom/edge
    items_per_second: dict[str, float] = {}  # device → measured

    @property
    def key(self) -> tuple[str, str]:
        """Family and size."""
        return self.family, self.size


Status = Literal["finished", "stopped_early", "diverged", "out_of_memory", "failed"]
Ending = Literal["plateaued", "capped", "overfitted"]


class Outcome(Record):
    """How a run ended, and its end values. Written last; its presence means done."""

    run: str
    status: Status
    sentence: str
    ending: Ending | None = None  # of the trunk of a finished run
    step: int = 0
    items_seen: int = 0
    tokens_seen: int = 0
    atoms_seen: int = 0
    edges_seen: int = 0
    num_params: int = 0
    num_params_total: int = 0
    unique_items: int = 0
    tokens_unique: int = 0
    flops: float = 0.0
    flops_spent: float = 0.0
    seconds: float = 0.0
    joules: float | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    best_val_loss: float | None = None  # of the trunk
    metrics: dict[str, dict[str, float]] = {}  # split → metric → value, on the final weights
    machine: dict[str, str] = {}  # device, torch, threads, precision


class Point(Record):
    """One trained model as the laws see it, from a study folder or from anybody's table."""

    run: str
    family: str
    size: str
    num_params: int
    num_params_total: int
    num_train: int
    unit: str
    seed: int
    learning_rate: float | None = None
    batch_size: int | None = None
    items_seen: int | None = None
    flops: float | None = None
    seconds: float | None = None
    joules: float | None = None
    ending: Ending | None = None
    status: Status = "finished"
    cooled: bool = True  # the loss is from the end of a schedule, not from the middle of one
    role: str = "sweep"  # search, finish, sweep, check, or the plan it belongs to
    max_items: int | None = None  # the ceiling of its trunk
    losses: dict[str, float] = {}  # metric → value; the law metric among them
    non_finite: dict[str, str] = {}  # metric → nan, inf or -inf, where a table says so


@dataclass(frozen=True)
class Trained:
    """A run that has ended, with all that is known of it.

    `roles` says what the study asks of it: any of search, finish, sweep, check, plans/001, …;
    none when the study no longer asks for it. The curve is read when it is first looked at: most
    that is asked of ten thousand runs needs none.
    """

    run: Run
    outcome: Outcome
    read_curve: Callable[[], Curve]
    roles: tuple[str, ...]

    @cached_property
    def curve(self) -> Curve:
        """What was measured on the way."""
        return self.read_curve()


# --- concluded -----------------------------------------------------------------------------------


class Interval(Record):
    """An uncertainty, with its level."""

    low: float
    high: float
    level: float  # 0.9 for 90 %

    @classmethod
    def of(cls, draws: Array, level: float) -> Interval:
        """Percentiles of draws (S,)."""
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return cls(low=float(low), high=float(high), level=level)


class Quantity(Record):
    """A value with its interval; both missing where the data do not determine it."""

    value: float | None = None
    interval: Interval | None = None

    @classmethod
    def of(cls, draws: Array, level: float) -> Quantity:
        """The first of draws (1 + S,), with percentiles of the others."""
        return cls(value=float(draws[0]), interval=Interval.of(draws[1:], level))


class EstimateRow(Record):
    """One searched setting."""

    run: str
    family: str
    size: str
    learning_rate: float | None  # None: a table that does not tell
    batch_size: int | None
    status: Status | None  # None: a table that does not tell
    items_seen: int | None
    tse: float | None = None  # sum of the mean training losses of the epochs so far
    tse_e: float | None = None  # of the last epoch only
    tse_ema: float | None = None
    early_loss: float | None = None  # validation, at the end of the searched part
    forecast: float | None = None  # of the final validation loss
    interval: Interval | None = None
    final_loss: float | None = None  # where the run was finished
    chance: float | None = None  # else: of ending below the best that was finished
    rank: int | None = None  # 1 is best, within its family and size


class FamilyEstimate(Record):
    """What the search of one family says, and how far it can be trusted."""

    family: str
    rows: tuple[EstimateRow, ...]
    estimator: str  # what the ranking and the forecast go by
    num_finished: int
    spearman: float | None = None  # early against final, over the finished runs
    regret: float | None = None  # of the early pick among the finished, in log final loss
    flops_spent: float = 0.0
    flops_if_all_finished: float | None = None
    sentence: str


class Estimate(Record):
    """Training performance estimation: which settings deserve to be finished."""

    families: tuple[FamilyEstimate, ...]
    made: str

    def __str__(self) -> str:
        return "\n".join(family.sentence for family in self.families)


class Choice(Record):
    """The settings of one family and size."""

    family: str
    size: str
    num_params: int
    learning_rate: float
    batch_size: int
    source: Literal["searched", "interpolated", "extrapolated"]
    made: str

    @property
    def key(self) -> tuple[str, str]:
        """Family and size."""
        return self.family, self.size
