"""HDF5 and LMDB of structures, and units: each layout gives the frames that were written."""

import json
import pickle
import zlib
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write as write_atoms

from chemscale.bench.data.base import open_dataset
from chemscale.bench.data.graphs import Structures
from chemscale.bench.models.base import load_family
from chemscale.table.errors import DataError, StudyError
from chemscale.table.records import DatasetSpec
from chemscale.testing.toys import Structure, morse, toy_molecules

START = toy_molecules(1, seed=0)[0]
KJ = units.kJ / units.mol
SIZE = len(START.numbers)
CLOSED = 1 + (int(START.numbers.sum()) + 1) % 2  # the lowest multiplicity of the anion
FRAMES = [
    Structure(START.numbers, START.positions + 0.002 * step * np.eye(SIZE, 3)) for step in range(40)
]
ENERGY = np.array([morse(frame)[0] for frame in FRAMES])
FORCES = np.array([morse(frame)[1] for frame in FRAMES])
POSITIONS = np.array([frame.positions for frame in FRAMES])


def read(path: Path, form: str, **options) -> Structures:
    given = {"group": "content", "validation": 0.2, "test": 0.2, **options}
    made = open_dataset(DatasetSpec(format=form, path=(path.name,), **given), path.parent)
    assert isinstance(made, Structures)
    return made


def check(data: Structures) -> None:
    data.check(("energy", "forces"))
    assert np.allclose(data.arrays["positions"], np.concatenate(POSITIONS), atol=1e-12)
    assert np.allclose(data.arrays["energy"], ENERGY)
    assert np.allclose(data.arrays["forces"], np.concatenate(FORCES))
    assert (data.arrays["atomic_numbers"] == np.tile(START.numbers, len(FRAMES))).all()


def ani(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("CHNO")
        group["atomic_numbers"] = START.numbers
        group["coordinates"] = POSITIONS
        group["wb97x_dz.energy"] = ENERGY / units.Hartree
        group["wb97x_dz.forces"] = FORCES / units.Hartree
    return path


def spice(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("molecule")
        group["atomic_numbers"] = START.numbers
        group["conformations"] = POSITIONS / units.Bohr
        group["dft_total_energy"] = ENERGY / units.Hartree
        group["dft_total_gradient"] = -FORCES / (units.Hartree / units.Bohr)
        group.create_dataset("smiles", data=["[CH4]"], dtype=h5py.string_dtype())
    return path


def comp6(path: Path) -> Path:
    from ase.data import chemical_symbols

    symbols = [chemical_symbols[number] for number in START.numbers]
    with h5py.File(path, "w") as file:
        group = file.create_group("set/molecule")
        group["species"] = np.array(symbols, dtype="S2")
        group["coordinates"] = POSITIONS
        group["energies"] = ENERGY / units.Hartree
        group["forces"] = -FORCES / units.Hartree  # github.com/isayev/COMP6, issue 2
        group["hirshfeld"] = np.zeros((len(FRAMES), SIZE + 1))
        group["lot"] = np.array([b"wb97x/6-31g*"])
    return path


def ani2x(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group(f"{SIZE:03}")
        group["species"] = np.tile(START.numbers, (len(FRAMES), 1))
        group["coordinates"] = POSITIONS
        group["energies"] = ENERGY / units.Hartree
        group["forces"] = FORCES / units.Hartree
    return path


def rows(path: Path, encode) -> Path:
    with lmdb.open(str(path), subdir=False) as file, file.begin(write=True) as transaction:
        for number, frame in enumerate(FRAMES, start=1):
            places = frame.positions.ravel().tolist()
            row = {
                "numbers": frame.numbers.tolist(),
                "positions": {"__ndarray__": [[SIZE, 3], "float64", places]},
                "cell": np.zeros((3, 3)).tolist(),
                "pbc": [False] * 3,
                "energy": float(ENERGY[number - 1]),
                "forces": FORCES[number - 1].tolist(),
                "key_value_pairs": {"molecule": f"m{number}"},
                "data": {"charge": -1, "spin": CLOSED, "source": f"s{number}", "more": [1.0]},
            }  # fmt: skip
            transaction.put(str(number).encode(), encode(row))
        transaction.put(b"nextid", zlib.compress(b"41"))
    return path


@pytest.mark.parametrize("write", [ani, ani2x, spice, comp6])
def test_each_layout_of_hdf5_is_read_in_the_units_it_is_published_in(tmp_path, write):
    data = read(write(tmp_path / "a.h5"), "hdf5")
    check(data)
    assert "in hartree" in data.notes[0] and "units in [dataset]" in data.notes[0]


def test_molecules_of_one_size_in_one_group_keep_their_elements(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("003")
        group["species"] = [[8, 1, 1], [9, 1, 9]] * 20
        group["coordinates"] = np.arange(360.0).reshape(40, 3, 3)
        group["energies"] = np.arange(40.0)
    data = read(tmp_path / "a.h5", "hdf5")
    assert data.arrays["atomic_numbers"].tolist() == [8, 1, 1, 9, 1, 9] * 20


def test_molecules_of_spice_are_grouped_and_charged_by_their_smiles(tmp_path):
    path = spice(tmp_path / "a.h5")
    with pytest.raises(DataError, match="no .* structures among 40"):  # one group: one split
        read(path, "hdf5", group="smiles")
    with h5py.File(path, "a") as file:
        file["molecule/smiles"][0] = "[NH3+:1][CH2:2][C:3](=[O:4])[OH:5]"
    assert (read(path, "hdf5").arrays["charge"] == 1).all()


def test_declared_units_go_before_those_of_a_layout(tmp_path):
    data = read(ani(tmp_path / "a.h5"), "hdf5", units={"energy": "eV", "length": "Å"})
    assert np.allclose(data.arrays["energy"], ENERGY / units.Hartree)
    assert np.allclose(data.arrays["forces"], np.concatenate(FORCES) / units.Hartree)


def test_a_truncated_hdf5_is_refused_by_name(tmp_path):
    path = ani(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"a\.h5: cannot be read as hdf5.*truncated"):
        read(path, "hdf5")


def test_an_hdf5_without_positions_is_told_what_it_holds(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["water/xyz"] = POSITIONS
    with pytest.raises(DataError, match="no group with coordinates.*water/xyz"):
        read(tmp_path / "a.h5", "hdf5")


def test_an_lmdb_of_rows_is_read(tmp_path):
    path = rows(tmp_path / "a.aselmdb", lambda row: zlib.compress(json.dumps(row).encode()))
    data = read(path, "aselmdb")
    check(data)
    assert (data.arrays["charge"] == -1).all() and (data.arrays["unpaired"] == CLOSED - 1).all()
    read(path, "aselmdb", group="source")


def test_charge_and_spin_in_the_data_of_a_row_are_read(tmp_path):
    with connect(tmp_path / "a.db") as opened:
        for atoms in crystals(periodic=False)[:12]:
            opened.write(atoms, data={"charge": -1, "spin": CLOSED, "more": np.ones(3)})
    data = read(tmp_path / "a.db", "db")
    assert (data.arrays["charge"] == -1).all() and (data.arrays["unpaired"] == CLOSED - 1).all()


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


def test_an_lmdb_of_pickles_is_refused_and_never_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = rows(tmp_path / "a.lmdb", lambda _: pickle.dumps(Trap()))
    with pytest.raises(DataError, match="pickles.*run any code.*format = 'db'"):
        read(path, "aselmdb")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("declared", "energy", "length", "forces"),
    [
        ({"energy": "kcal/mol"}, units.kcal / units.mol, 1.0, units.kcal / units.mol),
        ({"energy": "kJ/mol", "length": "nm"}, KJ, 10.0, KJ / 10),
        ({"energy": "Ry", "length": "bohr"}, units.Ry, units.Bohr, units.Ry / units.Bohr),
        ({"energy": "meV", "forces": "hartree/bohr"}, 1e-3, 1.0, units.Hartree / units.Bohr),
        ({"forces": "-eV/Å"}, 1.0, 1.0, -1.0),
    ],
)  # fmt: skip
def test_declared_units_are_converted_once(tmp_path, declared, energy, length, forces):
    path = tmp_path / "a.npz"
    np.savez(
        path,
        nuclear_charges=START.numbers,
        coords=POSITIONS / length,
        energies=ENERGY / energy,
        forces=FORCES / forces,
    )
    check(read(path, "npz", units=declared))


def test_an_archive_may_name_its_units(tmp_path):
    labels = {"z": START.numbers, "R": POSITIONS, "E": ENERGY[:, None] / KJ, "F": FORCES / KJ}
    np.savez(tmp_path / "a.npz", **labels, e_unit="kJ/mol", r_unit="Ang")
    data = read(tmp_path / "a.npz", "npz")
    check(data)
    assert "energies in kJ/mol, lengths in Ang" in data.notes[0]
    np.savez(tmp_path / "a.npz", **labels, e_unit="cal")
    with pytest.raises(DataError, match="units.energy = 'cal' is not known"):
        read(tmp_path / "a.npz", "npz")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"energy": "cal"}, "units.energy = 'cal' is not known: eV"),
        ({"length": "parsec"}, "units.length = 'parsec' is not known: Å"),
        ({"forces": "newton"}, "no energy by length"),
        ({"stress": "eV/Å"}, "neither a pressure"),
        ({"mass": "u"}, "mass"),
    ],
)
def test_unknown_units_are_told_at_the_door(declared, message):
    with pytest.raises(StudyError, match=message):
        DatasetSpec.read({"format": "extxyz", "path": "a.xyz", "units": declared}, "study.toml")


def test_units_are_declared_in_one_way(tmp_path):
    given = {"format": "npz", "path": "a", "energy_unit": "Ha", "units": {"energy": "eV"}}
    with pytest.raises(StudyError, match="units or energy_unit, not both"):
        DatasetSpec.read(given, "study.toml")


# --- stress --------------------------------------------------------------------------------------

CELL = np.array([[4.0, 0.5, 0.0], [0.0, 5.0, 0.0], [0.3, 0.0, 6.0]])
VOLUME = abs(np.linalg.det(CELL))
VOIGT = np.random.default_rng(0).normal(0.0, 0.01, (len(FRAMES), 6))  # xx, yy, zz, yz, xz, xy
STRESS = VOIGT[:, [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]


def crystals(*, periodic: bool = True, **labels) -> list[Atoms]:
    made = []
    for number, frame in enumerate(FRAMES):
        atoms = Atoms(frame.numbers, frame.positions, cell=CELL, pbc=periodic)
        given = {key: value[number] for key, value in labels.items()}
        atoms.calc = SinglePointCalculator(atoms, energy=float(ENERGY[number]), **given)
        made.append(atoms)
    return made


def by_ase(folder: Path) -> Path:
    path = folder / "a.xyz"
    write_atoms(path, crystals(stress=VOIGT))
    return path


def by_virial(folder: Path) -> Path:
    path = folder / "a.xyz"
    made = crystals()
    for atoms, stress in zip(made, STRESS, strict=True):
        atoms.info["REF_virials"] = -stress * VOLUME
    write_atoms(path, made)
    return path


def by_database(folder: Path) -> Path:
    path = folder / "a.db"
    with connect(path) as opened:
        for atoms in crystals(stress=VOIGT):
            opened.write(atoms)
    return path


def by_lmdb(folder: Path) -> Path:
    path = folder / "a.lmdb"
    with lmdb.open(str(path), subdir=False) as file, file.begin(write=True) as transaction:
        for number, atoms in enumerate(crystals()):
            row = {
                "numbers": atoms.numbers.tolist(),
                "positions": atoms.positions.tolist(),
                "cell": CELL.tolist(),
                "pbc": [True] * 3,
                "energy": float(ENERGY[number]),
                "stress": VOIGT[number].tolist(),
            }
            transaction.put(str(number).encode(), zlib.compress(json.dumps(row).encode()))
    return path


@pytest.mark.parametrize("write", [by_ase, by_virial, by_database, by_lmdb])
def test_stress_is_read_as_ase_has_it(tmp_path, write):
    path = write(tmp_path)
    data = read(path, {".xyz": "extxyz", ".db": "db", ".lmdb": "aselmdb"}[path.suffix])
    data.check(("stress",))
    assert np.allclose(data.arrays["stress"], STRESS, atol=1e-8)
    batch = data.collate(load_family("schnet").ladder["w16"])(np.array([3, 7]))
    assert np.allclose(batch.stress, STRESS[[3, 7]], atol=1e-8)


def test_stress_in_gigapascal_becomes_electronvolts_by_cubic_angstrom(tmp_path):
    made = crystals()
    for atoms, stress in zip(made, STRESS, strict=True):
        atoms.info["dft"] = stress / units.GPa
    write_atoms(tmp_path / "a.xyz", made)
    data = read(tmp_path / "a.xyz", "extxyz", stress_key="dft", units={"stress": "GPa"})
    assert np.allclose(data.arrays["stress"], STRESS, atol=1e-8)


def test_stress_of_what_is_not_periodic_is_left_out_and_said_so(tmp_path):
    write_atoms(tmp_path / "a.xyz", crystals(periodic=False, stress=VOIGT))
    data = read(tmp_path / "a.xyz", "extxyz")
    assert "stress of 40 structures left out: they are not periodic" in data.notes[0]
    with pytest.raises(DataError, match="no train structure is periodic.*stress_weight = 0"):
        data.check(("stress",))


def test_a_stress_that_is_not_symmetric_is_rejected(tmp_path):
    made = crystals()
    for atoms in made[::2]:
        atoms.info["REF_stress"] = np.arange(9.0).reshape(3, 3)
    write_atoms(tmp_path / "a.xyz", made)
    with pytest.raises(DataError, match="REF_stress is not symmetric; stress_key"):
        read(tmp_path / "a.xyz", "extxyz")


def test_stress_changes_the_fingerprint_of_runs_that_learn_it_only(tmp_path):
    one = read(by_ase(tmp_path), "extxyz")
    write_atoms(tmp_path / "b.xyz", crystals(stress=2 * VOIGT))
    two = read(tmp_path / "b.xyz", "extxyz")
    assert one.fingerprint(10, 0) == two.fingerprint(10, 0)
    assert one.fingerprint(10, 0, ["stress"]) != two.fingerprint(10, 0, ["stress"])
