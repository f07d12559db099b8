"""Contract suites: what every model family must be true to, inherited by naming the family.

The data are toys that the suite writes itself: small molecules under a sum of Morse pairs, and
a list of SMILES. Exams of physics run after training, when no weight is at its start.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from chemscale.bench.data.base import Dataset, open_dataset
from chemscale.bench.data.graphs import GraphBatch
from chemscale.bench.data.tokens import TokenBatch
from chemscale.bench.models.base import Family, LanguageModel, Potential, build, load_family
from chemscale.bench.training.measure import optimiser, train_step
from chemscale.table.records import RECIPES, DatasetSpec, Recipe, Record

CPU = torch.device("cpu")
NUM_STEPS = 100


class FamilyContract:
    """What holds for every family: sizes, seeds, counts and learning."""

    family: ClassVar[str]
    recipe: ClassVar[Recipe]

    @property
    def kind(self) -> Any:
        """The family's class."""
        return load_family(self.family)

    @pytest.fixture(scope="class")
    def data(self, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
        """The toy data; of each suite."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def config(self, data: Dataset) -> Any:
        """The smallest size."""
        return self.kind.fitted_config(next(iter(self.kind.ladder)), data)

    @pytest.fixture(scope="class")
    def trained(self, data: Dataset, config: Record) -> Any:
        """A model after training, and its losses."""
        return self.train(data, config, NUM_STEPS)

    def start(self, data: Dataset, config: Record, seed: int = 0) -> Any:
        """A model as it stands before its first step."""
        model = build(self.kind, config, seed, torch.float32)
        model.calibrate(data, data.indices("train"))
        return model

    def train(self, data: Dataset, config: Record, num_steps: int) -> tuple[Any, list[float]]:
        """Train at a constant rate on shuffled training items."""
        model = self.start(data, config)
        step = optimiser(model, self.recipe)
        collate, items = data.collate(config), data.indices("train")
        generator = np.random.default_rng(0)
        losses = []
        for _ in range(num_steps):
            chosen = generator.choice(items, self.recipe.batch_size, replace=False)
            batch = collate(chosen).to(CPU, torch.float32)
            loss = train_step(model, step, batch, self.recipe, self.recipe.learning_rate)
            losses.append(float(loss))
        return model, losses

    def counted(self, model: Family, batch: Any, recipe: Recipe) -> int:
        """FLOPs of one training step, by torch's own counter."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        # torch counts fused attention on CPUs as nothing.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            torch.autograd.backward(model.loss(batch, recipe), inputs=parameters)
        return counter.get_total_flops()

    def test_it_is_a_family_that_says_what_it_is(self) -> None:
        assert issubclass(self.kind, Family)
        assert self.kind.revision >= 1
        assert issubclass(self.kind.Config, Record)
        assert all(isinstance(config, self.kind.Config) for config in self.kind.ladder.values())

    def test_the_ladder_rises_to_over_a_billion_parameters(self, data: Dataset) -> None:
        counts = []
        for size in self.kind.ladder:
            with torch.device("meta"):
                counts.append(self.kind(self.kind.fitted_config(size, data)).num_params)
        assert counts == sorted(set(counts))
        assert counts[-1] > 1e9

    def test_a_built_model_has_as_many_parameters_as_the_ladder_says(self, data: Dataset) -> None:
        for size in itertools.islice(self.kind.ladder, 3):
            config = self.kind.fitted_config(size, data)
            with torch.device("meta"):
                told = self.kind(config)
            built = build(self.kind, config, 0, torch.float32)
            assert built.num_params_total == told.num_params_total
            assert built.num_params == told.num_params

    def test_a_config_survives_being_stored(self, config: Record) -> None:
        assert self.kind.Config.model_validate(config.model_dump(mode="json")) == config

    def test_the_same_seed_gives_the_same_weights(self, config: Record) -> None:
        first = build(self.kind, config, 7, torch.float32).state_dict()
        torch.rand(5)
        second = build(self.kind, config, 7, torch.float32).state_dict()
        other = build(self.kind, config, 8, torch.float32).state_dict()
        assert all(_same(first[name], second[name]) for name in first)
        assert not all(_same(first[name], other[name]) for name in first)

    def test_the_same_seed_gives_the_same_losses(self, data: Dataset, config: Record) -> None:
        assert self.train(data, config, 5)[1] == self.train(data, config, 5)[1]

    def test_the_loss_falls(self, trained: tuple[Any, list[float]]) -> None:
        losses = trained[1]
        assert np.isfinite(losses).all()
        assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:3])

    def test_every_parameter_learns(
        self, data: Dataset, config: Record, trained: tuple[Any, list[float]]
    ) -> None:
        before = dict(self.start(data, config).named_parameters())
        after = trained[0].named_parameters()
        still = [name for name, value in after if torch.equal(value, before[name])]
        assert not still, f"these never moved: {still}"


class PotentialContract(FamilyContract):
    """The exam of an interatomic potential."""

    recipe = RECIPES["energy-and-forces"]
    tolerance: ClassVar[float] = 1e-5  # single precision, of the energies' spread and force RMS

    @pytest.fixture(scope="class")
    def data(self, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
        """Perturbed small molecules under a sum of Morse pairs."""
        path = write_structures(tmp_path_factory.mktemp("toy") / "toy.xyz")
        spec = DatasetSpec(format="extxyz", path=(path.name,), validation=0.15, test=0.15)
        return open_dataset(spec, path.parent)

    @pytest.fixture(scope="class")
    def model(self, trained: tuple[Any, list[float]]) -> Potential:
        """The trained model, in single precision."""
        return trained[0]

    @pytest.fixture(scope="class")
    def exact(self, model: Potential) -> Potential:
        """The trained model, in double precision."""
        return copy.deepcopy(model).double()

    @pytest.fixture(scope="class")
    def probes(self) -> list[Structure]:
        """Molecules that nobody trained on."""
        return toy_molecules(8, seed=1)

    def predict(
        self, model: Potential, structures: Sequence[Structure]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Energies (structures,) eV and forces (atoms, 3) eV/Å of one batch."""
        cutoff = float(model.config.cutoff)  # type: ignore[attr-defined]
        energies, forces = model(graph_of(structures, cutoff).to(CPU, model.scale.dtype))
        return energies.double().numpy(), forces.double().numpy()

    def agree(self, model: Potential, probes: list[Structure], found: Any, expected: Any) -> None:
        """Compare energies and forces, relative to how much these vary over the probes."""
        energies, forces = self.predict(model, probes)
        spread = np.std(energies - reference(model, probes))
        rms = np.sqrt(np.mean(forces**2))
        assert spread > 0 and rms > 0, "a model that says nothing passes no exam"
        assert np.abs(found[0] - expected[0]).max() < self.tolerance * spread
        assert np.abs(found[1] - expected[1]).max() < self.tolerance * rms

    @pytest.mark.parametrize("recipe", ["energy-and-forces", "energy"])
    @pytest.mark.parametrize("rung", [0, 2])
    def test_the_flops_formula_says_what_torch_counts(
        self, data: Dataset, recipe: str, rung: int
    ) -> None:
        config = self.kind.fitted_config(list(self.kind.ladder)[rung], data)
        model = self.start(data, config)
        batch = data.collate(config)(data.indices("train")[:8]).to(CPU, torch.float32)
        expected = model.flops(model.seen(batch), RECIPES[recipe])
        assert self.counted(model, batch, RECIPES[recipe]) == pytest.approx(expected, rel=0.01)

    @pytest.mark.parametrize("recipe", ["energy-and-forces", "energy"])
    def test_measure_gives_the_loss_that_training_minimises(
        self, data: Dataset, model: Potential, recipe: str
    ) -> None:
        config: Any = model.config
        batch = data.collate(config)(data.indices("validation")).to(CPU, torch.float32)
        total, weight = model.measure(batch, RECIPES[recipe])["loss"]
        assert total / weight == pytest.approx(float(model.loss(batch, RECIPES[recipe])), rel=1e-5)

    def test_a_batch_equals_its_structures_alone(
        self, model: Potential, probes: list[Structure]
    ) -> None:
        alone = [self.predict(model, [probe]) for probe in probes]
        expected = [np.concatenate(parts) for parts in zip(*alone, strict=True)]
        self.agree(model, probes, self.predict(model, probes), expected)

    def test_the_order_of_atoms_does_not_matter(
        self, model: Potential, probes: list[Structure]
    ) -> None:
        generator = np.random.default_rng(2)
        orders = [generator.permutation(len(probe.numbers)) for probe in probes]
        shuffled = [
            Structure(probe.numbers[order], probe.positions[order])
            for probe, order in zip(probes, orders, strict=True)
        ]
        energies, forces = self.predict(model, probes)
        parts = np.split(forces, np.cumsum([len(order) for order in orders])[:-1])
        expected = np.concatenate([part[o] for part, o in zip(parts, orders, strict=True)])
        self.agree(model, probes, self.predict(model, shuffled), (energies, expected))

    def test_translations_do_not_matter(self, model: Potential, probes: list[Structure]) -> None:
        self._moves(model, probes, np.eye(3), np.array([1.0, -0.7, 0.4]))

    def test_forces_turn_with_the_molecule(self, model: Potential, probes: list[Structure]) -> None:
        self._moves(model, probes, rotation(), np.zeros(3))

    def test_mirror_images_are_alike(self, model: Potential, probes: list[Structure]) -> None:
        self._moves(model, probes, rotation() @ np.diag([1.0, 1.0, -1.0]), np.zeros(3))

    def _moves(
        self,
        model: Potential,
        probes: list[Structure],
        matrix: NDArray[np.float64],
        shift: NDArray[np.float64],
    ) -> None:
        moved = [Structure(p.numbers, p.positions @ matrix.T + shift) for p in probes]
        energies, forces = self.predict(model, probes)
        self.agree(model, probes, self.predict(model, moved), (energies, forces @ matrix.T))

    def test_forces_are_minus_the_slope_of_the_energy(
        self, exact: Potential, probes: list[Structure]
    ) -> None:
        probe, step = probes[0], 1e-4
        _, forces = self.predict(exact, [probe])
        found = np.zeros_like(forces)
        for place in np.ndindex(*forces.shape):
            ends = []
            for sign in (1, -1):
                positions = probe.positions.copy()
                positions[place] += sign * step
                ends.append(Structure(probe.numbers, positions))
            energies = self.predict(exact, ends)[0] - reference(exact, ends)
            found[place] = (energies[1] - energies[0]) / (2 * step)
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
        cutoff = exact.config.cutoff  # type: ignore[attr-defined]

        def jump(gap: float) -> tuple[float, float]:
            sides = []
            for distance in (cutoff - gap, cutoff + gap):
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
        cutoff = model.config.cutoff  # type: ignore[attr-defined]
        batch = data.collate(model.config)(data.indices("train")[:4])
        pairs = torch.cdist(batch.positions, batch.positions) < cutoff
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
        assert adds == self.kind.local

    def test_it_is_periodic_if_it_says_so(self, exact: Potential) -> None:
        cell = np.array([[3.4, 0.2, 0.0], [0.0, 3.6, 0.3], [0.1, 0.0, 3.5]])
        places = np.array([[0.0, 0.1, 0.0], [1.6, 1.8, 0.2], [1.7, 0.1, 1.7], [0.1, 1.7, 1.9]])
        numbers = np.array([6, 8, 7, 1])
        small = Structure(numbers, places, cell)
        doubled = np.concatenate([places, places + cell[0]])
        large = Structure(np.tile(numbers, 2), doubled, cell * [[2], [1], [1]])
        wrapped = Structure(numbers, places + [[0], [1], [0], [-1]] @ cell[1:2], cell)
        lone = Structure(numbers, places)
        energies, forces = self.predict(exact, [small, large, wrapped])
        images = (
            energies[1] == pytest.approx(2 * energies[0], rel=1e-9)
            and energies[2] == pytest.approx(energies[0], rel=1e-9)
            and np.allclose(forces[4:12], np.tile(forces[:4], (2, 1)), atol=1e-8)
        )
        # Energies that double because the cell is ignored do not count.
        sees = abs(energies[0] - self.predict(exact, [lone])[0][0]) > 1e-6 * float(exact.scale)
        assert (images and sees) == self.kind.periodic

    def test_it_does_not_claim_what_has_no_exam(self) -> None:
        assert not self.kind.charged, "graphs carry no charge yet: nobody can show this"


class LanguageModelContract(FamilyContract):
    """The exam of a language model."""

    recipe = RECIPES["molecules"]

    @pytest.fixture(scope="class")
    def data(self, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
        """Small molecules made from parts."""
        path = tmp_path_factory.mktemp("toy") / "toy.smi"
        path.write_text("\n".join(toy_smiles()) + "\n")
        spec = DatasetSpec(
            format="smi", path=(path.name,), group="content", max_length=32, validation=0.1
        )
        return open_dataset(spec, path.parent)

    @pytest.fixture(scope="class")
    def model(self, trained: tuple[Any, list[float]]) -> LanguageModel:
        """The trained model."""
        return trained[0]

    @pytest.fixture(scope="class")
    def batch(self, data: Dataset, config: Record) -> TokenBatch:
        """Molecules of unequal length."""
        batch = data.collate(config)(data.indices("train")[:6])
        assert len(set(batch.lengths.tolist())) > 1
        return batch

    @torch.no_grad()
    def logits(self, model: LanguageModel, batch: TokenBatch) -> list[Tensor]:
        """Of each molecule: (tokens, vocabulary)."""
        return list(model.logits(batch).split(batch.lengths.tolist()))

    def test_the_flops_formula_says_what_torch_counts(self, data: Dataset) -> None:
        config = self.kind.fitted_config(list(self.kind.ladder)[2], data)
        model = self.start(data, config)
        collate = data.collate(config)
        items = data.indices("train")
        lengths = np.array([int(collate(items[[n]]).lengths[0]) for n in range(len(items))])
        length = int(np.bincount(lengths).argmax())
        batch = collate(items[lengths == length][:8])
        seen, formula = model.seen(batch), self.kind.flops_formula(config, self.recipe)
        # torch counts the whole square of scores, of which a causal model needs the triangle.
        squares = seen.pairs * 2 * length / (length + 1)
        expected = formula["tokens"] * seen.tokens + formula["pairs"] * squares
        assert self.counted(model, batch, self.recipe) == pytest.approx(expected, rel=0.01)

    def test_it_has_a_logit_for_each_symbol_at_each_token(
        self, data: Dataset, model: LanguageModel, batch: TokenBatch
    ) -> None:
        assert model.logits(batch).shape == (len(batch.tokens), len(data.vocabulary()))

    def test_a_batch_equals_its_molecules_alone(
        self, data: Dataset, model: LanguageModel, batch: TokenBatch
    ) -> None:
        collate = data.collate(model.config)
        items = data.indices("train")[:6]
        together = self.logits(model, batch)
        for place, found in enumerate(together):
            (alone,) = self.logits(model, collate(items[[place]]))
            assert torch.allclose(found, alone, atol=1e-4)

    def test_a_token_sees_neither_the_future_nor_other_molecules(
        self, model: LanguageModel, batch: TokenBatch
    ) -> None:
        before = model.logits(batch).detach()
        for place in range(len(batch.tokens)):
            tokens = batch.tokens.clone()
            tokens[place] = 4 if int(tokens[place]) != 4 else 5
            changed = copy.copy(batch)
            object.__setattr__(changed, "tokens", tokens)
            moved = (model.logits(changed).detach() - before).abs().amax(dim=1) > 1e-5
            later = (batch.molecule == batch.molecule[place]) & (
                batch.positions >= batch.positions[place]
            )
            assert moved[place]
            assert not (moved & ~later).any()

    def test_seen_counts_real_tokens(self, model: LanguageModel, batch: TokenBatch) -> None:
        seen = model.seen(batch)
        assert seen.items == len(batch.lengths)
        assert seen.tokens == int(batch.lengths.sum()) == len(batch.targets)

    def test_measure_gives_the_loss_that_training_minimises(
        self, model: LanguageModel, batch: TokenBatch
    ) -> None:
        total, weight = model.measure(batch, self.recipe)["loss"]
        assert total / weight == pytest.approx(float(model.loss(batch, self.recipe)), rel=1e-5)

    def test_precisions_agree(self, model: LanguageModel, batch: TokenBatch) -> None:
        exact = copy.deepcopy(model).double()
        assert float(exact.loss(batch, self.recipe)) == pytest.approx(
            float(model.loss(batch, self.recipe)), rel=1e-5
        )


