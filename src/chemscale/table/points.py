"""Points: what the laws are fitted to, from a study's runs or from anybody's table."""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chemscale.table.columns import Columns
from chemscale.table.errors import DataError
from chemscale.table.logs.reading import UNKNOWN, format_of, read_logs
from chemscale.table.results import Point, Trained

REQUIRED = ("family", "num_params", "num_train")
MODEL = (*REQUIRED, "seed")  # what a run has one of, however many rows
SETTINGS = "config."  # begins the name of a setting, in logs of other trainers
COUNTS = ("num_params", "num_params_total", "num_train", "seed", "batch_size", "items_seen")
NUMBERS = ("learning_rate", "flops", "seconds", "joules")
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

    Raises:
        DataError: it cannot be read, or lacks a column that is asked for.
    """
    rows = read_logs(path) if path.is_dir() or format_of(path) else _rows(path)
    rows = (columns or Columns()).applied(rows, str(path))
    if not rows:
        raise DataError(f"{path}: the table has no rows")
    return rows


def points_in(rows: Sequence[Mapping[str, Any]], where: str) -> list[Point]:
    """Points of rows; a run is what agrees in `run`, or else in family, amounts and settings.

    Raises:
        DataError: as `read_points`.
    """
    missing = [name for name in REQUIRED if name not in rows[0]]
    if missing:
        raise DataError(
            f"{where}: no column {', '.join(missing)}; there are {_told(rows[0])}. "
            "Required: family, num_params, num_train and a loss. Where it has another name: "
            f"--columns {missing[0]}=ITS-NAME; where it is the same for all rows: "
            f"--set {missing[0]}=VALUE"
        )
    known = {*COUNTS, *NUMBERS, *PASSING, *REQUIRED}
    metrics = [name for name in rows[0] if name not in known and not name.startswith(SETTINGS)]
    if not metrics:
        raise DataError(f"{where}: no loss column, such as test_loss or force_mae")
    last: dict[tuple[Any, ...], tuple[int, Mapping[str, Any]]] = {}
    for number, row in enumerate(rows, start=1):
        keys = ("run",) if row.get("run") else (*MODEL, "learning_rate", "batch_size")
        key = tuple(str(row.get(name, "")) for name in keys)
        step = _number(where, number, row, "step") or 0.0
        before = last.get(key)
        if before is None or step >= (_number(where, before[0], before[1], "step") or 0.0):
            last[key] = (number, row)
        if before is not None:
            _refuse_two_models(where, before, (number, row))
    unknown = [row for _, row in last.values() if row.get("phase") == UNKNOWN]
    if unknown:
        raise DataError(
            f"{where}: nothing says whether {len(unknown)} of {len(last)} runs had ended, such as "
            f"{unknown[0].get('run')}. A loss from the middle of a schedule is not that of a "
            "shorter run. If each had reached the end of its schedule: --set phase=cooldown; else "
            "leave out the logs of those that had not"
        )
    return [_tabled(where, number, row, metrics) for number, row in last.values()]


def _told(names: Iterable[str], most: int = 80) -> str:
    shown = [*names]
    more = f" and {len(shown) - most} more (`fit --table` writes all)" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def _refuse_two_models(
    where: str, one: tuple[int, Mapping[str, Any]], other: tuple[int, Mapping[str, Any]]
) -> None:
    def value(name: str, number: int, row: Mapping[str, Any]) -> object:
        return row.get(name) if name == "family" else _number(where, number, row, name)

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
        return _number(where, number, row, name)

    read = {name: v for name in metrics if (v := _float(where, number, row, name)) is not None}
    if "test_loss" in read:
        read.setdefault("loss", read.pop("test_loss"))
    num_params = value("num_params")
    for name in REQUIRED[1:]:
        if not (value(name) or 0) > 0:
            raise DataError(f"{where} row {number}: {name} must be above 0, got {row[name]!r}")
    fields: dict[str, Any] = {name: int(v) for name in COUNTS if (v := value(name)) is not None} | {
        name: v for name in NUMBERS if (v := value(name)) is not None
    }
    fields.setdefault("num_params_total", int(num_params or 0))
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
            "size": str(row.get("size") or f"{int(num_params or 0):,} parameters"),
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


def _checked(data: Mapping[str, Any], where: str) -> Point:
    try:
        return Point.read(data, where)
    except Exception as error:
        raise DataError(str(error)) from None


def _rows(path: Path) -> list[dict[str, Any]]:
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            import pyarrow.parquet

            rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
            return rows
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from None
    rows = list(csv.DictReader(io.StringIO(text)))
    return [{str(key).strip(): value for key, value in row.items()} for row in rows]


def _number(where: str, number: int, row: Mapping[str, Any], name: str) -> float | None:
    found = _float(where, number, row, name)
    return found if found is not None and math.isfinite(found) else None


def _float(where: str, number: int, row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{where} row {number}: {name} is not a number: {value!r}") from None
