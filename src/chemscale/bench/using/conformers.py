"""Structures of a molecule from its SMILES: conformers, thermal displacements, short dynamics.

All of them come from the MMFF94 force field, cheaper than a label. The random
numbers follow from the canonical SMILES and the seed, so order and workers move nothing.

- conformers: RDKit's ETKDGv3, relaxed by MMFF94.
- modes: normal modes of the MMFF94 Hessian (central differences of gradients) at a relaxed
  conformer, each displaced by a Gaussian of the classical harmonic variance kT / k. Modes
  below 100 cm-1 are sampled as if they were of 100 cm-1: no parabola holds for torsions.
- md: Langevin dynamics on MMFF94 (0.5 fs, friction 10 / ps) from a relaxed conformer, started at
  the temperature; the first frame after 250 fs, then one every 100 fs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

METHODS = {"conformers": "conformer", "modes": "mode", "md": "md"}  # and the config_type
KCAL = units.kcal / units.mol
LOWEST = 100.0 * units.invcm  # eV
HBAR = units._hbar * units.J * units.second  # eV and ASE's time
STEP, FIRST, BETWEEN = 0.5 * units.fs, 500, 200  # of the dynamics: time, and counts of steps
FRICTION = 0.01 / units.fs

Gradient = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Shape:
    """What structures are made of a molecule."""

    methods: tuple[str, ...]
    per_molecule: int
    temperature: float  # K
    elements: tuple[str, ...]
    max_heavy: int
    seed: int


def structures(smiles: str, shape: Shape) -> list[Atoms]:
    """Make the structures of one molecule, `per_molecule` shared out evenly over the methods.

    Each has `smiles` (canonical), `config_type`, `charge` and `multiplicity` in its info; Å.

    Raises:
        ValueError: none can be made; it says why.
    """
    rdBase.DisableLog("rdApp.*")
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or not molecule.GetNumAtoms():
        raise ValueError("no SMILES")
    canonical = Chem.MolToSmiles(molecule)
    if "." in canonical:
        raise ValueError("more than one molecule")
    if molecule.GetNumHeavyAtoms() > shape.max_heavy:
        raise ValueError(f"{molecule.GetNumHeavyAtoms()} heavy atoms, more than {shape.max_heavy}")
    molecule = Chem.AddHs(molecule)
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    if odd := sorted(set(symbols) - set(shape.elements)):
        raise ValueError(f"elements outside --elements: {' '.join(odd)}")
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        raise ValueError("MMFF94 has no parameters for it")

    digest = hashlib.sha256(f"{shape.seed}|{canonical}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    shares = np.bincount(np.arange(shape.per_molecule) % len(shape.methods))
    wanted = dict(zip(shape.methods, shares.tolist(), strict=False))
    parameters = rdDistGeom.ETKDGv3()
    # RDKit's stubs give every attribute the type of the class
    parameters.randomSeed = int.from_bytes(digest[8:12], "little") >> 1  # type: ignore[assignment]
    parameters.numThreads = 1  # type: ignore[assignment]
    places = list(rdDistGeom.EmbedMultipleConfs(molecule, max(wanted.values()), parameters))
    if not places:
        raise ValueError("no conformer could be embedded")
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(molecule, numThreads=1, maxIters=500)
    relaxed = [molecule.GetConformer(place).GetPositions() for place in places]

    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(
        molecule, rdForceFieldHelpers.MMFFGetMoleculeProperties(molecule)
    )
    masses = Atoms(symbols).get_masses()

    def gradient(positions: NDArray[np.float64]) -> NDArray[np.float64]:
        field.Initialize()  # else RDKit keeps the distances of the call before
        flat = field.CalcGrad(positions.reshape(-1).tolist())
        return np.array(flat).reshape(-1, 3) * KCAL  # (atoms, 3) eV/Å

    heat = shape.temperature * units.kB
    made: list[tuple[str, NDArray[np.float64]]] = []
    for method, count in wanted.items():
        if method == "conformers":
            found = relaxed[:count]
        elif method == "modes":
            found = displaced(relaxed, count, gradient, masses, heat, random)
        else:
            found = dynamics(relaxed[0], count, gradient, masses, heat, random)
        made += [(METHODS[method], positions) for positions in found]
    radicals = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    info = {
        "smiles": canonical,
        "charge": Chem.GetFormalCharge(molecule),
        "multiplicity": 1 + radicals,
    }
    return [Atoms(symbols, at, info={**info, "config_type": kind}) for kind, at in made]


def displaced(
    relaxed: list[NDArray[np.float64]],
    count: int,
    gradient: Gradient,
    masses: NDArray[np.float64],
    heat: float,
    random: np.random.Generator,
) -> list[NDArray[np.float64]]:
    """Displace conformers along their normal modes, one after another; `heat` is kT in eV."""
    modes = [normal_modes(at, gradient, masses) for at in relaxed[: min(count, 3)]]
    found = []
    for index in range(count):
        which = index % len(modes)
        frequencies, vectors = modes[which]
        amounts = random.normal(size=len(frequencies)) * np.sqrt(heat) / frequencies
        moved = (vectors @ amounts).reshape(-1, 3) / np.sqrt(masses)[:, None]
        found.append(relaxed[which] + moved)
    return found


def normal_modes(
    positions: NDArray[np.float64], gradient: Gradient, masses: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angular frequencies (modes,) in ASE's inverse time, mass-weighted modes (3 atoms, modes).

    Translations and rotations are projected out; the lowest frequency is that of 100 cm-1.
    """
    size, step = positions.size, 0.005
    hessian = np.empty((size, size))
    for place in range(size):
        shift = np.zeros(size)
        shift[place] = step
        ahead = gradient(positions + shift.reshape(-1, 3))
        behind = gradient(positions - shift.reshape(-1, 3))
        hessian[place] = ((ahead - behind) / (2 * step)).reshape(-1)
    root = np.repeat(np.sqrt(masses), 3)
    weighted = (hessian + hessian.T) / 2 / np.outer(root, root)

    centred = positions - np.average(positions, axis=0, weights=masses)
    rigid = [np.tile(axis, len(masses)) for axis in np.eye(3)]
    rigid += [np.cross(axis, centred).reshape(-1) for axis in np.eye(3)]
    basis, sizes, _ = np.linalg.svd(np.array(rigid).T * root[:, None], full_matrices=True)
    inner = basis[:, int((sizes > 1e-6 * sizes[0]).sum()) :]  # a line has one rotation less
    curvatures, vectors = np.linalg.eigh(inner.T @ weighted @ inner)
    frequencies = np.sqrt(np.maximum(curvatures, (LOWEST / HBAR) ** 2))
    return frequencies, inner @ vectors


def dynamics(
    positions: NDArray[np.float64],
    count: int,
    gradient: Gradient,
    masses: NDArray[np.float64],
    heat: float,
    random: np.random.Generator,
) -> list[NDArray[np.float64]]:
    """Frames of Langevin dynamics (BAOAB, Leimkuhler and Matthews 2013); `heat` is kT in eV."""
    mass = masses[:, None]
    keep = np.exp(-FRICTION * STEP)
    kick = np.sqrt((1 - keep**2) * heat / mass)
    velocities = random.normal(size=positions.shape) * np.sqrt(heat / mass)
    slope, found = gradient(positions), []
    for step in range(1, FIRST + BETWEEN * (count - 1) + 1):
        velocities = velocities - slope / mass * (STEP / 2)
        positions = positions + velocities * (STEP / 2)
        velocities = keep * velocities + kick * random.normal(size=positions.shape)
        positions = positions + velocities * (STEP / 2)
        slope = gradient(positions)
        velocities = velocities - slope / mass * (STEP / 2)
        if step >= FIRST and (step - FIRST) % BETWEEN == 0:
            found.append(positions)
    return found
