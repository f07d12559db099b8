"""Structures of files as plain arrays in Å, eV, eV/Å and eV/Å³, labels found and checked."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from chemscale.bench.data import structure_readers as readers
from chemscale.bench.data.conversion import Conversion
from chemscale.table.errors import DataError
from chemscale.table.records import DatasetSpec
from chemscale.table.units import check as check_units

ENERGY_KEYS = ("REF_energy", "energy", "total_energy", "Energy")
FORCES_KEYS = ("REF_forces", "forces", "force", "Forces")
# A virial is minus the stress times the volume, an energy.
STRESS_KEYS = ("REF_stress", "stress", "REF_virials", "REF_virial", "virials", "virial")
NEAREST = 0.1  # Å, below which two atoms are taken for one put there twice
LOOK = 1.0  # Å, up to which distances in periodic structures are looked for
ASYMMETRY = 0.01  # of the largest entry: beyond that, a stress is taken for something else


class Layout(NamedTuple):
    """A layout of HDF5 that is published."""

    marks: tuple[str, ...]  # entries by which it is known
    energy: str
    forces: str  # a gradient is the forces with the other sign
    units: dict[str, str]


IN_HARTREE = {"energy": "hartree", "length": "Å", "forces": "hartree/Å"}
ATOMIC = {"energy": "hartree", "length": "bohr", "forces": "hartree/bohr"}
LAYOUTS = (
    Layout(("wb97x_dz.energy",), "wb97x_dz.energy", "wb97x_dz.forces", IN_HARTREE),  # ANI-1x
    Layout(("dft_total_energy",), "dft_total_energy", "dft_total_gradient", ATOMIC),  # SPICE
    Layout(
        ("formation_energy", "dft_total_gradient"),  # SPICE without total energies
        "formation_energy",
        "dft_total_gradient",
        ATOMIC,
    ),
    Layout(  # COMP6, whose forces are gradients, as its author says
        ("energies", "hirshfeld"), "energies", "forces", IN_HARTREE | {"forces": "-hartree/Å"}
    ),
    Layout(("energies",), "energies", "forces", IN_HARTREE),  # ANI-1, ANI-2x
)


@dataclass(frozen=True)
class Frame:
    """One structure: Å, eV, eV/Å, eV/Å³. A missing label is NaN."""

    atomic_numbers: NDArray[np.int64]  # (atoms,)
    positions: NDArray[np.float64]  # (atoms, 3)
    cell: NDArray[np.float64]  # (3, 3), zero where not periodic
    pbc: NDArray[np.bool_]  # (3,)
    energy: float
    forces: NDArray[np.float64]  # (atoms, 3)
    stress: NDArray[np.float64]  # (3, 3), negative under pressure; NaN where not periodic
    info: dict[str, Any]
    charge: int = 0  # e
    unpaired: int = 0  # electrons: the multiplicity less one
    nearest: float = np.inf  # Å, between two atoms; of periodic structures where below `LOOK`

    def content(self) -> bytes:
        """What it is: elements, positions to 1e-6 Å, cell, electrons; never labels."""
        positions = np.round(self.positions, 6) + 0.0  # no negative zero
        cell = np.round(self.cell, 6) + 0.0
        told = self.atomic_numbers.tobytes() + positions.tobytes() + cell.tobytes()
        if self.charge or self.unpaired:
            told += f"|charge {self.charge} unpaired {self.unpaired}".encode()
        return told


class Labels:
    """Finds energies, forces and stresses in frames, and remembers which keys it used."""

    def __init__(self, spec: DatasetSpec):
        self.spec = spec
        self.known: tuple[tuple[str, ...], tuple[str, ...]] = (ENERGY_KEYS, FORCES_KEYS)
        self.conversion = Conversion.of(spec)
        self.used: Counter[str] = Counter()
        self.notes: list[str] = []
        self.meaningless = 0  # stresses of structures that are not periodic

    def _look(self, atoms: Atoms) -> None:
        """Take the keys and the units of the layout that a structure is in, or that it tells."""
        entries = {**atoms.info, **atoms.arrays}
        units: dict[str, str] = {}
        if self.spec.format == "hdf5":
            found = (layout for layout in LAYOUTS if all(mark in entries for mark in layout.marks))
            if layout := next(found, None):
                self.known = ((layout.energy,), (layout.forces,))
                units = layout.units
        elif "e_unit" in entries:  # archives as sGDML writes them
            units = {"energy": entries["e_unit"], "length": entries.get("r_unit", "Å")}
            if not self.spec.units:
                check_units(units)
        if units:
            self.conversion = Conversion.of(self.spec, units)
            if self.conversion.told and self.conversion.told not in self.notes:
                self.notes.append(self.conversion.told)

    def read(self, atoms: Atoms) -> Frame:
        """Take the labels of one frame, whether ASE left them in place or in a calculator."""
        size = len(atoms)
        if self.spec.format in ("hdf5", "npz"):
            self._look(atoms)
        factors = self.conversion
        results = dict(atoms.calc.results) if atoms.calc is not None else {}
        _, energy = self._find(self.spec.energy_key, self.known[0], results, atoms.info)
        key, forces = self._find(self.spec.forces_key, self.known[1], results, atoms.arrays)
        if forces is not None and np.shape(forces) != (size, 3):
            raise ValueError(f"forces of shape {np.shape(forces)}, expected ({size}, 3)")
        turned = factors.gradients or key.endswith("gradient")
        charge, unpaired = electrons(atoms)
        return Frame(
            atomic_numbers=np.asarray(atoms.numbers, dtype=np.int64),
            positions=np.asarray(atoms.positions, dtype=np.float64) * factors.length,
            cell=np.asarray(atoms.cell.array, dtype=np.float64) * factors.length,
            pbc=np.asarray(atoms.pbc, dtype=bool),
            energy=float(np.nan if energy is None else energy) * factors.energy,
            forces=np.full((size, 3), np.nan)
            if forces is None
            else np.asarray(forces, dtype=np.float64)
            * (-factors.forces if turned else factors.forces),
            stress=self._stress(atoms, results),
            info=atoms.info,
            charge=charge,
            unpaired=unpaired,
        )

    def _stress(self, atoms: Atoms, results: dict[str, Any]) -> NDArray[np.float64]:
        """By ASE's conventions: the sign, six numbers as xx, yy, zz, yz, xz, xy; or (3, 3)."""
        key, value = self._find(self.spec.stress_key, STRESS_KEYS, results, atoms.info)
        if value is None or not atoms.pbc.any():
            self.meaningless += value is not None
            return np.full((3, 3), np.nan)
        value = np.asarray(value, dtype=np.float64)
        if value.shape not in ((6,), (9,), (3, 3)):
            raise ValueError(f"{key} of shape {value.shape}, expected (6,), (9,) or (3, 3)")
        full = voigt_6_to_full_3x3_stress(value) if value.size == 6 else value.reshape(3, 3)
        if np.abs(full - full.T).max() > ASYMMETRY * np.abs(full).max():
            raise ValueError(f"{key} is not symmetric; stress_key in [dataset] can name another")
        factor = self.conversion.stress
        if key.endswith(("virial", "virials")):
            factor = -self.conversion.energy / (atoms.cell.volume * self.conversion.length**3)
        return np.asarray(factor * (full + full.T) / 2)

    def _find(
        self, wanted: str | None, known: tuple[str, ...], *places: dict[str, Any]
    ) -> tuple[str, Any | None]:
        for key in (wanted,) if wanted else known:
            for place in places:
                if key in place:
                    self.used[key] += 1
                    return key, place[key]
        return "", None

    def doubts(self) -> list[str]:
        """What makes it doubtful that labels belong together."""
        keys = zip(("energies", "forces"), ("energy_key", "forces_key"), self.known, strict=True)
        found = [(what, key, [k for k in known if self.used[k]]) for what, key, known in keys]
        return [
            f"{what} come from {' and '.join(f'{k!r} in {self.used[k]:,}' for k in used)} frames: "
            f"are they of one origin? {key} in [dataset] names the one to take"
            for what, key, used in found
            if len(used) > 1
        ]

    def describe(self, frames: int) -> str:
        """Say which keys were used, and in how many frames."""
        if not self.used:
            return f"no energies or forces found in {frames:,} frames"
        parts = (f"{key!r} in {count:,}" for key, count in sorted(self.used.items()))
        told = [f"labels read from {', '.join(parts)} of {frames:,} frames", *self.notes]
        if self.meaningless:
            told.append(
                f"stress of {self.meaningless:,} structures left out: they are not periodic"
            )
        return "; ".join(told)


def read_frames(path: Path, spec: DatasetSpec, labels: Labels) -> Iterator[Frame | ValueError]:
    """Read all frames of a file in order; a frame that cannot be used comes as its error.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    from vesin import NeighborList

    finder = NeighborList(cutoff=LOOK, full_list=False)
    known = {
        "extxyz": readers.extxyz,
        "db": readers.database,
        "npz": readers.archive,
        "hdf5": readers.hdf5,
        "aselmdb": readers.lmdb,
    }
    try:
        for item in known[str(spec.format)](path):
            try:
                frame = labels.read(item)
                _check(frame)
                yield replace(frame, nearest=_nearest(frame, finder))
            except ValueError as error:
                yield error
    except (OSError, KeyError, ValueError, IndexError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as {spec.format}: {error}") from error


def describe_electrons(charge: NDArray[np.float64], unpaired: NDArray[np.float64]) -> list[str]:
    """A note where structures are charged or have unpaired electrons."""
    count = int(np.count_nonzero((charge != 0) | (unpaired != 0)))
    if not count:
        return []
    return [
        f"{count:,} structures are charged or have unpaired electrons (charge {charge.min():g} "
        f"to {charge.max():g}); only families that take charge and spin can tell them from others"
    ]


def electrons(atoms: Atoms) -> tuple[int, int]:
    """Charge (e) and unpaired electrons by the entries of `info`; zero where not told.

    The latter by `multiplicity` or `spin`, both 2S + 1; 0 says nothing, as in OMol25 and fairchem.

    Raises:
        ValueError: no whole number, or a multiplicity that so many electrons cannot have.
    """
    charge = _whole("charge", atoms.info.get("charge", 0))
    key = "multiplicity" if "multiplicity" in atoms.info else "spin"
    multiplicity = _whole(key, atoms.info.get(key, 0))
    if multiplicity == 0:
        return charge, 0
    if multiplicity < 0:
        raise ValueError(f"{key} = {multiplicity}; it is 2S + 1, at least 1")
    count = int(atoms.numbers.sum()) - charge
    if (count - multiplicity + 1) % 2:
        raise ValueError(
            f"{key} = {multiplicity} cannot be with {count} electrons; it is 2S + 1: 1 for a "
            "closed shell, 2 for a radical"
        )
    return charge, multiplicity - 1


def _whole(key: str, value: Any) -> int:
    if not isinstance(value, int | float | np.number) or float(value) != round(float(value)):
        raise ValueError(f"{key} = {value} is not a whole number")
    return int(value)


def _check(frame: Frame) -> None:
    if len(frame.atomic_numbers) == 0:
        raise ValueError("no atoms")
    if not np.isfinite(frame.positions).all():
        raise ValueError("positions are not finite")
    if (frame.atomic_numbers < 1).any() or (frame.atomic_numbers > 100).any():
        raise ValueError("atomic numbers outside 1 to 100")
    vectors = frame.cell[frame.pbc]  # a direction that is not periodic needs none
    if frame.pbc.any() and np.linalg.det(vectors @ vectors.T) < 1e-12:
        raise ValueError("periodic, but the cell has no volume")
    if np.isinf(frame.energy) or np.isinf(frame.forces).any() or np.isinf(frame.stress).any():
        raise ValueError("a label is infinite")
    missing = np.isnan(frame.forces)
    if missing.any() and not missing.all():
        raise ValueError("forces are NaN for some of the atoms")


def _nearest(frame: Frame, finder: Any) -> float:
    """The smallest distance between two atoms, or an atom and an image of itself.

    Raises:
        ValueError: it is that of atoms put there twice.
    """
    if frame.pbc.any():
        found = finder.compute(
            points=frame.positions, box=frame.cell, periodic=frame.pbc, quantities="ijd"
        )
    else:
        distances = pdist(frame.positions)
        if not len(distances) or distances.min() >= NEAREST:
            return float(distances.min(initial=np.inf))
        found = (*np.triu_indices(len(frame.positions), 1), distances)
    i, j, distances = found
    if not len(distances):
        return np.inf
    place = int(distances.argmin())
    if distances[place] < NEAREST:
        raise ValueError(
            f"atoms {i[place] + 1} and {j[place] + 1} are {distances[place]:.3g} Å apart"
        )
    return float(distances[place])
