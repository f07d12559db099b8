"""NequIP up to 0.6: `metrics_epoch.csv`, with `config.yaml` and `log` beside it.

Later ones log by Lightning.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chemscale.table.logs.rows import (
    Row,
    csv_rows,
    header,
    last_values,
    matched,
    read_yaml,
    settings,
)

TOLD = {"num_params": r"Number of weights: (\d+)"}
FROM_CONFIG = {"n_train": "num_train", "batch_size": "batch_size", "seed": "seed"}


def holds(path: Path) -> bool:
    """Whether this is NequIP's table of epochs."""
    return {"epoch", "wall", "LR"} <= {*header(path)}


def history(path: Path) -> list[Row]:
    """All rows, each with the settings of the run."""
    return [{**row, **_told(path)} for row in csv_rows(path)]


def _told(path: Path) -> Row:
    found: Row = {"run": path.parent.as_posix(), "unit": "structure"}
    if (config := path.with_name("config.yaml")).is_file():
        told = read_yaml(config)
        found |= settings(told)
        found |= {ours: told[its] for its, ours in FROM_CONFIG.items() if its in told}
    return found


def read(files: Sequence[Path]) -> list[Row]:
    """A row for each file; errors are those on validation, in the units of the data."""
    rows = []
    for path in files:
        row = last_values(csv_rows(path))
        row["seconds"] = row.pop("wall", None)
        row |= _told(path)
        if (log := path.with_name("log")).is_file():
            text = log.read_text(errors="replace")
            row |= matched(text, TOLD)
            ended = text.rfind("! Stop training") > text.rfind("! Starting training")
            row["status"] = "finished" if ended else "stopped_early"
        rows.append(row)
    return rows
