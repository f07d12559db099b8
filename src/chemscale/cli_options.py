"""Arguments and options that several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

Sources = Annotated[
    list[Path], typer.Argument(metavar="STUDY...", help="Study folders, tables, or logs.")
]
ColumnNames = Annotated[
    list[str] | None,
    typer.Option(
        "--columns", help="Of tables and logs, ours=theirs: num_train=dataset_size,test_loss=rmse."
    ),
]
Constants = Annotated[
    list[str] | None,
    typer.Option("--set", help="Of tables and logs, the same in all rows: family=painn."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def whole(text: str) -> int:
    """A number of items as people write it: 1000000, 1e6 or 1M."""
    from chemscale.table.spreadsheet import amount

    try:
        number = amount(text)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise ValueError(f"{text!r} is no whole number; write it as 1000000, 1e6 or 1M")
    return int(number)
