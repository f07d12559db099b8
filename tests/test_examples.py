"""The data that ship with the package are what their scripts make."""

import gzip
import importlib.util
import io
from collections import Counter
from itertools import groupby
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "src/chemscale/bench/data/examples"
MOLECULES = EXAMPLES / "molecules.csv.gz"
STRUCTURES = EXAMPLES / "structures.xyz.gz"

# The desk is tested without these.
Chem = pytest.importorskip("rdkit.Chem")
ase_io = pytest.importorskip("ase.io")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def molecules() -> list[str]:
    header, *rows = gzip.decompress(MOLECULES.read_bytes()).decode().splitlines()
    assert header == "smiles"
    return rows


@pytest.fixture(scope="module")
def structures() -> list:
    # Given the .gz, ASE asks for its place at every line, which takes minutes.
    text = gzip.decompress(STRUCTURES.read_bytes()).decode()
    return ase_io.read(io.StringIO(text), ":", format="extxyz")


def test_the_script_makes_the_first_200_molecules_again(molecules: list[str]) -> None:
    again = list(script("make_example_molecules").enumerate_smiles(200))
    assert len(set(again)) == 200
    assert set(again) <= set(molecules)


def test_molecules_lie_in_the_order_of_their_hash(molecules: list[str]) -> None:
    place = script("make_example_molecules").place
    assert molecules == sorted(molecules, key=place)


def test_there_are_30_000_distinct_molecules_that_rdkit_reads(molecules: list[str]) -> None:
    assert len(molecules) == len(set(molecules)) >= 30_000
    assert not any("." in smiles for smiles in molecules)
    assert all(Chem.MolFromSmiles(smiles) is not None for smiles in molecules)


def test_molecules_are_canonical_and_drug_like(molecules: list[str]) -> None:
    is_drug_like = script("make_example_molecules").is_drug_like
    for smiles in molecules[::50]:
        molecule = Chem.MolFromSmiles(smiles)
        assert Chem.MolToSmiles(molecule) == smiles
        assert is_drug_like(molecule), smiles


def test_a_prefix_of_the_molecules_is_a_fair_sample(molecules: list[str]) -> None:
    lengths = np.array([len(smiles) for smiles in molecules], dtype=float)
    error_of_the_mean = lengths.std() / np.sqrt(2_000)
    assert abs(lengths[:2_000].mean() - lengths.mean()) < 4 * error_of_the_mean


def test_tblite_gives_the_stored_labels_of_20_structures_again(structures: list) -> None:
    pytest.importorskip("tblite")
    make = script("make_example_structures")
    for atoms in [*structures[:4], *structures[4 :: len(structures) // 16]]:
        single = atoms.info["config_type"] == "IsolatedAtom"
        unpaired = make.ISOLATED_ATOMS[atoms.symbols[0]] if single else 0
        energy, forces = make.label(atoms, unpaired)
        assert abs(energy - atoms.get_potential_energy()) < 1e-5
        assert np.abs(forces - atoms.get_forces()).max() < 1e-5


def test_there_are_4_000_structures_of_60_small_molecules(structures: list) -> None:
    kinds = Counter(atoms.info["config_type"] for atoms in structures)
    assert set(kinds) == {"IsolatedAtom", "conformer", "normal_mode", "md"}
    assert kinds["IsolatedAtom"] == 4
    assert kinds["conformer"] + kinds["normal_mode"] + kinds["md"] >= 4_000
    assert all(5 <= len(atoms) <= 21 for atoms in structures[4:])
    assert {symbol for atoms in structures for symbol in atoms.symbols} == set("CHNO")
    assert len({Chem.CanonSmiles(atoms.info["smiles"]) for atoms in structures[4:]}) >= 60


def test_the_structures_of_a_molecule_lie_together_and_have_its_formula(structures: list) -> None:
    runs = [(smiles, list(run)) for smiles, run in groupby(structures, lambda a: a.info["smiles"])]
    assert len(runs) == len({smiles for smiles, _ in runs})
    for smiles, run in runs:
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        expected = Counter(atom.GetSymbol() for atom in molecule.GetAtoms())
        assert all(Counter(atoms.symbols) == expected for atoms in run), smiles


def test_labels_are_finite_and_forces_are_balanced_and_bounded(structures: list) -> None:
    for atoms in structures:
        forces = atoms.get_forces()
        assert np.isfinite(atoms.get_potential_energy())
        assert np.isfinite(forces).all() and np.isfinite(atoms.positions).all()
        assert np.abs(forces.sum(axis=0)).max() < 1e-3
        assert np.linalg.norm(forces, axis=1).max() < 15.001


def test_the_examples_are_smaller_than_5_megabytes() -> None:
    assert MOLECULES.stat().st_size + STRUCTURES.stat().st_size < 5e6
