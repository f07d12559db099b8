"""CPU seconds of a label: structures made of SMILES and labelled, by one worker.

    python benchmarks/label.py qm9.csv.gz --molecules 60

The molecules are spread evenly over the file. Processor time of the worker, its start and the
making of the structures included; the other options as of `chemscale label`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from chemscale.bench.data.molecule_files import read_smiles
from chemscale.labelling import METHODS, label


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--column", default="smiles")
    parser.add_argument("--molecules", type=int, default=60)
    parser.add_argument("--per-molecule", type=int, default=3)
    parser.add_argument("--method", default=",".join(METHODS))
    parser.add_argument("--calculator", default="gfn2-xtb")
    parser.add_argument("--elements", default="H,C,N,O,F")
    given = parser.parse_args()
    smiles = read_smiles(given.path, given.column)
    smiles = smiles[:: max(1, len(smiles) // given.molecules)][: given.molecules]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "molecules.smi"
        source.write_text("\n".join(smiles))
        told = label(
            source,
            Path(folder) / "labelled.extxyz",
            calculator=given.calculator,
            methods=given.method.split(","),
            per_molecule=given.per_molecule,
            elements=given.elements.split(","),
            workers=1,
        )
    print(
        f"{given.method}: {told.structures:,} structures of {len(smiles):,} molecules, "
        f"{told.rejects:,} rejected, {told.cpu_seconds:.1f} s, "
        f"{told.cpu_seconds / told.structures:.3f} s each"
    )


if __name__ == "__main__":
    main()
