"""A trained potential at work in ASE gives what it was judged by, or says why it cannot."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.io import read
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import chemscale
from chemscale.bench.data.base import open_dataset
from chemscale.bench.training.ended import trained_runs
from chemscale.bench.using.neighbours import Neighbours
from chemscale.bench.using.trained import TrainedPotential, load, load_potential
from chemscale.table.errors import DataError, StoreError, UsageError
from chemscale.table.store import StudyFolder


@pytest.fixture
def one(toy_potentials: Path):
    return chemscale.calculator(toy_potentials, dtype="float64")


def runs_of(study: Path, family: str) -> list[Path]:
    places = trained_runs(StudyFolder(study))
    return [place.path for place in places if place.run().trunk.family == family]


def crystal(size: int = 1) -> Atoms:
    """Carbon monoxide and friends in a cell smaller than the cutoff."""
    cell = [[3.4, 0.2, 0], [0, 3.6, 0.3], [0.1, 0, 3.5]]
    places = [[0, 0.1, 0], [1.6, 1.8, 0.2], [1.7, 0.1, 1.7], [0.1, 1.7, 1.9]]
    return Atoms("CONH", positions=places, cell=cell, pbc=True) * (size, 1, 1)


def test_it_has_the_errors_that_its_run_ended_with(toy_potentials):
    place = trained_runs(StudyFolder(toy_potentials))[0]
    dataset = open_dataset(StudyFolder(toy_potentials).study().dataset, toy_potentials)
    frames = read(toy_potentials / "toy.xyz", ":")
    calc = chemscale.calculator(place.path)
    errors = []
    for item in dataset.evaluated("test"):
        atoms = frames[item]
        forces = calc.get_forces(atoms)
        errors.append(np.abs(forces - atoms.arrays["REF_forces"]).ravel())
    judged = place.outcome().metrics["test"]["force_mae"]
    assert 1e3 * np.concatenate(errors).mean() == pytest.approx(judged, rel=1e-4)


def test_results_are_those_of_the_potential(one):
    atoms = molecule("CH3OH")
    atoms.calc = one
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    assert atoms.get_forces() == pytest.approx(numerical, abs=1e-5)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_stress_follows_the_signs_of_ase(one):
    atoms = crystal()
    atoms.calc = one
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    assert atoms.get_stress() == pytest.approx(numerical, abs=1e-6)
    assert atoms.get_stress().shape == (6,)


def test_a_box_smaller_than_the_cutoff_is_as_good_as_a_large_one(one):
    assert min(crystal().cell.lengths()) < one.neighbours.cutoff
    energy = one.get_potential_energy(crystal())
    assert one.get_potential_energy(crystal(3)) == pytest.approx(3 * energy, rel=1e-12)
    assert one.get_stress(crystal(3)) == pytest.approx(one.get_stress(crystal()), abs=1e-9)


def test_a_slab_needs_no_cell_where_it_is_not_periodic(one):
    slab = crystal()
    slab.pbc = (True, True, False)
    slab.cell[2] = 0
    flat = one.get_potential_energy(slab)
    slab.cell[2] = [0, 0, 40]
    slab.pbc = True
    assert flat == pytest.approx(one.get_potential_energy(slab), rel=1e-12)


def test_neighbours_that_are_kept_are_those_that_are_looked_for():
    generator = np.random.default_rng(0)
    for atoms in (crystal(2), bulk("Cu", cubic=True), molecule("C60")):
        keeping = Neighbours(3.0, 0.6)
        searches = 0
        for _ in range(30):
            atoms.positions += generator.normal(0, 0.03, atoms.positions.shape)
            before = keeping._start
            found = keeping.find(atoms.positions, atoms.cell.array, atoms.pbc)
            searches += keeping._start is not before
            fresh = Neighbours(3.0, 0.0).find(atoms.positions, atoms.cell.array, atoms.pbc)
            for name in ("senders", "receivers"):
                assert np.array_equal(getattr(found, name), getattr(fresh, name))
            assert np.sort(found.squares) == pytest.approx(np.sort(fresh.squares))
        assert 1 < searches < 20
        atoms.cell *= 1.01
        keeping.find(atoms.positions, atoms.cell.array, atoms.pbc)
        assert np.array_equal(keeping._box[0], atoms.cell.array) or not atoms.pbc.any()


def test_a_committee_tells_the_mean_and_how_far_its_members_differ(toy_potentials):
    runs = runs_of(toy_potentials, "schnet")
    members = [chemscale.calculator(run) for run in runs]
    both = chemscale.calculator(runs)
    atoms = molecule("CH3OH")
    energies = [one.get_potential_energy(atoms) for one in members]
    forces = np.stack([one.get_forces(atoms) for one in members])
    assert both.get_potential_energy(atoms) == pytest.approx(np.mean(energies))
    assert both.get_forces(atoms) == pytest.approx(forces.mean(axis=0))
    assert both.get_property("energy_std", atoms) == pytest.approx(np.std(energies, ddof=1))
    assert both.results["forces_std"] == pytest.approx(forces.std(axis=0, ddof=1))
    assert "energy_std" not in members[0].implemented_properties


def test_a_study_makes_a_committee_of_the_seeds_of_its_best_run(toy_potentials):
    committee = chemscale.calculator(toy_potentials, committee=True)
    best = load_potential(toy_potentials)
    assert len(committee.members) == 2
    assert {one.family for one in committee.members} == {best.family}
    assert best.name in [one.name for one in committee.members]
    with pytest.raises(UsageError, match="a list is one anyway"):
        chemscale.calculator(runs_of(toy_potentials, "schnet"), committee=True)


def test_a_run_without_another_seed_makes_no_committee(toy_potentials, tmp_path):
    study = shutil.copytree(toy_potentials, tmp_path / "study")
    first, second = runs_of(study, "schnet")
    shutil.rmtree(second / "checkpoints")
    with pytest.raises(StoreError, match="takes runs of several seeds"):
        chemscale.calculator(first, committee=True)


@pytest.mark.parametrize(
    ("atoms", "said"),
    [
        (Atoms("OSiAuO", [[0, 0, z] for z in range(4)]), "does not know Au, Si: it was trained on"),
        (Atoms("OHH", [[0, 0, 0], [0, 0, 1], [0, 0, 1.05]]), r"H1 and H2 \(0.050 Å\)"),
        (Atoms("OH", [[0, 0, 0], [0, np.nan, 1]]), r"the first is atom 1 \(H\)"),
        (Atoms("OH", [[0, 0, 0], [0, 0, 1]], pbc=True), "the cell has no volume"),
        (Atoms("OH", [[0, 0, 0], [0, 0, 1]], cell=[3, 3, 0.04], pbc=True), "O0 and O0"),
        (Atoms(), "no atoms"),
    ],
    ids=["element", "overlap", "nan", "volume", "thin", "empty"],
)
def test_what_makes_no_sense_is_refused(one, atoms, said):
    with pytest.raises(DataError, match=said):
        one.get_potential_energy(atoms)


def test_precision_is_chosen(toy_potentials):
    atoms = molecule("CH3OH")
    floats = ("float32", "float64")
    single, double = (chemscale.calculator(toy_potentials, dtype=one) for one in floats)
    assert single.members[0].model.references.dtype == double.members[0].model.scale.dtype
    assert single.members[0].model.scale.dtype != double.members[0].model.scale.dtype
    assert single.get_forces(atoms) == pytest.approx(double.get_forces(atoms), abs=1e-3)
    with pytest.raises(DataError, match="dtype 'half': one of float32, float64"):
        chemscale.calculator(toy_potentials, dtype="half")


def test_a_molecule_relaxes_and_keeps_its_energy_in_motion(one):
    atoms = molecule("CH3OH")
    atoms.calc = one
    assert BFGS(atoms, logfile=None).run(fmax=1e-3, steps=200)
    spread = np.sqrt(atoms.get_masses() * units.kB * 300)[:, None]
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * spread)
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    totals = []
    dynamics.attach(lambda: totals.append(atoms.get_total_energy()))
    dynamics.run(200)
    kinetic = atoms.get_kinetic_energy()
    assert np.ptp(totals) < 0.05 * kinetic


def test_language_models_and_potentials_are_told_apart(toy_potentials, toy_study):
    assert isinstance(chemscale.load_model(toy_potentials), TrainedPotential)
    assert chemscale.load_model(toy_potentials).elements == ("H", "C", "N", "O")
    with pytest.raises(DataError, match="energies and forces are told by interatomic potentials"):
        chemscale.calculator(toy_study)
    with pytest.raises(DataError, match="are for language models"):
        chemscale.generate(toy_potentials)
    with pytest.raises(DataError, match="are for language models"):
        load(toy_potentials)
