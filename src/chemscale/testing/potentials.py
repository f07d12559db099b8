"""The exam of an interatomic potential: symmetry, gradients, cutoffs, batches, counts."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from chemscale.bench.data.base import Dataset, open_dataset
from chemscale.bench.data.graph_batch import GraphBatch
from chemscale.bench.models.base import Potential
from chemscale.bench.training.devices import CPU
from chemscale.table.errors import DataError
from chemscale.table.record import Record
from chemscale.table.records import RECIPES, DatasetSpec
from chemscale.testing.counting import count_step
from chemscale.testing.families import FamilyContract
from chemscale.testing.toys import (
    REFERENCE,
    Structure,
    graph_of,
    rotation,
    toy_molecules,
    write_structures,
)


class PotentialContract(FamilyContract):
    """The exam of an interatomic potential."""

    recipe = RECIPES["energy-and-forces"]
    # Of the energies' spread and force RMS. The order of sums differs between processors.
    tolerance: ClassVar[dict[torch.dtype, float]] = {torch.float64: 1e-9, torch.float32: 5e-5}

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
        """Perturbed small molecules under a sum of Morse pairs."""
        path = tmp_path_factory.mktemp("toy") / "toy.xyz"
        write_structures(path, with_charges=cls.kind().charged)
        spec = DatasetSpec(format="extxyz", path=(path.name,), validation=0.15, test=0.15)
        return open_dataset(spec, path.parent)

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, trained: tuple[Any, list[float]]) -> Potential:
        """The trained model, in single precision."""
        return trained[0]

    @pytest.fixture(scope="class")
    @classmethod
    def exact(cls, model: Potential) -> Potential:
        """The trained model, in double precision."""
        return copy.deepcopy(model).double()

    @pytest.fixture(scope="class")
    @classmethod
    def probes(cls) -> list[Structure]:
        """Molecules that nobody trained on."""
        return toy_molecules(8, seed=1)

    def graph(self, model: Potential, structures: Sequence[Structure]) -> GraphBatch:
        """What a model reads of structures, in its precision."""
        return graph_of(structures, model.cutoff).to(CPU, model.scale.dtype)

    def predict(
        self, model: Potential, structures: Sequence[Structure]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Energies (structures,) eV and forces (atoms, 3) eV/Å of one batch."""
        energies, forces = model(self.graph(model, structures))
        return energies.double().numpy(), forces.double().numpy()

    def agree(self, model: Potential, probes: list[Structure], found: Any, expected: Any) -> None:
        """Compare energies and forces, relative to how much these vary over the probes."""
        energies, forces = self.predict(model, probes)
        spread = np.std(energies - reference(model, probes))
        rms = np.sqrt(np.mean(forces**2))
        assert spread > 0 and rms > 0, "a model that says nothing passes no exam"
        tolerance = self.tolerance[model.scale.dtype]
        assert np.abs(found[0] - expected[0]).max() < tolerance * spread
        assert np.abs(found[1] - expected[1]).max() < tolerance * rms

    @pytest.mark.parametrize("recipe", ["energy-and-forces", "energy"])
    @pytest.mark.parametrize("rung", [0, 2])
    def test_the_flops_formula_says_what_is_counted(
        self, data: Dataset, recipe: str, rung: int
    ) -> None:
        config = self.kind().fitted_config(list(self.kind().ladder)[rung], data)
        model = self.start(data, config)
        batch = data.collate(config)(data.indices("train")[:8]).to(CPU, torch.float32)
        expected = model.flops(model.seen(batch), RECIPES[recipe])
        counted = count_step(model, batch, RECIPES[recipe]).flops
        assert counted == pytest.approx(expected, rel=0.01)

    @pytest.mark.parametrize("recipe", ["energy-and-forces", "energy"])
    def test_measure_gives_the_loss_that_training_minimises(
        self, data: Dataset, model: Potential, recipe: str
    ) -> None:
        config: Any = model.config
        batch = data.collate(config)(data.indices("validation")).to(CPU, torch.float32)
        total, weight = model.measure(batch, RECIPES[recipe])["loss"]
        assert total / weight == pytest.approx(model.loss(batch, RECIPES[recipe]).item(), rel=1e-5)

    def test_a_batch_equals_its_structures_alone(
        self, model: Potential, probes: list[Structure]
    ) -> None:
        alone = [self.predict(model, [probe]) for probe in probes]
        expected = [np.concatenate(parts) for parts in zip(*alone, strict=True)]
        self.agree(model, probes, self.predict(model, probes), expected)

    def test_the_order_of_atoms_does_not_matter(
        self, exact: Potential, probes: list[Structure]
    ) -> None:
        generator = np.random.default_rng(2)
        orders = [generator.permutation(len(probe.numbers)) for probe in probes]
        shuffled = [
            Structure(probe.numbers[order], probe.positions[order])
            for probe, order in zip(probes, orders, strict=True)
        ]
        energies, forces = self.predict(exact, probes)
        parts = np.split(forces, np.cumsum([len(order) for order in orders])[:-1])
        expected = np.concatenate([part[o] for part, o in zip(parts, orders, strict=True)])
        self.agree(exact, probes, self.predict(exact, shuffled), (energies, expected))

    def test_translations_do_not_matter(self, exact: Potential, probes: list[Structure]) -> None:
        self._moves(exact, probes, np.eye(3), np.array([1.0, -0.7, 0.4]))

    def test_forces_turn_with_the_molecule(self, exact: Potential, probes: list[Structure]) -> None:
        self._moves(exact, probes, rotation(), np.zeros(3))

    def test_mirror_images_are_alike(self, exact: Potential, probes: list[Structure]) -> None:
        self._moves(exact, probes, rotation() @ np.diag([1.0, 1.0, -1.0]), np.zeros(3))

    def _moves(
        self,
        exact: Potential,
        probes: list[Structure],
        matrix: NDArray[np.float64],
        shift: NDArray[np.float64],
    ) -> None:
        moved = [Structure(p.numbers, p.positions @ matrix.T + shift) for p in probes]
        energies, forces = self.predict(exact, probes)
        self.agree(exact, probes, self.predict(exact, moved), (energies, forces @ matrix.T))

    def test_forces_are_minus_the_slope_of_the_energy(
        self, exact: Potential, probes: list[Structure]
    ) -> None:
        probe, step = probes[0], 2e-5
        _, forces = self.predict(exact, [probe])
        found = np.zeros_like(forces)
        for place in np.ndindex(*forces.shape):
            ends = []
            for steps in (-2, -1, 1, 2):
                positions = probe.positions.copy()
                positions[place] += steps * step
                ends.append(Structure(probe.numbers, positions))
            energies = self.predict(exact, ends)[0] - reference(exact, ends)
            # Central differences of fourth order; minus the slope.
            found[place] = energies @ np.array([-1, 8, -8, 1]) / (12 * step)
        assert np.abs(found - forces).max() < 1e-6 * np.sqrt(np.mean(forces**2))

    def test_forces_of_a_structure_sum_to_zero(
        self, exact: Potential, probes: list[Structure]
    ) -> None:
        _, forces = self.predict(exact, probes[:1])
        assert np.abs(forces.sum(axis=0)).max() < 1e-10 * np.abs(forces).max()

    @pytest.mark.parametrize("companions", [0, 1])
    def test_nothing_jumps_where_an_atom_crosses_the_cutoff(
        self, exact: Potential, companions: int
    ) -> None:
        def jump(gap: float) -> tuple[float, float]:
            sides = []
            for distance in (exact.cutoff - gap, exact.cutoff + gap):
                places = [[0, 0, 0], [distance, 0, 0], [0, 1.1, 0]][: 2 + companions]
                sides.append(Structure(np.array([6, 8, 1])[: 2 + companions], np.array(places)))
            energies, forces = self.predict(exact, sides)
            energies = energies - reference(exact, sides)
            half = len(forces) // 2
            return abs(energies[0] - energies[1]), np.abs(forces[:half] - forces[half:]).max()

        # What is continuous closes as the gap does; a step would stay.
        scale = float(exact.scale)
        for near, far in zip(jump(1e-6), jump(1e-3), strict=True):
            assert near < 0.05 * far + 1e-8 * scale

    def test_isolated_atoms_have_their_reference_energy_and_feel_nothing(
        self, data: Dataset, config: Record
    ) -> None:
        # Before training: what the network then makes of a lone atom is the family's own affair.
        model = self.start(data, config)
        atoms = [Structure(np.array([z]), np.zeros((1, 3))) for z in REFERENCE]
        energies, forces = self.predict(model, atoms)
        assert energies == pytest.approx(list(REFERENCE.values()), rel=1e-7)
        assert (forces == 0).all()

    def test_a_trained_model_leaves_isolated_atoms_at_rest(self, model: Potential) -> None:
        atoms = [Structure(np.array([z]), np.zeros((1, 3))) for z in REFERENCE]
        energies, forces = self.predict(model, atoms)
        assert np.isfinite(energies).all()
        assert (forces == 0).all()

    def test_an_element_without_a_reference_gives_no_number(self, model: Potential) -> None:
        energies, _ = self.predict(model, [Structure(np.array([79]), np.zeros((1, 3)))])
        assert np.isnan(energies).all()

    def test_precisions_agree(
        self, model: Potential, exact: Potential, probes: list[Structure]
    ) -> None:
        self.agree(model, probes, self.predict(model, probes), self.predict(exact, probes))

    def test_the_batch_of_a_dataset_has_every_edge(self, data: Dataset, model: Potential) -> None:
        batch = data.collate(model.config)(data.indices("train")[:4])
        pairs = torch.cdist(batch.positions, batch.positions) < model.cutoff
        pairs &= batch.structure[:, None] == batch.structure
        pairs.fill_diagonal_(False)
        found = torch.zeros_like(pairs)
        found[batch.receivers, batch.senders] = True
        assert torch.equal(found, pairs)
        assert len(batch.senders) == int(pairs.sum())

    def test_it_is_local_if_it_says_so(self, exact: Potential, probes: list[Structure]) -> None:
        one, two = probes[:2]
        far = np.concatenate([one.positions, two.positions + 60.0])
        both = Structure(np.concatenate([one.numbers, two.numbers]), far)
        apart, forces_apart = self.predict(exact, [one, two])
        together, forces = self.predict(exact, [both])
        spread = np.std(apart - reference(exact, [one, two]))
        adds = abs(together[0] - apart.sum()) < 1e-6 * spread and np.allclose(
            forces, forces_apart, atol=1e-8 * float(exact.scale)
        )
        assert adds == self.kind().local

    def test_an_atom_sees_as_far_as_its_reach(self, exact: Potential) -> None:
        if not self.kind().local:
            return
        steps = round(exact.reach / exact.cutoff)
        line = np.arange(steps + 3)
        places = np.stack((0.8 * exact.cutoff * line, 0.1 * (line % 2), 0 * line), axis=1)
        graph = self.graph(exact, [Structure(np.full(len(line), 6), places)]).differentiable()
        energy = exact.atom_energies(graph)[0]
        (slopes,) = torch.autograd.grad(energy, graph.positions)
        felt = (slopes != 0).any(dim=1).tolist()
        assert felt == [True] * (steps + 1) + [False] * 2

    def test_it_is_periodic_if_it_says_so(self, exact: Potential) -> None:
        small, cell = crystal(), CELL
        places, numbers = small.positions, small.numbers
        doubled = np.concatenate([places, places + cell[0]])
        large = Structure(np.tile(numbers, 2), doubled, cell * [[2], [1], [1]])
        wrapped = Structure(numbers, places + [[0], [1], [0], [-1]] @ cell[1:2], cell)
        lone = Structure(numbers, places)
        if not self.kind().periodic:
            with pytest.raises(DataError, match="periodic"):
                self.predict(exact, [small])
            return
        energies, forces = self.predict(exact, [small, large, wrapped])
        images = (
            energies[1] == pytest.approx(2 * energies[0], rel=1e-9)
            and energies[2] == pytest.approx(energies[0], rel=1e-9)
            and np.allclose(forces[4:12], np.tile(forces[:4], (2, 1)), atol=1e-8)
        )
        # Energies that double because the cell is ignored do not count.
        sees = abs(energies[0] - self.predict(exact, [lone])[0][0]) > 1e-6 * float(exact.scale)
        assert images and sees

    def test_stress_is_the_slope_of_the_energy_under_strain(self, exact: Potential) -> None:
        if not self.kind().periodic:
            return
        small, step = crystal(), 1e-4

        def strained(place: tuple[int, int], size: float) -> Structure:
            strain = np.eye(3)
            strain[place] += size / 2
            strain[place[::-1]] += size / 2
            return Structure(small.numbers, small.positions @ strain, CELL @ strain)

        found = np.zeros((3, 3))
        for place in np.ndindex(3, 3):
            ends = [strained(place, steps * step) for steps in (-2, -1, 1, 2)]
            energies = self.predict(exact, ends)[0] - reference(exact, ends)
            found[place] = energies @ np.array([1, -8, 8, -1]) / (12 * step)
        found /= abs(np.linalg.det(CELL))
        # Beside a molecule, which has no stress.
        lone = Structure(small.numbers, small.positions)
        told = exact.predict(self.graph(exact, [small, lone]))
        assert told.stress is not None and told.stress[1].isnan().all()
        stress = told.stress[0].numpy()
        assert np.abs(stress - found).max() < 1e-5 * np.abs(found).max()
        assert exact.predict(self.graph(exact, [lone])).stress is None

    @pytest.fixture(scope="class")
    @classmethod
    def stressed(cls, exact: Potential) -> GraphBatch:
        """A crystal with labels drawn at random, beside a molecule without a stress."""
        small, generator = crystal(), np.random.default_rng(5)
        lone = Structure(small.numbers, small.positions)
        graph = graph_of([small, lone], exact.cutoff)
        stress = 0.05 * generator.normal(size=(2, 3, 3))
        stress[1] = np.nan
        labels = {
            "energy": exact.reference_energies(graph).numpy() + generator.normal(size=2),
            "forces": generator.normal(size=(8, 3)),
            "stress": stress + stress.transpose(0, 2, 1),
        }
        told = {name: torch.from_numpy(values) for name, values in labels.items()}
        return dataclasses.replace(graph, **told).to(CPU, torch.float64)

    @pytest.mark.parametrize("forces_weight", [0.0, 10.0])
    def test_gradients_of_a_loss_with_stress_are_its_slopes(
        self, exact: Potential, stressed: GraphBatch, forces_weight: float
    ) -> None:
        if not self.kind().periodic:
            return
        changed = {"stress_weight": 3.0, "loss": "l2", "forces_weight": forces_weight}
        recipe = self.recipe.model_copy(update=changed)
        model = copy.deepcopy(exact)
        parameters = list(model.parameters())
        loss = model.loss(stressed, recipe)
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        generator = torch.Generator().manual_seed(6)
        directions = [torch.randn(p.shape, generator=generator).to(p) for p in parameters]
        expected = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        step, ends = 1e-4, []
        for steps in (-2, -1, 1, 2):
            with torch.no_grad():
                for moved, start, along in zip(
                    parameters, exact.parameters(), directions, strict=True
                ):
                    moved.copy_(start + steps * step * along)
            ends.append(float(model.loss(stressed, recipe).detach()))
        found = np.array(ends) @ np.array([1, -8, 8, -1]) / (12 * step)
        assert found == pytest.approx(expected, rel=1e-6)

    def test_flops_of_a_loss_with_stress_are_what_is_counted(
        self, exact: Potential, stressed: GraphBatch
    ) -> None:
        if not self.kind().periodic:
            return
        recipe = RECIPES["energy"].model_copy(update={"stress_weight": 1.0})
        expected = exact.flops(exact.seen(stressed), recipe)
        assert count_step(exact, stressed, recipe).flops == pytest.approx(expected, rel=0.02)

    def test_what_it_predicts_of_atoms_adds_up(
        self, exact: Potential, probes: list[Structure]
    ) -> None:
        told = exact.predict(self.graph(exact, probes))
        energies, forces = self.predict(exact, probes)
        parts = np.split(told.energies.numpy(), np.cumsum([len(p.numbers) for p in probes])[:-1])
        assert [part.sum() for part in parts] == pytest.approx(list(energies), rel=1e-12)
        assert told.energy.numpy() == pytest.approx(energies, rel=1e-12)
        assert told.forces.numpy() == pytest.approx(forces, rel=1e-9, abs=1e-12)

    def test_it_feels_charge_and_spin_if_it_says_so(
        self, exact: Potential, probes: list[Structure]
    ) -> None:
        told = [(0, 0), (1, 1), (-1, 1), (0, 2)]
        states = [dataclasses.replace(probes[0], charge=q, unpaired=s) for q, s in told]
        energies, _ = self.predict(exact, states)
        apart = np.abs(energies[:, None] - energies)[np.triu_indices(len(told), 1)]
        assert (apart > 1e-6 * float(exact.scale)).all() == self.kind().charged
        assert self.kind().charged or (apart == 0).all()


CELL = np.array([[3.4, 0.2, 0.0], [0.0, 3.6, 0.3], [0.1, 0.0, 3.5]])  # smaller than the cutoff


def crystal() -> Structure:
    """Four atoms in a skewed cell."""
    places = np.array([[0.0, 0.1, 0.0], [1.6, 1.8, 0.2], [1.7, 0.1, 1.7], [0.1, 1.7, 1.9]])
    return Structure(np.array([6, 8, 7, 1]), places, CELL)


def reference(model: Potential, structures: Sequence[Structure]) -> NDArray[np.float64]:
    """Sum of the reference energies of each structure, eV: (structures,)."""
    references = model.references.numpy()
    return np.array([references[structure.numbers].sum() for structure in structures])
