"""Lightning's CSVLogger: `metrics.csv` in a folder of its own, `hparams.yaml` beside it.

Settings also come from `.hydra/config.yaml` of the folder that Hydra made for the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chemscale.table.logs.rows import Row, csv_rows, header, last_values, read_yaml, settings

DEPTH = 4  # of the logger's folder below Hydra's


def holds(path: Path) -> bool:
    """Whether this is a metrics.csv of CSVLogger and no table of runs."""
    names = header(path)
    return "step" in names and "num_train" not in names


def read(files: Sequence[Path]) -> list[Row]:
    """A row for each file."""
    return [
        {**last_values(csv_rows(path)), **hparams(path.parent), "run": path.parent.as_posix()}
        for path in files
    ]


def history(path: Path) -> list[Row]:
    """All rows, each with the settings of the run."""
    told = {**hparams(path.parent), "run": path.parent.as_posix()}
    return [{**row, **told} for row in csv_rows(path)]


def hparams(folder: Path) -> Row:
    """What a run was set to, by Hydra and by `save_hyperparameters`."""
    found: Row = {}
    for above in (folder, *folder.parents[:DEPTH]):
        if (above / ".hydra" / "config.yaml").is_file():
            found |= settings(read_yaml(above / ".hydra" / "config.yaml"))
            break
    if (folder / "hparams.yaml").is_file():
        found |= settings(read_yaml(folder / "hparams.yaml"))
    return found
