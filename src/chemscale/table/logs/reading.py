"""Finds the logs of other trainers by what the files are, and reads each run into a row.

A row is the end of a run: `run`, the last value of everything that was logged, `status` where the
log tells how it ended (else `phase` is `unknown`), and its settings as `config.…`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from chemscale.table.errors import DataError
from chemscale.table.logs import lightning, mace, mlflow, nequip, tensorboard, wandb
from chemscale.table.logs.rows import Row, alike

UNKNOWN = "unknown"  # phase of a run whose log does not tell whether it had ended


@dataclass(frozen=True)
class Format:
    """How one trainer writes: the name of its file, what the file is, how it is read."""

    title: str
    file: str  # pattern of the name
    holds: Callable[[Path], bool]
    read: Callable[[Sequence[Path]], list[Row]]  # all such files of one folder
    history: Callable[[Path], list[Row]] | None = None  # a row for each evaluation, of one file


# Of two in one folder the first counts: loggers that were used side by side saw the same run.
FORMATS = (
    Format(
        "Lightning's CSVLogger", "metrics.csv", lightning.holds, lightning.read, lightning.history
    ),
    Format("NequIP up to 0.6", "metrics_epoch.csv", nequip.holds, nequip.read, nequip.history),
    Format("MACE", f"*{mace.END}", mace.holds, mace.read, mace.history),
    Format("Weights & Biases", "*.wandb", Path.is_file, wandb.read_run, wandb.history_of_run),
    Format("Weights & Biases", "wandb-summary.json", wandb.holds_summary, wandb.read_summary),
    Format("an export of Weights & Biases", "*.csv", wandb.holds_export, wandb.read_export),
    Format("the API of Weights & Biases", "*.csv", wandb.holds_frame, wandb.read_frame),
    Format(
        "a history of Weights & Biases",
        "*.csv",
        wandb.holds_history,
        wandb.read_history,
        wandb.history,
    ),
    Format(
        "a chart of Weights & Biases",
        "*.csv",
        wandb.holds_chart,
        wandb.read_chart,
        wandb.history_of_chart,
    ),
    Format("MLflow", "meta.yaml", mlflow.holds_run, mlflow.read_runs, mlflow.history_of_run),
    Format(
        "MLflow's store", "*.db", mlflow.holds_store, mlflow.read_store, mlflow.history_of_store
    ),
    Format("mlflow.search_runs", "*.csv", mlflow.holds_table, mlflow.read_table),
    Format(
        "TensorBoard", tensorboard.NAME, tensorboard.holds, tensorboard.read, tensorboard.history
    ),
)


def format_of(path: Path) -> Format | None:
    """Which trainer wrote this file, or None."""
    for one in FORMATS:
        if fnmatch(path.name, one.file) and one.holds(path):
            return one
    return None


def read_logs(path: Path) -> list[Row]:
    """Read a log, or all logs in a folder and the folders in it, a row for each run.

    Raises:
        DataError: there are none, or of two formats.
    """
    found: dict[str, list[Row]] = {}
    for one, files in _logs(path):
        found.setdefault(one.title, []).extend(one.read(files))
    if not found:
        known = "; ".join(f"{one.file} ({one.title})" for one in FORMATS)
        raise DataError(f"{path}: no study.toml and no log here. Logs that are read: {known}")
    if len(found) > 1:
        told = " and ".join(f"{len(rows)} by {title}" for title, rows in found.items())
        raise DataError(
            f"{path}: holds {told}, perhaps of the same runs; give the folder or files of one"
        )
    (rows,) = found.values()
    return alike([row | ({} if row.get("status") else {"phase": UNKNOWN}) for row in rows])


def read_histories(path: Path) -> list[Row]:
    """Read all logs in a folder as `read_logs`, a row for each evaluation.

    Raises:
        DataError: there are none, or their evaluations are not read.
    """
    rows: list[Row] = []
    for one, files in _logs(path):
        if one.history is None:
            known = ", ".join(each.title for each in FORMATS if each.history)
            raise DataError(
                f"{files[0]}: of {one.title} only the last values are read; every evaluation of "
                f"{known}. Else give a table with a row for each evaluation: run, step, val_loss"
            )
        rows += [row for file in files for row in one.history(file)]
    if not rows:
        raise DataError(f"{path}: no study.toml and no log of a run here")
    return alike(rows)


def _logs(path: Path) -> Iterator[tuple[Format, list[Path]]]:
    if path.is_file():
        one = format_of(path)
        if one:
            yield one, [path]
        return
    for folder, inside, names in os.walk(path):
        inside.sort()
        files = [Path(folder, name) for name in sorted(names)]
        for one in FORMATS:
            mine = [file for file in files if fnmatch(file.name, one.file) and one.holds(file)]
            if mine:
                yield one, mine
                break
