"""The native kernels equal the plain path, in value and in first and second derivatives."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from chemscale.bench.nn import activations, matrices, native
from chemscale.bench.nn.attention import CausalAttention, Packing, attend
from chemscale.bench.nn.dense import Dense
from chemscale.bench.nn.messages import Links
from chemscale.bench.nn.past import Past

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")

ATOMS, WIDTH = 6, 11
# An atom and its own periodic image make a pair, too.
RECEIVERS = torch.tensor([0, 0, 1, 2, 3, 3, 4])
SENDERS = torch.tensor([1, 2, 2, 3, 4, 3, 5])


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


def pairs() -> Links:
    vectors = random(len(SENDERS), 3).detach()
    return Links(vectors, SENDERS, RECEIVERS, ATOMS, both_ways=True)


def edges(links: Links) -> Links:
    """The same, each edge by itself."""
    return Links(
        torch.cat((links.vectors, -links.vectors)),
        torch.cat((links.senders, links.receivers)),
        torch.cat((links.receivers, links.senders)),
        links.num_atoms,
        both_ways=False,
    )


def doubled(per_pair: Tensor) -> Tensor:
    return torch.cat((per_pair, per_pair))


@pytest.mark.parametrize("name", ["silu", "shifted_softplus", "gelu"])
class TestActivations:
    def test_derivatives_are_those_of_the_value(self, name):
        features = random(5, 7)
        function = getattr(activations, name)
        assert gradcheck(function, features) and gradgradcheck(function, features)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_values_equal_the_plain_ones(self, name, dtype):
        function = getattr(activations, name)
        features = torch.cat((torch.linspace(-100, 100, 4001), torch.linspace(-3, 3, 999)))
        features = features.to(dtype)
        with native.plain():
            expected = function(features)
        # PyTorch takes softplus for linear from 20 on, which is 2e-9 off.
        close = {torch.float32: 1e-6, torch.float64: 1e-8}[dtype]
        torch.testing.assert_close(function(features), expected, rtol=close, atol=close)

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

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_what_is_no_number_stays_so(self, name, dtype):
        features = torch.tensor([float("nan"), 1.0], dtype=dtype, requires_grad=True)
        found = getattr(activations, name)(features)
        assert found.isnan().tolist() == [True, False]
        (gradient,) = torch.autograd.grad(found.sum(), features)
        assert gradient.isnan().tolist() == [True, False]


class TestMessages:
    def test_a_convolution_equals_the_plain_one(self):
        features, filters, links = random(ATOMS, WIDTH), random(len(SENDERS), WIDTH), pairs()
        expected = edges(links).convolve(features, doubled(filters))
        torch.testing.assert_close(links.convolve(features, filters), expected)

    def test_an_exchange_equals_the_plain_one(self):
        sent, filters = random(ATOMS, 5, WIDTH), random(len(SENDERS), 3, WIDTH)
        links = pairs()
        directions = links.vectors
        expected = edges(links).exchange(
            sent, doubled(filters), torch.cat((directions, -directions))
        )
        torch.testing.assert_close(links.exchange(sent, filters, directions), expected)

    def test_derivatives_of_a_convolution(self):
        inputs = random(ATOMS, WIDTH), random(len(SENDERS), WIDTH)
        assert gradcheck(pairs().convolve, inputs) and gradgradcheck(pairs().convolve, inputs)

    def test_derivatives_of_an_exchange(self):
        inputs = random(ATOMS, 5, 3), random(len(SENDERS), 3, 3), random(len(SENDERS), 3)
        assert gradcheck(pairs().exchange, inputs) and gradgradcheck(pairs().exchange, inputs)


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
