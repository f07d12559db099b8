"""Language models and their counterparts in transformers are one function."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from chemscale.bench.data.token_batch import TokenBatch
from chemscale.bench.models.base import build, load_family
from chemscale.table.errors import DataError

SIZES = {
    "chemgpt": {"width": 32, "num_layers": 3, "num_heads": 2, "window": 8},
    "qwen3": {"width": 32, "num_layers": 3, "num_heads": 2, "hidden": 80},
}


def ours(family: str) -> Any:
    """A model whose weights are large enough for differences to show."""
    kind = load_family(family)
    config = kind.Config(**SIZES[family], max_length=40, vocab_size=30)
    model = build(kind, config, 0, torch.float32)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def theirs(model: Any) -> Any:
    """The counterpart, freshly made."""
    counterpart = model.counterpart
    kind = getattr(transformers, counterpart.architecture)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return kind(kind.config_class(**counterpart.to_config(model.config))).eval()


def batch() -> TokenBatch:
    """Molecules of unequal length; one is longer than the window."""
    sizes = np.array([3, 30, 7, 1, 12])
    return TokenBatch.of(np.random.default_rng(0).integers(4, 30, sizes.sum()), sizes, sizes)


@pytest.mark.parametrize("direction", ["to", "from"])
@pytest.mark.parametrize("family", SIZES)
def test_logits_and_gradients_are_those_of_transformers(family: str, direction: str):
    model = ours(family)
    peer, layers = theirs(model), model.config.num_layers
    if direction == "to":
        weights = model.counterpart.theirs(model.state_dict(), layers)
        missing, unexpected = peer.load_state_dict(weights, strict=False)
        assert not unexpected and not missing
    else:
        model.load_state_dict(model.counterpart.ours(peer.state_dict(), layers))
    molecules = batch()
    rows = molecules.tokens.split(molecules.lengths.tolist())
    expected = torch.cat([peer(input_ids=row[None]).logits[0] for row in rows])
    found = model.logits(molecules)
    assert torch.allclose(found, expected, atol=1e-4, rtol=0)
    loss = torch.nn.functional.cross_entropy
    loss(expected, molecules.targets).backward()
    loss(found, molecules.targets).backward()
    gradients = {name: weight.grad for name, weight in peer.named_parameters()}
    grown = model.counterpart.ours(gradients, layers)
    for name, weight in model.named_parameters():
        assert torch.allclose(weight.grad, grown[name], atol=1e-5, rtol=1e-3), name


@pytest.mark.parametrize("family", SIZES)
def test_a_config_survives_the_journey(family: str):
    model = ours(family)
    stored = theirs(model).config.to_dict()
    assert model.counterpart.from_config(stored) == model.config


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("chemgpt", "activation_function", "relu"),
        ("chemgpt", "intermediate_size", 64),
        ("chemgpt", "attention_types", [[["global"], 3]]),
        ("qwen3", "num_key_value_heads", 1),
        ("qwen3", "tie_word_embeddings", False),
    ],
)
def test_a_network_of_another_kind_is_refused_by_the_value_that_differs(family, key, value):
    model = ours(family)
    stored = {**theirs(model).config.to_dict(), key: value}
    with pytest.raises(DataError, match=f"{key} = .*, not "):
        model.counterpart.from_config(stored)


def test_weights_that_are_missing_or_have_no_place_are_named():
    model = ours("chemgpt")
    weights = model.counterpart.theirs(model.state_dict(), 3)
    masked = weights | {"transformer.h.0.attn.attention.masked_bias": torch.zeros(())}
    assert set(model.counterpart.ours(masked, 3)) == set(model.state_dict())
    with pytest.raises(DataError, match=r"have no place, transformer\.h\.2\.attn"):
        model.counterpart.ours(weights, 2)
    with pytest.raises(DataError, match=r"are missing, transformer\.h\.3\.attn"):
        model.counterpart.ours(weights, 4)
    untied = weights | {"lm_head.weight": weights["lm_head.weight"] + 1}
    with pytest.raises(DataError, match="is not the embedding"):
        model.counterpart.ours(untied, 3)
