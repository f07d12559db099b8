"""Points: what the laws are fitted to, from a study's runs or from anybody's table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chemscale.table.columns import Columns
from chemscale.table.errors import DataError, StudyError
from chemscale.table.logs.reading import UNKNOWN, format_of, read_logs
from chemscale.table.results import Point, Trained
from chemscale.table.spreadsheet import (
    float_in,
    is_number,
    meant_by,
    number_in,
    read_table,
    require,
)

REQUIRED = ("family", "num_params", "num_train")
MODEL = (*REQUIRED, "seed")  # what a run has one of, however many rows
SETTINGS = "config."  # begins the name of a setting, in logs of other trainers
COUNTS = ("num_params", "num_params_total", "num_train", "seed", "batch_size", "items_seen")
NUMBERS = ("learning_rate", "flops", "seconds", "joules")
SPEEDS = ("hours", "items_per_second")  # from which seconds follow
PROGRESS = ("step", "items_seen", "epoch")  # the first that is there says which row is the last
# Known columns that say where a row stands, or how much has passed through; not metrics.
PASSING = (
    *("run", "role", "size", "unit", "epoch", "step", "phase", "status", "ending", "max_items"),
    *("unique_items", "tokens_unique", "tokens_seen", "atoms_seen", "edges_seen", "flops_spent"),
)


def points_of(trained: Iterable[Trained]) -> list[Point]:
    """One point a run that the study still asks for, sweep first."""
    return [point_of(one) for one in trained if one.roles]


def point_of(one: Trained) -> Point:
    """An ended run as a point; its role is the first that counts."""
    run, outcome = one.run, one.outcome
    losses = dict(outcome.metrics.get("test", {}))
    losses |= {f"shift_{name}": value for name, value in outcome.metrics.get("shift", {}).items()}
    order = ("sweep", "check", "finish", "search")
    plans = [role for role in one.roles if role not in order]
    role = plans[0] if plans else min(one.roles, key=order.index, default="unused")
    return Point(
        run=run.id,
        family=run.trunk.family,
        size=run.size,
        num_params=outcome.num_params,
        num_params_total=outcome.num_params_total,
        num_train=run.trunk.num_train,
        unit=run.unit,
        seed=run.trunk.seed,
        learning_rate=run.trunk.recipe.learning_rate,
        batch_size=run.trunk.recipe.batch_size,
        items_seen=outcome.items_seen,
        flops=outcome.flops,
        seconds=outcome.seconds,
        joules=outcome.joules,
        ending=outcome.ending,
        status=outcome.status,
        cooled=run.length.cooldown,
        role="sweep" if "sweep" in one.roles else role,
        max_items=run.length.items,
        losses=losses,
    )


def write_points(points: Sequence[Point]) -> bytes:
    """Points as CSV in the open schema: what `read_points` reads."""
    from chemscale.table.files import table

    metrics = sorted({name for p in points for name in (*p.losses, *p.non_finite)})
    apart = ("losses", "non_finite", "cooled")
    plain = [name for name in Point.model_fields if name not in apart]
    rows = [
        {name: getattr(point, name) for name in plain}
        | {"phase": "cooldown" if point.cooled else "stable"}
        | {
            ("test_loss" if m == "loss" else m): point.losses.get(m, point.non_finite.get(m))
            for m in metrics
        }
        for point in points
    ]
    return table(rows)


def read_points(path: Path, columns: Columns | None = None) -> list[Point]:
    """Read a CSV or Parquet table in the documented schema, or the logs of another trainer.

    The last row of each run counts. `columns` says which of its columns are ours under another
    name, and what is constant.

    Raises:
        DataError: a required column is missing, or a value is not a number; says which row.
    """
    return points_in(read_rows(path, columns), str(path))


def read_rows(path: Path, columns: Columns | None = None) -> list[dict[str, Any]]:
    """The rows of a table, or of logs a row for each run, under our names.

    A table without families is of one, which has its path for a name.

    Raises:
        DataError: it cannot be read, or lacks a column that is asked for.
    """
    of_logs = path.is_dir() or format_of(path) is not None
    rows = read_logs(path) if of_logs else read_table(path)
    rows = (columns or Columns()).applied(rows, str(path))
    if not rows:
        raise DataError(f"{path}: the table has no rows")
    alone = {*REQUIRED} - {*rows[0]} == {"family"} and meant_by("family", rows[0]) is None
    if alone and not of_logs:
        return [{"family": str(path)} | row for row in rows]
    return rows


def points_in(rows: Sequence[Mapping[str, Any]], where: str) -> list[Point]:
    """Points of rows; a run is what agrees in `run`, or else in family, amounts and settings.

    Raises:
        DataError: as `read_points`.
    """
    require(rows, REQUIRED, where, "family, num_params, num_train and a loss")
    known = {*COUNTS, *NUMBERS, *SPEEDS, *PASSING, *REQUIRED}
    named = [name for name in rows[0] if name not in known and not name.startswith(SETTINGS)]
    metrics = [name for name in named if any(is_number(row[name]) for row in rows)]
    if not metrics:
        of_text = f"; {', '.join(named)}: no cell there is a number" if named else ""
        raise DataError(
            f"{where}: no loss column, such as test_loss or force_mae{of_text}. Where it has "
            "another name, that is fine: any further column of numbers is a metric"
        )
    passing = next((name for name in PROGRESS if name in rows[0]), None)
    last: dict[tuple[Any, ...], tuple[int, Mapping[str, Any]]] = {}
    for number, row in enumerate(rows, start=1):
        keys = ("run",) if row.get("run") else (*MODEL, "learning_rate", "batch_size")
        key = tuple(str(row.get(name, "")) for name in keys)
        before = last.get(key)
        if before is not None:
            if not row.get("run") and passing is None and row != before[1]:
                differ = [name for name in row if row[name] != before[1].get(name)]
                mapped = ",".join(
                    f"{name}={theirs}"
                    for name in ("learning_rate", "batch_size")
                    if (theirs := meant_by(name, differ))
                )
                raise DataError(
                    f"{where} row {number}: the same family, amounts and settings as row "
                    f"{before[0]}, and another {', '.join(differ)}. If they are runs of their own, "
                    "tell them apart by a column seed or run (--columns run=ITS-NAME)"
                    + f", by their settings (--columns {mapped})"
                    * bool(mapped)
                    + ", or leave one kind out; if one run evaluated again, say when by a "
                    "column step"
                )
            _refuse_two_models(where, before, (number, row))
        if before is None or _when(where, number, row, passing) >= _when(where, *before, passing):
            last[key] = (number, row)
    _refuse_unread_rates(where, [row for _, row in last.values()])
    phases = {str(row.get("phase") or "") for _, row in last.values()}
    if not phases & {"", "cooldown", UNKNOWN} and not phases <= {"warmup", "stable"}:
        raise DataError(
            f"{where}: no run has the phase cooldown; there are {', '.join(sorted(phases))}. Write "
            "cooldown, or nothing, in the rows where it had ended: others are losses from the "
            "middle of a schedule, which are not those of shorter runs"
        )
    unknown = [row for _, row in last.values() if row.get("phase") == UNKNOWN]
    if unknown:
        raise DataError(
            f"{where}: nothing says whether {len(unknown)} of {len(last)} runs had ended, such as "
            f"{unknown[0].get('run')}. A loss from the middle of a schedule is not that of a "
            "shorter run. If each had reached the end of its schedule: --set phase=cooldown; else "
            "leave out the logs of those that had not"
        )
    return [_tabled(where, number, row, metrics) for number, row in last.values()]


def _refuse_unread_rates(where: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse runs that differ in a learning rate which only their logs tell: they are no seeds."""
    if not rows or "learning_rate" in rows[0]:
        return
    for name in rows[0]:
        if not name.startswith(SETTINGS) or name.split(".")[-1] not in ("lr", "learning_rate"):
            continue
        tried: dict[tuple[str, ...], set[str]] = {}
        for row in rows:
            cell = tuple(str(row.get(one)) for one in MODEL[:3])
            tried.setdefault(cell, set()).add(str(row[name]))
        most = max(map(len, tried.values()))
        if most > 1:
            raise DataError(
                f"{where}: runs of one size and amount differ in {name} ({most} values), so "
                f"they are no seeds of each other. Add learning_rate={name} to --columns, and "
                "of each the best is fitted; or leave all but one out"
            )


def _when(where: str, number: int, row: Mapping[str, Any], passing: str | None) -> float:
    return (passing and number_in(where, number, row, passing)) or 0.0


def _refuse_two_models(
    where: str, one: tuple[int, Mapping[str, Any]], other: tuple[int, Mapping[str, Any]]
) -> None:
    def value(name: str, number: int, row: Mapping[str, Any]) -> object:
        return row.get(name) if name == "family" else number_in(where, number, row, name)

    for name in MODEL:
        before, after = value(name, *one), value(name, *other)
        if before != after:
            raise DataError(
                f"{where} row {other[0]}: run {other[1].get('run')!r} has {name} {after}, and "
                f"{before} in row {one[0]}. A run is one model on one training set: give each a "
                "name of its own in the column run"
            )


def _tabled(where: str, number: int, row: Mapping[str, Any], metrics: Sequence[str]) -> Point:
    def value(name: str) -> float | None:
        return number_in(where, number, row, name)

    read = {name: v for name in metrics if (v := float_in(where, number, row, name)) is not None}
    if "test_loss" in read:
        read.setdefault("loss", read.pop("test_loss"))
    for name in REQUIRED[1:]:
        if not (value(name) or 0) > 0:
            raise DataError(f"{where} row {number}: {name} must be above 0, got {row[name]!r}")
    if not row["family"]:
        raise DataError(f"{where} row {number}: no family; give it a name")
    fields: dict[str, Any] = {}
    for name in COUNTS:
        if (v := value(name)) is not None:
            fields[name] = round(v)
            if abs(v - fields[name]) > 1e-3 * abs(v):
                raise DataError(
                    f"{where} row {number}: {name} must be a whole number, got {row[name]!r}: one "
                    "by one, not in thousands or millions"
                )
    fields |= {name: v for name in NUMBERS if (v := value(name)) is not None}
    if "seconds" not in fields and (seconds := _seconds(value, fields.get("items_seen"))):
        fields["seconds"] = seconds
    num_params = fields["num_params"]
    fields.setdefault("num_params_total", num_params)
    fields.setdefault("seed", 0)
    text = {
        name: str(row[name])
        for name in ("unit", "ending", "status", "role")
        if row.get(name) not in (None, "")
    }
    phase = row.get("phase")
    return _checked(
        {
            "run": str(row.get("run") or f"{where} row {number}"),
            "family": str(row["family"]),
            "size": str(row.get("size") or f"{num_params:,} parameters"),
            "unit": "item",
            "cooled": phase in (None, "", "cooldown"),
            "losses": {name: v for name, v in read.items() if math.isfinite(v)},
            "non_finite": {name: f"{v:g}" for name, v in read.items() if not math.isfinite(v)},
            **({"max_items": int(v)} if (v := value("max_items")) is not None else {}),
            **fields,
            **text,
        },
        f"{where} row {number}",
    )


def _seconds(value: Callable[[str], float | None], items_seen: int | None) -> float | None:
    hours, speed = (value(name) for name in SPEEDS)
    if hours is not None:
        return 3600 * hours
    return items_seen / speed if items_seen and speed else None


def _checked(data: Mapping[str, Any], where: str) -> Point:
    try:
        return Point.read(data, where)
    except StudyError as error:
        raise DataError(str(error)) from None
