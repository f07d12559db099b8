"""A toy study, trained once for all."""

from pathlib import Path

import pytest

from chemscale.bench.training.loop import train_run
from chemscale.bench.using.trained import TrainedModel, load
from chemscale.expansion import open_workbench
from chemscale.table.expand import sweep_runs
from chemscale.table.store import StudyFolder
from chemscale.testing.toys import toy_smiles, write_structures

STUDY = """\
name = "toy"
families = { chemgpt = ["w16", "w24"] }
dataset = { format = "smi", path = "toy.smi", max_length = 40, test = 0.2, validation = 0.1 }
num_train = [100]
recipe = { name = "molecules", learning_rate = 3e-2, warmup = 100 }
budget = { items = 1500 }
"""


POTENTIALS = """\
name = "toy"
families = { painn = ["w16"], schnet = ["w16"] }
dataset = { format = "extxyz", path = "toy.xyz", test = 0.2, validation = 0.1 }
num_train = [60]
seeds = { default = 1, w16 = 2 }
recipe = { name = "energy-and-forces", learning_rate = 1e-2, warmup = 100 }
budget = { items = 2000 }
"""


def trained_study(path: Path, study: str) -> Path:
    """Train all runs of a study, whose data is there."""
    (path / "study.toml").write_text(study)
    folder = StudyFolder(path)
    bench = open_workbench(folder, lambda event: None)
    runs = sweep_runs(folder.study(), bench, [])
    folder.ask({"sweep": runs})
    for run in runs:
        outcome = train_run(folder, run.id, bench=bench)
        assert outcome is not None and outcome.status == "finished"
    return path


@pytest.fixture(scope="session")
def toy_potentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PaiNN and SchNet of two seeds each, on toy molecules; not to be changed."""
    path = tmp_path_factory.mktemp("toy-potentials")
    write_structures(path / "toy.xyz", count=96)
    return trained_study(path, POTENTIALS)


@pytest.fixture(scope="session")
def toy_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sizes of ChemGPT on a few hundred small molecules; not to be changed."""
    path = tmp_path_factory.mktemp("toy-study")
    (path / "toy.smi").write_text("\n".join(toy_smiles()) + "\n")
    return trained_study(path, STUDY)


@pytest.fixture(scope="session")
def trained(toy_study: Path) -> TrainedModel:
    """The best of them."""
    return load(toy_study)
