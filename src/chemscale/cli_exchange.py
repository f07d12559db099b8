"""Commands that carry models in and out: export, adopt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (export, adopt):
        app.command()(command)


def export(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="Run, study (its best model), or adopted model."),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET", help="Where, not there yet: a folder; of a potential, a file .pt."
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            help="hf: a folder that transformers loads; metatomic: a potential for LAMMPS, i-PI "
            "or ASE. By default what the model can become."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Of a potential: float32 or float64; by default that of the training."),
    ] = None,
) -> None:
    """Write a trained model for other software.

    With what it should know of its making.

    Example: chemscale export my-study my-model --to hf

    Example: chemscale export my-study potential.pt --to metatomic
    """
    from chemscale import exchange
    from chemscale.progress import watching

    with watching() as watch:
        seen = exchange.export(model, target, to=to, dtype=dtype, watch=watch)
    print(target)
    print(f"checked: {seen}", file=sys.stderr)
    for fault in seen.faults:
        print(f"note: {fault}", file=sys.stderr)


def adopt(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of transformers: ChemGPT or Qwen3.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where; not there yet.")],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Take a model that looks broken too.")
    ] = False,
) -> None:
    """Take a model of transformers, such as a released ChemGPT.

    For generate, embed and export.

    Example: chemscale adopt ChemGPT-4.7M chemgpt
    """
    from chemscale import exchange

    told = exchange.adopt(source, folder, anyway=anyway)
    print(folder)
    for line in told.repairs:
        print(f"put right: {line}", file=sys.stderr)
    for line in told.limits:
        print(f"note: {line}", file=sys.stderr)
    print(f"checked: {told.gate}", file=sys.stderr)
    for fault in told.gate.faults:
        print(f"note: {fault}", file=sys.stderr)
