"""Sparse sums of products: the kernel equals the plain path, in all derivatives."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from chemscale.bench.nn import native
from chemscale.bench.nn.multilinear import Form

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")

FORM = Form(
    np.array([[0, 0, 1, 2, 1], [0, 1, 1, 0, 0], [2, 0, 1, 1, 2], [0, 0, 0, 1, 1]]),
    np.array([0.5, -1.0, 2.0, 0.3, 1.5]),
)
LINKS, ATOMS, CHANNELS = 7, 3, 5
ENDS = torch.tensor([0, 1, 1, 2, 0, 2, 1]), torch.tensor([1, 0, 2, 1, 2, 0, 1])
ROWS = ENDS[0], ENDS[1], None, None


def operands() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (ATOMS, 2, CHANNELS), (LINKS, 3, 1), (LINKS, 2, CHANNELS)
    return [
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def test_the_kernel_equals_the_plain_path():
    found = FORM((ATOMS, 3), ROWS, *operands())
    with native.plain():
        expected = FORM((ATOMS, 3), ROWS, *operands())
    torch.testing.assert_close(found, expected)


def test_second_derivatives_reach_what_does_not_lie_in_order():
    """Forces are trained through operands that are views, too."""

    def run():
        one, two, three = operands()
        turned = one.detach().transpose(0, 1).contiguous().requires_grad_()
        value = FORM((ATOMS, 3), ROWS, turned.transpose(0, 1), two, three).sin().sum()
        (slope,) = torch.autograd.grad(value, two, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (turned, two, three))

    found = run()
    with native.plain():
        expected = run()
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain)


def test_its_derivatives_are_those_of_its_value():
    def run(*given):
        return FORM((ATOMS, 3), ROWS, *given)

    assert gradcheck(run, operands()) and gradgradcheck(run, operands())
