"""The verb `label`. Neither loading nor calling this imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemscale.table.errors import MissingPackage, UsageError

if TYPE_CHECKING:
    from chemscale.bench.using.label import Labelled

METHODS = ("conformers", "modes", "md")


def label(
    source: str | Path,
    output: str | Path,
    *,
    calculator: str = "gfn2-xtb",
    options: Mapping[str, Any] | None = None,
    methods: Sequence[str] = METHODS,
    per_molecule: int = 10,
    count: int | None = None,
    temperature: float = 300.0,
    elements: Sequence[str] = ("H", "C", "N", "O"),
    max_heavy: int = 20,
    seed: int = 0,
    column: str = "smiles",
    workers: int | None = None,
    tell: Callable[[int], None] = lambda made: None,
) -> Labelled:
    """Label structures, or make structures of molecules and label those; extended XYZ, eV, eV/Å.

    Beside the output stand OUTPUT.json (how it was made) and OUTPUT.rejects.csv (what is not in
    it, and why). Killed at any moment and called again, it goes on to the same bytes.

    Args:
        source: structures in any format of ASE, or molecules (.csv, .smi, .txt, .parquet; .gz).
        output: extended XYZ, gzip'd if it ends in .gz.
        calculator: gfn2-xtb, gfn1-xtb, or "module:Name" of a calculator class of ASE.
        options: keywords of the calculator.
        methods: of conformers, modes and md; for molecules only, as all down to `seed`.
        per_molecule: structures, shared out evenly over the methods.
        count: stop at so many structures.
        temperature: of modes and md, K.
        elements: molecules with others are rejected.
        max_heavy: heavy atoms; molecules with more are rejected.
        seed: of the random numbers, together with the canonical SMILES.
        column: of the SMILES.
        workers: processes of one thread each; default: one a core.
        tell: told now and then how many structures there are.

    Raises:
        UsageError: settings that cannot be, or an output that other settings made.
        DataError: the input cannot be read, or nothing in it could be labelled.
        MissingPackage: tblite is not installed.
    """
    source, output = Path(source).expanduser(), Path(output).expanduser()
    if unknown := sorted(set(methods) - set(METHODS)):
        raise UsageError(f"--method {','.join(unknown)}: of {', '.join(METHODS)}")
    if not methods or len(set(methods)) < len(methods):
        raise UsageError(f"--method: each at most once, of {', '.join(METHODS)}")
    for name, value in (
        ("per-molecule", per_molecule),
        ("count", 1 if count is None else count),
        ("temperature", temperature),
        ("max-heavy", max_heavy),
        ("workers", 1 if workers is None else workers),
    ):
        if not value > 0:
            raise UsageError(f"--{name} {value}: must be above zero")
    with MissingPackage.told("train", "labelling"):
        from chemscale.bench.data.encoding import num_cores
        from chemscale.bench.using import label as bench
        from chemscale.bench.using.conformers import Shape

    shape = None
    if bench.is_molecules(source):
        shape = Shape(
            tuple(methods), per_molecule, temperature, tuple(sorted(elements)), max_heavy, seed
        )
    work = bench.Work(calculator, dict(options or {}), shape)
    return bench.run(
        source,
        output,
        work,
        column=column,
        count=count,
        workers=workers or num_cores(),
        tell=bench.every(15.0, tell),
    )
