"""ChemGPT is GPT-Neo, on molecules that do not see each other."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from chemscale.bench.data.tokens import EOS, TokenBatch
from chemscale.bench.models.base import build
from chemscale.bench.models.chemgpt import ChemGPT
from chemscale.bench.nn import native
from chemscale.bench.nn.attention import CausalAttention, Packing
from chemscale.table.records import RECIPES

RECIPE = RECIPES["molecules"]
CONFIG = ChemGPT.Config(width=32, num_layers=3, num_heads=2, window=8, max_length=40, vocab_size=30)
UNEQUAL = (3, 30, 7, 1, 12)  # symbols; the second is longer than the window


def model(config: ChemGPT.Config = CONFIG, dtype: torch.dtype = torch.float32) -> ChemGPT:
    """A model whose weights are large enough for differences to show."""
    made = build(ChemGPT, config, 0, dtype)
    assert isinstance(made, ChemGPT)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made


def sequences(sizes: tuple[int, ...] = UNEQUAL, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(4, CONFIG.vocab_size, size) for size in sizes]


def pack(symbols: list[np.ndarray]) -> TokenBatch:
    sizes = np.array([len(s) for s in symbols])
    return TokenBatch.of(np.concatenate(symbols), sizes, sizes)


@torch.no_grad()
def logits(network: ChemGPT, batch: TokenBatch) -> list[torch.Tensor]:
    return list(network.logits(batch).split(batch.lengths.tolist()))


# --- the network ---------------------------------------------------------------------------------


def test_a_packed_batch_equals_single_molecules():
    network = model()
    symbols = sequences()
    for together, alone in zip(logits(network, pack(symbols)), symbols, strict=True):
        assert torch.allclose(together, logits(network, pack([alone]))[0], atol=1e-5)


def test_a_molecule_does_not_see_its_neighbours():
    network = model()
    symbols = sequences()
    before = logits(network, pack(symbols))
    symbols[1] = sequences(seed=5)[1]
    after = logits(network, pack(symbols))
    assert not torch.allclose(before[1], after[1])
    for index in (0, 2, 3, 4):
        assert torch.equal(before[index], after[index])


def test_a_token_does_not_see_those_after_it():
    network = model()
    symbols = sequences()
    before = logits(network, pack(symbols))[1]
    for place in (0, 5, 20, 29):
        other = [s.copy() for s in symbols]
        other[1][place] = EOS
        after = logits(network, pack(other))[1]
        assert torch.equal(before[: place + 1], after[: place + 1])  # <bos> comes first
        assert not torch.allclose(before[place + 1], after[place + 1])


@pytest.mark.parametrize("window", [None, 1, 8])
def test_attention_lets_through_just_the_pairs_that_are_counted(window):
    batch = pack(sequences())
    torch.manual_seed(0)
    attention = CausalAttention(8, 2, window).double()
    packing = Packing.of(batch.molecule, batch.positions, batch.lengths)
    features = torch.randn(len(batch.tokens), 8, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: attention(x, packing), features)
    seen = jacobian.abs().amax(dim=(1, 3)) > 0  # (T, T)
    assert int(seen.sum()) == batch.pairs(window)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_precisions_agree(dtype):
    batch = pack(sequences())
    exact = build(ChemGPT, CONFIG, 0, torch.float64).loss(batch, RECIPE)
    network = build(ChemGPT, CONFIG, 0, torch.float64 if dtype == torch.float64 else torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = network.loss(batch, RECIPE)
    loss.backward()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    assert abs(loss.item() - exact.item()) < tolerance
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_before_training_every_symbol_is_about_equally_likely():
    loss = build(ChemGPT, CONFIG, 0, torch.float32).loss(pack(sequences()), RECIPE)
    assert abs(loss.item() - np.log(CONFIG.vocab_size)) < 0.05


def test_the_loss_falls_on_molecules_that_repeat():
    network = build(ChemGPT, CONFIG, 0, torch.float32)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    batch = pack(sequences())
    for _ in range(60):
        optimiser.zero_grad()
        loss = network.loss(batch, RECIPE)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5 * np.log(CONFIG.vocab_size)


# --- what is counted -----------------------------------------------------------------------------


def test_flops_are_those_that_torch_counts():
    # torch counts CPU flash attention as nothing, and plain attention with all L² pairs: with
    # molecules of one length the latter can be told from ours by the number of pairs alone.
    network = model()
    batch = pack(sequences((20,) * 4))
    with (
        native.plain(),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        network.loss(batch, RECIPE).backward()
    formula = ChemGPT.flops_formula(CONFIG, RECIPE)
    pairs = CONFIG.num_layers * 4 * 21**2
    expected = formula["tokens"] * len(batch.tokens) + formula["pairs"] * pairs
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_what_was_seen_counts_real_tokens_and_windows():
    network, batch = model(), pack(sequences())
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


def test_a_built_model_has_the_size_that_the_ladder_says():
    for size in ("w16", "w32", "w64"):
        config = ChemGPT.ladder[size].model_copy(update={"vocab_size": 40})
        with torch.device("meta"):
            told = ChemGPT(config).num_params_total
        assert build(ChemGPT, config, 0, torch.float32).num_params_total == told


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="no multiple"):
        ChemGPT.Config(width=30, num_layers=1, num_heads=4)
