"""Embeddings are the model's features, pooled; what has none is named."""

import numpy as np
import pytest
import torch

from chemscale.bench.data.token_batch import TokenBatch
from chemscale.bench.using.embed import embed, nearest
from chemscale.bench.using.trained import TrainedModel
from chemscale.table.errors import DataError, UsageError
from chemscale.testing.toys import toy_smiles

SMILES = toy_smiles()[:40]


@torch.no_grad()
def by_hand(trained: TrainedModel, smiles: str) -> list[torch.Tensor]:
    """Features of each token (T, F) after 0, 1, … layers, and at the output."""
    model = trained.model
    symbols = np.array(trained.tokenizer.encode(smiles)[1:-1])
    size = np.array([len(symbols)])
    batch = TokenBatch.of(symbols, size, size)
    found = [model.features(batch, layer) for layer in range(model.num_layers + 1)]
    logits = model.logits(batch)
    expected = torch.nn.functional.linear(model.norm(found[-1]), model.symbols.weight)
    assert torch.allclose(logits, expected, atol=1e-6)
    return [*found, model.norm(found[-1])]


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -3, None])
@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_a_vector_is_the_pooled_features_of_a_layer(trained, layer, pooling):
    found = embed(trained, SMILES[:5], layer=layer, pooling=pooling)
    for vector, smiles in zip(found.vectors, SMILES, strict=False):
        layers = by_hand(trained, smiles)
        features = layers[-1] if layer is None else layers[:-1][layer]
        pooled = {
            "mean": features.mean(0), "max": features.amax(0), "last": features[-1]
        }[pooling]  # fmt: skip
        assert np.allclose(vector, pooled.numpy(), atol=1e-5)


def test_a_molecule_has_the_same_vector_in_any_company(trained: TrainedModel, monkeypatch):
    together = embed(trained, SMILES).vectors
    monkeypatch.setattr("chemscale.bench.using.embed.BATCH_TOKENS", 7)
    assert np.allclose(embed(trained, SMILES).vectors, together, atol=1e-6)


def test_what_has_no_vector_is_named_and_refused_above_a_share(trained: TrainedModel):
    rows = [*SMILES[:3], "c1cc", SMILES[3], "C[Se]C", "C" * 50]
    found = embed(trained, rows, max_rejected=0.5)
    assert found.rows.tolist() == [0, 1, 2, 4] and len(found.vectors) == 4
    said = {reject.row: reject.reason for reject in found.rejects}
    assert said[4] == "not a SMILES" and said[6].endswith("does not know [Se]")
    assert said[7] == "51 tokens, more than the model's 40"
    with pytest.raises(DataError, match=r"3 of 7 .* embedded.*\n  molecules row 4: not a"):
        embed(trained, rows)


def test_unknown_symbols_may_be_kept_and_are_counted(trained: TrainedModel):
    found = embed(trained, ["CC", "C[Se]C"], unknown="keep")
    assert found.num_unknown == 1 and len(found.vectors) == 2


def test_a_layer_or_pooling_that_is_not_there_is_told(trained: TrainedModel):
    with pytest.raises(UsageError, match="has layers 0 to 2"):
        embed(trained, SMILES, layer=3)
    with pytest.raises(UsageError, match="pooling 'sum': one of mean, max, last"):
        embed(trained, SMILES, pooling="sum")


def test_the_nearest_come_first_and_a_molecule_is_its_own(trained: TrainedModel):
    vectors = embed(trained, SMILES).vectors
    places, cosines = nearest(vectors[:6], vectors, 4)
    assert places[:, 0].tolist() == list(range(6)) and np.allclose(cosines[:, 0], 1, atol=1e-6)
    assert (np.diff(cosines) <= 0).all()
    lengths = np.linalg.norm(vectors, axis=1)
    assert cosines[2, 1] == pytest.approx(
        vectors[2] @ vectors[places[2, 1]] / lengths[2] / lengths[places[2, 1]], abs=1e-5
    )
    assert nearest(vectors[:1], vectors[:3], 10)[0].shape == (1, 3)
