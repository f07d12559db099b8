"""Molecules and their properties out of a file, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chemscale.bench.data.molecule_files import read_rows
from chemscale.table.errors import DataError

FORMS = {".csv": "csv", ".smi": "smi", ".txt": "smi", ".parquet": "parquet"}


def read_smiles(path: Path, column: str = "smiles") -> list[str]:
    """The SMILES of all rows, as the file has them.

    Args:
        path: CSV, Parquet or a list of SMILES; may be gzip'd.
        column: of the SMILES, in any case; a list has none.

    Raises:
        DataError: no such file or column, or another format.
    """
    texts = [row.text for row in read_rows(path, _form(path), column, None)]
    if not texts:
        raise DataError(f"{path}: no rows")
    return texts


def read_targets(path: Path, column: str, targets: Sequence[str]) -> dict[str, list[float]]:
    """Columns of numbers, NaN where a cell is empty.

    Raises:
        DataError: no such column, or a cell that is neither empty nor a number.
    """
    found = {}
    for name in targets:
        values = []
        for number, row in enumerate(read_rows(path, _form(path), column, name), start=1):
            try:
                values.append(float(row.group or "nan"))
            except ValueError:
                raise DataError(
                    f"{path} row {number}: {name} is not a number: {row.group!r}"
                ) from None
        found[name] = values
    return found


def _form(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if ending not in FORMS:
        raise DataError(f"{path}: molecules come as {', '.join(FORMS)}, gzip'd or not")
    return FORMS[ending]
