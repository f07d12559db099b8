"""Engines get the potential that was trained: metatomic's calculator says what ours says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

pytest.importorskip("metatomic_ase", reason="pip install 'chemscale[export]'")

import torch
from metatensor.torch import Labels
from metatomic.torch import ModelOutput
from metatomic_ase import MetatomicCalculator

import chemscale
from chemscale import exchange
from chemscale.bench.models.base import Potential, build, load_family
from chemscale.bench.using import metatomic
from chemscale.bench.using.calculator import PotentialCalculator
from chemscale.bench.using.trained import TrainedPotential
from chemscale.table.errors import ChemscaleError, UsageError
from chemscale.table.registry import families

# TorchScript, which metatomic is built on, is deprecated as a whole.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")

STRUCTURES = (
    molecule("CH3OH"),
    Atoms(
        "CONH",
        positions=[[0, 0.1, 0], [1.6, 1.8, 0.2], [1.7, 0.1, 1.7], [0.1, 1.7, 1.9]],
        cell=[[3.4, 0.2, 0], [0, 3.6, 0.3], [0.1, 0, 3.5]],  # smaller than the cutoff
        pbc=True,
    ),
    Atoms("O"),
)
POTENTIALS = [name for name in families.names() if load_family(name).unit == "structure"]


def made(family: str | type, dtype: str) -> TrainedPotential:
    """A potential with weights that say something."""
    kind = load_family(family) if isinstance(family, str) else family
    model = build(kind, next(iter(kind.ladder.values())), 0, torch.float32)
    generator = torch.Generator().manual_seed(1)
    for weights in model.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.1, generator=generator)
    model.to(getattr(torch, dtype))
    assert isinstance(model, Potential)
    model.references = torch.full((101,), torch.nan, dtype=torch.float64)
    model.references[[1, 6, 7, 8]] = torch.tensor([-0.5, 0.8, 0.7, -1.1]).double()
    model.scale.fill_(1.5)
    return TrainedPotential("a-run", str(family), model)


def run(path: Path) -> MetatomicCalculator:
    return MetatomicCalculator(
        path, device="cpu", check_consistency=True, do_gradients_with_energy=False
    )


@pytest.mark.parametrize(
    ("dtype", "close"),
    [("float64", 1e-9), pytest.param("float32", 1e-5, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("family", POTENTIALS)
def test_engines_say_what_our_calculator_says(family, dtype, close, tmp_path):
    trained, path = made(family, dtype), tmp_path / "potential.pt"
    try:
        exchange.refuse(trained)
    except UsageError as error:
        assert not (type(trained.model).local and not type(trained.model).charged), error
        return
    metatomic.write(trained, path, "what it is")
    ours, engine = PotentialCalculator([trained]), run(path)
    for atoms in STRUCTURES:
        ours.calculate(atoms)
        for _ in range(2):  # TorchScript optimises after the first time
            engine.calculate(atoms, ["energy", "energies", "forces"], [])
            for name in set(ours.results) - {"free_energy"}:
                assert engine.results[name] == pytest.approx(ours.results[name], abs=close)
    assert np.abs(ours.get_forces(STRUCTURES[0])).max() > 1e-2
    assert engine.model().capabilities().interaction_range == trained.model.reach
    # What a GPU would not find.
    graph = torch.jit.load(path).module.traced.inlined_graph
    constants = [node.output() for node in graph.findAllNodes("prim::Constant")]
    assert not [c for c in constants if c.type().kind() == "DeviceObjType"]
    assert not [c for c in constants if c.type().kind() == "TensorType" and c.toIValue().dim()]


def test_several_systems_and_some_of_their_atoms(tmp_path):
    trained, path = made("schnet", "float64"), tmp_path / "potential.pt"
    metatomic.write(trained, path, "what it is")
    ours, engine = PotentialCalculator([trained]), run(path)
    energies = [ours.get_property("energies", atoms) for atoms in STRUCTURES]
    chosen = [(0, 2), (0, 5), (2, 0)]
    some = Labels(["system", "atom"], torch.tensor(chosen))

    def told(kind: str, atoms: Labels | None) -> list[float]:
        outputs = {"energy": ModelOutput(unit="eV", sample_kind=kind)}
        found = engine.run_model(list(STRUCTURES), outputs, atoms)["energy"]
        return found.block().values.flatten().tolist()

    assert told("atom", None) == pytest.approx(np.concatenate(energies))
    assert told("system", None) == pytest.approx([one.sum() for one in energies])
    assert told("atom", some) == pytest.approx([energies[s][a] for s, a in chosen])
    assert told("system", some) == pytest.approx([energies[0][[2, 5]].sum(), energies[2][0]])


def test_a_family_that_is_not_traced_as_it_is_is_not_written(tmp_path):
    class Sized(load_family("schnet")):
        def atom_energies(self, graph):
            return super().atom_energies(graph) * len(graph.positions)

    with pytest.raises(ChemscaleError, match=r"another function .*atoms: 1, .*tensor.shape\[0\]"):
        metatomic.write(made(Sized, "float64"), tmp_path / "potential.pt", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_trained_run_is_exported_whole(toy_potentials, tmp_path):
    path = tmp_path / "new" / "potential.pt"
    seen = chemscale.export(toy_potentials, path, dtype="float64")
    assert seen.energy < 1e-10 and [one.name for one in path.parent.iterdir()] == [path.name]
    engine, ours = run(path), chemscale.calculator(toy_potentials, dtype="float64")
    atoms = STRUCTURES[0]
    assert engine.get_potential_energy(atoms) == pytest.approx(ours.get_potential_energy(atoms))
    assert "trained by chemscale" in engine.metadata().description
