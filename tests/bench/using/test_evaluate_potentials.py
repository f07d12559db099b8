"""Potentials are judged by element and formula, and by whether they hold a molecule together."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

import chemscale
from chemscale import tables_using
from chemscale.bench.data.base import open_dataset
from chemscale.bench.training.ended import trained_runs
from chemscale.bench.using import accuracy
from chemscale.bench.using.dynamics import constant_energy
from chemscale.bench.using.trained import load_potential
from chemscale.table.errors import DataError, UsageError
from chemscale.table.store import StudyFolder


@pytest.fixture
def study(toy_potentials: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_potentials, tmp_path / "study"))


class Springs(Calculator):
    """Two atoms on a spring; or one that pushes them apart."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, stiffness: float):
        super().__init__()
        self.stiffness = stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        line = self.atoms.positions[1] - self.atoms.positions[0]
        distance = np.linalg.norm(line)
        force = self.stiffness * (distance - 0.74) * line / distance
        self.results = {
            "energy": 0.5 * self.stiffness * (distance - 0.74) ** 2,
            "forces": np.array([force, -force]),
        }


def test_errors_are_those_that_training_told(toy_potentials):
    dataset = open_dataset(StudyFolder(toy_potentials).study().dataset, toy_potentials)
    items = dataset.evaluated("test")
    for place in trained_runs(StudyFolder(toy_potentials)):
        found = accuracy.errors(load_potential(place.path), dataset, items)
        judged = place.outcome().metrics["test"]
        for name in ("energy_mae", "force_mae"):
            assert found[name] == pytest.approx(judged[name], rel=1e-4)
        assert -1 <= found["force_cosine"] <= 1 and found["force_rmse"] >= found["force_mae"]


def test_parts_add_up_to_the_whole(toy_potentials, monkeypatch):
    dataset = open_dataset(StudyFolder(toy_potentials).study().dataset, toy_potentials)
    items, trained = dataset.indices("test"), load_potential(toy_potentials)
    whole = accuracy.errors(trained, dataset, items)
    counts = dataset.arrays["counts"][items].sum(axis=0)
    by_element = sum(
        counts[z] * whole[f"force_mae.element.{symbol}"]
        for z, symbol in ((1, "H"), (6, "C"), (7, "N"), (8, "O"))
    )
    assert by_element / counts.sum() == pytest.approx(whole["force_mae"])
    assert "force_mae.kind.CH4" in whole and "energy_mae.kind.CH4" in whole
    monkeypatch.setattr(accuracy, "MOST_EDGES", 30)
    assert accuracy.errors(trained, dataset, items) == pytest.approx(whole, rel=1e-4)


def test_configurations_are_told_apart(study):
    text = (study / "toy.xyz").read_text()
    head, tail = text[: len(text) // 2], text[len(text) // 2 :]
    named = [
        part.replace("pbc=", f"config_type=at.{t} pbc=") for part, t in ((head, 300), (tail, 600))
    ]
    (study / "toy.xyz").write_text("".join(named))
    dataset = open_dataset(StudyFolder(study).study().dataset, study)
    items = dataset.indices("train")
    whole = accuracy.errors(load_potential(study), dataset, items)
    configs, sizes = np.array(dataset.configs(items)), np.diff(dataset.start)[items]
    parts = [
        sizes[configs == c].sum() * whole[f"force_mae.config.{c}"] for c in ("at.300", "at.600")
    ]
    assert sum(parts) / sizes.sum() == pytest.approx(whole["force_mae"])
    assert whole["energy_mae.config.at.300"] != whole["energy_mae.config.at.600"]


def test_a_spring_holds_and_a_push_does_not():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    held = constant_energy(atoms, Springs(30.0), 0.2)
    assert held["nve_stable"] == 1 and held["nve_ps"] == pytest.approx(0.2)
    assert abs(held["nve_drift"]) < 5 and held["nve_scatter"] < 2
    pushed = constant_energy(atoms, Springs(-30.0), 0.2)
    assert pushed["nve_stable"] == 0 and pushed["nve_ps"] < 0.2
    same = constant_energy(atoms, Springs(30.0), 0.2)
    assert same == held and np.array_equal(atoms.get_momenta(), np.zeros((2, 3)))


def test_a_study_is_evaluated_told_and_reported(study, capsys):
    found = chemscale.evaluate(study, num_samples=15, dynamics=0.01)
    assert len(found.runs) == 4 and StudyFolder(study).evaluation() == found
    assert all("nve_stable" in one.metrics for one in found.runs)
    assert found.num_reference["test"] == 15
    tables_using.print_evaluation(found, study)
    out = capsys.readouterr().out
    assert "force MAE, meV/Å" in out and "Errors over 15 of test" in out and "of the best" in out
    for path in StudyFolder(study).run_folders().values():
        shutil.rmtree(path / "checkpoints")
    page = chemscale.report(study).read_text()
    assert "what a lower loss buys" in page and "force MAE, meV/Å, O" in page


def test_what_was_evaluated_stays_and_other_settings_are_refused(study):
    run = trained_runs(StudyFolder(study))[0].path
    first = chemscale.evaluate(run, num_samples=10)
    assert len(first.runs) == 1 and chemscale.evaluate(run, num_samples=10) == first
    with pytest.raises(UsageError, match="made with num_structures 10, dynamics 0"):
        chemscale.evaluate(study, num_samples=11)


def test_data_that_changed_are_told(study):
    text = (study / "toy.xyz").read_text()
    (study / "toy.xyz").write_text(text.replace("REF_energy=-1", "REF_energy=-2"))
    with pytest.raises(DataError, match="the data changed since"):
        chemscale.evaluate(study, num_samples=10)


def test_dynamics_are_not_for_language_models(toy_study):
    with pytest.raises(UsageError, match="dynamics are of potentials"):
        chemscale.evaluate(toy_study, num_samples=10, dynamics=1.0)
