"""Trained potentials as a calculator of ASE: energies, forces, stress, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from chemscale.bench.data.graph_batch import GraphBatch
from chemscale.bench.data.structure_files import NEAREST, electrons
from chemscale.bench.models.interaction import Prediction
from chemscale.bench.using.neighbours import Edges, Neighbours
from chemscale.bench.using.trained import TrainedPotential
from chemscale.table.errors import DataError

SHOWN = 5  # atoms or pairs named in a message


class PotentialCalculator(Calculator):
    """One trained potential, or a committee of several, for ASE.

    Results: `energy` and `free_energy` (the same; eV), `energies` of atoms (eV, references
    included), `forces` (eV/Å), and of periodic structures `stress` (eV/Å³, Voigt order, negative
    under pressure). A committee tells the mean of each, and as `energy_std` (eV) and `forces_std`
    (atoms, 3; eV/Å) the standard deviation over its members.

    Potentials that take charge and spin read `charge` and `multiplicity` of `atoms.info`.

    Args:
        members: the potentials; they learn no more.
        skin: Å, how much farther than the cutoff neighbours are looked for, so that they need not
            be looked for each time.
    """

    def __init__(self, members: Sequence[TrainedPotential], *, skin: float = 0.5):
        super().__init__()
        if not members:
            raise DataError("a calculator takes at least one potential")
        self.members = tuple(members)
        for one in self.members:
            one.model.requires_grad_(False).eval()
        self.implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]
        if len(self.members) > 1:
            self.implemented_properties += ["energy_std", "forces_std"]
        self.neighbours = Neighbours(max(one.cutoff for one in self.members), skin)
        self._known = np.zeros(len(chemical_symbols), dtype=bool)
        for number, symbol in enumerate(chemical_symbols):
            self._known[number] = all(symbol in one.elements for one in self.members)
        self._electrons: tuple[int, int] | None = None

    @property
    def charged(self) -> bool:
        """Whether charge and spin matter to a member."""
        return any(type(one.model).charged for one in self.members)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation, to the last bit, of all that results depend on.

        That is less than ASE looks at, and charge and spin, which it does not see.
        """
        if self.atoms is None:
            return list(all_changes)
        changes = [
            name
            for name in ("positions", "numbers", "cell", "pbc")
            if not np.array_equal(getattr(self.atoms, name), getattr(atoms, name))
        ]
        if self.charged and not changes and self._electrons != _electrons(atoms):
            changes.append("initial_charges")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill `results`.

        Raises:
            DataError: an element that was not trained on, atoms on top of each other, positions
                that are no numbers, a cell without volume, or a structure with a cell for a
                potential that takes none.
        """
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        assert atoms is not None
        self._refuse(atoms)
        pbc = np.asarray(atoms.pbc)
        edges = self.neighbours.find(atoms.positions, atoms.cell.array, pbc)
        _refuse_overlaps(atoms, edges)
        self._electrons = _electrons(atoms) if self.charged else None
        told = [self._predict(one, atoms, edges) for one in self.members]
        energies = np.stack([one.energies.cpu().numpy() for one in told])  # (members, A)
        forces = np.stack([one.forces.double().cpu().numpy() for one in told])
        energy = energies.sum(axis=1)
        self.results = {
            "energy": float(energy.mean()),
            "free_energy": float(energy.mean()),
            "energies": energies.mean(axis=0),
            "forces": forces.mean(axis=0),
        }
        if pbc.any() and atoms.cell.rank == 3:
            stresses = [one.stress.double().cpu().numpy() for one in told if one.stress is not None]
            self.results["stress"] = full_3x3_to_voigt_6_stress(np.mean(stresses, axis=0)[0])
        if len(told) > 1:
            self.results["energy_std"] = float(energy.std(ddof=1))
            self.results["forces_std"] = forces.std(axis=0, ddof=1)

    def _predict(self, one: TrainedPotential, atoms: Atoms, edges: Edges) -> Prediction:
        if one.cutoff < self.neighbours.cutoff:
            edges = edges.within(one.cutoff)
        graph = _graph(atoms, edges, self._electrons)
        scale = one.model.scale
        return one.model.predict(graph.to(scale.device, scale.dtype))

    def _refuse(self, atoms: Atoms) -> None:
        numbers = atoms.numbers
        if not len(numbers):
            raise DataError("no atoms")
        unknown = numbers[~self._known[numbers]]
        if len(unknown):
            names = ", ".join(sorted({chemical_symbols[number] for number in unknown}))
            known = [chemical_symbols[number] for number in np.flatnonzero(self._known)]
            raise DataError(
                f"{self.members[0].name} does not know {names}: it was trained on "
                f"{', '.join(known)}. Train on structures with these elements, too"
            )
        bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
        if len(bad):
            raise DataError(
                f"positions of {len(bad)} of {len(atoms)} atoms are no finite numbers, the first "
                f"is atom {bad[0]} ({atoms.symbols[bad[0]]}). In molecular dynamics: an earlier "
                "step exploded; take a shorter time step or a better potential"
            )
        if atoms.pbc.any():
            rows = atoms.cell.array[atoms.pbc]
            # By singular values: a slab has an area and no volume, and that is right.
            if not np.isfinite(rows).all() or np.linalg.svd(rows)[1].min() < 1e-6:
                raise DataError(
                    f"periodic (pbc {atoms.pbc.tolist()}), but the cell has no volume: "
                    f"{atoms.cell.array.tolist()}. Set atoms.cell, or atoms.pbc = False"
                )


def _graph(atoms: Atoms, edges: Edges, electrons: tuple[int, int] | None) -> GraphBatch:
    """One structure as a graph, in double precision."""
    size = len(atoms)

    def of_structure(value: float) -> torch.Tensor:
        return torch.tensor([value], dtype=torch.float64)

    periodic = edges.offsets is not None
    return GraphBatch(
        positions=torch.from_numpy(atoms.positions),
        atomic_numbers=torch.from_numpy(np.asarray(atoms.numbers, dtype=np.int64)),
        structure=torch.zeros(size, dtype=torch.int64),
        senders=torch.from_numpy(edges.senders),
        receivers=torch.from_numpy(edges.receivers),
        offsets=torch.from_numpy(edges.offsets) if periodic else None,
        atoms_per_structure=of_structure(size),
        energy=of_structure(np.nan),
        forces=torch.empty((size, 0)),
        charge=None if electrons is None else of_structure(electrons[0]),
        unpaired=None if electrons is None else of_structure(electrons[1]),
        cell=torch.from_numpy(atoms.cell.array)[None] if periodic else None,
    )


def _electrons(atoms: Atoms) -> tuple[int, int]:
    """Charge (e) and unpaired electrons, as readers of data files take them."""
    try:
        return electrons(atoms)
    except ValueError as error:
        raise DataError(f"atoms.info: {error}") from error


def _refuse_overlaps(atoms: Atoms, edges: Edges) -> None:
    close: NDArray[Any] = np.flatnonzero(edges.squares < NEAREST**2)
    if not len(close):
        return
    said = [
        f"{atoms.symbols[i]}{i} and {atoms.symbols[j]}{j} ({distance:.3f} Å)"
        for i, j, distance in zip(
            edges.receivers[close], edges.senders[close], np.sqrt(edges.squares[close]), strict=True
        )
        if i <= j
    ]
    more = f" and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    raise DataError(
        f"atoms on top of each other, closer than {NEAREST:g} Å: {', '.join(said[:SHOWN])}{more}. "
        "Forces mean nothing there; delete doubled atoms or take a shorter time step"
    )
