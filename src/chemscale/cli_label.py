"""The command that buys labels: label."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from chemscale.table.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(label)


def label(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Structures (as ASE reads), or SMILES.")
    ],
    output: Annotated[Path, typer.Option(help="Extended XYZ; gzip'd if named .gz.")],
    calculator: Annotated[
        str, typer.Option(help="gfn2-xtb, gfn1-xtb, or module:Name of a class of ASE.")
    ] = "gfn2-xtb",
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the calculator; repeatable.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="How structures are made of SMILES.")
    ] = "conformers,modes,md",
    per_molecule: Annotated[int, typer.Option(help="Structures of a molecule.")] = 10,
    count: Annotated[int | None, typer.Option(help="Stop at so many structures.")] = None,
    temperature: Annotated[float, typer.Option(help="Of modes and md, K.")] = 300.0,
    elements: Annotated[str, typer.Option(help="Molecules with others are rejected.")] = "H,C,N,O",
    max_heavy: Annotated[int, typer.Option(help="Molecules with more are rejected.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 0,
    column: Annotated[str, typer.Option(help="Of the SMILES, in any case.")] = "smiles",
    workers: Annotated[int | None, typer.Option(help="Default: one a core.")] = None,
) -> None:
    """Compute energies and forces of structures, or of molecules.

    GFN2-xTB by default; molecules become structures first.

    Run the same again after an interruption: it goes on, to the same bytes.

    Example: chemscale label qm9.csv --output qm9.extxyz.gz --count 2000
    """
    from chemscale import labelling

    told = labelling.label(
        source,
        output,
        calculator=calculator,
        options=_options(option or []),
        methods=[name.strip() for name in method.split(",") if name.strip()],
        per_molecule=per_molecule,
        count=count,
        temperature=temperature,
        elements=[name.strip() for name in elements.split(",")],
        max_heavy=max_heavy,
        seed=seed,
        column=column,
        workers=workers,
        tell=lambda made: print(f"{made:,} structures", file=sys.stderr),
    )
    print(told.path)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in told.config_types.items())
    print(f"{told.structures:,} structures: {kinds}", file=sys.stderr)
    twins = f", of them {told.duplicates:,} met before" if told.duplicates else ""
    print(f"{told.rejects:,} rejected{twins}: {told.path}.rejects.csv", file=sys.stderr)
    print(f"{told.cpu_seconds:.1f} s of processors", file=sys.stderr)


def _options(pairs: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--option {pair}: give KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found
