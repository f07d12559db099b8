"""Curves of several settings from anybody's table: what `estimate` ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from chemscale.table.columns import Columns
from chemscale.table.errors import DataError
from chemscale.table.logs.reading import format_of, read_histories
from chemscale.table.results import Array, Status
from chemscale.table.spreadsheet import float_in, number_in, read_table, require

SEEN = ("items_seen", "epoch", "step")  # the first that is there says how far a run has come
SETTINGS = ("run", "learning_rate", "batch_size")  # any of them tells settings apart
MODEL = ("family", "size", "num_params", "num_train")
Rows = list[tuple[int, Mapping[str, Any]]]


@dataclass(frozen=True)
class TabledCurve:
    """The evaluations of one run, in the order in which they came."""

    run: str
    family: str
    size: str
    num_params: int | None
    num_train: int | None
    learning_rate: float | None
    batch_size: int | None
    named: bool  # by a column run; else by its settings
    status: Status | None  # None: nobody says
    cooled: bool  # a row of it is from a cooldown
    by: str  # what `seen` counts, in words
    seen: Array  # (m,)
    val_loss: Array  # (m,) nan or infinite where it diverged
    flops: Array | None  # (m,) nan where there is none
    # how far, and the learning rate there, of all rows that tell it, also of those still to come
    schedule: tuple[Array, Array] | None = None

    @property
    def goes_on(self) -> bool:
        """Whether its schedule leads beyond its losses, by more than from one to the next."""
        if self.schedule is None:
            return False
        far = np.concatenate([[0.0], self.seen])
        return bool(self.schedule[0][-1] > far[-1] + np.diff(far, append=far[-1]).max())


def read_curves(path: Path, columns: Columns | None = None) -> list[TabledCurve]:
    """Read the curves in a table, or in logs of other trainers that tell every evaluation.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    logs = path.is_dir() or bool(format_of(path))
    rows = read_histories(path) if logs else read_table(path)
    rows = (columns or Columns()).applied(rows, str(path))
    if not rows:
        raise DataError(f"{path}: the table has no rows")
    return curves_in(rows, str(path), plans=not logs)


def curves_if_any(path: Path, columns: Columns) -> list[TabledCurve]:
    """The curves in a table, or none where no run of it was evaluated more than once."""
    with suppress(DataError):  # another reader says what is wrong with it
        curves = read_curves(path, columns)
        if any(len(curve.seen) > 1 for curve in curves):
            return curves
    return []


def curves_in(
    rows: Sequence[Mapping[str, Any]], where: str, plans: bool = False
) -> list[TabledCurve]:
    """The curves in rows of a table; a run is what agrees in family, size, amounts and `run`.

    Without `run`, in the settings. Rows without a `val_loss`, such as those that tell the training
    loss, are passed over; of several at the same place of a run the last counts.

    Args:
        rows: of the table.
        where: for messages.
        plans: whether rows that only tell the `learning_rate` of a `run` tell its schedule, too; a
            run may then be without any loss.

    Raises:
        DataError: a column is missing, or a value cannot be used; says which row.
    """
    by = next((name for name in SEEN if name in rows[0]), SEEN[-1])
    setting = next((name for name in SETTINGS if name in rows[0]), SETTINGS[0])
    needs = "val_loss; items_seen, epoch or step; run, or learning_rate or batch_size"
    require(rows, ("val_loss", by, setting), where, needs)
    runs: dict[tuple[str, ...], tuple[Rows, Rows]] = {}  # with a loss, and with a rate
    # A rate beside a name may be that of the schedule, and another in each row.
    told = MODEL + (SETTINGS[:1] if "run" in rows[0] else ("seed", *SETTINGS))
    for number, row in enumerate(rows, start=1):
        full = {name: row.get(name) not in (None, "") for name in ("val_loss", *SETTINGS, by)}
        rated = plans and full["run"] and full["learning_rate"] and full[by]
        if full["val_loss"] or rated:
            losses, rates = runs.setdefault(tuple(str(row.get(name)) for name in told), ([], []))
            losses += [(number, row)] * full["val_loss"]
            rates += [(number, row)] * rated
    if not any(losses for losses, _ in runs.values()):
        raise DataError(f"{where}: no row has a val_loss")
    # Steps of unequal batches are not equally far.
    batches = by == "step" and all(row.get("batch_size") not in (None, "") for row in rows)
    return [_curve(where, *mine, by, batches) for mine in runs.values()]


def _curve(where: str, rows: Rows, rated: Rows, by: str, batches: bool) -> TabledCurve:
    first = (rows or rated)[0]

    def whole(name: str) -> int | None:
        value = number_in(where, *first, name)
        return None if value is None else round(value)

    def column(name: str, rows: Rows = rows) -> Array:
        found = [float_in(where, number, row, name) for number, row in rows]
        return np.array([math.nan if value is None else value for value in found])

    seen, losses = column(by), column("val_loss")
    for (number, _), when, loss in zip(rows, seen, losses, strict=True):
        if not when >= 0:
            raise DataError(f"{where} row {number}: {by} must be 0 or more, got {when:g}")
        if loss <= 0:
            raise DataError(
                f"{where} row {number}: val_loss must be above 0, got {loss:g}: losses are "
                "compared in logs"
            )
    order = len(seen) - 1 - np.unique(seen[::-1], return_index=True)[1]
    last = rows[int(order[-1])] if rows else first
    status = str(last[1].get("status") or "") or None
    if status is not None and status not in get_args(Status):
        raise DataError(
            f"{where} row {last[0]}: status {status!r} is none of {', '.join(get_args(Status))}"
        )
    num_params, batch_size = whole("num_params"), whole("batch_size")
    flops, rates = column("flops")[order], column("learning_rate", [*rows, *rated])
    scale = batch_size or 1 if batches else 1
    cells = {name.replace("_", " "): first[1].get(name) for name in SETTINGS}
    return TabledCurve(
        run=str(first[1].get("run") or ", ".join(f"{k} {v}" for k, v in cells.items() if v)),
        family=str(first[1].get("family") or where),
        size=str(first[1].get("size") or (num_params and f"{num_params:,} parameters") or ""),
        num_params=num_params,
        num_train=whole("num_train"),
        learning_rate=float(np.nanmax(rates)) if np.isfinite(rates).any() else None,
        batch_size=batch_size,
        named=bool(first[1].get("run")),
        status=status,  # type: ignore[arg-type]
        cooled=any(row.get("phase") == "cooldown" for _, row in rows),
        by={"items_seen": "items", "epoch": "epochs"}.get(by, "items" if batches else "steps"),
        seen=seen[order] * scale,
        val_loss=losses[order],
        flops=flops if len(flops) and np.isfinite(flops).all() else None,
        schedule=_schedule(scale * column(by, rated), column("learning_rate", rated)),
    )


def _schedule(seen: Array, rate: Array) -> tuple[Array, Array] | None:
    """In the order of progress; of several rates at one place the last counts."""
    good = np.isfinite(rate) & np.isfinite(seen)
    if good.sum() < 2:
        return None
    seen, rate = seen[good][::-1], rate[good][::-1]
    places, first = np.unique(seen, return_index=True)
    return places, rate[first]
