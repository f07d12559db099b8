"""A study that learns stress: what it asks of data and families, and what it tells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from chemscale.bench.training.loop import train_run
from chemscale.bench.training.workbench import Workbench
from chemscale.table.errors import DataError, StudyError
from chemscale.table.expand import sweep_runs, validate
from chemscale.table.records import Study
from chemscale.table.store import StudyFolder

STUDY = """\
name = "copper"
families = {{ {family} = ["w16"] }}
dataset = {{ format = "extxyz", path = "copper.xyz", group = "content", test = 0.2, \
validation = 0.2 }}
num_train = [10]
recipe = {{ name = "energy-and-forces", batch_size = 20, warmup = 0{weight} }}
budget = {{ items = 1000 }}
"""


def crystals(*, stress: bool = True) -> list[Any]:
    """Cells of two copper atoms, shaken and strained, under effective medium theory."""
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(40):
        atoms = bulk("Cu").repeat((2, 1, 1))
        strain = generator.normal(0, 0.03, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        atoms.rattle(0.1, rng=generator)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        labels |= {"stress": atoms.get_stress()} if stress else {}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


def study(folder: Path, frames: list[Any], family: str = "schnet", weight: str = "") -> StudyFolder:
    folder.mkdir(exist_ok=True)
    write(folder / "copper.xyz", frames)
    (folder / "study.toml").write_text(STUDY.format(family=family, weight=weight))
    return StudyFolder(folder)


def bench(*given: Any, **more: Any) -> tuple[Study, Workbench]:
    folder = study(*given, **more)
    return folder.study(), Workbench(folder.study(), folder.path)


@pytest.mark.slow
def test_learning_stress_lowers_its_error(tmp_path: Path):
    errors = {}
    for weight in ("", ", stress_weight = 10.0"):
        folder = study(tmp_path / f"with{weight[-4:]}", crystals(), weight=weight)
        opened = Workbench(folder.study(), folder.path)
        (run,) = sweep_runs(folder.study(), opened, [])
        folder.ask({"sweep": [run]})
        outcome = train_run(folder, run.id, bench=opened)
        assert outcome is not None
        errors[weight] = outcome.metrics["test"]["stress_mae"]
    plain, learnt = errors.values()
    assert learnt < plain


def test_data_without_stress_are_refused(tmp_path: Path):
    asked, opened = bench(tmp_path, crystals(stress=False), weight=", stress_weight = 1.0")
    with pytest.raises(DataError, match="structures have no stress.*stress_key"):
        validate(asked, opened, "study.toml")


def test_a_family_without_cells_is_refused_by_name(tmp_path: Path):
    asked, opened = bench(tmp_path, crystals(), family="spookynet")
    with pytest.raises(DataError, match="40 structures are periodic.*spookynet.*or.*painn, schnet"):
        validate(asked, opened, "study.toml")


def test_only_runs_that_learn_stress_have_other_ids(tmp_path: Path):
    def ids(weight: str, frames: list[Any]) -> set[str]:
        asked, opened = bench(tmp_path, frames, weight=weight)
        return {run.id for run in sweep_runs(asked, opened, [])}

    plain = ids("", crystals())
    assert ids("", crystals(stress=False)) == plain
    assert ids(", stress_weight = 0.0", crystals()) == plain
    assert ids(", stress_weight = 1.0", crystals()) != plain


@pytest.mark.parametrize("given", [{"stress_weight": 1.0}, {"loss": "l1"}, {"forces_weight": 0.0}])
def test_what_is_for_potentials_is_refused_for_molecules(given: dict[str, Any]):
    with pytest.raises(StudyError, match=f"{next(iter(given))}: for potentials"):
        Study.read({**MOLECULES, "recipe": {"name": "molecules", **given}}, "study.toml")


def test_delta_means_nothing_to_losses_without_one():
    recipe = {"name": "energy-and-forces", "loss": "l2", "huber_delta": 0.2}
    with pytest.raises(StudyError, match="huber_delta means nothing with loss = 'l2'"):
        Study.read({**MOLECULES, "recipe": recipe}, "study.toml")


MOLECULES = {
    "name": "toy",
    "families": {"chemgpt": ["w16"]},
    "dataset": {"format": "csv", "path": "toy.csv"},
    "num_train": [10],
    "budget": {"items": 1000},
}
