"""Files of structures as `ase.Atoms`, one at a time: one function a format.

Labels are as the file has them. Nothing is ever unpickled.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from chemscale.table.errors import DataError

POSITIONS = ("coordinates", "conformations", "coords", "positions")
NUMBERS = ("atomic_numbers", "species", "numbers", "z")
CHUNK = 1024  # conformations of one molecule held at a time
FRAMES = 200  # of extended XYZ


def extxyz(path: Path) -> Iterator[Atoms]:
    """Extended XYZ, gzip'd or not."""
    from ase.io import iread

    # The format is named, so the file may bear any extension. ASE seeks backwards, which in a
    # compressed file means to start again each time, so it is given some frames at a time.
    with path.open("rb") as opened:
        packed = opened.read(2) == b"\x1f\x8b"
    with (
        gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8") as stream
    ):
        for piece in _whole_frames(stream):
            yield from iread(io.StringIO(piece), index=":", format="extxyz")


def _whole_frames(stream: TextIO) -> Iterator[str]:
    """The text of some frames at a time. Empty lines between frames are passed over."""
    held: list[str] = []
    frames = 0
    line = stream.readline()
    while line:
        following = ""
        if line.strip():
            try:
                size = int(line)
            except ValueError:
                raise ValueError(
                    f"after {frames:,} frames a number of atoms was expected, not {line[:60]!r}"
                ) from None
            lines = [line, *islice(stream, size + 1)]
            frames += 1
            if len(lines) < size + 2:
                raise ValueError(f"it ends within frame {frames:,}")
            held += lines
            following = stream.readline()
            while following.lstrip().startswith("VEC"):  # a cell in the form of ADF
                held.append(following)
                following = stream.readline()
            if frames % FRAMES == 0:
                yield "".join(held)
                held = []
        line = following or stream.readline()
    if held:
        yield "".join(held)


def database(path: Path) -> Iterator[Atoms]:
    """An ASE database."""
    from ase.db import connect

    with connect(path) as opened:
        for row in opened.select():
            atoms = row.toatoms()
            atoms.info.update(_entries(row.key_value_pairs, row.data))
            yield atoms


def _entries(pairs: dict[str, Any], data: Any) -> dict[str, Any]:
    """What a row says beside its structure.

    Datasets of fairchem have charge and spin in `data`, as ASE has no place for them.
    """
    told = data.items() if isinstance(data, dict) else ()
    return {**pairs, **{k: v for k, v in told if isinstance(v, str | int | float | np.number)}}


def archive(path: Path) -> Iterator[Atoms]:
    """One molecule, as MD17 (`R`, `z`, `E`, `F`) and rMD17 (`coords`, `nuclear_charges`, …).

    Archives made by sGDML name their units in `e_unit` and `r_unit`.
    """
    from ase.calculators.singlepoint import SinglePointCalculator

    with np.load(path, allow_pickle=False) as opened:
        positions = _first(opened, "R", "coords")
        numbers = _first(opened, "z", "nuclear_charges")
        energies = _first(opened, "E", "energies").reshape(-1)
        forces = _first(opened, "F", "forces") if {"F", "forces"} & set(opened) else None
        told = {key: str(_plain(opened[key])) for key in ("e_unit", "r_unit") if key in opened}
    for index, frame in enumerate(positions):
        atoms = Atoms(numbers=numbers, positions=frame, info=dict(told))
        labels = {"energy": float(energies[index])}
        if forces is not None:
            labels["forces"] = forces[index]
        atoms.calc = SinglePointCalculator(atoms, **labels)
        yield atoms


def hdf5(path: Path) -> Iterator[Atoms]:
    """A group a molecule, its conformations in arrays: ANI-1, ANI-1x, COMP6, SPICE.

    In ANI-2x and what torchani writes a group is of molecules of one size; `species` has a row
    for each. Groups may lie in groups. An array with a row a conformation becomes an entry, or an
    array of atoms, of each; anything else is an entry of all.
    """
    import h5py

    with h5py.File(path) as opened:
        found = False
        for group in _groups(opened):
            names = [name for name in POSITIONS if name in group]
            if names:
                found = True
                yield from _conformations(path, group, names[0])
        if not found:
            raise KeyError(
                f"no group with {' or '.join(POSITIONS)}; the first of what there is: "
                f"{', '.join(_listed(opened)) or 'nothing'}"
            )


def _groups(group: Any) -> Iterator[Any]:
    import h5py

    yield group
    for name in group:
        if isinstance(group[name], h5py.Group):
            yield from _groups(group[name])


def _listed(opened: Any, most: int = 12) -> list[str]:
    names: list[str] = []
    opened.visit(lambda name: names.append(name) if len(names) < most else True)
    return names


def _conformations(path: Path, group: Any, key: str) -> Iterator[Atoms]:
    numbers = _numbers(group)
    count, size = group[key].shape[:2]
    alike = numbers.ndim == 1
    if numbers.shape != ((size,) if alike else (count, size)):
        raise ValueError(f"{group.name}: {size} positions for {numbers.shape[-1]} atoms")
    entries: dict[str, Any] = {"molecule": group.name.strip("/")} if alike else {}
    rows: list[str] = []
    for name, value in group.items():
        if name == key or name in NUMBERS or not hasattr(value, "shape"):
            continue
        if value.shape[:1] == (count,) and value.dtype.kind in "fiu":
            rows.append(name)
        elif value.size == 1:
            entries[name] = _plain(value)
    if "charge" not in entries and isinstance(entries.get("smiles"), str):
        entries["charge"] = _charge(entries["smiles"])
    for first in range(0, count, CHUNK):
        part = slice(first, first + CHUNK)
        positions = group[key][part]
        read = {name: group[name][part] for name in rows}
        for index, frame in enumerate(positions):
            own = numbers if alike else numbers[first + index]
            atoms = Atoms(numbers=own, positions=frame, info=dict(entries))
            for name, values in read.items():
                value = values[index]
                if np.shape(value)[:1] == (size,):
                    atoms.arrays[name] = value
                else:
                    atoms.info[name] = float(value) if np.ndim(value) == 0 else value
            yield atoms


def _numbers(group: Any) -> NDArray[np.int64]:
    from ase.data import atomic_numbers

    values = np.asarray(_first(group, *NUMBERS))
    if values.dtype.kind in "iuf":
        return values.astype(np.int64)
    symbols = [v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()]
    return np.array([atomic_numbers[symbol] for symbol in symbols])


def _charge(smiles: str) -> int:
    """Of a molecule of SPICE, which tells it by its SMILES only."""
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles, sanitize=False)
    return Chem.GetFormalCharge(molecule) if molecule is not None else 0


def _plain(value: Any) -> Any:
    read = np.asarray(value[()]).reshape(-1)[0]
    return read.decode() if isinstance(read, bytes) else read


def lmdb(path: Path) -> Iterator[Atoms]:
    """An LMDB of ASE rows (`.aselmdb`), as fairchem has them: compressed JSON, an entry a row.

    Raises:
        DataError: its entries are pickles, which can run any code when loaded.
    """
    import lmdb as library

    if not path.exists():
        raise OSError("no such file")
    with (
        library.open(
            str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False
        ) as opened,
        opened.begin() as transaction,
    ):
        numbers = sorted(int(key) for key in transaction.cursor().iternext(values=False)
                         if bytes(key).isdigit())  # fmt: skip
        if not numbers:
            raise KeyError("no numbered entries, so no rows of structures")
        for number in numbers:
            yield _row(path, bytes(transaction.get(str(number).encode()) or b""))


def _row(path: Path, data: bytes) -> Atoms:
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io.jsonio import object_hook

    if data[:1] == b"\x80":
        raise DataError(
            f"{path}: its entries are pickles (the older LMDB of OC20), and loading a pickle can "
            "run any code, so chemscale never does. If you trust the file, write it again with "
            "ASE where you have what made it: `ase.db.connect('new.db').write(atoms)` for each "
            "entry, and use format = 'db'"
        )
    row = json.loads(zlib.decompress(data), object_hook=object_hook)
    atoms = Atoms(
        numbers=np.asarray(row["numbers"], dtype=int),
        positions=np.asarray(row["positions"], dtype=float).reshape(-1, 3),
        cell=np.asarray(row.get("cell", np.zeros((3, 3))), dtype=float).reshape(3, 3),
        pbc=row.get("pbc", False),
    )
    atoms.info.update(_entries(row.get("key_value_pairs", {}), row.get("data")))
    labels = {
        key: float(row[key]) if key == "energy" else np.asarray(row[key], dtype=float)
        for key in ("energy", "forces", "stress")
        if row.get(key) is not None
    }
    if labels:
        atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def _first(archive: Any, *names: str) -> NDArray[Any]:
    for name in names:
        if name in archive:
            return np.asarray(archive[name])
    raise KeyError(f"no array named {' or '.join(names)}; there are {', '.join(archive)}")
