"""The data that comes with the package; `examples/README.md` says how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chemscale.bench.data.base import Dataset, Progress, open_dataset, silent
from chemscale.table.records import DatasetSpec

FOLDER = Path(__file__).parent / "examples"


def molecules(progress: Progress = silent, **options: Any) -> Dataset:
    """40,000 drug-like molecules enumerated by reactions over building blocks."""
    given = {"format": "csv", "path": "molecules.csv.gz", **options}
    return open_dataset(DatasetSpec.read(given, "example-molecules"), FOLDER, progress)


def structures(progress: Progress = silent, **options: Any) -> Dataset:
    """Conformers, normal modes and MD of 83 small CHNO molecules, GFN2-xTB energies and forces.

    Whole molecules are held out: test and validation hold molecules never trained on.
    """
    defaults = {"group": "smiles", "validation": 0.1, "test": 0.15}
    given = {"format": "extxyz", "path": "structures.xyz.gz", **defaults, **options}
    return open_dataset(DatasetSpec.read(given, "example-structures"), FOLDER, progress)
