"""What every model family must be true to, inherited by naming the family.

The data are toys that the suite writes itself. Exams of physics run after training, when no
weight is at its start.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from chemscale.bench.data.base import Dataset
from chemscale.bench.models.base import Family, build, load_family
from chemscale.bench.nn import native
from chemscale.bench.training.devices import CPU
from chemscale.bench.training.step import optimiser, train_step
from chemscale.table.record import Record
from chemscale.table.records import Recipe

NUM_STEPS = 100


class FamilyContract:
    """What holds for every family: sizes, seeds, counts and learning."""

    family: ClassVar[str]
    recipe: ClassVar[Recipe]

    @classmethod
    def kind(cls) -> Any:
        """The family's class."""
        return load_family(cls.family)

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
        """The toy data; of each suite."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, data: Dataset) -> Any:
        """The smallest size."""
        return cls.kind().fitted_config(next(iter(cls.kind().ladder)), data)

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, data: Dataset, config: Record) -> Any:
        """A model after training, and its losses."""
        return cls.train(data, config, NUM_STEPS)

    @classmethod
    def start(cls, data: Dataset, config: Record, seed: int = 0) -> Any:
        """A model as it stands before its first step."""
        model = build(cls.kind(), config, seed, torch.float32)
        model.calibrate(data, data.indices("train"))
        return model

    @classmethod
    def train(cls, data: Dataset, config: Record, num_steps: int) -> tuple[Any, list[float]]:
        """Train at a constant rate on shuffled training items."""
        model = cls.start(data, config)
        step = optimiser(model, cls.recipe)
        collate, items = data.collate(config), data.indices("train")
        generator = np.random.default_rng(0)
        losses = []
        for _ in range(num_steps):
            chosen = generator.choice(items, cls.recipe.batch_size, replace=False)
            batch = collate(chosen).to(CPU, torch.float32)
            loss = train_step(model, step, [batch], cls.recipe, cls.recipe.learning_rate)
            losses.append(float(loss))
        return model, losses

    def test_it_is_a_family_that_says_what_it_is(self) -> None:
        assert issubclass(self.kind(), Family)
        assert self.kind().revision >= 1
        assert issubclass(self.kind().Config, Record)
        assert all(isinstance(config, self.kind().Config) for config in self.kind().ladder.values())

    def test_the_ladder_rises_to_over_a_billion_parameters(self, data: Dataset) -> None:
        counts = []
        for size in self.kind().ladder:
            with torch.device("meta"):
                counts.append(self.kind()(self.kind().fitted_config(size, data)).num_params)
        assert counts == sorted(set(counts))
        assert counts[-1] > 1e9

    def test_a_built_model_has_as_many_parameters_as_the_ladder_says(self, data: Dataset) -> None:
        for size in itertools.islice(self.kind().ladder, 3):
            config = self.kind().fitted_config(size, data)
            with torch.device("meta"):
                told = self.kind()(config)
            built = build(self.kind(), config, 0, torch.float32)
            assert built.num_params_total == told.num_params_total
            assert built.num_params == told.num_params

    def test_a_config_survives_being_stored(self, config: Record) -> None:
        assert self.kind().Config.model_validate(config.model_dump(mode="json")) == config

    def test_the_same_seed_gives_the_same_weights(self, config: Record) -> None:
        first = build(self.kind(), config, 7, torch.float32).state_dict()
        torch.rand(5)
        second = build(self.kind(), config, 7, torch.float32).state_dict()
        other = build(self.kind(), config, 8, torch.float32).state_dict()
        assert all(_same(first[name], second[name]) for name in first)
        assert not all(_same(first[name], other[name]) for name in first)

    def test_the_same_seed_gives_the_same_losses(self, data: Dataset, config: Record) -> None:
        assert self.train(data, config, 5)[1] == self.train(data, config, 5)[1]

    def test_the_loss_falls(self, trained: tuple[Any, list[float]]) -> None:
        losses = trained[1]
        assert np.isfinite(losses).all()
        assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:3])

    def test_native_kernels_and_the_plain_path_agree(
        self, data: Dataset, trained: tuple[Any, list[float]]
    ) -> None:
        """Gradients, not losses alone: a wrong second derivative leaves the loss as it was."""
        found = self.loss_and_gradient(trained[0], data, CPU)
        with native.plain():
            expected = self.loss_and_gradient(trained[0], data, CPU)
        self.assert_same(found, expected, 1e-5)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
    def test_a_gpu_gives_the_same_loss_and_gradient(
        self, data: Dataset, trained: tuple[Any, list[float]]
    ) -> None:
        on_gpu = copy.deepcopy(trained[0]).cuda()
        found = self.loss_and_gradient(on_gpu, data, torch.device("cuda"))
        assert all(tensor.is_cuda for tensor in found)
        expected = self.loss_and_gradient(trained[0], data, CPU)
        self.assert_same([tensor.cpu() for tensor in found], expected, 1e-4)
        assert on_gpu.measure(self.batch_of(on_gpu, data, torch.device("cuda")), self.recipe)

    @staticmethod
    def batch_of(model: Any, data: Dataset, device: torch.device) -> Any:
        """Eight training items."""
        made = data.collate(model.config)(data.indices("train")[:8])
        return made.to(device, torch.float32)

    @classmethod
    def loss_and_gradient(cls, model: Any, data: Dataset, device: torch.device) -> list[Tensor]:
        """Of the recipe's loss of eight training items, by every parameter."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        loss = model.loss(cls.batch_of(model, data, device), cls.recipe)
        return [loss.detach(), *torch.autograd.grad(loss, parameters)]

    @staticmethod
    def assert_same(found: list[Tensor], expected: list[Tensor], to: float) -> None:
        """Equal, relative to the largest entry of each.

        A gradient may be a small rest of large terms, which single precision rounds.
        """
        largest = max(float(plain.abs().max()) for plain in expected[1:])
        for ours, plain in zip(found, expected, strict=True):
            slack = to * float(plain.abs().max()) + 0.1 * to * largest
            torch.testing.assert_close(ours, plain, rtol=to, atol=slack)

    def test_every_parameter_learns(
        self, data: Dataset, config: Record, trained: tuple[Any, list[float]]
    ) -> None:
        before = dict(self.start(data, config).named_parameters())
        after = trained[0].named_parameters()
        still = [name for name, value in after if torch.equal(value, before[name])]
        assert not still, f"these never moved: {still}"


def _same(one: Tensor, two: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(two))
