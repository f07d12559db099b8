"""Sequences come from the model's own distribution, whatever lies beside them."""

import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from chemscale.bench.data.token_batch import BOS, EOS, TokenBatch
from chemscale.bench.models.base import build
from chemscale.bench.models.chemgpt import ChemGPT
from chemscale.bench.models.decoding import WholeDecoder
from chemscale.bench.nn import native
from chemscale.bench.using.sample import NEVER, Sampling, sample

CONFIG = ChemGPT.Config(
    width=24, num_layers=3, num_heads=2, window=8, max_length=100, vocab_size=30
)
UNEQUAL = (3, 90, 7, 1, 0, 12)  # symbols; one outgrows the window and the first room of the past


def model(dtype: torch.dtype = torch.float32, **changes: int) -> ChemGPT:
    """A model whose weights are large enough for differences to show."""
    made = build(ChemGPT, CONFIG.model_copy(update=changes), 0, dtype)
    assert isinstance(made, ChemGPT)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.eval()


def rows(sizes: tuple[int, ...] = UNEQUAL, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(4, CONFIG.vocab_size, size) for size in sizes]


@torch.no_grad()
def whole(network: ChemGPT, row: np.ndarray) -> torch.Tensor:
    size = np.array([len(row)])
    return network.logits(TokenBatch.of(row, size, size))


@torch.no_grad()
def step_by_step(decoder, symbols: list[np.ndarray]) -> list[torch.Tensor]:
    """Logits of each sequence, all fed at once, in slots in reverse order."""
    found = [[] for _ in symbols]
    for place in range(max(map(len, symbols)) + 1):
        fed = [n for n, row in enumerate(symbols) if place <= len(row)]
        tokens = torch.tensor([BOS if place == 0 else int(symbols[n][place - 1]) for n in fed])
        slots = torch.tensor([len(symbols) - 1 - n for n in fed])
        logits = decoder.step(tokens, torch.full((len(fed),), place), slots)
        for n, row in zip(fed, logits, strict=True):
            found[n].append(row)
    return [torch.stack(steps) for steps in found]


# --- the decoder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["native", "plain"])
@pytest.mark.parametrize("kind", ["keys and values", "whole"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_step_by_step_are_those_of_the_whole_sequence(path, kind, dtype):
    network, symbols = model(dtype), rows()
    with native.plain() if path == "plain" else nullcontext():
        decoder = network.decoder(6) if kind != "whole" else WholeDecoder(network, 6)
        found = step_by_step(decoder, symbols)
        for steps, row in zip(found, symbols, strict=True):
            assert torch.allclose(steps, whole(network, row), atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", ["native", "plain"])
def test_a_slot_forgets_the_sequence_before(path):
    network = model()
    with native.plain() if path == "plain" else nullcontext():
        decoder = network.decoder(6)
        step_by_step(decoder, rows())
        again = rows((5, 2, 30, 9, 1, 4), seed=1)
        for steps, row in zip(step_by_step(decoder, again), again, strict=True):
            assert torch.allclose(steps, whole(network, row), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_likeliest_continuation_is_that_of_transformers():
    import transformers

    network = model(vocab_size=12, max_length=30)
    theirs = transformers.GPTNeoForCausalLM(
        transformers.GPTNeoConfig(**ChemGPT.counterpart.to_config(network.config))
    ).eval()
    theirs.load_state_dict(
        ChemGPT.counterpart.theirs(network.state_dict(), network.num_layers), strict=False
    )
    prompts = [[4, 5, 6], [7], []]
    ours = sample(network, prompts, Sampling(0), seed=0, batch_size=3, max_length=30)
    for prompt, row in zip(prompts, ours, strict=True):
        (expected,) = theirs.generate(
            torch.tensor([[BOS, *prompt]]), attention_mask=torch.ones(1, len(prompt) + 1),
            do_sample=False, max_length=31, suppress_tokens=NEVER,
        )  # fmt: skip
        assert row.tolist() == expected[1:].tolist()


# --- the distribution ----------------------------------------------------------------------------


def exact(network: ChemGPT, sampling: Sampling) -> dict[tuple[int, ...], float]:
    """The chance of every sequence of at most two tokens."""
    chances = {}
    size = network.config.vocab_size
    first = sampling.chances(whole(network, np.zeros(0, int)))[0]
    first = first / first.sum()
    for one in range(size):
        if one == EOS or not first[one]:
            chances[(one,)] = float(first[one])
            continue
        second = sampling.chances(whole(network, np.array([one]))[-1:])[0]
        second = second / second.sum()
        for two in range(size):
            chances[one, two] = float(first[one] * second[two])
    return {key: value for key, value in chances.items() if value > 0}


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(0.6), Sampling(1.3, top_k=3), Sampling(1.0, top_p=0.7)],
    ids=["as it is", "temperature", "top_k", "top_p"],
)
def test_sampled_frequencies_are_those_of_the_exact_softmax(sampling):
    network, count = model(vocab_size=9), 8_000
    chances = exact(network, sampling)
    assert sum(chances.values()) == pytest.approx(1)
    found = sample(network, [[]] * count, sampling, seed=3, batch_size=2_000, max_length=2)
    seen = dict.fromkeys(chances, 0)
    for row in found:
        seen[tuple(row.tolist())] += 1  # a sequence that has no chance is a KeyError
    expected = {key: count * chance for key, chance in chances.items()}
    rare = [key for key in expected if expected[key] < 5]  # together one cell of the test
    cells = [(seen[key], expected[key]) for key in expected if key not in rare]
    cells += [(sum(seen[key] for key in rare), sum(expected[key] for key in rare))] * bool(rare)
    assert len(cells) > 4
    off = sum((got - wanted) ** 2 / wanted for got, wanted in cells)
    assert off < chi2.ppf(0.999, len(cells) - 1)


def test_chances_are_the_softmax_cut_to_k_or_p():
    generator = np.random.default_rng(0)
    for _ in range(50):
        row = generator.normal(0, 2, 12)
        temperature, k, p = generator.uniform(0.3, 2), int(generator.integers(1, 9)), 0.6
        heights = np.exp(row / temperature)
        heights[NEVER] = 0
        order = np.argsort(-heights)
        heights[order[k:]] = 0
        heights /= heights.sum()
        kept = np.searchsorted(heights[order].cumsum(), p) + 1
        heights[order[kept:]] = 0
        found = Sampling(temperature, k, p).chances(torch.from_numpy(row[None]).clone())[0].numpy()
        assert np.allclose(found / found.sum(), heights / heights.sum(), atol=1e-12)


def test_the_largest_random_number_draws_no_forbidden_token():
    logits = torch.tensor([[0.0, 0.0, 1.0, 0.0, 2.0, -torch.inf]])
    nearly_one = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert Sampling().draw(logits.clone(), nearly_one).tolist() == [4]
    assert Sampling().draw(logits.clone(), torch.zeros(1, dtype=torch.float64)).tolist() == [2]


# --- what a sequence does not depend on ----------------------------------------------------------


def draw(network: ChemGPT, count: int = 30, seed: int = 0, batch: int = 30, **options):
    prompts = options.pop("prompts", [[]] * count)
    found = sample(
        network, prompts, Sampling(), seed=seed, batch_size=batch, max_length=100, **options
    )
    return [row.tolist() for row in found]


def test_the_same_seed_gives_the_same_and_another_gives_others():
    network = model()
    assert draw(network) == draw(network) != draw(network, seed=1)


@pytest.mark.parametrize("batch", [3, 7])
def test_a_sequence_depends_on_its_number_not_on_the_batch(batch):
    network = model(torch.float64)
    assert draw(network, batch=batch) == draw(network)
    assert draw(network, count=10, batch=batch) == draw(network)[:10]


def test_threads_share_the_work_and_change_nothing():
    network = model(torch.float64)
    alone = draw(network)
    torch.set_num_threads(2)
    try:
        done = []
        assert draw(network, progress=done.append) == alone
        assert sum(done) == 30 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_prompts_of_unequal_length_go_on_side_by_side():
    network = model(torch.float64)
    prompts = [row.tolist() for row in rows((5, 0, 17, 1, 60))]
    together = draw(network, prompts=prompts)
    for number, prompt in enumerate(prompts):
        assert together[number][: len(prompt)] == prompt
    assert together == draw(network, prompts=prompts, batch=2)


def test_a_sequence_ends_with_its_stop_token_or_at_the_longest_length():
    found = draw(model(), count=100)
    ended = [row for row in found if row[-1] == EOS]
    assert 0 < len(ended) < 100
    assert all(len(row) == 100 for row in found if row[-1] != EOS)
    assert all(token not in (*NEVER, EOS) for row in found for token in row[:-1])
    assert len(set(itertools.chain(*found))) > 20
