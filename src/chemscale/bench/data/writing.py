"""Items of a dataset as files for other programs: extended XYZ, or a CSV of SMILES."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write

from chemscale.bench.data.base import Dataset, Indices
from chemscale.bench.data.graphs import Structures
from chemscale.bench.data.tokens import Molecules
from chemscale.table.errors import DataError


def write_items(
    dataset: Dataset,
    items: Indices,
    path: Path,
    energy_key: str,
    forces_key: str,
    stress_key: str | None = None,
) -> None:
    """Write items in the order given.

    Structures are in Å, eV, eV/Å and eV/Å³, their labels under the keys named; without a key no
    stress is written, nor for a structure that has none. Molecules are canonical SMILES in the
    column `smiles`.

    Raises:
        DataError: this dataset is of another kind.
    """
    if isinstance(dataset, Structures):
        frames = [_atoms(dataset, item, energy_key, forces_key, stress_key) for item in items]
        write(path, frames, format="extxyz")
    elif isinstance(dataset, Molecules):
        path.write_text("\n".join(["smiles", *dataset.smiles(items)]) + "\n")
    else:
        raise DataError(f"{dataset.where}: items of this dataset cannot be written to files")


def num_atoms(dataset: Dataset, items: Indices) -> int:
    """Atoms of structures; 0 where items are none."""
    if not isinstance(dataset, Structures):
        return 0
    return int((dataset.start[items + 1] - dataset.start[items]).sum())


def _atoms(
    dataset: Structures, item: int, energy_key: str, forces_key: str, stress_key: str | None
) -> Atoms:
    arrays = dataset.arrays
    inside = slice(*dataset.start[item : item + 2])
    atoms = dataset.atoms(int(item))
    atoms.info = {energy_key: float(arrays["energy"][item])}
    atoms.arrays[forces_key] = np.array(arrays["forces"][inside])
    if stress_key is not None and np.isfinite(arrays["stress"][item]).all():
        atoms.info[stress_key] = arrays["stress"][item].reshape(9)  # ASE writes (3, 3) as JSON
    if arrays["charge"].any() or arrays["unpaired"].any():
        atoms.info["charge"] = int(arrays["charge"][item])
        atoms.info["spin"] = int(arrays["unpaired"][item]) + 1  # 2S + 1
    return atoms
