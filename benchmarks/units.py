"""Is a wrong unit noticed, and the right one proposed?

    python benchmarks/units.py acac_train_300K.xyz.gz 3bpa_train_300K.xyz.gz …

Files of extended XYZ in eV, Å and eV/Å are read as if they were in other units, which the data card
should notice. Printed is what it proposes for each; exit code 1 where it warns of the right units.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from chemscale.bench.data.structure_card import read_card
from chemscale.bench.data.structure_store import write_structures
from chemscale.table.records import DatasetSpec

RIGHT = {"energy": "eV", "length": "Å", "forces": "eV/Å"}
WRONG = (
    {},
    {"energy": "kcal/mol", "forces": "kcal/mol/Å"},
    {"energy": "kcal/mol"},
    {"forces": "kcal/mol/Å"},
    {"energy": "hartree"},
    {"energy": "hartree", "length": "bohr", "forces": "hartree/bohr"},
    {"energy": "hartree", "forces": "hartree/bohr"},
    {"forces": "eV/bohr"},
)
MARK = "set units = { "


def proposal(path: Path, units: dict[str, str]) -> str:
    """What the card says of a file taken to be in these units."""
    spec = DatasetSpec.read(
        {"format": "extxyz", "path": str(path), "units": RIGHT | units}, str(path)
    )
    with tempfile.TemporaryDirectory() as name:
        write_structures(Path(name), spec, [(path, 0)], lambda *told: None)
        warnings = read_card(Path(name)).warnings
    found = [text.split(MARK)[1].split(" }")[0] for text in warnings if MARK in text]
    return found[0] if found else "nothing"


def main() -> None:
    """See the module's docstring."""
    right = ", ".join(f'{what} = "{unit}"' for what, unit in RIGHT.items())
    good = True
    for path in map(Path, sys.argv[1:]):
        count = 0
        for wrong in WRONG:
            told = proposal(path, wrong)
            count += bool(wrong) and told == right
            good &= bool(wrong) or told == "nothing"
            if told != (right if wrong else "nothing"):
                print(f"  {path.name}: read with {wrong or 'the right units'}, it proposes {told}")
        print(
            f"{path.name}: {count} of {len(WRONG) - 1} wrong units noticed, the right ones proposed"
        )
    sys.exit(not good)


if __name__ == "__main__":
    main()
