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
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where; not there yet.")],
    to: Annotated[str, typer.Option(help="hf: a folder that transformers loads.")] = "hf",
) -> None:
    """Write a trained language model for another library, with a card that says how it was made.

    Example: chemscale export my-study my-model --to hf
    """
    from chemscale import exchange
    from chemscale.progress import watching

    with watching() as watch:
        seen = exchange.export(model, folder, to=to, watch=watch)
    print(folder)
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
    """Take a model of transformers, such as a released ChemGPT, for generate, embed and export.

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
