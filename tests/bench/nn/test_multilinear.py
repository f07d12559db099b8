"""Sparse sums of products: the kernel equals the plain path, in all derivatives."""

import numpy as np
import torch
from test_native import assert_derivatives, on_each, random

from chemscale.bench.nn import native
from chemscale.bench.nn.multilinear import Form

FORM = Form(
    np.array([[0, 0, 1, 2, 1], [0, 1, 1, 0, 0], [2, 0, 1, 1, 2], [0, 0, 0, 1, 1]]),
    np.array([0.5, -1.0, 2.0, 0.3, 1.5]),
)
ATOMS, LINKS = 3, torch.tensor([[0, 1, 1, 2, 0, 2, 1], [1, 0, 2, 1, 2, 0, 1]])
SHAPES = (ATOMS, 2, 5), (7, 3, 1), (7, 2, 5)


def run(*given: torch.Tensor) -> torch.Tensor:
    rows = *LINKS.to(given[0].device), None, None
    return FORM((ATOMS, 3), rows, *given)


def operands(device: str) -> list[torch.Tensor]:
    return [random(*shape, seed=n, device=device) for n, shape in enumerate(SHAPES)]


@on_each
def test_values_and_second_derivatives_are_the_plain_ones_also_of_what_lies_out_of_order(device):
    """Forces are trained through operands that are views, too."""

    def derived() -> list[torch.Tensor]:
        one, two, three = operands(device)
        turned = one.detach().transpose(0, 1).contiguous().requires_grad_()
        value = run(turned.transpose(0, 1), two, three)
        (slope,) = torch.autograd.grad(value.sin().sum(), two, create_graph=True)
        return [value, *torch.autograd.grad(slope.square().sum(), (turned, two, three))]

    found = derived()
    with native.plain():
        expected = derived()
    torch.testing.assert_close(found, expected)


@on_each
def test_its_derivatives_are_those_of_its_value(device):
    assert_derivatives(run, operands(device))
