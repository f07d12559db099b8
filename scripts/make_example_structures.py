"""Write the example structures of chemscale: 4,818 geometries of 83 small CHNO molecules.

For each molecule, one after the other: its conformers (RDKit ETKDG as embedded, MMFF94-relaxed and
GFN2-xTB-relaxed), thermal displacements along the normal modes of the best one (300–1200 K), then
frames of a Langevin trajectory at 500 K. Single atoms H, C, N, O come first. Energies (eV, total)
and forces (eV/Å) are GFN2-xTB of tblite in the gas phase, neutral, at its electronic temperature of
300 K, and belong to the positions as printed (Å, 4 decimals).

Seeds are fixed. SMILES, order and single atoms come out the same everywhere, and ``label`` gives
the stored labels to 1e-5. Relaxed and dynamical positions may differ between machines, because
trajectories amplify rounding, and with them how many frames are of which kind.

    python scripts/make_example_structures.py       # five minutes on two cores
"""
# A page of SMILES is easier to read and to edit without quotes and commas.
# ruff: noqa: SIM905

import argparse
import gzip
import itertools
import os
import sys
import zlib
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

# Before numpy: threads do not pay for twenty atoms, and their number could change the last bits.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402
from ase import Atoms, units  # noqa: E402
from ase.calculators.calculator import Calculator, all_changes  # noqa: E402
from ase.optimize import BFGS  # noqa: E402
from rdkit import Chem  # noqa: E402
from rdkit.Chem import AllChem  # noqa: E402
from tblite.interface import Calculator as XTB  # noqa: E402

OUTPUT = Path(__file__).parents[1] / "src/chemscale/bench/data/examples/structures.xyz.gz"
SEED = 20_26
MAX_FORCE = 15.0  # eV/Å; harder frames are dropped
NUM_FRAMES = 58  # per molecule; conformers, then modes, and dynamics fills up
NUM_CONFORMERS = 3  # embeddings, each in up to three states of relaxation
NUM_MODES = 24

# At most 7 heavy atoms, 5 to 21 atoms with hydrogen.
SMILES = """
    C CC CCC CCCC CC(C)C CCCCC C=C C=CC C=CC=C C#CC C#CC#C C1CC1 C1CCC1 C1CCCC1 C1CCCCC1
    C1=CCCC1 c1ccccc1 Cc1ccccc1 CO CCO CCCO CC(C)O CC(C)(C)O OCCO OCC(O)CO COC CCOCC COCOC
    C1CO1 C1COC1 C1CCOC1 C1COCCO1 Oc1ccccc1 c1ccoc1 CC=O CCC=O CC(C)=O C=CC=O O=CC=O
    O=C1CCCC1 CC(=O)CC(C)=O O=CO CC(=O)O COC=O COC(C)=O O=C(O)CO CC(=O)C(=O)O CN CCN CNC
    CN(C)C NCCN NCCO CN(C)CCO C1CNC1 C1CCNC1 C1CNCCN1 C1COCCN1 C=N CC#N C=CC#N N#CCN N#CCO
    Nc1ccccc1 c1ccncc1 c1cc[nH]c1 c1c[nH]cn1 c1cn[nH]c1 c1cncnc1 c1cocn1 Cc1ccno1 NC=O
    CC(N)=O CNC=O CN(C)C=O NC(N)=O CNC(N)=O NCC(=O)O C[C@H](N)C(=O)O NCC(N)=O NC(=O)C=O CON
    C[N+](=O)[O-]
    """.split()  # fmt: skip

# Unpaired electrons of the ground state. GFN2-xTB has no spin polarisation, so this only sets the
# occupations: at 300 K it moves an atom by the electronic entropy, 0.05 eV (C, O) or 0.1 eV (N).
ISOLATED_ATOMS = {"H": 1, "C": 2, "N": 3, "O": 2}


class Frame(NamedTuple):
    """One structure and what made it; ``atoms.positions`` in Å."""

    smiles: str
    config_type: str
    atoms: Atoms


def label(atoms: Atoms, unpaired: int = 0) -> tuple[float, np.ndarray]:
    """Return the GFN2-xTB energy (eV) and forces (A, 3) (eV/Å) of a neutral gas-phase structure.

    ``unpaired`` counts the unpaired electrons. Each call starts from the same guess and converges a
    thousand times tighter than tblite's default: a label depends on nothing but the structure.
    """
    xtb = XTB("GFN2-xTB", atoms.numbers, atoms.positions / units.Bohr, uhf=unpaired)
    xtb.set("verbosity", 0)
    xtb.set("accuracy", 1e-3)
    result = xtb.singlepoint()
    forces = -result.get("gradient") * (units.Hartree / units.Bohr)
    return float(result.get("energy")) * units.Hartree, forces


class Labeller(Calculator):
    """``label`` as an ASE calculator, to relax and to run dynamics with."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill ``results`` with energy (eV) and forces (eV/Å)."""
        super().calculate(atoms, properties, system_changes)
        energy, forces = label(self.atoms)
        self.results = {"energy": energy, "forces": forces}


def conformers(smiles: str, seed: int) -> list[Atoms]:
    """Embed, relax with MMFF94, relax with GFN2-xTB; conformer by conformer."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = seed
    parameters.pruneRmsThresh = 0.3
    parameters.onlyHeavyAtomsForRMS = False  # the rotamers of a hydroxyl count
    AllChem.EmbedMultipleConfs(molecule, NUM_CONFORMERS, parameters)
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    structures = []
    for conformer in molecule.GetConformers():
        structures.append(Atoms(symbols, conformer.GetPositions()))
        if AllChem.MMFFHasAllMoleculeParams(molecule):
            AllChem.MMFFOptimizeMolecule(molecule, confId=conformer.GetId())
            structures.append(Atoms(symbols, conformer.GetPositions()))
        relaxed = structures[-1].copy()
        relaxed.calc = Labeller()
        BFGS(relaxed, logfile=None).run(fmax=0.01, steps=200)
        structures.append(Atoms(symbols, relaxed.positions))
    return structures


def normal_modes(atoms: Atoms, step: float = 0.005) -> tuple[np.ndarray, np.ndarray]:
    """Return force constants and modes, from central differences of the forces.

    Constants (M,) are in eV/(Å² u), modes (M, A, 3) in 1/√u: displacement per unit of the
    mass-weighted coordinate. Translations and rotations are projected out. ``step`` is in Å.
    """
    num_coordinates = 3 * len(atoms)
    hessian = np.empty((num_coordinates, num_coordinates))
    for coordinate in range(num_coordinates):
        gradients = []
        for sign in (-1, 1):
            moved = atoms.copy()
            moved.positions.flat[coordinate] += sign * step
            gradients.append(-label(moved)[1].ravel())
        hessian[coordinate] = (gradients[1] - gradients[0]) / (2 * step)
    root_mass = np.sqrt(atoms.get_masses().repeat(3))

    centred = atoms.positions - atoms.get_center_of_mass()
    rigid = [np.tile(axis, (len(atoms), 1)) for axis in np.eye(3)]
    rigid += [np.cross(axis, centred) for axis in np.eye(3)]
    basis, size, _ = np.linalg.svd(np.array([motion.ravel() * root_mass for motion in rigid]).T)
    internal = basis[:, int((size > 1e-3 * size[0]).sum()) :]  # a linear molecule has only five

    weighted = (hessian + hessian.T) / 2 / np.outer(root_mass, root_mass)
    constants, vectors = np.linalg.eigh(internal.T @ weighted @ internal)
    modes = (internal @ vectors).T / root_mass
    return constants, modes.reshape(len(constants), len(atoms), 3)


def displaced(atoms: Atoms, count: int, random: np.random.Generator) -> Iterator[Atoms]:
    """Displace a minimum along its normal modes, classically, at 300 to 1200 K."""
    constants, modes = normal_modes(atoms)
    # A straight line is no torsion: softer modes move only as far as one at 300 cm⁻¹.
    reduced_planck = units._hbar * units.J * units.second
    softest = (300 * units.invcm / reduced_planck) ** 2
    amplitudes = np.sqrt(units.kB / np.maximum(constants, softest))  # Å √u at 1 K
    for temperature in np.linspace(300, 1200, count):
        coordinates = random.normal(size=len(constants)) * amplitudes * np.sqrt(temperature)
        moved = atoms.copy()
        moved.positions += np.einsum("m,mac->ac", coordinates, modes)
        yield moved


def dynamics(atoms: Atoms, random: np.random.Generator) -> Iterator[Atoms]:
    """Yield the frames of a Langevin trajectory at 500 K, every 20 fs after 100 fs, without end.

    BAOAB splitting (Leimkuhler and Matthews 2013) with steps of 0.5 fs and a friction of 0.02/fs.
    The centre of mass of what is yielded is at the origin.
    """
    step, friction, between, settling = 0.5 * units.fs, 0.02 / units.fs, 40, 200
    masses = atoms.get_masses()[:, None]
    thermal_speed = np.sqrt(units.kB * 500 / masses)
    memory = np.exp(-friction * step)
    moving = atoms.copy()
    velocities = thermal_speed * random.normal(size=(len(atoms), 3))
    forces = label(moving)[1]
    for count in itertools.count(1):
        velocities += step / 2 * forces / masses
        moving.positions += step / 2 * velocities
        kick = thermal_speed * random.normal(size=velocities.shape)
        velocities = memory * velocities + np.sqrt(1 - memory**2) * kick
        moving.positions += step / 2 * velocities
        forces = label(moving)[1]
        velocities += step / 2 * forces / masses
        if count >= settling and count % between == 0:
            yield Atoms(atoms.symbols, moving.positions - moving.get_center_of_mass())


def frames(smiles: str) -> list[Frame]:
    """Make the frames of one molecule: conformers, modes from cool to hot, dynamics in time."""
    seed = zlib.crc32(f"{SEED} {smiles}".encode()) >> 1  # RDKit takes a signed 32-bit seed
    random = np.random.default_rng(seed)
    kept: list[Frame] = []

    def keep(config_type: str, atoms: Atoms) -> None:
        atoms.positions = atoms.positions.round(4) + 0.0  # no -0.0000
        energy, forces = label(atoms)
        twin = config_type == "conformer" and any(
            abs(energy - frame.atoms.info["energy"]) < 1e-3 for frame in kept
        )
        if not twin and np.linalg.norm(forces, axis=1).max() <= MAX_FORCE:
            atoms.info["energy"], atoms.arrays["forces"] = energy, forces
            kept.append(Frame(smiles, config_type, atoms))

    structures = conformers(smiles, seed)
    for atoms in structures:
        keep("conformer", atoms)
    best = min(structures, key=lambda atoms: label(atoms)[0])
    for atoms in displaced(best, NUM_MODES, random):
        keep("normal_mode", atoms)
    trajectory = dynamics(best, random)
    while len(kept) < NUM_FRAMES:
        keep("md", next(trajectory))
    return kept


def isolated_atoms() -> list[Frame]:
    """Make the single atoms, in their ground-state multiplicity."""
    made = []
    for symbol, unpaired in ISOLATED_ATOMS.items():
        atoms = Atoms(symbol, [[0.0, 0.0, 0.0]])
        atoms.info["energy"], atoms.arrays["forces"] = label(atoms, unpaired)
        made.append(Frame(f"[{symbol}]", "IsolatedAtom", atoms))
    return made


def extxyz(frame: Frame) -> str:
    """Write one frame; positions to 1e-4 Å, energy to 1e-6 eV, forces to 1e-5 eV/Å."""
    atoms = frame.atoms
    lines = [
        str(len(atoms)),
        f'Properties=species:S:1:pos:R:3:forces:R:3 smiles="{frame.smiles}" '
        f'config_type={frame.config_type} energy={atoms.info["energy"]:.6f} pbc="F F F"',
    ]
    forces = atoms.arrays["forces"].round(5) + 0.0
    for symbol, position, force in zip(atoms.symbols, atoms.positions, forces, strict=True):
        columns = [f"{x:.4f}" for x in position] + [f"{x:.5f}" for x in force]
        lines.append(f"{symbol} {' '.join(columns)}")
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Make the example structures.")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    text = [extxyz(frame) for frame in isolated_atoms()]
    with get_context("spawn").Pool(options.processes) as pool:
        for done, made in enumerate(pool.imap(frames, SMILES, chunksize=1), start=1):
            text += [extxyz(frame) for frame in made]
            print(f"{done:3d} of {len(SMILES)} molecules, {made[0].smiles}", file=sys.stderr)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with options.output.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as zipped:
        zipped.write("".join(text).encode())
    megabytes = options.output.stat().st_size / 1e6
    print(f"{options.output}: {len(text)} structures, {megabytes:.2f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
