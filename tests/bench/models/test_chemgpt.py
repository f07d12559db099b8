"""ChemGPT beyond the exam of language models: windows, precisions, ladder."""

import numpy as np
import pytest
import torch

from chemscale.bench.data.token_batch import TokenBatch
from chemscale.bench.models.base import build
from chemscale.bench.models.chemgpt import ChemGPT
from chemscale.bench.nn.attention import CausalAttention, Packing
from chemscale.table.records import RECIPES

RECIPE = RECIPES["molecules"]
CONFIG = ChemGPT.Config(width=32, num_layers=3, num_heads=2, window=8, max_length=40, vocab_size=30)
UNEQUAL = (3, 30, 7, 1, 12)  # symbols; the second is longer than the window


def unequal() -> TokenBatch:
    symbols = np.random.default_rng(0).integers(4, CONFIG.vocab_size, sum(UNEQUAL))
    return TokenBatch.of(symbols, np.array(UNEQUAL), np.array(UNEQUAL))


# --- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 1, 8])
def test_attention_lets_through_just_the_pairs_that_are_counted(window):
    batch = unequal()
    torch.manual_seed(0)
    attention = CausalAttention(8, 2, window).double()
    packing = Packing.of(batch.molecule, batch.positions, batch.lengths)
    features = torch.randn(len(batch.tokens), 8, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: attention(x, packing), features)
    seen = jacobian.abs().amax(dim=(1, 3)) > 0  # (T, T)
    assert int(seen.sum()) == batch.pairs(window)


def test_bfloat16_hardly_changes_the_loss():
    exact = build(ChemGPT, CONFIG, 0, torch.float64).loss(unequal(), RECIPE)
    network = build(ChemGPT, CONFIG, 0, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network.loss(unequal(), RECIPE)
    loss.backward()
    assert 1e-5 < abs(loss.item() - exact.item()) < 2e-2
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_padding_changes_neither_loss_nor_gradient():
    network = build(ChemGPT, CONFIG, 0, torch.float64)
    results = []
    for batch in (unequal(), unequal().padded()):
        loss = network.loss(batch, RECIPE)
        results.append([loss, *torch.autograd.grad(loss, list(network.parameters()))])
    assert len(batch.tokens) > len(unequal().tokens)
    assert len(batch.tokens) % 16 == 0
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_before_training_every_symbol_is_about_equally_likely():
    loss = build(ChemGPT, CONFIG, 0, torch.float32).loss(unequal(), RECIPE)
    assert abs(loss.item() - np.log(CONFIG.vocab_size)) < 0.05


# --- what is counted -----------------------------------------------------------------------------


def test_what_was_seen_counts_real_tokens_and_windows():
    network, batch = ChemGPT(CONFIG), unequal()
    seen = network.seen(batch)
    assert (seen.items, seen.tokens) == (5, sum(UNEQUAL) + 5)
    assert seen.pairs == 2 * batch.pairs() + batch.pairs(CONFIG.window)
    one_layer = ChemGPT(CONFIG.model_copy(update={"num_layers": 1}))
    assert one_layer.attended_pairs(batch) == batch.pairs()


def test_the_ladder_grows_from_about_20_thousand_to_over_a_billion_parameters():
    counts = []
    for size, config in ChemGPT.ladder.items():
        fitted = config.model_copy(update={"vocab_size": 40})
        with torch.device("meta"):
            network = ChemGPT(fitted)
        assert size == f"w{fitted.width}"
        assert 16 <= fitted.width // fitted.num_heads <= 64
        table = fitted.width * (40 + fitted.max_length)
        assert network.num_params == network.num_params_total - table
        counts.append(network.num_params_total)
    assert counts[0] < 25_000 and counts[-1] > 1e9
    steps = np.divide(counts[1:], counts[:-1])
    assert steps.min() > 1.3 and steps.max() < 4


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="no multiple"):
        ChemGPT.Config(width=30, num_layers=1, num_heads=4)
