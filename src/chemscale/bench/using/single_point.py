"""Energy and forces of one structure, by GFN-xTB or any calculator of ASE."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.io import write
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

from chemscale.bench.data.structure_files import electrons
from chemscale.table.errors import MissingPackage, UsageError

XTB = {"gfn2-xtb": "GFN2-xTB", "gfn1-xtb": "GFN1-xTB"}
XTB_ELEMENTS = frozenset(chemical_symbols[1:87])  # H to Rn


def version_of(name: str, elements: Iterable[str]) -> str:
    """The version of a calculator, asked before compute is spent.

    Args:
        name: gfn2-xtb, gfn1-xtb, or module:Name of a class of ASE.
        elements: that it will meet, as far as that is known.

    Raises:
        MissingPackage: tblite is not installed.
        UsageError: no such calculator, or it does not know an element.
    """
    if name in XTB:
        try:
            importlib.import_module("tblite.ase")
        except ImportError as error:
            raise MissingPackage.of("tblite", "label", "GFN-xTB labels") from error
        package = "tblite"
        if odd := unknown_to(name, elements):
            raise UsageError(f"--elements: {name} knows H to Rn, not {' '.join(odd)}")
    else:
        _calculator_class(name)
        package = name.split(".")[0].split(":")[0]
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package


def _calculator_class(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise UsageError(f"--calculator {name}: {', '.join(XTB)}, or module:Name of a class of ASE")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--calculator {name}: {error}") from error


def unknown_to(name: str, elements: Iterable[str]) -> list[str]:
    """Elements that a calculator is known not to know."""
    return sorted(set(elements) - XTB_ELEMENTS) if name in XTB else []


def labelled(atoms: Atoms, name: str, options: Mapping[str, Any]) -> str:
    """One structure with its labels, eV and eV/Å, as extended XYZ.

    Each has a calculator of its own: what came before must not show in the last digits.

    Raises:
        ValueError: a label is not finite; a calculator may raise whatever befalls it.
    """
    charge, unpaired = electrons(atoms)
    if name in XTB:
        from tblite.ase import TBLite

        state = {"charge": charge, "multiplicity": unpaired + 1}
        method = XTB[name]
        calculator = TBLite(**{"method": method, "verbosity": 0, **state, **options})
    else:
        calculator = _calculator_class(name)(**options)
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=atoms.info)
    bare.calc = calculator
    energy, forces = float(bare.get_potential_energy()), np.asarray(bare.get_forces())
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        raise ValueError("the energy or a force is not finite")
    known = {"energy", "forces", "stress", "free_energy"}
    bare.info = {key: _kept(value) for key, value in atoms.info.items() if key not in known}
    bare.calc = SinglePointCalculator(bare, energy=energy, forces=forces)
    text = io.StringIO()
    write(text, bare, format="extxyz")
    return text.getvalue()


def _kept(value: Any) -> Any:
    r"""An entry such that ASE reads back what was written.

    As it stands, ASE reads the SMILES `F` as False, and loses the backslashes of `F/C=C\F`.
    """
    if not isinstance(value, str):
        return value
    written = value.replace("\\", "\\\\")
    back = key_val_str_to_dict(key_val_dict_to_str({"key": written}))["key"]
    if isinstance(back, str) and back == value and value.isprintable():
        return written
    return "_JSON " + json.dumps(value).replace("\\", "\\\\")
