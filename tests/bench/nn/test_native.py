"""The native kernels equal the plain path, in value and in first and second derivatives."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from chemscale.bench.nn import activations, gates, matrices, native
from chemscale.bench.nn.attention import CausalAttention, Packing, attend
from chemscale.bench.nn.dense import Dense
from chemscale.bench.nn.kv_cache import Past
from chemscale.bench.nn.messages import Links

ATOMS, WIDTH = 6, 11
# An atom and its own periodic image make a pair, too.
RECEIVERS = torch.tensor([0, 0, 1, 2, 3, 3, 4])
SENDERS = torch.tensor([1, 2, 2, 3, 4, 3, 5])


compiled = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")
has_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
on_each = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=compiled), pytest.param("cuda", marks=has_gpu)]
)


def random(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype).to(device).requires_grad_()


def assert_derivatives(function: Callable[..., Any], given: Sequence[Tensor]) -> None:
    """On a GPU sums have no order."""
    loose = {"nondet_tol": 1e-10, "fast_mode": True} if given[0].is_cuda else {}
    assert gradcheck(function, given, **loose) and gradgradcheck(function, given, **loose)


def pairs(device: str) -> Links:
    vectors = random(len(SENDERS), 3, device=device).detach()
    return Links(vectors, SENDERS.to(device), RECEIVERS.to(device), ATOMS, both_ways=True)


def edges(links: Links) -> Links:
    """The same, each edge by itself."""
    return Links(
        torch.cat((links.vectors, -links.vectors)),
        torch.cat((links.senders, links.receivers)),
        torch.cat((links.receivers, links.senders)),
        links.num_atoms,
        both_ways=False,
    )


@pytest.mark.parametrize("name", ["silu", "shifted_softplus", "gelu"])
class TestActivations:
    @on_each
    def test_derivatives_are_those_of_the_value(self, name, device):
        assert_derivatives(getattr(activations, name), (random(5, 7, device=device),))

    @on_each
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_values_equal_the_plain_ones(self, name, dtype, device):
        function = getattr(activations, name)
        features = torch.cat((torch.linspace(-100, 100, 4001), torch.linspace(-3, 3, 999)))
        features = features.to(device, dtype)
        with native.plain():
            expected = function(features)
        # PyTorch takes softplus for linear from 20 on, which is 2e-9 off.
        close = {torch.float32: 1e-6, torch.float64: 1e-8}[dtype]
        torch.testing.assert_close(function(features), expected, rtol=close, atol=close)

    @compiled
    def test_half_precision_is_the_single_result_rounded(self, name):
        function = getattr(activations, name)
        features = torch.cat((torch.linspace(-100, 100, 4001), torch.linspace(-3, 3, 999)))
        features = features.bfloat16().requires_grad_()
        exact = features.detach().float().requires_grad_()
        found, expected = function(features), function(exact)
        assert torch.equal(found, expected.bfloat16())
        weights = torch.linspace(-2, 2, len(features)).bfloat16()
        (gradient,) = torch.autograd.grad(found, features, weights)
        (wanted,) = torch.autograd.grad(expected, exact, weights.float())
        assert torch.equal(gradient, wanted.bfloat16())

    @compiled
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_what_is_no_number_stays_so(self, name, dtype):
        features = torch.tensor([float("nan"), 1.0], dtype=dtype, requires_grad=True)
        found = getattr(activations, name)(features)
        assert found.isnan().tolist() == [True, False]
        (gradient,) = torch.autograd.grad(found.sum(), features)
        assert gradient.isnan().tolist() == [True, False]


@on_each
class TestMessages:
    @pytest.mark.parametrize("width", [WIDTH, 200])
    def test_they_equal_the_plain_ones(self, width, device):
        by_pairs = pairs(device)
        by_edges = edges(by_pairs)
        features = random(ATOMS, width, device=device)
        filters = random(len(SENDERS), width, seed=1, device=device)
        expected = by_edges.convolve(features, torch.cat((filters, filters)))
        torch.testing.assert_close(by_pairs.convolve(features, filters), expected)
        sent = random(ATOMS, 5, width, device=device)
        filters = random(len(SENDERS), 3, width, seed=1, device=device)
        expected = by_edges.exchange(sent, torch.cat((filters, filters)), by_edges.vectors)
        found = by_pairs.exchange(sent, filters, by_pairs.vectors)
        torch.testing.assert_close(found, expected)

    def test_derivatives_of_a_convolution(self, device):
        inputs = random(ATOMS, WIDTH, device=device), random(len(SENDERS), WIDTH, device=device)
        assert_derivatives(pairs(device).convolve, inputs)

    def test_derivatives_of_an_exchange(self, device):
        shapes = (ATOMS, 5, 3), (len(SENDERS), 3, 3), (len(SENDERS), 3)
        inputs = [random(*shape, seed=n, device=device) for n, shape in enumerate(shapes)]
        assert_derivatives(pairs(device).exchange, inputs)


@has_gpu
def test_updates_equal_the_plain_ones_with_their_derivatives():
    shapes = (4, 3), (4, 3, 3), (4, 3, 6), (4, 9)
    given = [random(*shape, seed=n, device="cuda") for n, shape in enumerate(shapes)]
    with native.plain():
        expected = [*gates.updated(*given), gates.lengths(given[2])]
    torch.testing.assert_close([*gates.updated(*given), gates.lengths(given[2])], expected)
    assert_derivatives(gates.updated, given)
    assert_derivatives(gates.lengths, given[2:3])


@compiled
class TestAttention:
    @pytest.mark.parametrize("window", [None, 4])
    @pytest.mark.parametrize(("width", "num_heads"), [(12, 2), (16, 1), (48, 3), (40, 8)])
    def test_it_equals_the_plain_one_with_its_gradient(self, width, num_heads, window):
        lengths = torch.tensor([1, 2, 7, 3, 33, 16])
        molecule = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        positions = torch.cat([torch.arange(length) for length in lengths])
        packing = Packing.of(molecule, positions, lengths)
        torch.manual_seed(0)
        layer = CausalAttention(width, num_heads, window)
        features = random(len(molecule), width, dtype=torch.float32)
        cotangent = random(len(molecule), width, seed=1, dtype=torch.float32)

        def run() -> list[Tensor]:
            out = layer(features, packing)
            return [out, *torch.autograd.grad(out, [features, *layer.parameters()], cotangent)]

        with native.plain():
            expected = run()
        for ours, theirs in zip(run(), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("window", [None, 4])
    def test_half_precision_is_the_single_result_rounded(self, window):
        lengths = torch.tensor([2, 17])
        positions = torch.cat([torch.arange(length) for length in lengths])
        packing = Packing.of(torch.repeat_interleave(torch.arange(2), lengths), positions, lengths)
        packed = random(19, 3 * 12, dtype=torch.float32).bfloat16().detach().requires_grad_()
        exact = packed.detach().float().requires_grad_()
        found, expected = (attend(given, packing, 2, window) for given in (packed, exact))
        assert torch.equal(found, expected.bfloat16())
        cotangent = random(19, 12, seed=1, dtype=torch.float32).bfloat16().detach()
        (gradient,) = torch.autograd.grad(found, packed, cotangent)
        (wanted,) = torch.autograd.grad(expected, exact, cotangent.float())
        assert torch.equal(gradient, wanted.bfloat16())

    def test_the_number_of_threads_changes_no_bit(self):
        lengths = torch.full((40,), 50)
        packing = Packing.of(
            torch.repeat_interleave(torch.arange(40), lengths), torch.arange(50).repeat(40), lengths
        )
        packed = random(2000, 3 * 96, dtype=torch.float32)

        def run(num_threads: int) -> list[Tensor]:
            torch.set_num_threads(num_threads)
            out = activations.gelu(attend(packed, packing, 3, None))
            return [out, *torch.autograd.grad(out, packed, out.detach())]

        before = torch.get_num_threads()
        try:
            for one, three in zip(run(1), run(3), strict=True):
                assert torch.equal(one, three)
        finally:
            torch.set_num_threads(before)

    def test_derivatives(self):
        lengths = torch.tensor([3, 1, 6])
        positions = torch.cat([torch.arange(length) for length in lengths])
        packing = Packing.of(torch.repeat_interleave(torch.arange(3), lengths), positions, lengths)
        layer = CausalAttention(6, 2, 4).double()
        assert gradcheck(lambda features: layer(features, packing), random(10, 6))


@compiled
class TestSampling:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(("features", "columns"), [(5, 70), (128, 32), (24, 7)])
    def test_a_dense_layer_equals_the_plain_one(self, features, columns, dtype):
        layer = torch.nn.Linear(features, columns, dtype=dtype).requires_grad_(False)
        norm = torch.nn.LayerNorm(features, dtype=dtype).requires_grad_(False)
        rows = random(19, features, dtype=dtype).detach()
        onto = random(19, columns, seed=1, dtype=dtype).detach()
        embedding = torch.nn.Embedding(columns, features, _weight=layer.weight)
        for options in ((layer,), (layer, norm), (embedding, norm)):
            for activated in (False, True):
                dense = Dense(*options, activated=activated)
                found = dense(rows, onto=onto)
                with native.plain():
                    plain = Dense(*options, activated=activated)
                    torch.testing.assert_close(found, plain(rows, onto=onto), rtol=0, atol=1e-5)
                    torch.testing.assert_close(dense(rows), plain(rows), rtol=0, atol=1e-5)
                assert dense(rows[:3]).equal(dense(rows)[:3])  # whatever lies beside them

    @pytest.mark.parametrize("window", [None, 20])
    @pytest.mark.parametrize("head_size", [5, 16, 24, 40])
    def test_attention_to_the_past_equals_the_plain_one(self, head_size, window):
        steps = [random(4, 9 * head_size, seed=n, dtype=torch.float32).detach() for n in range(40)]
        slots = torch.tensor([3, 0, 4, 1])

        def run() -> Tensor:
            past = Past.of(5, 3 * head_size, 3, steps[0])
            found = []
            for place, packed in enumerate(steps):
                past.make_room(place + 1)
                ages = torch.tensor([0, 0, 0, max(0, place - 3)])  # one always begins anew
                found.append(past.attend(packed, place - ages, slots, window))
            return torch.stack(found)

        with native.plain():
            expected = run()
        torch.testing.assert_close(run(), expected, rtol=1e-5, atol=1e-5)


def test_without_a_compiler_the_plain_path_serves_with_one_notice(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    native.library.cache_clear()
    try:
        assert not native.serves(torch.zeros(1)) and not native.serves(torch.zeros(1))
        (told,) = caplog.messages
        assert "without native kernels" in told and "no C++ compiler" in told
    finally:
        native.library.cache_clear()


@compiled
@pytest.mark.parametrize(("width", "columns"), [(24, 12), (5, 70), (64, 32)])
def test_a_linear_layer_is_the_same_by_the_kernel(monkeypatch, width, columns):
    features, cotangent = (random(43, n, dtype=torch.float32) for n in (width, columns))
    layer = matrices.Linear(width, columns)

    def run() -> list[Tensor]:
        out = layer(features)
        return [out, *torch.autograd.grad(out, [features, *layer.parameters()], cotangent)]

    with native.plain():
        expected = run()
    monkeypatch.setattr(matrices, "WORTH", 0)
    monkeypatch.setattr(matrices, "_amd", lambda: True)
    for ours, theirs in zip(run(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
