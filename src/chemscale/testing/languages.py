"""The exam of a language model: causality, batches, counts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from chemscale.bench.data.base import Dataset, open_dataset
from chemscale.bench.data.token_batch import TokenBatch
from chemscale.bench.models.base import LanguageModel
from chemscale.table.record import Record
from chemscale.table.records import RECIPES, DatasetSpec
from chemscale.testing.counting import count_step
from chemscale.testing.families import FamilyContract
from chemscale.testing.toys import toy_smiles


class LanguageModelContract(FamilyContract):
    """The exam of a language model."""

    recipe = RECIPES["molecules"]

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
        """Small molecules made from parts."""
        path = tmp_path_factory.mktemp("toy") / "toy.smi"
        path.write_text("\n".join(toy_smiles()) + "\n")
        spec = DatasetSpec(
            format="smi", path=(path.name,), group="content", max_length=32, validation=0.1
        )
        return open_dataset(spec, path.parent)

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, trained: tuple[Any, list[float]]) -> LanguageModel:
        """The trained model."""
        return trained[0]

    @pytest.fixture(scope="class")
    @classmethod
    def batch(cls, data: Dataset, config: Record) -> TokenBatch:
        """Molecules of unequal length."""
        batch = data.collate(config)(data.indices("train")[:6])
        assert len(set(batch.lengths.tolist())) > 1
        return batch

    @torch.no_grad()
    def logits(self, model: LanguageModel, batch: TokenBatch) -> list[Tensor]:
        """Of each molecule: (tokens, vocabulary)."""
        return list(model.logits(batch).split(batch.lengths.tolist()))

    def test_the_flops_formula_says_what_is_counted(self, data: Dataset) -> None:
        config = self.kind().fitted_config(list(self.kind().ladder)[2], data)
        model = self.start(data, config)
        collate, items = data.collate(config), data.indices("train")[:8]
        expected = model.flops(model.seen(collate(items)), self.recipe)
        # One at a time: what pads a molecule in a batch is no work of ours.
        alone = [collate(items[[n]]) for n in range(len(items))]
        counted = sum(count_step(model, one, self.recipe).flops for one in alone)
        assert counted == pytest.approx(expected, rel=0.01)

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

    @torch.no_grad()
    def test_token_by_token_it_says_the_same(self, model: LanguageModel, batch: TokenBatch) -> None:
        decoder = model.decoder(batch.num_molecules)
        tokens = batch.tokens.split(batch.lengths.tolist())
        found: list[list[Tensor]] = [[] for _ in tokens]
        for place in range(int(batch.lengths.max())):
            slots = torch.tensor([n for n, own in enumerate(tokens) if place < len(own)])
            step = torch.stack([tokens[n][place] for n in slots.tolist()])
            answer = decoder.step(step, torch.full_like(step, place), slots)
            for n, logits in zip(slots.tolist(), answer, strict=True):
                found[n].append(logits)
        for own, whole in zip(found, self.logits(model, batch), strict=True):
            assert torch.allclose(torch.stack(own), whole, atol=1e-4)

    def test_seen_counts_real_tokens(self, model: LanguageModel, batch: TokenBatch) -> None:
        seen = model.seen(batch)
        assert seen.items == len(batch.lengths)
        assert seen.tokens == int(batch.lengths.sum()) == len(batch.targets)

    def test_measure_gives_the_loss_that_training_minimises(
        self, model: LanguageModel, batch: TokenBatch
    ) -> None:
        total, weight = model.measure(batch, self.recipe)["loss"]
        assert total / weight == pytest.approx(model.loss(batch, self.recipe).item(), rel=1e-5)

    def test_precisions_agree(self, model: LanguageModel, batch: TokenBatch) -> None:
        exact = copy.deepcopy(model).double()
        assert exact.loss(batch, self.recipe).item() == pytest.approx(
            model.loss(batch, self.recipe).item(), rel=1e-5
        )
