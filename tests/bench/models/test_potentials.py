"""Every potential sits the exam; what all have in common is looked at in one."""

import dataclasses

import numpy as np
import pytest
import torch

from chemscale.bench.models.base import build, load_family
from chemscale.table.records import RECIPES
from chemscale.table.registry import families
from chemscale.testing import PotentialContract
from chemscale.testing.potentials import crystal
from chemscale.testing.toys import graph_of, toy_molecules


class TestSchNet(PotentialContract):
    family = "schnet"


class TestPaiNN(PotentialContract):
    family = "painn"


@pytest.mark.slow
class TestMACE(PotentialContract):
    family = "mace"


@pytest.mark.slow
class TestAllegro(PotentialContract):
    family = "allegro"


@pytest.mark.slow
class TestSpookyNet(PotentialContract):
    family = "spookynet"


def test_no_potential_joins_the_house_without_an_exam():
    registered = {name for name in families.names() if load_family(name).unit == "structure"}
    examined = {
        value.family
        for name, value in globals().items()
        if name.startswith("Test") and issubclass(value, PotentialContract)
    }
    assert examined == registered


@pytest.fixture(scope="module")
def labelled():
    """A SchNet, and a crystal and two molecules with labels, beyond and below Huber's delta."""
    kind = load_family("schnet")
    model = build(kind, kind.ladder["w16"], 0, torch.float64)
    model.references.fill_(-1.0)
    model.scale.fill_(0.7)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    graph = graph_of([crystal(), *toy_molecules(2, seed=0)], cutoff=4.0)
    generator = np.random.default_rng(1)
    stress = torch.full((3, 3, 3), torch.nan, dtype=torch.float64)
    stress[0] = torch.eye(3) * 0.01
    sizes = graph.atoms_per_structure
    energy = -sizes + 0.1 * torch.from_numpy(generator.normal(size=3)) * sizes
    forces = 0.2 * torch.from_numpy(generator.normal(size=(graph.num_atoms, 3)))
    return model, dataclasses.replace(graph, energy=energy, forces=forces, stress=stress)


COSTS = {
    "huber": lambda x: np.where(np.abs(x) < 0.1, x**2 / 2, 0.1 * (np.abs(x) - 0.05)).mean(),
    "l1": lambda x: np.abs(x).mean(),
    "l2": lambda x: (x**2).mean(),
}


@pytest.mark.parametrize("loss", COSTS)
def test_the_loss_is_a_weighted_sum_of_mean_deviations_in_units_of_the_scale(labelled, loss):
    model, graph = labelled
    weights = {"energy_weight": 2.0, "forces_weight": 5.0, "stress_weight": 3.0}
    recipe = RECIPES["energy-and-forces"].model_copy(update={"loss": loss, **weights})
    told = model.predict(graph)
    sizes, scale = graph.atoms_per_structure.numpy(), 0.7
    energy = (told.energy.numpy() - graph.energy.numpy()) / sizes / scale
    forces = (told.forces - graph.forces).numpy() / scale
    virial = np.zeros((3, 3, 3))  # molecules have none, and count as right
    volume = float(graph.volumes()[0])
    virial[0] = (told.stress - graph.stress)[0].numpy() * volume / sizes[0] / scale
    cost = COSTS[loss]
    expected = 2 * cost(energy) + 5 * cost(forces) + 3 * cost(virial)
    assert float(model.loss(graph, recipe).detach()) == pytest.approx(expected, rel=1e-10)
    total, weight = model.measure(graph, recipe)["loss"]
    assert total / weight == pytest.approx(expected, rel=1e-10)


def test_the_error_of_the_stress_is_told_where_there_is_one(labelled):
    model, graph = labelled
    off = (model.predict(graph).stress - graph.stress)[0].abs()
    found = model.measure(graph, RECIPES["energy-and-forces"])
    assert found["stress_mae"] == pytest.approx((1e3 * float(off.sum()), 9.0))
    bare = dataclasses.replace(graph, stress=None)
    assert "stress_mae" not in model.measure(bare, RECIPES["energy-and-forces"])


def test_a_missing_stress_of_a_crystal_leaves_no_loss(labelled):
    model, graph = labelled
    recipe = RECIPES["energy-and-forces"].model_copy(update={"stress_weight": 1.0})
    missing = dataclasses.replace(graph, stress=torch.full_like(graph.stress, torch.nan))
    assert "loss" in model.measure(graph, recipe)
    assert "loss" not in model.measure(missing, recipe)
