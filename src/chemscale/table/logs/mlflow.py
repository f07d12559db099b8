"""MLflow: the plain files of `mlruns`, its SQLite store, and `mlflow.search_runs` as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemscale.table.errors import DataError
from chemscale.table.logs.rows import (
    Row,
    csv_rows,
    header,
    last_values,
    read_yaml,
    settings,
    status,
)

if TYPE_CHECKING:
    import sqlite3

Logged = tuple[str, str, str]  # what, its value, at which step
STATUS = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}


def holds_run(path: Path) -> bool:
    """Whether this meta.yaml is of a run, and not of an experiment or in the bin."""
    return b"\nrun_id:" in path.read_bytes() and ".trash" not in path.parts


def read_runs(files: Sequence[Path]) -> list[Row]:
    """A row for each run that was not deleted."""
    rows = []
    for path in files:
        meta, folder = read_yaml(path), path.parent
        if meta.get("lifecycle_stage") == "deleted":
            continue
        metrics = {
            _key(file, folder / "metrics"): _points(file)[-1]
            for file in _inside(folder / "metrics")
        }
        rows.append(_row(meta["run_id"], meta, metrics, _params(folder)))
    return rows


def history_of_run(path: Path) -> list[Row]:
    """A row for each step at which something was logged."""
    meta, folder = read_yaml(path), path.parent
    if meta.get("lifecycle_stage") == "deleted":
        return []
    logged = [
        (_key(file, folder / "metrics"), *point)
        for file in _inside(folder / "metrics")
        for point in _points(file)
    ]
    return _rows(meta["run_id"], meta, logged, _params(folder))


def holds_store(path: Path) -> bool:
    """Whether this is a SQLite store of MLflow."""
    with path.open("rb") as file:
        if file.read(15) != b"SQLite format 3":
            return False
    with closing(_open(path)) as store:
        named = store.execute("select name from sqlite_master where type = 'table'").fetchall()
    return {"runs", "params", "latest_metrics"} <= {one["name"] for one in named}


def read_store(files: Sequence[Path]) -> list[Row]:
    """A row for each run that was not deleted."""
    return [
        _row(str(run["run_uuid"]), run, {key: (value, step) for key, value, step in logged}, params)
        for path in files
        for run, logged, params in _stored(path, "latest_metrics")
    ]


def history_of_store(path: Path) -> list[Row]:
    """A row for each run and step at which something was logged."""
    return [
        row
        for run, logged, params in _stored(path, "metrics")
        for row in _rows(str(run["run_uuid"]), run, logged, params)
    ]


def _stored(path: Path, table: str) -> list[tuple[Row, list[Logged], dict[str, str]]]:
    """Of each run that was not deleted what it was, what is in a table of metrics, and settings."""
    with closing(_open(path)) as store:
        metrics: dict[str, list[Logged]] = {}
        for one in store.execute(f"select run_uuid, key, value, is_nan, step from {table}"):
            value = "nan" if one["is_nan"] else repr(one["value"])
            metrics.setdefault(one["run_uuid"], []).append((one["key"], value, str(one["step"])))
        params: dict[str, dict[str, str]] = {}
        for one in store.execute("select run_uuid, key, value from params"):
            params.setdefault(one["run_uuid"], {})[one["key"]] = one["value"]
        runs = store.execute("select * from runs where lifecycle_stage = 'active'").fetchall()
    return [
        (dict(run), metrics.get(run["run_uuid"], []), params.get(run["run_uuid"], {}))
        for run in runs
    ]


def holds_table(path: Path) -> bool:
    """Whether this CSV is what `mlflow.search_runs` returns."""
    return {"run_id", "experiment_id", "status", "artifact_uri"} <= {*header(path)}


def read_table(files: Sequence[Path]) -> list[Row]:
    """A row for each row; MLflow leaves a metric empty that is NaN."""
    rows = []
    for path in files:
        for row in csv_rows(path):
            parts: dict[str, Row] = {"metrics": {}, "params": {}, "tags": {}}
            for name, value in row.items():
                kind, dot, key = name.partition(".")
                if dot and kind in parts:
                    parts[kind][key] = value
            rows.append(
                {
                    **last_values([parts["metrics"]]),
                    **settings(parts["params"]),
                    "run": row["run_id"],
                    "status": status(row["status"]),
                }
            )
    return rows


def _row(
    run: str, meta: dict[str, Any], metrics: dict[str, tuple[str, str]], params: dict[str, str]
) -> Row:
    word = str(meta["status"])
    start, end = meta.get("start_time"), meta.get("end_time")
    return {
        **{name: value for name, (value, _) in metrics.items()},
        **settings(params),
        "run": run,
        "status": status(STATUS.get(word, word)),
        "step": max((int(step) for _, step in metrics.values()), default=None),
        "seconds": (end - start) / 1000 if start and end else None,
    }


def _rows(
    run: str, meta: dict[str, Any], logged: Sequence[Logged], params: dict[str, str]
) -> list[Row]:
    steps: dict[int, dict[str, tuple[str, str]]] = {}
    for key, value, step in logged:
        steps.setdefault(int(step), {})[key] = value, step
    return [
        _row(run, meta, metrics, params) | {"seconds": None} for _, metrics in sorted(steps.items())
    ]


def _points(path: Path) -> list[tuple[str, str]]:
    """Values and steps of whole lines `timestamp value step`."""
    lines = path.read_text(errors="replace").split("\n")
    parts = [line.split() for line in lines[:-1] or lines]
    found = [(one[1], one[2] if len(one) > 2 else "0") for one in parts if len(one) >= 2]
    if not found:
        raise DataError(f"{path}: no line of the form 'timestamp value step'")
    return found


def _params(folder: Path) -> dict[str, str]:
    return {
        _key(file, folder / "params"): file.read_text(errors="replace").strip()
        for file in _inside(folder / "params")
    }


def _inside(folder: Path) -> Iterable[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _key(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _open(path: Path) -> sqlite3.Connection:
    import sqlite3

    store = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    store.row_factory = sqlite3.Row
    return store
