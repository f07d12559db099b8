"""The kernels for GPUs equal the plain path, in value and in first and second derivatives."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import autograd

from chemscale.bench.nn import activations, gates, native
from chemscale.bench.nn.messages import Links
from chemscale.bench.nn.multilinear import Form

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

ATOMS = 6
RECEIVERS = torch.tensor([0, 0, 1, 2, 3, 3, 4])  # one pair is an atom and its own image
SENDERS = torch.tensor([1, 2, 2, 3, 4, 3, 5])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).double().cuda().requires_grad_()


def assert_derivatives(function: Callable[..., Any], given: tuple[torch.Tensor, ...]) -> None:
    for check in (autograd.gradcheck, autograd.gradgradcheck):
        assert check(function, given, nondet_tol=1e-10, fast_mode=True)


def links(*, both_ways: bool) -> Links:
    vectors, senders, receivers = random(7, 3).detach(), SENDERS.cuda(), RECEIVERS.cuda()
    if not both_ways:
        vectors = torch.cat((vectors, -vectors))
        senders, receivers = torch.cat((senders, receivers)), torch.cat((receivers, senders))
    return Links(vectors, senders, receivers, ATOMS, both_ways)


@pytest.mark.parametrize("width", [3, 64, 200])
def test_messages_by_pairs_equal_those_by_edges(width):
    pairs, edges = links(both_ways=True), links(both_ways=False)
    features, filters = random(ATOMS, width), random(7, width, seed=1)
    found = pairs.convolve(features, filters)
    torch.testing.assert_close(found, edges.convolve(features, torch.cat((filters, filters))))
    sent, filters = random(ATOMS, 5, width), random(7, 3, width, seed=1)
    found = pairs.exchange(sent, filters, pairs.vectors)
    expected = edges.exchange(sent, torch.cat((filters, filters)), edges.vectors)
    torch.testing.assert_close(found, expected)


def test_derivatives_of_messages():
    pairs = links(both_ways=True)
    inputs = random(ATOMS, 3), random(7, 3, seed=1)
    assert_derivatives(pairs.convolve, inputs)
    inputs = random(ATOMS, 5, 3), random(7, 3, 3, seed=1), random(7, 3, seed=2)
    assert_derivatives(pairs.exchange, inputs)


@pytest.mark.parametrize("name", ["silu", "shifted_softplus"])
def test_activations_equal_the_plain_ones_with_their_derivatives(name):
    function = getattr(activations, name)
    assert native.serves_on_gpu(random(5, 7))
    assert_derivatives(function, (random(5, 7),))
    features = torch.cat((torch.linspace(-100, 100, 4001), torch.linspace(-3, 3, 999))).cuda()
    with native.plain():
        expected = function(features)
    torch.testing.assert_close(function(features), expected, rtol=1e-6, atol=1e-6)


def test_sums_of_products_equal_the_plain_ones_with_their_derivatives():
    components = np.array([[0, 0, 1, 2, 1], [0, 1, 1, 0, 0], [2, 0, 1, 1, 2], [0, 0, 0, 1, 1]])
    form = Form(components, np.array([0.5, -1.0, 2.0, 0.3, 1.5]))
    rows = RECEIVERS.cuda(), SENDERS.cuda(), None, None
    given = random(ATOMS, 2, 5), random(7, 3, 1, seed=1), random(7, 2, 5, seed=2)

    def found() -> list[torch.Tensor]:
        value = form((ATOMS, 3), rows, *given)
        slopes = torch.autograd.grad(value.sin().sum(), given, create_graph=True)
        twice = torch.autograd.grad(sum(s.square().sum() for s in slopes), given)
        return [value, *slopes, *twice]

    with native.plain():
        expected = found()
    torch.testing.assert_close(found(), expected)


def test_updates_equal_the_plain_ones_with_their_derivatives():
    given = random(4, 3), random(4, 3, 3, seed=1), random(4, 3, 6, seed=2), random(4, 9, seed=3)
    with native.plain():
        expected = [*gates.updated(*given), gates.lengths(given[2])]
    torch.testing.assert_close([*gates.updated(*given), gates.lengths(given[2])], expected)
    assert_derivatives(gates.updated, given)
    assert_derivatives(gates.lengths, given[2:3])
