"""Weights & Biases: run folders on disk, and tables exported from its pages."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chemscale.table.errors import DataError, MissingPackage
from chemscale.table.logs.rows import (
    Row,
    csv_rows,
    header,
    last_values,
    read_yaml,
    settings,
    status,
)

BLOCK = 32_768  # of the log, as LevelDB writes it: records in pieces, none across a block
HEAD = 7  # of the file, and of a piece: checksum, length, kind
WHOLE, FIRST, LAST = 1, 2, 4
OUR_NAMES = {"_step": "step", "_runtime": "seconds", "Runtime": "seconds"}


def read_run(files: Sequence[Path]) -> list[Row]:
    """A row for each `run-….wandb`: what was logged last, the settings, how it ended."""
    rows = []
    for path in files:
        summary, logged, config, ended = _log(path)
        last = {name: value for row in (summary, *logged) for name, value in row.items()}
        rows.append(_row(path.parent, last, config) | ended)
    return rows


def history_of_run(path: Path) -> list[Row]:
    """A row each time that something was logged."""
    _, logged, config, ended = _log(path)
    return [_row(path.parent, row, config) | ended for row in logged]


def _log(path: Path) -> tuple[Row, list[Row], Row, Row]:
    """Summary, history, settings and status.

    Raises:
        MissingPackage: wandb is not installed.
    """
    try:
        from wandb.proto.wandb_internal_pb2 import Record
    except ImportError:
        raise MissingPackage.of("wandb", "track", str(path)) from None

    summary: dict[str, Any] = {}
    logged: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    ended = "running"
    for data in _records(path.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            _update(config, record.run.config.update)
        elif kind == "config":
            _update(config, record.config.update)
        elif kind == "summary":
            _update(summary, record.summary.update)
        elif kind == "history":
            logged.append(_update({}, record.history.item))
        elif kind == "exit":
            ended = "failed" if record.exit.exit_code else "finished"
    return summary, logged, config, {"status": status(ended)}


def holds_summary(path: Path) -> bool:
    """Whether this is all that is left of a run: its log, which tells more, is not there."""
    return not any(path.parent.parent.glob("*.wandb"))


def read_summary(files: Sequence[Path]) -> list[Row]:
    """A row for a folder `files`: `wandb-summary.json`, with `config.yaml` beside it."""
    rows = []
    for path in files:
        try:
            summary = json.loads(path.read_text(errors="replace"))
        except ValueError as error:
            raise DataError(f"{path}: not valid JSON: {error}") from None
        beside = path.with_name("config.yaml")
        told = read_yaml(beside) if beside.is_file() else {}
        config = {
            name: one["value"]
            for name, one in told.items()
            if isinstance(one, dict) and "value" in one
        }
        rows.append(_row(path.parent, summary, config))
    return rows


def holds_export(path: Path) -> bool:
    """Whether this CSV is a table of runs, exported from the page of a project."""
    return {"Name", "State"} <= {*header(path)}


def read_export(files: Sequence[Path]) -> list[Row]:
    """A row for each run. The table does not tell settings from results; text is a setting."""
    rows = [row for path in files for row in csv_rows(path)]
    named = Counter(row["Name"] for row in rows)
    found = []
    for number, row in enumerate(rows, start=1):
        ours = {OUR_NAMES.get(name, name): value for name, value in row.items()}
        name, state = ours.pop("Name"), ours.pop("State")
        alone = name if named[name] == 1 else f"{name} row {number}"  # names may be given again
        run = ours.pop("ID", None) or alone
        found.append({**last_values([ours]), "run": run, "status": status(state)})
    return found


def holds_frame(path: Path) -> bool:
    """Whether this CSV is the frame of runs that the pages of W&B show how to make."""
    return {"summary", "config", "name"} <= {*header(path)}


def read_frame(files: Sequence[Path]) -> list[Row]:
    """A row for each run; its summary and config are dicts as Python writes them."""
    rows = []
    for path in files:
        for number, row in enumerate(csv_rows(path), start=1):
            summary, config = (_dict(f"{path} row {number}", row[k]) for k in ("summary", "config"))
            rows.append(_row(Path(f"{row['name']} row {number}"), summary, config))
    return rows


def _dict(where: str, text: str | None) -> dict[str, Any]:
    try:
        found = ast.literal_eval(re.sub(r": (-?(?:nan|inf))\b", r": '\1'", text or "{}"))
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{where}: not a dict of Python: {error}") from None
    return dict(found)


def holds_history(path: Path) -> bool:
    """Whether this CSV is the history of a run, as `run.history()` gives it."""
    return {"_step", "_timestamp"} <= {*header(path)}


def history(path: Path) -> list[Row]:
    """All its rows."""
    run = path.with_suffix("").as_posix()
    rows = csv_rows(path)
    return [{OUR_NAMES.get(name, name): row[name] for name in row} | {"run": run} for row in rows]


def read_history(files: Sequence[Path]) -> list[Row]:
    """A row for each file."""
    rows = []
    for path in files:
        last = last_values(csv_rows(path))
        last.pop("", None)  # the index of the frame
        rows.append(_row(path.with_suffix(""), last, {}))
    return rows


def holds_chart(path: Path) -> bool:
    """Whether this CSV was exported from a chart: of each run a line with its bounds."""
    names = {*header(path)}
    return any(name.endswith("__MIN") and name[: -len("__MIN")] in names for name in names)


def history_of_chart(path: Path) -> list[Row]:
    """A row for each point; `RUN - METRIC` names a line, and its bounds are left out."""
    rows = []
    for row in csv_rows(path):
        names = [*row]
        x = {"Step": "step"}.get(names[0], names[0])
        for name in names:
            run, dash, metric = name.rpartition(" - ")
            if dash and not name.endswith(("__MIN", "__MAX")) and row[name]:
                rows.append({"run": run, x: row[names[0]], metric: row[name]})
    return rows


def read_chart(files: Sequence[Path]) -> list[Row]:
    """A row for each line's run, with its last values."""
    found: dict[str, Row] = {}
    for path in files:
        for row in history_of_chart(path):
            found[row["run"]] = found.get(row["run"], {}) | row
    return [*found.values()]


def _row(run: Path, logged: dict[str, Any], config: dict[str, Any]) -> Row:
    ours = {
        OUR_NAMES.get(name, name): value
        for name, value in logged.items()
        if name in OUR_NAMES or not name.startswith("_")
    }
    mine = {name: value for name, value in config.items() if not name.startswith("_")}
    return {**last_values([ours]), **settings(mine), "run": run.as_posix()}


def _update(found: dict[str, Any], items: Any) -> dict[str, Any]:
    for item in items:
        found[".".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return found


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a log; a last one that is cut off is left out."""
    at, parts = HEAD, b""
    while at + HEAD <= len(data):
        if (left := BLOCK - at % BLOCK) < HEAD:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        piece = data[at + HEAD : at + HEAD + length]
        if len(piece) < length:
            return
        parts = piece if kind in (WHOLE, FIRST) else parts + piece
        at += HEAD + length
        if kind in (WHOLE, LAST):
            yield parts
